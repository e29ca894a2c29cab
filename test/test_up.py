"""``onellm up``: what it refuses before anything starts, and the processes that it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')

from onellm_ros.perception.settings import SETTINGS  # noqa: E402
from onellm_ros.ros import up  # noqa: E402
from onellm_ros.ros.up_params import (  # noqa: E402
    UpError,
    check_params,
    check_remap,
    fits,
    flat,
    read_params_file,
)
from onellm_ros.ros.up_processes import how_it_ended, status_of  # noqa: E402

SOURCES = {'sources': ['front', 'lidar'],
           'source.front.topic': '/cam/image_raw/compressed', 'source.front.modality': 'image',
           'source.lidar.topic': '/velodyne_points', 'source.lidar.modality': 'point'}


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    up.add_arguments(parser)
    return parser.parse_args(words)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding='utf-8')
    return str(path)


# ---- parameter files ----------------------------------------------------------------------------

@pytest.mark.parametrize(('section', 'name', 'fit'), [
    ('/**', '/a/b/perception', True), ('**', '/perception', True),
    ('perception', '/perception', True), ('perception', '/robot1/perception', False),
    ('robot1/perception', '/robot1/perception', True), ('/*/perception', '/r/perception', True),
    ('/*/perception', '/perception', False), ('/**/perception', '/perception', True),
    ('/*', '/perception', True), ('/*', '/r/perception', False),
    ('/percept', '/perception', False)])
def test_which_sections_are_for_the_node(section: str, name: str, fit: bool) -> None:
    assert fits(section, name) is fit


def test_a_section_fits_as_ros_itself_finds(tmp_path: Path) -> None:
    """The rules are those of rcl: a real node gets what ``fits`` says, and nothing else."""
    import rclpy
    from rclpy.node import Node
    sections = ('/**', 'perception', '/*/perception', '/r/perception', '/**/perception', '/*')
    text = ''.join(f'{s}:\n  ros__parameters:\n    p{i}: 1\n' for i, s in enumerate(sections))
    path = write(tmp_path / 'p.yaml', text)
    for namespace in ('', '/r'):
        context = rclpy.Context()
        rclpy.init(context=context, args=[
            '--ros-args', '--params-file', path, '-r', f'__ns:={namespace or "/"}'])
        node = Node('perception', context=context,
                    automatically_declare_parameters_from_overrides=True)
        got = {name for name in (f'p{i}' for i in range(len(sections)))
               if node.has_parameter(name)}
        node.destroy_node()
        rclpy.shutdown(context=context)
        assert got == {f'p{i}' for i, s in enumerate(sections)
                       if fits(s, f'{namespace}/perception')}
        assert got == set(read_params_file(path, namespace))


def test_every_default_passes(root: Path) -> None:
    found = read_params_file(root / 'config' / 'onellm.yaml', 'any/where')
    assert set(SETTINGS) - {'sources', 'extrinsics'} <= set(found) | {'sources', 'extrinsics'}
    check_params(found)
    check_params(SOURCES)


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'expected NODE: ros__parameters'),
    ('a: [', 'found no YAML'),
    ('just words', 'found .just words.'),
    ('ros__parameters: {model: nano}', 'at the top'),
    ('/**:\n  model: nano', 'at \\*\\*/model: found .nano.'),
    ('camera:\n  ros__parameters: {}', 'found parameters for camera, expected some for '
     '/r/perception'),
    ('perception:\n  ros__parameters: {}', 'name the section /\\*\\*')])
def test_what_is_no_parameter_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UpError, match=words):
        read_params_file(write(tmp_path / 'p.yaml', text), 'r')
    with pytest.raises(UpError, match='no such file'):
        read_params_file(tmp_path / 'none.yaml')


@pytest.mark.parametrize(('values', 'words'), [
    ({'window.lenght_s': 1.0}, 'window.lenght_s.*did you mean window.length_s'),
    ({'reliability': 'auto'}, 'did you mean inputs.reliability'),
    ({'qqqq': 1}, 'config/onellm.yaml lists them'),
    ({'window.length_s': 'long'}, "window.length_s: found 'long', expected a float"),
    ({'window.length_s': 99999.0}, 'expected 0.01 to 3600'),
    ({'modalities': []}, r"write \[''\]"),
    ({'modalities': ['image', 3]}, 'one type'),
    ({'use_sim_time': 'yes'}, 'expected true or false'),
    ({'source.front.topic': '/a'}, "sources names only \\[\\]; expected 'front'"),
    ({'sources': ['front']}, 'source.front.topic: found none'),
    ({**SOURCES, 'source.front.colour': 'x'}, "found the key 'colour', expected one of topic"),
    ({**SOURCES, 'source.front.reliability': 'best'}, 'expected one of auto, best_effort'),
    ({**SOURCES, 'source.front.stamps': 'none'}, 'expected one of header, receive, shift, refuse'),
    ({**SOURCES, 'source.front.modality': 'smell'}, 'smell'),
    ({**SOURCES, 'source.front.topic': '/a b'}, 'expected the name of a topic'),
    ({**SOURCES, 'source.front.topic': 3}, 'expected a text'),
    ({'extrinsics': ['l'], 'extrinsic.l.xyz': [0.0, 1.0]}, 'expected 3 finite numbers')])
def test_parameters_that_the_node_would_ignore_or_refuse(values: dict[str, Any], words: str
                                                         ) -> None:
    with pytest.raises(UpError, match=words):
        check_params(values)


def test_names_of_other_nodes_and_of_rclpy() -> None:
    check_params({'seed': 3, 'autostart': False, 'qos_overrides./image.subscription.depth': 5},
                 also=('seed',))
    assert flat({'a': {'b': 1, 'c.d': 2}}) == {'a.b': 1, 'a.c.d': 2}


# ---- arguments ----------------------------------------------------------------------------------

@pytest.mark.parametrize(('words', 'text'), [
    (['--params-file', 'nowhere.yaml'], 'no such file'),
    (['--namespace', 'robot 1'], 'namespace: found .robot 1.'),
    (['--model', './none'], 'no folder'),
    (['--device', 'gpu'], 'expected auto, cpu, cuda'),
    (['--respawn', '-1'], '0 to 3600'),
    (['--remap', 'image'], 'expected FROM:=TO'),
    (['--remap', 'image:=/a b'], 'expected the name of a topic'),
    (['--remap', '__ns:=/a'], 'has an argument of its own'),
    (['--remap', 'perception:__node:=a'], 'keep their names'),
    (['--simulation', '--bag', 'x'], 'both feed the inputs'),
    (['--loop'], 'found no --bag'),
    (['--bag', 'x', '--loop', '--stop-at-end'], 'a loop has no end'),
    (['--bag', 'no_such_bag'], '--bag:.*no_such_bag'),
    (['--bag', 'x', '--rate', '0'], 'speed above 0')])
def test_arguments_that_cannot_be(words: list[str], text: str, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: Any) -> None:
        raise AssertionError('something was started')
    monkeypatch.setattr(up.Processes, 'start', never)
    assert up.run(arguments(*words)) == 2
    assert re.search(text, capsys.readouterr().err)


def test_a_plan_says_everything_to_every_process(tmp_path: Path) -> None:
    params = write(tmp_path / 'p.yaml', '/**:\n  ros__parameters: {use_sim_time: true}\n')
    made = up.plan(arguments('--params-file', params, '--namespace', 'robot1', '--simulation',
                             '--remap', 'image:=/cam', '--remap', 'imagee:=/x', '--model', 'nano',
                             '--seed', '4', '--no-autostart', '--respawn', '--log-level', 'warn'))
    node, simulation = made.arguments['perception'], made.arguments['simulation']
    for words in (node, simulation):
        text = ' '.join(words)
        for part in ('-r __ns:=/robot1', '-r image:=/cam', '--log-level warn',
                     f'--params-file {params}'):
            assert part in text, part
    assert node[-2:] == ('-p', 'autostart:=false') and 'model:="nano"' in node
    # the time comes from the simulation, which therefore cannot take it from /clock itself
    assert 'use_sim_time:=true' in node
    assert simulation.index('use_sim_time:=false') > simulation.index('use_sim_time:=true')
    assert 'realtime:=false' in simulation and 'seed:=4' in simulation
    assert made.respawn_s == up.RESPAWN_S and 'imagee' in ' '.join(made.lines)
    assert check_remap('perception:image:=/a') == ('perception:image', '/a')


def test_feeds_meet_named_sources() -> None:
    assert up.feed_remaps({}) == []
    assert up.feed_remaps({**SOURCES, 'sources': ['front', 'lidar', 'second', 'auto'],
                           'source.second.topic': '/second', 'source.second.modality': 'point',
                           'source.auto.topic': '/auto'}) == [
        'image/compressed:=/cam/image_raw/compressed', 'camera_info:=/cam/camera_info',
        'points:=/velodyne_points']
    assert up.feed_remaps({
        'sources': ['d'], 'source.d.topic': 'cam/depth', 'source.d.modality': 'depth',
        'source.d.camera_info': '/i'}) == ['depth:=cam/depth', 'camera_info:=/i']
    # as the node finds it: in the namespace, too
    assert up.feed_remaps({
        'sources': ['d'], 'source.d.topic': 'depth_raw', 'source.d.modality': 'depth'}) == [
        'depth:=depth_raw', 'camera_info:=camera_info']


def test_how_processes_end() -> None:
    assert [status_of(c) for c in (0, 3, -9)] == [0, 3, 137]
    assert how_it_ended(-9) == 'ended by signal 9 (SIGKILL)'
    assert how_it_ended(1) == 'ended with status 1'


# ---- processes ----------------------------------------------------------------------------------

class Running:
    """A running ``onellm up`` and the lines that it has printed."""

    def __init__(self, env: dict[str, str], *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'onellm_ros.cli', 'up', *words], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ''))

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                found = re.search(pattern, line)
                if found:
                    return found
            assert self.process.poll() is None, ''.join(self.lines)
            time.sleep(0.02)
        raise AssertionError(f'no {pattern!r} within {seconds} s in:\n{"".join(self.lines)}')

    def end(self, seconds: float = 60.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5.0)
        return code


@pytest.fixture
def started(ros_env: dict[str, str]) -> Iterator[Callable[..., Running]]:
    all_of_them: list[Running] = []

    def start(*words: str) -> Running:
        all_of_them.append(Running(ros_env, *words))
        return all_of_them[-1]
    yield start
    for running in all_of_them:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(20)
            except subprocess.TimeoutExpired:
                running.process.kill()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Wait until a process that is no child of this one is no more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_node_that_dies_starts_again_and_all_end_together(started: Callable[..., Running]
                                                            ) -> None:
    running = started('--no-autostart', '--namespace', 'up1', '--respawn', '0.2')
    first = int(running.wait_for(r'perception started \(pid (\d+)\)')[1])
    os.kill(first, signal.SIGKILL)
    running.wait_for(r'perception ended by signal 9 \(SIGKILL\); it is started again in 0.2 s')
    second = int(running.wait_for(r'perception started \(pid (\d+), start 2\)')[1])
    time.sleep(1.0)                                  # into the midst of its start
    running.process.send_signal(signal.SIGTERM)
    code = running.end()
    assert gone(first) and gone(second)
    assert f'perception {how_it_ended(code if code < 128 else 128 - code)}' in ''.join(
        running.lines)
    assert code != 137, ''.join(running.lines)      # it was asked, not killed


def test_a_second_signal_does_not_wait() -> None:
    calls: list[str] = []
    family: Any = argparse.Namespace(kill=lambda: calls.append('kill'))
    running = up.Up(up.plan(arguments()), family)
    running.stop()
    assert not calls
    running.stop()
    assert calls == ['kill']


def test_nothing_outlives_it_when_it_is_killed(started: Callable[..., Running]) -> None:
    running = started('--no-autostart', '--namespace', 'up2')
    pid = int(running.wait_for(r'perception started \(pid (\d+)\)')[1])
    time.sleep(1.0)
    running.process.kill()
    running.process.wait(10)
    assert gone(pid)


def test_parameters_that_ros_alone_knows_to_be_wrong_end_it(started: Callable[..., Running],
                                                            tmp_path: Path) -> None:
    """The node's own status is returned, and such a node is not started again."""
    params = write(tmp_path / 'p.yaml',
                   '/**:\n  ros__parameters: {start_type_description_service: 3}\n')
    running = started('--params-file', params, '--respawn', '0.1', '--namespace', 'up3')
    code = running.end()
    text = ''.join(running.lines)
    assert code == 2 and text.count('perception started') == 1, text


def write_imu_bag(path: Path, seconds: float) -> Path:
    import numpy as np
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds, kind, zeros = store.types, 'sensor_msgs/msg/Imu', np.zeros(9)
    vector = kinds['geometry_msgs/msg/Vector3']
    with Writer(path, version=9) as writer:
        connection = writer.add_connection('/my_imu', kind, typestore=store)
        for i in range(round(seconds * 100)):
            ns = 10**12 + i * 10**7
            header = kinds['std_msgs/msg/Header'](
                kinds['builtin_interfaces/msg/Time'](ns // 10**9, ns % 10**9), 'imu')
            message = kinds[kind](
                header, kinds['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0), zeros,
                vector(0.0, 0.0, 0.1), zeros, vector(0.0, 0.0, 9.8), zeros)
            writer.write(connection, ns, store.serialize_cdr(message, kind))
    return path


@pytest.mark.slow
def test_a_recording_is_described_until_its_end(started: Callable[..., Running], tmp_path: Path
                                                ) -> None:
    """The recording waits for the node; the real model describes it; the end ends everything."""
    from onellm_msgs.msg import Description
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    bag = write_imu_bag(tmp_path / 'bag', 4.0)
    context = rclpy.Context()
    rclpy.init(context=context)
    node, heard = Node('ear', context=context), []
    node.create_subscription(Description, '/up4/perception/description', heard.append, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    running = started('--bag', str(bag), '--stop-at-end', '--namespace', 'up4', '--remap',
                      'imu:=/other/imu', '--use-sim-time', '--device', 'cpu')
    end = time.monotonic() + 150.0
    try:
        while running.process.poll() is None:
            executor.spin_once(timeout_sec=0.1)
            assert time.monotonic() < end, ''.join(running.lines)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    code, text = running.end(), ''.join(running.lines)
    assert code == 0, text
    for pattern in (r'up: perception subscribes to .*/other/imu \(sensor_msgs/msg/Imu\)',
                    r'up: bag_player started \(pid', r'played 400 on imu',
                    r'up: bag_player ended with status 0', r'up: perception ended with status 0'):
        assert re.search(pattern, text), (pattern, text)
    assert text.index('subscribes to') < text.index('bag_player started')
    assert heard and heard[0].window_end.sec in range(1000, 1005) and heard[0].text
