"""One more token on a GPU: a captured graph of fused kernels over caches that stay in place.

At batch 1 a GPU waits for the launches of small operations; a CUDA graph launches all of them at
once, and torch.compile fuses those between the large maps, where it works. A graph remembers
addresses, so answers are decoded in one of a few slots whose buffers do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
from typing import Any
import weakref

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812

from onellm_ros.inference.weights import LayerWeights, weights_of
from onellm_ros.model.llm import KVCache, Llama
from onellm_ros.model.rope import rotate

SLOTS = 2                   # answers at once; further ones take the plain path
LONGEST = 4096              # positions of a slot at most; longer answers take the plain path
_SHORTEST = 256             # positions that the shortest graph attends to; each next one 4 times
_WRONG = 0.05               # of the logits' spread: more is not rounding
_log = logging.getLogger(__name__)


def block(x: Tensor, w: LayerWeights, turn: tuple[Tensor, Tensor] | None, keys: Tensor,
          values: Tensor, at: Tensor, hidden: Tensor, eps: float) -> Tensor:
    """Transform one position [1, D]; its keys and values are stored.

    :param keys: [key heads, S, d], changed at ``at``. :param values: alike. :param at: [1].
    :param hidden: [S], True for positions that are not seen.
    """
    shared, _, size = keys.shape
    h = F.rms_norm(x, x.shape[-1:], w.attention_norm, eps)
    q = F.linear(h, w.wq, w.bq).view(-1, 1, size)
    k, v = (F.linear(h, weight, bias).view(shared, 1, size)
            for weight, bias in ((w.wk, w.bk), (w.wv, w.bv)))
    if w.q_norm is not None and w.k_norm is not None:
        q, k = F.rms_norm(q, (size,), w.q_norm, eps), F.rms_norm(k, (size,), w.k_norm, eps)
    if turn is not None:
        q, k = rotate(q, *turn), rotate(k, *turn)
    keys.index_copy_(1, at, k)
    values.index_copy_(1, at, v)
    # products and sums in float32, one kernel each once they are fused
    q = q.view(shared, -1, 1, size).float() * size ** -0.5
    scores = (q * keys[:, None].float()).sum(-1).masked_fill(hidden, -torch.inf)
    mixed = (scores.softmax(-1)[..., None] * values[:, None].float()).sum(2)
    x = x + F.linear(mixed.to(x.dtype).view(1, -1), w.wo, w.bo)
    h = F.rms_norm(x, x.shape[-1:], w.ffn_norm, eps)
    h = F.silu(F.linear(h, w.w1, w.b1)) * F.linear(h, w.w3, w.b3)
    return x + F.linear(h, w.w2, w.b2)


class _Slot:
    """Buffers for one answer, with a graph for each length that is attended to."""

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.graphs: dict[int, Any] = {}
        self.free = True

    def release(self) -> None:
        """Take the next answer."""
        self.free = True


class GraphDecoder:
    """Decodes on a GPU by captured graphs, one token of one sequence a call.

    Not for two threads at once. The weights are the model's own; one that is put in another place
    ends its use (the plain path serves then).

    :param compiled: fuse operations with torch.compile.
    :param captured: capture graphs; without, the same operations run one by one (any device).
    """

    def __init__(self, llm: Llama, *, compiled: bool, captured: bool) -> None:
        found = weights_of(llm)
        if found is None or llm.rope.grows:
            raise ValueError('expected plain weights and rotary positions that do not grow')
        self.llm, self._captured = llm, captured
        self._weights = found
        self._block: Callable[..., Tensor] = block
        if compiled:
            self._block = torch.compile(block, fullgraph=True, dynamic=False,
                                        options={'coordinate_descent_tuning': True})
        device = found.embeddings.device
        self._device = device
        self._token = torch.zeros(1, dtype=torch.long, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._logits = torch.zeros(llm.config.vocab_size, dtype=found.output.dtype, device=device)
        self._slots: list[_Slot] = []
        room = min(llm.config.max_positions, LONGEST)
        cos, sin = llm.rope(torch.arange(room, device=device))
        self._turns = cos[0], sin[0]
        self._lengths = [_SHORTEST * 4 ** n for n in range(room) if _SHORTEST * 4 ** n < room]
        self._lengths.append(room)

    @classmethod
    def of(cls, llm: Llama) -> GraphDecoder | None:
        """Return a decoder that was compared with the plain path, or None where none works.

        Compiles and captures for every length that is attended to: some ten seconds, fewer once
        torch has kept what it compiled.
        """
        weight = llm.tok_embeddings.weight
        if weight.device.type != 'cuda' or weights_of(llm) is None or llm.rope.grows:
            return None
        for compiled in (True, False):
            try:
                decoder = cls(llm, compiled=compiled, captured=True)
                decoder.check()
            except Exception as error:  # noqa: BLE001 (whatever a compiler or a driver lacks)
                how = 'fused and captured' if compiled else 'captured'
                _log.warning('decoding is not %s: %s: %s', how, type(error).__name__,
                             str(error).partition('\n')[0])
            else:
                return decoder
        return None

    def check(self) -> None:
        """Decode a token at each length and compare it with the plain path.

        :raises RuntimeError: if the logits differ.
        """
        llm, room = self.llm, self._lengths[-1]
        whole = llm.new_cache(1, room)
        draw = torch.Generator(self._device).manual_seed(0)
        whole.keys.normal_(generator=draw)
        whole.values.normal_(generator=draw)
        if llm.config.sliding_window:
            whole.positions.copy_(torch.arange(room))
        for length in self._lengths:
            whole.length = length - 1
            plain = whole.copy(length)
            wanted = llm(llm.embed(torch.tensor([[1]], device=self._device)), cache=plain)[0, -1]
            found = self.step([1], whole)
            assert found is not None
            wanted = wanted.float()
            apart = float((found - wanted).abs().max() / wanted.std())
            if not apart < _WRONG:
                raise RuntimeError(f'logits differ from those of the plain path by {apart:.2g} of '
                                   'their spread')

    def _slot(self, cache: KVCache) -> _Slot | None:
        """Return the slot of a cache, which moves into one at its first token."""
        if isinstance(cache.run, _Slot):
            return cache.run
        if cache.keys.shape[1] != 1 or cache.keys.dtype != self._weights.embeddings.dtype or \
                cache.keys.device != self._device or weights_of(self.llm) != self._weights:
            return None
        if cache.capacity > self._lengths[-1]:
            return None
        slot = next((s for s in self._slots if s.free), None)
        if slot is None:
            if len(self._slots) >= SLOTS:
                return None
            slot = _Slot(self.llm.new_cache(1, self._lengths[-1]))
            self._slots.append(slot)
        end = next(n for n in self._lengths if n >= cache.capacity)
        for mine, theirs in ((slot.keys, cache.keys), (slot.values, cache.values)):
            mine[:, :, :, :cache.length] = theirs[:, :, :, :cache.length]
            mine[:, :, :, cache.length:end].zero_()     # 0 times nan of what was there is nan
        # the cache keeps its capacity; what else is run on it finds the same positions
        cache.keys = slot.keys[:, :, :, :cache.capacity]
        cache.values = slot.values[:, :, :, :cache.capacity]
        cache.run, slot.free = slot, False
        weakref.finalize(cache, slot.release)
        return slot

    def _compute(self, slot: _Slot, length: int) -> None:
        """Run the token that stands in the buffers."""
        config, weights, at = self.llm.config, self._weights, self._at
        cos, sin = (t.index_select(0, at) for t in self._turns)
        order = torch.arange(length, device=self._device)
        later = order > at
        near = later | (at - order >= config.sliding_window)
        x = F.embedding(self._token, weights.embeddings)
        for i, layer in enumerate(weights.layers):
            x = self._block(
                x, layer, None if i in config.no_rope_layers else (cos, sin),
                slot.keys[i, 0, :, :length], slot.values[i, 0, :, :length], at,
                near if config.slides(i) else later, config.norm_eps)
        x = F.rms_norm(x, x.shape[-1:], weights.norm, config.norm_eps)
        self._logits.copy_(F.linear(x, weights.output)[0])

    def _graph(self, slot: _Slot, length: int) -> Any:
        """Return the graph for a length of a slot, captured at its first use."""
        if length not in slot.graphs:
            side = torch.cuda.Stream(self._device)
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):               # compiles, and warms libraries up
                for _ in range(2):
                    self._compute(slot, length)
            torch.cuda.current_stream(self._device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the GPU meanwhile, for what comes before the model
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):
                self._compute(slot, length)
            slot.graphs[length] = graph
        return slot.graphs[length]

    def step(self, ids: Sequence[int], cache: KVCache) -> Tensor | None:
        """Run one token behind a cache, which grows; return float32 logits [vocab].

        :returns: None where this is not one, or this cache is not for it; nothing has happened
            then.
        :raises ValueError: if the cache is full.
        """
        if len(ids) != 1 or not 0 <= ids[0] < self.llm.config.vocab_size:
            return None
        at = cache.length
        if at >= cache.capacity:
            raise ValueError(f'key/value cache: expected room for {at + 1} positions, found '
                             f'{cache.capacity}')
        slot = self._slot(cache)
        if slot is None:
            return None
        length = next(n for n in self._lengths if n > at)
        self._token.fill_(ids[0])
        self._at.fill_(at)
        if self._captured:
            self._graph(slot, length).replay()
        else:
            self._compute(slot, length)
        if self.llm.config.sliding_window:
            cache.positions[:, at] = at
        cache.length = at + 1
        return self._logits.to(torch.float32, copy=True)
