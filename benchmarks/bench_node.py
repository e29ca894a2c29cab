"""What the perception node costs under a robot's sensors, and whether anything is lost.

    .venv/bin/python benchmarks/bench_node.py                 # without a model, then with nano
    .venv/bin/python benchmarks/bench_node.py --profile node.prof --cases stub

Four cameras 640x480 and two depth cameras at 30 Hz with their CameraInfo, a cloud of 100,000
points at 10 Hz, an IMU at 400 Hz and 16 kHz audio are published by a process of its own, whose CPU
does not count. The node runs as ``perception`` does, with these as its sources; in the case
``stub`` its model costs nothing. Reference is ``floor``, a node of rclpy whose callbacks only read
stamps. ``transport`` is that node with the shared memory that Fast DDS takes by default (the
others have --shm), too little for such messages.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import cProfile
import json
import os
from pathlib import Path
import statistics
import sys
import tempfile
import threading
import time
from types import SimpleNamespace
from typing import Any

from _report import Report, arguments

WARMUP_S = 4.0
_TICK = os.sysconf('SC_CLK_TCK')
_GROUPS = ('camera', 'depth', 'cloud', 'imu', 'audio')
# Fast DDS hands messages over in 0.5 MiB of shared memory by default, less than one picture.
_PROFILE = Path(__file__).parents[1] / 'config/fastdds_large.xml'
_PROFILE_BYTES = 64 << 20


# -- the node's process -----------------------------------------------------------------------

class _Tensors(dict):  # type: ignore[type-arg]
    left_out: Mapping[Any, str] = {}


class _Engine:
    """A model that costs nothing: the window's samples are its input and its words are none."""

    name, weights_hash = 'stub', ''

    def __init__(self) -> None:
        from onellm_ros.config import NANO
        from onellm_ros.modality import Modality
        self.config = NANO
        self.modalities = tuple(m for m in Modality if m is not Modality.FMRI)
        self.preprocessor = SimpleNamespace(
            tensors=lambda chosen, end_ns, strict: _Tensors(chosen))

    def encode(self, tensors: Mapping[Any, Any]) -> Any:
        return SimpleNamespace(modalities=tuple(tensors), encode_s=0.0, expert_weights={})

    def ask(self, prefix: Any, question: str, **options: Any) -> Any:
        return SimpleNamespace(text='nothing', tokens=1, finish_reason='stop', first_token_s=0.0,
                               total_s=0.0, choice_index=-1, choice_probabilities=(),
                               confidence=1.0)


def _parameters(model: str) -> dict[str, Any]:
    from _node_load import streams

    from onellm_ros.ros.subscriptions import type_name
    sensors = [s for s in streams() if s.modality]
    values: dict[str, Any] = {'sources': [s.name for s in sensors]}
    for s in sensors:
        values |= {f'source.{s.name}.topic': s.topic, f'source.{s.name}.type': type_name(s.kind),
                   f'source.{s.name}.modality': s.modality}
    return values | ({'model': model} if model != 'stub' else {})


def run_node(model: str, file: Path, executor: str, profile: Path | None) -> None:
    """Run the perception node until the end, then write what came when."""
    from _node_load import spin, stamp_of
    from rclpy.parameter import Parameter

    from onellm_ros.perception.intake import Intake
    from onellm_ros.ros import perception_node
    heard: dict[str, list[tuple[int, int]]] = {}
    receive = Intake.receive

    def noted(self: Intake, feed: Any, message: Any, receive_ns: int, now_ns: int) -> None:
        heard.setdefault(feed.topic, []).append((stamp_of(message), receive_ns))
        receive(self, feed, message, receive_ns, now_ns)
    Intake.receive = noted  # type: ignore[method-assign]
    overrides = [Parameter(name, value=value) for name, value in _parameters(model).items()]

    def make() -> Any:
        return perception_node.PerceptionNode(
            loader=(lambda *_: _Engine()) if model == 'stub' else None,
            parameter_overrides=overrides)

    def until(node: Any, spinner: Any, ending: Any) -> None:
        recorder = cProfile.Profile() if profile is not None else None
        if recorder is not None:
            recorder.enable()
        ending.node = node
        perception_node.run(node, ending)
        if recorder is not None:
            recorder.disable()
            recorder.dump_stats(str(profile))
        file.write_text(json.dumps(heard), encoding='utf-8')
        ending.farewell()
    spin(make, executor, until)


# -- what is measured from outside ------------------------------------------------------------

def threads_of(pid: int) -> dict[int, tuple[str, float]]:
    """Return the name and the CPU seconds of each thread of a process."""
    out = {}
    for task in Path(f'/proc/{pid}/task').iterdir():
        head, _, rest = (task / 'stat').read_text().rpartition(')')
        fields = rest.split()
        out[int(task.name)] = head.partition('(')[2], (int(fields[11]) + int(fields[12])) / _TICK
    return out


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith('VmRSS')) / 1024


class Watcher:
    """Hears what the node says of its windows and inputs."""

    def __init__(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from onellm_msgs.msg import Description, WindowReport
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('watcher')
        self.windows: list[Any] = []
        self.descriptions = 0
        self.diagnostics: Any = None
        self.node.create_subscription(WindowReport, '/perception/window', self.windows.append, 50)
        self.node.create_subscription(Description, '/perception/description', self._described, 50)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ended.is_set():
            self.executor.spin_once(timeout_sec=0.2)

    def _described(self, message: Any) -> None:
        self.descriptions += 1

    def _diagnosed(self, message: Any) -> None:
        self.diagnostics = message

    def close(self) -> None:
        """End listening."""
        import rclpy
        self._ended.set()
        self._thread.join()
        rclpy.try_shutdown()


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one case and return what was measured."""
    from onellm_ros.ros.demo_processes import Children, free_domain
    os.environ.pop('FASTRTPS_DEFAULT_PROFILES_FILE', None)
    os.environ |= {'ROS_DOMAIN_ID': str(free_domain()),
                   'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
        settings = {'PYTHONPATH': paths}
        role = 'floor' if case == 'transport' else case
        if args.shm and case != 'transport':
            profile = folder / 'profile.xml'
            profile.write_text(_PROFILE.read_text().replace(
                str(_PROFILE_BYTES), str(args.shm << 20)))
            settings['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(profile)
            os.environ |= settings
        watcher = Watcher()
        try:
            with Children(folder, settings) as children:
                options = ['--executor', args.executor]
                options += ['--raw'] if args.raw else []
                if args.profile and role != 'floor':
                    options += ['--profile', str(args.profile)]
                node = children.start('node', 'bench_node', [
                    '--role', role, '--file', str(folder / 'heard.json'), *options])
                robot = children.start('robot', 'bench_node', [
                    '--role', 'robot', '--file', str(folder / 'sent.json')])
                end_s = time.monotonic() + 90
                while 'began' not in robot.text():
                    if time.monotonic() > end_s or not node.alive or not robot.alive:
                        sys.exit(f'{case}: did not begin\n{node.tail()}\n{robot.tail()}')
                    time.sleep(0.1)
                time.sleep(WARMUP_S)
                try:
                    found = _measured(node.process.pid, robot.process.pid, args, watcher)
                except (OSError, StopIteration):
                    sys.exit(f'{case}: a process ended\n{node.tail(40)}\n{robot.tail()}')
            found['heard'] = json.loads((folder / 'heard.json').read_text())
            found['sent'] = json.loads((folder / 'sent.json').read_text())
            found['log'] = node.text()
        finally:
            watcher.close()
    return found


def _measured(pid: int, robot: int, args: argparse.Namespace, watcher: Watcher) -> dict[str, Any]:
    before, window_0, described_0 = threads_of(pid), len(watcher.windows), watcher.descriptions
    robot_0 = sum(s for _, s in threads_of(robot).values())
    begin_s, begin_ns, rss = time.monotonic(), time.time_ns(), rss_mib(pid)
    time.sleep(args.seconds)
    after, span_s = threads_of(pid), time.monotonic() - begin_s
    cpu: dict[str, float] = {}
    for number, (name, spent) in after.items():
        name = 'executor' if number == pid else name
        cpu[name] = cpu.get(name, 0.0) + (spent - before.get(number, ('', 0.0))[1]) / span_s
    robot_cpu = (sum(s for _, s in threads_of(robot).values()) - robot_0) / span_s
    return {'cpu': cpu, 'robot': robot_cpu, 'rss': (rss, rss_mib(pid)), 'span_s': span_s,
            'begin_ns': begin_ns, 'end_ns': begin_ns + round(span_s * 1e9),
            'windows': watcher.windows[window_0:], 'diagnostics': watcher.diagnostics,
            'descriptions': watcher.descriptions - described_0,
            'load': os.getloadavg()[0]}


def arrivals(found: Mapping[str, Any]) -> dict[str, tuple[int, int, list[float]]]:
    """Return sent and lost messages and the delays (s) of each group, in the measured time."""
    from _node_load import streams
    out: dict[str, tuple[int, int, list[float]]] = {}
    for stream in streams():
        pairs = found['heard'].get(stream.topic, found['heard'].get(stream.name, []))
        heard = {stamp: at - stamp for stamp, at in pairs}
        sent = [s for s in found['sent'].get(stream.name, ())
                if found['begin_ns'] <= s < found['end_ns']]
        count, lost, delays = out.get(stream.group, (0, 0, []))
        out[stream.group] = (count + len(sent), lost + sum(s not in heard for s in sent),
                             delays + [heard[s] / 1e9 for s in sent if s in heard])
    return out


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float('nan')


def _values(diagnostics: Any, key: str) -> dict[str, float]:
    """Return a value of every input's status."""
    out = {}
    for status in diagnostics.status if diagnostics is not None else ():
        found = {v.key: v.value for v in status.values}
        if key in found:
            out[status.name] = float(found[key])
    return out


def _each_us(found: Mapping[str, Any]) -> float:
    """Return the CPU microseconds of the node for each message that came."""
    count = sum(sent - lost for sent, lost, _ in arrivals(found).values())
    return sum(found['cpu'].values()) * found['span_s'] / max(count, 1) * 1e6


def tell(report: Report, case: str, found: Mapping[str, Any], floor: Mapping[str, Any] | None,
         free: bool) -> None:
    """Add the rows of one case."""
    from _node_load import streams
    came, total = arrivals(found), sum(found['cpu'].values())
    parts = ', '.join(f'{name} {spent:.2f}' for name, spent in
                      sorted(found['cpu'].items(), key=lambda x: -x[1]) if spent > 0.004)
    report.note(f'{case}: {found["span_s"]:.0f} s, load {found["load"]:.1f}; CPU by thread: '
                f'{parts}; publisher {found["robot"]:.2f}')
    wanted = sum(s.hz for s in streams()) * found['span_s']
    sent = sum(c for c, _, _ in came.values())
    if sent < 0.97 * wanted:
        print(f'  the publisher did not keep its rates: {sent} of {wanted:.0f} messages')
    report.add(f'{case}: CPU seconds a second', total,
               sum(floor['cpu'].values()) if floor else None, unit='s/s',
               goal='<= 1' if free else '')
    report.add(f'{case}: CPU a message that came', _each_us(found),
               _each_us(floor) if floor else None, unit='us')
    lost = ', '.join(f'{group} {c[1]}' for group, c in came.items() if c[1])
    if lost:
        print(f'  lost before the node: {lost}')
    report.add(f'{case}: messages lost before the node', sum(c[1] for c in came.values()),
               unit=f'of {sent}', goal='<= 0' if case not in ('floor', 'transport') else '')
    for group in _GROUPS:
        delays = came[group][2]
        other = arrivals(floor)[group][2] if floor else []
        report.add(f'{case}: {group}, stamp to callback, median', _quantile(delays, 0.5) * 1e3,
                   _quantile(other, 0.5) * 1e3 if other else None, unit='ms')
        report.add(f'{case}: {group}, stamp to callback, p99', _quantile(delays, 0.99) * 1e3,
                   _quantile(other, 0.99) * 1e3 if other else None, unit='ms')
    windows = found['windows']
    if windows:
        report.add(f'{case}: windows late or dropping', sum(
            b.late != a.late or b.dropped != a.dropped
            for a, b in zip(windows, windows[1:], strict=False)), unit=f'of {len(windows)}',
            goal='<= 0')
        latency = [w.latency_s for w in windows]
        report.add(f'{case}: window closed after its end, median',
                   statistics.median(latency) * 1e3, unit='ms')
        report.add(f'{case}: window closed after its end, most', max(latency) * 1e3, unit='ms')
        for key in ('late', 'lost', 'errors'):
            bad = {k: v for k, v in _values(found['diagnostics'], key).items() if v}
            if bad:
                print(f'  diagnostics, {key}: {bad}')
        print(f'  {len(windows)} windows, {found["descriptions"]} descriptions')
    report.add(f'{case}: resident memory', found['rss'][1], floor['rss'][1] if floor else None,
               unit='MiB', compare=False)
    print(f'  it grew by {found["rss"][1] - found["rss"][0]:.1f} MiB meanwhile')


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments(parser, 1)
    parser.add_argument('--cases', help='default floor,stub,nano,transport; --quick: floor,stub')
    parser.add_argument('--seconds', type=float, help='measured (default 20, 6 with --quick)')
    parser.add_argument('--executor', default='single', choices=('single', 'events', 'resting'),
                        help="of the node and the reference; the node's own is single")
    parser.add_argument('--jpeg', action='store_true', help='the cameras send jpeg files')
    parser.add_argument('--shm', type=int, default=64, metavar='MIB',
                        help="shared memory of each process's transport (default %(default)s); "
                             '0: as Fast DDS has it')
    parser.add_argument('--profile', type=Path, help="cProfile of the node's main thread")
    parser.add_argument('--raw', action='store_true',
                        help='the reference takes messages as bytes, its callbacks read nothing')
    parser.add_argument('--role', help=argparse.SUPPRESS)
    parser.add_argument('--file', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == 'robot':
        from _node_load import publish
        return publish(args.file)
    if args.role == 'floor':
        from _node_load import listen
        return listen(args.file, args.executor, raw=args.raw)
    if args.role:
        return run_node(args.role, args.file, args.executor, args.profile)
    if args.jpeg:
        from _node_load import JPEG
        os.environ[JPEG] = '1'
    args.seconds = args.seconds or (6.0 if args.quick else 20.0)
    args.cases = args.cases or ('floor,stub' if args.quick else 'floor,stub,nano,transport')
    report = Report("The node under a robot's sensors", 'ros-rclpy', 'numpy',
                    'opencv-python-headless')
    floor = None
    for case in args.cases.split(','):
        found = measure(case, args)
        tell(report, case, found, floor, case == 'stub')
        if case == 'floor':
            floor = found
    report.finish(args.json)
    return None


if __name__ == '__main__':
    main()
