"""A robot's sensors as processes of the node's benchmark: who sends, and who only listens.

``publish`` sends precomputed messages at their rates until it is told to end, and writes which
stamps it sent; ``listen`` subscribes to the same topics with callbacks that do nothing but read
the stamp: what rclpy and the middleware cost alone.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
import gc
import heapq
import json
import os
from pathlib import Path
import struct
import time
from typing import Any

from builtin_interfaces.msg import Time
import cv2
import numpy as np
from onellm_msgs.msg import AudioChunk
import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2, PointField

from onellm_ros.ros.ending import Ending

WIDTH, HEIGHT, POINTS = 640, 480, 100_000
AUDIO_HZ, CHUNK = 16000, 512
S = 1_000_000_000
JPEG = 'BENCH_NODE_JPEG'    # in the environment of all processes: cameras send jpeg files
_STAMP = struct.Struct('<iI')   # behind the 4 bytes that say how a message is encoded


@dataclass(frozen=True)
class Stream:
    """One topic of the robot; ``make`` gives its message, ``camera`` the calibration beside it."""

    name: str
    topic: str
    kind: Any
    hz: float
    make: Callable[[np.random.Generator], Any]
    modality: str = ''

    @property
    def group(self) -> str:
        """What the figures are told for together."""
        return self.name.rstrip('0123456789')


def _bytes(values: np.ndarray) -> array.array:
    return array.array('B', np.ascontiguousarray(values).tobytes())


def _colour(encoding: str) -> Callable[[np.random.Generator], Any]:
    def make(rng: np.random.Generator) -> Any:
        return Image(width=WIDTH, height=HEIGHT, encoding=encoding, step=WIDTH * 3,
                     data=_bytes(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)))
    return make


def _jpeg(rng: np.random.Generator) -> Any:
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (9, 9), 3)
    return CompressedImage(format='jpeg', data=_bytes(cv2.imencode('.jpg', pixels)[1]))


def _depth(encoding: str) -> Callable[[np.random.Generator], Any]:
    def make(rng: np.random.Generator) -> Any:
        metres = rng.uniform(0.3, 8.0, (HEIGHT, WIDTH)).astype(np.float32)
        metres[rng.random((HEIGHT, WIDTH)) < 0.1] = 0
        pixels = (metres * 1000).astype('<u2') if encoding == '16UC1' else metres
        return Image(width=WIDTH, height=HEIGHT, encoding=encoding,
                     step=WIDTH * pixels.itemsize, data=_bytes(pixels))
    return make


def _cloud(rng: np.random.Generator) -> Any:
    points = rng.normal(0, 10, (POINTS, 4)).astype(np.float32)
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
              for i, name in enumerate(('x', 'y', 'z', 'intensity'))]
    return PointCloud2(width=POINTS, height=1, fields=fields, point_step=16,
                       row_step=16 * POINTS, is_dense=True, data=_bytes(points))


def _imu(rng: np.random.Generator) -> Any:
    message = Imu()
    message.linear_acceleration.z = 9.81
    message.angular_velocity.x = float(rng.normal())
    return message


def _audio(rng: np.random.Generator) -> Any:
    samples = rng.integers(-3000, 3000, CHUNK).astype(np.int16)
    return AudioChunk(sample_rate_hz=AUDIO_HZ, channels=1,
                      samples=array.array('h', samples.tobytes()))


def _calibration(rng: np.random.Generator) -> Any:
    return CameraInfo(width=WIDTH, height=HEIGHT,
                      k=[500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0])


def streams() -> list[Stream]:
    """Return the topics of the robot; each picture has its CameraInfo beside it."""
    jpeg = JPEG in os.environ
    out = [Stream(f'camera{i}', f'/camera{i}/image_raw', CompressedImage if jpeg else Image, 30.0,
                  _jpeg if jpeg else _colour(('rgb8', 'bgr8')[i % 2]), 'image')
           for i in range(4)]
    out += [Stream(f'depth{i}', f'/depth{i}/image_raw', Image, 30.0,
                   _depth(('16UC1', '32FC1')[i]), 'depth') for i in range(2)]
    infos = [Stream(f'info{i}', s.topic.replace('image_raw', 'camera_info'), CameraInfo, 30.0,
                    _calibration) for i, s in enumerate(out)]
    return [*out, Stream('cloud', '/lidar/points', PointCloud2, 10.0, _cloud, 'point'),
            Stream('imu', '/imu/data', Imu, 400.0, _imu, 'imu'),
            Stream('audio', '/audio', AudioChunk, AUDIO_HZ / CHUNK, _audio, 'audio'), *infos]


def stamp_of(message: Any) -> int:
    """Return the stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * S + int(stamp.nanosec)


class RestingExecutor(SingleThreadedExecutor):
    """Rests 2 ms before each wait, so that what comes meanwhile is taken together.

    rclpy builds its wait set anew, of all that the node has, each time it waits.
    """

    def _wait_for_ready_callbacks(self, *args: Any, **options: Any) -> Iterator[Any]:
        time.sleep(0.002)
        yield from super()._wait_for_ready_callbacks(*args, **options)


def executor_of(name: str) -> Executor:
    """Return an executor: ``single`` as the node has it, ``events``, or ``resting``."""
    if name == 'resting':
        return RestingExecutor()
    return EventsExecutor() if name == 'events' else SingleThreadedExecutor()


def spin(make: Callable[[], Any], executor: str, until: Callable[[Any, Executor, Ending], None]
         ) -> None:
    """Make a node and run it until SIGINT or SIGTERM."""
    with Ending() as ending:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        ending.executor = executor_of(executor)
        ending.executor.add_node(node)
        try:
            until(node, ending.executor, ending)
        except ExternalShutdownException:
            pass
        ending.leave()


def publish(file: Path) -> None:
    """Publish all streams until the end, then write the stamps that were sent."""
    rng = np.random.default_rng(0)
    sent: dict[str, list[int]] = {}

    def run(node: Node, executor: Executor, ending: Ending) -> None:
        all_of = streams()
        out = [(s, node.create_publisher(s.kind, s.topic, 10), s.make(rng)) for s in all_of]
        while not ending.asked and not all(p.get_subscription_count() for _, p, _ in out):
            executor.spin_once(timeout_sec=0.05)
        print('began', flush=True)
        gc.disable()
        begin_ns = time.time_ns()
        due = [(begin_ns + round(i * 1e9 / s.hz / len(out)), i) for i, s in enumerate(all_of)]
        heapq.heapify(due)
        while not ending.asked:
            at_ns, i = due[0]
            wait_s = (at_ns - time.time_ns()) / 1e9
            if wait_s > 0:
                time.sleep(min(wait_s, 0.1))
                continue
            stream, publisher, message = out[i]
            now_ns = time.time_ns()
            message.header.stamp = Time(sec=now_ns // S, nanosec=now_ns % S)
            publisher.publish(message)
            sent.setdefault(stream.name, []).append(now_ns)
            heapq.heapreplace(due, (at_ns + round(1e9 / stream.hz), i))
        ending._heard()
        file.write_text(json.dumps(sent), encoding='utf-8')
    spin(lambda: Node('robot'), 'single', run)


def listen(file: Path, executor: str, raw: bool = False) -> None:
    """Subscribe to all streams with callbacks that read the stamp; then write what came when.

    :param raw: take messages as bytes, and the stamp out of these.
    """
    heard: dict[str, list[tuple[int, int]]] = {s.name: [] for s in streams()}

    def make() -> Node:
        node = Node('listener')
        clock = node.get_clock()
        for s in streams():
            def take(message: Any, to: Any = heard[s.name].append) -> None:
                if raw:
                    sec, nanosec = _STAMP.unpack_from(message, 4)
                    stamp = sec * S + nanosec
                else:
                    stamp = stamp_of(message)
                to((stamp, clock.now().nanoseconds))
            node.create_subscription(s.kind, s.topic, take, 200 if s.hz > 100 else 10, raw=raw)
        return node

    def run(node: Node, spinner: Executor, ending: Ending) -> None:
        ending.spin()
        file.write_text(json.dumps(heard), encoding='utf-8')
    spin(make, executor, run)
