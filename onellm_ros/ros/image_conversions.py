"""Colour pictures: sensor_msgs Image and CompressedImage -> RGB samples.

Choices that are written down here once:

* 16-bit pictures (mono16, rgb16, bayer_*16, ...) are scaled to 8 bit over the range of the sensor:
  the full 16 bit as cv_bridge does, but 12 or 10 bit when no value of the picture exceeds 4095 or
  1023, because industrial cameras publish such values in 16-bit containers and a fixed scale would
  give black pictures. The three steps are a fixed rule, not a stretch of the contrast.
* 8UC3 and 8UC4 name no order of colours; OpenCV's (BGR, BGRA) is assumed, as cv_bridge does.
* YUV is ITU-R BT.601, limited range, as OpenCV and cv_bridge convert it.
* An alpha channel is ignored. JPEG orientation tags are ignored, so that pixels fit CameraInfo.
* Encodings that this file does not know are handed to cv_bridge where a full ROS has it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.message_fields import (
    ConversionError,
    byte_view,
    frame_id,
    require,
    stamp_ns,
)

# encoding -> (channels, bytes a channel, OpenCV conversion to RGB or None if it is RGB already)
_PACKED: dict[str, tuple[int, int, int | None]] = {
    'rgb8': (3, 1, None),
    'bgr8': (3, 1, cv2.COLOR_BGR2RGB),
    'rgba8': (4, 1, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, 1, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': (3, 1, cv2.COLOR_BGR2RGB),
    '8UC4': (4, 1, cv2.COLOR_BGRA2RGB),
    'rgb16': (3, 2, None),
    'bgr16': (3, 2, cv2.COLOR_BGR2RGB),
    'rgba16': (4, 2, cv2.COLOR_RGBA2RGB),
    'bgra16': (4, 2, cv2.COLOR_BGRA2RGB),
    'mono16': (1, 2, cv2.COLOR_GRAY2RGB),
    '16UC3': (3, 2, cv2.COLOR_BGR2RGB),
    '16UC4': (4, 2, cv2.COLOR_BGRA2RGB),
}
# OpenCV names a Bayer pattern by its second row's second and third pixel: RGGB is "BG".
for _bits in (8, 16):
    _PACKED[f'bayer_rggb{_bits}'] = (1, _bits // 8, cv2.COLOR_BayerBG2RGB)
    _PACKED[f'bayer_bggr{_bits}'] = (1, _bits // 8, cv2.COLOR_BayerRG2RGB)
    _PACKED[f'bayer_gbrg{_bits}'] = (1, _bits // 8, cv2.COLOR_BayerGR2RGB)
    _PACKED[f'bayer_grbg{_bits}'] = (1, _bits // 8, cv2.COLOR_BayerGB2RGB)

_YUV422: dict[str, int] = {
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
}
_YUV420: dict[str, int] = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}
# (y, u, v, 1) -> r, g, b, all 0..255
_BT601 = np.array([[luma, u, v, -16 * luma - 128 * (u + v)] for luma, u, v in (
    (1.164383, 0.0, 1.596027), (1.164383, -0.391762, -0.812968), (1.164383, 2.017232, 0.0))])
_DEPTH_ENCODINGS = ('16UC1', '16SC1', '32FC1', '64FC1')

COLOUR_ENCODINGS: tuple[str, ...] = (*_PACKED, *_YUV422, *_YUV420, 'nv24')


_SPELLINGS = {name.lower(): name for name in (*COLOUR_ENCODINGS, *_DEPTH_ENCODINGS, '32FC3')}


@lru_cache(maxsize=256)
def encoding_name(text: str) -> str:
    """Return an encoding in its usual spelling (``RGB8`` -> ``rgb8``, ``8uc3`` -> ``8UC3``)."""
    text = text.strip()
    return _SPELLINGS.get(text.lower(), text)


def picture_rows(message: Any, row_bytes: int, rows: int | None = None) -> np.ndarray:
    """Return the rows of an Image without their padding.

    :param row_bytes: bytes of one row that carry pixels.
    :param rows: number of rows; None: the message's height.
    :returns: uint8 [rows, row_bytes], a view of the message's data.
    :raises ConversionError: for zero sizes, or a step or data length that does not fit.
    """
    require(message, 'a sensor_msgs Image', 'width', 'height', 'encoding', 'step', 'data')
    width, height, step = int(message.width), int(message.height), int(message.step)
    rows = height if rows is None else rows
    data = byte_view(message.data)
    if width > 0 and height > 0 and step >= row_bytes and data.size == step * rows:
        table = data.reshape(rows, step)
        return table if step == row_bytes else table[:, :row_bytes]
    kind = f'{width}x{height} {message.encoding} picture'
    if width <= 0 or height <= 0:
        raise ConversionError(f'found an empty {kind}; expected a width and height above zero; '
                              'check the camera driver')
    if step < row_bytes:
        raise ConversionError(f'found a step of {step} bytes in a {kind}; expected at least '
                              f'{row_bytes}; set step to the bytes of one row, padding included')
    if not step * (rows - 1) + row_bytes <= data.size <= step * rows:
        raise ConversionError(f'found {data.size} bytes of data in a {kind} with step {step}; '
                              f'expected {step * rows} (step x {rows} rows); the driver cut the '
                              'picture or set a wrong step, height or encoding')
    data = np.concatenate([data, np.zeros(step * rows - data.size, np.uint8)])
    return data.reshape(rows, step)[:, :row_bytes]


def numbers(rows: np.ndarray, dtype: str, is_bigendian: Any) -> np.ndarray:
    """Return rows of bytes as numbers in the machine's byte order.

    :param rows: uint8 [h, bytes].
    :param dtype: numpy name without byte order, for example ``u2`` or ``f4``.
    :returns: [h, values].
    """
    stored = _stored(dtype, bool(is_bigendian))
    values = np.ascontiguousarray(rows).view(stored)
    return values if stored.isnative else values.astype(stored.newbyteorder('='))


@lru_cache(maxsize=32)
def _stored(dtype: str, is_bigendian: bool) -> np.dtype:
    return np.dtype(('>' if is_bigendian else '<') + dtype)


def to_eight_bit(picture: np.ndarray) -> np.ndarray:
    """Scale a uint16 picture to uint8 over the sensor's range (10, 12 or 16 bit, see above)."""
    if picture.dtype == np.uint8:
        return picture
    # a few rows mostly tell a sensor of 16 bit, and all of them one of less
    top = int(picture[::61].max(initial=0))
    if top <= 4095:
        top = int(picture.max(initial=0))
    full = 1023 if top <= 1023 else 4095 if top <= 4095 else 65535
    return cv2.convertScaleAbs(picture, alpha=255.0 / full)


def _planar_420(message: Any) -> np.ndarray:
    """Return the rows of an NV12 or NV21 picture, uint8 [height * 3 / 2, width].

    Accepted: data without padding (whatever the step says), padded rows with the height of the
    picture, and the height of the whole buffer (3/2 of the picture's).
    """
    width, height = int(message.width), int(message.height)
    data = byte_view(message.data)
    even = width > 0 and height > 0 and width % 2 == 0 and height % 2 == 0
    if even and data.size == width * height * 3 // 2:
        return data.reshape(height * 3 // 2, width)
    if width > 0 and width % 2 == 0 and height > 0 and height % 3 == 0 \
            and int(message.step) >= width and data.size == int(message.step) * height:
        return picture_rows(message, width, height)  # 3/2 of an even height
    if not even:
        raise ConversionError(f'found a {width}x{height} {message.encoding} picture; expected an '
                              'even width and height above zero; check the camera driver')
    return picture_rows(message, width, height * 3 // 2)


def _nv24(message: Any) -> np.ndarray:
    """Decode NV24 (a full-size Y plane, then full-size interleaved UV)."""
    width, height = int(message.width), int(message.height)
    data = byte_view(message.data)
    if width <= 0 or height <= 0 or data.size != width * height * 3:
        raise ConversionError(f'found {data.size} bytes of data in a {width}x{height} nv24 '
                              f'picture; expected {width * height * 3} without padding of rows; '
                              'publish it without padding or as rgb8')
    luma = data[:width * height].reshape(height, width)
    chroma = data[width * height:].reshape(height, width, 2)
    return cv2.transform(cv2.merge([luma, chroma]), _BT601)


def _with_cv_bridge(message: Any, encoding: str) -> np.ndarray:
    """Let cv_bridge convert an encoding that is not known here; an error if it cannot."""
    problem = 'cv_bridge is not installed'
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        pass
    else:
        try:
            return np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8'))
        except (CvBridgeError, cv2.error, TypeError, KeyError) as error:
            problem = f'cv_bridge refuses it too ({error})'
    raise ConversionError(f'found the encoding {encoding!r}; expected one of '
                          f'{", ".join(COLOUR_ENCODINGS)}; {problem}: convert the pictures '
                          'before they come here, for example with image_proc')


def rgb_picture(message: Any) -> np.ndarray:
    """Return the pixels of an Image message in colour.

    :param message: a sensor_msgs Image.
    :returns: uint8 [H, W, 3] RGB, contiguous: the message's own data where that is RGB already
        and its rows have no padding, else memory of its own.
    :raises ConversionError: for unknown encodings, depth pictures and wrong sizes.
    """
    require(message, 'a sensor_msgs Image', 'width', 'height', 'encoding')
    encoding = encoding_name(str(message.encoding))
    width, height = int(message.width), int(message.height)
    if encoding in _PACKED:
        channels, size, code = _PACKED[encoding]
        picture = picture_rows(message, width * channels * size)
        if size > 1:
            picture = to_eight_bit(numbers(picture, f'u{size}', message.is_bigendian))
        if channels > 1:
            picture = picture.reshape(height, width, channels)
        if code is None:
            return np.ascontiguousarray(picture)
        if encoding.startswith('bayer') and (width < 3 or height < 3):
            raise ConversionError(f'found a {width}x{height} {encoding} picture; expected at '
                                  'least 3x3 pixels; check the camera driver')
        return cv2.cvtColor(picture, code)
    if encoding in _YUV422:
        if width % 2:
            raise ConversionError(f'found a {width}x{height} {encoding} picture; expected an even '
                                  'width; check the camera driver')
        rows = picture_rows(message, width * 2)
        return cv2.cvtColor(rows.reshape(height, width, 2), _YUV422[encoding])
    if encoding in _YUV420:
        return cv2.cvtColor(np.ascontiguousarray(_planar_420(message)), _YUV420[encoding])
    if encoding == 'nv24':
        return _nv24(message)
    if encoding in _DEPTH_ENCODINGS:
        raise ConversionError(f'found the encoding {encoding!r}, which holds distances and no '
                              'colours; expected a colour picture; remap this topic to the input '
                              "'depth' (a thermal camera: publish it as mono16)")
    return _with_cv_bridge(message, encoding)


def decode_picture(message: Any) -> np.ndarray:
    """Decode the picture file inside a CompressedImage as it was stored.

    :returns: uint8 or uint16 (float32 possible for tiff) [H, W] or [H, W, channels], BGR order.
    :raises ConversionError: when the data is no picture that OpenCV can read.
    """
    require(message, 'a sensor_msgs CompressedImage', 'format', 'data')
    data = byte_view(message.data)
    if data.size == 0:
        raise ConversionError(f'found no data in a compressed picture of format '
                              f'{message.format!r}; expected a jpeg or png file; check the driver')
    flags = cv2.IMREAD_UNCHANGED
    try:
        picture = cv2.imdecode(data, flags)
    except cv2.error:
        picture = None
    if picture is None:
        head = bytes(data[:8]).hex(' ')
        raise ConversionError(f'found {data.size} bytes that start with {head} in a compressed '
                              f'picture of format {message.format!r}; expected a whole jpeg or '
                              'png file; video codecs (h264, theora, ffmpeg) must be republished '
                              'with image_transport as compressed or raw')
    return picture


def compressed_rgb(message: Any) -> np.ndarray:
    """Return the pixels of a CompressedImage in colour.

    Formats such as ``jpeg``, ``png``, ``rgb8; jpeg compressed bgr8``, ``mono16; png compressed``
    are all read from the picture file itself, whose colours are standard whatever they say.

    :returns: uint8 [H, W, 3] RGB.
    :raises ConversionError: for undecodable data and for depth pictures.
    """
    require(message, 'a sensor_msgs CompressedImage', 'format', 'data')
    source = str(message.format).split(';')[0].strip()
    if 'compressedDepth' in str(message.format) or encoding_name(source) in _DEPTH_ENCODINGS:
        raise ConversionError(f'found the format {message.format!r}, which holds distances and no '
                              'colours; expected a colour picture; remap this topic to the input '
                              "'depth'")
    picture = decode_picture(message)
    if picture.dtype == np.uint16:
        picture = to_eight_bit(picture)
    if picture.dtype != np.uint8:
        raise ConversionError(f'found {picture.dtype} pixels in a compressed picture of format '
                              f'{message.format!r}; expected 8 or 16 bit; remap depth to the '
                              "input 'depth'")
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in codes:
        raise ConversionError(f'found {channels} channels in a compressed picture of format '
                              f'{message.format!r}; expected 1, 3 or 4; publish rgb8')
    return cv2.cvtColor(picture, codes[channels])


def image_sample(message: Any, topic: str = '') -> Sample:
    """Convert a colour Image (or CompressedImage) message.

    :param topic: name to keep in the sample.
    :returns: an image sample, uint8 [H, W, 3] RGB.
    :raises ConversionError: for messages that are not understood.
    """
    if not hasattr(message, 'encoding') and hasattr(message, 'format'):
        return compressed_image_sample(message, topic)
    return Sample(stamp_ns(message), rgb_picture(message), frame_id(message), topic=topic)


def compressed_image_sample(message: Any, topic: str = '') -> Sample:
    """Convert a colour CompressedImage message.

    :param topic: name to keep in the sample.
    :returns: an image sample, uint8 [H, W, 3] RGB.
    :raises ConversionError: for messages that are not understood.
    """
    return Sample(stamp_ns(message), compressed_rgb(message), frame_id(message), topic=topic)
