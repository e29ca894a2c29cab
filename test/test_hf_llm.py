"""Language models in Hugging Face layout: arithmetic as transformers', files read strictly."""

from __future__ import annotations

from dataclasses import replace
import json

from golden.tiny import TINY, inputs, tiny
import pytest
from safetensors.torch import load_file, save_file
import torch

from onellm_ros.config import ConfigError, LlmConfig, RopeScaling
from onellm_ros.inference.engine import Engine, EngineError
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import (
    CheckpointError,
    load_model,
    model_around_llm,
    save_model,
)
from onellm_ros.model.hf_config import hf_config, llm_config
from onellm_ros.model.hf_llm import INDEX, hf_name, load_hf_llm, read_hf_llm
from onellm_ros.model.llm import Llama
from onellm_ros.model.text import train_tokenizer

SIZES = {'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 3,
         'num_attention_heads': 4, 'num_key_value_heads': 2, 'vocab_size': 60,
         'max_position_embeddings': 128}
LLAMA3 = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 16}
YARN = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32}
# name -> model type and what its config.json states beside the sizes
FAMILIES = {
    'llama2': ('llama', {'num_key_value_heads': 4, 'rms_norm_eps': 1e-5}),
    'llama3': ('llama', {'rope_theta': 500000.0, 'rope_scaling': LLAMA3, 'head_dim': 16}),
    'llama-biases': ('llama', {'attention_bias': True, 'mlp_bias': True,
                               'tie_word_embeddings': True}),
    'llama-linear': ('llama', {'rope_scaling': {'type': 'linear', 'factor': 2.5}}),
    'llama-dynamic': ('llama', {'rope_scaling': {'type': 'dynamic', 'factor': 2.0},
                                'max_position_embeddings': 16}),
    'qwen2': ('qwen2', {'rope_theta': 1e6, 'tie_word_embeddings': True}),
    'qwen2-yarn': ('qwen2', {'rope_scaling': YARN, 'rope_theta': 1e6}),
    'qwen2-window': ('qwen2', {'use_sliding_window': True, 'sliding_window': 5,
                               'max_window_layers': 1}),
    'qwen3': ('qwen3', {'head_dim': 16, 'attention_bias': False, 'rope_theta': 1e6}),
    'qwen3-yarn': ('qwen3', {'head_dim': 16, 'attention_bias': True, 'rope_scaling': {
        **YARN, 'truncate': False, 'beta_fast': 8.0, 'mscale': 1.0, 'mscale_all_dim': 0.5}}),
    'mistral': ('mistral', {'sliding_window': 6}),
    'mistral-nemo': ('mistral', {'sliding_window': None, 'head_dim': 12}),
    'smollm2': ('llama', {'tie_word_embeddings': True, 'rope_interleaved': False,
                          'is_llama_config': True, 'rope_theta': 100000.0}),
    'smollm3': ('smollm3', {'no_rope_layer_interval': 2, 'tie_word_embeddings': True}),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _theirs(kind, values):
    """Return a random model of transformers, whose logits tell positions apart."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(kind, **{
        **SIZES, 'initializer_range': 0.25, 'pad_token_id': None, **json.loads(
            json.dumps(values))})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, value in model.named_parameters():
        if name.endswith('bias') or 'norm' in name:
            value.add_(0.3 * torch.randn_like(value))
    return model


def _write(folder, kind, values, model, shards=1):
    """Write a model as older and newer versions of transformers do: the plain config.json."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(
        {'model_type': kind, 'architectures': ['X'], 'torch_dtype': 'float32', **SIZES,
         **values}))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop('lm_head.weight', None)
    if shards == 1:
        save_file(state, folder / 'model.safetensors')
        return
    table = {}
    for i in range(shards):
        name = f'model-{i + 1:05}-of-{shards:05}.safetensors'
        part = {k: v for j, (k, v) in enumerate(state.items()) if j % shards == i}
        save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': table}))


def _greedy(model, ids, count):
    """Continue with the key/value cache, the prompt in two pieces."""
    cache = model.new_cache(1, ids.shape[1] + count)
    model(model.embed(ids[:, :4]), cache=cache)
    logits = model(model.embed(ids[:, 4:]), cache=cache, last_only=True)
    out = []
    for _ in range(count):
        out.append(int(logits[0, -1].argmax()))
        logits = model(model.embed(torch.tensor([out[-1:]])), cache=cache)
    return out


@pytest.mark.parametrize('name', FAMILIES)
def test_equals_transformers(name, tmp_path):
    kind, values = FAMILIES[name]
    theirs = _theirs(kind, values)
    _write(tmp_path / 'hf', kind, values, theirs, shards=2 if name == 'llama2' else 1)
    ours = load_hf_llm(tmp_path / 'hf')
    ids = torch.randint(0, 60, (2, 24), generator=torch.Generator().manual_seed(3))
    expected = theirs(ids).logits
    found = ours(ours.embed(ids))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # as transformers saves it itself: whatever its version writes is read alike
    theirs.save_pretrained(tmp_path / 'saved')
    assert load_hf_llm(tmp_path / 'saved').config == ours.config
    prompt = ids[:1, :10]
    theirs.generation_config.eos_token_id = None
    greedy = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12,
                             do_sample=False, pad_token_id=0)[0, 10:].tolist()
    assert _greedy(ours, prompt, 12) == greedy


@pytest.mark.parametrize('name', FAMILIES)
def test_the_config_is_written_so_that_it_reads_the_same(name):
    kind, values = FAMILIES[name]
    config = llm_config({'model_type': kind, **SIZES, **values})
    written = hf_config(config, dtype='bfloat16')
    assert llm_config(json.loads(json.dumps(written))) == config
    transformers = pytest.importorskip('transformers')
    theirs = transformers.AutoConfig.for_model(**written)
    assert theirs.model_type == written['model_type']


def test_switches_that_no_family_has_together():
    with pytest.raises(ConfigError, match=r"\['no_rope_layers', 'qk_norm'\]"):
        hf_config(LlmConfig(qk_norm=True, no_rope_layers=(1,)))
    with pytest.raises(ConfigError, match='no Hugging Face family'):
        hf_config(LlmConfig(out_bias=True))


@pytest.mark.parametrize('kind, change, text', [
    ('gemma', {}, "model_type: expected one of .*found 'gemma'"),
    ('llama', {'hidden_act': 'gelu'}, "hidden_act: found 'gelu', expected 'silu'"),
    ('llama', {'quantization_config': {'bits': 4}}, 'quantization_config: found'),
    ('llama', {'logit_scale': 2.0}, 'logit_scale: unknown key'),
    ('llama', {'sliding_window': 5}, 'sliding_window: found 5'),
    ('qwen2', {'attention_bias': True}, 'attention_bias: found True'),
    ('llama', {'hidden_size': None}, 'hidden_size: missing'),
    ('llama', {'num_hidden_layers': 'x'}, 'num_hidden_layers: expected a whole number'),
    ('llama', {'tie_word_embeddings': 1}, 'tie_word_embeddings: expected true or false'),
    ('llama', {'rope_scaling': {'rope_type': 'longrope'}}, 'rope_scaling.rope_type: .*longrope'),
    ('llama', {'rope_scaling': {'type': 'linear', 'x': 1}}, 'rope_scaling.x: found 1'),
    ('llama', {'rope_scaling': {'type': 'linear'}}, 'rope_scaling.factor: missing'),
    ('llama', {'rope_scaling': [1]}, 'rope_scaling: expected a mapping'),
    ('llama', {'rope_parameters': {'rope_type': 'default', 'partial_rotary_factor': 0.5}},
     'rope_parameters.partial_rotary_factor: expected 1'),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor: found 0.5'),
    ('llama', {'rope_theta': -1.0}, 'rope_theta: expected a number above 0'),
    ('qwen3', {'layer_types': ['full_attention', 'chunked_attention', 'full_attention']},
     "layer_types: 'chunked_attention' is not supported"),
    ('qwen3', {'layer_types': ['full_attention']}, 'layer_types: expected a list of 3'),
    ('mistral', {'layer_types': ['full_attention'] * 3}, 'layer_types: found'),
    ('smollm3', {'no_rope_layers': [1, 2, 1]}, 'no_rope_layers: expected a list of 3'),
])
def test_keys_that_are_not_supported_are_named(kind, change, text):
    with pytest.raises(ConfigError, match=text):
        llm_config({'model_type': kind, **SIZES, **change})


def test_rope_parameters_of_newer_files():
    new = llm_config({'model_type': 'llama', **SIZES, 'rope_parameters': {
        'rope_theta': 5e5, **LLAMA3}})
    old = llm_config({'model_type': 'llama', **SIZES, 'rope_theta': 5e5, 'rope_scaling': LLAMA3})
    assert new == old and new.rope.kind == 'llama3' and new.max_positions == 128


def _llama(folder, **values):
    model = Llama(replace(LlmConfig(), dim=32, layers=1, heads=4, hidden=48, vocab_size=60,
                          **values))
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(hf_config(model.config)))
    save_file({hf_name(k): v for k, v in model.state_dict().items()},
              folder / 'model.safetensors')
    return model


def test_every_tensor_is_accounted_for(tmp_path):
    model = _llama(tmp_path)
    path = tmp_path / 'model.safetensors'
    state = load_file(path)
    save_file({**state, 'model.rotary_emb.inv_freq': torch.ones(4)}, path)
    config, found = read_hf_llm(tmp_path)
    assert config.hidden == 48 and set(found) == set(model.state_dict())
    wrong = {**state, 'model.more': torch.ones(2), 'lm_head.weight': torch.ones(60, 31)}
    del wrong['model.norm.weight']
    save_file(wrong, path)
    with pytest.raises(CheckpointError) as error:
        read_hf_llm(tmp_path)
    for text in ('missing tensor model.norm.weight: expected shape [32]',
                 'unknown tensor model.more of shape [2]',
                 'lm_head.weight: expected shape [60, 32], found [60, 31]'):
        assert text in str(error.value)
    save_file({**state, 'model.norm.weight': torch.ones(32, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match='norm.weight: expected floating-point'):
        read_hf_llm(tmp_path)
    path.write_bytes(b'junk')
    with pytest.raises(CheckpointError, match='not readable as safetensors'):
        read_hf_llm(tmp_path)
    path.unlink()
    (tmp_path / 'pytorch_model.bin').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'found neither; pytorch_model.bin is the older'):
        read_hf_llm(tmp_path)


def test_tied_embeddings_may_be_stored_twice_but_must_agree(tmp_path):
    _llama(tmp_path, tied_embeddings=True)
    path = tmp_path / 'model.safetensors'
    state = load_file(path)
    save_file({**state, 'lm_head.weight': state['model.embed_tokens.weight'].clone()}, path)
    assert 'output.weight' not in read_hf_llm(tmp_path)[1]
    save_file({**state, 'lm_head.weight': state['model.embed_tokens.weight'] + 1}, path)
    with pytest.raises(CheckpointError, match='lm_head.weight differs'):
        read_hf_llm(tmp_path)


def test_shards_that_do_not_fit_their_index(tmp_path):
    _llama(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    (tmp_path / 'model.safetensors').rename(tmp_path / 'a.safetensors')
    table = dict.fromkeys(state, 'a.safetensors')

    def index(**changed):
        (tmp_path / INDEX).write_text(json.dumps({'weight_map': {**table, **changed}}))

    index()
    assert len(read_hf_llm(tmp_path)[1]) == len(state)
    for changed, text in (({'x': 'b.safetensors'}, 'b.safetensors: file not found'),
                          ({'x': '../b.safetensors'}, 'expected names of files beside it'),
                          ({'x': 'a.safetensors'}, 'x: expected in a.safetensors, found in none')):
        index(**changed)
        with pytest.raises(CheckpointError, match=text):
            read_hf_llm(tmp_path)


@pytest.mark.parametrize('boolean', [True, False])
def test_a_sliding_window_goes_by_positions_in_packed_segments(boolean):
    model = Llama(LlmConfig(dim=32, layers=2, heads=4, hidden=48, vocab_size=60,
                            sliding_window=4)).eval()
    prefix, first, second = torch.randn(1, 4, 32), torch.randn(1, 3, 32), torch.randn(1, 5, 32)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]])
    segment = torch.tensor([0] * 4 + [1] * 3 + [2] * 5)
    mask = torch.ones(12, 12).tril().bool() & ((segment[:, None] == segment) | (segment == 0))
    mask = mask[None, None] if boolean else torch.where(mask, 0.0, -torch.inf)[None, None]
    packed = model(torch.cat([prefix, first, second], 1), positions, mask)
    torch.testing.assert_close(packed[:, 7:], model(torch.cat([prefix, second], 1))[:, 4:],
                               atol=1e-5, rtol=0)
    cache = model.new_cache(1, 4)
    model(prefix, cache=cache)
    found = model(second.expand(2, -1, -1), cache=cache.copy(9, batch=2))
    torch.testing.assert_close(found[1:], packed[:, 7:], atol=1e-5, rtol=0)


@pytest.mark.parametrize('change, text', [
    ({'head_dim': 7}, 'llm.head_dim: expected an even'),
    ({'sliding_layers': (3,), 'sliding_window': 2}, 'llm.sliding_layers: expected layers 0 to 1'),
    ({'rope': RopeScaling('ntk')}, "llm.rope.kind: expected one of .* found 'ntk'"),
    ({'rope': RopeScaling('llama3', low_freq=4.0)}, 'llm.rope.high_freq: expected more')])
def test_sizes_that_cannot_be(change, text):
    with pytest.raises(ConfigError, match=text):
        Llama(LlmConfig(dim=32, layers=2, heads=4, vocab_size=60, **change))


def test_the_own_layout_keeps_every_switch(tmp_path):
    llm = {'qk_norm': True, 'qkv_bias': True, 'head_dim': 6, 'sliding_window': 3,
           'sliding_layers': (1,), 'no_rope_layers': (0,), 'mlp_bias': True,
           'rope': RopeScaling('yarn', 2.0, 64, attention_factor=1.1)}
    model = tiny(llm=llm)
    save_model(model, tmp_path, torch.float32)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config and hash(loaded.config.llm)
    x = torch.randn(1, 9, 32)
    torch.testing.assert_close(loaded.llm(x), model.llm(x))
    values = json.loads((tmp_path / 'config.json').read_text())
    values['llm']['sliding_layers'] = 'all'
    (tmp_path / 'config.json').write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match='llm.sliding_layers: expected a list of whole'):
        load_model(tmp_path)


def test_a_new_model_around_a_language_model(tmp_path):
    words = _llama(tmp_path / 'hf', qkv_bias=True, head_dim=10, tied_embeddings=True)
    model = model_around_llm(TINY, tmp_path / 'hf')
    assert model.config.llm == read_hf_llm(tmp_path / 'hf')[0] and model.training
    for (name, a), b in zip(words.state_dict().items(), model.llm.state_dict().values()):
        assert torch.equal(a, b), name
    assert all(p.requires_grad for p in model.parameters())
    x = inputs(model.config)[Modality.IMAGE]
    tokens = model.encode(Modality.IMAGE, x).tokens
    rms = float(words.tok_embeddings.weight.square().mean().sqrt())
    assert float(tokens.square().mean().sqrt()) == pytest.approx(rms, rel=0.05)
    save_model(model, tmp_path / 'own', torch.float32)
    train_tokenizer(['abc'], 260).save(str(tmp_path / 'own' / 'tokenizer.json'))
    loaded = load_model(tmp_path / 'own')
    torch.testing.assert_close(loaded.encode(Modality.IMAGE, x).tokens, tokens)
    with pytest.raises(EngineError, match='expected at most the 60 of the model'):
        Engine.load(tmp_path / 'own', 'cpu')
