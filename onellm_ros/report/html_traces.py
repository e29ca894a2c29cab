"""Small drawings of signals: motion as SVG, sound and voxels as arrays of colours.

Owns how many points and columns of a signal a small picture shows, however long the signal is.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import colormaps
import numpy as np

from onellm_ros.modality import Sample

AXES_COLOURS = ('#d1495b', '#2e8b57', '#2f6db5')         # x, y, z
WIDTH, HEIGHT = 240, 136                                 # of a drawing, pixels
LONGEST_S = 60.0                                         # of sound; older chunks are left out
_BINS = 72                                               # of a trace; each gives its extremes
_WAVE_ROWS, _WAVE_COLOUR = 48, (0.357, 0.373, 0.592)
_WINDOW = 512                                            # samples of a column of the spectrogram
_RANGE_DB = 75.0
_CELLS = 1024                                            # of a grid of values


def imu_svg(samples: Sequence[Sample]) -> str:
    """Return accelerometer above gyroscope as an SVG, each with the range that it spans.

    :param samples: [6] m/s^2 and rad/s each, ordered by stamp, one at least.
    """
    values = np.stack([np.asarray(s.data, dtype=np.float64)[:6] for s in samples])
    stamps = np.array([s.stamp_ns - samples[0].stamp_ns for s in samples], dtype=np.float64)
    place = stamps / max(float(stamps[-1]), 1.0) if len(stamps) > 1 else np.array([0.5])
    half = HEIGHT // 2
    parts = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {2 * WIDTH} {2 * HEIGHT}' "
             f"width='{WIDTH}' height='{HEIGHT}' fill='none' stroke-width='2' "
             "font-family='sans-serif' font-size='26'>"
             f"<path fill='#fff' d='M0 0h{2 * WIDTH}v{2 * HEIGHT}H0z'/>"
             f"<path stroke='#c9ced4' d='M0 {2 * half}h{2 * WIDTH}'/>"]
    for first, unit, least in ((0, 'm/s²', 4.0), (3, 'rad/s', 0.5)):
        block = values[:, first:first + 3]
        top = 0 if first == 0 else 2 * half
        finite = block[np.isfinite(block)]
        if not finite.size:
            parts.append(f"<text x='8' y='{top + 28}' fill='#5c6670'>no {unit}</text>")
            continue
        low, high = float(finite.min()), float(finite.max())
        room = max((least - (high - low)) / 2, 0.0) + 1e-9
        scale = (2 * half - 54) / (high - low + 2 * room)
        rows = top + 2 * half - 10 - (block - low + room) * scale
        for axis, colour in enumerate(AXES_COLOURS):
            parts.append(f"<path stroke='{colour}' d='{_line(place, rows[:, axis])}'/>")
        parts.append(f"<text x='8' y='{top + 28}' fill='#5c6670'>"
                     f'{low:.3g} … {high:.3g} {unit}</text>')
    return ''.join(parts) + '</svg>'


def _line(place: np.ndarray, rows: np.ndarray) -> str:
    """Return the path of one trace; of many points, the lowest and highest of each bin.

    :param place: [n] in 0..1, not falling. :param rows: [n] of the drawing; NaN breaks the line.
    """
    if len(rows) > 2 * _BINS:
        first = np.linspace(0, len(rows), _BINS, endpoint=False).astype(int)
        middle = place[np.minimum(first + len(rows) // (2 * _BINS), len(rows) - 1)]
        pairs = np.stack([np.fmin.reduceat(rows, first), np.fmax.reduceat(rows, first)], axis=1)
        pairs[1::2] = pairs[1::2, ::-1]                  # no jump between neighbours
        place, rows = np.repeat(middle, 2), pairs.ravel()
    good = np.isfinite(rows)
    x = np.round(place * (2 * WIDTH - 12) + 6).astype(int)
    y = np.round(np.where(good, rows, 0.0)).astype(int)
    out, pen_up, at = [], True, (0, 0)
    for ok, across, down in zip(good.tolist(), x.tolist(), y.tolist()):
        if not ok:
            pen_up = True
            continue
        if pen_up:
            out.append(f'M{across} {down}h1')            # a lone sample shows as a dot
            at, pen_up = (across + 1, down), False
            continue
        out.append(f'l{across - at[0]} {down - at[1]}')
        at = across, down
    return ''.join(out)


def heard(samples: Sequence[Sample]) -> tuple[np.ndarray, float]:
    """Return the newest minute of the chunks on one time axis: float32 [n] and its rate in Hz.

    Gaps are silent; chunks of another rate are brought to that of the newest.

    :raises ValueError: for a chunk without a rate.
    """
    for s in samples:
        if not s.rate_hz > 0:
            raise ValueError(f'audio chunk of {s.topic or "no topic"} with rate {s.rate_hz} Hz: '
                             'expected Sample.rate_hz > 0')
    rate = samples[-1].rate_hz
    ends = [s.stamp_ns * 1e-9 + len(s.data) / s.rate_hz - samples[0].stamp_ns * 1e-9
            for s in samples]
    end = max(ends)
    starts = [(s.stamp_ns - samples[0].stamp_ns) * 1e-9 for s in samples]
    begin = max(0.0, end - LONGEST_S)
    wave = np.zeros(max(1, round((end - begin) * rate)), np.float32)
    for s, start in zip(samples, starts):
        piece = np.nan_to_num(np.asarray(s.data, dtype=np.float32).ravel())
        if s.rate_hz != rate and len(piece):
            n = round(len(piece) * rate / s.rate_hz)
            piece = np.interp(np.arange(n) * s.rate_hz / rate, np.arange(len(piece)), piece)
        at = round((start - begin) * rate)
        piece, at = piece[max(0, -at):], max(0, at)
        wave[at:at + len(piece)] = piece[:max(0, len(wave) - at)]
    return wave, rate


def sound_picture(samples: Sequence[Sample]) -> np.ndarray:
    """Return the waveform above the spectrogram, [HEIGHT, WIDTH, 3] in 0..1.

    The waveform fills its height whatever its level; the spectrogram reaches from 0 Hz (below) to
    half the rate and 75 dB below its loudest.

    :raises ValueError: for a chunk without a rate.
    """
    wave, _ = heard(samples)
    picture = np.ones((HEIGHT, WIDTH, 3))
    cut = np.minimum(np.linspace(0, len(wave), WIDTH, endpoint=False).astype(int), len(wave) - 1)
    top = max(float(np.abs(wave).max()), 0.02)
    low, high = np.minimum.reduceat(wave, cut) / top, np.maximum.reduceat(wave, cut) / top
    level = np.linspace(1.05, -1.05, _WAVE_ROWS)[:, None]
    step = 1.1 / _WAVE_ROWS
    picture[:_WAVE_ROWS][(level <= high + step) & (level >= low - step)] = _WAVE_COLOUR
    picture[_WAVE_ROWS:] = _spectrogram(wave, HEIGHT - _WAVE_ROWS)
    return picture


def _spectrogram(wave: np.ndarray, rows: int) -> np.ndarray:
    """Return [rows, WIDTH, 3]: as many columns as are shown, whatever the length."""
    padded = np.pad(wave, (0, max(0, _WINDOW - len(wave))))
    starts = np.linspace(0, len(padded) - _WINDOW, WIDTH).astype(int)
    pieces = padded[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW)
    power = 20 * np.log10(np.abs(np.fft.rfft(pieces, axis=1)) + 1e-7)         # [WIDTH, bins]
    first = np.linspace(0, power.shape[1], rows, endpoint=False).astype(int)
    power = np.maximum.reduceat(power, first, axis=1)
    loudest = max(float(power.max()), -60.0)
    share = np.clip((power - loudest) / _RANGE_DB + 1.0, 0.0, 1.0)
    return colormaps['magma'](share.T[::-1])[..., :3]


def value_grid(values: np.ndarray) -> np.ndarray:
    """Return values as rows of colours [R, C, 3]: blue below 0, red above, grey where no number.

    Of more than ``_CELLS`` values each cell is the mean of neighbours.

    :param values: of any shape; what does not fill the last row is left out.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not flat.size:
        return np.full((1, 1, 3), 0.6)
    if flat.size > _CELLS:
        each = -(-flat.size // _CELLS)
        flat = flat[:flat.size // each * each].reshape(-1, each).mean(axis=1)
    rows = 8 if flat.size >= 64 else 1
    grid = flat[:flat.size // rows * rows].reshape(rows, -1)
    good = np.isfinite(grid)
    size = (float(np.percentile(np.abs(grid[good]), 99)) if good.any() else 0.0) or 1.0
    colours = colormaps['RdBu_r'](np.where(good, grid, 0.0) / size / 2 + 0.5)[..., :3]
    colours[~good] = 0.6
    return colours
