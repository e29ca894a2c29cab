"""``onellm study findings``: the paper's ablations at the size of nano, on held-out accuracy.

First the encoder's features of all worlds, then a stage on images for each seed, then the arms;
what is done is not done again, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
import json
import multiprocessing
from pathlib import Path
import shutil
import sys
import time
from typing import Any

import torch
from tqdm import tqdm

from onellm_ros.modality import Modality
from onellm_ros.study.arms import QUICK, Arm, Budget, StudyError, chosen_arms, image_stage
from onellm_ros.study.guess import guessed
from onellm_ros.study.pictures import draw
from onellm_ros.study.single import (
    Setting,
    all_pieces,
    beginning,
    fingerprint,
    image_folder,
    make_piece,
    result_path,
    run_arm,
    train_on_images,
)
from onellm_ros.study.table import GUESSER, SETTING, load_results, markdown
from onellm_ros.training.checkpoint import STATE
from onellm_ros.training.progress import clock
from onellm_ros.training.shards import SHARD_WORLDS
from onellm_ros.training.worlds import WorldOptions, Worlds

TABLE, BEGIN, END = 'table.md', '<!-- findings: begin -->', '<!-- findings: end -->'
# CPU seconds on one core, roughly, that tell the bar how far it is: a piece of features, and
# for each sample the LLM, an expert, and what a projection has beside experts.
_PIECE_S, _ANSWER_S, _EXPERT_S, _REST_S = 10.0, 0.009, 0.0023, 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add('--model', action='append', metavar='[PART,..=]DIR',
        help='model directory or run with a trained encoder and LLM; may be given several times '
             '(encoder,tokenizers=DIR, llm=DIR; default: models/nano)')
    add('--data', type=Path, default=Path('cache/worlds'),
        help='folder of rendered worlds; missing ones are rendered into it')
    add('--features', type=Path, default=Path('cache/features'),
        help="folder of the encoder's features, made once (default: %(default)s)")
    add('--out', type=Path, help='folder of the study; one found there is gone on with (default: '
                                 'runs/study, with --quick runs/study_quick)')
    add('--arms', default='', metavar='NAME,..', help='only these, and the base (default: all)')
    add('--seeds', type=int, help='runs of each arm (default: 3, with --quick 1)')
    add('--quick', action='store_true', help='a few steps: shows that all works, finds nothing')
    add('--report', type=Path, metavar='DIR', help='only write table and pictures of the study '
                                                   'in DIR again')
    add('--docs', type=Path, metavar='FILE', help='put the table into this file, between its '
        f'marks {BEGIN} and {END}, and the pictures into images/ beside it')
    budget = parser.add_argument_group('budget of each run')
    for name, text in (('worlds', 'to train on'), ('held-out', 'worlds to score on'),
                       ('image-steps', 'steps on images'), ('steps', 'steps on all modalities'),
                       ('batch', 'samples a step'), ('questions', 'asked of each sample')):
        key = name.replace('-', '_')
        budget.add_argument(f'--{name}', type=int, metavar='N',
                            help=f'{text} (default: {getattr(Budget, key)}, with --quick '
                                 f'{getattr(QUICK, key)})')
    machine = parser.add_argument_group('machine')
    machine.add_argument('--processes', type=int, default=1, help='runs at a time')
    machine.add_argument('--threads', type=int, default=1, help='CPU threads of each')
    machine.add_argument('--precision', choices=('bf16', 'float32'), default='bf16')


@dataclass(frozen=True)
class Task:
    """One thing to do: its name, about how many seconds it takes, what to call."""

    name: str
    cost: float
    call: partial[Any]


def _cost(setting: Setting, arm: Arm) -> float:
    budget = setting.budget
    steps = budget.steps + (0 if arm.image_first else budget.image_steps)
    sample = _REST_S + arm.experts * _EXPERT_S + (_ANSWER_S if budget.answers else 0.0)
    scored = len(Modality) * budget.held_out * (_REST_S + arm.experts * _EXPERT_S + _ANSWER_S) / 3
    return steps * budget.batch * sample + scored


def done(tasks: Sequence[Task], processes: int, threads: int) -> Iterator[Task]:
    """Do tasks, so many at a time; yields each when it is done."""
    if processes == 1:
        torch.set_num_threads(threads)
        for task in tasks:
            task.call()
            yield task
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn'),
                             torch.set_num_threads, (threads,)) as pool:
        waiting = {pool.submit(task.call): task for task in tasks}
        try:
            for future in as_completed(waiting):
                future.result()
                yield waiting[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _setting(args: argparse.Namespace) -> Setting:
    """Return the setting that the options name.

    :raises StudyError: for numbers that cannot be used.
    """
    keys = ('worlds', 'held_out', 'image_steps', 'steps', 'batch', 'questions')
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    budget = replace(QUICK if args.quick else Budget(), **given)
    for name in ('processes', 'threads', 'seeds'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise StudyError(f'--{name}: found {getattr(args, name)}, expected at least 1')
    out = args.out or Path('runs') / ('study_quick' if args.quick else 'study')
    setting = Setting(tuple(args.model or ['models/nano']), args.data, out, args.features, budget,
                      args.precision)
    if beginning(setting).heads:
        return replace(setting, budget=replace(budget, told=1.0))
    print('the model comes without the heads that its language model learned from, as runs have '
          'them: projections learn from answers and slots alone, which takes many more steps',
          file=sys.stderr)
    return setting


def _remember(setting: Setting) -> dict[str, Any]:
    """Write what the study is, or see that it is what stands there.

    :raises StudyError: if the folder holds another study.
    """
    path, own = setting.out / SETTING, fingerprint(setting)
    if not path.exists():
        setting.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(own, indent=1) + '\n')
        return own
    found = json.loads(path.read_text())
    wrong = [key for key in own if key != 'model' and own[key] != found.get(key)]
    if wrong:
        raise StudyError(f'{path}: found a study with {wrong[0]} {found.get(wrong[0])}, expected '
                         f'{own[wrong[0]]}; give the same options, or another --out')
    return own


def study(args: argparse.Namespace) -> Path:
    """Do what of a study is left, and report it; returns its folder."""
    arms = chosen_arms([name for name in args.arms.split(',') if name])
    setting = _setting(args)
    budget, seeds = setting.budget, range(args.seeds or (1 if args.quick else 3))
    encoder = _remember(setting)['encoder']
    lacking = [folder for folder, wanted in ((setting.data, budget.worlds),
                                             (setting.data / 'held_out', 1))
               if len(list(folder.glob('shard-*'))) < -(-wanted // SHARD_WORLDS)]
    if lacking:
        print(f'{lacking[0]}: too few worlds; rendering', file=sys.stderr)
        Worlds(WorldOptions(setting.data, budget.worlds, max(SHARD_WORLDS, budget.held_out),
                            args.processes), beginning(setting).config).prepare(
                                image_stage(budget))
    made = [piece for group in all_pieces(setting, encoder) for piece in group]
    images = _REST_S + _EXPERT_S + (_ANSWER_S if budget.image_answers else 0.0)
    phases = [
        [Task(f'features {i + 1}', _PIECE_S, partial(make_piece, setting, piece))
         for i, piece in enumerate(made) if not piece.done],
        [Task(f'images, seed {seed}', budget.image_steps * budget.batch * images,
              partial(train_on_images, setting, encoder, seed))
         for seed in seeds if not (image_folder(setting, seed) / STATE).exists()],
        [Task(f'{arm.name}, seed {seed}', _cost(setting, arm),
              partial(run_arm, setting, encoder, arm, seed))
         for seed in seeds for arm in arms
         if not result_path(setting.out, arm.name, seed).exists()]]
    total, spent = sum(task.cost for tasks in phases for task in tasks), 0.0
    started = time.monotonic()
    bar = tqdm(total=round(total), desc='study', disable=None,
               bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left')
    with bar:
        for tasks in phases:
            for task in done(tasks, args.processes, args.threads):
                spent += task.cost
                bar.update(task.cost)
                if bar.disable:
                    left = (time.monotonic() - started) / spent * (total - spent)
                    print(f'study: {task.name} done, {100 * spent / total:.0f} %, {clock(left)} '
                          'left', file=sys.stderr, flush=True)
    path = setting.out / GUESSER
    if not path.exists():
        path.write_text(json.dumps(guessed(setting.data, budget.worlds, budget.held_out,
                                           budget.eval_questions)) + '\n')
    return setting.out


def report(folder: Path, docs: Path | None) -> str:
    """Write table and pictures of a study into its folder, and into a document; returns the table.

    :raises StudyError: if there is nothing to tell, or the document has no place for it.
    """
    results = load_results(folder)
    try:
        setting = json.loads((folder / SETTING).read_text())
        guesser = json.loads((folder / GUESSER).read_text()) if (folder / GUESSER).exists() else {}
    except (OSError, ValueError) as error:
        raise StudyError(f'{folder}: {error}; expected the folder of a study') from None
    text = markdown(results, setting, guesser)
    (folder / TABLE).write_text(text)
    pictures = draw(results, guesser, folder)
    if docs is not None:
        put_into(docs, text, pictures)
    return text


def put_into(docs: Path, table: str, pictures: Sequence[Path]) -> None:
    """Put a table and pictures into a document, between its marks.

    :raises StudyError: if it has none.
    """
    try:
        before, begin, rest = docs.read_text().partition(BEGIN)
    except OSError as error:
        raise StudyError(f'--docs {docs}: {error}') from None
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise StudyError(f'--docs {docs}: found no lines {BEGIN} and {END}, expected both, where '
                         'the table is to stand')
    images = docs.parent / 'images'
    images.mkdir(exist_ok=True)
    for picture in pictures:
        shutil.copy(picture, images / picture.name)
    shown = ''.join(f'\n![{p.stem.replace("_", " ")}](images/{p.name})\n' for p in pictures)
    docs.write_text(f'{before}{BEGIN}\n{table}{shown}{END}{after}')


def run(args: argparse.Namespace) -> int:
    """Run or report a study; returns the exit status (1: failed, 2: wrong use)."""
    from onellm_ros.model.files import CheckpointError
    from onellm_ros.model.text import TextError
    from onellm_ros.training.errors import TrainingError, plain

    try:
        folder = args.report or study(args)
        print(report(folder, args.docs), end='')
        return 0
    except KeyboardInterrupt:
        print('stopped; the same command goes on with the runs that are left', file=sys.stderr)
        return 130
    except StudyError as error:
        print(f'onellm study: error: {error}', file=sys.stderr)
        return 2
    except (TrainingError, TextError, CheckpointError) as error:
        print(f'onellm study: error: {plain(error)}', file=sys.stderr)
        return 1
