"""The interface package onellm_msgs: built, complete, documented, and carried by real nodes."""

from __future__ import annotations

import math
from pathlib import Path
import re
import time
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy')

from builtin_interfaces.msg import Time  # noqa: E402
from onellm_msgs.action import AskStream  # noqa: E402
from onellm_msgs.msg import AudioChunk, Description, ModalityReport, WindowReport  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402

FIELD = re.compile(r'^[\w/]+(\[\])? +[a-z]\w*$')
CONSTANT = re.compile(r'^(\w+) +([A-Z]\w*) *= *(\S+)')
INTERFACES = [
    'msg/Answer.msg', 'msg/AudioChunk.msg', 'msg/Description.msg', 'msg/ModalityReport.msg',
    'msg/WindowReport.msg', 'srv/Ask.srv', 'action/AskStream.action']


def test_every_interface_is_listed_and_built(root: Path) -> None:
    package = root / 'onellm_msgs'
    found = sorted(path.relative_to(package).as_posix()
                   for folder in ('msg', 'srv', 'action') for path in (package / folder).iterdir())
    assert found == sorted(INTERFACES)
    listed = re.findall(
        r'^\s+((?:msg|srv|action)/\S+)', (package / 'CMakeLists.txt').read_text(), re.MULTILINE)
    assert sorted(listed) == found


@pytest.mark.parametrize('name', INTERFACES)
def test_every_field_is_explained(root: Path, name: str) -> None:
    """A comment stands above each group of fields, or behind a constant."""
    explained = False
    for line in (root / 'onellm_msgs' / name).read_text(encoding='utf-8').splitlines():
        if line.startswith('#'):
            explained = True
        elif not line or line == '---':
            explained = False
        else:
            assert explained or '#' in line, f'{name}: {line!r} has no comment'
            assert FIELD.match(line) or CONSTANT.match(line), f'{name}: {line!r}'


def test_service_and_action_agree() -> None:
    goal, result = AskStream.Goal, AskStream.Result
    assert goal.get_fields_and_field_types() == Ask.Request.get_fields_and_field_types()
    assert result.get_fields_and_field_types() == Ask.Response.get_fields_and_field_types()
    assert AskStream.Feedback.get_fields_and_field_types() == {
        'delta': 'string', 'tokens': 'uint32'}


def test_error_codes_are_distinct_and_equal(root: Path) -> None:
    text = (root / 'onellm_msgs/srv/Ask.srv').read_text(encoding='utf-8')
    codes = {found[2]: int(found[3]) for found in map(CONSTANT.match, text.splitlines()) if found}
    assert codes['NONE'] == 0
    assert sorted(codes.values()) == list(range(len(codes)))
    for name, value in codes.items():
        assert getattr(Ask.Response, name) == getattr(AskStream.Result, name) == value


def test_a_full_description_survives_the_wire() -> None:
    report = ModalityReport(
        modality='imu', topics=['/robot/imu'], count=400, first_stamp=Time(sec=8),
        last_stamp=Time(sec=9, nanosec=995_000_000), age_s=0.005, max_skew_s=0.002, late=1,
        dropped=2, expert_weights=[0.25, 0.25, 0.5])
    sent = Description(
        window_start=Time(sec=8), window_end=Time(sec=10), text='Ich drehe mich nach links ↺',
        prompt='Describe what you sense.', modalities=[report], model='nano@1a2b3c4d',
        finish_reason='stop', tokens=7, encode_s=0.02, first_token_s=math.nan, total_s=0.1)
    got = deserialize_message(serialize_message(sent), Description)
    assert got.text == sent.text
    assert list(got.modalities[0].expert_weights) == [0.25, 0.25, 0.5]
    assert math.isnan(got.first_token_s)
    assert got.modalities[0].last_stamp == report.last_stamp


def test_window_report_and_audio_survive_the_wire() -> None:
    window = WindowReport(closed_by=WindowReport.DEADLINE, silent=['image'], latency_s=0.3)
    got = deserialize_message(serialize_message(window), WindowReport)
    assert (got.closed_by, got.silent, got.modalities) == ('deadline', ['image'], [])
    chunk = AudioChunk(sample_rate_hz=16000, channels=2, samples=[-32768, 32767, 0, 1])
    assert list(deserialize_message(serialize_message(chunk), AudioChunk).samples) == [
        -32768, 32767, 0, 1]


def test_ask_runs_between_two_nodes(ros_domain: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    server = rclpy.create_node('messages_test_server', context=context)
    client_node = rclpy.create_node('messages_test_client', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(server)
    executor.add_node(client_node)

    def answer(request: Any, response: Any) -> Any:
        response.success = bool(request.question.strip())
        response.error_code = response.NONE if response.success else response.INVALID_QUESTION
        response.answer = request.question.upper()
        return response

    try:
        server.create_service(Ask, 'ask', answer)
        client = client_node.create_client(Ask, 'ask')
        assert client.wait_for_service(timeout_sec=20.0), 'the service was not discovered in 20 s'
        future = client.call_async(Ask.Request(question='what is ahead?', choices=['a', 'b']))
        end = time.monotonic() + 20.0
        while not future.done() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        assert future.done(), 'no answer in 20 s'
        assert future.result().success
        assert future.result().answer == 'WHAT IS AHEAD?'
    finally:
        executor.shutdown()
        client_node.destroy_node()
        server.destroy_node()
        rclpy.shutdown(context=context)
