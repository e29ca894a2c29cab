"""``onellm eval --compare A B``: whether model B differs from A by more than the noise.

A and B are folders of runs, or folders that hold runs of several tasks. The exit status is 0 where
B is not worse, 3 where it is worse beyond the noise, 2 where they cannot be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import json
from pathlib import Path
import sys
from typing import Any

from onellm_ros.evaluation.bootstrap import LEVEL, holm
from onellm_ros.evaluation.comparing import SAME, WORSE, Comparison, Row, compare
from onellm_ros.evaluation.predictions import read_predictions
from onellm_ros.evaluation.runs import (
    ABOUT,
    JUDGE,
    Run,
    RunError,
    find_runs,
    read_json_file,
    read_run,
)
from onellm_ros.evaluation.task import Tools

SAME_STATUS, REFUSED_STATUS, WORSE_STATUS = 0, 2, 3
_MUST_AGREE = ('task.name', 'task.version', 'task.split', 'task.options', 'items.count',
               'items.digest')
_TOLD = ('prompt.text', 'decoding', 'batch', 'model.dtype', 'model.device')


@dataclass(frozen=True)
class Pair:
    """A run of A and one of B that asked the same."""

    a: Run
    b: Run
    comparison: Comparison


def add_arguments(parser: Any) -> None:
    """Declare the options of ``--compare`` beside those of ``onellm eval``."""
    parser.add_argument('--metric', default='', metavar='NAME',
                        help="which one judges (default: each task's first)")
    parser.add_argument('--resamples', type=int, default=0, metavar='N',
                        help='of the bootstrap (default: 10000; of scores of a whole set, such as '
                             'BLEU, which each resample computes anew: 400); --seed draws others')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='write all figures there, too')


def _at(about: Mapping[str, Any], name: str) -> Any:
    value: Any = about
    for key in name.split('.'):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def check_same(a: Mapping[str, Any], b: Mapping[str, Any], folders: tuple[Path, Path]) -> None:
    """Check that two runs asked the same.

    :param a: what its ``run.json`` holds; so for ``b``.
    :raises RunError: naming what differs, with both values.
    """
    found = [f'{name} {json.dumps(_at(a, name))} in {folders[0]}, '
             f'{json.dumps(_at(b, name))} in {folders[1]}'
             for name in _MUST_AGREE if _at(a, name) != _at(b, name)]
    if found:
        raise RunError(f'the runs asked different things: {"; ".join(found)}; expected the same '
                       'task, version and items: ask both models anew')


def pairs_of(a: Path, b: Path) -> list[tuple[Path, Path]]:
    """Return the folders of runs that belong together: by task and split.

    :raises RunError: if a task was asked of one alone.
    """
    found = [{_name(folder): folder for folder in find_runs(path)} for path in (a, b)]
    if len(found[0]) == len(found[1]) == 1:         # told apart by check_same, with both values
        return list(zip(found[0].values(), found[1].values(), strict=True))
    for one, here, there in ((0, a, b), (1, b, a)):
        alone = [' '.join(name) for name in found[one] if name not in found[1 - one]]
        if alone:
            raise RunError(f'found {", ".join(alone)} in {here} and not in {there}, expected the '
                           'same tasks in both; give the folders of single runs')
    return [(folder, found[1][name]) for name, folder in found[0].items()]


def _name(folder: Path) -> tuple[str, str]:
    about = read_json_file(folder / ABOUT)
    return str(_at(about, 'task.name')), str(_at(about, 'task.split'))


def compare_runs(a: Path, b: Path, *, data: Path | None = None, metric: str = '',
                 tools: Tools | None = None, resamples: int = 0, seed: int = 0) -> Pair:
    """Compare the runs in two folders.

    :param data: folder of the data, if it lies elsewhere than when A was asked.
    :raises ValueError: if they cannot be compared; the text says why.
    """
    about = read_json_file(b / ABOUT)
    check_same(read_json_file(a / ABOUT), about, (a, b))
    first = read_run(a, data)
    known = read_predictions(b)
    missing = [item.id for item in first.items if item.id not in known]
    if missing:
        raise RunError(f'{b}: found no prediction for {len(missing)} of {len(first.items)} items '
                       f'({missing[0]}); the same `onellm eval --task` command goes on with it')
    second = Run(b, about, first.task, first.items,
                 tuple(known[item.id] for item in first.items), None)
    given = tools or Tools()
    both = tuple(given if given.judge_cache else replace(given, judge_cache=folder / JUDGE)
                 for folder in (a, b))
    return Pair(first, second, compare(
        first.task, first.items, first.predictions, second.predictions, name=metric,
        tools=(both[0], both[1]), resamples=resamples, seed=seed))


def together(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the comparisons with the verdicts of several tasks: p as Holm corrects it.

    Of many tasks one differs by chance.
    """
    corrected = holm([pair.comparison.judged.p for pair in pairs])
    return [replace(pair, comparison=replace(
        pair.comparison, judged=replace(pair.comparison.judged, p=p)))
        for pair, p in zip(pairs, corrected, strict=True)]


# ---- words --------------------------------------------------------------------------------------

def told(pair: Pair) -> str:
    """Return a comparison as text: a table, and what it means."""
    about = pair.a.about['task']
    lines = [f'{about["name"]} version {about["version"]}, {about["split"]}, '
             f'{len(pair.a.items)} items',
             *(f'  {letter} {_which(run)}  {run.folder}'
               for letter, run in (('A', pair.a), ('B', pair.b)))]
    lines += [f'  note: {name} {json.dumps(_at(pair.a.about, name))} of A, '
              f'{json.dumps(_at(pair.b.about, name))} of B'
              for name in _TOLD if _at(pair.a.about, name) != _at(pair.b.about, name)]
    width = max(24, *(len(row.group) + 4 for row in pair.comparison.rows))
    lines.append(f'{"":{width}s} {"items":>6s} {"A":>8s} {"B":>8s} {"B - A":>8s} '
                 f'{"95 % interval":>18s} {"p":>7s}')
    for row in pair.comparison.rows:
        lines += _line(row, width)
    replies, broken = pair.comparison.replies, pair.comparison.broken
    lines.append(f'replies that differ: {replies} of {len(pair.a.items)}'
                 + (f'; items that could not be used: A {broken[0]}, B {broken[1]}'
                    if any(broken) else ''))
    return '\n'.join([*lines, verdict(pair)])


def _which(run: Run) -> str:
    model = run.about['model']
    return f'{model["name"]} {model["weights"]}'


def _line(row: Row, width: int) -> list[str]:
    """Return a row of the table, and what items were right."""
    name = f'  {row.group}' if row.group else row.metric
    scores = ' '.join(f'{"-" if v is None else f"{v:.2f}":>8s}' for v in (row.a, row.b))
    start = f'{name:{width}s} {row.items:6d} {scores}'
    found = row.interval
    if found is None:
        return [f'{start}   not compared: {row.why}']
    mark = '' if row.verdict == SAME else f'  {row.verdict}'
    interval = f'{found.low:.2f} .. {found.high:.2f}'
    lines = [f'{start} {found.value:+8.2f} {interval:>18s} {_p(row.p):>7s}{mark}']
    rights = row.rights
    if rights is not None and not row.group:
        lines.append(f'{"":{width}s} right: both {rights.both}, A alone {rights.only_a}, B alone '
                     f'{rights.only_b}, neither {rights.neither} (McNemar p {_p(rights.p)}); '
                     f'{found.units} units of evidence, {found.differing} differ')
    return lines


def _p(value: float) -> str:
    return f'{value:.4f}' if value >= 1e-4 else f'{value:.0e}'


def verdict(pair: Pair) -> str:
    """Return in words whether B is worse."""
    row = pair.comparison.judged
    if row.interval is None:
        return f'{row.metric}: not compared: {row.why}'
    words = {SAME: 'no difference beyond the noise'}.get(
        row.verdict, f'B is {row.verdict} than A by {abs(row.interval.value):.2f}, beyond the '
                     'noise')
    return f'{row.metric}: {words} (p {_p(row.p)}, 95 % interval {row.interval.low:.2f} to ' \
           f'{row.interval.high:.2f})'


def as_json(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """Return all figures as JSON takes them."""
    return {'level': LEVEL, 'seed': seed, 'tasks': [
        {'task': pair.a.about['task'], 'items': pair.a.about['items'],
         'a': {'folder': str(pair.a.folder), 'model': pair.a.about['model']},
         'b': {'folder': str(pair.b.folder), 'model': pair.b.about['model']},
         **pair.comparison.as_json()} for pair in pairs]}


def run(args: argparse.Namespace) -> int:
    """Compare as the options say; returns the exit status (3: B is worse beyond the noise).

    :raises ValueError: if the runs cannot be compared.
    """
    from onellm_ros.evaluation.command import tools_of

    if args.resamples < 0 or 0 < args.resamples < 100:
        raise ValueError(f'--resamples: found {args.resamples}, expected 100 or more')
    tools, seed = tools_of(args), args.seed or 0
    folders = pairs_of(*args.compare)
    known = {name for folder, _ in folders for name in _metrics(folder)}
    if args.metric and args.metric not in known:
        raise ValueError(f'--metric: found {args.metric!r}, expected one of '
                         f'{", ".join(sorted(known))}')
    pairs = together([compare_runs(
        a, b, data=args.data, metric=args.metric if args.metric in _metrics(a) else '',
        tools=tools, resamples=args.resamples, seed=seed) for a, b in folders])
    print('\n\n'.join(map(told, pairs)))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(as_json(pairs, seed), indent=1, allow_nan=False) + '\n',
                             encoding='utf-8')
    if all(pair.comparison.judged.interval is None for pair in pairs):
        print('onellm eval: error: nothing could be compared', file=sys.stderr)
        return REFUSED_STATUS
    worse = any(pair.comparison.judged.verdict == WORSE for pair in pairs)
    return WORSE_STATUS if worse else SAME_STATUS


def _metrics(folder: Path) -> tuple[str, ...]:
    """Return the metrics of the task that a run asked."""
    from onellm_ros.evaluation.tasks import find_task
    return find_task(_name(folder)[0]).metrics
