"""Whether two models differ by more than the noise: paired bootstrap over what was asked of both.

Items that show the same evidence (the questions about one picture) are not independent of each
other; they are drawn together, as one unit. The interval is the percentile interval, and p is
twice the smaller share of resamples on one side of zero, so that the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05            # of "different"; the interval holds 1 - LEVEL
LEAST_UNITS = 6         # that differ: of five alike signs even the exact test gives p = 0.0625
_CHUNK = 4_000_000      # draws at once


@dataclass(frozen=True)
class Interval:
    """A difference B - A and its noise.

    :param value: the difference. :param low: end of the 95 % interval; so is ``high``.
    :param p: two-sided. :param units: of evidence; ``differing``: those on which A and B differ.
    :param resamples: drawn.
    """

    value: float
    low: float
    high: float
    p: float
    units: int
    differing: int
    resamples: int

    @property
    def differs(self) -> bool:
        """Whether it is more than noise, taken alone."""
        return self.p < LEVEL and self.differing >= LEAST_UNITS


def units_of(keys: Sequence[str]) -> np.ndarray:
    """Return the number of the unit of each item: int [n], from 0 in order of appearance.

    :param keys: what an item's evidence is called; an empty one is a unit of its own.
    """
    known: dict[str, int] = {}
    return np.array([known.setdefault(key or f'\0{place}', len(known))
                     for place, key in enumerate(keys)], dtype=np.int64)


def _interval(value: float, drawn: np.ndarray, units: int, differing: int) -> Interval:
    """Return the interval of a difference from those of resamples [R]."""
    total = len(drawn)
    # what is equal but for rounding is equal
    noise = 1e-9 * max(abs(value), float(np.abs(drawn).max(initial=0.0)), 1e-300)
    below, above = int((drawn <= noise).sum()), int((drawn >= -noise).sum())
    p = min(1.0, 2.0 * (min(below, above) + 1) / (total + 1))
    low, high = np.quantile(drawn, (LEVEL / 2, 1 - LEVEL / 2))
    return Interval(value, float(low), float(high), p, units, differing, total)


def paired_means(a: np.ndarray, b: np.ndarray, units: np.ndarray, resamples: int,
                 seed: int) -> Interval:
    """Compare two means over the same items.

    :param a: [n] scores of model A; so are those of ``b``. :param units: [n] as of
        :func:`units_of`.
    :raises ValueError: for no items, or scores of different numbers.
    """
    if not len(a) or not len(a) == len(b) == len(units):
        raise ValueError(f'found {len(a)}, {len(b)} scores of {len(units)} items, expected the '
                         'same number, and one at least')
    gain = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    count = int(units.max()) + 1
    sums = np.bincount(units, gain, count)
    sizes = np.bincount(units, minlength=count)
    keep = sizes > 0                                # of a group: only the units that it has
    differing = len(np.unique(units[gain != 0.0]))
    sums, sizes = sums[keep], sizes[keep]
    drawn = _drawn_means(sums, sizes, resamples, np.random.default_rng(seed))
    return _interval(float(gain.mean()), drawn, len(sums), differing)


def _drawn_means(sums: np.ndarray, sizes: np.ndarray, resamples: int,
                 rng: np.random.Generator) -> np.ndarray:
    """Return means of resampled units [resamples].

    Units alike are counted, not drawn one by one: their numbers are multinomial.
    """
    count = len(sums)
    kinds, many = np.unique(np.stack([sums, sizes.astype(np.float64)]), axis=1,
                            return_counts=True)
    out = np.empty(resamples)
    few = 4 * len(many) <= count
    step = max(1, _CHUNK // (len(many) if few else count))
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        if few:
            drawn = rng.multinomial(count, many / count, size)
            top, bottom = drawn @ kinds[0], drawn @ kinds[1]
        else:
            places = rng.integers(count, size=(size, count))
            top, bottom = sums[places].sum(axis=1), sizes[places].sum(axis=1)
        out[first:first + size] = top / bottom
    return out


def paired_scores(score: Callable[[Sequence[int], Sequence[int]], tuple[float, float]],
                  units: np.ndarray, differing: int, resamples: int, seed: int) -> Interval:
    """Compare two scores that are no means, by scoring resampled items anew.

    :param score: (places of items, how often each of these was drawn before) -> scores of A, B.
    :param units: [n] as of :func:`units_of`, every number up to the largest taken.
    :param differing: units on which A and B differ.
    """
    members = np.split(np.argsort(units, kind='stable'),
                       np.cumsum(np.bincount(units))[:-1])
    everything = np.arange(len(units)).tolist()
    first, second = score(everything, [0] * len(units))
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for number in range(resamples):
        if not differing:
            drawn[number] = 0.0
            continue
        places: list[int] = []
        copies: list[int] = []
        seen: dict[int, int] = {}
        for unit in np.sort(rng.integers(len(members), size=len(members))).tolist():
            copy = seen[unit] = seen.get(unit, -1) + 1
            places += members[unit].tolist()
            copies += [copy] * len(members[unit])
        one, other = score(places, copies)
        drawn[number] = other - one
    return _interval(second - first, drawn, len(members), differing)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p of McNemar's test.

    :param only_a: items that A alone had right; so for ``only_b``.
    """
    from scipy.stats import binomtest
    total = only_a + only_b
    return float(binomtest(only_a, total, 0.5).pvalue) if total else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Return p values as Holm corrects them for being several, in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out, highest = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        out[place] = highest
    return out
