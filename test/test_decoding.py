"""The fast path of decoding: the same numbers as the plain one, whatever the model's switches."""

from __future__ import annotations

from dataclasses import replace
import logging
import random
import sys
from typing import Any

from golden.tiny import tiny
import pytest
import torch

from onellm_ros.config import LlmConfig, RopeScaling, TextConfig
from onellm_ros.inference import decoding
from onellm_ros.inference.backend import TorchBackend, template_head
from onellm_ros.inference.decoding import LoopDecoder
from onellm_ros.inference.graphs import SLOTS, GraphDecoder, block
from onellm_ros.model.llm import KVCache, Llama
from onellm_ros.model.text import Text, train_tokenizer

BASE = LlmConfig(dim=32, layers=2, heads=4, vocab_size=61, hidden=44, max_positions=64)
ROPES = [RopeScaling(), RopeScaling('linear', 2.5), RopeScaling('dynamic', 2.0, 8),
         RopeScaling('llama3', 8.0, 16), RopeScaling('yarn', 4.0, 32, attention_factor=1.2)]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.inference_mode():
        yield


def made(config: LlmConfig, seed: int = 0) -> Llama:
    """Return a random model whose norms and biases are not those of its beginning."""
    with torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(seed)
        model = Llama(config).eval()
        for name, value in model.named_parameters():
            if 'norm' in name or name.endswith('bias'):
                value.add_(0.3 * torch.randn_like(value))
            elif 'embeddings' in name:
                value.mul_(20)
    return model


def decoder_of(model: Llama) -> LoopDecoder:
    """Return the model's decoder."""
    decoder = LoopDecoder.of(model)
    assert decoder is not None
    return decoder


def graphs_of(model: Llama) -> GraphDecoder:
    """Return the decoder of GPUs, its operations run one by one."""
    return GraphDecoder(model, compiled=False, captured=False)


def both_ways(model: Llama, prefix: int = 3, steps: int = 14) -> None:
    """Compare the loops and what is captured on a GPU with the plain path."""
    fast_and_plain(model, decoder_of(model), prefix, steps)
    if not model.rope.grows:
        fast_and_plain(model, graphs_of(model), prefix, steps)


def fast_and_plain(model: Llama, decoder: LoopDecoder | GraphDecoder, prefix: int = 3,
                   steps: int = 14) -> tuple[KVCache, KVCache]:
    """Decode random tokens both ways behind a prefix, comparing the logits of each."""
    draw = torch.Generator().manual_seed(prefix)
    begin = torch.randn(1, prefix, model.config.dim, generator=draw)
    caches = [model.new_cache(1, prefix + steps) for _ in range(2)]
    for cache in caches:
        model(begin, cache=cache)
    for token in torch.randint(0, model.config.vocab_size, (steps,), generator=draw).tolist():
        found = decoder.step([token], caches[0])
        assert found is not None
        plain = model(model.embed(torch.tensor([[token]])), cache=caches[1])[0, -1]
        assert float(plain.std()) > 0.1
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    if isinstance(decoder, LoopDecoder) and not model.rope.grows:
        for count in (2, 5, decoding.MOST_TOKENS):
            words = torch.randint(0, model.config.vocab_size, (count,), generator=draw).tolist()
            copies = [cache.copy(cache.length + count) for cache in caches]
            found = decoder.step(words, copies[0])
            assert found is not None and copies[0].length == prefix + steps + count
            plain = model(model.embed(torch.tensor([words])), cache=copies[1])[0, -1]
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(copies[0].values, copies[1].values, atol=1e-5, rtol=1e-5)
    return caches[0], caches[1]


@pytest.mark.parametrize('change', [
    {}, {'kv_heads': 2}, {'kv_heads': 1, 'head_dim': 6}, {'qkv_bias': True, 'out_bias': True},
    {'mlp_bias': True, 'tied_embeddings': True}, {'qk_norm': True, 'head_dim': 12},
    {'sliding_window': 4}, {'sliding_window': 5, 'sliding_layers': (1,)},
    {'no_rope_layers': (1,)}, *({'rope': rope} for rope in ROPES[1:])], ids=str)
def test_each_switch_alone(change: dict[str, Any]) -> None:
    both_ways(made(replace(BASE, **change)))


@pytest.mark.parametrize('seed', range(12))
def test_switches_together(seed: int) -> None:
    pick = random.Random(seed)
    heads, layers = pick.choice([1, 3, 4, 6]), pick.randint(1, 4)
    config = replace(
        BASE, layers=layers, heads=heads, dim=heads * pick.choice([2, 10, 16]),
        kv_heads=pick.choice([k for k in (0, 1, 2, 3) if not k or heads % k == 0]),
        head_dim=pick.choice([0, 4, 18, 64]), hidden=pick.choice([0, 7, 45, 130]), multiple_of=4,
        vocab_size=pick.choice([9, 62, 63, 64]), rope=pick.choice(ROPES),
        sliding_window=pick.choice([0, 1, 3, 50]),
        sliding_layers=tuple(range(pick.randint(0, layers))),
        no_rope_layers=tuple(range(pick.randint(0, layers))),
        **{key: pick.random() < 0.5 for key in (
            'tied_embeddings', 'qkv_bias', 'out_bias', 'mlp_bias', 'qk_norm')})
    if config.head_size < 4 and config.rope.kind == 'dynamic':
        config = replace(config, head_dim=4)
    both_ways(made(config, seed), prefix=pick.randint(1, 9), steps=pick.randint(2, 30))


@pytest.mark.parametrize('make', [decoder_of, graphs_of])
def test_both_paths_may_take_turns_on_one_cache(make: Any) -> None:
    model = made(replace(BASE, sliding_window=6, kv_heads=2))
    decoder = make(model)
    cache, plain = fast_and_plain(model, decoder)
    for kind in ('keys', 'values'):
        torch.testing.assert_close(getattr(cache, kind), getattr(plain, kind), atol=1e-5, rtol=0)
    assert torch.equal(cache.positions, plain.positions) and cache.length == plain.length == 17
    words = model.embed(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(model(words, cache=cache.copy(20)),
                               model(words, cache=plain.copy(20)), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match='expected room for 18 positions, found 17'):
        decoder.step([1], cache)


@pytest.mark.parametrize('make', [decoder_of, graphs_of])
def test_several_answers_at_once(make: Any) -> None:
    model = made(replace(BASE, max_positions=600))
    decoder = make(model)
    first, second = model.new_cache(1, 5), model.new_cache(1, 500)
    said: list[list[torch.Tensor]] = [[], []]
    for token in (3, 1, 4, 1):
        for cache, out in zip((first, second), said):
            found = decoder.step([token], cache)
            assert found is not None
            out.append(found)
    for one, other in zip(*said):
        assert torch.equal(one, other)


def test_weights_may_change_between_answers() -> None:
    model = made(BASE)
    decoder = decoder_of(model)

    def say(llm: Llama) -> torch.Tensor:
        found = decoder.step([7], llm.new_cache(1, 1))
        assert found is not None
        return found

    before = say(model)
    with torch.inference_mode(False), torch.no_grad():
        model.layers[0].attention.wo.weight.mul_(2)         # as an optimizer does
    changed = say(model)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(changed, model(model.embed(torch.tensor([[7]])))[0, -1],
                               atol=1e-5, rtol=1e-5)
    other = made(BASE, seed=1)
    model.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(say(model), other(other.embed(torch.tensor([[7]])))[0, -1],
                               atol=1e-5, rtol=1e-5)


def test_values_that_are_not_finite_or_very_large() -> None:
    model = made(BASE)
    decoder = decoder_of(model)
    with torch.inference_mode(False), torch.no_grad():
        for layer in model.layers:
            layer.feed_forward.w1.weight.mul_(1e4)          # silu of thousands, either sign
            layer.attention.wq.weight.mul_(1e3)             # one position takes all the weight
    both_ways(model, steps=4)
    with torch.inference_mode(False), torch.no_grad():
        model.layers[0].attention.wv.weight[0, 0] = torch.nan
    found = decoder.step([1], model.new_cache(1, 1))
    assert found is not None and bool(found.isnan().all())


def test_what_the_loops_do_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LoopDecoder.of(made(BASE).to(torch.bfloat16)) is None
    assert GraphDecoder.of(made(BASE)) is None          # no GPU
    hooked = made(BASE)
    hooked.layers[1].feed_forward.w2.register_forward_hook(lambda *_: None)
    assert LoopDecoder.of(hooked) is None
    model = made(BASE)
    decoder = decoder_of(model)
    for cache in (model.new_cache(2, 3), model.new_cache(1, 3, torch.bfloat16)):
        assert decoder.step([1], cache) is None and cache.length == 0
    with torch.inference_mode(False):
        followed = model.new_cache(1, 3)
        model(model.embed(torch.tensor([[1]])), cache=followed)     # for its gradient
        assert decoder.step([1], followed) is None and followed.length == 1
    assert decoder.step([61], model.new_cache(1, 3)) is None   # the plain path says what is wrong
    monkeypatch.setattr(decoding, 'MOST_PARAMETERS', 1000)
    monkeypatch.setattr(decoding, 'FEW_THREADS', 0)         # however few there are
    assert LoopDecoder.of(model) is None


def test_without_compiled_loops_the_plain_path_serves(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    fast = TorchBackend(model)
    monkeypatch.setitem(sys.modules, 'onellm_ros.inference.kernels', None)
    monkeypatch.delattr('onellm_ros.inference.kernels', raising=False)
    with caplog.at_level(logging.WARNING):
        slow = TorchBackend(model)
    assert 'slower path' in caplog.text
    logits = []
    for backend in (fast, slow):
        cache = backend.prefill({}, 1)
        assert isinstance(cache, KVCache)
        copy = cache.copy(9)
        first = backend.step([5, 6, 7], copy)
        assert (copy.run is not None) == (backend is fast)
        logits.append((first, backend.step([8], copy)))
        assert (copy.run is not None) == (backend is fast)
        assert copy.length == 5 and cache.length == 1
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


# -- what prompts have in common --------------------------------------------------------------

@pytest.mark.parametrize('template', ['plain', 'released', 'training'])
def test_what_every_prompt_begins_with_is_computed_with_the_prefix(template: str) -> None:
    model = tiny(llm={'max_positions': 200, 'sliding_window': 7})
    config = TextConfig(template=template, system='You see.')
    text = Text(train_tokenizer(['You see. ### Human: Assistant: what'] * 9, 300), config)
    head = template_head(text)
    assert len(head) > 2 and text.decode(head).startswith('You see.')
    plain, fast = TorchBackend(model), TorchBackend(model, head)
    for question in ('What is there?', '###', '\u673a\u5668\u4eba'):
        for history in ((), (('Hello?', 'yes'),)):
            ids = text.encode_prompt(question, history)
            caches = [backend.prefill({}, 1) for backend in (plain, fast)]
            copies = [cache.copy(cache.length + len(ids) + 1) for cache in caches]
            one, other = (b.step(ids, c) for b, c in zip((plain, fast), copies))
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            assert [(c.length, c.head) for c in caches] == [(1, ()), (1, head)]
            assert [c.head for c in copies] == [(), ()]
            assert [c.length for c in copies] == [1 + len(ids)] * 2
            one, other = (b.step([9], c) for b, c in zip((plain, fast), copies))
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_prompt_that_begins_otherwise_is_computed_whole() -> None:
    model = tiny()
    plain, fast = TorchBackend(model), TorchBackend(model, (5, 6))
    for ids in ([7, 8, 9], [5, 7], [5, 6], [5]):
        found = [b.step(ids, b.prefill({}, 1).copy(4)) for b in (plain, fast)]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
        table = torch.tensor([ids, ids])
        found = [b.continuations(table, b.prefill({}, 1)) for b in (plain, fast)]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    crowded = replace(model.config, llm=replace(model.config.llm, max_positions=2))
    model.config = crowded                              # no room for a head: a prefix alone
    assert fast.prefill({}, 1).length == 1


# -- what a GPU captures, run one by one ------------------------------------------------------

def test_answers_decode_in_slots_that_are_given_back() -> None:
    model = made(BASE)
    decoder = graphs_of(model)
    caches = [model.new_cache(1, 4) for _ in range(SLOTS + 1)]
    said = [decoder.step([7], cache) for cache in caches]
    assert said[-1] is None and caches[-1].length == 0      # one too many: the plain path
    assert said[0] is not None and said[1] is not None and torch.equal(said[0], said[1])
    caches[0].keys.fill_(torch.nan)                         # nothing of it is left
    del caches[0]
    found = decoder.step([7], caches[-1])
    assert found is not None and torch.equal(found, said[0])
    assert decoder.step([7], model.new_cache(1, 65)) is None  # longer than any graph


def test_a_decoder_is_compared_with_the_plain_path_before_it_is_used() -> None:
    model = made(replace(BASE, sliding_window=9, max_positions=1100))
    decoder = graphs_of(model)
    decoder.check()
    decoder._turns = (decoder._turns[0], -decoder._turns[1])
    with pytest.raises(RuntimeError, match='logits differ from those of the plain path'):
        decoder.check()


def test_weights_that_moved_end_the_use_of_graphs() -> None:
    model = made(BASE)
    decoder = graphs_of(model)
    assert decoder.step([7], model.new_cache(1, 1)) is not None
    model.load_state_dict(made(BASE, seed=1).state_dict(), assign=True)
    assert decoder.step([7], model.new_cache(1, 1)) is None


def test_one_compilation_serves_all_layers() -> None:
    from torch._dynamo.testing import CompileCounter  # seconds to import

    model = made(replace(BASE, layers=12, qk_norm=True, qkv_bias=True))
    decoder = graphs_of(model)
    counter = CompileCounter()
    decoder._block = torch.compile(block, fullgraph=True, dynamic=False, backend=counter)
    fast_and_plain(model, decoder, steps=3)
    assert counter.frame_count == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('dtype, close', [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_captured_and_fused_on_a_gpu(dtype: torch.dtype, close: float) -> None:
    model = made(replace(BASE, dim=256, kv_heads=2, qk_norm=True, max_positions=600)).to(
        'cuda', dtype)
    decoder = GraphDecoder.of(model)
    assert decoder is not None and decoder._captured and decoder._block is not block
    caches = [model.new_cache(1, 400) for _ in range(2)]
    begin = torch.randn(1, 250, 256, device='cuda', dtype=dtype)
    for cache in caches:
        model(begin, cache=cache)
    for token in range(20):                                 # across the end of a graph's length
        found = decoder.step([token], caches[0])
        assert found is not None
        words = model.embed(torch.tensor([[token]], device='cuda'))
        plain = model(words, cache=caches[1])[0, -1].float()
        torch.testing.assert_close(found, plain, atol=close * float(plain.std()), rtol=0)
