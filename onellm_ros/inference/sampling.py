"""How the next token is drawn from logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from onellm_ros.config import MAX_TOKENS
from onellm_ros.inference.locate import EngineError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    :param max_tokens: at most so many.
    :param temperature: 0 takes the most likely token.
    :param top_p: smallest set of tokens with this much probability that is drawn from.
    :param seed: makes drawing repeatable; None for another draw each time.
    """

    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def check(self) -> None:
        """Refuse values that mean nothing.

        :raises EngineError: naming the value.
        """
        if self.max_tokens < 1:
            raise EngineError(f'max_tokens: expected at least 1, found {self.max_tokens}')
        if not 0 <= self.temperature < float('inf'):
            raise EngineError(f'temperature: expected 0 or more, found {self.temperature}')
        if not 0 < self.top_p <= 1:
            raise EngineError(f'top_p: expected above 0 and at most 1, found {self.top_p}')


class Draw:
    """Chooses the next token from logits."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @torch.inference_mode()
    def __call__(self, logits: Tensor) -> tuple[int, float]:
        """Return a token and its log probability at temperature 1, from logits [vocab]."""
        logp = torch.log_softmax(logits, -1)
        if self._generator is None:
            value, index = logp.max(-1)
            return int(index), float(value)
        weights = torch.softmax(logits / self._sampling.temperature, -1)
        if self._sampling.top_p < 1:
            ordered, order = weights.sort(descending=True)
            # A token stays if those before it do not reach top_p; the first always does.
            outside = ordered.cumsum(-1) - ordered >= self._sampling.top_p
            weights = weights.scatter(0, order[outside], 0.0)
        token = int(torch.multinomial(weights, 1, generator=self._generator))
        return token, float(logp[token])

    def each(self, logits: Tensor) -> Iterator[tuple[int, float]]:
        """Yield what :meth:`__call__` returns for each row of logits [n, vocab].

        Drawn with chance, a row is only drawn from when it is asked for.
        """
        if self._generator is not None or len(logits) == 1:
            return map(self, logits)
        with torch.inference_mode():
            values, tokens = torch.log_softmax(logits, -1).max(-1)
        return zip(tokens.tolist(), values.tolist(), strict=True)
