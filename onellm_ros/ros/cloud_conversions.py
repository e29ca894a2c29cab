"""Point clouds: sensor_msgs PointCloud2 (any layout) and PointCloud -> samples.

Owns the layout of the messages; what their fields mean (coordinates, colours, intensities, no
return) is the same as in files and stands in ``onellm_ros/files/point_fields.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onellm_ros.files.point_fields import PointFieldError, cloud_from_fields
from onellm_ros.modality import Sample
from onellm_ros.ros.message_fields import (
    ConversionError,
    byte_view,
    frame_id,
    require,
    stamp_ns,
)

# sensor_msgs/PointField: datatype -> numpy kind
_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}


def cloud_array(message: Any) -> np.ndarray:
    """Return the points of a PointCloud2 as a structured array over the message's own bytes.

    :returns: structured [width * height], one entry a field, in the byte order of the message.
    :raises ConversionError: for sizes, steps or fields that do not fit each other.
    """
    require(message, 'a sensor_msgs PointCloud2', 'width', 'height', 'fields', 'point_step',
            'row_step', 'data', 'is_bigendian')
    width, height, step = int(message.width), int(message.height), int(message.point_step)
    data = byte_view(message.data)
    what = f'cloud of {width}x{height} points'
    if width <= 0 or height <= 0:
        raise ConversionError(f'found an empty {what}; expected at least one point; does the '
                              'sensor see anything within its range?')
    if step <= 0:
        raise ConversionError(f'found a point_step of {step} in a {what}; expected the bytes of a '
                              'point; correct the publisher')
    dtype = _point_dtype(message, step)
    row_bytes = width * step
    row_step = row_bytes if height == 1 else int(message.row_step)
    if row_step < row_bytes:
        raise ConversionError(f'found a row_step of {row_step} bytes in a {what} with point_step '
                              f'{step}; expected at least {row_bytes}; correct the publisher')
    needed = row_step * (height - 1) + row_bytes
    if data.size < needed:
        raise ConversionError(f'found {data.size} bytes of data in a {what} with point_step '
                              f'{step}; expected {needed}; the publisher cut the cloud or set '
                              'a wrong width, height or step')
    if row_step == row_bytes:
        return data[:needed].view(dtype)
    starts = np.lib.stride_tricks.as_strided(
        data, shape=(height, row_bytes), strides=(row_step, 1), writeable=False)
    return np.ascontiguousarray(starts).reshape(-1).view(dtype)


def _point_dtype(message: Any, step: int) -> np.dtype:
    """Return the numpy type of one point: names, offsets and the step as its size."""
    order = '>' if message.is_bigendian else '<'
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    for field in message.fields:
        kind = _TYPES.get(int(field.datatype))
        if kind is None:
            raise ConversionError(f'found the datatype {field.datatype} in the field '
                                  f'{field.name!r} of a cloud; expected 1 (INT8) to 8 (FLOAT64); '
                                  'correct the publisher')
        count = max(int(field.count), 1)
        end = int(field.offset) + count * int(kind[1])
        if end > step:
            raise ConversionError(f'found the field {field.name!r} ending at byte {end} of a '
                                  f'point; expected at most point_step, {step}; correct the '
                                  'publisher')
        name = str(field.name)
        if not name or name in names:
            continue  # padding, or a repeated name: the first one counts
        names.append(name)
        formats.append(order + kind if count == 1 else (order + kind, (count,)))
        offsets.append(int(field.offset))
    return np.dtype({'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': step})


def _old_cloud(message: Any) -> np.ndarray:
    """Return the points and channels of the old sensor_msgs PointCloud as a structured array."""
    count = len(message.points)
    columns = {axis: np.fromiter((getattr(p, axis) for p in message.points), np.float32, count)
               for axis in 'xyz'}
    for channel in message.channels:
        if len(channel.values) == count:
            columns.setdefault(str(channel.name), np.asarray(channel.values, np.float32))
    table = np.empty(count, dtype=[(name, 'f4') for name in columns])
    for name, values in columns.items():
        table[name] = values
    return table


def point_sample(message: Any, topic: str = '') -> Sample:
    """Convert a PointCloud2 (or old PointCloud) message.

    :param topic: name to keep in the sample.
    :returns: a point sample, float32 [N, 6]: x y z in metres in the sensor's frame, r g b in 0..1.
    :raises ConversionError: for messages that are not understood or hold no measurement.
    """
    old = hasattr(message, 'points') and hasattr(message, 'channels')
    points = _old_cloud(message) if old else cloud_array(message)
    try:
        cloud = cloud_from_fields(points)
    except PointFieldError as error:
        raise ConversionError(f'{error} in a cloud; name and pack them so in the publisher'
                              ) from None
    if not len(cloud):
        raise ConversionError(f'found no measured point among {len(points)} (all NaN, infinite or '
                              'at the origin); expected some; does the sensor see anything within '
                              'its range?')
    return Sample(stamp_ns(message), cloud, frame_id(message), topic=topic)
