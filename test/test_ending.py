"""How processes end on a signal: who asked is told, and what takes long is left."""

from __future__ import annotations

from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('rclpy.action')
pytest.importorskip('onellm_msgs.msg')

from onellm_msgs.action import AskStream  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

LONG = """
import time
from types import SimpleNamespace
from onellm_ros.ros.ending import Ending
with Ending() as ending:
    ending.node = SimpleNamespace(destroy_node=lambda: print('left'))
    print('begun', flush=True)
    time.sleep(60)
"""
IMPORTING = """
from onellm_ros.ros.scripts import leave_at_once
leave_at_once()
print('begun', flush=True)
while True:
    pass
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(('program', 'left'), [(LONG, 'left\n'), (IMPORTING, '')])
def test_what_takes_long_is_left(ros_env: dict[str, str], program: str, left: str,
                                 number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, '-c', program], env=ros_env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == 'begun\n'
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out, errors) == (0, left, '')
    finally:
        process.kill()


class Robot:
    """A client in a context of its own, so that nothing of the node's process is shared."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('robot', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, done: Any, process: subprocess.Popen[str]) -> None:
        end_s = time.monotonic() + 60
        while not done():
            assert time.monotonic() < end_s, process.poll()
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def end(process: subprocess.Popen[str], robot: Robot) -> str:
    """End what still runs, and return what the process wrote to stderr."""
    process.kill()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(10)
    robot.close()
    return errors


@pytest.mark.slow
def test_questions_asked_while_a_model_loads_are_refused_before_the_process_ends(
        ros_env: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / 'loading.py'
    program.write_text(
        'import sys, time\n'
        'from onellm_ros.ros import perception_node\n'
        'perception_node.memory.load_engine = lambda config: time.sleep(60)\n'
        'sys.exit(perception_node.main())\n')
    process = subprocess.Popen([sys.executable, str(program)], env=ros_env, text=True,
                               stderr=subprocess.PIPE)
    robot = Robot()
    service = robot.node.create_client(Ask, '/perception/ask')
    try:
        robot.until(service.service_is_ready, process)
        reply = service.call_async(Ask.Request(question='What?'))
        end_s = time.monotonic() + 0.5              # the request is on its way
        robot.until(lambda: time.monotonic() > end_s, process)
        assert not reply.done()                     # it loads, and answers nobody
        process.send_signal(signal.SIGINT)
        robot.until(lambda: process.poll() is not None, process)
        robot.until(reply.done, process)
        assert (process.returncode, reply.result().error_code) == (0, Ask.Response.NOT_ACTIVE)
    finally:
        errors = end(process, robot)
    assert 'Traceback' not in errors


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_questions_in_flight_are_answered_before_the_process_ends(
        ros_env: dict[str, str], number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, '-m', 'onellm_ros.ros.perception_node', '--ros-args', '-p',
         'model:=nano', '-p', 'ask.wait_s:=50.0', '-p', 'ask.timeout_s:=60.0'],
        env=ros_env, text=True, stderr=subprocess.PIPE)
    robot = Robot()
    service = robot.node.create_client(Ask, '/perception/ask')
    action = ActionClient(robot.node, AskStream, '/perception/ask_stream')
    try:
        robot.until(lambda: service.service_is_ready() and action.server_is_ready(), process)
        replies = [service.call_async(Ask.Request(question='What?')) for _ in range(3)]
        robot.until(lambda: robot.node.count_subscribers('/image'), process)     # it is active
        goals = [action.send_goal_async(AskStream.Goal(question='What?')) for _ in range(3)]
        robot.until(lambda: all(g.done() for g in goals), process)
        results = [g.result().get_result_async() for g in goals]
        end_s = time.monotonic() + 0.5              # the requests are on their way
        robot.until(lambda: time.monotonic() > end_s, process)
        process.send_signal(number)
        robot.until(lambda: process.poll() is not None, process)
        assert process.returncode == 0
        robot.until(lambda: all(f.done() for f in [*replies, *results]), process)
        codes = [f.result().result.error_code for f in results]
        assert codes == [Ask.Response.CANCELLED] * 3
        # the first may have come before it was active
        assert {f.result().error_code for f in replies} <= {
            Ask.Response.CANCELLED, Ask.Response.NOT_ACTIVE}
    finally:
        action.destroy()
        errors = end(process, robot)
    assert 'Traceback' not in errors
