"""Subscriptions follow what their topic's publishers offer, and lose nothing while changing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import time
from types import SimpleNamespace
from typing import Any

import pytest

from onellm_ros.modality import Modality
from onellm_ros.node_config import InputConfig, NodeConfig

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')

from rclpy.duration import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import (  # noqa: E402
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.serialization import deserialize_message  # noqa: E402
from sensor_msgs.msg import CameraInfo, Imu  # noqa: E402
from std_msgs.msg import Int32  # noqa: E402

from onellm_ros.perception.sources import default_sources, window_spec  # noqa: E402
from onellm_ros.ros.inputs import Inputs  # noqa: E402
from onellm_ros.ros.subscriptions import (  # noqa: E402
    OVERLAP_LIMIT_S,
    OVERLAP_MOST_S,
    OVERLAP_S,
    FollowingSubscription,
    Policy,
    fitting,
    mismatches,
)

DEADLINE_S = 30.0
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bench:
    """A node that listens and one that publishes, spun by the test itself."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('listener', context=self.context)
        self.robot = rclpy.create_node('robot', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.robot)
        self.got: list[int] = []
        self.warnings: list[str] = []
        self.ended: list[Any] = []
        self.polls: Callable[[], None] = lambda: None

    def follow(self, choice: str = 'auto', raw: bool = False) -> FollowingSubscription:
        def receive(message: Any) -> None:
            if raw:
                assert abs(message.stamp_ns - time.time_ns()) < DEADLINE_S * 1e9
                message = deserialize_message(message.data, Int32)
            self.got.append(message.data)
        made = FollowingSubscription(
            self.node, Int32, '/numbers', receive,
            lambda topic, text: self.warnings.append(f'{topic}: {text}'), choice=choice, depth=100,
            raw=raw)
        self.polls = made.poll
        self.ended.append(made)
        return made

    def spin(self, seconds: float = 0.0) -> None:
        end_s = time.monotonic() + seconds
        while True:
            self.polls()
            self.executor.spin_once(timeout_sec=0.01)
            if time.monotonic() >= end_s:
                return

    def until(self, condition: Callable[[], Any]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end_s, 'waited in vain'
            self.spin()

    def close(self) -> None:
        for each in self.ended:
            each.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.robot.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_what_all_publishers_offer_is_asked_for() -> None:
    best, reliable, latched = (SimpleNamespace(qos_profile=q)
                               for q in (BEST_EFFORT, RELIABLE, LATCHED))
    assert fitting([], 'auto', True) == Policy(False, False)
    assert fitting([reliable, reliable], 'auto', True) == Policy(True, False)
    assert fitting([reliable, best], 'auto', True) == Policy(False, False)
    assert fitting([latched], 'auto', True) == Policy(True, True)
    assert fitting([latched], 'auto', False) == Policy(True, False)
    assert fitting([latched, reliable], 'auto', True) == Policy(True, False)
    assert fitting([latched], 'best_effort', True) == Policy(False, False)
    assert fitting([best], 'reliable', True) == Policy(True, False)
    assert str(Policy(True, True)) == 'reliable, transient local'
    assert InputConfig().reliability == 'auto'


def test_each_policy_that_cannot_match_is_named_with_both_values() -> None:
    second = Duration(seconds=1)
    requests = {
        'RELIABILITY: offers BEST_EFFORT, requested RELIABLE': RELIABLE,
        'DURABILITY: offers VOLATILE, requested TRANSIENT_LOCAL': QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL),
        'DEADLINE: offers none, requested 1 s': QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, deadline=second),
        'LIVELINESS: offers AUTOMATIC, requested MANUAL_BY_TOPIC': QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC),
        'LIVELINESS lease: offers none, requested 1 s': QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
            liveliness_lease_duration=second)}
    offer = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
                       liveliness=LivelinessPolicy.AUTOMATIC)
    for text, request in requests.items():
        assert mismatches(offer, request) == [text]
        assert qos_check_compatible(offer, request)[0] == QoSCompatibility.ERROR, text
    for good in (BEST_EFFORT, RELIABLE, LATCHED):
        assert mismatches(good, BEST_EFFORT) == []
        assert qos_check_compatible(good, BEST_EFFORT)[0] != QoSCompatibility.ERROR


@pytest.mark.parametrize('raw', [False, True])
def test_publishers_that_come_and_go_are_followed_without_loss(bench: Bench, raw: bool) -> None:
    following = bench.follow(raw=raw)
    assert not following.policy.reliable
    sent: list[int] = []

    def send(publisher: Any, condition: Callable[[], bool], least: int = 20) -> None:
        """Publish until something is so and some more."""
        end_s = time.monotonic() + DEADLINE_S
        while least or not condition():
            assert time.monotonic() < end_s, 'waited in vain'
            least = max(least - 1, 0) if condition() else least
            sent.append(len(sent))
            publisher.publish(Int32(data=sent[-1]))
            bench.spin(0.02)

    first = bench.robot.create_publisher(Int32, '/numbers', RELIABLE)
    bench.until(first.get_subscription_count)
    bench.spin(0.1)
    send(first, lambda: following.policy.reliable and following._old is None)

    second = bench.robot.create_publisher(Int32, '/numbers', BEST_EFFORT)
    send(first, lambda: not following.policy.reliable and following._old is None)
    bench.until(second.get_subscription_count)
    bench.spin(0.1)
    send(second, lambda: True)

    bench.robot.destroy_publisher(second)
    send(first, lambda: following.policy.reliable and following._old is None)
    bench.until(lambda: len(bench.got) >= len(sent))
    assert bench.got == sorted(set(bench.got)) == sent  # each once
    bench.robot.destroy_publisher(first)
    bench.until(lambda: not following.policy.reliable)
    assert not bench.warnings


class Ends:
    """A node whose subscriptions the test feeds, and whose publishers it chooses."""

    def __init__(self) -> None:
        self.offers: list[Any] = []
        self.ends: list[Any] = []

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return [SimpleNamespace(topic_type='std_msgs/msg/Int32', qos_profile=q, node_name='n',
                                node_namespace='/') for q in self.offers]

    def count_publishers(self, topic: str) -> int:
        return len(self.offers)

    def create_subscription(self, kind: Any, topic: str, take: Any, qos: Any, **_: Any) -> Any:
        self.ends.append(SimpleNamespace(take=take, found=len(self.offers),
                                         get_publisher_count=lambda: end.found))
        end = self.ends[-1]
        return end

    def destroy_subscription(self, end: Any) -> None:
        self.ends.remove(end)

    def get_logger(self) -> Any:
        return SimpleNamespace(info=lambda text: None)


def test_the_old_subscription_stays_until_nothing_can_lie_between(
        monkeypatch: pytest.MonkeyPatch) -> None:
    node: Any = Ends()
    now = [100.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    got: list[int] = []
    following = FollowingSubscription(node, Int32, '/numbers', got.append, lambda *_: None)

    def pass_on(end: Any, *numbers: int) -> None:
        for n in numbers:
            end.take(n, {'source_timestamp': n, 'publication_sequence_number': n})

    def wait(seconds: float) -> int:
        now[0] += seconds
        following.poll()
        return len(node.ends)
    node.offers = [RELIABLE, RELIABLE]
    assert wait(0.1) == 2
    old, new = node.ends
    new.found, old.found = 1, 2             # the new one lacks a publisher
    pass_on(old, 1, 2)
    pass_on(new, 4)                         # and 3, which waits in the old one's queue
    assert wait(5.0) == 2
    new.found = 2
    assert wait(OVERLAP_S) == 2             # nothing came by both
    pass_on(old, 3, 4)
    assert wait(0.01) == 2 and wait(OVERLAP_S) == 1 and node.ends == [new]
    now[0] += 60.0                          # the node stalls: what it has is from before
    node.offers = [RELIABLE, BEST_EFFORT]
    assert wait(0.1) == 2
    pass_on(node.ends[0], *range(5, 5000))  # more than is remembered otherwise
    assert wait(OVERLAP_MOST_S + 1) == 1
    pass_on(node.ends[0], *range(5, 5002))
    assert got == [1, 2, 4, 3, *range(5, 5002)]
    node.offers = [RELIABLE]
    now[0] += 60.0
    assert wait(0.1) == 2
    node.ends[1].found = 0                  # such as a type of the same name, but another
    assert wait(OVERLAP_LIMIT_S) == 1


def test_a_publisher_that_is_there_first_is_followed_at_once(bench: Bench) -> None:
    publisher = bench.robot.create_publisher(Int32, '/numbers', RELIABLE)
    bench.until(lambda: bench.node.count_publishers('/numbers'))
    following = bench.follow()
    assert following.policy == Policy(reliable=True)
    bench.until(publisher.get_subscription_count)
    bench.until(lambda: following._current.get_publisher_count())
    publisher.publish(Int32(data=7))
    bench.until(lambda: bench.got == [7])


def test_an_explicit_choice_is_kept(bench: Bench) -> None:
    publisher = bench.robot.create_publisher(Int32, '/numbers', BEST_EFFORT)
    bench.until(lambda: bench.node.count_publishers('/numbers'))
    following = bench.follow('reliable')
    bench.until(lambda: bench.warnings)
    assert 'RELIABILITY' in bench.warnings[0] and 'inputs.reliability to auto' in bench.warnings[0]
    assert following.policy.reliable
    assert following.incompatible == '/robot (RELIABILITY: offers BEST_EFFORT, requested RELIABLE)'
    bench.robot.destroy_publisher(publisher)
    following.close()
    bench.ended.clear()
    bench.robot.create_publisher(Int32, '/numbers', RELIABLE)
    bench.until(lambda: bench.node.count_publishers('/numbers'))
    assert not bench.follow('best_effort').policy.reliable


@pytest.mark.parametrize('earlier', [True, False])
def test_a_camera_info_sent_before_is_received(bench: Bench, earlier: bool) -> None:
    camera = CameraInfo(height=8, width=12,
                        k=[10.0, 0.0, 5.5, 0.0, 11.0, 3.5, 0.0, 0.0, 1.0])

    def publish() -> None:
        bench.robot.create_publisher(CameraInfo, '/camera_info', LATCHED).publish(camera)
        bench.robot.create_publisher(Imu, '/imu', BEST_EFFORT)
        bench.until(lambda: bench.node.count_publishers('/camera_info')
                    and bench.node.count_publishers('/imu'))
    if earlier:
        publish()
    config = NodeConfig()
    sources = default_sources(config.inputs, [Modality.IMAGE, Modality.IMU])
    inputs = Inputs(bench.node, config, sources, window_spec(config.window, sources, lambda m: 0),
                    lambda window: None, lambda: None)
    bench.ended.append(inputs)
    bench.polls = inputs.poll
    if not earlier:
        bench.spin(0.1)
        publish()
    bench.until(lambda: inputs.intake._cameras == {
        '/camera_info': ((8, 12), (10.0, 11.0, 5.5, 3.5))})
    found = {h.stream: h.qos for h in inputs.health()}
    assert found['camera_info'] == 'reliable, transient local'
    assert found['imu'] == 'best effort' and Modality.IMU.value in found


def test_what_waits_in_a_long_queue_is_taken_at_one_turn(bench: Bench) -> None:
    publisher = bench.robot.create_publisher(Int32, '/numbers', RELIABLE)
    made = bench.follow()
    bench.until(lambda: made.policy.reliable and made._old is None
                and publisher.get_subscription_count() == 1)
    for i in range(40):
        publisher.publish(Int32(data=i))
    time.sleep(0.3)                     # most of them wait now
    bench.executor.spin_once(timeout_sec=1.0)
    while not bench.got:
        bench.executor.spin_once(timeout_sec=1.0)
    assert 1 < len(bench.got) <= 7, 'one, and a sixteenth of the queue of 100'
    bench.until(lambda: len(bench.got) == 40)
    assert bench.got == list(range(40))


def test_a_subscription_may_end_in_its_own_callback(bench: Bench) -> None:
    publisher = bench.robot.create_publisher(Int32, '/numbers', RELIABLE)
    made = bench.follow()
    bench.until(lambda: made.policy.reliable and made._old is None
                and publisher.get_subscription_count() == 1)
    made._receive = lambda message: (bench.got.append(message.data), made.close())
    bench.ended.clear()
    for i in range(5):
        publisher.publish(Int32(data=i))
    bench.polls = lambda: None
    bench.until(lambda: bench.got)
    bench.spin(0.2)
    assert bench.got == [0]
