"""Messages to samples: pictures of every encoding, depth, clouds, sound, IMU.

    .venv/bin/python benchmarks/bench_conversions.py [--quick] [--json FILE]

Reference is cv_bridge or sensor_msgs_py where they are installed, else the shortest code on NumPy
and OpenCV that gives the same array (compared here), with the stamp and the frame beside it. It
checks nothing of the message; that costs ours some microseconds, which small messages show.
"""

from __future__ import annotations

import argparse
import array
from collections.abc import Callable
import gc
import time
from types import SimpleNamespace as Message
from typing import Any

from _report import Report, Timing, arguments, timed
import cv2
import numpy as np

from onellm_ros.files.point_fields import grey_from_intensity
from onellm_ros.modality import Sample
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ImuMerger,
    cloud_array,
    compressed_image_sample,
    depth_sample,
    image_sample,
    normal_sample,
    point_sample,
)

W, H, POINTS = 640, 480, 300_000
HEADER = Message(stamp=Message(sec=1, nanosec=2), frame_id='sensor')
try:
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None
try:
    from sensor_msgs_py import point_cloud2
except ImportError:
    point_cloud2 = None


def as_field(values: np.ndarray, kind: str = 'B') -> array.array:
    """Return an array field as rclpy has it."""
    return array.array(kind, np.ascontiguousarray(values).tobytes())


def picture(encoding: str, pixels: np.ndarray, height: int = H) -> Message:
    """Return a sensor_msgs Image."""
    step = pixels.nbytes // height if encoding[:2] != 'nv' else W
    return Message(header=HEADER, width=W, height=height, encoding=encoding, step=step,
                   is_bigendian=0, data=as_field(pixels))


def flat(message: Message, dtype: Any = np.uint8) -> np.ndarray:
    """Return the data of a message as numbers, no copy."""
    return np.frombuffer(message.data, dtype)


# -- pictures ---------------------------------------------------------------------------------

def colours(rng: np.random.Generator) -> list[tuple[str, Message, Callable[[Message], Any]]]:
    """Return case, message and reference of pictures in colour."""
    def noise(*shape: int) -> np.ndarray:
        small = rng.integers(0, 256, (shape[0] // 8, *shape[1:]), np.uint8)
        return np.repeat(small, 8, axis=0)

    codes = {'bgr8': (3, cv2.COLOR_BGR2RGB), 'rgba8': (4, cv2.COLOR_RGBA2RGB),
             'bgra8': (4, cv2.COLOR_BGRA2RGB), 'mono8': (1, cv2.COLOR_GRAY2RGB),
             'mono16': (1, cv2.COLOR_GRAY2RGB), 'bayer_rggb8': (1, cv2.COLOR_BayerBG2RGB),
             'bayer_rggb16': (1, cv2.COLOR_BayerBG2RGB), 'rgb8': (3, None), 'rgb16': (3, None),
             'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUY2), 'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY)}

    def plain(m: Message) -> np.ndarray:
        """Convert as cv_bridge does: a view over the rows, then OpenCV; rgb8 is copied."""
        channels, code = codes[m.encoding]
        size = 2 if m.encoding.endswith('16') else 1
        rows = flat(m).reshape(m.height, m.step)[:, :m.width * channels * size]
        if size == 2:
            rows = cv2.convertScaleAbs(rows.view(np.uint16), alpha=255 / 65535)
        pixels = rows.reshape(m.height, m.width, channels)
        return pixels.copy() if code is None else cv2.cvtColor(pixels, code)
    wide = noise(H, W).astype(np.uint16) * 257
    shapes = {'rgb8': (H, W, 3), 'bgr8': (H, W, 3), 'rgba8': (H, W, 4), 'bgra8': (H, W, 4),
              'mono8': (H, W), 'bayer_rggb8': (H, W), 'yuv422_yuy2': (H, W, 2),
              'yuv422': (H, W, 2)}
    made = {name: picture(name, noise(*shape)) for name, shape in shapes.items()}
    made |= {name: picture(name, wide) for name in ('mono16', 'bayer_rggb16')}
    made['rgb16'] = picture('rgb16', np.repeat(wide[..., None], 3, axis=2))
    out: list[tuple[str, Message, Callable[[Message], Any]]] = [
        (name, message, plain) for name, message in made.items()]
    padded = np.concatenate([noise(H, W * 3), np.zeros((H, 64), np.uint8)], axis=1)
    out += [('bgr8, rows padded', picture('bgr8', padded), plain),
            ('nv12', picture('nv12', noise(H * 3 // 2, W)), lambda m: cv2.cvtColor(
                flat(m).reshape(m.height * 3 // 2, m.width), cv2.COLOR_YUV2RGB_NV12)),
            ('nv24', picture('nv24', noise(H * 3, W)), _nv24)]
    return out


def _nv24(message: Message) -> np.ndarray:
    data = flat(message).astype(np.float32)
    y = (data[:W * H].reshape(H, W) - 16) * 1.164383
    u, v = np.moveaxis(data[W * H:].reshape(H, W, 2) - 128, 2, 0)
    rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], axis=2)
    return np.clip(rgb.round(), 0, 255).astype(np.uint8)


def files(rng: np.random.Generator) -> list[tuple[str, Message, Callable[[Message], Any]]]:
    """Return case, message and reference of compressed pictures."""
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (H, W, 3), np.uint8), (9, 9), 3)
    out = []
    for kind in ('jpeg', 'png'):
        data = cv2.imencode('.' + kind, pixels)[1]
        out.append((kind, Message(header=HEADER, format=kind, data=as_field(data)),
                    lambda m: cv2.cvtColor(cv2.imdecode(flat(m), cv2.IMREAD_UNCHANGED),
                                           cv2.COLOR_BGR2RGB)))
    return out


def distances(rng: np.random.Generator) -> list[tuple[str, Message, Callable[..., Any], Any]]:
    """Return case, message, our function and reference of depth and normals."""
    metres = rng.uniform(0.3, 8, (H, W)).astype(np.float32)
    metres[rng.random((H, W)) < 0.1] = 0
    normals = rng.normal(0, 1, (H, W, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)

    def millimetres(message: Message) -> np.ndarray:
        stored = flat(message, np.uint16).reshape(H, W)
        depth = stored.astype(np.float32) * np.float32(0.001)
        depth[stored == 0] = np.nan
        return depth

    def floats(message: Message) -> np.ndarray:
        depth = flat(message, np.float32).reshape(H, W).copy()
        depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
        return depth

    def vectors(message: Message) -> np.ndarray:
        stored = flat(message, np.float32).reshape(H, W, 3)
        length = np.linalg.norm(stored, axis=2, keepdims=True)
        return np.where(length >= 0.5, stored / length, np.nan)
    return [('depth 16UC1', picture('16UC1', (metres * 1000).astype(np.uint16)), depth_sample,
             millimetres),
            ('depth 32FC1', picture('32FC1', metres), depth_sample, floats),
            ('normal 32FC3', picture('32FC3', normals), normal_sample, vectors)]


# -- clouds, sound, IMU -----------------------------------------------------------------------

def clouds(rng: np.random.Generator) -> list[tuple[str, Message, Callable[[Message], Any]]]:
    """Return case, message and reference of clouds."""
    def cloud(dtype: np.dtype, nan: float = 0.0) -> Message:
        points = np.zeros(POINTS, dtype)
        for axis in 'xyz':
            points[axis] = rng.normal(0, 10, POINTS)
        for name in dtype.names or ():
            if name == 'intensity':
                points[name] = rng.gamma(2, 20, POINTS)
            elif name == 'rgb':
                points[name] = rng.integers(0, 1 << 24, POINTS).astype('<u4').view('<f4')
        points['x'][rng.random(POINTS) < nan] = np.nan
        kinds = {'<f4': 7, '<f8': 8, '<u2': 4}
        fields = [Message(name=n, offset=dtype.fields[n][1], count=1,
                          datatype=kinds[dtype.fields[n][0].str])
                  for n in dtype.names]
        return Message(header=HEADER, width=POINTS, height=1, fields=fields,
                       point_step=dtype.itemsize, row_step=dtype.itemsize * POINTS,
                       is_bigendian=False, is_dense=not nan, data=as_field(points))

    def read(message: Message, *names: str) -> np.ndarray:
        if point_cloud2 is not None:
            return np.asarray(point_cloud2.read_points(message, names, skip_nans=True))
        points = cloud_array(message)
        good = np.isfinite(points['x']) & np.isfinite(points['y']) & np.isfinite(points['z'])
        return points[good]

    def xyz(points: np.ndarray, colour: np.ndarray) -> np.ndarray:
        own = np.empty((len(points), 6), np.float32)
        for i, axis in enumerate('xyz'):
            own[:, i] = points[axis]
        own[:, 3:] = colour
        return own

    def plain(message: Message) -> np.ndarray:
        return xyz(read(message, 'x', 'y', 'z'), np.float32(0.5))

    def grey(message: Message) -> np.ndarray:
        points = read(message, 'x', 'y', 'z', 'intensity')
        return xyz(points, grey_from_intensity(points['intensity'])[:, None])

    def packed(message: Message) -> np.ndarray:
        points = read(message, 'x', 'y', 'z', 'rgb')
        rgb = np.ascontiguousarray(points['rgb']).view(np.uint8).reshape(-1, 4)
        return xyz(points, rgb[:, 2::-1] / np.float32(255))
    base = [('x', '<f4'), ('y', '<f4'), ('z', '<f4')]
    ouster = np.dtype({'names': ['x', 'y', 'z', 'intensity', 'ring'],
                       'formats': ['<f4', '<f4', '<f4', '<f4', '<u2'],
                       'offsets': [0, 4, 8, 16, 24], 'itemsize': 48})
    return [('xyz', cloud(np.dtype(base)), plain),
            ('xyz, a fifth NaN', cloud(np.dtype(base), 0.2), plain),
            ('xyz and rgb, a fifth NaN', cloud(np.dtype([*base, ('rgb', '<f4')]), 0.2), packed),
            ('xyz and intensity', cloud(np.dtype([*base, ('intensity', '<f4')])), grey),
            ('xyz and intensity, steps of 48', cloud(ouster), grey)]


def sounds(rng: np.random.Generator) -> list[tuple[str, Message, Callable[..., Any], Any]]:
    """Return case, message, our function and reference of chunks of sound."""
    count = 1600
    wave = rng.integers(-20000, 20000, (count, 2)).astype(np.int16)

    def chunk(channels: int) -> Message:
        return Message(header=HEADER, sample_rate_hz=16000, channels=channels,
                       samples=as_field(wave[:, :channels], 'h'))

    def bare(values: np.ndarray) -> Message:
        return Message(header=HEADER, audio=Message(data=as_field(values)))

    def ours(form: str = 'S16LE') -> Callable[[Message], Sample | None]:
        decoder = AudioDecoder(AudioFormat(16000, 1, form))
        return lambda m: decoder.add(m, 0)
    return [
        ('audio, int16', chunk(1), ours(),
         lambda m: np.asarray(m.samples).astype(np.float32) / np.float32(32768)),
        ('audio, int16, two channels', chunk(2), ours(),
         lambda m: (np.asarray(m.samples).astype(np.float32) / np.float32(32768)
                    ).reshape(-1, 2).mean(axis=1)),
        ('audio, bytes S16LE', bare(wave[:, 0]), ours(),
         lambda m: flat(m.audio, '<i2').astype(np.float32) / np.float32(32768)),
        ('audio, bytes F32LE', bare((wave[:, 0] / 32768).astype(np.float32)), ours('F32LE'),
         lambda m: np.clip(flat(m.audio, '<f4'), -1, 1))]


def imu() -> tuple[str, Message, Callable[[Message], Any], Callable[[Message], Any]]:
    """Return case, message, our function and reference of an IMU."""
    vector = Message(x=0.1, y=0.2, z=9.8)
    message = Message(header=HEADER, linear_acceleration=vector, angular_velocity=vector,
                      linear_acceleration_covariance=np.zeros(9),
                      angular_velocity_covariance=np.zeros(9))
    merger = ImuMerger()

    def plain(m: Message) -> np.ndarray:
        a, w = m.linear_acceleration, m.angular_velocity
        return np.array([a.x, a.y, a.z, w.x, w.y, w.z])
    return 'imu, 6 numbers', message, lambda m: merger.add(m)[0], plain


def sample(message: Message, data: np.ndarray) -> Sample:
    """Return what the reference made as the sample that a node needs."""
    stamp = message.header.stamp
    return Sample(stamp.sec * 1_000_000_000 + stamp.nanosec, data, message.header.frame_id)


# -- measuring --------------------------------------------------------------------------------

def both(ours: Callable[[], Any], reference: Callable[[], Any], repeats: int, seconds: float
         ) -> tuple[Timing, Timing]:
    """Return microseconds of CPU of both, measured in turns, so that the load meets both alike."""
    number = max(1, int(seconds / max(timed(ours, 3).median, 1e-7)))

    def many(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(number):
                function()
        return run
    times: tuple[list[float], list[float]] = ([], [])
    gc.disable()
    for _ in range(repeats):
        for function, into in zip((ours, reference), times, strict=True):
            into += timed(many(function), 1, warmup=0, clock=time.process_time).values
    gc.enable()
    first, second = (Timing(tuple(t)).scaled(1e6 / number) for t in times)
    return first, second


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments(parser, 9)
    args = parser.parse_args()
    repeats, seconds = (5, 0.01) if args.quick else (args.repeats, 0.05)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    report = Report('Conversions', 'numpy', 'opencv-python-headless')

    def case(name: str, message: Message, ours: Callable[..., Any], reference: Any,
             tolerance: float = 0.0, goal: str = '>= 1x') -> None:
        expected, found = reference(message), ours(message).data
        if expected.shape != found.shape or not np.allclose(
                found.astype(np.float64), expected.astype(np.float64), rtol=1e-6,
                atol=tolerance, equal_nan=True):
            raise SystemExit(f'{name}: ours and the reference differ')
        first, second = both(lambda: ours(message), lambda: sample(message, reference(message)),
                             repeats, seconds)
        report.add(name, first, second, unit='us', goal=goal)

    report.note(f'pictures of {W}x{H}; reference: '
                f'{"cv_bridge" if CvBridge else "NumPy and OpenCV, one thread each"}')
    for name, message, plain in colours(rng):
        bridge = CvBridge() if CvBridge and name not in ('nv12', 'nv24') else None
        case(name, message, image_sample, plain if bridge is None else (
            lambda m, b=bridge: b.imgmsg_to_cv2(m, 'rgb8')), 1.0)
    for name, message, plain in files(rng):
        case(name, message, compressed_image_sample, plain)
    for name, message, ours, plain in distances(rng):
        case(name, message, ours, plain, 1e-6)
    report.note(f'clouds of {POINTS} points; reference: '
                f'{"sensor_msgs_py" if point_cloud2 else "NumPy"}')
    for name, message, plain in clouds(rng):
        case(name, message, point_sample, plain, 1e-6)
    report.note('signals: chunks of 1600 samples, one measurement; reference: NumPy, unchecked')
    for name, message, ours, plain in [*sounds(rng), imu()]:
        case(name, message, ours, plain, 1e-7, '')
    report.finish(args.json)


if __name__ == '__main__':
    main()
