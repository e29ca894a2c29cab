"""Pictures and clouds that are converted only when a window takes them: the same windows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Message
from typing import Any

import cv2
import numpy as np
import pytest

from onellm_ros.choose import Selection
from onellm_ros.config import NANO
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.intake import Feed, Intake
from onellm_ros.perception.pending import Pending, look_of
from onellm_ros.perception.robot_params import with_robot
from onellm_ros.perception.sources import Plan, source_table
from onellm_ros.windows import Window

S = 1_000_000_000
BASE = 1_700_000_000 * S
SHOWN = frozenset({Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.POINT})
TYPES = {'camera': ('image', 'sensor_msgs/msg/Image'),
         'jpeg': ('image', 'sensor_msgs/msg/CompressedImage'),
         'depth': ('depth', 'sensor_msgs/msg/Image'),
         'cloud': ('point', 'sensor_msgs/msg/PointCloud2')}
JPEG = cv2.imencode('.jpg', np.full((48, 64, 3), 90, np.uint8))[1].tobytes()


def header(stamp_ns: int) -> Message:
    return Message(stamp=Message(sec=stamp_ns // S, nanosec=stamp_ns % S), frame_id='sensor')


def camera(stamp_ns: int, encoding: str = 'rgb8') -> Message:
    data = np.full((48, 64, 3), stamp_ns // 1_000_000 % 251, np.uint8)
    return Message(header=header(stamp_ns), width=64, height=48, encoding=encoding, step=192,
                   is_bigendian=0, data=data.reshape(-1))


def jpeg(stamp_ns: int, data: bytes = JPEG) -> Message:
    return Message(header=header(stamp_ns), format='jpeg', data=data)


def depth(stamp_ns: int, millimetres: int = 1500) -> Message:
    data = np.full((48, 64), millimetres, '<u2').view(np.uint8)
    return Message(header=header(stamp_ns), width=64, height=48, encoding='16UC1', step=128,
                   is_bigendian=0, data=data.reshape(-1))


def cloud(stamp_ns: int, points: int = 50) -> Message:
    data = np.full((points, 3), 2.0, np.float32).view(np.uint8).reshape(-1)
    fields = [Message(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate('xyz')]
    return Message(header=header(stamp_ns), width=points, height=1, fields=fields, point_step=12,
                   row_step=12 * points, is_bigendian=False, data=data)


class Robot:
    """An intake of some sources, what came out of it, and how often it converted."""

    def __init__(self, *names: str, later: bool, **settings: Any) -> None:
        values: dict[str, Any] = {'sources': list(names)}
        for name in names:
            modality, kind = TYPES[name]
            values |= {f'source.{name}.topic': f'/{name}/image_raw', f'source.{name}.type': kind,
                       f'source.{name}.modality': modality}
        config = with_robot(NodeConfig(**settings), values)
        table = source_table(config, SHOWN)
        self.plan = Plan.of(table, config, NANO.tokenizer, SHOWN, self.place)
        self.selections: list[Selection] = []
        self.wrong: list[str] = []
        self.converted = 0
        self.intake = Intake(
            table.specs, config.inputs, self.plan.windows, on_window=self.choose, later=later,
            on_jump=lambda: None, on_event=lambda event: None,
            on_wrong=lambda topic, text: self.wrong.append(f'{topic}: {text}'))
        for feed in self.intake.feeds:
            feed.convert = self.counting(feed.convert)

    def counting(self, convert: Callable[[Any, int], list[Sample]]) -> Any:
        def counted(message: Any, receive_ns: int) -> list[Sample]:
            self.converted += 1
            return convert(message, receive_ns)
        return counted

    def place(self, modality: Modality, sample: Sample) -> Sample:
        return Sample(sample.stamp_ns, sample.data + 1, 'base')

    def choose(self, window: Window) -> None:
        self.selections.append(self.intake.choose(window, self.plan.choice))

    def feed(self, name: str) -> Feed:
        return next(f for f in self.intake.feeds if f.source.name == name)

    def send(self, name: str, message: Any, now_ns: int) -> None:
        self.intake.receive(self.feed(name), message, now_ns, now_ns)


def run(later: bool, seconds: float = 5.0) -> Robot:
    robot = Robot('camera', 'jpeg', 'depth', 'cloud', later=later)
    info = Message(height=48, width=64, k=[50.0, 0, 32, 0, 50.0, 24, 0, 0, 1])
    for feed in robot.intake.camera_feeds:
        robot.intake.receive(feed, info, BASE, BASE)
    for i in range(round(seconds * 30)):
        now = BASE + i * S // 30
        robot.send('camera', camera(now, 'strange' if i in (40, 41) else
                                    'bgr8' if i > 100 else 'rgb8'), now)
        robot.send('jpeg', jpeg(now), now)
        robot.send('depth', depth(now, 0 if 25 <= i < 35 or i % 30 == 29 else 1500), now)
        if i % 3 == 0:
            robot.send('cloud', cloud(now, 0 if i == 60 else 40 + i), now)
    robot.intake.flush()
    return robot


def seen(selection: Selection) -> list[Any]:
    offers = [(o.source, o.report.modality, o.samples) for o in selection.offers]
    return [(name, modality, [(s.stamp_ns, s.frame_id, s.intrinsics, s.topic, s.data.tolist())
                              for s in samples])
            for name, modality, samples in [*offers, *(('', m, s) for m, s in
                                                       selection.samples.items())]]


def test_the_windows_are_the_same_and_few_messages_are_converted() -> None:
    at_once, later = run(False), run(True)
    assert len(later.selections) == len(at_once.selections) == 5
    for a, b in zip(at_once.selections, later.selections, strict=True):
        assert seen(a) == seen(b)
        assert a.reports == b.reports
    assert not any(isinstance(s, Pending) for c in later.selections for found in
                   (*c.samples.values(), *(o.samples for o in c.offers)) for s in found)
    assert at_once.converted == 3 * 150 + 50
    assert later.converted < 150
    # what stands beside the data is noticed of every message, and is told with the same words
    strange = [text for text in at_once.wrong if 'strange' in text]
    assert len(strange) == 2 and [t for t in later.wrong if 'strange' in t] == strange
    assert set(later.wrong) == set(at_once.wrong)


def test_a_frame_of_two_windows_is_converted_once() -> None:
    robot = Robot('camera', later=True)
    for i in range(75):
        robot.send('camera', camera(BASE + i * S // 30), BASE + i * S // 30)
    first, second = robot.selections
    again = {id(s) for s in first.samples[Modality.VIDEO]} & {
        id(s) for s in second.samples[Modality.VIDEO]}
    assert again
    assert first.samples[Modality.IMAGE][0] is first.samples[Modality.VIDEO][-1]


def test_a_sensor_that_shows_nothing_is_told_message_by_message_until_it_does() -> None:
    robot = Robot('camera', 'depth', later=True)

    def some(count: int, millimetres: int) -> None:
        for _ in range(count):
            some.i += 1  # type: ignore[attr-defined]
            now = BASE + some.i * S // 30  # type: ignore[attr-defined]
            robot.send('camera', camera(now), now)
            robot.send('depth', depth(now, millimetres), now)
    some.i = -1  # type: ignore[attr-defined]
    some(45, 1500)
    assert not robot.wrong and Modality.DEPTH in robot.selections[-1].samples
    some(75, 0)
    told = len(robot.wrong)
    assert told and told == robot.feed('depth').errors
    assert '/depth/image_raw: found no measurement in a 64x48 16UC1 picture' in robot.wrong[0]
    assert Modality.DEPTH not in robot.selections[-1].samples
    some(10, 0)
    assert robot.feed('depth').errors == told + 10
    some(60, 1500)
    assert robot.feed('depth').errors == told + 10
    assert Modality.DEPTH in robot.selections[-1].samples


@pytest.mark.parametrize('name, good, bad, text', [
    ('camera', camera, lambda t: camera(t, '32SC1'), "found the encoding '32SC1'"),
    ('depth', depth, lambda t: Message(**{**vars(depth(t)), 'step': 2}), 'found a step of 2'),
    ('depth', depth, lambda t: Message(header=header(t)), 'without the field'),
    ('cloud', cloud, lambda t: Message(**{**vars(cloud(t)), 'row_step': 0, 'width': 99}),
     'found 600 bytes of data'),
    ('cloud', cloud, lambda t: cloud(t, 0), 'found an empty cloud'),
    ('jpeg', jpeg, lambda t: jpeg(t, b'RIFF' + JPEG[4:]), 'expected a whole jpeg or png'),
    ('jpeg', jpeg, lambda t: jpeg(t, b''), 'found no data')])
def test_what_the_fields_show_is_told_at_once(name: str, good: Any, bad: Any, text: str) -> None:
    robot = Robot(name, later=True)
    for i in range(5):
        robot.send(name, good(BASE + i * S // 30), BASE + i * S // 30)
    assert robot.converted == 1 and not robot.wrong
    robot.send(name, bad(BASE + S // 5), BASE + S // 5)
    assert len(robot.wrong) == 1 and text in robot.wrong[0]
    assert robot.feed(name).errors == 1


def test_a_look_leaves_out_what_changes_from_cloud_to_cloud() -> None:
    assert look_of(cloud(0, 7)) == look_of(cloud(S, 9)) != look_of(cloud(0, 0))
    assert look_of(jpeg(0)) == look_of(jpeg(0, JPEG + b'more'))
    assert look_of(Message(data=[1])) is None
    assert look_of(Message(encoding='rgb8')) is None
