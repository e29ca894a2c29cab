"""The action ~/ask_stream with several goals: order, refusals, cancels and time limits."""

from __future__ import annotations

from collections.abc import Callable
import threading
from types import SimpleNamespace
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('rclpy.action')
pytest.importorskip('onellm_msgs.msg')

from action_msgs.msg import GoalStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from onellm_msgs.action import AskStream  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from test_perception_node import Bench, FakeEngine, benches  # noqa: E402, F401

Make = Callable[..., Bench]


class OrderedEngine(FakeEngine):
    """Keeps the order of questions; while ``gate`` is closed each waits for it, or for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[str] = []

    def stream(self, prefix: Any, question: str, **options: Any) -> Any:
        self.asked.append(question)
        while not self.gate.wait(0.005) and not options['cancel'].is_set():
            pass
        return super().stream(prefix, question, **options)


class Talker:
    """An action client on the robot's node."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.client = ActionClient(bench.robot, AskStream, '/perception/ask_stream',
                                   goal_service_qos_profile=QoSProfile(depth=100))
        assert self.client.wait_for_server(20)

    def wait(self, future: Any) -> Any:
        self.bench.until(future.done)
        return future.result()

    def send(self, question: str) -> Any:
        goal = self.wait(self.client.send_goal_async(AskStream.Goal(question=question)))
        assert goal.accepted                # refusals are results: they have codes
        return goal

    def result(self, goal: Any) -> tuple[int, int]:
        found = self.wait(goal.get_result_async())
        return found.status, found.result.error_code


@pytest.fixture
def talker(benches: Make) -> Talker:  # noqa: F811
    bench = benches(OrderedEngine(), **{'ask.waiting': 3, 'describe.enabled': False})
    bench.activate()
    bench.drive(0.4)
    bench.until(lambda: bench.windows)
    return Talker(bench)


def test_goals_are_served_in_order_and_each_has_a_result(talker: Talker) -> None:
    engine, worker = talker.bench.engine, talker.bench.node._worker
    engine.gate.clear()
    goals = [talker.send('0?')]
    talker.bench.until(lambda: engine.asked == ['0?'])
    goals += [talker.send(f'{i}?') for i in (1, 2, 3)]
    talker.bench.until(lambda: worker.report().waiting == 3)
    full = talker.send('4?')
    assert talker.result(full) == (GoalStatus.STATUS_ABORTED, Ask.Response.REJECTED)
    talker.wait(goals[2].cancel_goal_async())
    # at once, although another question is being answered
    assert talker.result(goals[2]) == (GoalStatus.STATUS_CANCELED, Ask.Response.CANCELLED)
    assert engine.asked == ['0?']
    talker.wait(goals[0].cancel_goal_async())
    assert talker.result(goals[0]) == (GoalStatus.STATUS_CANCELED, Ask.Response.CANCELLED)
    engine.gate.set()
    for goal in (goals[1], goals[3]):
        assert talker.result(goal) == (GoalStatus.STATUS_SUCCEEDED, Ask.Response.NONE)
    assert engine.asked == ['0?', '1?', '3?']


def test_goals_that_wait_and_run_too_long_come_back(talker: Talker) -> None:
    bench = talker.bench
    bench.engine.gate.clear()
    assert bench.node.set_parameters([Parameter('ask.timeout_s', value=0.3)])[0].successful
    goals = [talker.send('0?'), talker.send('1?')]
    for goal in goals:
        assert talker.result(goal) == (GoalStatus.STATUS_ABORTED, Ask.Response.TIMEOUT)
    assert bench.engine.asked[0] == '0?'
    bench.engine.gate.set()
    assert bench.node.set_parameters([Parameter('ask.timeout_s', value=30.0)])[0].successful
    assert talker.result(talker.send('2?')) == (GoalStatus.STATUS_SUCCEEDED, Ask.Response.NONE)


def test_a_cancel_before_the_question_is_asked_is_not_lost(talker: Talker) -> None:
    bench, ended = talker.bench, []
    bench.engine.gate.clear()
    handle = SimpleNamespace(
        request=AskStream.Goal(question='0?'), goal_id=SimpleNamespace(uuid=bytes(16)),
        is_cancel_requested=True, canceled=lambda: ended.append('canceled'))
    task = bench.node.executor.create_task(bench.node._asking._on_goal, handle)
    talker.wait(task)
    assert ended == ['canceled'] and task.result().error_code == Ask.Response.CANCELLED


def test_a_model_that_fails_and_a_node_that_ends_are_results(talker: Talker) -> None:
    bench = talker.bench
    bench.engine.broken = 'out of memory'
    assert talker.result(talker.send('0?')) == (
        GoalStatus.STATUS_ABORTED, Ask.Response.MODEL_FAILED)
    bench.engine.broken = ''
    bench.engine.gate.clear()
    goals = [talker.send('1?'), talker.send('2?')]
    bench.until(lambda: bench.engine.asked == ['0?', '1?'])
    bench.until(lambda: bench.node._worker.report().waiting == 1)
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    for goal in goals:
        assert talker.result(goal) == (GoalStatus.STATUS_ABORTED, Ask.Response.CANCELLED)
    assert talker.result(talker.send('3?')) == (
        GoalStatus.STATUS_ABORTED, Ask.Response.NOT_ACTIVE)
