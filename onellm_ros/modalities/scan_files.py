"""Laser scans from files: NumPy archives, arrays and tables in text."""

from __future__ import annotations

import io
import math
from pathlib import Path
import zipfile

import numpy as np

from onellm_ros.files.errors import FileError, first_line, is_npy, load_npy, read_bytes
from onellm_ros.modality import Sample

_TURN = 2 * math.pi + 0.01


def read_scan(path: str | Path) -> Sample:
    """Read one scan.

    Radians and metres. ``.npz``: arrays ``angle`` and ``range``, or ``ranges`` with ``angle_min``
    and ``angle_increment`` as in a LaserScan. ``.npy``: [N, 2]. Text: two columns, separated by
    commas or blanks; a first line may name them ``angle`` and ``range``, in either order.

    :raises FileError: if it cannot be read as a scan.
    """
    content = read_bytes(path)
    if zipfile.is_zipfile(io.BytesIO(content)):
        beams = _from_archive(path, content)
    elif is_npy(content):
        beams = load_npy(path, content)
    else:
        beams = _from_text(path, content)
    if beams.ndim != 2 or beams.shape[1] != 2 or not len(beams):
        raise FileError(f'{path}: found an array of shape {list(beams.shape)}, expected [N, 2]: '
                        'angle in radians, range in metres')
    beams = beams.astype(np.float32)
    angles = beams[np.isfinite(beams[:, 0]), 0]
    if len(angles) and float(np.abs(angles).max()) > _TURN:
        raise FileError(f'{path}: found an angle of {float(np.abs(angles).max()):g}, expected '
                        'radians, at most one turn; convert degrees by pi / 180')
    return Sample(0, beams)


def _from_archive(path: str | Path, content: bytes) -> np.ndarray:
    """Return [N, 2] of a .npz file."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name], np.float64) for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(f'{path}: damaged .npz file: {first_line(error)}') from None
    if {'ranges', 'angle_min', 'angle_increment'} <= set(found):
        ranges = found['ranges'].reshape(-1)
        start, step = found['angle_min'].reshape(-1), found['angle_increment'].reshape(-1)
        if len(start) == 1 and len(step) == 1:
            return np.stack([start[0] + step[0] * np.arange(len(ranges)), ranges], 1)
    elif {'angle', 'range'} <= set(found):
        angle, ranges = found['angle'].reshape(-1), found['range'].reshape(-1)
        if len(angle) == len(ranges):
            return np.stack([angle, ranges], 1)
    shapes = {name: list(value.shape) for name, value in found.items()}
    raise FileError(f'{path}: found the arrays {shapes}, expected angle and range of one length, '
                    'or ranges, angle_min and angle_increment')


def _from_text(path: str | Path, content: bytes) -> np.ndarray:
    """Return [N, 2] of a table in text."""
    try:
        lines = [line.replace(',', ' ').split() for line in content.decode().splitlines()]
    except UnicodeDecodeError:
        raise FileError(f'{path}: found neither NumPy data nor text') from None
    rows = [line for line in lines if line and not line[0].startswith('#')]
    names = [word.lower() for word in rows[0]] if rows else []
    order = [0, 1]
    if set(names) == {'angle', 'range'}:
        order, rows = [names.index('angle'), names.index('range')], rows[1:]
    try:
        return np.array([[float(row[i]) for i in order] for row in rows
                         if len(row) == 2 or _wrong(len(row))]).reshape(-1, 2)
    except ValueError as error:
        raise FileError(f'{path}: expected two numbers a line, angle and range: '
                        f'{first_line(error)}') from None


def _wrong(count: int) -> bool:
    raise ValueError(f'found {count} in a line')
