"""Point clouds: sensor_msgs PointCloud2 (any layout) and PointCloud -> samples.

Colour is taken from ``rgb`` or ``rgba`` (packed 0x00RRGGBB in a float32 or 32-bit integer), from
separate ``r``, ``g``, ``b`` fields, or as grey from an intensity; without any it is 0.5.
Intensities have no common scale: they are stretched from their 1st to their 99th percentile.
Points that are not finite, and points exactly at the sensor's origin (what organised lidars write
for no return), are no measurements and are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
_INTENSITIES = ('intensity', 'intensities', 'i', 'reflectivity', 'reflectance', 'remission',
                'reflect', 'signal')


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
    if missing := [axis for axis in 'xyz' if axis not in names]:
        raise ConversionError(f'found a cloud with the fields {", ".join(names) or "none"}; '
                              f'expected x, y and z ({", ".join(missing)} missing); name the '
                              'coordinates so in the publisher')
    return np.dtype({'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': step})


def _scalar(points: np.ndarray, name: str) -> np.ndarray:
    """Return one field, its first element where it has several, in the machine's byte order."""
    values = points[name]
    if values.ndim > 1:
        values = values[:, 0]
    return values.astype(values.dtype.newbyteorder('='))


def _unit_scale(values: np.ndarray) -> np.ndarray:
    """Scale one colour channel to 0..1 by its type (floats above 1 are taken as 0..255)."""
    if np.issubdtype(values.dtype, np.integer):
        top = 65535.0 if values.dtype.itemsize == 2 and values.max(initial=0) > 255 else 255.0
        return values.astype(np.float32) / np.float32(top)
    values = np.nan_to_num(values.astype(np.float32), nan=0.5)
    return values / 255 if values.max(initial=0) > 1 else values


def grey_from_intensity(values: np.ndarray) -> np.ndarray:
    """Stretch intensities of any scale to 0..1 between their 1st and 99th percentile.

    :param values: [n]; NaN gives 0.5, as does a constant intensity.
    :returns: float32 [n].
    """
    values = values.astype(np.float64)
    good = np.isfinite(values)
    if not good.any():
        return np.full(values.shape, 0.5, np.float32)
    low, high = np.percentile(values[good], (1, 99))
    if high <= low:
        return np.full(values.shape, 0.5, np.float32)
    grey = np.clip((values - low) / (high - low), 0, 1)
    return np.where(good, grey, 0.5).astype(np.float32)


def _colours(points: np.ndarray) -> np.ndarray:
    """Return float32 [n, 3] colours in 0..1 from whatever fields the cloud has."""
    names = points.dtype.names or ()
    for name in ('rgb', 'rgba'):
        if name not in names:
            continue
        values = _scalar(points, name)
        if values.dtype.itemsize != 4:
            raise ConversionError(f'found the field {name!r} of type {values.dtype} in a cloud; '
                                  'expected float32 or uint32 with 0x00RRGGBB packed in; correct '
                                  'the publisher')
        packed = values.view(np.uint32).astype('<u4', copy=False).view(np.uint8).reshape(-1, 4)
        return packed[:, 2::-1] * np.float32(1 / 255)
    for red, green, blue in (('r', 'g', 'b'), ('red', 'green', 'blue')):
        if red in names and green in names and blue in names:
            channels = np.stack([_scalar(points, n) for n in (red, green, blue)], axis=-1)
            return np.clip(_unit_scale(channels), 0, 1)
    for name in _INTENSITIES:
        if name in names:
            grey = grey_from_intensity(_scalar(points, name))
            return np.repeat(grey[:, None], 3, axis=1)
    return np.full((len(points), 3), 0.5, np.float32)


def _old_cloud(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates and colours of the old sensor_msgs PointCloud (points and channels)."""
    xyz = np.array([(p.x, p.y, p.z) for p in message.points], np.float32).reshape(-1, 3)
    columns = {str(c.name): np.asarray(c.values, np.float32) for c in message.channels}
    columns = {name: v for name, v in columns.items() if len(v) == len(xyz)}
    if not columns or not len(xyz):
        return xyz, np.full((len(xyz), 3), 0.5, np.float32)
    table = np.empty(len(xyz), dtype=[(name, 'f4') for name in columns])
    for name, values in columns.items():
        table[name] = values
    return xyz, _colours(table)


def point_sample(message: Any, topic: str = '') -> Sample:
    """Convert a PointCloud2 (or old PointCloud) message.

    :param topic: name to keep in the sample.
    :returns: a point sample, float32 [N, 6]: x y z in metres in the sensor's frame, r g b in 0..1.
    :raises ConversionError: for messages that are not understood or hold no measurement.
    """
    if hasattr(message, 'points') and hasattr(message, 'channels'):
        xyz, colours = _old_cloud(message)
    else:
        points = cloud_array(message)
        xyz = np.empty((len(points), 3), np.float32)
        with np.errstate(over='ignore', invalid='ignore'):
            for column, axis in enumerate('xyz'):
                values = points[axis]
                xyz[:, column] = values if values.ndim == 1 else values[:, 0]
        colours = _colours(points)
    x, y, z = xyz[:, 0], xyz[:, 1], xyz[:, 2]
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(z) & ((x != 0) | (y != 0) | (z != 0))
    if not good.any():
        raise ConversionError(f'found no measured point among {len(xyz)} (all NaN, infinite or at '
                              'the origin); expected some; does the sensor see anything within '
                              'its range?')
    data = np.concatenate([xyz, colours], axis=1)
    data = data if good.all() else data[good]
    return Sample(stamp_ns(message), data, frame_id(message), topic=topic)
