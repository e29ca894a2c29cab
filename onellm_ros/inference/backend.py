"""What computes a model: the seam between the engine and PyTorch or ONNX Runtime.

The engine owns prompts, sampling, checks and the lock; a backend owns the numbers. Every backend
gives the same numbers within its tolerance and says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from onellm_ros.inference.decoding import LoopDecoder, decoder_of
from onellm_ros.inference.graphs import GraphDecoder
from onellm_ros.modality import Modality
from onellm_ros.model.llm import KVCache
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.packing import Frames, FrameStore
from onellm_ros.model.text import Text

Shares = dict[Modality, tuple[float, ...]]


class Cache(Protocol):
    """Keys and values of a sequence, or of several of one length."""

    length: int

    def copy(self, capacity: int, batch: int | None = None) -> Cache:
        """Return a new cache of ``capacity`` positions that starts with these."""


Work = tuple[Sequence[int], Cache, int]     # ids, what they stand behind, of how many the logits


class Backend(Protocol):
    """Computes one model. Not for two threads at once; no call changes a cache but the one given.

    Attributes: ``name`` (such as ``torch``), ``device`` (of what it is given and returns). One
    that computes some tokens of several sequences for little more than one token has ``steps``,
    ``shares`` and ``drafted`` as :class:`TorchBackend`.
    """

    name: str
    device: torch.device

    def encode(self, inputs: Mapping[Modality, Tensor]) -> tuple[dict[Modality, Tensor], Shares]:
        """Return each modality's tokens [1, M, llm_dim] and the mean weight of each expert.

        :param inputs: checked inputs on the device, each a batch of 1, in the prompt's order.
        :raises ValueError: for a shape that does not fit.
        """

    def prefill(self, tokens: Mapping[Modality, Tensor], bos: int) -> Cache:
        """Return the cache of a prompt's beginning: BOS and every modality between its tags."""

    def prefix_positions(self, tokens: Mapping[Modality, Tensor]) -> int:
        """Return how many positions :meth:`prefill` takes."""

    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """Run ``ids`` behind a cache, which grows; return float32 logits [vocab] of the last."""

    def continuations(self, table: Tensor, cache: Cache) -> Tensor:
        """Return the float32 logits [n, L, vocab] of the rows [n, L] of ids behind one sequence.

        The cache does not change.
        """


def template_head(text: Text) -> tuple[int, ...]:
    """Return the ids that prompts begin with whatever is asked: the system text and the first tag.

    A prompt that begins otherwise (a tokenizer may join a tag and a rare word) is no error.
    """
    one, *others = [text.encode_prompt(question) for question in ('What?', 'a', '1', '(')]
    count = 0
    while all(ids[:count + 1] == one[:count + 1] for ids in others) and count < len(one):
        count += 1
    return tuple(one[:count])


class TorchBackend:
    """The model itself, on the device where its weights are."""

    name = 'torch'
    takes_frames = True         # encode() is told what each frame is of

    def __init__(self, model: OneLLM, head: Sequence[int] = ()) -> None:
        """Compute a model.

        :param head: ids that most prompts begin with; each prefix holds them computed.
        """
        self.model = model
        # With dynamic rotary positions keys depend on how far a pass reaches.
        self._head = () if model.llm.rope.grows else tuple(head)
        self.device: torch.device = model.llm.tok_embeddings.weight.device
        with torch.inference_mode():
            self._decoder = decoder_of(model.llm)

    def encode(self, inputs: Mapping[Modality, Tensor], frames: Frames | None = None,
               store: FrameStore | None = None) -> tuple[dict[Modality, Tensor], Shares]:
        """See :class:`Backend`.

        :param frames: see ``OneLLM.encode_all``. :param store: that, too.
        """
        found = self.model.encode_all(inputs, frames, store)
        tokens = {m: encoded.tokens for m, encoded in found.items()}
        if not found:
            return tokens, {}
        # One transfer from a GPU, not one a modality.
        rows = torch.cat([encoded.expert_weights for encoded in found.values()]).float().tolist()
        return tokens, {m: tuple(row) for m, row in zip(found, rows, strict=True)}

    def prefix_positions(self, tokens: Mapping[Modality, Tensor]) -> int:
        """See :class:`Backend`."""
        return 1 + sum(t.shape[1] + 2 for t in tokens.values())

    def prefill(self, tokens: Mapping[Modality, Tensor], bos: int) -> Cache:
        """See :class:`Backend`."""
        embeds = self.model.prefix_embeds(tokens, bos)
        positions, head = embeds.shape[1], self._head
        if head and positions + len(head) <= self.model.config.llm.max_positions:
            words = self.model.llm.embed(torch.tensor([head], device=self.device))
            embeds = torch.cat([embeds, words], 1)
        cache = self.model.llm.new_cache(1, embeds.shape[1])
        # One forward pass for the keys and values; its logits are of no use.
        self.model.llm(embeds, cache=cache, return_hidden=True, last_only=True)
        if embeds.shape[1] > positions:
            cache.length, cache.head = positions, head
        return cache

    @property
    def shares(self) -> bool:
        """Whether :meth:`steps` computes two sequences for little more than one."""
        return isinstance(self._decoder, LoopDecoder)

    @property
    def drafted(self) -> int:
        """How many tokens behind one are worth computing with it, if most are of use."""
        # With dynamic rotary positions a key depends on how far a pass reaches.
        loops = self._decoder
        return loops.drafted if isinstance(loops, LoopDecoder) and not loops.llm.rope.grows else 0

    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """See :class:`Backend`."""
        return self.steps([(ids, cache, 1)])[0][0]

    def steps(self, work: Sequence[Work]) -> list[Tensor]:
        """Run ids behind several caches, none of them twice; each grows.

        :param work: ids, their cache, and of how many of the last ids the logits are wanted.
        :returns: float32 logits [count, vocab] of each.
        """
        own = []
        for ids, cache, count in work:
            assert isinstance(cache, KVCache)
            own.append((cache.skip(ids) if cache.head else ids, cache, count))
        if isinstance(self._decoder, LoopDecoder) and len(own) > 1:
            together = self._decoder.steps(own)
            if together is not None:
                return together
        return [self._alone(*one) for one in own]

    def _alone(self, ids: Sequence[int], cache: KVCache, count: int) -> Tensor:
        """Return what :meth:`steps` does, of one sequence."""
        if isinstance(self._decoder, LoopDecoder):
            found = self._decoder.steps([(ids, cache, count)])
            if found is not None:
                return found[0]
            if count > 1:       # the same numbers as without the guesses at the end
                known = len(ids) - count + 1
                return torch.cat([self._alone(ids[:known], cache, 1),
                                  self._alone(ids[known:], cache, count - 1)])
        if isinstance(self._decoder, GraphDecoder) and count == 1:
            logits = self._decoder.step(ids, cache)
            if logits is not None:
                return logits[None]
        llm = self.model.llm
        words = llm.embed(torch.tensor([ids], device=self.device))
        hidden = llm(words, cache=cache, return_hidden=True, last_only=count == 1)
        return llm.logits(hidden[0, -count:]).float()

    def continuations(self, table: Tensor, cache: Cache) -> Tensor:
        """See :class:`Backend`."""
        batch = cache.copy(cache.length + table.shape[1], table.shape[0])
        return self.model.llm(self.model.llm.embed(table), cache=batch).float()
