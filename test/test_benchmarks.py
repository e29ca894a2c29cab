"""What the benchmarks share; that of the synchronizer runs and says what it measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
import subprocess
import sys
from types import ModuleType

import pytest

# Takes every message and delivers a set once it has one of each input.
PEER = """
import rclpy.time


class SimpleFilter:
    def __init__(self):
        self.callbacks = []

    def registerCallback(self, callback, *args):
        self.callbacks.append((callback, args))

    def signalMessage(self, *messages):
        for callback, args in self.callbacks:
            callback(*messages, *args)


class ApproximateTimeSynchronizer(SimpleFilter):
    def __init__(self, filters, queue_size, slop):
        super().__init__()
        self.held = [None] * len(filters)
        for i, one in enumerate(filters):
            one.registerCallback(self.add, i)

    def add(self, message, i):
        self.held[i] = rclpy.time.Time.from_msg(message.header.stamp)
        if all(self.held):
            self.signalMessage(*self.held)
            self.held = [None] * len(self.held)
"""


@pytest.fixture
def report_module(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import benchmarks/_report.py."""
    spec = importlib.util.spec_from_file_location('_report', root / 'benchmarks' / '_report.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, '_report', module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def run(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the synchronizer's benchmark, quickly."""
    return subprocess.run(
        [sys.executable, str(root / 'benchmarks' / 'bench_sync.py'), '--quick', *args],
        capture_output=True, text=True, timeout=120, check=False)


def test_a_report_says_how_far_ahead_and_whether_goals_are_met(
        report_module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_module.Report('title', 'numpy', 'no-such-package')
    timing = report_module.Timing((3.0, 1.0, 2.0))
    rows = [report.add('less', timing, 6.0, goal='>= 3x', unit='ms'),
            report.add('more', 10, 4, goal='>= 11', unit='a second', more_is_better=True),
            report.add('alone', timing.scaled(2), goal='<= 4', unit='s'),
            report.add('no reference for the goal', 1, goal='>= 3x'),
            report.add('nothing there', 19, 0, goal='none'),
            report.add('apples', 19, 2, compare=False)]
    assert [row.ratio for row in rows] == [3.0, 2.5, None, None, None, None]
    assert [row.verdict() for row in rows] == ['met', 'MISSED', 'met', '', '', '']
    report.finish(tmp_path / 'new' / 'report.json')
    values = json.loads((tmp_path / 'new' / 'report.json').read_text(encoding='utf-8'))
    assert values[0] == {'case': 'less', 'ours': 2.0, 'reference': 6.0, 'ratio': 3.0,
                         'goal': '>= 3x', 'unit': 'ms', 'machine': report.machine}
    assert values[2]['reference'] is None and values[4]['reference'] == 0
    said = capsys.readouterr().out
    assert '2 (1 to 3) ms' in ' '.join(said.split()) and 'missed: more' in said
    assert 'numpy' in report.machine and 'no-such-package' not in report.machine


def test_timing_leaves_out_the_warm_up(report_module: ModuleType) -> None:
    times = iter(range(100))
    calls: list[int] = []
    timing = report_module.timed(lambda: calls.append(next(times)), 3, warmup=2,
                                 clock=lambda: float(next(times)))
    assert len(calls) == 5 and timing.values == (2.0, 2.0, 2.0)


def test_the_synchronizer_beside_a_peer(root: Path, tmp_path: Path) -> None:
    pytest.importorskip('rclpy')
    (tmp_path / 'message_filters.py').write_text(PEER, encoding='utf-8')
    done = run(root, '--message-filters', str(tmp_path), '--json', str(tmp_path / 'sync.json'))
    assert done.returncode == 0, done.stderr
    assert f'of ROS 2, {tmp_path / "message_filters.py"}' in done.stdout
    rows = {row['case']: row for row in
            json.loads((tmp_path / 'sync.json').read_text(encoding='utf-8'))}
    five = rows['five streams']
    assert 0 < five['ours'] and five['ratio'] == pytest.approx(five['reference'] / five['ours'])
    assert (rows['windows, all speak']['ours'], rows['windows, all speak']['reference']) == (4, 50)
    silent = rows['windows, no points, required']
    assert (silent['ours'], silent['reference'], silent['ratio']) == (4, 0, None)
    assert rows['messages in one, all speak']['ours'] == 100


def test_without_the_peer_no_ratio_is_made_up(root: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec('message_filters') is None:
        done = run(root, '--json', str(tmp_path / 'sync.json'))
        assert done.returncode == 0, done.stderr
        assert 'not measured here' in done.stdout
        rows = json.loads((tmp_path / 'sync.json').read_text(encoding='utf-8'))
        assert {row['reference'] for row in rows} == {row['ratio'] for row in rows} == {None}
        done = run(root, '--message-filters', str(tmp_path))
        assert done.returncode == 1 and 'expected a folder with the module' in done.stderr
    assert run(root, '--seconds', '1').returncode == 2


@pytest.mark.slow
def test_the_node_under_load(root: Path, tmp_path: Path, ros_env: dict[str, str]) -> None:
    pytest.importorskip('rclpy')
    done = subprocess.run(
        [sys.executable, str(root / 'benchmarks' / 'bench_node.py'), '--cases', 'stub',
         '--seconds', '1', '--json', str(tmp_path / 'node.json')],
        capture_output=True, text=True, timeout=120, check=False, env=ros_env)
    assert done.returncode == 0, done.stderr
    rows = {row['case']: row for row in
            json.loads((tmp_path / 'node.json').read_text(encoding='utf-8'))}
    assert 0 < rows['stub: CPU seconds a second']['ours']
    assert rows['stub: window closed after its end, median']['ours'] > 0
