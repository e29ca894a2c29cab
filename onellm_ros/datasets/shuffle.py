"""Shuffling without a list: a permutation of any size, computed for the positions asked for."""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_MASK = (1 << 64) - 1


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit numbers (the finaliser of SplitMix64)."""
    with np.errstate(over='ignore'):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def key_of(*numbers: int) -> int:
    """Return one 64-bit key of several integers."""
    sequence = np.random.SeedSequence([number & _MASK for number in numbers])
    return int(sequence.generate_state(1, np.uint64)[0])


def shuffled(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return where the positions of a list of ``size`` things go when it is shuffled.

    A Feistel network over the next even number of bits, walked until it falls below ``size``: each
    position gets another place, with no memory but that of the positions.

    :param positions: int [n], 0 to size - 1. :param key: names the permutation.
    :returns: int64 [n].
    :raises ValueError: for a position that is not in the list.
    """
    values = np.asarray(positions, np.int64)
    if size < 1 or (values.size and not (0 <= values.min() and values.max() < size)):
        raise ValueError(f'positions: expected 0 to {size - 1}, found {values.min()} to '
                         f'{values.max()}' if values.size else f'size: found {size}')
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    out = values.astype(np.uint64)
    todo = np.ones(out.shape, bool)
    while todo.any():
        left, right = out[todo] >> half, out[todo] & low
        for number in keys:
            left, right = right, left ^ (_mixed(right ^ number) & low)
        out[todo] = (left << half) | right
        todo[todo] = out[todo] >= np.uint64(size)
    return out.astype(np.int64)
