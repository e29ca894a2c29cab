"""IMU recordings from CSV (or any table in text) and NumPy files."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from pathlib import Path
import re

import numpy as np

from onellm_ros.files.errors import FileError, first_line, is_npy, load_npy, read_bytes
from onellm_ros.modality import Sample

DEFAULT_RATE_HZ = 200.0
GRAVITY = 9.80665
_UNITS_NS = {'s': 1e9, 'ms': 1e6, 'us': 1e3, 'ns': 1.0}
_TIME_UNITS = {
    's': 's', 'sec': 's', 'secs': 's', 'second': 's', 'seconds': 's', 'ms': 'ms', 'msec': 'ms',
    'millis': 'ms', 'milliseconds': 'ms', 'us': 'us', 'usec': 'us', 'micros': 'us',
    'microseconds': 'us', 'ns': 'ns', 'nsec': 'ns', 'nanos': 'ns', 'nanosec': 'ns',
    'nanosecond': 'ns', 'nanoseconds': 'ns', 'nsecs': 'ns'}
_TIME = re.compile(r'^(field_)?(header_)?(t|time|stamp|timestamp|timestamps|datetime)(_|$)|'
                   r'(^|_)(time|stamp|timestamp|secs?|seconds|nsecs?|nanosec)(_|$)')
_ACCELERATION = re.compile(r'(^|_)(a|acc|accel|acceler|accelerometer|acceleration|'
                           r'linear_acceleration|specific_force|lin_acc|linacc)(_|$)')
_GYROSCOPE = re.compile(r'(^|_)(g|w|gyr|gyro|gyroscope|omega|angular_velocity|ang_vel|angvel|'
                        r'angular_rate|rotation_rate|rotationrate|rot|turn_rate)(_|$)')
_NOT_IMU = re.compile(r'cov|orientation|mag|quat|gravity|bias|temp|seq|position|height')


@dataclass(frozen=True, eq=False)
class ImuTable:
    """An IMU recording.

    :param stamps_ns: int64 [n]; :param values: float64 [n, 6], m/s^2 and rad/s.
    :param notes: what was assumed while reading.
    """

    stamps_ns: np.ndarray
    values: np.ndarray
    notes: list[str] = field(default_factory=list)


def read_imu(path: str | Path, rate_hz: float | None = None) -> list[Sample]:
    """Read an IMU recording as samples; see :func:`read_imu_table`.

    :returns: IMU samples in file order, float64 [6] each.
    :raises FileError: if it cannot be read.
    """
    table = read_imu_table(path, rate_hz)
    return [Sample(int(stamp), row) for stamp, row in zip(table.stamps_ns, table.values)]


def read_imu_table(path: str | Path, rate_hz: float | None = None) -> ImuTable:
    """Read an IMU recording.

    Text: columns are found by their names (``ax``, ``acc_x``, ``linear_acceleration.x``,
    ``gyro_x``, ``wx`` ...; units in brackets are obeyed), or are 6 (accelerometer xyz, gyroscope
    xyz) or 7 (time first) without names. NumPy: [6, n] or [n, 6], or 7 with the time first; the
    stamps in milliseconds may lie beside it in ``NAME_timestamps.npy``.

    :param rate_hz: samples a second of a file without times; 200 if not given.
    :raises FileError: if it cannot be read, or no accelerometer and gyroscope are found.
    """
    if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
        raise FileError(f'{path}: found a rate of {rate_hz} Hz, expected one above 0')
    content = read_bytes(path)
    times: np.ndarray | None
    if is_npy(content):
        times, values, notes = _from_npy(path, content)
    else:
        times, values, notes = _from_text(path, content)
    if len(values) == 0:
        raise FileError(f'{path}: the file holds no IMU sample')
    if times is None:
        notes.append('' if rate_hz else f'no times in the file, {DEFAULT_RATE_HZ:g} Hz assumed')
        times = np.arange(len(values)) * (1e9 / (rate_hz or DEFAULT_RATE_HZ))
    good = np.isfinite(times)
    if not good.any():
        raise FileError(f'{path}: none of {len(times)} times is a number')
    values = values[good]
    usable = values[np.isfinite(values).all(axis=1) & (np.abs(values) < 1e6).all(axis=1), :3]
    level = float(np.median(np.linalg.norm(usable, axis=1))) if len(usable) else 0.0
    if 0.8 < level < 1.2:
        notes.append(f'accelerations of {level:.2f} look like g, not m/s^2')
    if np.abs(times[good]).max() > 9e18:
        raise FileError(f'{path}: found a time of {np.abs(times[good]).max() * 1e-9:.3g} s, '
                        'expected at most 9e9 s; is its unit named in the column?')
    stamps = np.round(times[good]).astype(np.int64)
    return ImuTable(stamps, values, [note for note in notes if note])


def _time_ns(times: np.ndarray, unit: str | None) -> tuple[np.ndarray, str]:
    """Return times in nanoseconds; without a unit, it is the one that gives an IMU's rate."""
    if unit is None:
        steps = np.abs(np.diff(times[np.isfinite(times)]))
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        unit = 's' if step < 0.22 else 'ms' if step < 220 else 'us' if step < 2.2e5 else 'ns'
        return times * _UNITS_NS[unit], f'times taken as {unit}'
    return times * _UNITS_NS[unit], ''


def _from_npy(path: str | Path, content: bytes) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Return times (ns) or None, values [n, 6] and notes of a NumPy recording."""
    array = load_npy(path, content)
    if array.ndim != 2 or array.dtype.kind not in 'iuf' \
            or not {6, 7} & set(array.shape):
        raise FileError(f'{path}: found {array.dtype} of shape {array.shape}, expected [6, n] or '
                        '[n, 6]: accelerometer xyz, gyroscope xyz (7: time first)')
    rows = (array.T if array.shape[0] in (6, 7) else array).astype(np.float64)
    if rows.shape[1] == 7:
        times, note = _time_ns(rows[:, 0], None)
        return times, rows[:, 1:], [note]
    beside = Path(path).with_name(Path(path).stem + '_timestamps.npy')
    if not beside.exists():
        return None, rows, []
    stamps = load_npy(beside, read_bytes(beside)).reshape(-1).astype(np.float64)
    if len(stamps) != len(rows):
        raise FileError(f'{beside}: found {len(stamps)} stamps, expected {len(rows)} as in {path}')
    return stamps * _UNITS_NS['ms'], rows, [f'times from {beside.name}, in ms']


def _split(line: str, delimiter: str | None) -> list[str]:
    """Split a line of text into cells."""
    return [cell.strip().strip('"\'') for cell in line.strip().split(delimiter)]


def _is_number(text: str) -> bool:
    """Return whether a cell holds a number (or nothing, or nan)."""
    try:
        float(text or 'nan')
    except ValueError:
        return False
    return True


def _from_text(path: str | Path, content: bytes
               ) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Return times (ns) or None, values [n, 6] and notes of a table in text."""
    try:
        lines = [line for line in content.decode('utf-8-sig').splitlines() if line.strip(' ,;\t')]
    except UnicodeDecodeError:
        raise FileError(f'{path}: found no text, expected a CSV table or .npy') from None
    named = [line for line in lines[:100] if line.lstrip().startswith(('#', '%'))]
    lines = [line for line in lines if not line.lstrip().startswith(('#', '%'))]
    sample = lines[-1] if lines else ''
    delimiter = next((mark for mark in ',;\t' if mark in sample), None)
    first = _split(lines[0], delimiter) if lines else []
    header: list[str] | None = None
    if first and sum(_is_number(cell) for cell in first) <= len(first) // 2:
        header, lines = first, lines[1:]
    elif named:
        names = _split(named[-1].lstrip().lstrip('#%'), delimiter)
        header = names if len(names) == len(first) else None
    if not lines:
        raise FileError(f'{path}: found no rows of numbers, expected an IMU table')
    if header is None:
        return _without_names(path, lines, delimiter, len(first))
    return _with_names(path, lines, delimiter, header)


def _columns(path: str | Path, lines: list[str], delimiter: str | None, columns: list[int]
             ) -> np.ndarray:
    """Return some columns of a table as float64; an empty cell is NaN."""
    try:
        return np.loadtxt(lines, delimiter=delimiter, usecols=columns, ndmin=2, comments=None,
                          dtype=np.float64, quotechar='"')
    except (ValueError, IndexError):
        pass                    # empty or missing cells: the slower way below knows them
    rows = []
    for number, line in enumerate(lines):
        cells = _split(line, delimiter)
        try:
            rows.append([float(cells[c] or 'nan') for c in columns])
        except (ValueError, IndexError):
            if number == len(lines) - 1:
                continue        # the last line of a recording that was cut off
            raise FileError(f'{path}: row {number + 1} is not understood: {line[:60]!r}'
                            ) from None
    return np.array(rows, dtype=np.float64).reshape(-1, len(columns))


def _without_names(path: str | Path, lines: list[str], delimiter: str | None, width: int
                   ) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Read a table without column names."""
    if width not in (6, 7):
        raise FileError(f'{path}: found {width} columns without names, expected 6 (accelerometer '
                        'xyz, gyroscope xyz) or 7 (time first); add a line of names')
    table = _columns(path, lines, delimiter, list(range(width)))
    if width == 6:
        return None, table, ['columns without names: accelerometer xyz, gyroscope xyz assumed']
    times, note = _time_ns(table[:, 0], None)
    return times, table[:, 1:], [note]


@dataclass(frozen=True)
class _Column:
    """A column name, taken apart: the plain name, its axis and its unit."""

    index: int
    name: str
    axis: str
    unit: str


def _parse_name(index: int, text: str) -> _Column:
    """Take a column name apart: ``w_RS_S_x [rad s^-1]`` is the axis x of ``w_rs_s``."""
    bracket = re.search(r'[\[(]([^\])]*)[\])]', text)
    plain = re.sub(r'[\[(][^\])]*[\])]', '', text)
    plain = re.sub(r'(?<=[a-z])(?=[A-Z])', '_', plain)
    words = [word for word in re.split(r'[^a-z0-9]+', plain.lower()) if word]
    unit = (bracket.group(1) if bracket else '').strip().lower()
    axes = [i for i, word in enumerate(words) if word in ('x', 'y', 'z')]
    if axes:
        axis = words.pop(axes[-1])
        return _Column(index, '_'.join(words), axis, unit)
    for i, word in enumerate(words):
        if len(word) > 1 and word[-1] in 'xyz':
            joined = [*words[:i], word[:-1], *words[i + 1:]]
            return _Column(index, '_'.join(joined), word[-1], unit)
    return _Column(index, '_'.join(words), '', unit)


def _triple(columns: list[_Column], pattern: re.Pattern[str], other: re.Pattern[str] | None = None
            ) -> list[_Column] | None:
    """Return the x, y, z columns whose name fits, or None; the first complete set counts."""
    fitting = [c for c in columns if c.axis and pattern.search(c.name)
               and not _NOT_IMU.search(c.name) and not (other and other.search(c.name))]
    for name in dict.fromkeys(c.name for c in fitting):
        group = {c.axis: c for c in reversed(fitting) if c.name == name}
        if len(group) == 3:
            return [group[axis] for axis in 'xyz']
    return None


def _unit_factor(column: _Column, gyroscope: bool) -> float:
    """Return the factor to m/s^2 or rad/s that a unit in the name asks for."""
    words = column.name.split('_')
    unit = column.unit.replace('°', 'deg') or (words[-1] if len(words) > 1 else '')
    if gyroscope:
        degrees = unit.startswith(('deg', 'dps', 'mdps')) or 'deg' in words
        return math.pi / 180 * (0.001 if unit.startswith('mdps') else 1.0) if degrees else 1.0
    if unit in ('g', 'mg'):
        return GRAVITY * (0.001 if unit == 'mg' else 1.0)
    return 1.0


def _with_names(path: str | Path, lines: list[str], delimiter: str | None, header: list[str]
                ) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Read a table by its column names."""
    columns = [_parse_name(i, text) for i, text in enumerate(header)]
    acceleration = _triple(columns, _ACCELERATION)
    gyroscope = _triple(columns, _GYROSCOPE, _ACCELERATION)
    if acceleration is None or gyroscope is None:
        lacking = ' and '.join(name for name, found in (
            ('an accelerometer (ax ay az)', acceleration), ('a gyroscope (gx gy gz)', gyroscope))
            if found is None)
        shown = ', '.join(header[:20])
        raise FileError(f'{path}: found the columns {shown}; expected {lacking} too; rename them')
    both = acceleration + gyroscope
    values = _columns(path, lines, delimiter, [c.index for c in both])
    values = values * [_unit_factor(c, i >= 3) for i, c in enumerate(both)]
    used = {c.index for c in both}
    names = [(c, header[c.index]) for c in columns
             if c.index not in used and not c.axis and _TIME.search(c.name)]
    if not names:
        return None, values, []
    try:
        times, note = _named_times(path, lines, delimiter, [c for c, _ in names])
    except FileError as error:
        return None, values, [f'the time column is not understood ({first_line(error)})']
    rows = min(len(times), len(values))         # the last row may be cut off in one of them
    return times[:rows], values[:rows], [note]


def _named_times(path: str | Path, lines: list[str], delimiter: str | None,
                 columns: list[_Column]) -> tuple[np.ndarray, str]:
    """Return times in nanoseconds from a time column, or from seconds and nanoseconds."""
    def unit_of(column: _Column) -> str | None:
        words = [column.unit, *reversed(column.name.split('_'))]
        return next((_TIME_UNITS[word] for word in words if word in _TIME_UNITS), None)

    units = [unit_of(column) for column in columns]
    if len(columns) > 1 and 's' in units and 'ns' in units:
        pair = [columns[units.index('s')], columns[units.index('ns')]]
        if pair[0].name.rsplit('_', 1)[0] == pair[1].name.rsplit('_', 1)[0]:
            table = _columns(path, lines, delimiter, [c.index for c in pair])
            return table[:, 0] * 1e9 + table[:, 1], ''
    table = _columns(path, lines, delimiter, [columns[0].index])
    return _time_ns(table[:, 0], units[0])
