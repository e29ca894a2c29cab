"""Grey-tone textures of the simulated world: floors, wood grain, fabric.

Owns their drawing (NumPy, fixed seeds, so the same on every run) and their packing into one flat
pyramid that the compiled shader reads. A texture is square, wraps around and covers ``SPAN_M``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SIZE = 512
LEVELS = 7                       # 512 .. 8 texels
SPAN_M = 2.0
NAMES = ('wood', 'tile', 'carpet', 'concrete', 'grain', 'fabric')


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return wrapping noise in 0..1, [SIZE, SIZE], of rows x columns random values."""
    grid = rng.random((rows, columns))
    y = np.arange(SIZE) * rows / SIZE
    x = np.arange(SIZE) * columns / SIZE
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    y1, x1 = (y0 + 1) % rows, (x0 + 1) % columns
    low = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x1] * fx
    high = grid[y1][:, x0] * (1 - fx) + grid[y1][:, x1] * fx
    return low * (1 - fy) + high * fy


def _grain(rng: np.random.Generator) -> np.ndarray:
    streaks = 0.6 * _smooth_noise(rng, 128, 6) + 0.4 * _smooth_noise(rng, 256, 16)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (6 * _smooth_noise(rng, 16, 4)))
    return 0.62 + 0.30 * streaks + 0.08 * rings


def _wood(rng: np.random.Generator) -> np.ndarray:
    """Planks 12.5 cm wide, 0.5 to 1 m long, with dark joints."""
    tone = 0.75 + 0.3 * (_grain(rng) - 0.8)
    width = SIZE // 16
    for row in range(16):
        rows = slice(row * width, (row + 1) * width)
        cuts = np.sort((rng.integers(0, SIZE) + np.array([0, 150, 330])) % SIZE)
        for start, end in zip(cuts, [*cuts[1:], cuts[0] + SIZE], strict=True):
            columns = np.arange(start, end) % SIZE
            tone[rows, columns] *= 0.80 + 0.25 * rng.random()
            tone[rows, columns[:2]] *= 0.55
        tone[row * width:row * width + 2] *= 0.55
    return tone


def _tile(rng: np.random.Generator) -> np.ndarray:
    """Tiles of 40 cm with light joints."""
    tone = 0.72 + 0.08 * _smooth_noise(rng, 64, 64)
    edges = np.linspace(0, SIZE, 6).astype(int)
    for y0, y1 in zip(edges[:-1], edges[1:], strict=True):
        for x0, x1 in zip(edges[:-1], edges[1:], strict=True):
            tone[y0:y1, x0:x1] *= 0.88 + 0.20 * rng.random()
            tone[y0:y0 + 4, x0:x1] = 0.42
            tone[y0:y1, x0:x0 + 4] = 0.42
    return tone


def _carpet(rng: np.random.Generator) -> np.ndarray:
    tone = 0.55 + 0.35 * rng.random((SIZE, SIZE)) + 0.15 * _smooth_noise(rng, 128, 128)
    return tone - 0.08 * _smooth_noise(rng, 8, 8)


def _concrete(rng: np.random.Generator) -> np.ndarray:
    tone = np.zeros((SIZE, SIZE))
    for n in (4, 8, 16, 32, 128):
        tone += _smooth_noise(rng, n, n) / n ** 0.4
    tone = 0.62 + 0.30 * (tone - tone.min()) / np.ptp(tone)
    return tone - 0.25 * (_smooth_noise(rng, 90, 90) > 0.93)


def _fabric(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    weave = 0.5 + 0.25 * np.sin(x * np.pi / 2) + 0.25 * np.sin(y * np.pi / 2)
    return 0.78 + 0.12 * weave + 0.10 * _smooth_noise(rng, 128, 128)


@lru_cache(maxsize=1)
def pyramid() -> np.ndarray:
    """Return all textures, uint8 [len(NAMES), texels], level 0 (SIZE x SIZE) first.

    Level k starts at the sum of the sizes of the levels before it. 255 is a tone of 1.1.
    """
    rows = []
    for index, draw in enumerate((_wood, _tile, _carpet, _concrete, _grain, _fabric)):
        tone = draw(np.random.default_rng([20240611, index]))
        levels = []
        for _ in range(LEVELS):
            levels.append(np.clip(tone / 1.1 * 255.0 + 0.5, 0, 255).astype(np.uint8).ravel())
            tone = (tone[::2, ::2] + tone[1::2, ::2] + tone[::2, 1::2] + tone[1::2, 1::2]) / 4
        rows.append(np.concatenate(levels))
    packed = np.ascontiguousarray(np.stack(rows))
    packed.setflags(write=False)
    return packed
