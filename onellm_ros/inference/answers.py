"""An answer in the making: which tokens it needs computed, and what text comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import threading
import time
from typing import Protocol

import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.inference.backend import Cache, Work
from onellm_ros.inference.drafting import Draft
from onellm_ros.inference.sampling import Draw, Sampling
from onellm_ros.inference.streaming import Detokenizer
from onellm_ros.modality import Modality
from onellm_ros.model.text import Text


@dataclass(frozen=True, eq=False)
class Prefix:
    """An encoded window: the prompt's beginning with its keys and values.

    :param modalities: what it holds, in the prompt's order.
    :param expert_weights: per modality the router's mean weight for each expert.
    :param positions: prompt positions that it takes.
    :param encode_s: seconds that encoding took.
    """

    modalities: tuple[Modality, ...]
    expert_weights: dict[Modality, tuple[float, ...]]
    positions: int
    encode_s: float
    cache: Cache


@dataclass(frozen=True)
class Answer:
    """An answer and how it came about.

    :param text: the answer, without blanks around it.
    :param tokens: tokens generated (for choices: scored).
    :param finish_reason: ``stop`` (the model ended it), ``length`` or ``cancelled``.
    :param first_token_s: seconds from the request to the first token; 0 if there was none.
    :param total_s: seconds from the request to the end.
    :param choice_index: index of the chosen choice, -1 for free text.
    :param choice_probabilities: one a choice, summing to one.
    :param confidence: the choice's probability, or for free text the geometric mean of its
        tokens' probabilities at temperature 1 (0 if no token was generated).
    :param turns: earlier turns that the model was shown: as many of the newest as fit.
    """

    text: str
    tokens: int
    finish_reason: str
    first_token_s: float
    total_s: float
    choice_index: int = -1
    choice_probabilities: tuple[float, ...] = ()
    confidence: float = 0.0
    turns: int = 0


class Computes(Protocol):
    """What an answer needs of an engine."""

    config: ModelConfig
    text: Text
    device: torch.device

    def steps(self, work: Sequence[Work]) -> list[Tensor]:
        """Run tokens behind caches, see ``Engine.steps``."""


class AnswerStream(Iterator[str]):
    """An answer in the making: iterate for its text deltas.

    Or compute it together with others: as long as :meth:`due` returns work, have
    ``Engine.steps`` do it and :meth:`take` the logits.

    Attributes: ``tokens`` (generated so far), ``answer`` (set when it has ended).
    """

    def __init__(self, engine: Computes, prefix: Prefix, prompt: tuple[Sequence[int], int],
                 sampling: Sampling, cancel: threading.Event | None, draft: Draft) -> None:
        """Begin an answer; nothing is computed.

        :param prompt: ids behind the prefix, and how many earlier turns they hold.
        """
        self._engine = engine
        self._cancel = cancel
        self._started = time.perf_counter()
        self._pending, self._turns = prompt
        self._prefix = prefix
        room = engine.config.llm.max_positions - prefix.positions - len(self._pending)
        self._limit = min(sampling.max_tokens, room)
        self._out = Detokenizer(engine.text, engine.config.text.stop)
        self._draw = Draw(sampling, engine.device)
        self._cache: Cache | None = None
        self._draft, self._guess = draft, [0][:0]
        self._said: list[int] = []
        self._first_s = self._likelihood = 0.0
        self._rest, self._closed = '', False
        self.tokens = 0
        self.answer: Answer | None = None

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> str:
        while (work := self.due()) is not None:
            delta = self.take(self._engine.steps([work])[0])
            if delta:
                return delta
        if rest := self.rest():
            return rest
        raise StopIteration

    def due(self) -> Work | None:
        """Return what is to be computed for the next token; None: the answer has ended."""
        if self._closed or self.answer is not None:
            return None
        if self._cancel is not None and self._cancel.is_set():
            self._end('cancelled')
            return None
        if self._cache is None:
            held = self._prefix.cache
            self._cache = held.copy(held.length + len(self._pending) + self._limit)
        self._guess = self._draft.guess(self._said, self._limit - self.tokens - 1)
        return [*self._pending, *self._guess], self._cache, 1 + len(self._guess)

    def take(self, logits: Tensor) -> str:
        """Take float32 logits [count, vocab] of what was due; return the text that is new."""
        assert self._cache is not None
        guess, delta, right = self._guess, '', 0
        for guessed, (token, logp) in zip([*guess, -1], self._draw.each(logits)):
            self._first_s = self._first_s or time.perf_counter() - self._started
            delta += self._add(token, logp)
            if self.answer is not None or token != guessed:
                right += self.answer is not None and token == guessed
                break
            right += 1
        self._draft.judge(len(guess), right)
        self._cache.length -= len(guess) - min(right, len(guess))    # what was guessed wrongly
        self._pending = self._said[-1:]
        return delta + self.rest()

    def _add(self, token: int, logp: float) -> str:
        """Add a token, which may be the last one."""
        text = self._engine.text
        self._said.append(token)
        if token in text.stop_ids:
            self._end('stop')
            return ''
        self.tokens += 1
        self._likelihood += logp
        delta = self._out.add(token)
        if self._out.stopped:
            self._end('stop')
        elif self.tokens >= self._limit:
            self._end('length')
        return delta

    def _end(self, reason: str) -> None:
        self._rest = self._out.finish()
        if reason != 'cancelled':
            self._draft.keep(self._said)
        confidence = 0.0
        if self.tokens:
            confidence = float(torch.tensor(self._likelihood / self.tokens).exp())
        self.answer = Answer(self._out.emitted, self.tokens, reason, self._first_s,
                             time.perf_counter() - self._started, confidence=confidence,
                             turns=self._turns)

    def rest(self) -> str:
        """Return text that was held back and belongs to the answer, once it has ended; once."""
        rest, self._rest = self._rest, ''
        return rest

    def close(self) -> None:
        """End the answer here; ``answer`` stays None unless it was finished."""
        self._closed = True
