"""The simulation node: times of its feeds, layouts of its messages, and what it publishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from onellm_ros.ros import conversions
from onellm_ros.ros.simulation_feeds import LATE_S, Feed, run_at_once, run_live
from onellm_ros.ros.truth_json import truth_from_json, truth_to_json
from onellm_ros.simulation.truth import SeenObject, Truth

STAMP = 1_700_000_000_123_456_789
BOX = SeenObject(3, 'box', 'red', 'left', 1.5, 0.4, 0.05, 0.9)
TRUTH = Truth(7, (BOX,), 'turning left', 'a bell', 'wood', 'white', 2.5)


def nothing(_: float) -> Callable[[], None]:
    return lambda: None


# ---- times --------------------------------------------------------------------------------------

def test_a_feed_begins_at_its_phase_or_at_the_first_instant_that_is_not_negative() -> None:
    assert Feed('a', 10.0, nothing, 0.1).next_s == pytest.approx(0.1)
    assert Feed('b', 5.0, nothing, -0.01).next_s == pytest.approx(0.19)
    assert Feed('c', 1.0, nothing).next_s == 0.0


def test_a_feed_that_keeps_up_leaves_nothing_out() -> None:
    feed = Feed('camera', 5.0, nothing, -0.01, may_skip=True)
    times = []
    for _ in range(10):
        times.append(feed.choose(feed.next_s - 0.19))
        feed.done(0.06, True)
    np.testing.assert_allclose(times, 0.19 + 0.2 * np.arange(10), atol=1e-9)
    assert feed.sent == 10 and feed.skipped == 0


def test_a_slow_feed_skips_and_keeps_the_last_instant_of_each_second() -> None:
    feed = Feed('camera', 5.0, nothing, -0.01, may_skip=True)
    now, times = 0.0, []
    while now < 5.0:
        at = feed.choose(now)
        times.append(at)
        feed.done(0.32, True)
        now = max(at, now + 0.32)
    assert {round(t % 1.0, 3) for t in times} >= {0.99}
    assert all(any(abs(t - (k - 0.01)) < 1e-6 for t in times) for k in range(1, 6))
    assert feed.skipped > 0 and feed.skipped + feed.sent >= 24


def test_live_feeds_send_at_their_times_and_leave_out_what_is_late() -> None:
    clock = [0.0]

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock[0] += timeout or 0.0
            return self.is_set()
    stop, sent = Stop(), []

    def slow(t: float) -> Callable[[], None]:
        clock[0] += 0.05 if t < 1.0 else 3.0 + LATE_S
        return lambda: sent.append(('slow', round(t, 3), clock[0]))

    def quick(t: float) -> Callable[[], None]:
        if t > 2.0:
            stop.set()
        return lambda: sent.append(('quick', round(t, 3), clock[0]))
    slow_feed = Feed('slow', 2.0, slow, may_skip=True)
    run_live([slow_feed, Feed('quick', 4.0, quick)], lambda: clock[0], stop)
    assert [t for name, t, _ in sent if name == 'quick'][:9] == [k / 4 for k in range(9)]
    assert [t for name, t, _ in sent if name == 'slow'] == [0.0, 0.5]
    assert all(at >= t - 1e-9 for _, t, at in sent)
    assert slow_feed.skipped >= 1


def test_at_once_sends_everything_in_order_and_tells_the_time() -> None:
    stop, sent, told = threading.Event(), [], []

    def make(name: str) -> Callable[[float], Callable[[], None]]:
        def prepare(t: float) -> Callable[[], None]:
            if t >= 1.0:
                stop.set()
            return lambda: sent.append((t, name))
        return prepare
    run_at_once([Feed('a', 4.0, make('a')), Feed('b', 2.0, make('b'), may_skip=True)],
                told.append, stop)
    assert [t for t, _ in sent] == sorted(t for t, _ in sent) == told
    assert [name for t, name in sent if t < 1.0] == ['a', 'b', 'a', 'a', 'b', 'a']


# ---- messages -----------------------------------------------------------------------------------

def test_messages_come_back_as_they_were() -> None:
    out = pytest.importorskip('onellm_ros.ros.messages_out', exc_type=ImportError)
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sample = conversions.image_sample(out.image_message(STAMP, 'camera', picture))
    assert sample.stamp_ns == STAMP and sample.frame_id == 'camera'
    np.testing.assert_array_equal(sample.data, picture)
    depth = rng.uniform(0.5, 4.0, (6, 8)).astype(np.float32)
    depth[0, 0] = np.nan
    np.testing.assert_array_equal(
        conversions.depth_sample(out.image_message(STAMP, 'camera', depth)).data, depth)
    normal = np.zeros((6, 8, 3), np.float32)
    normal[..., 2] = -1.0
    np.testing.assert_array_equal(
        conversions.normal_sample(out.image_message(STAMP, 'camera', normal)).data, normal)
    with pytest.raises(ValueError, match='expected uint8'):
        out.image_message(STAMP, '', np.zeros((2, 2), np.uint8))
    info = out.camera_info_message(STAMP, 'camera', (8, 6), (5.0, 5.5, 3.5, 2.5))
    assert conversions.intrinsics(info) == (5.0, 5.5, 3.5, 2.5)
    assert (info.width, info.height) == (8, 6)


def test_signals_come_back_as_they_were() -> None:
    out = pytest.importorskip('onellm_ros.ros.messages_out', exc_type=ImportError)
    rng = np.random.default_rng(2)
    cloud = np.concatenate([rng.normal(size=(50, 3)), rng.integers(0, 256, (50, 3)) / 255.0],
                           axis=1).astype(np.float32)
    found = conversions.point_sample(out.coloured_cloud_message(STAMP, 'base_link', cloud))
    assert found.frame_id == 'base_link'
    np.testing.assert_allclose(found.data, cloud, atol=1e-6)
    message = out.empty_imu_message('imu')
    out.fill_imu(message, STAMP, np.arange(6.0))
    assert message.orientation_covariance[0] == -1.0
    np.testing.assert_array_equal(conversions.imu_sample(message).data, np.arange(6.0))
    wave = np.array([0.0, 0.5, -1.0, 2.0], np.float32)
    heard = conversions.audio_sample(out.audio_message(STAMP, 'mic', wave, 16000.0))
    assert heard.rate_hz == 16000.0 and heard.stamp_ns == STAMP
    np.testing.assert_allclose(heard.data, [0.0, 0.5, -1.0, 1.0], atol=1e-4)
    voxels = out.synthetic_voxels_message(np.arange(3, dtype=np.float32))
    assert 'synthetic' in voxels.layout.dim[0].label and voxels.layout.dim[0].size == 3
    np.testing.assert_array_equal(conversions.fmri_sample(voxels).data, [0, 1, 2])


def test_truth_as_json() -> None:
    assert truth_from_json(truth_to_json(STAMP, TRUTH)) == (STAMP, TRUTH)
    for bad in ('', '[]', '{}', '{"stamp_ns": 1, "seen": []}'):
        with pytest.raises(ValueError, match='expected the JSON'):
            truth_from_json(bad)


# ---- the node -----------------------------------------------------------------------------------

def start(env: dict[str, str], log: Path, *parameters: str) -> subprocess.Popen[bytes]:
    words = [word for p in parameters for word in ('-p', p)]
    with log.open('wb') as file:
        return subprocess.Popen(
            [sys.executable, '-m', 'onellm_ros.ros.simulation_node', '--ros-args', *words],
            env=dict(env, PYTHONUNBUFFERED='1'), stdout=file, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'{what} did not come within {seconds} s'
        time.sleep(0.02)


def test_wrong_parameters_end_it_with_a_clear_line(ros_env: dict[str, str], tmp_path: Path
                                                   ) -> None:
    pytest.importorskip('rclpy')
    for parameter, text in (('camera_width:=5', 'camera_width: found 5, expected 32 to 1920'),
                            ('seed:=ten', "seed: found 'ten', expected a int")):
        process = start(ros_env, tmp_path / 'log', parameter)
        assert process.wait(120) == 2
        assert text in (tmp_path / 'log').read_text()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_while_it_prepares(ros_env: dict[str, str], tmp_path: Path,
                                          number: signal.Signals) -> None:
    pytest.importorskip('rclpy')
    process = start(ros_env, tmp_path / 'log')
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(60) in (0, -number, 1)


@pytest.mark.slow
def test_the_world_as_others_hear_it(ros_env: dict[str, str], tmp_path: Path) -> None:
    """Every topic speaks with stamps of one clock, and the truth comes at whole seconds."""
    rclpy = pytest.importorskip('rclpy')
    from onellm_msgs.msg import AudioChunk, Description
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2
    from std_msgs.msg import Float32MultiArray, String

    log = tmp_path / 'log'
    process = start(ros_env, log, 'seed:=5', 'camera_width:=64', 'camera_height:=48',
                    'cloud_points:=256', 'normals:=true')
    context = Context()
    rclpy.init(context=context, domain_id=int(os.environ['ROS_DOMAIN_ID']))
    node = Node('listener', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    got: dict[str, list] = defaultdict(list)
    kinds = {'image': Image, 'depth': Image, 'normal': Image, 'camera_info': CameraInfo,
             'points': PointCloud2, 'imu': Imu, 'audio': AudioChunk, 'fmri': Float32MultiArray,
             '/simulation/truth': Description, '/simulation/truth_json': String}
    for name, kind in kinds.items():
        node.create_subscription(kind, name, got[name].append, QoSProfile(depth=500))
    try:
        end = time.monotonic() + 150.0
        while (len(got['/simulation/truth_json']) < 3 or len(got['image']) < 3
               or any(not got[name] for name in kinds)):
            assert time.monotonic() < end, {n: len(m) for n, m in got.items()}
            assert process.poll() is None, log.read_text()
            executor.spin_once(timeout_sec=0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    stamps = {name: [conversions.stamp_ns(m) for m in got[name]] for name in kinds
              if name not in ('fmri', '/simulation/truth_json')}
    for name, values in stamps.items():
        assert values == sorted(set(values)), name
    everything = [s for values in stamps.values() for s in values]
    assert max(everything) - min(everything) < 150e9       # one clock
    assert set(np.diff(stamps['imu'])) == {5_000_000}
    assert set(np.diff(stamps['audio'])) == {100_000_000}
    assert {len(m.samples) for m in got['audio']} == {1600}
    both = set(stamps['image']) & set(stamps['depth']) & set(stamps['camera_info'])
    assert len(both) >= min(len(stamps['image']), len(stamps['depth'])) - 1
    assert {s % 200_000_000 for s in stamps['image']} == {190_000_000}
    assert {s % 1_000_000_000 for s in stamps['/simulation/truth']} == {0}
    stamp, truth = truth_from_json(got['/simulation/truth_json'][0].data)
    assert stamp == stamps['/simulation/truth'][0] and truth.seed == 5
    assert got['/simulation/truth'][0].text and got['points'][0].header.frame_id == 'base_link'
    assert 'ended; messages sent: imu' in log.read_text()
