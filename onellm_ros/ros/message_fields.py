"""Fields that every message shares: bytes, stamps, frames, and the one error of the conversions.

Everything here works by field names (duck typing) on rclpy messages and on messages that `rosbags`
deserialized, whose array fields are numpy arrays. No message package is imported.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np

NANOSECONDS = 1_000_000_000


class ConversionError(ValueError):
    """A message that cannot be used: the text says what was found, expected and what to do."""


def byte_view(data: Any) -> np.ndarray:
    """Return the bytes of an array field without copying where that is possible.

    :param data: ``array.array``, numpy array, bytes, or a list of numbers below 256.
    :returns: uint8 [n].
    """
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if isinstance(data, (list, tuple)):
        return np.asarray(data, dtype=np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


def number_array(data: Any, dtype: Any) -> np.ndarray:
    """Return an array field as a flat numpy array of ``dtype`` (copied only if needed)."""
    return np.asarray(data, dtype=dtype).reshape(-1)


def stamp_ns(header: Any) -> int:
    """Return the stamp of a header (or of a message that has one) in integer nanoseconds.

    A stamp of zero stays zero: whether to replace it by the receive time is the node's decision.

    :param header: a Header, a message with a ``header``, or a Time; ROS 1 names (secs, nsecs) too.
    :returns: nanoseconds; 0 when there is no header.
    """
    try:
        stamp = header.header.stamp
        return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)
    except AttributeError:
        header = getattr(header, 'header', header)
    stamp = getattr(header, 'stamp', header)
    seconds = getattr(stamp, 'sec', getattr(stamp, 'secs', None))
    if seconds is None:
        return 0
    rest = getattr(stamp, 'nanosec', getattr(stamp, 'nsecs', 0))
    return int(seconds) * NANOSECONDS + int(rest)


def frame_id(message: Any) -> str:
    """Return the frame of a message; empty if it has no header."""
    return str(getattr(getattr(message, 'header', None), 'frame_id', ''))


def require(message: Any, what: str, *names: str) -> None:
    """Check that a message has the named fields.

    :raises ConversionError: naming the missing fields and the message's type.
    """
    try:
        _getter(names)(message)
    except AttributeError:
        missing = [name for name in names if not hasattr(message, name)]
        raise ConversionError(
            f'found a {type(message).__name__} without the field(s) {", ".join(missing)}; '
            f'expected {what}; check the type of the topic') from None


@lru_cache(maxsize=64)
def _getter(names: tuple[str, ...]) -> attrgetter[Any]:
    return attrgetter(*names)


def intrinsics(camera_info: Any) -> tuple[float, float, float, float]:
    """Return the pinhole parameters of a CameraInfo (field ``k``, in ROS 1 ``K``).

    :returns: (fx, fy, cx, cy) in pixels.
    :raises ConversionError: for an uncalibrated camera (K[0] or K[4] is zero or not finite).
    """
    matrix = getattr(camera_info, 'k', getattr(camera_info, 'K', None))
    if matrix is None or len(matrix) != 9:
        found = 'no matrix K' if matrix is None else f'{len(matrix)} numbers in K'
        raise ConversionError(f'found {found} in the CameraInfo; expected the 9 numbers of a 3x3 '
                              'matrix; check the type of the topic')
    values = tuple(float(matrix[i]) for i in (0, 4, 2, 5))
    if not np.all(np.isfinite(values)) or values[0] <= 0 or values[1] <= 0:
        raise ConversionError(f'found the focal lengths {values[0]:g} and {values[1]:g} in the '
                              'CameraInfo, which marks an uncalibrated camera; expected positive '
                              'pixels; calibrate the camera or give its driver a calibration file')
    return values[0], values[1], values[2], values[3]


def intrinsics_at(size: tuple[int, int], camera: tuple[float, float, float, float],
                  shape: tuple[int, ...]) -> tuple[float, float, float, float] | None:
    """Return a calibration for a picture of another size; None if its proportions are others.

    :param size: height and width that ``camera``, (fx, fy, cx, cy) in pixels, is for.
    :param shape: height and width of the picture.
    """
    (height, width), (fx, fy, cx, cy) = size, camera
    if (height, width) == tuple(shape):
        return camera
    if not height or not width or abs(shape[0] * width - shape[1] * height) > width + height:
        return None
    x, y = shape[1] / width, shape[0] / height
    return fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5
