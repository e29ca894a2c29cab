"""The model core against plain NumPy, against itself by other routes, and against transformers."""

from __future__ import annotations

import json
from pathlib import Path

from golden.numpy_reference import Reference, farthest
from golden.tiny import TINY, inputs, tiny
import numpy as np
import pytest
import torch

from onellm_ros.config import NANO, ConfigError, LlmConfig
from onellm_ros.modality import Modality
from onellm_ros.model.llm import Llama
from onellm_ros.model.onellm import PARTS, OneLLM
from onellm_ros.model.points import farthest_points, group, nearest_neighbours
from onellm_ros.model.projection import ROUTERS, route
from onellm_ros.model.released import interleave, released_state, split_halves

PROMPT = [1, 17, 250, 3, 99, 42]
FROZEN = Path(__file__).parent / 'golden' / 'tiny.json'


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _reference(model):
    weights = {k: v.numpy() for k, v in released_state(model, model.config).items()}
    if model.config.upm.router == 'constant':
        width, experts = model.config.encoder.width, model.config.upm.experts
        for m in Modality:
            at = f'llma.routers.{m.weight_name}.'
            weights |= {at + 'fc1.weight': np.zeros((4, width)), at + 'fc1.bias': np.zeros(4),
                        at + 'fc2.weight': np.zeros((experts, 4)),
                        at + 'fc2.bias': np.zeros(experts)}
    return Reference(weights, model.config)


def _prompt(model, tokens, ids=PROMPT):
    words = model.llm.embed(torch.tensor([ids]))
    return torch.cat([model.prefix_embeds(tokens, ids[0]), words[:, 1:]], 1)


@pytest.mark.parametrize('router', ROUTERS)
def test_equals_numpy(router):
    model = tiny(upm={'router': router})
    reference = _reference(model)
    for modality, x in inputs(model.config).items():
        name = modality.weight_name
        tokens, weights = reference.project(name, reference.encode(name, x[0].numpy()))
        encoded = model.encode(modality, x)
        np.testing.assert_allclose(encoded.tokens[0], tokens, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(encoded.expert_weights[0], weights.mean(0), atol=1e-5)
        logits = reference.logits(reference.prompt(PROMPT, {name: tokens}))
        found = model.llm(_prompt(model, {modality: encoded.tokens}))
        np.testing.assert_allclose(found[0], logits, atol=5e-5, err_msg=name)


@pytest.mark.parametrize('parts', [
    {'encoder': {'activation': 'gelu', 'image_size': 23}, 'upm': {'experts': 1}},
    {'tokenizer': {'imu_stride': 4, 'point_grouping_channel': 0, 'audio_frames': 50},
     'llm': {'kv_heads': 0, 'tied_embeddings': True, 'rope_theta': 500.0}},
])
def test_equals_numpy_at_other_sizes(parts):
    model = tiny(seed=3, **parts)
    reference = _reference(model)
    for modality, x in inputs(model.config, seed=9).items():
        name = modality.weight_name
        tokens, _ = reference.project(name, reference.encode(name, x[0].numpy()))
        np.testing.assert_allclose(model.encode(modality, x).tokens[0], tokens, atol=2e-5)
    logits = reference.logits(reference.prompt(PROMPT, {}))
    np.testing.assert_allclose(model.llm(_prompt(model, {}))[0], logits, atol=5e-5)


def frozen_values():
    """Return numbers of the tiny model that must not change (rewrites tiny.json if run)."""
    model, out = tiny(seed=1), {}
    for modality, x in inputs(model.config, seed=6).items():
        tokens = model.encode(modality, x).tokens
        logits = model.llm(_prompt(model, {modality: tokens}))
        out[modality.value] = [round(float(v), 6) for v in (
            tokens[0, 0, 0], tokens[0, -1, -1], tokens.abs().sum(), logits[0, -1, 0],
            logits.abs().sum())]
    return out


def test_frozen_values():
    expected = json.loads(FROZEN.read_text())
    for name, values in frozen_values().items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_modalities_stand_in_the_prompt_order_each_between_its_tags():
    model = tiny()
    reference = _reference(model)
    data = inputs(model.config)
    tokens = {m: model.encode(m, data[m]).tokens for m in (Modality.AUDIO, Modality.VIDEO)}
    expected = reference.prompt(PROMPT, {m.value: tokens[m][0].numpy()
                                         for m in (Modality.VIDEO, Modality.AUDIO)})
    np.testing.assert_allclose(_prompt(model, tokens)[0], expected, atol=1e-6)
    np.testing.assert_allclose(model.llm(_prompt(model, tokens))[0], reference.logits(expected),
                               atol=5e-5)


def test_a_sample_does_not_depend_on_its_batch():
    model = tiny()
    for modality, x in inputs(model.config, batch=3).items():
        whole = model.encode(modality, x)
        for i in range(3):
            alone = model.encode(modality, x[i:i + 1])
            torch.testing.assert_close(whole.tokens[i], alone.tokens[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize('pictures', [1, 2, 3])
def test_depth_and_normals_take_any_number_of_pictures(pictures):
    model = tiny()
    x = torch.randn(2, pictures, 3, 20, 20)
    features = [model.features(Modality.IMAGE, x[:, i]) for i in range(pictures)]
    for modality in (Modality.DEPTH, Modality.NORMAL):
        torch.testing.assert_close(model.features(modality, x), torch.stack(features).mean(0))


@pytest.mark.parametrize('same', [True, False])
def test_pictures_together_give_what_each_gives_alone(same):
    model = tiny(tokenizer={'video_positions': True})
    given = {m: torch.cat([x, 0.5 * x + 0.1]) for m, x in inputs(model.config).items()}
    if same:        # the colour picture beside depth and normals is the image
        for modality in (Modality.DEPTH, Modality.NORMAL):
            given[modality][:, 0] = given[Modality.IMAGE]
    encoded = []
    hook = model.encoder.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
    found = model.features_of(given)
    hook.remove()
    assert list(found) == list(given)
    for modality, x in given.items():
        torch.testing.assert_close(found[modality], model.features(modality, x), rtol=1e-5,
                                   atol=1e-5)
    pictures = 2 * sum(1 if m is Modality.IMAGE else given[m].shape[1] for m in (
        Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL))
    assert max(encoded) == pictures - (4 if same else 0)
    alone = model.features_of({Modality.DEPTH: given[Modality.DEPTH]})[Modality.DEPTH]
    torch.testing.assert_close(alone, found[Modality.DEPTH], rtol=1e-5, atol=1e-5)


def test_video_positions_tell_the_order_of_frames():
    plain, marked = tiny(), tiny(tokenizer={'video_positions': True})
    x = inputs(plain.config)[Modality.VIDEO]
    torch.testing.assert_close(plain.features(Modality.VIDEO, x),
                               plain.features(Modality.VIDEO, x.flip(1)))
    difference = (marked.features(Modality.VIDEO, x)
                  - marked.features(Modality.VIDEO, x.flip(1))).abs().max()
    assert difference > 1e-3
    # A shorter video takes the last positions; a longer one is refused.
    last = marked.tokenizers.video_positions[-1]
    tokens = marked.encoder.patches(x[:, -1])
    torch.testing.assert_close(marked.tokenizers.mark_frames(tokens, 1), tokens + last)
    with pytest.raises(ValueError, match='at most 3 frames, found 4'):
        marked.features(Modality.VIDEO, torch.cat([x, x[:, :1]], 1))


@pytest.mark.parametrize('modality, shape, text', [
    (Modality.IMAGE, (1, 3, 21, 20), r'image: expected .*\[any, 3, 20, 20\], found \[1, 3, 21'),
    (Modality.DEPTH, (1, 3, 20, 20), r'depth: expected .*\[any, any, 3, 20, 20\]'),
    (Modality.AUDIO, (1, 1, 20, 30), r'audio: expected an input of 15 tokens, found 12'),
    (Modality.IMU, (1, 5, 30), r'imu: expected .*\[any, 6, any\]'),
    (Modality.FMRI, (1, 1, 12), r'fmri: expected .*\[any, 1, 11\]'),
    (Modality.POINT, (1, 4, 6), r'expected at least 5 points, found 4'),
])
def test_inputs_of_a_wrong_shape_are_named(modality, shape, text):
    with pytest.raises(ValueError, match=text):
        tiny().features(modality, torch.zeros(shape))


def test_farthest_points_against_brute_force():
    points = torch.rand(3, 50, 3)
    found = farthest_points(points, 12)
    for b in range(3):
        assert found[b].tolist() == farthest(points[b].double().numpy(), 12)
    assert farthest_points(torch.ones(1, 4, 3), 3).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match='N >= 1'):
        farthest_points(torch.zeros(1, 0, 3), 3)


def test_neighbours_against_brute_force():
    points, centres = torch.rand(2, 60, 3), torch.rand(2, 5, 3)
    found = nearest_neighbours(points, centres, 7)
    for b in range(2):
        away = ((centres[b, :, None] - points[b]) ** 2).sum(-1)
        expected = away.argsort(1)[:, :7]
        assert [set(r) for r in found[b].tolist()] == [set(r) for r in expected.tolist()]
    assert group(points, 4, 6).shape == (2, 4, 6)


@pytest.mark.parametrize('kind', ROUTERS)
def test_routers(kind):
    weights = route(kind, torch.randn(4, 6, 3) * 3)
    assert bool((weights >= 0).all())
    if kind == 'sparse':
        assert bool(((weights > 0).sum(-1) == 1).all()) and bool((weights.amax(-1) > 1 / 3).all())
    else:
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 6))
    with pytest.raises(ConfigError, match='upm.router'):
        route('best', weights)


def test_cache_in_steps_equals_one_pass():
    model = tiny().llm
    x = torch.randn(2, 9, 32)
    full = model(x)
    cache = model.new_cache(2, 9)
    parts = [model(x[:, a:b], cache=cache) for a, b in ((0, 4), (4, 7), (7, 8), (8, 9))]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(x, last_only=True), full[:, -1:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='expected room for 10 positions, found 9'):
        model(x[:, :1], cache=cache)


def test_a_copied_cache_leaves_the_first_alone():
    model = tiny().llm
    x = torch.randn(1, 6, 32)
    cache = model.new_cache(1, 4)
    model(x[:, :4], cache=cache)
    wide = cache.copy(6, batch=3)
    found = model(x[:, 4:].expand(3, -1, -1), cache=wide)
    torch.testing.assert_close(found, model(x)[:, 4:].expand(3, -1, -1), atol=1e-5, rtol=0)
    assert (cache.length, wide.length) == (4, 6)


@pytest.mark.parametrize('boolean', [True, False])
def test_packed_segments_equal_separate_sequences(boolean):
    model = tiny().llm
    prefix, first, second = torch.randn(1, 4, 32), torch.randn(1, 3, 32), torch.randn(1, 5, 32)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]])
    segment = torch.tensor([0] * 4 + [1] * 3 + [2] * 5)
    mask = torch.ones(12, 12).tril().bool() & (
        (segment[:, None] == segment) | (segment == 0))
    mask = mask[None, None] if boolean else torch.where(mask, 0.0, -torch.inf)[None, None]
    packed = model(torch.cat([prefix, first, second], 1), positions, mask)
    torch.testing.assert_close(packed[:, 4:7], model(torch.cat([prefix, first], 1))[:, 4:],
                               atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[:, 7:], model(torch.cat([prefix, second], 1))[:, 4:],
                               atol=1e-5, rtol=0)


def test_rotary_layouts_are_each_others_inverse():
    weight = torch.arange(24.).view(12, 2)
    assert torch.equal(interleave(split_halves(weight, 2), 2), weight)
    # Head 0 has rows 0..5: pairs (0, 1), (2, 3), (4, 5) become halves 0 2 4, 1 3 5.
    assert split_halves(weight, 2)[:6, 0].tolist() == [0, 4, 8, 2, 6, 10]


@pytest.mark.parametrize('kv_heads, tied', [(0, False), (2, True)])
def test_equals_transformers(kv_heads, tied):
    transformers = pytest.importorskip('transformers')
    config = LlmConfig(dim=32, layers=3, heads=4, kv_heads=kv_heads, hidden=48, vocab_size=60,
                       rope_theta=1234.0, tied_embeddings=tied, norm_eps=1e-6)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=kv_heads or 4, rms_norm_eps=1e-6,
        rope_parameters={'rope_type': 'default', 'rope_theta': 1234.0}, rope_theta=1234.0,
        tie_word_embeddings=tied, attention_bias=False, initializer_range=0.2)).eval()
    names = {'embed_tokens': 'tok_embeddings', 'input_layernorm': 'attention_norm',
             'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attention.wq',
             'self_attn.k_proj': 'attention.wk', 'self_attn.v_proj': 'attention.wv',
             'self_attn.o_proj': 'attention.wo', 'mlp.gate_proj': 'feed_forward.w1',
             'mlp.down_proj': 'feed_forward.w2', 'mlp.up_proj': 'feed_forward.w3'}
    state = {}
    for key, value in theirs.state_dict().items():
        key = key.removeprefix('model.').replace('lm_head', 'output')
        for old, new in names.items():
            key = key.replace(old, new)
        if not (tied and key.startswith('output')):
            state[key] = value
    ours = Llama(config).eval()
    ours.load_state_dict(state, strict=True)
    ids = torch.randint(0, 60, (2, 11))
    torch.testing.assert_close(ours(ours.embed(ids)), theirs(ids).logits, atol=1e-5, rtol=1e-4)


def test_parts_hold_every_parameter_once():
    model = tiny(tokenizer={'video_positions': True})
    names = [n for part in PARTS for n, _ in model.parameters_of(part)]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    with pytest.raises(ValueError, match='unknown part'):
        model.part('head')


def test_new_modality_tokens_take_the_scale_of_the_words():
    model = tiny()
    scale = model.match_llm_scale()
    tokens = model.encode(Modality.IMAGE, inputs(model.config)[Modality.IMAGE]).tokens
    assert float(tokens.square().mean().sqrt()) == pytest.approx(scale, rel=0.05)


def test_nano_trains_under_autocast():
    model = OneLLM(NANO).train()
    x = torch.randn(1, 3, NANO.encoder.image_size, NANO.encoder.image_size)
    with torch.enable_grad():
        with torch.autocast('cpu', torch.bfloat16):
            tokens = model.encode(Modality.IMAGE, x).tokens
            loss = model.llm(model.prefix_embeds({Modality.IMAGE: tokens})).float().logsumexp(
                -1).mean()
        loss.backward()
    assert float(model.encoder.patch.weight.grad.abs().max()) > 0
    assert bool(torch.isfinite(loss))


@pytest.mark.parametrize('parts, text', [
    ({'encoder': {'heads': 5}}, 'encoder.heads'), ({'encoder': {'activation': 'relu'}}, 'relu'),
    ({'upm': {'router': 'best'}}, 'upm.router'), ({'upm': {'experts': 0}}, 'at least 1'),
    ({'llm': {'heads': 5}}, 'llm.heads'), ({'llm': {'kv_heads': 3}}, 'llm.kv_heads'),
    ({'tokenizer': {'imu_samples': 4}}, 'imu input is shorter'),
    ({'tokenizer': {'audio_mels': 7}}, 'audio input is shorter'),
])
def test_sizes_that_cannot_be_are_named(parts, text):
    with pytest.raises(ConfigError, match=text):
        tiny(**parts)


if __name__ == '__main__':
    with torch.inference_mode():
        FROZEN.write_text(json.dumps(frozen_values(), indent=1) + '\n')
    print(TINY.name, FROZEN)
