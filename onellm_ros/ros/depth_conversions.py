"""Depth and normal pictures: Image and CompressedImage -> samples in metres and unit vectors.

No measurement is NaN afterwards, whatever the sensor writes: 0, a negative number, NaN or infinity
(REP 117 and REP 118). Integer depths are millimetres (16UC1; mono16 is taken as the same).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.image_conversions import (
    compressed_rgb,
    decode_picture,
    encoding_name,
    numbers,
    picture_rows,
    rgb_picture,
)
from onellm_ros.ros.message_fields import (
    ConversionError,
    byte_view,
    frame_id,
    require,
    stamp_ns,
)

_MILLIMETRES = {'16UC1': 'u2', 'mono16': 'u2', '16SC1': 'i2'}
_METRES = {'32FC1': 'f4', '64FC1': 'f8'}
_PNG_MAGIC = b'\x89PNG'
_DEPTH_HEADER_BYTES = 12


def _clean(values: np.ndarray, what: str, scale: float = 1.0) -> np.ndarray:
    """Return distances as float32 metres with NaN for no measurement; an error without any.

    :param scale: metres of one.
    """
    with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
        depth = values.astype(np.float32)
        one = depth / depth             # NaN where it is 0, NaN or infinite, without a mask
        if scale != 1.0:
            depth *= np.float32(scale)
        depth *= one
        if values.dtype.kind != 'u' and (below := depth < 0).any():
            depth[below] = np.nan
    if np.isnan(depth).all():
        height, width = depth.shape
        raise ConversionError(f'found no measurement in a {width}x{height} {what} picture (all 0, '
                              'NaN or infinite); expected some distances above zero; is something '
                              'in front of the sensor, or out of its range?')
    return depth


def depth_picture_metres(message: Any) -> np.ndarray:
    """Return the distances of a raw depth Image.

    :returns: float32 [H, W] metres, NaN = no measurement, memory of its own.
    :raises ConversionError: for unknown encodings, wrong sizes, and pictures without measurement.
    """
    require(message, 'a sensor_msgs Image', 'width', 'height', 'encoding', 'step', 'data')
    encoding = encoding_name(str(message.encoding))
    dtype = _MILLIMETRES.get(encoding) or _METRES.get(encoding)
    if dtype is None:
        raise ConversionError(f'found the encoding {message.encoding!r} on a depth topic; '
                              'expected 16UC1 (millimetres), 32FC1 or 64FC1 (metres); pictures in '
                              "colour belong on the input 'image', disparities must be converted")
    rows = picture_rows(message, int(message.width) * int(dtype[1]))
    values = numbers(rows, dtype, message.is_bigendian)
    return _clean(values, encoding, 0.001 if encoding in _MILLIMETRES else 1.0)


def compressed_depth_metres(message: Any) -> np.ndarray:
    """Return the distances of a compressed depth picture.

    Understood: ``16UC1; png compressed``, plain 16-bit ``png``, and ``compressedDepth`` (a header
    of 12 bytes, then a png of 16UC1 millimetres or of quantised inverse depth for 32FC1).

    :returns: float32 [H, W] metres, NaN = no measurement.
    :raises ConversionError: for RVL, 8-bit pictures and undecodable data.
    """
    require(message, 'a sensor_msgs CompressedImage', 'format', 'data')
    text = str(message.format)
    data = byte_view(message.data)
    header = b''
    if bytes(data[:4]) != _PNG_MAGIC and 'compressedDepth' in text:
        if 'rvl' in text.lower():
            raise ConversionError(f'found the format {text!r} (RVL); expected png; set the '
                                  "publisher's parameter <topic>.compressedDepth.format to png")
        if data.size <= _DEPTH_HEADER_BYTES:
            raise ConversionError(f'found {data.size} bytes in a compressed depth picture; '
                                  'expected a header of 12 bytes and a png; check the publisher')
        header, data = bytes(data[:_DEPTH_HEADER_BYTES]), data[_DEPTH_HEADER_BYTES:]
        if bytes(data[:4]) != _PNG_MAGIC:
            raise ConversionError(
                f'found data that starts with {bytes(data[:4]).hex(" ")} after the header of a '
                f"{text!r} picture; expected a png; set the publisher's parameter "
                '<topic>.compressedDepth.format to png')
    picture = decode_picture(_Payload(text, data))
    if picture.ndim != 2 or picture.dtype not in (np.uint16, np.float32):
        shape = 'x'.join(str(n) for n in picture.shape)
        raise ConversionError(f'found {shape} pixels of {picture.dtype} in a compressed depth '
                              f'picture of format {text!r}; expected one channel of 16 bit; '
                              'jpeg cannot carry depth: publish compressedDepth or raw')
    if picture.dtype == np.float32:
        return _clean(picture, text)
    if header and encoding_name(text.split(';')[0]) == '32FC1':
        _, scale, shift = struct.unpack('<iff', header)
        inverse = picture.astype(np.float32)
        with np.errstate(divide='ignore', invalid='ignore'):
            depth = np.where(picture > 0, np.float32(scale) / (inverse - np.float32(shift)), 0)
        return _clean(depth, text)
    return _clean(picture, text, 0.001)


class _Payload:
    """The picture file inside a compressed message, with the format it was announced by."""

    def __init__(self, text: str, data: np.ndarray) -> None:
        self.format = text
        self.data = data


def depth_sample(message: Any, topic: str = '',
                 intrinsics: tuple[float, float, float, float] | None = None) -> Sample:
    """Convert a depth Image or CompressedImage message.

    :param topic: name to keep in the sample.
    :param intrinsics: (fx, fy, cx, cy) in pixels of this camera, if a CameraInfo told them.
    :returns: a depth sample, float32 [H, W] metres with NaN for no measurement.
    :raises ConversionError: for messages that are not understood or hold no measurement.
    """
    compressed = hasattr(message, 'format') and not hasattr(message, 'encoding')
    depth = compressed_depth_metres(message) if compressed else depth_picture_metres(message)
    return Sample(stamp_ns(message), depth, frame_id(message), topic=topic, intrinsics=intrinsics)


def normal_sample(message: Any, topic: str = '') -> Sample:
    """Convert a picture of surface normals in the camera's optical frame.

    32FC3 holds the vectors (x, y, z); 8-bit colour pictures hold (n + 1) / 2 as (r, g, b).
    Vectors are scaled to length one; a vector shorter than a half (or NaN) is no measurement.

    :param topic: name to keep in the sample.
    :returns: a normal sample, float32 [H, W, 3] with NaN for no measurement.
    :raises ConversionError: for messages that are not understood or hold no measurement.
    """
    compressed = hasattr(message, 'format') and not hasattr(message, 'encoding')
    encoding = '' if compressed else encoding_name(str(getattr(message, 'encoding', '')))
    if encoding == '32FC3':
        rows = picture_rows(message, int(message.width) * 12)
        vectors = numbers(rows, 'f4', message.is_bigendian)
        vectors = vectors.reshape(int(message.height), int(message.width), 3)
    elif compressed or encoding in ('rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3'):
        picture = compressed_rgb(message) if compressed else rgb_picture(message)
        vectors = picture.astype(np.float32) / np.float32(127.5) - np.float32(1)
    else:
        raise ConversionError(f'found the encoding {encoding!r} on a topic of normals; expected '
                              '32FC3 (unit vectors) or rgb8 ((n + 1) / 2); convert it')
    with np.errstate(invalid='ignore', over='ignore'):
        x, y, z = (vectors[..., i] for i in range(3))
        length = np.sqrt(x * x + y * y + z * z)[..., None]
        good = (length >= 0.5) & (length < np.inf)
        if compressed or encoding != '32FC3':
            good &= length <= 1.2  # black and white are no vectors but the mark of no measurement
        normals = np.divide(vectors, np.where(good, length, np.float32(np.nan)),
                            dtype=np.float32)
    if not good.any():
        raise ConversionError('found no normal in the picture (all zero or NaN); expected unit '
                              'vectors; check the publisher')
    return Sample(stamp_ns(message), normals, frame_id(message), topic=topic)
