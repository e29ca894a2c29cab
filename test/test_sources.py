"""The sources and frames that a robot's parameters name, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
import math
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest

from onellm_ros.config import NANO, ConfigError
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import InputConfig, NodeConfig, SourceConfig
from onellm_ros.perception.extrinsics import FrameTree, Placer, Transform, moved
from onellm_ros.perception.intake import Intake
from onellm_ros.perception.robot_params import names_of, strangers, with_robot
from onellm_ros.perception.sources import (
    Plan,
    SourceTable,
    camera_beside,
    modality_of,
    source_table,
    spec_for,
    unfit,
)
from onellm_ros.windows import Event, Window

S = 1_000_000_000
SHOWN = frozenset({Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.POINT, Modality.IMU,
                   Modality.AUDIO})
IMAGE, CLOUD = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/PointCloud2'


def config(**values: Any) -> NodeConfig:
    """Return settings of a robot; ``front__topic`` is ``source.front.topic``."""
    named = {f'source.{k.replace("__", ".")}': v for k, v in values.items() if '__' in k}
    names = list(dict.fromkeys(k.split('.')[1] for k in named))
    return with_robot(NodeConfig(), {'sources': names, **named})


@pytest.mark.parametrize('values, text', [
    ({'sources': ['a']}, "source.a.topic: found none, expected the topic of the source 'a'"),
    ({'sources': ['a', 'b', 'a']}, "found 'a' twice"),
    ({'sources': ['a b']}, 'expected letters'),
    ({'sources': ['model']}, 'none of camera_info, model'),
    ({'sources': 'a'}, 'expected a list of names'),
    ({'source.a.topik': '/x'}, "found the key 'topik', expected one of topic, .*did you mean "
                               'topic?'),
    ({'source.a.topic': 7}, 'source.a.topic: found 7, expected a text'),
    ({'source.a.modality': 'smell'}, 'source.a.modality: unknown modality'),
    ({'source.a.type': 'Image'}, 'expected package/msg/Name'),
    ({'source.a.stamps': 'guess'}, 'expected one of header, receive, shift, refuse'),
    ({'source.a.reliability': 'good'}, 'expected one of auto, best_effort, reliable'),
    ({'sources': ['a', 'b'], 'source.a.topic': '/x', 'source.b.topic': '/x'},
     "found '/x', which the source 'a' has, too"),
    ({'extrinsic.a.xyz': [1.0, 2.0]}, r'found \[1.0, 2.0\], expected 3 finite numbers'),
    ({'extrinsic.a.rpy': [0.0, math.nan, 0.0]}, 'expected 3 finite numbers'),
    ({'extrinsic.a.rpy': 1.5}, 'expected 3 finite numbers'),
    ({'extrinsics': ['a'], 'extrinsic.a.frame': '/base_link'}, 'the base_frame itself'),
    ({'extrinsics': ['a', 'b'], 'extrinsic.a.frame': 'b'}, 'whose pose extrinsic.a gives, too'),
])
def test_wrong_parameters_are_refused_by_name(values: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        with_robot(NodeConfig(), values)


def test_parameters_of_a_robot() -> None:
    values = {'sources': ['front', 'front_depth'], 'source.front.topic': '/front/image',
              'source.front_depth.topic': '/front/image', 'source.front_depth.modality': 'DEPTH',
              'source.front.type': 'sensor_msgs/Image', 'source.rear.topic': '/rear',
              'extrinsics': ['lidar'], 'extrinsic.lidar.xyz': [1, 0, 2], 'window.length_s': 9.0}
    found = with_robot(NodeConfig(), values)
    assert [(s.name, s.modality, s.type) for s in found.sources] == [
        ('front', '', IMAGE), ('front_depth', 'depth', '')]
    assert found.extrinsics[0].xyz == (1.0, 0.0, 2.0) and found.window == NodeConfig().window
    assert strangers(values) == [
        "source.rear: found its parameters, but sources names only ['front', 'front_depth']; "
        "expected 'rear' there, else it has no effect"]
    assert names_of('sources', ['']) == ()


@pytest.mark.parametrize('topic, camera', [
    ('/front/image_raw', '/front/camera_info'), ('image', 'camera_info'),
    ('/front/image_raw/compressed', '/front/camera_info'), ('/image', '/camera_info'),
    ('image/compressed', 'camera_info'), ('/image/compressed', '/camera_info'),
    ('oak/rgb/image', 'oak/rgb/camera_info'),
    ('/d/image_rect/compressedDepth', '/d/camera_info')])
def test_the_calibration_beside_a_picture(topic: str, camera: str) -> None:
    assert camera_beside(topic) == camera


def test_what_is_known_of_a_source_and_what_its_publisher_must_show() -> None:
    table = source_table(config(
        front__topic='/front/image_raw', front__modality='image', front__stamps='shift',
        rear__topic='/rear/image_raw', rear__type=IMAGE, lidar__topic='/points',
        roof__topic='/roof', roof__type=CLOUD, roof__frame='roof_link',
        brain__topic='/bold', brain__modality='fmri'), SHOWN)
    assert [(s.name, s.modality, s.topics, s.camera_info) for s in table.specs] == [
        ('front', Modality.IMAGE, (('/front/image_raw', ''),), '/front/camera_info'),
        ('roof', Modality.POINT, (('/roof', CLOUD),), '')]
    assert table.specs[0].stamps == 'shift' and table.specs[1].frame == 'roof_link'
    assert [s.name for s in table.open] == ['rear', 'lidar']  # pictures: the first message shows
    assert table.left_out == ('brain: the model is not shown fmri',)
    later = table.with_spec(spec_for(table.open[0], IMAGE, Modality.DEPTH))
    assert [s.name for s in later.specs] == ['front', 'rear', 'roof']  # in order of rank
    assert [s.name for s in later.open] == ['lidar']
    plan = Plan.of(later, NodeConfig(), NANO.tokenizer, SHOWN)
    assert list(plan.choice.streams) == ['front', 'rear', 'roof']
    assert [s.lookback_ns > 0 for s in plan.windows.streams] == [True, False, False]


@pytest.mark.parametrize('values, text', [
    ({'a__type': CLOUD, 'a__modality': 'imu'}, 'expected Imu for the modality imu'),
    ({'a__type': 'std_msgs/msg/String'}, 'expected its modality, too'),
    ({'a__modality': 'video'}, 'made of an image source'),
    ({'a__modality': 'fmri'}, 'the model is not shown fmri; expected some of image')])
def test_sources_that_cannot_be(values: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        source_table(config(a__topic='/x', **values), SHOWN)


def test_types_of_sound_are_found_by_their_fields() -> None:
    chunk = ('header', 'sample_rate_hz', 'channels', 'samples')
    assert modality_of('my_msgs/msg/Sound', '/mic', SHOWN, chunk) is Modality.AUDIO
    assert not unfit(Modality.AUDIO, 'audio_common_msgs/msg/AudioData', ('data',))
    assert not unfit(Modality.AUDIO, 'audio_common_msgs/msg/AudioStamped', ('header', 'audio'))
    assert 'audio_data or data or samples' in unfit(
        Modality.AUDIO, 'sensor_msgs/msg/Imu', ('header', 'orientation'))
    scan = Modality('scan')
    laser = 'sensor_msgs/msg/LaserScan'
    assert modality_of(laser, '/scan', {*SHOWN, scan}) is scan
    assert modality_of(laser, '/scan', SHOWN) is None
    open_audio = source_table(NodeConfig(inputs=InputConfig(audio_type='')), SHOWN)
    assert next(s.topics for s in open_audio.specs if s.name == 'audio') == (('audio', ''),)


def test_the_halves_of_an_imu_are_one_source() -> None:
    table = source_table(config(
        gyro__topic='/camera/gyro/sample', gyro__modality='imu',
        accel__topic='/camera/accel/sample', accel__modality='imu',
        base__topic='/imu', base__modality='imu'), SHOWN)
    assert [(s.name, [t for t, _ in s.topics]) for s in table.specs] == [
        ('gyro', ['/camera/gyro/sample', '/camera/accel/sample']), ('base', ['/imu'])]
    assert table.rank == ('gyro', 'base')


def test_of_a_required_modality_the_first_source_is_waited_for() -> None:
    robot = config(a__topic='/a', a__modality='image', b__topic='/b', b__modality='image')
    waiting = NodeConfig(window=NodeConfig().window.__class__(required=('image',)))
    plan = Plan.of(source_table(robot, SHOWN), waiting, NANO.tokenizer, SHOWN)
    assert [s.required for s in plan.windows.streams] == [True, False]
    with pytest.raises(ConfigError, match="found 'image'"):
        Plan.of(SourceTable(()), waiting, NANO.tokenizer, SHOWN)
    only_open = source_table(config(a__topic='/a'), SHOWN)
    assert Plan.of(only_open, waiting, NANO.tokenizer, SHOWN).windows.streams == ()


# -- the intake -------------------------------------------------------------------------------


def test_a_source_that_cannot_join_leaves_nothing_behind() -> None:
    robot = config(front__topic='/a', front__type=IMAGE, front__modality='image',
                   front__camera_info='/a_info')
    table, wrong = source_table(robot, SHOWN), []
    windows = Plan.of(table, robot, NANO.tokenizer, SHOWN).windows
    intake = Intake(table.specs, robot.inputs, windows, on_window=wrong.append,
                    on_jump=lambda: wrong.append('jump'), on_event=wrong.append,
                    on_wrong=lambda topic, text: wrong.append(f'{topic}: {text}'))
    feeds, cameras = list(intake.feeds), list(intake.camera_feeds)
    twin = SourceConfig('twin', topic='/a', modality='image', camera_info='/b_info')
    with pytest.raises(ConfigError, match='found /a as image for front and twin'):
        intake.use((*table.specs, spec_for(twin, IMAGE, Modality.IMAGE)), windows)
    intake.use(table.specs, windows)
    assert intake.feeds == feeds and intake.camera_feeds == cameras and wrong == []
    # a converter of a registered modality may raise anything
    feeds[0].convert = lambda message, _: (_ for _ in ()).throw(RuntimeError('shape mismatch'))
    intake.receive(feeds[0], Message(), S, S)
    assert wrong == ['/a: malformed message: RuntimeError: shape mismatch']


# -- stamps -----------------------------------------------------------------------------------


def imu(stamp_ns: int) -> Message:
    part = Message(x=0.1, y=0.0, z=9.8)
    return Message(
        header=Message(stamp=Message(sec=stamp_ns // S, nanosec=stamp_ns % S), frame_id='imu'),
        linear_acceleration=part, angular_velocity=part)


def test_other_inputs_of_an_earlier_time_are_followed() -> None:
    robot = config(a__topic='/a', a__modality='imu', a__type='sensor_msgs/msg/Imu',
                   b__topic='/b', b__modality='imu', b__type='sensor_msgs/msg/Imu')
    table = source_table(robot, SHOWN)
    windows: list[Window] = []
    said: list[Any] = []
    intake = Intake(table.specs, robot.inputs, Plan.of(
        table, robot, NANO.tokenizer, SHOWN).windows, on_window=windows.append,
        on_jump=lambda: said.append('jump'), on_event=said.append, on_wrong=lambda *_: None)
    first, second = intake.feeds
    for i in range(1000):               # a ends after 10 s; b is of a recording of long ago
        feed, then = (first, 1_700_000_000) if i < 500 else (second, 1_400_000_000)
        stamp = then * S + i * S // 50
        intake.receive(feed, imu(stamp), stamp, i * S // 50)
        intake.poll(i * S // 50)
    ends = [w.end_ns // S for w in windows]
    assert 1_700_000_009 in ends and ends[-1] == 1_400_000_019
    assert 1_400_000_015 in ends and said.count('jump') == 1
    assert [e.kind for e in said if e != 'jump'].count('backward') == 1


def run(policies: Mapping[str, str], offsets_s: Mapping[str, float], seconds: float = 6.0
        ) -> tuple[dict[str, set[str]], list[Event], list[str], Intake]:
    """Feed IMUs of 50 Hz whose clocks are off; return who is in the windows, and what is said."""
    robot = config(**{f'{n}__topic': f'/{n}' for n in policies},
                   **{f'{n}__modality': 'imu' for n in policies},
                   **{f'{n}__type': 'sensor_msgs/msg/Imu' for n in policies},
                   **{f'{n}__stamps': p for n, p in policies.items()})
    table = source_table(robot, SHOWN)
    windows: list[Window] = []
    events: list[Event] = []
    wrong: list[str] = []
    intake = Intake(table.specs, robot.inputs, Plan.of(
        table, robot, NANO.tokenizer, SHOWN).windows, on_window=windows.append,
        on_jump=lambda: wrong.append('jump'), on_event=events.append,
        on_wrong=lambda topic, text: wrong.append(f'{topic}: {text}'))
    for i in range(round(seconds * 50)):
        now = 1_700_000_000 * S + i * S // 50
        for feed in intake.feeds:
            offset = round(offsets_s[feed.source.name] * S)
            intake.receive(feed, imu(now + offset), now + (i % 5) * 1_000_000, i * S // 50)
    last = windows[-1]
    ages = {n: {round((last.end_ns - m[-1].stamp_ns) / S, 1)} for n, m in last.members.items()}
    return ages, events, wrong, intake


def test_zeros_in_the_place_of_a_gyroscope_are_told() -> None:
    _, _, wrong, intake = run({'imu': 'header'}, {'imu': 0.0}, 2.0)
    assert wrong == []
    for i in range(100, 200):
        message = imu(1_700_000_000 * S + i * S // 50)
        message.angular_velocity_covariance = [-1.0] + [0.0] * 8
        intake.receive(intake.feeds[0], message, message.header.stamp.sec * S, i * S // 50)
    assert wrong and all('/imu: found no gyroscope, expected it on this topic' in w for w in wrong)
    assert intake.feeds[0].errors == 0


def test_a_foreign_clock_under_each_policy() -> None:
    policies = {'good': 'header', 'far': 'header', 'late': 'receive', 'moved': 'shift',
                'out': 'refuse'}
    off = {'good': 0.0, 'far': -500.0, 'late': -500.0, 'moved': 500.0, 'out': -1.6e9}
    ages, events, wrong, intake = run(policies, off)
    assert ages == {n: {0.0} for n in ('good', 'late', 'moved')}
    said = {(e.kind, e.stream): e.text for e in events}
    assert set(said) == {('clock', n) for n in ('far', 'late', 'moved', 'out')} | {
        ('foreign', 'far')}
    assert '-500.00' in said['clock', 'far'] and 'source.far.stamps' in said['clock', 'far']
    assert 'good' in said['clock', 'far'] and 'time of receipt' in said['clock', 'late']
    assert '+500.0' in said['clock', 'moved'] or '+499.99' in said['clock', 'moved']
    refused = next(f for f in intake.feeds if f.source.name == 'out')
    assert refused.errors + refused.unsettled == refused.received == 300
    assert refused.unsettled < 30
    assert 'expected at most 1 s' in refused.last_error
    assert {text.split(':')[0] for text in wrong} == {'/out'}
    # what is corrected keeps the spacing of its driver, though the transport jitters
    shifted = intake.synchronizer._streams['moved'].stamps[-50:]
    assert {b - a for a, b in zip(shifted, shifted[1:])} == {S // 50}
    received = intake.synchronizer._streams['late'].stamps[-50:]
    assert {b - a for a, b in zip(received, received[1:])} != {S // 50}


def test_a_recording_that_is_played_is_no_fault() -> None:
    policies = {'a': 'header', 'b': 'header'}
    ages, events, wrong, _ = run(policies, {'a': -9e7, 'b': -9e7})
    assert set(ages) == {'a', 'b'} and not wrong
    assert [e.kind for e in events] == ['elsewhen'] and 'use_sim_time' in events[0].text


def test_a_stamp_of_zero_under_each_policy() -> None:
    for policy, used in (('header', True), ('receive', True), ('shift', True), ('refuse', False)):
        _, _, wrong, intake = run({'good': 'header', 'zero': policy},
                                  {'good': 0.0, 'zero': 0.0}, 2.0)
        feed = intake.feeds[1]
        before = intake.synchronizer.stats()['zero'].received
        wrong.clear()
        intake.receive(feed, imu(0), 1_700_000_002 * S, 2 * S)
        assert (intake.synchronizer.stats()['zero'].received == before + 1) is used, policy
        assert bool(wrong) is (policy != 'receive') and feed.errors == (0 if used else 1)


# -- frames -----------------------------------------------------------------------------------


def cloud(*points: tuple[float, float, float], frame: str = 'lidar') -> Sample:
    data = np.full((len(points), 6), 0.5, np.float32)
    data[:, :3] = points
    return Sample(5 * S, data, frame, topic='/points')


def placer(lookup: Any = None, normals: str = 'camera', **extrinsics: list[float]
           ) -> tuple[Placer, list[str]]:
    values: dict[str, Any] = {'extrinsics': list(extrinsics)}
    for name, numbers in extrinsics.items():
        values |= {f'extrinsic.{name}.xyz': numbers[:3], f'extrinsic.{name}.rpy': numbers[3:]}
    settings = with_robot(NodeConfig(inputs=InputConfig(normals_frame=normals)), values)
    said: list[str] = []
    return Placer(settings, lambda kind, text: said.append(text), lookup), said


def test_the_table_brings_clouds_into_the_base_frame() -> None:
    place, said = placer(lidar=[1.0, 0.0, 2.0, 0.0, 0.0, math.pi / 2])
    before = cloud((1, 0, 0), (0, 2, 0))
    after = place(Modality.POINT, before)
    np.testing.assert_allclose(after.data[:, :3], [(1, 1, 2), (-1, 0, 2)], atol=1e-6)
    assert after.frame_id == 'base_link' and after.data.dtype == np.float32 and not said
    assert (after.data[:, 3:] == 0.5).all() and (before.data[0, :3] == (1, 0, 0)).all()
    same = cloud((1, 0, 0), frame='/base_link')
    assert place(Modality.POINT, same) is same
    picture = Sample(0, np.zeros((2, 2, 3), np.uint8), 'lidar')
    assert place(Modality.IMAGE, picture) is picture


def test_roll_pitch_and_yaw_are_those_of_urdf() -> None:
    """Fixed axes, roll first: the optical frame that looks forward is (-90, 0, -90) degrees."""
    forward = Transform.from_rpy((0, 0, 0), (-math.pi / 2, 0, -math.pi / 2))
    np.testing.assert_allclose(forward.rotation @ [0, 0, 1], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(forward.rotation @ [0, 1, 0], [0, 0, -1], atol=1e-9)
    quaternion = Message(translation=Message(x=0, y=0, z=0),
                         rotation=Message(x=-0.5, y=0.5, z=-0.5, w=0.5))
    np.testing.assert_allclose(Transform.from_message(quaternion).rotation, forward.rotation,
                               atol=1e-9)
    back = forward.after(forward.inverse())
    np.testing.assert_allclose(back.rotation, np.eye(3), atol=1e-9)
    quaternion.rotation.w = quaternion.rotation.x = quaternion.rotation.y = 0
    quaternion.rotation.z = 0
    with pytest.raises(ValueError, match='quaternion of length 1'):
        Transform.from_message(quaternion)


def test_without_a_transform_optical_axes_are_turned_and_others_stay() -> None:
    place, said = placer()
    turned = place(Modality.POINT, cloud((0, 0, 3), frame='cam_depth_optical_frame'))
    np.testing.assert_allclose(turned.data[0, :3], (3, 0, 0), atol=1e-6)
    assert turned.frame_id == 'cam_depth_frame'  # not the base: nobody knows where the sensor is
    assert 'turned from the optical axes' in said[0]
    other = cloud((1, 2, 3))
    assert place(Modality.POINT, other) is other and 'used as it comes' in said[1]
    assert place.missing == {'cam_depth_optical_frame': 1, 'lidar': 1}
    place(Modality.POINT, cloud((1, 2, 3), frame=''))
    assert len(said) == 2
    for number in range(100):           # a driver that numbers its frames
        place(Modality.POINT, cloud((1, 2, 3), frame=f'frame_{number}'))
    assert len(place.missing) == 33 and place.missing['(other frames)'] == 70


def test_normals_are_turned_only_where_that_is_wanted() -> None:
    normals = Sample(0, np.array([[[0, 0, -1], [0, -1, 0], [np.nan] * 3]], np.float32), 'cam')
    pose = [5.0, 5.0, 5.0, -math.pi / 2, 0.0, -math.pi / 2]
    assert placer(cam=pose)[0](Modality.NORMAL, normals) is normals
    turned = placer(normals='base', cam=pose)[0](Modality.NORMAL, normals)
    np.testing.assert_allclose(turned.data[0, :2], [(-1, 0, 0), (0, 0, 1)], atol=1e-6)
    assert np.isnan(turned.data[0, 2]).all() and turned.frame_id == 'base_link'
    assert turned.data.dtype == np.float32


def test_what_is_looked_up_goes_before_the_table() -> None:
    up = Transform(np.eye(3), np.array([0.0, 0.0, 7.0]))
    asked: list[tuple[str, int]] = []

    def lookup(frame: str, stamp_ns: int) -> tuple[Transform | None, str]:
        asked.append((frame, stamp_ns))
        return (up, '') if frame == 'lidar' else (None, '' if frame == 'soon' else 'tf2: unknown')
    place, said = placer(lookup, lidar=[1.0] + [0.0] * 5, roof=[2.0] + [0.0] * 5)
    assert place(Modality.POINT, cloud((0, 0, 0))).data[0, :3].tolist() == [0, 0, 7]
    assert asked == [('lidar', 5 * S)]
    assert place(Modality.POINT, cloud((0, 0, 0), frame='roof')).data[0, 0] == 2
    place(Modality.POINT, cloud((0, 0, 0), frame='soon'))
    assert said == [] and place.missing == {'soon': 1}  # static transforms may be on their way
    place(Modality.POINT, cloud((0, 0, 0), frame='floor'))
    assert said == ["no transform from 'floor' to 'base_link' (tf2: unknown; extrinsics do not "
                    'name it): point is used as it comes; publish it on /tf_static, or name the '
                    'frame in the parameter extrinsics']


def test_the_frames_of_a_recording() -> None:
    def entry(parent: str, child: str, x: float, yaw: float = 0.0) -> Message:
        return Message(header=Message(frame_id=parent), child_frame_id=child, transform=Message(
            translation=Message(x=x, y=0.0, z=0.0), rotation=Message(
                x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2))))
    tree = FrameTree()
    tree.add_message(Message(transforms=[
        entry('map', 'base_link', 100.0), entry('/base_link', 'mast', 1.0, math.pi / 2),
        entry('mast', 'lidar', 2.0), entry('base_link', 'cam', 5.0)]))
    found = tree.find('base_link', 'lidar')
    assert found is not None
    at = moved(cloud((1, 0, 0)), Modality.POINT, found, 'base_link').data[0, :3]
    np.testing.assert_allclose(at, (1, 3, 0), atol=1e-6)
    across = tree.find('cam', 'lidar')
    assert across is not None
    np.testing.assert_allclose(across.translation, (-4, 2, 0), atol=1e-9)
    down = tree.find('lidar', 'map')
    assert down is not None
    np.testing.assert_allclose(down.after(Transform(np.eye(3), np.array([101.0, 2, 0])))
                               .translation, 0, atol=1e-9)
    assert tree.find('base_link', 'moon') is None
    tree.add('lidar', 'map', found)  # a loop: told by nobody, and no reason to hang
    assert tree.find('base_link', 'lidar') is not None
