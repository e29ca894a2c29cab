"""The bag player: recorded messages arrive on the inputs of the perception node, at their rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg', reason='onellm_msgs is not built here: run make setup')

from onellm_msgs.msg import AudioChunk  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rosbags.rosbag1 import Writer as Writer1  # noqa: E402
from rosbags.rosbag2 import Writer as Writer2  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2  # noqa: E402

from onellm_ros.modality import Modality  # noqa: E402
from onellm_ros.replay.bag_sources import BagError  # noqa: E402
from onellm_ros.replay.bags import open_bag  # noqa: E402
from onellm_ros.replay.matching import match_topics  # noqa: E402
from onellm_ros.ros import messages_out as out  # noqa: E402
from onellm_ros.ros.bag_player import parse_audio_format, play  # noqa: E402
from onellm_ros.ros.conversions import (  # noqa: E402
    AudioFormat,
    audio_sample,
    depth_sample,
    image_sample,
    intrinsics,
    normal_sample,
    point_sample,
)
from onellm_ros.ros.message_copy import fill_message  # noqa: E402

COUNT = 10


class Ear:
    """Listens to the inputs in a thread of its own."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        self.context.init()
        self.node = Node('ear', context=self.context)
        self.player = Node('bag_player', context=self.context)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        for kind, topic in ((Image, 'image'), (Image, 'depth'), (Imu, 'imu'),
                            (AudioChunk, 'audio'), (PointCloud2, 'points'),
                            (CameraInfo, 'camera_info'), (Clock, '/clock')):
            self.node.create_subscription(kind, topic, self.heard[topic].append, 100)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def wait(self, topic: str, count: int) -> list[Any]:
        end = time.monotonic() + 5
        while len(self.heard[topic]) < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.heard[topic]

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(5)
        self.node.destroy_node()
        self.player.destroy_node()
        self.context.shutdown()


@pytest.fixture
def ear(ros_domain: int) -> Iterator[Ear]:
    listener = Ear()
    yield listener
    listener.close()


def write_bag(path: Path, ros1: bool) -> Path:
    """Write images, depth, CameraInfo, IMU and bare audio, every 20 ms."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    store.register(get_types_from_msg('uint8[] data', 'audio_common_msgs/msg/AudioData'))
    kinds, zeros = store.types, np.zeros(9)
    vector = kinds['geometry_msgs/msg/Vector3']

    def header(ns: int) -> Any:
        stamp = kinds['builtin_interfaces/msg/Time'](sec=ns // 10**9, nanosec=ns % 10**9)
        return kinds['std_msgs/msg/Header'](stamp=stamp, frame_id='f', **(
            {'seq': 1} if ros1 else {}))

    def camera(ns: int) -> Any:
        roi = kinds['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        k = np.array([50.0, 0, 3, 0, 51, 2, 0, 0, 1])
        return kinds['sensor_msgs/msg/CameraInfo'](
            header(ns), 4, 6, 'plumb_bob', np.zeros(5), k, zeros, np.zeros(12), 0, 0, roi)

    def messages(ns: int, i: int) -> Iterator[tuple[str, str, Any]]:
        yield '/cam/camera_info', 'sensor_msgs/msg/CameraInfo', camera(ns)
        image = kinds['sensor_msgs/msg/Image']
        yield '/cam/rgb', 'sensor_msgs/msg/Image', image(
            header(ns), 4, 6, 'rgb8', 0, 18, np.full(72, i, np.uint8))
        yield '/cam/depth', 'sensor_msgs/msg/Image', image(
            header(ns), 4, 6, '16UC1', 0, 12, np.full(24, 1000 + i, '<u2').view(np.uint8))
        yield '/imu', 'sensor_msgs/msg/Imu', kinds['sensor_msgs/msg/Imu'](
            header(ns), kinds['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0), zeros,
            vector(0.5, 0.0, float(i)), zeros, vector(0.0, 0.0, 9.8), zeros)
        yield '/mic', 'audio_common_msgs/msg/AudioData', kinds[
            'audio_common_msgs/msg/AudioData'](np.full(320, i, '<i2').view(np.uint8))

    writer: Any = Writer1(path) if ros1 else Writer2(path, version=9)
    with writer:
        connections: dict[str, Any] = {}
        for i in range(COUNT):
            for topic, kind, message in messages(10**12 + i * 20_000_000, i):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                raw = store.serialize_ros1(message, kind) if ros1 else \
                    store.serialize_cdr(message, kind)
                writer.write(connections[topic], 10**12 + i * 20_000_000, raw)
    return path


@pytest.mark.parametrize('ros1', [True, False])
def test_a_bag_arrives_on_the_inputs(tmp_path: Path, ear: Ear, ros1: bool) -> None:
    with open_bag(write_bag(tmp_path / ('b.bag' if ros1 else 'b'), ros1)) as bag:
        match = match_topics(bag, audio=AudioFormat(16000))
        assert match.camera_info == '/cam/camera_info'
        report = play(bag, ear.player, match, rate=1.0, clock=True)
    assert report.published == dict.fromkeys(
        ('camera_info', 'image', 'depth', 'imu', 'audio'), COUNT) and not report.failed
    assert 0.17 < report.seconds < 2.0  # 9 x 20 ms, and what a busy machine adds
    images = ear.wait('image', COUNT)
    assert [image_sample(m).data[0, 0, 0] for m in images] == list(range(COUNT))
    assert images[3].header.stamp.sec == 1000 and images[3].header.frame_id == 'f'
    assert [round(float(depth_sample(m).data[0, 0]), 3) for m in ear.wait('depth', COUNT)] == [
        round(1 + i / 1000, 3) for i in range(COUNT)]
    assert [m.angular_velocity.z for m in ear.wait('imu', COUNT)] == list(range(COUNT))
    assert intrinsics(ear.wait('camera_info', COUNT)[0]) == (50, 51, 3, 2)
    chunks = ear.wait('audio', COUNT)
    assert [m.samples[7] for m in chunks] == list(range(COUNT))
    assert {m.sample_rate_hz for m in chunks} == {16000}
    assert len(ear.wait('/clock', 5)) >= 5


def test_stop_loop_start_and_a_rate_that_cannot_be(tmp_path: Path, ear: Ear) -> None:
    with open_bag(write_bag(tmp_path / 'b', False)) as bag:
        match = match_topics(bag, {'/cam/rgb': 'none', '/cam/depth': 'none', '/mic': 'none'})
        assert set(match.used.values()) == {Modality.IMU}
        with pytest.raises(BagError, match='rate'):
            play(bag, ear.player, match, rate=0)
        report = play(bag, ear.player, match, rate=10, start_s=0.1)
        assert report.published == {'imu': 5}
        stop = threading.Event()
        threading.Timer(1.0, stop.set).start()
        report = play(bag, ear.player, match, rate=4, stop_event=stop, loop=True)
        assert report.published['imu'] > COUNT


def test_the_command_lists_and_refuses(tmp_path: Path, ros_env: dict[str, str]) -> None:
    path = write_bag(tmp_path / 'b.bag', True)
    command = [sys.executable, '-m', 'onellm_ros.ros.bag_player']
    done = subprocess.run([*command, str(path), '--list', '--map', '/imu=none'], env=ros_env,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and '/cam/rgb' in done.stdout and '-> image' in done.stdout
    assert 'switched off' in done.stdout
    done = subprocess.run([*command, str(tmp_path / 'no')], env=ros_env, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 1 and 'check the path' in done.stderr


def test_arrays_become_messages_and_come_back() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 5, (3, 4)).astype(np.float32)
    depth[0, 0] = np.nan
    back = depth_sample(out.image_message(5, 'cam', depth))
    np.testing.assert_array_equal(back.data, depth)
    assert (back.stamp_ns, back.frame_id) == (5, 'cam')
    normals = np.zeros((3, 4, 3), np.float32)
    normals[..., 2] = -1
    back = normal_sample(out.image_message(5, '', normals))
    np.testing.assert_array_equal(back.data, normals)
    points = rng.uniform(0.1, 0.9, (50, 6)).astype(np.float32)
    back = point_sample(out.exact_cloud_message(5, 'lidar', points))
    np.testing.assert_array_equal(back.data, points)
    assert (back.stamp_ns, back.frame_id) == (5, 'lidar')
    wave = np.array([0.5, -1.0, 1.0], np.float32)
    back = audio_sample(out.audio_message(5, 'mic', wave, 16000.0))
    np.testing.assert_allclose(back.data, wave, atol=1e-4)


def test_fields_are_copied_by_name() -> None:
    source = SimpleNamespace(
        header=SimpleNamespace(seq=3, stamp=SimpleNamespace(sec=1, nanosec=2), frame_id='x'),
        height=2, width=3, distortion_model='m', D=np.ones(5), K=np.arange(9.0), R=np.zeros(9),
        P=np.zeros(12), binning_x=1, binning_y=1, roi=SimpleNamespace(
            x_offset=1, y_offset=0, height=2, width=3, do_rectify=True))
    made = fill_message(CameraInfo(), source)
    assert made.k[8] == 8 and list(made.d) == [1] * 5 and made.roi.do_rectify is True
    assert made.header.frame_id == 'x' and made.header.stamp.nanosec == 2


def test_audio_format_of_the_command_line() -> None:
    assert parse_audio_format('44100:2:s16le') == AudioFormat(44100, 2, 'S16LE')
    assert parse_audio_format('8000') == AudioFormat(8000)
    with pytest.raises(ValueError, match='expected'):
        parse_audio_format('8000:1:OGG')
