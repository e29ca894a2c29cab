"""The fast path for few more tokens behind a cache; where it does not fit, the plain path serves.

A small float32 model on the CPU is decoded by compiled loops (:mod:`onellm_ros.inference.kernels`)
straight from its own weights: nothing is copied, and training may go on with them. A model on a
GPU is decoded by captured graphs (:mod:`onellm_ros.inference.graphs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onellm_ros.inference.graphs import GraphDecoder
from onellm_ros.inference.weights import LlmWeights, weights_of
from onellm_ros.model.layers import swiglu_hidden
from onellm_ros.model.llm import KVCache, Llama

Work = tuple[Sequence[int], KVCache, int]   # ids, what they stand behind, of how many logits
# Above this the weights come from memory. One core's loops took it in at 33 GB/s where PyTorch's
# products of one or two threads took 17; more threads use the bandwidth better together.
MOST_PARAMETERS = 100_000_000
FEW_THREADS = 2
MOST_TOKENS = 31    # at once; for more, PyTorch's products of matrices are as fast
_BLOCK = 256        # positions whose rotary turns are computed together
_log = logging.getLogger(__name__)


@dataclass
class _Run:
    """What a cache is decoded with; ``weights`` are kept alive by it, since addresses are used."""

    weights: LlmWeights
    table: np.ndarray
    top: np.ndarray
    place: tuple[int, int, int]     # addresses of keys and values, capacity


class LoopDecoder:
    """Computes a small language model by compiled loops, some tokens of some sequences a call.

    Not for two threads at once.
    """

    shares = True           # two sequences cost little more than one

    def __init__(self, llm: Llama) -> None:
        from onellm_ros.inference import kernels

        config = llm.config
        self.llm = llm
        self._kernels: Any = kernels
        heads, shared = config.heads, config.kv_heads or config.heads
        hidden = swiglu_hidden(config.dim, config.multiple_of, config.hidden)
        # A further token costs a third of the first, a fifth where the weights come from memory.
        self.drafted = 4 if sum(p.numel() for p in llm.parameters()) < MOST_PARAMETERS else 7
        self._sizes = np.array([config.dim, heads, shared, config.head_size, hidden])
        self._widest = max(config.dim, heads * config.head_size, hidden)
        self._work = np.empty((5, MOST_TOKENS, self._widest), np.float32)
        self._room = 0
        self._turns = np.empty((2, 0, config.head_size // 2), np.float32)

    @classmethod
    def of(cls, llm: Llama) -> LoopDecoder | None:
        """Return a decoder, compiled, or None where the model is not for it.

        The first time on a machine takes some seconds; numba keeps what it compiled.
        """
        if cls._weights(llm) is None:
            return None
        try:
            decoder = cls(llm)
            decoder.step([0], llm.new_cache(1, 1))
        except (ImportError, RuntimeError) as error:    # no numba, or nowhere to keep its results
            _log.warning('tokens are decoded on the slower path: %s', error)
            return None
        return decoder

    @staticmethod
    def _weights(llm: Llama) -> LlmWeights | None:
        """Return a model's weights if they are what the loops read."""
        if torch.get_num_threads() > FEW_THREADS and \
                sum(p.numel() for p in llm.parameters()) > MOST_PARAMETERS:
            return None
        found = weights_of(llm)
        fits = found is not None and found.embeddings.dtype == torch.float32 \
            and found.embeddings.device.type == 'cpu'
        return found if fits else None

    def _run(self, cache: KVCache) -> _Run | None:
        """Return what a cache is decoded with, looked up once a cache; None: the plain path."""
        if isinstance(cache.run, _Run):
            return cache.run
        found = self._weights(self.llm)
        if found is None or cache.keys.shape[1] != 1 or cache.keys.dtype != torch.float32 or \
                cache.keys.requires_grad or not cache.keys.is_contiguous():
            return None
        config = self.llm.config
        table = np.array(
            [[*(0 if t is None else t.data_ptr() for t in row), i not in config.no_rope_layers,
              config.sliding_window if config.slides(i) else 0]
             for i, row in enumerate(found.layers)], dtype=np.int64)
        top = [t.data_ptr() for t in (found.embeddings, found.norm, found.output)]
        cache.run = _Run(found, table, np.array(top), (
            cache.keys.data_ptr(), cache.values.data_ptr(), cache.capacity))
        self._grow(cache.capacity)
        return cache.run

    def _grow(self, capacity: int) -> None:
        if capacity <= self._room:
            return
        # In blocks of one size: how many are computed together shows in the last digit.
        more = range(self._room, max(capacity, 2 * self._room), _BLOCK)
        blocks = [torch.cat(self.llm.rope(torch.arange(i, i + _BLOCK))) for i in more]
        self._room += _BLOCK * len(more)
        self._turns = np.concatenate([self._turns, *(b.numpy() for b in blocks)], 1)
        size = max(self._widest, self._room)
        self._scores, self._bits = np.empty(size, np.float32), np.empty(size, np.int32)

    def step(self, ids: Sequence[int], cache: KVCache) -> Tensor | None:
        """Run tokens behind a cache, which grows; return float32 logits [vocab] of the last.

        :returns: None where these or this cache are not for it; nothing has happened then.
        :raises ValueError: if the cache is too short.
        """
        found = self.steps([(ids, cache, 1)])
        return None if found is None else found[0][0]

    def steps(self, work: Sequence[Work]) -> list[Tensor] | None:
        """Run tokens behind some caches, none of them twice, in one pass.

        :param work: ids, their cache, and of how many of the last ids the logits are wanted.
        :returns: float32 logits [count, vocab] of each; None as :meth:`step`.
        :raises ValueError: if a cache is too short; nothing has happened then.
        """
        llm, vocab = self.llm, self.llm.config.vocab_size
        words = [word for ids, _, _ in work for word in ids]
        if not 0 < len(words) <= MOST_TOKENS or len(words) > len(work) and llm.rope.grows or \
                not 0 <= min(words) <= max(words) < vocab:
            return None
        places: list[tuple[int, ...]] = []
        wanted: list[int] = []
        first = None
        for ids, cache, count in work:
            run = self._run(cache)
            first = first or run
            if run is None or first is None or run.weights != first.weights:
                return None
            at, end = cache.length, cache.length + len(ids)
            if end > cache.capacity:
                raise ValueError(f'key/value cache: expected room for {end} positions, found '
                                 f'{cache.capacity}')
            places += [(*run.place, position) for position in range(at, end)]
            wanted += range(len(places) - count, len(places))
            if llm.rope.grows:
                self._turns[:, at] = torch.cat(llm.rope(torch.tensor([at])))[:, 0].numpy()
        assert first is not None
        logits = torch.empty(len(wanted), vocab)
        self._kernels.forward(
            first.table, first.top, self._sizes, llm.config.norm_eps, np.array(words),
            np.array(places), self._turns, self._work, self._scores, self._bits,
            np.array(wanted), logits.numpy())
        for ids, cache, _ in work:
            end = cache.length + len(ids)
            if llm.config.sliding_window:
                cache.positions[:, cache.length:end] = torch.arange(cache.length, end)
            cache.length = end
        return list(logits.split([count for _, _, count in work]))


def decoder_of(llm: Llama) -> LoopDecoder | GraphDecoder | None:
    """Return what decodes a model faster than its modules do here; None: nothing does."""
    return GraphDecoder.of(llm) or LoopDecoder.of(llm)
