"""``onellm data``: what data sets hold, what of them is broken, and simulated ones on disk."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from onellm_ros.config import PRESETS, ConfigError, ModelConfig, from_mapping
from onellm_ros.datasets.config import (
    KINDS,
    TEXT,
    MixConfig,
    SetConfig,
    check_mix,
    load_manifest,
)
from onellm_ros.datasets.errors import Broken, DataError
from onellm_ros.modality import Modality

if TYPE_CHECKING:
    from onellm_ros.datasets.sets import FileSet
    from onellm_ros.datasets.survey import Stats

_MANIFESTS = ('.yaml', '.yml')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions and their options."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    stats = actions.add_parser('stats', help='sizes, modalities, turns and tokens')
    check = actions.add_parser('check', help='decode every sample; exits with 1 if any is broken')
    for sub in (stats, check):
        sub.add_argument('target', type=Path, metavar='MANIFEST_OR_FILE',
                         help='manifest (.yaml), or one annotation file (.csv .tsv .json .jsonl)')
        sub.add_argument('--root', type=Path, metavar='DIR',
                         help='folder that all paths are relative to (default: the folder of '
                              'MANIFEST_OR_FILE)')
        sub.add_argument('--modality', choices=[*(m.value for m in Modality), TEXT],
                         help='of a single annotation file')
        sub.add_argument('--kind', choices=KINDS,
                         help='of a single annotation file (default: as its rows look)')
        sub.add_argument('--files', default='', metavar='DIR',
                         help="of a single annotation file: folder below the root that its rows' "
                              'paths are relative to')
        sub.add_argument('--imu', default='', metavar='DIR',
                         help='of a single IMU caption file: folder of the recordings')
        sub.add_argument('--model', default='nano',
                         help='name, preset or folder of the model whose inputs and tokens are '
                              'meant (default: nano)')
        sub.add_argument('--limit', type=int, metavar='ROWS',
                         help='look at so many rows of each data set only, evenly spread')
        sub.add_argument('--workers', type=int, default=min(4, len(os.sched_getaffinity(0))),
                         help='processes, 0: this one (default: %(default)s)')
        sub.add_argument('--json', action='store_true', help='print one JSON object')
    render = actions.add_parser('render', help='write simulated worlds as an instruction set')
    render.add_argument('--out', type=Path, required=True, metavar='DIR', help='a new folder')
    render.add_argument('--worlds', type=int, required=True)
    render.add_argument('--seed', type=int, default=0)
    render.add_argument('--held-out', action='store_true',
                        help='worlds and wordings that training never sees')
    render.add_argument('--questions', type=int, default=5,
                        help='of each modality of a world, at most (default: %(default)s)')
    render.add_argument('--points', type=int, default=8192, help='of a cloud')
    render.add_argument('--video', type=int, nargs=3, default=(16, 160, 120),
                        metavar=('FRAMES', 'WIDTH', 'HEIGHT'), help='(default: 16 160 120)')
    render.add_argument('--processes', type=int, default=1)


def run(args: argparse.Namespace) -> int:
    """Run the action; returns 0, 1 (check: something is broken) or 2 with a line on stderr."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        'stats': _stats, 'check': _check, 'render': _render}
    try:
        for name in ('workers', 'processes', 'limit'):
            value = getattr(args, name, None)
            if value is not None and value < (0 if name == 'workers' else 1):
                raise DataError(f'--{name}: found {value}, expected a number above 0')
        return actions[args.action](args)
    except KeyboardInterrupt:
        print('\nonellm data: interrupted' + (
            '; the same command goes on where it stopped' if args.action == 'render' else ''),
            file=sys.stderr)
        return 130
    except (DataError, ConfigError) as error:
        print(f'onellm data: error: {error}', file=sys.stderr)
        return 2


def _mix(args: argparse.Namespace) -> MixConfig:
    """Return what the command line names: a manifest's data sets, or one file's."""
    if args.target.suffix.lower() in _MANIFESTS:
        given = [name for name in ('modality', 'kind', 'files', 'imu') if getattr(args, name)]
        if given:
            raise DataError(f'--{given[0]}: found with a manifest, which says it for each set')
        return load_manifest(args.target, args.root)
    if args.modality is None:
        raise DataError(f'{args.target}: give the --modality of an annotation file')
    root = args.target.parent if args.root is None else args.root
    config = SetConfig(str(args.target.absolute()), args.modality, args.kind or _kind(args.target),
                       files=args.files, imu=args.imu)
    mix = MixConfig((config,), root, args.target.stem)
    check_mix(mix, str(args.target))
    return mix


def _kind(path: Path) -> str:
    """Return the kind that an annotation file looks like at its start."""
    try:
        with open(path, 'rb') as file:
            head = file.read(1 << 20)
    except OSError as error:
        raise DataError(f'{path}: cannot be read: {error.strerror or error}') from None
    return 'instruction' if b'"conversations"' in head else 'alignment'


def _model(name: str) -> tuple[ModelConfig, Path | None]:
    """Return a model's configuration and its folder, None for a preset without one.

    :raises DataError: if there is no such model.
    """
    from onellm_ros.inference.locate import EngineError, find_model

    try:
        folder = find_model(name)
    except EngineError as error:
        if name in PRESETS:
            return PRESETS[name], None
        raise DataError(f'--model: {error}; presets are {", ".join(PRESETS)}') from None
    path = folder / 'config.json'
    try:
        return from_mapping(ModelConfig, json.loads(path.read_text(encoding='utf-8'))), folder
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: {error}') from None


def _stats(args: argparse.Namespace) -> int:
    """Print what the data sets hold."""
    from onellm_ros.datasets.sets import FileSet
    from onellm_ros.datasets.survey import Stats, count
    from onellm_ros.model.text import Text, TextError

    mix = _mix(args)
    model, folder = _model(args.model)
    try:
        text = Text.load(folder, model.text) if folder is not None else None
    except TextError as error:
        raise DataError(f'--model: {error}') from None
    found: list[tuple[SetConfig, int, Stats]] = []
    with _bar('sets', len(mix.sets), args) as progress:
        for config in mix.sets:
            data, stats = FileSet(config, model, mix.root), Stats()
            for part in count(data, text, workers=args.workers, limit=args.limit):
                stats.add(part)
            found.append((config, len(data), stats))
            progress(1)
    if args.json:
        print(json.dumps(_stats_json(mix, args, found, text is not None)))
    else:
        _print_stats(mix, args, found, text is not None)
    return 0


def _sums(found: list[tuple[SetConfig, int, Stats]]) -> dict[str, int]:
    """Return the number of examples of each modality."""
    sums: dict[str, int] = {}
    for config, size, _ in found:
        sums[config.modality] = sums.get(config.modality, 0) + size
    return sums


def _stats_json(mix: MixConfig, args: argparse.Namespace,
                found: list[tuple[SetConfig, int, Stats]], counted: bool) -> dict[str, object]:
    return {
        'name': mix.name, 'root': str(mix.root), 'tokenizer': args.model if counted else None,
        'modalities': {name: {'examples': size, 'expected': (mix.expected or {}).get(name)}
                       for name, size in _sums(found).items()},
        'sets': [{'name': config.title, 'modality': config.modality, 'kind': config.kind,
                  'examples': size, **vars(stats)} for config, size, stats in found]}


def _table(rows: list[list[str]], texts: int) -> None:
    """Print rows as a table; the first columns are texts, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print('  '.join(cell.ljust(width) if i < texts else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())


def _print_stats(mix: MixConfig, args: argparse.Namespace,
                 found: list[tuple[SetConfig, int, Stats]], counted: bool) -> None:
    print(f'{mix.name}, below {mix.root}')
    unit = 'tokens' if counted else 'words'
    rows = [['set', 'modality', 'kind', 'examples', 'turns', f'question {unit}',
             f'answer {unit}', 'longest', 'not understood']]
    for config, size, s in found:
        asked, said = (s.prompt_tokens, s.answer_tokens) if counted \
            else (s.prompt_words, s.answer_words)
        longest = f'{s.longest:,}' if counted else '-'
        rows.append([config.title, config.modality, config.kind, f'{size:,}', f'{s.turns:,}',
                     f'{asked:,}', f'{said:,}', longest, f'{s.broken:,}'])
    _table(rows, 3)
    print()
    sums = _sums(found)
    total = sum(sums.values())
    rows = [['modality', 'examples', 'share', 'expected']]
    for name in dict.fromkeys((*sums, *(mix.expected or ()))):
        expected = (mix.expected or {}).get(name)
        rows.append([name, f'{sums.get(name, 0):,}', f'{sums.get(name, 0) / total:.1%}',
                     '-' if expected is None else f'{expected:,}'])
    wanted = sum((mix.expected or {}).values())
    rows.append(['all', f'{total:,}', '', f'{wanted:,}' if wanted else '-'])
    _table(rows, 1)
    seen = sum(s.rows for _, _, s in found)
    if seen < total:
        print(f'turns and {unit} are those of {seen:,} of {total:,} rows (--limit)')
    if not counted:
        print(f'words, not tokens: {args.model} is a preset without a tokenizer; give a folder as '
              '--model')
    broken = sum(s.broken for _, _, s in found)
    if broken:
        print(f'{broken:,} rows are not understood: `onellm data check` names them')


def _readable(mix: MixConfig, model: ModelConfig, args: argparse.Namespace
              ) -> tuple[list[FileSet], list[Broken]]:
    """Index the data sets; those whose annotation files are damaged are among the broken."""
    from onellm_ros.datasets.sets import FileSet

    sets, broken = [], []
    for config in mix.sets:
        try:
            sets.append(FileSet(config, model, mix.root))
        except DataError as error:
            broken.append(Broken(str(mix.root / config.file), -1, '', str(error)))
            if not args.json:
                print(f'BROKEN {error}', flush=True)
    return sets, broken


def _check(args: argparse.Namespace) -> int:
    """Decode every sample and name the broken ones."""
    from onellm_ros.datasets.survey import broken_ones

    mix = _mix(args)
    model, _ = _model(args.model)
    sets, listed = _readable(mix, model, args)
    sizes = [len(data) if args.limit is None else min(args.limit, len(data)) for data in sets]
    done = 0
    with _bar('samples', sum(sizes), args) as progress:
        for data in sets:
            for number, broken in broken_ones(data, workers=args.workers, limit=args.limit):
                for one in broken:
                    listed.append(one)
                    if not args.json:
                        print(f'BROKEN {one}', flush=True)
                done += number
                progress(number)
    total = sum(len(data) for data in sets)
    if args.json:
        print(json.dumps({'checked': done, 'of': total, 'broken': [vars(one) for one in listed]}))
    else:
        part = '' if done == total else f' of {total:,} (--limit)'
        print(f'{done:,} samples{part} in {len(mix.sets)} data sets checked for {model.name}: '
              f'{len(listed):,} broken')
    return 1 if listed else 0


def _render(args: argparse.Namespace) -> int:
    """Write a simulated data set."""
    from onellm_ros.datasets.render import RenderConfig, render

    config = RenderConfig(args.worlds, args.seed, args.held_out, args.questions,
                          points=args.points, video=tuple(args.video))
    with _bar('worlds', config.worlds, args) as progress:
        manifest = render(args.out, config, processes=args.processes, progress=progress)
    print(f'{config.worlds:,} worlds written; manifests: {manifest} (instructions), '
          f'{manifest.with_name("alignment.yaml")} (captions)')
    return 0


class _bar:     # noqa: N801 - a context manager by use
    """A progress bar on stderr where somebody watches; as a context it is its own update."""

    def __init__(self, unit: str, total: int, args: argparse.Namespace) -> None:
        from tqdm import tqdm

        quiet = getattr(args, 'json', False) or not sys.stderr.isatty()
        self.bar = tqdm(total=total, unit=f' {unit}', disable=quiet)

    def __enter__(self) -> Callable[[int], object]:
        return self.bar.update

    def __exit__(self, *_: object) -> None:
        self.bar.close()
