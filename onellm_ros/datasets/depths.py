"""Depth files that do not say all about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from onellm_ros.datasets.rows import Signal
from onellm_ros.files import FileError, read_depth
from onellm_ros.files.recordings import check_file

if TYPE_CHECKING:
    from onellm_ros.modality import Sample

Intrinsics = tuple[float, float, float, float]


@dataclass(frozen=True)
class DepthSignal(Signal):
    """A depth picture ``path``, measured; as normals, what they are computed from.

    :param rotated: its 16 bits are rotated left by three, as SUN RGB-D stores millimetres.
    :param intrinsics: fx, fy, cx, cy of the picture, pixels; normals need them.
    """

    rotated: bool = False
    intrinsics: Intrinsics | None = None


def is_rendered(path: Path) -> bool:
    """Return whether a depth file is a picture of 8 bits that somebody drew, not a measurement.

    :raises FileError: if it is missing or empty.
    """
    check_file(path)
    try:
        with Image.open(path) as picture:
            return not picture.mode.startswith(('I', 'F'))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return False                                        # NumPy, or damaged: its reader knows


def read_depth_signal(signal: DepthSignal) -> Sample:
    """Read a depth picture.

    :returns: a depth sample, float32 [H, W] metres, NaN without a measurement.
    :raises FileError: if it cannot be read.
    """
    if is_rendered(signal.path):
        raise FileError(f'{signal.path}: found a picture of 8 bits, expected depth that a camera '
                        'measured, 16-bit millimetres or float metres; rendered depth is read '
                        'from a list that names its pictures')
    if not signal.rotated:
        return read_depth(signal.path, intrinsics=signal.intrinsics)
    raw = read_depth(signal.path, scale=1.0)                # the file's numbers
    stored = np.nan_to_num(raw.data, nan=0.0)
    if float(stored.max()) > 65535 or (stored != np.round(stored)).any():
        raise FileError(f'{signal.path}: found numbers that are no 16-bit ones, expected a 16-bit '
                        'picture as SUN RGB-D has them')
    bits = stored.astype(np.uint16)
    millimetres = (bits >> 3) | (bits << 13)
    metres = np.where(millimetres > 0, millimetres, np.nan).astype(np.float32) / np.float32(1e3)
    return type(raw)(0, metres, intrinsics=signal.intrinsics)
