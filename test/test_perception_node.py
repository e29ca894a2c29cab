"""The perception node in one process: messages in, descriptions and answers out, and trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
import traceback
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onellm_ros.config import NANO
from onellm_ros.modality import Modality
from onellm_ros.node_config import NodeConfig

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('rclpy.action')
pytest.importorskip('onellm_msgs.msg')

from action_msgs.msg import GoalStatus  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from onellm_msgs.action import AskStream  # noqa: E402
from onellm_msgs.msg import Answer, AudioChunk, Description, WindowReport  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, Imu, LaserScan  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from onellm_ros.perception.results import WorkerStats  # noqa: E402
from onellm_ros.perception.settings import SETTINGS, config_of  # noqa: E402
from onellm_ros.ros import outputs, parameters  # noqa: E402
from onellm_ros.ros.once import Once  # noqa: E402
from onellm_ros.ros.perception_node import PerceptionNode  # noqa: E402

S = 1_000_000_000
BASE_S = 1_700_000_000.0
DEADLINE_S = 20.0
FAST = {'window.length_s': 0.2, 'window.period_s': 0.2, 'window.lateness_s': 0.02,
        'window.deadline_s': 0.1, 'window.silence_s': 0.3, 'diagnostics_period_s': 0.2,
        'ask.wait_s': 0.3}


class FakeTensors(dict):
    left_out: Mapping[Modality, str] = {}


class FakePreprocessor:
    """Passes the samples on, except pictures of NaN alone."""

    def tensors(self, chosen: Mapping[Modality, Sequence[Any]], end_ns: int, strict: bool = True
                ) -> FakeTensors:
        assert not strict
        return FakeTensors({m: list(s) for m, s in chosen.items()})


class FakeEngine:
    """Says what it was shown; ``delay_s`` makes it slow, ``hold`` makes it wait."""

    name = 'fake'
    weights_hash = '0123456789abcdef'
    config = NANO
    preprocessor = FakePreprocessor()
    modalities = (Modality.IMAGE, Modality.DEPTH, Modality.IMU, Modality.AUDIO)

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.broken = ''
        self.encoded: list[dict[Modality, Any]] = []
        self.threads: set[str] = set()

    def encode(self, tensors: Mapping[Modality, Any]) -> Any:
        self.encoded.append(dict(tensors))
        return SimpleNamespace(modalities=tuple(tensors), encode_s=0.0,
                               expert_weights=dict.fromkeys(tensors, (0.25, 0.75)))

    def ask(self, prefix: Any, question: str, *, choices: Sequence[str] = (), max_tokens: int = 48,
            temperature: float = 0.0, cancel: threading.Event | None = None) -> Any:
        self.threads.add(threading.current_thread().name)
        if self.broken and question != NANO.text.describe_prompt:  # of windows
            raise RuntimeError(self.broken)
        reason, end_s = 'stop', time.monotonic() + self.delay_s
        while time.monotonic() < end_s:
            if cancel is not None and cancel.is_set():
                reason = 'cancelled'
                break
            time.sleep(0.002)
        seen = ' '.join(m.value for m in prefix.modalities)
        if choices:
            share = 1 / len(choices)
            return SimpleNamespace(text=choices[1], tokens=3, finish_reason=reason,
                                   first_token_s=0.01, total_s=0.02, choice_index=1,
                                   choice_probabilities=(share,) * len(choices), confidence=share)
        return SimpleNamespace(text=f'{question} {seen}', tokens=5, finish_reason=reason,
                               first_token_s=0.01, total_s=0.02, choice_index=-1,
                               choice_probabilities=(), confidence=0.5)

    def stream(self, prefix: Any, question: str, **options: Any) -> Any:
        return FakeStream(self.ask(prefix, question), options['cancel'], self.delay_s)


class FakeStream:
    """An answer of a hundred words, one every ``delay_s``."""

    def __init__(self, answer: Any, cancel: threading.Event, delay_s: float) -> None:
        self.tokens, self.answer, self._cancel, self._delay_s = 0, answer, cancel, delay_s

    def __iter__(self) -> Iterator[str]:
        for _ in range(100):
            if self._cancel.is_set():
                self.answer.finish_reason = 'cancelled'
                break
            time.sleep(self._delay_s)
            self.tokens += 1
            yield 'word '


class Bench:
    """A perception node and a second node that plays the robot, spun by one executor each."""

    def __init__(self, engine: Any, **overrides: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.engine = engine
        values = {**FAST, **overrides}
        self.node = PerceptionNode(
            loader=lambda model, device: engine, context=self.context,
            parameter_overrides=[Parameter(n, value=v) for n, v in values.items()])
        self.robot = rclpy.create_node('robot', context=self.context)
        self.warnings: list[str] = []
        self.node._warn.say = self.warnings.append
        self.descriptions: list[Description] = []
        self.windows: list[WindowReport] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.robot.create_subscription(Description, '/perception/description',
                                       self.descriptions.append, 100)
        self.robot.create_subscription(WindowReport, '/perception/window', self.windows.append,
                                       100)
        self.robot.create_subscription(DiagnosticArray, '/diagnostics', self.diagnostics.append,
                                       100)
        self.publishers: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.executors = [SingleThreadedExecutor(context=self.context) for _ in range(2)]
        self.executors[0].add_node(self.node)
        self.executors[1].add_node(self.robot)
        self.failures: list[BaseException] = []
        self.threads = [threading.Thread(target=self._spin, args=(e,), daemon=True)
                        for e in self.executors]
        for thread in self.threads:
            thread.start()

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        try:
            executor.spin()
        except rclpy.executors.ExternalShutdownException:
            pass
        except BaseException as error:  # noqa: BLE001 (shown to the test)
            if self.context.ok():
                self.failures.append(error)

    def activate(self) -> None:
        assert self.change(Transition.TRANSITION_CONFIGURE)
        assert self.change(Transition.TRANSITION_ACTIVATE)
        self.node._inputs.warn.say = self.warnings.append
        self.node._warn.say = self.warnings.append

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, '/perception/change_state', request).success

    def start(self, kind: Any, name: str, request: Any) -> Any:
        if name not in self.clients:            # one each: discovery is the slow part
            self.clients[name] = self.robot.create_client(kind, name)
        assert self.clients[name].wait_for_service(DEADLINE_S), name
        return self.clients[name].call_async(request)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        future = self.start(kind, name, request)
        self.until(future.done)
        return future.result()

    def ask(self, question: str, **fields: Any) -> Ask.Response:
        return self.call(Ask, '/perception/ask', Ask.Request(question=question, **fields))

    def until(self, condition: Callable[[], Any], seconds: float = DEADLINE_S) -> None:
        end_s = time.monotonic() + seconds
        while not condition():
            assert not self.failures, self.failures
            assert time.monotonic() < end_s, 'waited in vain'
            time.sleep(0.005)

    def connect(self, **kinds: Any) -> None:
        new = {t: k for t, k in kinds.items() if t not in self.publishers}
        for topic, kind in new.items():
            publisher = self.robot.create_publisher(kind, topic, 50)
            self.publishers[topic] = publisher
        if new:
            self.until(lambda: all(self.publishers[t].get_subscription_count() for t in new))
            time.sleep(0.2)  # the subscription must have found the publisher, too

    def publish(self, topic: str, message: Any) -> None:
        self.connect(**{topic: type(message)})
        self.publishers[topic].publish(message)

    def drive(self, seconds: float, begin_s: float = BASE_S, imu: bool = True, paced: float = 0.1,
              depth: bool = False) -> None:
        """Publish pictures at 20 Hz and IMU at 50 Hz, ``paced`` wall seconds for one."""
        self.connect(image=Image, **({'imu': Imu} if imu else {}))
        for i in range(round(seconds * 100)):
            if i % 5 == 0:
                self.publish('image', picture(begin_s + i / 100))
                if depth:
                    self.publish('depth', picture(begin_s + i / 100 + 0.01, encoding='32FC1',
                                                  step=24, data=np.ones(24, np.float32).tobytes()))
                time.sleep(0.05 * paced)
            if imu and i % 2 == 0:
                self.publish('imu', imu_message(begin_s + i / 100))

    def close(self) -> None:
        if not self.context.ok():
            return
        self.node.close()
        for executor in self.executors:
            executor.shutdown(timeout_sec=1.0)
        rclpy.shutdown(context=self.context)
        for thread in self.threads:
            thread.join(2.0)
        self.node.destroy_node()
        self.robot.destroy_node()
        assert not self.failures, self.failures


def stamp(seconds: float) -> Time:
    nanoseconds = round(seconds * 1000) * 1_000_000
    return Time(sec=nanoseconds // S, nanosec=nanoseconds % S)


def seconds_of(time_message: Time) -> float:
    return time_message.sec + time_message.nanosec / 1e9


def picture(seconds: float, **fields: Any) -> Image:
    values = {'height': 4, 'width': 6, 'encoding': 'rgb8', 'step': 18, 'data': bytes(range(72)),
              **fields}
    return Image(header=Header(stamp=stamp(seconds), frame_id='camera'), **values)


def imu_message(seconds: float) -> Imu:
    message = Imu(header=Header(stamp=stamp(seconds), frame_id='imu'))
    message.linear_acceleration.z = 9.81
    message.angular_velocity.z = 0.1
    return message


def workers() -> list[str]:
    """Return where each worker thread that still runs stands."""
    frames = sys._current_frames()
    return [''.join(traceback.format_stack(frames[t.ident])) for t in threading.enumerate()
            if t.name == 'onellm-worker' and t.ident in frames]


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(engine: Any = None, **overrides: Any) -> Bench:
        made.append(Bench(engine or FakeEngine(), **overrides))
        return made[-1]
    yield make
    for bench in made:
        bench.close()
    assert workers() == []


def test_messages_become_descriptions_with_their_sources(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    bench.connect(camera_info=CameraInfo, audio=AudioChunk, depth=Image, image=Image, imu=Imu)
    bench.publish('camera_info', CameraInfo(height=8, width=12, k=[
        10.0, 0.0, 5.5, 0.0, 10.0, 3.5, 0.0, 0.0, 1.0]))
    bench.publish('audio', AudioChunk(header=Header(stamp=stamp(BASE_S)), sample_rate_hz=16000,
                                      channels=1, samples=[0] * 320))
    bench.drive(1.05, depth=True)
    bench.until(lambda: len(bench.windows) >= 4 and len(bench.descriptions) >= 1)
    first = bench.windows[0]
    assert (seconds_of(first.window_start), seconds_of(first.window_end)) == (BASE_S, BASE_S + 0.2)
    assert first.header.stamp == first.window_end and first.header.frame_id == 'base_link'
    found = {r.modality: r for r in first.modalities}
    assert set(found) == {'image', 'depth', 'imu', 'audio'}
    assert found['image'].topics == ['/image'] and found['image'].count == 1
    assert seconds_of(found['image'].last_stamp) == pytest.approx(BASE_S + 0.15)
    assert found['image'].age_s == pytest.approx(0.05)
    assert found['imu'].count == 10
    assert found['depth'].max_skew_s == pytest.approx(0.01)
    assert math.isnan(first.latency_s) and first.time_jumps == 0
    text = bench.descriptions[0]
    assert text.text.startswith('Describe what you sense. image') and text.model == 'fake@01234567'
    assert text.prompt == 'Describe what you sense.' and text.finish_reason == 'stop'
    assert list(text.modalities[0].expert_weights) == [0.25, 0.75]
    assert text.tokens == 5 and 0 < text.first_token_s
    assert bench.engine.threads == {'onellm-worker'}
    depth = next(e for e in bench.engine.encoded if Modality.DEPTH in e)[Modality.DEPTH][0]
    assert depth.intrinsics == pytest.approx((5.0, 5.0, 2.5, 1.5))
    assert bench.warnings == []


def test_laser_scans_of_a_model_that_knows_them(benches: Callable[..., Bench]) -> None:
    scan = Modality('scan')
    engine = FakeEngine()
    engine.modalities = (*FakeEngine.modalities, scan)
    bench = benches(engine)
    bench.activate()
    bench.connect(scan=LaserScan)
    for i in range(12):
        message = LaserScan(header=Header(stamp=stamp(BASE_S + i / 10), frame_id='laser'),
                            angle_min=-1.0, angle_max=1.0, angle_increment=0.5, range_min=0.1,
                            range_max=10.0, ranges=[1.0, 2.0, math.inf, math.nan, 99.0])
        bench.publish('scan', message)
    bench.publish('scan', LaserScan(header=message.header))          # empty: told, not fatal
    bench.until(lambda: len(bench.windows) >= 3 and bench.descriptions)
    found = {r.modality: r for r in bench.windows[0].modalities}
    assert found['scan'].topics == ['/scan'] and found['scan'].count == 1
    assert bench.descriptions[0].text == 'Describe what you sense. scan'
    shown = next(e for e in engine.encoded if scan in e)[scan][-1]
    assert shown.frame_id == 'laser' and shown.data.shape == (5, 2)
    np.testing.assert_allclose(shown.data[:3], [(-1.0, 1.0), (-0.5, 2.0), (0.0, np.inf)])
    assert np.isnan(shown.data[3:, 1]).all()
    bench.until(lambda: any('LaserScan' in text for text in bench.warnings))


def test_questions(benches: Callable[..., Bench]) -> None:
    bench = benches()
    told: list[Answer] = []
    bench.robot.create_subscription(Answer, '/perception/answer', told.append, 100)
    bench.until(lambda: bench.node.count_subscribers('/perception/answer'))
    bench.until(lambda: bench.robot.count_publishers('/perception/answer'))
    assert bench.ask('What?').error_code == Ask.Response.NOT_ACTIVE
    bench.activate()
    nothing = bench.ask('What?')
    assert nothing.error_code == Ask.Response.NO_WINDOW and not nothing.success
    assert 'image: no publisher on /image' in nothing.error_msg
    bench.drive(1.0)
    bench.until(lambda: len(bench.windows) >= 4)
    answer = bench.ask('What is there?')
    assert answer.success and answer.answer == 'What is there? image imu', answer
    assert [r.modality for r in answer.modalities] == ['image', 'imu']
    assert answer.header.stamp == bench.windows[-1].window_end and answer.choice_index == -1
    assert answer.total_s > 0 and answer.confidence == 0.5 and answer.model == 'fake@01234567'
    chosen = bench.ask('Is it?', choices=['no', 'yes'], modalities=['IMU'])
    assert (chosen.choice_index, chosen.answer, chosen.finish_reason) == (1, 'yes', 'choice')
    assert list(chosen.choice_probabilities) == [0.5, 0.5]
    assert [r.modality for r in chosen.modalities] == ['imu']
    past = bench.ask('And then?', at=stamp(BASE_S + 0.5))
    assert seconds_of(past.window_end) == pytest.approx(BASE_S + 0.4)
    wrong = {
        'NO_WINDOW': {'at': stamp(BASE_S - 5)}, 'INVALID_QUESTION': {'question': '  '},
        'INVALID_MODALITY': {'modalities': ['smell']},
        'MODALITY_MISSING': {'modalities': ['depth']},
        'INVALID_CHOICES': {'choices': ['yes']}, 'INVALID_OPTION': {'temperature': -1.0}}
    for code, fields in wrong.items():
        found = bench.ask(**{'question': 'What?', **fields})
        assert found.error_code == getattr(Ask.Response, code) and found.error_msg, code
        assert not found.success and math.isnan(found.confidence)
    bench.engine.broken = 'out of memory'
    failed = bench.ask('What?')
    assert failed.error_code == Ask.Response.MODEL_FAILED and failed.error_msg == 'out of memory'
    bench.until(lambda: len(told) >= 12)        # each question is told to all, once
    assert [t.error_code for t in told[2:5]] == [Ask.Response.NONE] * 3
    assert (told[0].error_code, told[0].streamed) == (Ask.Response.NOT_ACTIVE, False)
    chosen, past = told[3:5]
    assert (chosen.question, chosen.answer) == ('Is it?', 'yes')
    assert (chosen.choices, chosen.asked_modalities) == (['no', 'yes'], ['IMU'])
    assert list(chosen.choice_probabilities) == [0.5, 0.5]
    assert past.at == stamp(BASE_S + 0.5) and past.window_end == past.header.stamp != past.at
    assert len(told) == 12 and told[-1].error_msg == 'out of memory'


def test_newest_first_and_prompt_services_while_the_model_is_slow(
        benches: Callable[..., Bench]) -> None:
    engine = FakeEngine()
    engine.delay_s = 0.4
    bench = benches(engine)
    bench.activate()
    bench.drive(2.3, imu=False, paced=0.7)
    begin_s = time.monotonic()
    values = bench.call(GetParameters, '/perception/get_parameters',
                        GetParameters.Request(names=['describe.max_tokens']))
    assert values.values[0].integer_value == NodeConfig().describe.max_tokens
    assert time.monotonic() - begin_s < 0.3
    bench.until(lambda: len(bench.windows) >= 11)
    bench.until(lambda: bench.descriptions
                and bench.descriptions[-1].window_end == bench.windows[-1].window_end)
    skipped = sum(d.skipped_windows for d in bench.descriptions)
    assert len(bench.descriptions) + skipped == len(bench.windows)
    assert skipped >= 4
    ends = [seconds_of(d.window_end) for d in bench.descriptions]
    assert ends == sorted(set(ends))
    # a question goes ahead of the window that waits, and has its time limit
    bench.node.set_parameters([Parameter('ask.timeout_s', value=0.15)])
    late = bench.ask('What?')
    assert late.error_code == Ask.Response.TIMEOUT and 'ask.timeout_s' in late.error_msg


def test_awkward_messages_are_named_once_and_the_node_goes_on(
        benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    nan = np.full(24, np.nan, np.float32).tobytes()
    for i in range(10):
        at = BASE_S + i / 50
        bench.publish('image', picture(at, step=3))
        bench.publish('image', picture(at, encoding='smell8'))
        bench.publish('image', picture(at, height=0, width=0, step=0, data=b''))
        bench.publish('image', Image(header=Header(stamp=stamp(at))))
        bench.publish('depth', picture(at, encoding='32FC1', step=24, data=nan))
        bench.publish('imu', Imu(header=Header(stamp=stamp(at))))
        bench.publish('camera_info', CameraInfo())
        bench.publish('audio', AudioChunk(header=Header(stamp=stamp(at)), samples=[1]))
        time.sleep(0.05)
    wrong = {'/image': 30, '/depth': 7, '/imu': 7, '/audio': 7}  # best effort: some may be lost
    feeds = bench.node._inputs.intake.feeds
    bench.until(lambda: all(f.errors >= wrong.get(f.topic, 0) for f in feeds))
    assert len(bench.warnings) == 8, bench.warnings
    refused = bench.ask('What?')
    assert refused.error_code == Ask.Response.NO_WINDOW and 'unusable' in refused.error_msg
    bench.drive(0.5)
    bench.until(lambda: bench.descriptions)
    bench.diagnostics.clear()
    bench.until(lambda: bench.diagnostics)
    states = {s.name: s for s in bench.diagnostics[-1].status}
    image = states['perception: image']
    values = {v.key: v.value for v in image.values}
    assert 30 <= int(values['conversion_errors']) <= 40 and 'image' in values['last_error'].lower()
    assert image.level == DiagnosticStatus.WARN
    assert states['perception: depth'].level == DiagnosticStatus.ERROR
    assert states['perception: model'].hardware_id
    assert states['perception: camera_info'].level == DiagnosticStatus.ERROR
    for source in bench.node._inputs.intake.feeds:
        source.error_s -= 60  # what was wrong a minute ago no longer is
    bench.drive(0.2, BASE_S + 1)
    bench.diagnostics.clear()
    bench.until(lambda: any(s.name == 'perception: image' and 'Hz' in s.message
                            and s.level == DiagnosticStatus.OK
                            for d in bench.diagnostics for s in d.status))


def test_windows_that_nobody_describes_are_a_warning() -> None:
    stats = WorkerStats(described=9, undescribed_s=31.0, empty=4)
    work = outputs.Work(stall_s=30.0)
    status = outputs.engine_status('perception', 'm', 'cpu', stats, work, 0, True)
    assert status.level == DiagnosticStatus.WARN
    assert status.message == ('windows come, but none was described for 31 s; 4 had nothing that '
                              'the model could use')
    stats.undescribed_s = 29.0
    assert outputs.engine_status('perception', 'm', 'cpu', stats, work, 0, True).level \
        == DiagnosticStatus.OK


def test_garbage_of_many_kinds_does_not_fill_the_log() -> None:
    said: list[str] = []
    once = Once(said.append)
    for i in range(100):
        once('/image', f'found {i} bytes that start with {i:02x} ff {255 - i:02x} 0a')
    assert len(said) == 1
    for i in range(100):
        once('/image', f'found the encoding {"x" * i!r}')
    assert len(said) == 12 and 'no more' in said[-1] and 'no more' not in said[0]
    once('/depth', 'found nothing')
    assert len(said) == 13


def test_publishers_of_another_type_or_qos_are_named(benches: Callable[..., Bench]) -> None:
    bench = benches(**{'inputs.reliability': 'reliable'})
    bench.activate()
    context = rclpy.Context()  # one participant cannot have a topic with two types
    rclpy.init(context=context)
    driver = rclpy.create_node('driver', context=context)
    driver.create_publisher(Imu, '/depth', 10)
    driver.create_publisher(Image, '/image', qos_profile_sensor_data)
    bench.until(lambda: any('found sensor_msgs/msg/Imu on /depth, expected sensor_msgs/msg/Image'
                            in w for w in bench.warnings))
    bench.until(lambda: any('QoS' in w and 'RELIABILITY' in w for w in bench.warnings))
    bench.until(lambda: any('found sensor_msgs/msg/Imu' in s.message for d in bench.diagnostics
                            for s in d.status if s.name == 'perception: depth'))
    assert 'found sensor_msgs/msg/Imu' in bench.ask('What?').error_msg
    driver.destroy_node()
    rclpy.shutdown(context=context)


def test_a_model_that_breaks_is_told_and_goes_on(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()

    def status() -> Any:
        return next(s for s in bench.diagnostics[-1].status if s.name == 'perception: model')
    encode = bench.engine.encode
    bench.engine.encode = lambda tensors: None + 1  # a TypeError
    bench.drive(0.5)
    bench.until(lambda: bench.diagnostics and 'failed to describe' in status().message)
    assert status().level == DiagnosticStatus.WARN and len(bench.warnings) == 1
    bench.engine.encode = encode
    bench.drive(0.5, BASE_S + 1)
    bench.until(lambda: bench.descriptions and status().level == DiagnosticStatus.OK)
    bench.engine.broken = 'question: it is too long'  # the client's fault, not the model's
    failed = bench.node._worker.stats.failed
    assert bench.ask('What?').error_code == Ask.Response.INVALID_QUESTION
    bench.engine.broken = 'choices: too long'
    assert bench.ask('What?').error_code == Ask.Response.INVALID_CHOICES
    assert bench.node._worker.stats.failed == failed


def test_a_burst_of_questions_is_answered_or_refused(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    bench.drive(0.4)
    bench.until(lambda: bench.windows)
    client = bench.robot.create_client(Ask, '/perception/ask', qos_profile=QoSProfile(depth=100))
    assert client.wait_for_service(DEADLINE_S)
    bench.engine.delay_s = 0.02
    futures = [client.call_async(Ask.Request(question=f'Is it {i}?')) for i in range(40)]
    bench.until(lambda: all(f.done() for f in futures))
    codes = {f.result().error_code for f in futures}
    assert Ask.Response.NONE in codes and codes <= {Ask.Response.NONE, Ask.Response.REJECTED}
    begin_s = time.monotonic()  # from before the windows that are kept: no use to wait
    bench.node.set_parameters([Parameter('ask.wait_s', value=30.0)])
    assert bench.ask('What?', at=Time(sec=1)).error_code == Ask.Response.NO_WINDOW
    assert time.monotonic() - begin_s < 10.0


def test_a_required_input_that_is_silent_is_named_once(benches: Callable[..., Bench]) -> None:
    bench = benches(**{'window.required': ['image', 'depth']})
    bench.activate()
    bench.drive(1.0, imu=False)
    bench.until(lambda: len(bench.windows) >= 3 and bench.descriptions)
    assert len(bench.warnings) == 1, bench.warnings
    assert 'depth: required, but silent' in bench.warnings[0]
    assert 'no publisher on /depth' in bench.warnings[0]


def test_zero_stamps_take_the_time_of_receipt_or_are_refused(
        benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    for _ in range(8):
        bench.publish('image', picture(0.0))
        time.sleep(0.05)
    bench.until(lambda: bench.descriptions)
    assert abs(bench.windows[-1].latency_s) < 5
    assert len(bench.warnings) == 1 and 'stamp of zero' in bench.warnings[0]
    bench.close()
    strict = benches(**{'inputs.stamp_policy': 'refuse'})
    strict.activate()
    for _ in range(3):
        strict.publish('image', picture(0.0))
    strict.until(lambda: strict.node._inputs.intake.feeds[0].errors == 3)
    assert len([w for w in strict.warnings if 'stamp_policy' in w]) == 1


def test_time_that_jumps_back_starts_anew(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    bench.drive(2.0)
    bench.until(lambda: len(bench.windows) >= 9)
    bench.drive(1.0)
    bench.until(lambda: any(w.time_jumps == 1 for w in bench.windows))
    bench.until(lambda: sum(w.time_jumps for w in bench.windows) >= 2)
    after = [seconds_of(w.window_end) for w in bench.windows if w.time_jumps]
    assert min(after) < BASE_S + 0.5 and after == sorted(after)
    bench.until(lambda: bench.descriptions[-1].window_end == bench.windows[-1].window_end)
    assert bench.ask('What?').header.stamp == bench.windows[-1].window_end


def test_three_lives_and_enable(benches: Callable[..., Bench]) -> None:
    bench = benches()
    for life in range(3):
        bench.activate()
        bench.drive(0.5, BASE_S + 100 * life)
        count = len(bench.descriptions)
        bench.until(lambda: len(bench.descriptions) > count)
        bench.engine.delay_s = 5.0
        waiting = bench.start(Ask, '/perception/ask', Ask.Request(question='What?'))
        bench.until(lambda: bench.node._worker._running.answering is not None)
        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        bench.until(waiting.done)
        assert waiting.result().error_code == Ask.Response.CANCELLED
        assert workers() == []
        assert bench.ask('What?').error_code == Ask.Response.NOT_ACTIVE
        assert bench.change(Transition.TRANSITION_CLEANUP)
        assert bench.node._engine is None
        bench.engine.delay_s = 0.0
    bench.activate()
    assert not bench.change(Transition.TRANSITION_CONFIGURE)  # refused, and the node lives on
    assert bench.call(SetBool, '/perception/enable', SetBool.Request(data=False)).success
    assert bench.ask('What?').error_code == Ask.Response.NOT_ACTIVE
    count = len(bench.windows)
    bench.drive(0.5, BASE_S + 900)
    assert len(bench.windows) == count
    assert bench.call(SetBool, '/perception/enable', SetBool.Request(data=True)).success
    bench.drive(0.6, BASE_S + 901)
    bench.until(lambda: len(bench.windows) > count)


def test_an_answer_word_by_word_and_its_end(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.activate()
    bench.drive(0.4)
    bench.until(lambda: bench.windows)
    client = rclpy.action.ActionClient(bench.robot, AskStream, '/perception/ask_stream',
                                       feedback_sub_qos_profile=QoSProfile(depth=1000))
    assert client.wait_for_server(DEADLINE_S)
    feedback = '/perception/ask_stream/_action/feedback'
    bench.until(lambda: bench.node.count_subscribers(feedback))
    time.sleep(0.2)  # the node must have found the client, too: the words all come at once
    heard: list[Any] = []

    def send(question: str) -> Any:
        future = client.send_goal_async(AskStream.Goal(question=question),
                                        lambda m: heard.append(m.feedback))
        bench.until(future.done)
        return future.result()

    def result(goal: Any) -> Any:
        future = goal.get_result_async()
        bench.until(future.done)
        return future.result().status, future.result().result
    bench.engine.delay_s = 0.005  # rclpy's client drops feedback that it reads after the end
    status, answer = result(send('What?'))
    assert status == GoalStatus.STATUS_SUCCEEDED and answer.answer == 'What? image imu'
    bench.until(lambda: len(heard) >= 90)
    assert heard[-1].delta == 'word ' and heard[0].tokens == 1
    bench.engine.delay_s = 0.05
    heard.clear()
    goal = send('What?')
    bench.until(lambda: heard)
    cancelling = goal.cancel_goal_async()
    bench.until(cancelling.done)
    status, answer = result(goal)
    assert status == GoalStatus.STATUS_CANCELED
    assert answer.error_code == Ask.Response.CANCELLED and len(heard) < 50
    heard.clear()
    goal = send('What?')
    bench.until(lambda: heard)
    assert bench.call(SetBool, '/perception/enable', SetBool.Request(data=False)).success
    cancelling = goal.cancel_goal_async()  # also while disabled
    bench.until(cancelling.done)
    assert result(goal)[0] == GoalStatus.STATUS_CANCELED
    assert bench.call(SetBool, '/perception/enable', SetBool.Request(data=True)).success
    status, answer = result(send(' '))
    assert status == GoalStatus.STATUS_ABORTED
    assert answer.error_code == Ask.Response.INVALID_QUESTION
    client.destroy()


def test_a_model_that_does_not_load_is_a_clear_failure(benches: Callable[..., Bench]) -> None:
    bench = benches()

    def fail(model: str, device: str) -> Any:
        raise RuntimeError(f'model {model!r} not found')
    bench.node._loader = fail
    assert not bench.change(Transition.TRANSITION_CONFIGURE)
    bench.node._loader = lambda model, device: bench.engine
    bench.activate()


def test_parameters_are_checked(benches: Callable[..., Bench]) -> None:
    bench = benches()
    node = bench.node

    def change(name: str, value: Any) -> Any:
        return node.set_parameters([Parameter(name, value=value)])[0]
    assert change('modalities', ['image', 'imu']).successful
    assert change('window.length_s', 1).successful  # a whole number is a number
    refused = {'modalities': ['smell'], 'window.length_s': -1.0, 'describe.max_tokens': 0,
               'inputs.stamp_policy': 'guess', 'window.lateness_s': 0.9}
    for name, value in refused.items():
        result = change(name, value)
        assert not result.successful and result.reason, name
    bench.activate()
    assert set(node._inputs.intake.synchronizer.stats()) == {'image', 'imu'}
    assert 'clean it up' in change('model', 'other').reason
    assert change('describe.prompt', 'Where am I?').successful
    bench.drive(1.5, BASE_S)
    bench.until(lambda: bench.descriptions)
    assert bench.descriptions[-1].prompt == 'Where am I?'
    assert bench.descriptions[-1].text == 'Where am I? image imu'


def test_the_parameter_file_is_that_of_the_defaults(root: Path) -> None:
    text = (root / 'config/onellm.yaml').read_text(encoding='utf-8')
    assert text == parameters.yaml_text(), 'run: python -m onellm_ros.ros.parameters'
    assert config_of(
        {s.name: s.ros_default for s in SETTINGS.values()}) == NodeConfig()


@pytest.mark.slow
def test_a_process_with_a_real_model(tmp_path: Path, ros_env: dict[str, str]) -> None:
    """A random model of the nano's size: first description, one answer, a quick and clean end."""
    torch = pytest.importorskip('torch')
    from onellm_ros.model.checkpoint import save_model
    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.model.text import train_tokenizer
    torch.manual_seed(0)
    save_model(OneLLM(NANO), tmp_path)
    train_tokenizer(['The robot sees a red box.'] * 10, 300).save(str(tmp_path / 'tokenizer.json'))
    process = subprocess.Popen(
        [sys.executable, '-m', 'onellm_ros.ros.perception_node', '--ros-args', '-p',
         f'model:={tmp_path}', '-p', 'window.period_s:=0.5', '-p', 'describe.max_tokens:=8'],
        env=ros_env, stderr=subprocess.PIPE, text=True)
    context = rclpy.Context()
    rclpy.init(context=context)
    robot = rclpy.create_node('robot', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(robot)
    heard: list[Description] = []
    robot.create_subscription(Description, '/perception/description', heard.append, 10)
    pictures = robot.create_publisher(Image, 'image', 10)
    imus = robot.create_publisher(Imu, 'imu', 10)
    client = robot.create_client(Ask, '/perception/ask')
    answer = None
    try:
        end_s = time.monotonic() + 120
        while (answer is None or not answer.done()) and time.monotonic() < end_s:
            assert process.poll() is None, process.stderr.read()
            now_s = time.time()
            pictures.publish(picture(now_s))
            imus.publish(imu_message(now_s))
            executor.spin_once(timeout_sec=0.05)
            if heard and answer is None:
                answer = client.call_async(Ask.Request(question='What?', max_tokens=4))
        assert heard and answer is not None and answer.done()
        assert answer.result().success and answer.result().tokens <= 4
        assert {'image', 'imu'} & {r.modality for r in heard[-1].modalities}
        assert all(len(r.expert_weights) == 3 for r in heard[-1].modalities)
        begin_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
        if os.getloadavg()[0] < (os.cpu_count() or 1):
            assert time.monotonic() - begin_s < 2.0
    finally:
        process.kill()
        process.communicate()
        executor.shutdown()
        robot.destroy_node()
        rclpy.shutdown(context=context)
