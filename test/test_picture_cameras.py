"""Which CameraInfo the picture's normals are made with: the one that the perception node takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import time
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import CameraInfo, Imu  # noqa: E402

from onellm_ros.ros import picture_cameras  # noqa: E402
from onellm_ros.ros.picture_cameras import Cameras, nearest  # noqa: E402

DEADLINE_S = 20.0


class Bench:
    """A picture node's cameras and a node in the perception node's place."""

    def __init__(self, rules: tuple[str, ...] = ()) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        words = [word for rule in rules for word in ('-r', rule)]
        self.node = Node('perception_picture', context=self.context, namespace='/r1',
                         cli_args=['--ros-args', *words] if words else None)
        self.warnings: list[str] = []
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.perception: Node | None = None

    def cameras(self, perception: str = 'perception') -> Cameras:
        return Cameras(self.node, perception, lambda what, text: self.warnings.append(text))

    def start(self, hears: tuple[str, ...], space: str = '/r1', **parameters: Any) -> None:
        """Start a perception node that hears these CameraInfo topics."""
        self.perception = Node('perception', context=self.context, namespace=space)
        for name, value in {'sources': [''], **parameters}.items():
            self.perception.declare_parameter(name.replace('__', '.'), value)
        for topic in hears:
            self.perception.create_subscription(CameraInfo, topic, lambda message: None, 1)
        self.perception.create_subscription(Imu, '/imu/camera_info', lambda message: None, 1)
        self.executor.add_node(self.perception)

    def end(self) -> None:
        assert self.perception is not None
        self.executor.remove_node(self.perception)
        self.perception.destroy_node()

    def until(self, condition: Callable[[], Any], cameras: Cameras) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end_s, f'waited in vain: {cameras._told}, {self.warnings}'
            cameras.poll()
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        if self.perception is not None:
            self.perception.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(autouse=True)
def asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_cameras, 'ASK_S', 0.3)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(('depth:=/aligned/image_raw', '/lens/c:=/lens/d'))
    yield made
    made.close()


SOURCES = {'sources': ['a', 'b', 'lidar'],
           'source__a__topic': '/cam/one/image', 'source__a__camera_info': '/lens/b',
           'source__b__topic': 'cam/two/image', 'source__b__camera_info': '/lens/c',
           'source__lidar__topic': '/lidar', 'source__lidar__camera_info': ''}


def test_a_sources_own_camera_info_is_taken_and_followed(bench: Bench) -> None:
    cameras = bench.cameras()
    assert cameras.of('/cam/one/image') == '/cam/one/camera_info', 'nobody has said otherwise'
    bench.start(('/lens/b', '/lens/d'), **SOURCES)
    bench.until(lambda: cameras.of('/cam/one/image') == '/lens/b', cameras)
    bench.until(lambda: cameras.of('/r1/cam/two/image') == '/lens/d', cameras)
    bench.end()
    bench.start(('/lens/b', '/other'), **{**SOURCES, 'source__b__camera_info': '/other'})
    bench.until(lambda: cameras.of('/r1/cam/two/image') == '/other', cameras)
    assert cameras.of('/cam/one/image') == '/lens/b' and not bench.warnings
    cameras.close()
    assert not list(bench.node.clients)


def test_the_default_inputs_have_one_camera_info(bench: Bench) -> None:
    cameras = bench.cameras('/r2/perception')
    bench.start(('/r2/camera_info',), '/r2')
    bench.until(lambda: cameras._told is not None, cameras)
    bench.until(lambda: cameras._heard(), cameras)
    assert cameras.of('/aligned/image_raw') == '/r2/camera_info'


def test_what_the_perception_node_remapped_the_graph_shows(bench: Bench) -> None:
    cameras = bench.cameras()
    bench.start(('/cam/color/camera_info', '/rear/camera_info'))
    bench.until(lambda: cameras._told is not None, cameras)
    bench.until(lambda: len(cameras._heard()) == 2, cameras)
    assert cameras._told == {'': '/r1/camera_info'}
    assert cameras.of('/cam/aligned/image_raw') == '/cam/color/camera_info'
    assert cameras.of('/rear/image_raw') == '/rear/camera_info'


def test_a_node_that_ends_before_it_answers_is_asked_again(bench: Bench) -> None:
    cameras = bench.cameras()
    bench.start(('/lens/b', '/lens/d'), **SOURCES)
    assert bench.perception is not None
    bench.executor.remove_node(bench.perception)        # it does not spin: it hangs
    bench.until(lambda: cameras._future is not None, cameras)
    asked = cameras._future
    bench.until(lambda: cameras._future is not asked, cameras)
    bench.executor.add_node(bench.perception)
    bench.until(lambda: cameras.of('/cam/one/image') == '/lens/b', cameras)


def test_the_nearest_name() -> None:
    assert nearest('/a/depth', ['/b/info', '/a/info', '/c']) == '/a/info'
    assert nearest('/a/depth', []) == ''
