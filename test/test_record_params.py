"""The parameters of a recorded node: as they are at the begin, and every change after that."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from onellm_ros.config import ConfigError
from onellm_ros.node_config import NodeConfig
from onellm_ros.replay.params import config_at, read_params

rclpy = pytest.importorskip('rclpy')

from rcl_interfaces.msg import Parameter, ParameterEvent  # noqa: E402
from rclpy.parameter import Parameter as Value  # noqa: E402

from onellm_ros.ros.record_params import ASK_S, ParameterTrail  # noqa: E402


def values(given: Mapping[str, Any]) -> list[Parameter]:
    return [Value(name, value=value).to_parameter_msg() for name, value in given.items()]


class Asked:
    """A node's parameter services, answered by the test."""

    def __init__(self) -> None:
        self.ready = True
        self.lists: list[Future[Any]] = []
        self.gets: list[tuple[list[str], Future[Any]]] = []

    def services_are_ready(self) -> bool:
        return self.ready

    def list_parameters(self) -> Future[Any]:
        self.lists.append(Future())
        return self.lists[-1]

    def get_parameters(self, names: list[str]) -> Future[Any]:
        self.gets.append((names, Future()))
        return self.gets[-1][1]

    def answer(self, given: Mapping[str, Any], without: str = '') -> None:
        """Answer all that was asked; ``without`` has no value, which spoils a whole answer."""
        names = [*given, *([without] if without else [])]
        self.lists.pop().set_result(SimpleNamespace(result=SimpleNamespace(names=names)))
        while self.gets:
            wanted, future = self.gets.pop()
            known = values({n: given[n] for n in wanted if n != without})
            future.set_result(SimpleNamespace(
                values=[p.value for p in known] if without not in wanted else []))


class Bench:
    def __init__(self) -> None:
        self.asked = Asked()
        self.life = frozenset({b'1'})
        self.trail = ParameterTrail(self.asked, lambda: self.life)
        self.trail.poll()

    def tell(self, stamp_ns: int, **groups: Mapping[str, Any]) -> None:
        self.trail.take(ParameterEvent(node='/perception', **{
            name: values(given) for name, given in groups.items()}), stamp_ns)

    def changes(self) -> list[tuple[Any, ...]]:
        return [tuple(change.values()) for change in self.trail.changes]


def test_changes_follow_what_there_was_at_the_begin() -> None:
    bench = Bench()
    bench.asked.answer({'describe.prompt': 'a', 'window.required': ['imu'], 'n': 1})
    assert bench.trail.first == {'describe.prompt': 'a', 'window.required': ['imu'], 'n': 1}
    bench.tell(5, changed_parameters={'describe.prompt': 'b', 'n': 1})
    bench.tell(6, new_parameters={'source.front.topic': '/front'}, deleted_parameters={'n': 1})
    assert bench.changes() == [(5, 'describe.prompt', 'a', 'b'),
                               (6, 'source.front.topic', None, '/front'), (6, 'n', 1, None)]
    assert bench.trail.first['describe.prompt'] == 'a'
    assert bench.trail.values == {'describe.prompt': 'b', 'window.required': ['imu'],
                                  'source.front.topic': '/front'}
    bench.trail.poll()
    assert not bench.asked.lists            # it knows enough


def test_what_is_told_before_the_answer_counts_if_the_answer_does_not_hold_it() -> None:
    bench = Bench()
    bench.tell(3, changed_parameters={'held': 2, 'later': 8})
    bench.tell(4, changed_parameters={'held': 3})
    bench.asked.answer({'held': 3, 'later': 7})
    assert bench.trail.first == {'held': 3, 'later': 7}
    assert bench.changes() == [(3, 'later', 7, 8)]


def test_a_node_that_does_not_answer_is_asked_again() -> None:
    bench = Bench()
    bench.trail.poll()
    assert len(bench.asked.lists) == 1      # it may be on its way
    for fail in (lambda f: f.set_result(None), lambda f: f.set_exception(RuntimeError('gone'))):
        fail(bench.asked.lists.pop())       # such as a service that dies under the call
        bench.trail.poll()
        assert not bench.asked.lists and not bench.trail.first
        bench.trail._ask_s -= ASK_S
        bench.trail.poll()
    bench.asked.lists[-1].set_result(SimpleNamespace(result=SimpleNamespace(names=['a'])))
    (_, late), = bench.asked.gets
    bench.trail._ask_s -= ASK_S             # now it dies between the two answers
    bench.trail.poll()
    bench.asked.gets.clear()
    bench.asked.answer({'a': 1})
    late.set_result(SimpleNamespace(values=[p.value for p in values({'a': 0})]))
    assert bench.trail.first == bench.trail.values == {'a': 1}


def test_a_parameter_without_a_value_costs_only_itself() -> None:
    bench = Bench()
    bench.asked.answer({'a': 1, 'b': 2.5, 'c': [True, False]}, without='unset')
    assert bench.trail.first == {'a': 1, 'b': 2.5, 'c': [True, False]}


def test_a_restarted_node_is_asked_what_is_different_now() -> None:
    bench = Bench()
    bench.asked.answer({'a': 1, 'gone': 'x'})
    bench.life = frozenset()
    bench.trail.poll()
    assert not bench.asked.lists            # nobody to ask
    bench.life = frozenset({b'2'})
    bench.trail.poll()
    bench.asked.answer({'a': 2})
    assert [c[1:] for c in bench.changes()] == [('a', 1, 2), ('gone', 'x', None)]
    (when,) = bench.trail.restarts
    assert when > 1_600_000_000_000_000_000 and {c[0] for c in bench.changes()} == {when}


def report(path: Path, changes: Any, **parameters: Any) -> Path:
    path.write_text(yaml.safe_dump({
        'onellm_record': 1, 'parameters': parameters, 'sources': [], 'changes': changes}))
    return path


def test_a_replay_follows_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    second = 1_700_000_000_000_000_000
    changes = [{'stamp_ns': second + i, 'name': name, 'from': before, 'to': after}
               for i, (name, before, after) in enumerate((
                   ('describe.prompt', 'a', 'b'), ('window.length_s', 1.0, 2.0),
                   ('modalities', [''], ['image']), ('heartbeat_hz', 1.0, 2.0)))]
    found = read_params(report(tmp_path / 'r', changes, **{'describe.prompt': 'a'}))
    config = found.config
    follow = found.followed(config)
    assert [c.name for c in follow] == ['describe.prompt', 'modalities']
    prompts = [config_at(config, follow, second + i).describe.prompt for i in (-1, 0, 1)]
    assert prompts == ['a', 'b', 'b']
    assert [config_at(config, follow, second + i).modalities for i in (1, 2)] == [(), ('image',)]
    assert config_at(config, follow, second + 9).window == config.window
    prompt, length, _, heartbeat = found.notes
    assert 'describe.prompt changed at 1700000000.000 s (2023-11-14 22:13:20 UTC) from ' \
        "'a' to 'b'; followed" in prompt
    assert 'from 1.0 to 2.0; NOT followed' in length and '--from 1700000000.000' in length
    assert 'does not hang on it' in heartbeat
    assert [c.name for c in found.followed(NodeConfig())] == ['modalities']  # --prompt goes first


@pytest.mark.parametrize(('after', 'told'), [(['image'], False), (['audio'], True), ([''], True)])
def test_what_was_not_shown_at_the_begin_needs_a_word_of_the_user(
        tmp_path: Path, after: list[str], told: bool) -> None:
    changes = [{'stamp_ns': 1, 'name': 'modalities', 'from': ['image', 'imu'], 'to': after}]
    found = read_params(report(tmp_path / 'r', changes, modalities=['image', 'imu']))
    assert any('--modalities' in note for note in found.notes) == told


@pytest.mark.parametrize('changes', [
    5, [5], [{'stamp_ns': 'x', 'name': 'a', 'from': 1, 'to': 2}], [{'name': 'describe.prompt'}],
    [{'stamp_ns': 1, 'name': 'describe.max_tokens', 'from': 1, 'to': 'many'}]])
def test_changes_that_cannot_be_are_refused(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(ConfigError, match='report .*expected'):
        read_params(report(tmp_path / 'r', changes))


def test_a_node_that_is_found_only_after_it_answered_was_not_restarted() -> None:
    bench = Bench()
    bench.life = frozenset()
    bench.trail = ParameterTrail(bench.asked, lambda: bench.life)
    bench.trail.poll()                  # its services are known before its events' publisher is
    bench.asked.answer({'a': 1})
    bench.life = frozenset({b'1'})
    asked = len(bench.asked.lists)
    bench.trail.poll()
    assert len(bench.asked.lists) == asked and not bench.trail.restarts
    bench.life = frozenset({b'2'})      # but now it was
    bench.trail.poll()
    bench.asked.answer({'a': 2})
    assert len(bench.trail.restarts) == 1 and bench.trail.values == {'a': 2}
