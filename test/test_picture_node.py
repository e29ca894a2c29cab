"""The picture node in one process: who looks, what is listened to and shown, and trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onellm_ros.modality import Modality

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')
pytest.importorskip('visualization_msgs.msg')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from onellm_msgs.msg import AudioChunk, Description, ModalityReport, WindowReport  # noqa: E402
from rclpy.exceptions import ParameterException  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, qos_profile_sensor_data  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from onellm_ros.config import ConfigError  # noqa: E402
from onellm_ros.ros import messages_out as out  # noqa: E402
from onellm_ros.ros import picture_node, picture_words  # noqa: E402
from onellm_ros.ros.conversions import AudioFormat, stamp_ns  # noqa: E402
from onellm_ros.ros.picture_inputs import PictureInputs, Trace  # noqa: E402
from onellm_ros.ros.picture_node import PictureNode  # noqa: E402
from onellm_ros.ros.picture_normals import normals_of  # noqa: E402

S = 1_000_000_000
BASE = 1_700_000_000 * S
DEADLINE_S = 30.0
RED = (250, 10, 20)
WHERE = {'image': '/front/image', 'depth': '/front/depth', 'imu': '/imu', 'audio': '/audio',
         'point': '/points'}
REPORTED = {**WHERE, 'video': WHERE['image'], 'normal': WHERE['depth']}    # normals out of depth
KINDS = {'image': Image, 'depth': Image, 'imu': Imu, 'audio': AudioChunk, 'point': PointCloud2}


class Bench:
    """The picture node, a robot with a fake perception node, and someone who looks."""

    def __init__(self, **parameters: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = PictureNode(context=self.context, parameter_overrides=[
            Parameter(name, value=value) for name, value in parameters.items()])
        self.warnings: list[str] = []
        self.node._warn.say = self.warnings.append
        self.robot = rclpy.create_node('robot', context=self.context)
        self.viewer = rclpy.create_node('viewer', context=self.context)
        self.description = self.robot.create_publisher(Description, '/perception/description', 10)
        self.window = self.robot.create_publisher(WindowReport, '/perception/window', 10)
        self.sensors = {name: self.robot.create_publisher(kind, WHERE[name], QoSProfile(depth=50))
                        for name, kind in KINDS.items()}
        self.pictures: list[Image] = []
        self.executor = SingleThreadedExecutor(context=self.context)
        for each in (self.node, self.robot, self.viewer):
            self.executor.add_node(each)
        self.until(lambda: self.window.get_subscription_count()
                   and self.description.get_subscription_count())

    def spin(self, seconds: float = 0.0) -> None:
        end_s = time.monotonic() + seconds
        while True:
            self.executor.spin_once(timeout_sec=0.01)
            if time.monotonic() >= end_s:
                return

    def until(self, condition: Callable[[], Any], act: Callable[[], Any] = lambda: None) -> None:
        """Wait for a condition, doing something all the while."""
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end_s, f'waited in vain; warnings: {self.warnings}'
            act()
            self.spin()

    def look(self) -> Any:
        """Subscribe to the picture."""
        return self.viewer.create_subscription(Image, '/perception_picture/image',
                                               self.pictures.append, 10)

    def leave(self, subscription: Any) -> None:
        self.viewer.destroy_subscription(subscription)
        self.until(lambda: not self.node.watched)

    def report(self, end_ns: int = BASE, **fields: Any) -> None:
        self.window.publish(window_report(end_ns, **fields))

    def tell(self, text: str = 'A red wall.', end_ns: int = BASE, **fields: Any) -> None:
        self.description.publish(description(text, end_ns, **fields))

    def sense(self, end_ns: int = BASE, colour: tuple[int, int, int] = RED) -> None:
        """Publish one message of every sensor."""
        red = np.full((120, 160, 3), colour, np.uint8)
        self.sensors['image'].publish(out.image_message(end_ns, 'camera_optical_frame', red))
        self.sensors['depth'].publish(out.image_message(
            end_ns, 'camera_optical_frame', np.full((120, 160), 2.0, np.float32)))
        imu = out.empty_imu_message('imu_link')
        out.fill_imu(imu, end_ns, np.array([0.1, 0.2, 9.8, 0.1, 0.2, 0.3]))
        self.sensors['imu'].publish(imu)
        self.sensors['audio'].publish(out.audio_message(
            end_ns, 'microphone', np.sin(np.arange(1600) / 9.0).astype(np.float32), 16000.0))
        self.sensors['point'].publish(out.exact_cloud_message(
            end_ns, 'base_link', np.ones((50, 6), np.float32)))

    def heard(self) -> set[Modality]:
        return set(self.node.inputs.samples())

    def close(self) -> None:
        self.executor.shutdown()
        for each in (self.node, self.robot, self.viewer):
            each.destroy_node()
        rclpy.shutdown(context=self.context)


def modality_report(name: str, count: int = 1, topics: tuple[str, ...] = ()) -> ModalityReport:
    topics = topics or ((REPORTED.get(name, ''),) * bool(count))
    return ModalityReport(modality=name, topics=list(topics),
                          count=count, age_s=0.0 if count else math.nan)


def window_report(end_ns: int = BASE, names: tuple[str, ...] = tuple(WHERE), **fields: Any
                  ) -> WindowReport:
    message = WindowReport(closed_by='watermark', latency_s=0.1,
                           modalities=[modality_report(n) for n in names], **fields)
    message.header.frame_id = 'base_link'
    for moment, ns in ((message.header.stamp, end_ns), (message.window_end, end_ns),
                       (message.window_start, end_ns - S)):
        out.set_stamp(moment, ns)
    return message


def description(text: str, end_ns: int = BASE, frame: str = 'base_link',
                names: tuple[str, ...] = ('image', 'video', 'depth', 'normal'), **fields: Any
                ) -> Description:
    message = Description(text=text, prompt='Describe.', model='nano@1a2b3c4d',
                          **{'finish_reason': 'stop', 'tokens': 4, **fields},
                          modalities=[modality_report(n) for n in names])
    message.header.frame_id = frame
    for moment, ns in ((message.header.stamp, end_ns), (message.window_end, end_ns),
                       (message.window_start, end_ns - S)):
        out.set_stamp(moment, ns)
    return message


def pixels(message: Image) -> np.ndarray:
    assert message.encoding == 'rgb8' and message.step == 3 * message.width
    return np.asarray(message.data, np.uint8).reshape(message.height, message.width, 3)


def reds(message: Image) -> int:
    return int((np.abs(pixels(message).astype(int) - RED).max(axis=2) <= 2).sum())


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert picture_node.CHECK_S == 1.0
    monkeypatch.setattr(picture_node, 'CHECK_S', 0.2)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(rate_hz=20.0)
    yield made
    made.close()


# ---- with ROS -----------------------------------------------------------------------------------

def test_it_listens_and_draws_only_while_someone_looks(bench: Bench) -> None:
    node = bench.node
    bench.report()
    bench.tell()
    bench.until(lambda: node._text is not None and node._window is not None, bench.sense)
    bench.spin(0.5)                              # longer than it takes to look who is there
    assert not node.inputs.topics and node.drawn == 0
    assert not any(p.get_subscription_count() for p in bench.sensors.values())

    looking = bench.look()
    bench.until(lambda: len(bench.heard()) == 5 and bench.pictures, bench.sense)
    assert set(node.inputs.topics) == set(WHERE.values())
    assert all(p.get_subscription_count() == 1 for p in bench.sensors.values())
    bench.pictures.clear()
    bench.until(lambda: len(bench.pictures) > 2, bench.sense)
    picture = bench.pictures[-1]
    assert (picture.width, picture.height) == (960, 540)
    assert stamp_ns(picture) == BASE and picture.header.frame_id == 'camera_optical_frame'
    assert 0.1 < reds(picture) / (960 * 540) < 0.7, 'camera and more than the camera'
    assert not bench.warnings

    info = bench.robot.create_publisher(CameraInfo, '/front/camera_info', 1)
    bench.until(info.get_subscription_count)
    bench.until(lambda: Modality.NORMAL in bench.heard(), lambda: info.publish(
        out.camera_info_message(BASE, 'camera_optical_frame', (160, 120), (90., 90., 80., 60.))))

    bench.sense(colour=(0, 0, 255))              # refreshed between windows
    bench.until(lambda: not reds(bench.pictures[-1]))
    assert stamp_ns(bench.pictures[-1]) == BASE
    bench.report(BASE + S)
    bench.until(lambda: stamp_ns(bench.pictures[-1]) == BASE + S)

    bench.leave(looking)
    bench.until(lambda: not any(p.get_subscription_count()
                                for p in (*bench.sensors.values(), info)), bench.sense)
    drawn = node.drawn
    bench.spin(0.5)
    assert node.drawn == drawn and not node.inputs.topics and not bench.heard()
    assert not [s for s in node.subscriptions if s.topic_name in WHERE.values()]

    again = bench.look()
    bench.until(lambda: node.drawn > drawn and Modality.IMAGE in bench.heard(), bench.sense)
    bench.leave(again)


def test_markers_are_sent_without_listening_to_the_inputs(bench: Bench) -> None:
    got: list[MarkerArray] = []
    bench.viewer.create_subscription(MarkerArray, '/perception_picture/markers', got.append, 10)
    bench.until(lambda: bench.node._markers.get_subscription_count())
    bench.tell('A red wall, and a very long sentence about all that stands in front of it.')
    bench.until(lambda: got)
    words, age = got[-1].markers
    assert words.type == Marker.TEXT_VIEW_FACING and words.action == Marker.ADD
    assert words.text.replace('\n', ' ').startswith('A red wall') and '\n' in words.text
    assert words.header.frame_id == 'base_link' and stamp_ns(words) == BASE
    assert words.pose.position.z > age.pose.position.z == 1.5
    assert 28 <= words.lifetime.sec <= 30 and age.text.endswith('s ago')
    count = len(got)
    bench.until(lambda: len(got) > count)        # the age is told again
    assert got[-1].markers[1].lifetime.sec < 30
    assert not bench.node.inputs.topics and bench.node.drawn == 0
    bench.tell('It goes back in time.', BASE - 9 * S)
    bench.until(lambda: any(m.action == Marker.DELETE for a in got for m in a.markers))


def test_it_follows_what_the_publishers_offer(bench: Bench) -> None:
    best = bench.robot.create_publisher(Imu, '/best', qos_profile_sensor_data)
    small = bench.robot.create_publisher(CompressedImage, '/small/compressed', 5)
    wrong = bench.robot.create_publisher(Imu, '/wrong', 5)
    bench.look()
    message = window_report(names=())
    message.modalities = [modality_report('imu', topics=('/best',)),
                          modality_report('image', topics=('/small/compressed',)),
                          modality_report('depth', topics=('/wrong', '/nobody')),
                          modality_report('smell', topics=('/nose',))]
    bench.until(lambda: set(bench.node.inputs.topics) == {'/best', '/small/compressed'},
                lambda: bench.window.publish(message))
    assert best.get_subscription_count() and small.get_subscription_count()
    assert wrong.get_subscription_count() == 0
    told = ' '.join(bench.warnings)
    assert '/wrong: found sensor_msgs/msg/Imu, expected messages of depth' in told
    assert "unknown modality 'smell'" in told and '/nobody' not in told
    policies = {f.topic: f.subscription.policy for f in bench.node.inputs._feeds.values()}
    assert not policies['/best'].reliable and policies['/small/compressed'].reliable


def test_malformed_messages_are_counted_and_told_once(bench: Bench) -> None:
    diagnostics: list[DiagnosticArray] = []
    bench.viewer.create_subscription(DiagnosticArray, '/diagnostics', diagnostics.append, 10)
    bench.look()
    bench.report()
    bench.until(lambda: len(bench.heard()) == 5, bench.sense)

    def nonsense() -> None:
        bench.sensors['image'].publish(Image(width=9, height=9, encoding='rgb8', step=27))
        bench.sensors['imu'].publish(Imu())
        bench.sensors['audio'].publish(AudioChunk())
    # a picture is looked at when it is drawn, the others as they come
    bench.until(lambda: bench.node.inputs.errors > 20 and len(bench.warnings) >= 3, nonsense)
    assert len(bench.warnings) == 3, bench.warnings
    drawn = bench.node.drawn
    bench.until(lambda: bench.node.drawn > drawn)
    assert Modality.IMAGE in bench.heard(), 'the last good picture stays'
    bench.until(lambda: any(int({v.key: v.value for v in s.values}['unusable_messages']) > 20
                            for a in diagnostics for s in a.status))


def test_time_that_jumps_back_empties_it(bench: Bench) -> None:
    node = bench.node
    bench.look()
    bench.report()
    bench.tell()
    bench.until(lambda: len(bench.heard()) == 5 and node._text is not None, bench.sense)
    bench.report(BASE - 60 * S)
    bench.until(lambda: node.jumps == 1)
    assert node._text is None and not bench.heard()
    assert stamp_ns(node._window.message.window_end) == BASE - 60 * S
    bench.until(lambda: len(bench.heard()) == 5, lambda: bench.sense(BASE - 60 * S))
    assert node.jumps == 1


def test_simulated_time_is_used_and_its_jumps_empty_it() -> None:
    bench = Bench(use_sim_time=True, rate_hz=20.0, stale_s=5.0)
    try:
        node, clock = bench.node, bench.robot.create_publisher(Clock, '/clock', 10)
        now = Clock()

        def tick() -> None:
            clock.publish(now)
        out.set_stamp(now.clock, BASE + 2 * S)
        bench.until(lambda: node.get_clock().now().nanoseconds == BASE + 2 * S, tick)
        bench.look()
        bench.report()
        bench.tell()
        bench.until(lambda: node._text is not None and node._window is not None)
        assert node._age_s(node._text) == 2.0 and not node._shown().old
        out.set_stamp(now.clock, BASE + 8 * S)
        bench.until(lambda: node._age_s(node._text) == 8.0, tick)
        assert node._shown().old and node._shown().head.startswith('OLD: 8.0 s')
        bench.until(lambda: bench.pictures)
        jumps = node.jumps
        out.set_stamp(now.clock, BASE - 8 * S)
        bench.until(lambda: node.jumps > jumps, tick)
        assert node._text is None and node._window is None
    finally:
        bench.close()


def test_without_the_perception_node_the_picture_says_so(bench: Bench) -> None:
    bench.look()
    bench.until(lambda: bench.pictures)
    assert 'is the node active' in bench.node._shown().text
    bench.robot.destroy_publisher(bench.window)
    bench.until(lambda: 'No publisher on /perception/window' in bench.node._shown().text)
    assert pixels(bench.pictures[-1]).std() > 1


def test_a_perception_node_that_ends_is_named_and_another_is_followed(bench: Bench) -> None:
    node, gone = bench.node, ('the perception node is gone: no publisher on /perception/window',
                              True)
    bench.look()
    bench.report()
    bench.tell()
    bench.until(lambda: node._text is not None and node._window is not None)
    assert gone not in node._shown().facts
    bench.robot.destroy_publisher(bench.window)
    bench.robot.destroy_publisher(bench.description)
    bench.until(lambda: node._shown().facts[0] == gone)
    assert node._shown().text == 'A red wall.', 'what was said last stays'
    bench.window = bench.robot.create_publisher(WindowReport, '/perception/window', 10)
    bench.until(lambda: stamp_ns(node._window.message.window_end) == BASE + 9 * S,
                lambda: bench.report(BASE + 9 * S))
    assert gone not in node._shown().facts and node.jumps == 0


def test_a_text_stands_beside_the_picture_that_it_is_about(bench: Bench) -> None:
    node = bench.node
    bench.look()
    bench.report()
    bench.until(lambda: node._frames._seen, bench.sense)
    blue = (0, 0, 255)
    bench.until(lambda: node._frames._seen[-1].stamp_ns == BASE + 2 * S,
                lambda: bench.sense(BASE + 2 * S, blue))
    told = description('A red wall.')
    out.set_stamp(told.modalities[0].last_stamp, BASE - S // 20)
    bench.description.publish(told)
    bench.until(lambda: node._shown().about is not None)
    about = node._shown().about
    assert about.stamp_ns == BASE and tuple(about.data[0, 0]) == RED
    assert tuple(node._shown().samples[Modality.IMAGE][0].data[0, 0]) == blue
    bench.until(lambda: 2000 < reds(bench.pictures[-1]) < 15000)
    bench.report(BASE - 60 * S)                  # time jumps back
    bench.until(lambda: node.jumps == 1)
    assert node._shown().about is None


def test_parameters_are_described_checked_and_live(bench: Bench) -> None:
    node = bench.node

    def set_to(name: str, value: Any) -> str:
        found = node.set_parameters([Parameter(name, value=value)])[0]
        return '' if found.successful else found.reason
    for name, value, said in (
            ('rate_hz', 1000.0, '60'), ('rate_hz', 1000, 'found 1000'),
            ('rate_hz', math.nan, 'nan'),
            ('width', 10, '320'), ('stale_s', 'soon', 'expected a float'),
            ('font', '/no/such.ttf', 'expected the path'), ('camera', 7, 'STRING'),
            ('perception', 'other', 'read-only'), ('inputs.audio_rate_hz', 8000, 'read-only')):
        assert said in set_to(name, value), (name, value, set_to(name, value))
    assert set_to('rate_hz', 10) == '' and node.config.rate_hz == 10.0
    bench.look()
    bench.until(lambda: bench.pictures)
    assert set_to('width', 640) == set_to('height', 360) == set_to('rate_hz', 40.0) == ''
    bench.until(lambda: (bench.pictures[-1].width, bench.pictures[-1].height) == (640, 360))
    described = node.describe_parameter('rate_hz')
    assert described.description and described.floating_point_range[0].to_value == 60.0


@pytest.mark.parametrize(('name', 'value'), [
    ('perception', 'two words'), ('rate_hz', 0.0), ('width', 1.5),
    ('inputs.audio_format', 'S17LE')])
def test_a_start_with_a_value_that_cannot_be_is_refused(name: str, value: Any) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        with pytest.raises((ConfigError, ParameterException), match=name.split('.')[-1][:5]):
            PictureNode(context=context, parameter_overrides=[Parameter(name, value=value)])
    finally:
        rclpy.shutdown(context=context)


# ---- without ROS --------------------------------------------------------------------------------

def test_facts_say_what_was_left_out() -> None:
    window = window_report(silent=['imu'], skipped_windows=7, late=2, time_jumps=1)
    window.closed_by = 'deadline'
    window.modalities.append(modality_report('fmri', 0))
    text = description('x', skipped_windows=3)
    facts = picture_words.facts_of(window, text, 6.0, 5.0, 1)
    assert [t for t, warns in facts if warns] == [
        'window ended 6.0 s ago', 'closed by its deadline, silent: imu', 'without fmri',
        '3 windows not described before this text', '1 unusable message']
    assert ('not shown to the model: imu, audio, point', False) in facts
    assert facts[-1] == ('since the start: 7 skipped, 2 late, 1 time jump', False)
    assert picture_words.facts_of(window_report(), None, 0.1, 5.0, 0) == [
        ('window ended 0.1 s ago', False)]
    assert picture_words.facts_of(None, None, 0.1, 5.0, 0) == []
    assert picture_words.said(description('', finish_reason='timeout')) == \
        '(the model said nothing: timeout)'
    assert picture_words.head_of(
        description('x', finish_reason='length', tokens=2, encode_s=0.5, total_s=0.75), 1.0,
        False).endswith('2 tokens in 0.75 s, cut at the token limit')   # the total has encoding in


def test_markers_of_long_texts_are_cut() -> None:
    made = picture_words.markers_of(description('word ' * 500), 2.0, True, 3.25, 'base', 'me',
                                    1.0, 0.2)
    words, age = made.markers
    assert words.text.count('\n') == 12 and words.text.endswith('…')
    assert max(map(len, words.text.splitlines())) <= 46
    assert age.text == 'old: 2.0 s ago' and words.lifetime.sec == 3
    assert words.lifetime.nanosec == S // 4


def test_traces_hold_the_last_seconds_and_no_more() -> None:
    trace = Trace()
    for i in range(1000):
        trace.add(SimpleNamespace(stamp_ns=i * S // 100, data=np.zeros(6), rate_hz=0.0), 2.0)
    assert len(trace.held) == 201
    for _ in range(30_000):                      # a clock that stands still
        trace.add(SimpleNamespace(stamp_ns=10 * S, data=np.zeros(6), rate_hz=0.0), 2.0)
    assert len(trace.held) <= 20_000
    for _ in range(100):
        trace.add(SimpleNamespace(stamp_ns=10 * S, data=np.zeros(100_000), rate_hz=16000.0), 2.0)
    assert sum(s.data.size for s in trace.held) <= 4_000_000
    trace.add(SimpleNamespace(stamp_ns=S, data=np.zeros(6), rate_hz=0.0), 2.0)
    assert len(trace.held) == 1


def test_topics_that_are_reported_no_more_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr('onellm_ros.ros.picture_inputs.time',
                        SimpleNamespace(monotonic=lambda: now_s[0]))
    node: Any = SimpleNamespace(get_publishers_info_by_topic=lambda topic: [])
    warnings: list[str] = []
    cameras: Any = None                          # nobody asks for normals
    inputs = PictureInputs(node, AudioFormat(), lambda kind, text: warnings.append(text), 3.0,
                           cameras)
    inputs.expect([modality_report('image'), modality_report('imu')])
    inputs.expect([modality_report('depth'), modality_report('normal')])
    assert inputs._known[WHERE['depth']][0] is Modality.DEPTH
    now_s[0] += 20.0
    inputs.expect([modality_report('image')])
    inputs.open()
    assert WHERE['imu'] in inputs._known
    now_s[0] += 20.0
    inputs.expect([modality_report('image')])
    inputs.follow()
    assert list(inputs._known) == [WHERE['image']]
    inputs.expect([modality_report('image', topics=tuple(f'/camera{i}' for i in range(40)))])
    assert len(inputs._known) == 16 and any('at most' in w for w in warnings)


def test_normals_of_depth_look_at_the_camera() -> None:
    camera = (100.0, 100.0, 79.5, 59.5)
    wall = normals_of(np.full((120, 160), 2.0, np.float32), camera)
    assert np.allclose(wall[1:-1, 1:-1], (0, 0, -1), atol=1e-5)
    v = (np.arange(120) - camera[3])[:, None]
    with np.errstate(divide='ignore'):
        floor = np.where(v > 3, 1.5 * camera[1] / v, np.nan) + np.zeros(160)  # 1.5 m below
    normal = normals_of(floor.astype(np.float32), camera)
    assert np.isnan(normal[:60]).all() and np.allclose(normal[90:-1, 1:-1], (0, -1, 0), atol=1e-3)
    step = np.full((120, 160), 2.0, np.float32)
    step[:, 80:] = 5.0
    assert np.isnan(normals_of(step, camera)[5, 78:82]).any(), 'an edge is no surface'
    assert np.isnan(normals_of(np.ones((2, 2), np.float32), camera)).all()
    assert normals_of(np.ones((1080, 1920), np.float32), camera).shape[0] <= 200


def test_ages_count_from_arrival_where_clocks_do_not_agree() -> None:
    node: Any = SimpleNamespace(get_clock=lambda: SimpleNamespace(
        now=lambda: SimpleNamespace(nanoseconds=BASE)))
    age_s = PictureNode._age_s
    heard = picture_node._Heard(None, BASE - 2 * S, time.monotonic() - 0.5)
    assert age_s(node, heard) == 2.0
    foreign = picture_node._Heard(None, 5 * S, time.monotonic() - 0.5)
    assert 0.4 < age_s(node, foreign) < 5.0
