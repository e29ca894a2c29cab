"""Run the benchmarks, each in a process of its own, and write benchmarks/results/.

Every ``bench_*.py`` beside this file that takes ``--json`` is run (``make bench``), or those that
are named: ``python benchmarks/run.py sync describe``. One that fails or takes too long stops none
of the others. Of each there are NAME.json (its rows) and NAME.log (what it printed); table.md has
all rows of this run. The exit status is 1 where a benchmark broke; a missed goal is only told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

from _report import Row, Timing

HERE = Path(__file__).resolve().parent
KEYS = {'case', 'ours', 'reference', 'ratio', 'goal', 'unit', 'machine'}
LIMIT_S, QUICK_LIMIT_S, QUICK_TOTAL_S = 3600.0, 60.0, 290.0
# What is measured first, so that a short run has it; the others follow by name.
FIRST = ('sync', 'encode', 'describe', 'conversions', 'decode', 'memory', 'replay', 'training',
         'node', 'backends')
_TAKES = re.compile(r"'--json'|\barguments\(")      # _report.arguments adds it, and --quick
_QUICK = re.compile(r"'--quick'|\barguments\(")


@dataclass
class Outcome:
    """What became of one benchmark.

    :param rows: of its JSON file. :param trouble: why there are none; empty: it ran to its end.
    """

    name: str
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ''
    left_out: bool = False


def found(folder: Path = HERE) -> dict[str, Path]:
    """Return the benchmarks that write JSON, by name (``bench_sync.py`` is ``sync``)."""
    known = {path.stem.removeprefix('bench_'): path for path in sorted(folder.glob('bench_*.py'))
             if _TAKES.search(path.read_text(encoding='utf-8'))}
    order = [*(n for n in FIRST if n in known), *(n for n in known if n not in FIRST)]
    return {name: known[name] for name in order}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a benchmark's file.

    :raises ValueError: saying what is wrong with it.
    """
    try:
        rows = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'it left no readable {path.name}: {error}') from None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{path.name}: expected a list of rows, found {type(rows).__name__}'
                         f'{" without any" if rows == [] else ""}')
    for row in rows:
        missing = KEYS - set(row) if isinstance(row, dict) else KEYS
        if missing:
            raise ValueError(f'{path.name}: a row lacks {sorted(missing)}')
        if not isinstance(row['ours'], int | float):
            raise ValueError(f'{path.name}: {row["case"]}: expected a number as ours, found '
                             f'{row["ours"]!r}')
    return rows


def verdict(row: dict[str, Any]) -> str:
    """Return ``met``, ``MISSED`` or nothing, as the benchmark itself says it."""
    return Row(row['case'], Timing((float(row['ours']),)), None, row['ratio'], row['goal'] or '',
               row['unit']).verdict()


def _stop(process: subprocess.Popen[str]) -> None:
    """End a benchmark with all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_one(name: str, path: Path, out: Path, limit_s: float, quick: bool) -> Outcome:
    """Run one benchmark; what it prints goes to the terminal and to NAME.log."""
    rows_file, log = out / f'{name}.json', out / f'{name}.log'
    rows_file.unlink(missing_ok=True)               # of an earlier run: not of this one
    command = [sys.executable, str(path), '--json', str(rows_file)]
    if quick and _QUICK.search(path.read_text(encoding='utf-8')):
        command.append('--quick')
    started = time.monotonic()
    with log.open('w', encoding='utf-8') as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'})
        try:
            status = process.wait(limit_s)
            trouble = f'ended with status {status}' if status else ''
        except subprocess.TimeoutExpired:
            trouble = f'not done within {limit_s:.0f} s, stopped'
        finally:
            _stop(process)
    outcome = Outcome(name, time.monotonic() - started, trouble=trouble)
    print(log.read_text(encoding='utf-8', errors='replace').rstrip(), flush=True)
    if not trouble:
        try:
            outcome.rows = read_rows(rows_file)
        except ValueError as error:
            outcome.trouble = str(error)
    return outcome


def _figure(value: Any) -> str:
    return '' if value is None else f'{value:.4g}'


def table(outcomes: Sequence[Outcome]) -> str:
    """Return all rows as a Markdown table, and what became of those without any."""
    lines = ['| benchmark | case | ours | reference | ratio | goal | met |', '|' + '---|' * 7]
    for outcome in outcomes:
        for row in outcome.rows:
            cells = (outcome.name, row['case'], f'{_figure(row["ours"])} {row["unit"]}'.strip(),
                     _figure(row['reference']), _figure(row['ratio']), row['goal'] or '',
                     verdict(row))
            lines.append('| ' + ' | '.join(c.replace('|', '/') for c in cells) + ' |')
    lines.append('')
    for outcome in outcomes:
        state = outcome.trouble or f'{len(outcome.rows)} rows'
        lines.append(f'- {outcome.name}: {state} ({outcome.seconds:.0f} s)')
    machines = dict.fromkeys(row['machine'] for o in outcomes for row in o.rows)
    lines += ['', *(f'- {name}' for name in machines)]
    return '\n'.join(lines) + '\n'


def run_all(benchmarks: dict[str, Path], out: Path, limit_s: float, total_s: float, quick: bool
            ) -> list[Outcome]:
    """Run benchmarks one after another.

    :param total_s: one that has less than a few seconds left of these is left out; 0: no limit.
    """
    started, outcomes = time.monotonic(), []
    for name, path in benchmarks.items():
        left = total_s - (time.monotonic() - started) if total_s else limit_s
        if total_s and left < 5:
            outcomes.append(Outcome(name, trouble=f'left out: the {total_s:.0f} s of this run are '
                                    'over', left_out=True))
            continue
        print(f'\n=== {name}', flush=True)
        outcomes.append(run_one(name, path, out, min(limit_s, left), quick))
        last = outcomes[-1]
        print(f'=== {name}: {last.trouble or "done"} in {last.seconds:.0f} s', flush=True)
    return outcomes


def main() -> int:
    """Run what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='default: all')
    parser.add_argument('--quick', action='store_true',
                        help=f'short runs, {QUICK_TOTAL_S:.0f} s for all of them')
    parser.add_argument('--limit', type=float, metavar='S', help='seconds for each benchmark '
                        f'(default: {LIMIT_S:.0f}, quick {QUICK_LIMIT_S:.0f})')
    parser.add_argument('--total', type=float, metavar='S', help='seconds for all (default: no '
                        f'limit, quick {QUICK_TOTAL_S:.0f})')
    parser.add_argument('--out', type=Path, default=HERE / 'results', metavar='DIR')
    parser.add_argument('--list', action='store_true', help='only name them')
    args = parser.parse_args()
    known = found()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f'found {unknown[0]!r}, expected some of {", ".join(known)}')
    chosen = {name: known[name] for name in args.names or known}
    if args.list:
        print('\n'.join(f'{name}: {path}' for name, path in chosen.items()))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    limit = args.limit or (QUICK_LIMIT_S if args.quick else LIMIT_S)
    total = args.total if args.total is not None else QUICK_TOTAL_S if args.quick else 0.0
    outcomes = run_all(chosen, args.out, limit, total, args.quick)
    text = table(outcomes)
    (args.out / 'table.md').write_text(text, encoding='utf-8')
    print(f'\n{text}\nwrote {args.out}')
    missed = [f'{o.name}: {row["case"]}' for o in outcomes for row in o.rows
              if verdict(row) == 'MISSED']
    broken = [o for o in outcomes if o.trouble and not o.left_out]
    print(f'{len(missed)} goals missed' + ''.join(f'\n  {name}' for name in missed))
    for outcome in broken:
        print(f'broken: {outcome.name}: {outcome.trouble}; see {args.out / outcome.name}.log',
              file=sys.stderr)
    return int(bool(broken))


if __name__ == '__main__':
    sys.exit(main())
