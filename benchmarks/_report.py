"""What the benchmarks have in common: the machine's line, timing, a table, a JSON file.

A benchmark makes a :class:`Report`, adds a row a case, prints and writes it::

    report = Report('Synchronizer', 'numpy', 'torch')
    report.add('five streams', timed(run, 7), reference=timed(peer, 7), goal='<= 6', unit='us')
    report.finish(args.json)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
import json
import os
from pathlib import Path
import platform
import re
import statistics
import sys
import time

from onellm_ros.machine import processor, usable_cores

_GOAL = re.compile(r'\s*(<=|>=)\s*([0-9.]+)\s*(x?)\s*')


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)

    def scaled(self, factor: float) -> Timing:
        """Return the same in another unit, or for each of many."""
        return Timing(tuple(v * factor for v in self.values))


def timed(function: Callable[[], object], repeats: int, warmup: int = 1,
          clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Return the seconds of each call of ``function``, after some that do not count.

    :param clock: ``time.process_time`` for the CPU's time instead of the wall's. A GPU must be
        waited for by ``function`` itself.
    """
    for _ in range(warmup):
        function()
    values = []
    for _ in range(repeats):
        start = clock()
        function()
        values.append(clock() - start)
    return Timing(tuple(values))


def machine(*packages: str) -> str:
    """Return one line about the machine, its load and the versions.

    :param packages: distributions whose versions matter; those not installed are left out.
    """
    parts = [f'{processor()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}']
    torch = sys.modules.get('torch')  # asked only where the benchmark uses it
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    versions = [f'Python {platform.python_version()}']
    for name in packages:
        try:
            versions.append(f'{name} {metadata.version(name)}')
        except metadata.PackageNotFoundError:
            continue
    return '; '.join([*parts, ', '.join(versions)])


def arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the options of every benchmark: ``--repeats``, ``--quick`` and ``--json``."""
    parser.add_argument('--repeats', type=int, default=repeats, help='default %(default)s')
    parser.add_argument('--quick', action='store_true', help='fewer repeats and shorter ones')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the rows there, too')


@dataclass(frozen=True)
class Row:
    """One case of a report, see :meth:`Report.add`."""

    case: str
    ours: Timing
    reference: Timing | None
    ratio: float | None
    goal: str
    unit: str

    def verdict(self) -> str:
        """Return whether the goal is met; empty without a goal that figures can meet."""
        found = _GOAL.fullmatch(self.goal)
        value = self.ratio if found and found[3] else self.ours.median
        if not found or value is None:
            return ''
        limit = float(found[2])
        met = value <= limit if found[1] == '<=' else value >= limit
        return 'met' if met else 'MISSED'


class Report:
    """The rows of a benchmark; every row comes from this run on this machine.

    :param title: printed above. :param packages: see :func:`machine`.
    """

    def __init__(self, title: str, *packages: str) -> None:
        self.title = title
        self.machine = machine(*packages)
        self.rows: list[Row] = []
        print(f'{title}\n{self.machine}', flush=True)

    def add(self, case: str, ours: Timing | float, reference: Timing | float | None = None, *,
            goal: str = '', unit: str = '', more_is_better: bool = False,
            compare: bool = True) -> Row:
        """Add a case and print its line.

        :param ours: measurements, or one figure. :param reference: the peer's, or the limit, if
            it was measured in this run.
        :param goal: ``<= 6`` or ``>= 90`` for ours in ``unit``, ``>= 3x`` for the ratio.
        :param more_is_better: for rates and counts; else less is better (times, bytes).
        :param compare: False where a ratio of the two would say nothing.
        :returns: the row; its ratio says how many times ahead ours is, by the medians: 2 is half
            of the reference's time or twice its rate. None without a reference or where it is 0.
        """
        own = ours if isinstance(ours, Timing) else Timing((float(ours),))
        other = reference
        if other is not None and not isinstance(other, Timing):
            other = Timing((float(other),))
        ratio = None
        if compare and other is not None and other.median > 0 and own.median > 0:
            ratio = other.median / own.median
            ratio = 1 / ratio if more_is_better else ratio
        row = Row(case, own, other, ratio, goal, unit)
        self.rows.append(row)
        print(_line(row), flush=True)
        return row

    def note(self, text: str) -> None:
        """Print a heading or a remark between the rows."""
        print(f'\n{text}', flush=True)

    def finish(self, path: Path | None = None) -> None:
        """Say which goals were missed, and write the JSON file if a path is given."""
        missed = [row.case for row in self.rows if row.verdict() == 'MISSED']
        if missed:
            self.note(f'missed: {"; ".join(missed)}')
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.values(), indent=1) + '\n', encoding='utf-8')

    def values(self) -> list[dict[str, object]]:
        """Return the rows as the JSON file holds them; medians."""
        return [{'case': row.case, 'ours': row.ours.median,
                 'reference': None if row.reference is None else row.reference.median,
                 'ratio': row.ratio, 'goal': row.goal, 'unit': row.unit, 'machine': self.machine}
                for row in self.rows]


def _figure(values: Sequence[float]) -> str:
    middle = f'{statistics.median(values):.4g}'
    if len(values) == 1:
        return middle
    return f'{middle} ({min(values):.3g} to {max(values):.3g})'


def _line(row: Row) -> str:
    parts = [f'  {row.case:44} {_figure(row.ours.values):>24} {row.unit:9}']
    if row.reference is not None:
        parts.append(f'reference {_figure(row.reference.values)}')
    if row.ratio is not None:
        parts.append(f'ratio {row.ratio:.3g}')
    if row.goal:
        parts.append(f'goal {row.goal} {row.verdict()}'.rstrip())
    return '  '.join(parts)
