"""Pictures: every encoding a camera publishes, padding, byte order, and clear errors."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from onellm_ros.ros.conversions import (
    ConversionError,
    depth_sample,
    image_sample,
    intrinsics,
    intrinsics_at,
    normal_sample,
    stamp_ns,
)

H, W = 6, 8
NAN = float('nan')


def header(stamp: tuple[int, int] = (5, 7), frame: str = 'camera') -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp[0], nanosec=stamp[1]), frame_id=frame)


def image(form: str, rows: np.ndarray, width: int = W, height: int = H, pad: int = 0,
          bigendian: int = 0, **changed: Any) -> Any:
    """Return an Image whose rows are the bytes of ``rows`` and ``pad`` bytes of rubbish."""
    raw = np.ascontiguousarray(rows).reshape(rows.shape[0], -1).view(np.uint8)
    raw = np.pad(raw, ((0, 0), (0, pad)), constant_values=0xAA)
    message = SimpleNamespace(header=header(), width=width, height=height, encoding=form,
                              is_bigendian=bigendian, step=raw.shape[1], data=raw.tobytes())
    for name, value in changed.items():
        setattr(message, name, value)
    return message


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3', '8UC4', 'RGB8'])
def test_eight_bit_colours(rgb: np.ndarray, encoding: str, pad: int) -> None:
    order = rgb if encoding.lower().startswith('rgb') else rgb[..., ::-1]
    if encoding in ('rgba8', 'bgra8', '8UC4'):
        order = np.concatenate([order, np.full((H, W, 1), 9, np.uint8)], axis=-1)
    sample = image_sample(image(encoding, order, pad=pad), 'cam')
    np.testing.assert_array_equal(sample.data, rgb)
    assert sample.data.dtype == np.uint8 and sample.data.flags.c_contiguous
    assert (sample.stamp_ns, sample.frame_id, sample.topic) == (5_000_000_007, 'camera', 'cam')


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey(encoding: str) -> None:
    grey = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    data = image_sample(image(encoding, grey, pad=3)).data
    np.testing.assert_array_equal(data, np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize('top', [65535, 4095, 1023])
def test_sixteen_bit_is_scaled_over_the_range_of_the_sensor(bigendian: int, top: int) -> None:
    grey = np.linspace(0, top, H * W).astype(np.uint16).reshape(H, W)
    stored = grey.astype('>u2' if bigendian else '<u2')
    data = image_sample(image('mono16', stored, bigendian=bigendian)).data
    np.testing.assert_allclose(data[..., 0], grey * (255.0 / top), atol=0.51)
    assert data.max() == 255


def test_rgb16_big_endian(rgb: np.ndarray) -> None:
    stored = (rgb.astype(np.uint16) * 257)
    stored[0, 0] = 65535
    for encoding, order in (('rgb16', stored), ('bgr16', stored[..., ::-1])):
        data = image_sample(image(encoding, order.astype('>u2'), bigendian=1)).data
        np.testing.assert_array_equal(data[1:], rgb[1:])


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_patterns_give_the_colour_back(pattern: str, bits: int) -> None:
    colour = {'r': 200, 'g': 90, 'b': 20}
    tile = np.array([colour[c] for c in pattern]).reshape(2, 2)
    mosaic = np.tile(tile, (8, 8)).astype(np.uint8 if bits == 8 else np.uint16)
    if bits == 16:
        mosaic = mosaic * 257
    data = image_sample(image(f'bayer_{pattern}{bits}', mosaic, 16, 16)).data
    assert np.abs(data[4:12, 4:12].astype(int) - (200, 90, 20)).max() <= (0 if bits == 8 else 80)
    if bits == 8:
        return
    assert data[8, 8, 0] > data[8, 8, 1] > data[8, 8, 2]


def yuv(rgb: np.ndarray) -> np.ndarray:
    """Return BT.601 limited-range Y, U, V of a colour."""
    r, g, b = (float(v) for v in rgb)
    return np.array([16 + 0.257 * r + 0.504 * g + 0.098 * b,
                     128 - 0.148 * r - 0.291 * g + 0.439 * b,
                     128 + 0.439 * r - 0.368 * g - 0.071 * b]).round().astype(np.uint8)


@pytest.mark.parametrize('colour', [(220, 30, 40), (20, 200, 60), (30, 50, 210)])
@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21',
                                      'nv24'])
def test_yuv(encoding: str, colour: tuple[int, int, int]) -> None:
    y, u, v = yuv(np.array(colour))
    planes = {'yuv422': [u, y, v, y], 'uyvy': [u, y, v, y], 'yuyv': [y, u, y, v],
              'yuv422_yuy2': [y, u, y, v]}
    if encoding in planes:
        rows = np.tile(np.array(planes[encoding], np.uint8), (H, W // 2))
        message = image(encoding, rows, pad=4)
    else:
        second = [v, u] if encoding == 'nv21' else [u, v]
        size = (H, W) if encoding == 'nv24' else (H // 2, W // 2)
        chroma = np.tile(np.array(second, np.uint8), size)
        flat = np.concatenate([np.full(H * W, y, np.uint8), chroma.reshape(-1)])
        message = image(encoding, flat[None], data=flat.tobytes(), step=W)
    data = image_sample(message).data
    assert data.shape == (H, W, 3)
    assert np.abs(data.astype(int) - colour).max() <= 4


def test_nv12_padded_and_with_the_height_of_the_buffer() -> None:
    y, u, v = yuv(np.array((220, 30, 40)))
    rows = np.concatenate([np.full((H, W), y, np.uint8),
                           np.tile(np.array([u, v], np.uint8), (H // 2, W // 2))])
    padded = image_sample(image('nv12', rows, pad=8)).data
    whole = image_sample(image('nv12', rows, height=H * 3 // 2)).data
    assert padded.shape == whole.shape == (H, W, 3)
    np.testing.assert_array_equal(padded, whole)
    assert np.abs(padded.astype(int) - (220, 30, 40)).max() <= 4


@pytest.mark.parametrize('change,words', [
    ({'step': 3}, ['step of 3', 'at least 24']),
    ({'step': 100}, ['bytes of data', '600']),
    ({'data': b''}, ['found 0 bytes', '144']),
    ({'data': b'12345'}, ['found 5 bytes', '144']),
    ({'width': 0}, ['empty', 'above zero']),
    ({'height': 0}, ['empty', 'above zero']),
    ({'encoding': 'klingon9'}, ['klingon9', 'rgb8', 'cv_bridge']),
    ({'encoding': ''}, ["''", 'rgb8']),
    ({'encoding': '16UC1'}, ['16UC1', 'depth']),
    ({'height': 600}, ['bytes of data']),
])
def test_errors_say_what_was_found_and_expected(rgb: np.ndarray, change: dict[str, Any],
                                                words: list[str]) -> None:
    with pytest.raises(ConversionError) as error:
        image_sample(image('rgb8', rgb, **change))
    for word in [*words, 'found', 'expected']:
        assert word in str(error.value)


def test_other_message_types_are_refused() -> None:
    with pytest.raises(ConversionError, match='without the field'):
        image_sample(SimpleNamespace(header=header()))


def compressed(picture: np.ndarray, extension: str, text: str, lead: bytes = b'') -> Any:
    done, data = cv2.imencode(extension, picture)
    assert done
    return SimpleNamespace(header=header(), format=text, data=lead + data.tobytes())


@pytest.mark.parametrize('text', ['png', 'rgb8; png compressed bgr8', 'bgr8; png compressed bgr8'])
def test_png_is_exact(rgb: np.ndarray, text: str) -> None:
    np.testing.assert_array_equal(
        image_sample(compressed(rgb[..., ::-1], '.png', text)).data, rgb)


def test_jpeg_alpha_grey_and_sixteen_bit(rgb: np.ndarray) -> None:
    smooth = np.full((32, 32, 3), (10, 90, 200), np.uint8)
    data = image_sample(compressed(smooth, '.jpg', 'rgb8; jpeg compressed bgr8')).data
    assert np.abs(data.astype(int) - (200, 90, 10)).max() <= 3
    alpha = np.concatenate([rgb[..., ::-1], np.zeros((H, W, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(image_sample(compressed(alpha, '.png', 'png')).data, rgb)
    grey = image_sample(compressed(rgb[..., 0], '.png', 'mono8; png compressed ')).data
    np.testing.assert_array_equal(grey[..., 2], rgb[..., 0])
    deep = rgb[..., 0].astype(np.uint16) * 257
    deep[0, 0] = 65535
    grey = image_sample(compressed(deep, '.png', 'mono16; png compressed ')).data
    np.testing.assert_array_equal(grey[1:, :, 0], rgb[1:, :, 0])


@pytest.mark.parametrize('data', [b'', b'\xff\xd8 no jpeg', b'h264'])
def test_broken_compressed_pictures(data: bytes) -> None:
    with pytest.raises(ConversionError, match='expected'):
        image_sample(SimpleNamespace(header=header(), format='jpeg', data=data))


# ------------------------------------------------------------------------------------- depth

@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
@pytest.mark.parametrize('bigendian', [0, 1])
def test_depth_in_millimetres(encoding: str, bigendian: int) -> None:
    depth = np.full((H, W), 1500, '>u2' if bigendian else '<u2')
    depth[0, 0] = 0
    data = depth_sample(image(encoding, depth, pad=2, bigendian=bigendian), 'd', (1, 2, 3, 4))
    assert data.data.dtype == np.float32 and np.isnan(data.data[0, 0])
    np.testing.assert_allclose(data.data[1:], 1.5)
    assert data.intrinsics == (1, 2, 3, 4)


@pytest.mark.parametrize('encoding,dtype', [('32FC1', 'f4'), ('64FC1', 'f8'), ('32fc1', 'f4')])
@pytest.mark.parametrize('order', ['<', '>'])
def test_depth_in_metres(encoding: str, dtype: str, order: str) -> None:
    depth = np.full((H, W), 2.25, order + dtype)
    depth[0, :5] = [NAN, np.inf, -np.inf, 0, -1]
    data = depth_sample(image(encoding, depth, bigendian=int(order == '>'))).data
    assert np.isnan(data[0, :5]).all() and data.dtype == np.float32
    np.testing.assert_allclose(data[1:], 2.25)


@pytest.mark.parametrize('value', [0.0, NAN, np.inf])
def test_depth_without_any_measurement_is_said(value: float) -> None:
    with pytest.raises(ConversionError, match='no measurement'):
        depth_sample(image('32FC1', np.full((H, W), value, np.float32)))


def test_colour_on_the_depth_topic(rgb: np.ndarray) -> None:
    with pytest.raises(ConversionError, match='16UC1'):
        depth_sample(image('rgb8', rgb))


def test_compressed_depth() -> None:
    metres = np.full((H, W), 3.0, np.float32)
    metres[2, 2] = NAN
    millimetres = np.nan_to_num(metres * 1000).astype(np.uint16)
    # image_transport's compressedDepth: quantum A / depth + B
    quantised, top = 100.0, 10.0
    a = quantised * (quantised + 1)
    b = 1 - a / top
    inverse = np.where(np.isnan(metres), 0, np.rint(a / np.nan_to_num(metres, nan=1) + b))
    plain = struct.pack('<iff', 0, 0, 0)
    cases = [
        compressed(millimetres, '.png', '16UC1; compressedDepth png', plain),
        compressed(millimetres, '.png', '16UC1; compressedDepth', plain),
        compressed(millimetres, '.png', '16UC1; png compressed '),
        compressed(millimetres, '.png', 'png'),
        compressed(inverse.astype(np.uint16), '.png', '32FC1; compressedDepth png',
                   struct.pack('<iff', 0, a, b))]
    for message in cases:
        data = depth_sample(message).data
        assert np.isnan(data[2, 2])
        np.testing.assert_allclose(np.delete(data.reshape(-1), 2 * W + 2), 3.0, rtol=2e-3)


def test_compressed_depth_that_cannot_be_read() -> None:
    rvl = SimpleNamespace(header=header(), format='16UC1; compressedDepth rvl', data=bytes(40))
    with pytest.raises(ConversionError, match=r'compressedDepth\.format to png'):
        depth_sample(rvl)
    rvl.format = '16UC1; compressedDepth'
    with pytest.raises(ConversionError, match='expected a png'):
        depth_sample(rvl)
    with pytest.raises(ConversionError, match='jpeg cannot carry depth'):
        depth_sample(compressed(np.zeros((4, 4, 3), np.uint8), '.jpg', 'jpeg'))
    with pytest.raises(ConversionError, match='depth'):
        image_sample(rvl)


# ------------------------------------------------------------------------------------- normals

def test_normals_as_vectors_and_as_a_picture() -> None:
    vectors = np.zeros((H, W, 3), np.float32)
    vectors[..., 2] = -2.0
    vectors[0, 0] = NAN
    vectors[0, 1] = 0
    data = normal_sample(image('32FC3', vectors)).data
    assert np.isnan(data[0, :2]).all()
    np.testing.assert_allclose(data[1:], np.broadcast_to([0, 0, -1], data[1:].shape))
    picture = np.full((H, W, 3), (128, 128, 0), np.uint8)
    picture[0, 0] = 0
    for encoding, rows in (('rgb8', picture), ('bgr8', picture[..., ::-1])):
        data = normal_sample(image(encoding, rows)).data
        np.testing.assert_allclose(data[1:] - [0, 0, -1], 0, atol=0.01)
        assert np.isnan(data[0, 0]).all()
    with pytest.raises(ConversionError, match='no normal'):
        normal_sample(image('32FC3', np.full((H, W, 3), NAN, np.float32)))
    with pytest.raises(ConversionError, match='32FC3'):
        normal_sample(image('mono8', np.zeros((H, W), np.uint8)))


# ------------------------------------------------------------------------------------- the rest

def test_a_calibration_at_another_size() -> None:
    camera = (500.0, 510.0, 319.5, 239.5)       # the middle of 640 x 480 pixels
    assert intrinsics_at((480, 640), camera, (480, 640)) == camera
    assert intrinsics_at((480, 640), camera, (240, 320)) == (250.0, 255.0, 159.5, 119.5)
    assert intrinsics_at((480, 640), camera, (480, 480)) is None
    assert intrinsics_at((0, 0), camera, (480, 640)) is None


def test_intrinsics_of_both_ros_versions() -> None:
    k = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
    assert intrinsics(SimpleNamespace(k=np.array(k))) == (500, 510, 320, 240)
    assert intrinsics(SimpleNamespace(K=k)) == (500, 510, 320, 240)
    with pytest.raises(ConversionError, match='uncalibrated'):
        intrinsics(SimpleNamespace(k=[0.0] * 9))
    with pytest.raises(ConversionError, match='matrix K'):
        intrinsics(SimpleNamespace(width=3))


def test_stamps_are_integers() -> None:
    assert stamp_ns(header((1_700_000_000, 123_456_789))) == 1_700_000_000_123_456_789
    assert stamp_ns(header((0, 0))) == 0
    assert stamp_ns(SimpleNamespace(stamp=SimpleNamespace(secs=2, nsecs=3))) == 2_000_000_003
    assert stamp_ns(SimpleNamespace(data=[1])) == 0


def test_same_as_cv_bridge_where_it_exists(rgb: np.ndarray) -> None:
    pytest.importorskip('cv_bridge', reason='cv_bridge comes with a full ROS installation')
    sensor_msgs = pytest.importorskip('sensor_msgs.msg')
    from cv_bridge import CvBridge
    bridge = CvBridge()
    for encoding in ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'bayer_rggb8', 'yuv422', 'mono16'):
        channels = {'rgba8': 4, 'bgra8': 4, 'mono8': 1, 'bayer_rggb8': 1, 'yuv422': 2,
                    'mono16': 2}.get(encoding, 3)
        rows = np.random.default_rng(2).integers(0, 256, (16, 16 * channels), dtype=np.uint8)
        message = sensor_msgs.Image(height=16, width=16, encoding=encoding, step=16 * channels,
                                    data=rows.tobytes())
        theirs = bridge.imgmsg_to_cv2(message, desired_encoding='rgb8')
        ours = image_sample(message).data
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1, encoding


def test_what_is_rgb_already_is_not_copied(rgb: np.ndarray) -> None:
    message = image('rgb8', rgb)
    raw = np.frombuffer(message.data, np.uint8)
    assert np.shares_memory(image_sample(message).data, raw)
    assert image_sample(image('rgb8', rgb, pad=5)).data.flags.c_contiguous
    assert not np.shares_memory(image_sample(image('bgr8', rgb)).data, raw)


@pytest.mark.parametrize('where', [0, 50, -1])
def test_one_bright_pixel_anywhere_tells_the_range_of_the_sensor(where: int) -> None:
    grey = np.full((122, 64), 100, np.uint16)
    grey.reshape(-1)[where] = 65535
    message = image('mono16', grey.astype('<u2'), 64, 122)
    data = image_sample(message).data
    assert data.reshape(-1, 3)[where].tolist() == [255] * 3 and np.median(data) == 0
    grey.reshape(-1)[where] = 4000
    assert np.median(image_sample(image('mono16', grey.astype('<u2'), 64, 122)).data) == 6
