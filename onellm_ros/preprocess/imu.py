"""IMU samples of any rate, order and quality to a uniform series.

Rows are sorted by stamp, rows with NaN and repeated stamps are dropped. An IMU faster than the
grid is averaged per grid step first. The series is interpolated linearly on a grid that ends at
the window's end. Where neighbouring samples are more than 0.25 s apart nothing was measured:
zeros. If the data begin after the grid does, they are moved to its front and zeros follow them
(the released model was trained with data first, then zeros).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onellm_ros.preprocess.errors import NoMeasurementError, PreprocessError, shape_text

MAX_GAP_S = 0.25
STANDARD_GRAVITY = 9.80665
_SCALE = (0.5, 0.5, 0.5, 2.0, 2.0, 2.0)     # of a mobile base: about one for both sensors


@dataclass(frozen=True, eq=False)
class ImuSeries:
    """A uniform IMU series and what happened on the way to it.

    :param values: float32 [samples, 6]: m/s^2, rad/s; zeros where nothing was measured.
    :param measured: grid points that hold a measurement.
    :param invalid: rows dropped for NaN or infinity; :param repeated: rows with a stamp seen.
    """

    values: np.ndarray
    measured: int
    invalid: int
    repeated: int

    @property
    def note(self) -> str:
        """Say in words what was not perfect; empty if all was well."""
        parts = []
        if self.invalid:
            parts.append(f'{self.invalid} rows with NaN dropped')
        if self.repeated:
            parts.append(f'{self.repeated} repeated stamps dropped')
        if self.measured < len(self.values):
            parts.append(f'{len(self.values) - self.measured} of {len(self.values)} steps '
                         'without data')
        return ', '.join(parts)


def _clean(stamps_ns: Any, values: Any, end_ns: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return seconds before ``end_ns`` (ascending), their rows, dropped rows and repeats."""
    rows = np.asarray(values, dtype=np.float64)
    stamps = np.asarray(stamps_ns)
    if rows.ndim != 2 or rows.shape[1] != 6 or stamps.shape != (len(rows),):
        raise PreprocessError(
            f'imu: found values {shape_text(rows.shape)} with stamps {shape_text(stamps.shape)}, '
            'expected [n, 6] (accelerometer xyz, gyroscope xyz) with [n] stamps')
    if len(rows) and stamps.dtype.kind not in 'iu':
        raise PreprocessError(
            f'imu: found stamps of type {stamps.dtype}, expected integer nanoseconds')
    finite = np.isfinite(rows).all(axis=1)
    seconds = (stamps.astype(np.int64) - np.int64(end_ns))[finite] * 1e-9
    unique, index = np.unique(seconds, return_index=True)       # the first of equal stamps stays
    invalid = int(len(rows) - finite.sum())
    return unique, rows[finite][index], invalid, int(finite.sum() - len(unique))


def _average(seconds: np.ndarray, rows: np.ndarray, period: float
             ) -> tuple[np.ndarray, np.ndarray]:
    """Average the rows of each grid step, for an IMU clearly faster than the grid."""
    cell = np.round(seconds / period).astype(np.int64)
    cells, inverse, counts = np.unique(cell, return_inverse=True, return_counts=True)
    weights = counts.astype(np.float64)
    mean = np.stack([np.bincount(inverse, column, len(cells)) for column in rows.T], axis=1)
    return np.bincount(inverse, seconds, len(cells)) / weights, mean / weights[:, None]


def resample_imu(stamps_ns: Any, values: Any, end_ns: int, rate_hz: float, samples: int
                 ) -> ImuSeries:
    """Resample IMU rows on the grid ``end_ns - (samples - 1 - i) / rate_hz``.

    :param stamps_ns: integer nanoseconds [n], in any order.
    :param values: [n, 6] accelerometer xyz (m/s^2), gyroscope xyz (rad/s).
    :raises NoMeasurementError: if no grid point is covered by measurements.
    :raises PreprocessError: for other shapes or types.
    """
    period = 1.0 / rate_hz
    seconds, rows, invalid, repeated = _clean(stamps_ns, values, end_ns)
    near = (seconds > -samples * period - 2 * MAX_GAP_S) & (seconds < 2 * MAX_GAP_S)
    seconds, rows = seconds[near], rows[near]
    if len(seconds) == 0:
        raise NoMeasurementError(
            f'imu: none of {len(near) + invalid + repeated} samples is finite and within the '
            f'{samples * period:g} s before the end of the window')
    spacing = float(np.median(np.diff(seconds))) if len(seconds) > 1 else period
    if spacing < 0.7 * period:
        seconds, rows = _average(seconds, rows, period)
    grid = np.arange(1 - samples, 1) * period
    after = np.searchsorted(seconds, grid)
    hold = min(MAX_GAP_S, 1.5 * max(spacing, period))      # how far an end is held beyond the data
    padded = np.concatenate([[seconds[0] - hold], seconds, [seconds[-1] + hold]])
    # Between two samples that are close together, or on a sample, or within the hold at the ends.
    before, behind = grid - padded[after], padded[after + 1] - grid
    covered = (before + behind <= MAX_GAP_S + 1e-9) | (np.minimum(before, behind) < 0.01 * period)
    covered &= (grid >= padded[0]) & (grid <= padded[-1])
    out = np.stack([np.interp(grid, seconds, column) for column in rows.T], axis=1)
    out[~covered] = 0.0
    measured = int(covered.sum())
    if measured == 0:
        raise NoMeasurementError(
            f'imu: found samples {spacing:.3g} s apart, expected at most {MAX_GAP_S} s; '
            'the stream is too slow or has stopped')
    first = int(np.argmax(covered))
    out = np.concatenate([out[first:], np.zeros((first, 6))])
    return ImuSeries(out.astype(np.float32), measured, invalid, repeated)


def imu_tensor(stamps_ns: Any, values: Any, end_ns: int, rate_hz: float = 200.0,
               samples: int = 400) -> torch.Tensor:
    """Turn IMU samples into the model's input; see :func:`resample_imu`.

    :returns: float32 [6, samples].
    """
    series = resample_imu(stamps_ns, values, end_ns, rate_hz, samples)
    return torch.from_numpy(np.ascontiguousarray(series.values.T))


def standardise_imu(values: torch.Tensor) -> torch.Tensor:
    """Take gravity off a level robot's z and scale both sensors to about one.

    :param values: [..., 6, n] in m/s^2 and rad/s; all-zero columns (nothing measured) stay zero.
    :returns: the same shape.
    """
    scale = torch.tensor(_SCALE, device=values.device)[:, None]
    level = torch.tensor([0.0, 0.0, STANDARD_GRAVITY, 0.0, 0.0, 0.0], device=values.device)
    measured = values.ne(0).any(-2, keepdim=True)
    return torch.where(measured, (values - level[:, None]) * scale, 0.0)
