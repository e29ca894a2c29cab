"""Tokens through a small language model on one CPU core: the loops, compiled by numba.

At this size PyTorch's operations cost more by being called than by what they compute. The weights
stay where the model has them: a table holds their addresses, and whoever calls keeps the tensors
alive and in place. All values are float32; sums are taken in another order than PyTorch takes
them, which shows in the last digits.
"""

from __future__ import annotations

import math

from numba import carray, njit, types
from numba.extending import intrinsic
import numpy as np

# No nnan / ninf: what is not finite stays so, as on the plain path. No exceptions inside.
KERNEL = {'cache': True, 'nogil': True, 'error_model': 'numpy',
          'fastmath': {'contract', 'reassoc', 'nsz', 'arcp'}}
HELPER = {**KERNEL, 'forceinline': True}

# Columns of the table of a layer: addresses (0: not there), then whether positions are turned and
# how many positions it sees (0: all).
COLUMNS = ('wq', 'wk', 'wv', 'wo', 'w1', 'w3', 'w2', 'bq', 'bk', 'bv', 'bo', 'b1', 'b3', 'b2',
           'attention_norm', 'ffn_norm', 'q_norm', 'k_norm', 'turned', 'window')
(WQ, WK, WV, WO, W1, W3, W2, BQ, BK, BV, BO, B1, B3, B2, NORM_A, NORM_F, NORM_Q, NORM_K, TURNED,
 WINDOW) = range(len(COLUMNS))

_F = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_LEAST, _MOST = _F(-87.0), _F(88.0)         # exp of less or more is no normal number


@intrinsic
def _pointer(_, address):
    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))
    return types.voidptr(address), code


@njit(**HELPER)
def _at(address, rows, columns):
    return carray(_pointer(address), (rows, columns), np.float32)


@njit(**HELPER)
def _stored(address, layer, shared, capacity, size):
    """Return the keys or values [shared, capacity, size] of a layer of one sequence."""
    return carray(_pointer(address + layer * shared * capacity * size * 4),
                  (shared, capacity, size), np.float32)


@njit(**HELPER)
def _put(out, i, a, b, c, d, add):
    if add:
        out[i] += a
        out[i + 1] += b
        out[i + 2] += c
        out[i + 3] += d
    else:
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d


@njit(**HELPER)
def _one(w, i, x, out, columns, add):
    """Eight rows of weights for one position."""
    a, b, c, d = _F(0), _F(0), _F(0), _F(0)
    e, f, g, h = _F(0), _F(0), _F(0), _F(0)
    for j in range(columns):
        s = x[j]
        a += w[i, j] * s
        b += w[i + 1, j] * s
        c += w[i + 2, j] * s
        d += w[i + 3, j] * s
        e += w[i + 4, j] * s
        f += w[i + 5, j] * s
        g += w[i + 6, j] * s
        h += w[i + 7, j] * s
    _put(out, i, a, b, c, d, add)
    _put(out, i + 4, e, f, g, h, add)


@njit(**HELPER)
def _two(w, i, y, z, out, more, columns, add):
    """Four rows of weights for two positions."""
    a, b, c, d = _F(0), _F(0), _F(0), _F(0)
    e, f, g, h = _F(0), _F(0), _F(0), _F(0)
    for j in range(columns):
        s, t = y[j], z[j]
        a += w[i, j] * s
        b += w[i + 1, j] * s
        c += w[i + 2, j] * s
        d += w[i + 3, j] * s
        e += w[i, j] * t
        f += w[i + 1, j] * t
        g += w[i + 2, j] * t
        h += w[i + 3, j] * t
    _put(out, i, a, b, c, d, add)
    _put(more, i, e, f, g, h, add)


@njit(**KERNEL)
def linear(weight, bias, x, out, count, rows, columns, add):
    """out[n, :rows] = weight [rows, columns] @ x[n] + bias for n < count, or that added to it.

    Positions by twos, so that each weight is loaded once for them. Both loops have eight sums: the
    compiler lays them out alike, so that what a position gives does not hang on how many are
    computed with it (to the last bit where it was tried; elsewhere the last digits may differ).
    """
    w = _at(weight, rows, columns)
    i = 0
    while i + 8 <= rows:
        n = 0
        while n + 2 <= count:
            _two(w, i, x[n], x[n + 1], out[n], out[n + 1], columns, add)
            _two(w, i + 4, x[n], x[n + 1], out[n], out[n + 1], columns, add)
            n += 2
        if n < count:
            _one(w, i, x[n], out[n], columns, add)
        i += 8
    while i < rows:
        for n in range(count):
            a = _F(0)
            for j in range(columns):
                a += w[i, j] * x[n, j]
            out[n, i] = out[n, i] + a if add else a
        i += 1
    if bias:
        more = _at(bias, 1, rows)
        for n in range(count):
            for i in range(rows):
                out[n, i] += more[0, i]


@njit(**HELPER)
def _norm(weight, x, out, start, size, eps):
    """Root-mean-square normalisation of x[start:start + size]."""
    w = _at(weight, 1, size)
    total = _F(0)
    for i in range(start, start + size):
        total += x[i] * x[i]
    scale = _F(1) / _F(math.sqrt(total / _F(size) + _F(eps)))
    for i in range(size):
        out[start + i] = x[start + i] * scale * w[0, i]


@njit(**KERNEL)
def exponentials(x, first, last, less, bits):
    """Replace x[first:last] by exp(x - less); return their sum.

    Written out (Cephes' polynomial, 2 units in the last place) so that it runs on vectors.

    :param bits: int32 of at least ``last`` values, to work in.
    """
    powers = bits.view(np.float32)
    for i in range(first, last):
        t = x[i] - less
        t = _LEAST if t < _LEAST else (_MOST if t > _MOST else t)
        n = _F(math.floor(t * _LOG2E + _F(0.5)))
        r = (t - n * _LN2_HIGH) - n * _LN2_LOW
        p = _F(1.9875691500e-4)
        p = p * r + _F(1.3981999507e-3)
        p = p * r + _F(8.3334519073e-3)
        p = p * r + _F(4.1665795894e-2)
        p = p * r + _F(1.6666665459e-1)
        p = p * r + _F(5.0000001201e-1)
        x[i] = (p * r * r + r) + _F(1)
        bits[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    total = _F(0)
    for i in range(first, last):
        x[i] *= powers[i]
        total += x[i]
    return total


@njit(**HELPER)
def _turn(x, heads, size, cos, sin):
    half = size // 2
    for h in range(heads):
        start = h * size
        for i in range(half):
            a, b = x[start + i], x[start + half + i]
            x[start + i] = a * cos[i] - b * sin[i]
            x[start + half + i] = b * cos[i] + a * sin[i]


@njit(**KERNEL)
def _attend(q, keys, values, out, heads, shared, size, first, end, scores, bits):
    """Mix values [shared, S, size] of the positions from ``first`` to ``end`` for every head."""
    scale = _F(1) / _F(math.sqrt(size))
    group = heads // shared
    for n in range(heads):
        k, v = keys[n // group], values[n // group]
        x, o = q[n * size:(n + 1) * size], out[n * size:(n + 1) * size]
        peak = _F(-np.inf)
        j = first
        while j + 4 <= end:         # four positions together, as in linear
            a, b, c, d = _F(0), _F(0), _F(0), _F(0)
            for i in range(size):
                a += x[i] * k[j, i]
                b += x[i] * k[j + 1, i]
                c += x[i] * k[j + 2, i]
                d += x[i] * k[j + 3, i]
            scores[j], scores[j + 1] = a * scale, b * scale
            scores[j + 2], scores[j + 3] = c * scale, d * scale
            j += 4
        while j < end:
            a = _F(0)
            for i in range(size):
                a += x[i] * k[j, i]
            scores[j] = a * scale
            j += 1
        for j in range(first, end):
            peak = scores[j] if scores[j] > peak else peak
        total = exponentials(scores, first, end, peak, bits)
        for i in range(size):
            o[i] = _F(0)
        j = first
        while j + 4 <= end:
            a, b, c, d = scores[j], scores[j + 1], scores[j + 2], scores[j + 3]
            for i in range(size):
                o[i] += a * v[j, i] + b * v[j + 1, i] + c * v[j + 2, i] + d * v[j + 3, i]
            j += 4
        while j < end:
            for i in range(size):
                o[i] += scores[j] * v[j, i]
            j += 1
        for i in range(size):
            o[i] /= total


@njit(**KERNEL)
def forward(table, top, sizes, eps, words, places, turns, work, scores, bits, wanted, logits):
    """Run some tokens of one sequence or several, each behind what its sequence has stored.

    Their keys and values are stored, too. Tokens of one sequence come in their order.

    :param table: int64 [layers, columns], see ``COLUMNS``. :param top: addresses of embeddings,
        last norm and output. :param sizes: width, heads, key heads, head size, hidden size.
    :param eps: of the norms. :param words: int64 [N] ids.
    :param places: int64 [N, 4]: addresses of the keys and of the values of each token's sequence
        ([layers, key heads, capacity, head size] float32), their capacity, and its position.
    :param turns: cosines and sines [2, positions, head size / 2].
    :param work: float32 [5, N or more, n] to work in, n of the largest of width, all heads and
        hidden size. :param scores: float32 and ``bits`` int32 of that or the positions.
    :param wanted: int64 [W], which of the tokens are to have logits, in their order.
    :param logits: [W, as many as it has], filled.
    """
    width, heads, shared, size, hidden = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    x, h, q, k, v = work[0], work[1], work[2], work[3], work[4]
    count = words.shape[0]
    for r in range(count):
        word = _at(top[0] + words[r] * width * 4, 1, width)
        for i in range(width):
            x[r, i] = word[0, i]
    for n in range(table.shape[0]):
        row = table[n]
        for r in range(count):
            _norm(row[NORM_A], x[r], h[r], 0, width, eps)
        linear(row[WQ], row[BQ], h, q, count, heads * size, width, False)
        linear(row[WK], row[BK], h, k, count, shared * size, width, False)
        linear(row[WV], row[BV], h, v, count, shared * size, width, False)
        for r in range(count):
            at = places[r, 3]
            if row[NORM_Q]:
                for i in range(heads):
                    _norm(row[NORM_Q], q[r], q[r], i * size, size, eps)
                for i in range(shared):
                    _norm(row[NORM_K], k[r], k[r], i * size, size, eps)
            if row[TURNED]:
                _turn(q[r], heads, size, turns[0, at], turns[1, at])
                _turn(k[r], shared, size, turns[0, at], turns[1, at])
            keys = _stored(places[r, 0], n, shared, places[r, 2], size)
            values = _stored(places[r, 1], n, shared, places[r, 2], size)
            for i in range(shared):
                for j in range(size):
                    keys[i, at, j] = k[r, i * size + j]
                    values[i, at, j] = v[r, i * size + j]
            end = at + 1
            first = max(0, end - row[WINDOW]) if row[WINDOW] else 0
            _attend(q[r], keys, values, h[r], heads, shared, size, first, end, scores, bits)
        linear(row[WO], row[BO], h, x, count, width, heads * size, True)
        for r in range(count):
            _norm(row[NORM_F], x[r], h[r], 0, width, eps)
        linear(row[W1], row[B1], h, q, count, hidden, width, False)
        linear(row[W3], row[B3], h, k, count, hidden, width, False)
        for r in range(count):
            for i in range(hidden):
                v[r, i] = -q[r, i]
            exponentials(v[r], 0, hidden, _F(0), bits)
            for i in range(hidden):
                q[r, i] = q[r, i] / (_F(1) + v[r, i]) * k[r, i]
        linear(row[W2], row[B2], q, x, count, width, hidden, True)
    for r in range(wanted.shape[0]):
        _norm(top[1], x[wanted[r]], h[r], 0, width, eps)
    linear(top[2], 0, h, logits, wanted.shape[0], logits.shape[1], width, False)
