"""The endless microphone of the live simulator.

Owns :class:`LiveSound`: sounds and silences of 3 to 8 s each over one room noise, deterministic by
seed and the same whatever the boundaries of the calls.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from onellm_ros.simulation.sounds import (
    LOUDEST_DB,
    QUIETEST_DB,
    RATE_HZ,
    background,
    edges,
    event,
    place,
)
from onellm_ros.simulation.truth import SOUNDS


class LiveSound:
    """What a microphone hears without end: a sound or silence for 3 to 8 s each, over one noise.

    :param seed: everything follows from it.
    :param rate_hz: samples a second.
    """

    def __init__(self, seed: int, rate_hz: float = RATE_HZ):
        self._seed, self._rate = int(seed), float(rate_hz)
        rng = np.random.default_rng([self._seed, 11])
        self._noise = background(round(16 * self._rate), rng, self._rate)
        self._noise *= np.float32(10.0 ** (rng.uniform(-60.0, -50.0) / 20.0))
        self._parts: list[tuple[int, int, str]] = []
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    @property
    def rate_hz(self) -> float:
        """Samples a second."""
        return self._rate

    def between(self, t0_s: float, t1_s: float) -> np.ndarray:
        """Return the samples k with t0_s <= k / rate_hz < t1_s, float32 [n].

        :raises ValueError: for a time below 0 or an empty span.
        """
        first, last = self._span(t0_s, t1_s)
        out = self._noise[np.arange(first, last) % len(self._noise)]
        for number in self._touched(first, last):
            a = self._parts[number][0]
            place(out, self._event(number), a - first)
        return np.clip(out, -1.0, 1.0)

    def kind(self, t_s: float) -> str:
        """Return the one of ``truth.SOUNDS`` that is on at ``t_s``."""
        first = int(np.ceil(t_s * self._rate - 1e-6))
        return self.kind_between(first / self._rate, (first + 1) / self._rate)

    def kind_between(self, t0_s: float, t1_s: float) -> str:
        """Return the kind that fills most of the span; silence counts half."""
        first, last = self._span(t0_s, t1_s)
        score: dict[str, float] = {}
        for number in self._touched(first, last):
            a, b, kind = self._parts[number]
            weight = 0.5 if kind == 'silence' else 1.0
            score[kind] = score.get(kind, 0.0) + weight * (min(b, last) - max(a, first))
        return max(score, key=lambda kind: score[kind])

    def _span(self, t0_s: float, t1_s: float) -> tuple[int, int]:
        first, last = (int(np.ceil(t * self._rate - 1e-6)) for t in (t0_s, t1_s))
        if not 0 <= first < last:
            raise ValueError(f'span {t0_s} .. {t1_s} s: expected 0 <= start < end')
        return first, last

    def _touched(self, first: int, last: int) -> range:
        while not self._parts or self._parts[-1][1] < last:
            number = len(self._parts)
            rng = np.random.default_rng([self._seed, 12, number])
            start, before = (self._parts[-1][1], self._parts[-1][2]) if self._parts else (0, '')
            others = [k for k in SOUNDS if k != before]
            share = np.array([2.5 if k == 'silence' else 1.0 for k in others])
            kind = str(rng.choice(others, p=share / share.sum()))
            self._parts.append((start, start + round(rng.uniform(3.0, 8.0) * self._rate), kind))
        ends = [part[1] for part in self._parts]
        begin = int(np.searchsorted(ends, first, side='right'))
        end = int(np.searchsorted([part[0] for part in self._parts], last, side='left'))
        return range(begin, end)

    def _event(self, number: int) -> np.ndarray:
        if number not in self._kept:
            a, b, kind = self._parts[number]
            rng = np.random.default_rng([self._seed, 13, number])
            sound = event(kind, b - a, rng, self._rate) * edges(b - a, self._rate, 0.02, 0.05)
            level = 10.0 ** (rng.uniform(QUIETEST_DB, LOUDEST_DB) / 20.0)
            self._kept[number] = (level * sound).astype(np.float32)
            if len(self._kept) > 6:
                self._kept.popitem(last=False)
        return self._kept[number]
