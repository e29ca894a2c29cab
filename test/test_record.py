"""Recording a running node, and replaying that: the same windows, the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg', reason='onellm_msgs is not built here: run make setup')

from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data  # noqa: E402
import replay_parts as parts  # noqa: E402
from sensor_msgs.msg import CameraInfo, Imu  # noqa: E402
from test_perception_node import BASE_S, Bench, picture, stamp  # noqa: E402
from test_replay import lines, windows  # noqa: E402
import yaml  # noqa: E402

from onellm_ros.replay.bags import open_bag  # noqa: E402
from onellm_ros.replay.description_bag import typestore  # noqa: E402
from onellm_ros.ros.definitions import Types, definitions_of  # noqa: E402
from onellm_ros.ros.record import Recorder, RecordError, find_node, record  # noqa: E402
from onellm_ros.ros.record_file import check_free  # noqa: E402

S = 1_000_000_000
# a stall of the machine must not close windows
CALM = {'window.deadline_s': 8.0, 'window.silence_s': 8.0}


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**overrides: Any) -> Bench:
        made.append(Bench(parts.FakeEngine(), **{**CALM, **overrides}))
        return made[-1]
    yield make
    for bench in made:
        bench.close()


class Recording:
    """A recorder in a thread of its own."""

    def __init__(self, bench: Bench, path: Path, *only: str) -> None:
        self.recorder = Recorder('/perception', path, only, context=bench.context)
        self.stopped: list[Any] = []
        self.failures: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            record(self.recorder, self.stopped)
        except BaseException as error:  # noqa: BLE001 (shown to the test)
            self.failures.append(error)

    def stop(self) -> None:
        self.stopped.append(1)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.recorder.destroy_node()


def nanoseconds(time_message: Any) -> int:
    return time_message.sec * S + time_message.nanosec


def test_a_recorded_node_and_its_replay(benches: Callable[..., Bench], tmp_path: Path) -> None:
    bench = benches(**{'describe.prompt': 'Say it.', 'window.period_s': 0.1})
    latched = bench.robot.create_publisher(CameraInfo, 'camera_info', QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    latched.publish(CameraInfo(height=8, width=12, k=[
        10.0, 0.0, 5.5, 0.0, 10.0, 3.5, 0.0, 0.0, 1.0]))
    bench.publishers['imu'] = bench.robot.create_publisher(Imu, 'imu', qos_profile_sensor_data)
    bench.activate()
    recording = Recording(bench, tmp_path / 'bag')
    try:
        bench.connect(depth=type(picture(0)), image=type(picture(0)))
        bench.until(lambda: all(p.get_subscription_count() > 1
                                for p in (*bench.publishers.values(), latched)))
        told = recording.recorder
        bench.until(lambda: told.parameters.first and told.sources.model)
        time.sleep(0.3)         # the subscriptions must have found their publishers, too
        bench.drive(2.0, paced=1.5, depth=True)     # slow: the node's queue holds ten pictures
        bench.until(lambda: len(bench.windows) >= 15 and bench.descriptions and nanoseconds(
            bench.descriptions[-1].window_end) == nanoseconds(bench.windows[-1].window_end))
        bench.node.set_parameters([Parameter('describe.prompt', value='And now?'),
                                   Parameter('modalities', value=['image', 'imu'])])
        bench.until(lambda: len(told.parameters.changes) == 2)
        bench.drive(1.0, BASE_S + 2.0, paced=1.5, depth=True)
        bench.until(lambda: len(bench.windows) >= 25 and len(bench.descriptions) >= 5)
        bench.until(lambda: recording.recorder.file.counts['/perception/description']
                    >= len(bench.descriptions))
        time.sleep(0.8)         # a look at the graph, with the newest diagnostics
    finally:
        recording.stop()
    assert not recording.failures
    report = yaml.safe_load((tmp_path / 'bag' / 'report.yaml').read_text())
    assert report['model'] == 'fake@01234567' and report['parameters']['describe.prompt'] == \
        'Say it.' and report['not_recorded'] == {}
    heard = {s['name']: s for s in report['sources']}
    assert heard['image'] == {'name': 'image', 'modality': 'image', 'topics': ['/image'],
                              'camera_info': '/camera_info'}
    assert heard['imu']['topics'] == ['/imu'] and heard['audio']['topics'] == []
    with open_bag(tmp_path / 'bag') as bag:
        assert not bag.problems
        counts = {t.name: t.count for t in bag.topics()}
        assert (counts['/image'], counts['/depth'], counts['/imu'], counts['/camera_info']) == (
            60, 60, 150, 1)
        assert {'/diagnostics', '/perception/window', '/perception/description',
                '/parameter_events'} <= set(counts)
        said = [m.message for m in bag.messages(['/perception/description'])]
        assert [m.text for m in said] == [m.text for m in bench.descriptions]
        (_, _, qos) = bag.definition('/camera_info')
        assert qos[0].durability.name == 'TRANSIENT_LOCAL'
        assert bag.type_hash('/perception/description') == typestore().hash_rihs01(
            'onellm_msgs/msg/Description')
    assert parts.replay(tmp_path / 'bag', '--out', tmp_path / 'out') == 0
    assert lines(tmp_path / 'out')[0]['settings']['describe']['prompt'] == 'Say it.'
    again = {w['end_ns']: w for w in windows(tmp_path / 'out')}
    live = {nanoseconds(w.window_end): w for w in bench.windows}
    assert len(live) >= 25 and list(again)[:len(live)] == list(live)
    for end_ns, report_live in live.items():
        record_again = again[end_ns]
        assert record_again['closed_by'] == report_live.closed_by
        assert [(m['modality'], m['count'], m['first_ns'], m['topics'])
                for m in record_again['modalities']] == [
            (m.modality, m.count, nanoseconds(m.first_stamp), list(m.topics))
            for m in report_live.modalities if m.count]
    prompts = [d.prompt for d in bench.descriptions]
    assert set(prompts) == {'Say it.', 'And now?'} and prompts == sorted(prompts, reverse=True)
    assert {m.modality for m in bench.descriptions[-1].modalities} == {'image', 'imu'}
    for text in bench.descriptions:
        assert again[nanoseconds(text.window_end)]['text'] == text.text


@pytest.mark.slow
def test_interrupted_it_is_whole_and_killed_it_can_be_read(
        benches: Callable[..., Bench], tmp_path: Path, ros_env: dict[str, str]) -> None:
    bench = benches()
    bench.activate()
    for number in (signal.SIGINT, signal.SIGKILL):
        path = tmp_path / number.name
        process = subprocess.Popen(
            [sys.executable, '-m', 'onellm_ros.cli', 'record', '--out', str(path), '--topics',
             'image', '/perception/window'], env=ros_env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        try:
            bench.connect(image=type(picture(0)))
            bench.until(lambda: bench.publishers['image'].get_subscription_count() > 1)
            bench.until((path / 'report.yaml').exists)
            begin = int(number) * 1000.0 + 1_700_000_000
            end_s = time.monotonic() + 30.0     # that both have found each other, its file tells
            file = path / f'{path.name}.mcap'
            while not file.exists() or file.stat().st_size < 500:
                assert time.monotonic() < end_s, 'nothing was recorded'
                bench.publish('image', picture(begin - 100 + (time.monotonic() - end_s)))
                time.sleep(0.1)
            for i in range(24):
                bench.publish('image', picture(begin + i / 10))
                time.sleep(0.1)         # longer than the second after which it is on the disk
            process.send_signal(number)
            said, errors = process.communicate(timeout=20)
        finally:
            process.kill()
        assert (path / 'metadata.yaml').exists() == (number is signal.SIGINT), errors
        assert process.returncode == (0 if number is signal.SIGINT else -signal.SIGKILL)
        with open_bag(path) as bag:
            stamps = [nanoseconds(m.message.header.stamp) for m in bag.messages(['/image'])]
            stamps = [ns for ns in stamps if ns >= nanoseconds(stamp(begin))]
            whole = [nanoseconds(stamp(begin + i / 10)) for i in range(24)]
            assert {t.name for t in bag.topics()} <= {'/image', '/perception/window'}
        if number is signal.SIGINT:
            assert stamps == whole and 'messages of 2 topics' in said
        else:
            assert stamps == whole[:len(stamps)] and len(stamps) >= 8
        bench.until(lambda: bench.publishers['image'].get_subscription_count() == 1)


def test_a_full_disk_ends_it_and_what_is_written_can_be_read(
        benches: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benches()
    bench.activate()
    recording = Recording(bench, tmp_path / 'bag', '/image')
    bench.connect(image=type(picture(0)))
    bench.until(lambda: bench.publishers['image'].get_subscription_count() > 1)
    time.sleep(0.3)
    for i in range(5):
        bench.publish('image', picture(1_700_000_000 + i))
    bench.until(lambda: recording.recorder.file.counts.get('/image') == 5)
    bench.until(lambda: (tmp_path / 'bag/bag.mcap').stat().st_size > 500)

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(recording.recorder.file._writer, 'write', full)
    bench.publish('image', picture(1_700_000_009))
    bench.until(lambda: recording.failures)
    recording.stop()
    (error,) = recording.failures
    assert isinstance(error, RecordError) and 'No space left' in str(error)
    assert '; 5 messages until then can be read' in str(error)
    with open_bag(tmp_path / 'bag') as bag:
        assert len(list(bag.messages(['/image']))) == 5
    with pytest.raises(RecordError, match='exists already'):
        Recorder('/perception', tmp_path / 'bag', context=bench.context)


def test_nodes_that_are_not_there(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.until(lambda: 'perception' in bench.robot.get_node_names())
    assert find_node(bench.robot, '', 5.0) == '/perception'
    with pytest.raises(RecordError, match='no node /else.*/perception'):
        find_node(bench.robot, 'else', 0.0)
    assert find_node(bench.robot, 'else', 60.0, stopped=[signal.SIGINT]) == ''


def test_where_it_cannot_be_written_is_told_before_a_node_is_waited_for(tmp_path: Path) -> None:
    check_free(tmp_path / 'new' / 'deep')
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    for path, why in ((tmp_path, 'exists already'), (tmp_path / 'link', 'exists already'),
                      (tmp_path / 'file' / 'bag', 'file is no folder that can be written')):
        with pytest.raises(RecordError, match=why):
            check_free(path)


def test_definitions_of_installed_types() -> None:
    texts = definitions_of('sensor_msgs/msg/CameraInfo')
    assert {'float64[] d', 'float64[9] k', 'sensor_msgs/RegionOfInterest roi'} <= set(
        texts['sensor_msgs/msg/CameraInfo'].splitlines())
    assert 'bool do_rectify' in texts['sensor_msgs/msg/RegionOfInterest']
    types, real = Types(), typestore()
    for name in ('onellm_msgs/msg/Description', 'sensor_msgs/msg/Imu'):
        types.learn(name)
        assert types.store.hash_rihs01(name) == real.hash_rihs01(name)
    with pytest.raises(ImportError):
        types.learn('nobody_msgs/msg/Nothing')
