"""Runs benchmarks: asks what has not been answered yet, in one process or several, and scores.

A run lives in a folder (``runs.py``). It may be stopped at any moment; asked for again, it goes on
where it stopped, in as many processes as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
import json
import os
from pathlib import Path
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation import models
from onellm_ros.evaluation.answering import Answering, Decoding, told
from onellm_ros.evaluation.chunks import chunks, share
from onellm_ros.evaluation.item import BROKEN, Item, Prediction
from onellm_ros.evaluation.predictions import (
    Writer,
    files,
    mend,
    read_predictions,
    write_whole,
)
from onellm_ros.evaluation.prompts import FORMS, item_prompt
from onellm_ros.evaluation.runs import (
    ABOUT,
    RESULT,
    Run,
    RunError,
    data_of,
    differences,
    digest,
    folder_of,
    package_versions,
    read_items,
    read_json_file,
)
from onellm_ros.evaluation.scoring import write_scores
from onellm_ros.evaluation.task import Task, Tools
from onellm_ros.inference.locate import find_device
from onellm_ros.modality import Modality
from onellm_ros.model.files import write_atomically
from onellm_ros.training.distributed import Ranks, started_ranks

if TYPE_CHECKING:
    from onellm_ros.inference.engine import Engine

Options = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Request:
    """What a user wants to have evaluated.

    :param data: folder of the annotations and files: of the one task, or with a folder of each
        task's name in it. :param split: empty: each task's default.
    :param batch: questions at once; 0: what fits the device. :param limit: only the first so many
        items; 0: all. :param form: of the prompt; empty: each task's.
    :param max_tokens: of a reply; 0: each task's. :param options: of tasks that have some.
    :param skip_broken: count items whose files cannot be used as wrong, and go on.
    """

    tasks: Sequence[Task]
    model: str
    out: Path
    data: Path | None = None
    split: str = ''
    device: str = 'auto'
    backend: str = 'auto'
    quantize: str = models.NOT_QUANTIZED
    batch: int = 0
    limit: int = 0
    form: str = ''
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 0
    skip_broken: bool = False
    options: Options = field(default_factory=dict)
    tools: Tools = field(default_factory=Tools)


@dataclass(frozen=True)
class Job:
    """One task of a request, read and checked; ``about`` is what its ``run.json`` holds."""

    task: Task
    items: tuple[Item, ...]
    folder: Path
    form: str
    decoding: Decoding
    batch: int
    about: Mapping[str, Any]


def _root(request: Request, task: Task) -> Path:
    """Return the folder of a task's data.

    :raises RunError: if none is given and one is needed.
    """
    if not task.data:
        return Path()
    if request.data is None:
        raise RunError(f'{task.name}: found no --data, expected the folder of its annotations and '
                       f'files; `onellm eval --explain {task.name}` tells what to fetch')
    return data_of(request.data, task)


def job_of(request: Request, task: Task, model: models.Which) -> Job:
    """Read what a task asks.

    :raises ValueError: for annotations, a split or a prompt that cannot be used.
    """
    split = request.split or task.splits[0]
    if split not in task.splits:
        raise RunError(f'{task.name}: found the split {split!r}, expected one of '
                       f'{", ".join(task.splits)}')
    options = {**task.options, **{k: v for k, v in request.options.items() if k in task.options}}
    root = _root(request, task)
    items = read_items(task, root, split, options, request.limit)
    form = request.form or task.form
    for item in items:
        item_prompt(task, item, form)
    decoding = Decoding(request.max_tokens or task.max_tokens, request.temperature, request.top_p,
                        request.seed)
    batch = model.batch(request.batch)
    about = {
        'task': {'name': task.name, 'version': task.version, 'split': split, 'options': options},
        'items': {'count': len(items), 'limit': request.limit, 'digest': digest(items)},
        'model': model.about(),
        'prompt': {'form': form if form in FORMS else 'own', 'text': FORMS.get(form, form)},
        'decoding': decoding.about(), 'batch': batch,
        'data': str(root.resolve()) if task.data else '',
        'versions': package_versions(), 'machine': models.machine(model.device),
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'), 'resumed': []}
    return Job(task, items, folder_of(request.out, task, split), form, decoding, batch, about)


def _paths(modality: Modality, signal: Signal) -> Iterator[Path]:
    """Yield the files of a signal."""
    yield signal.path
    if signal.colour is not None:
        yield signal.colour
    if modality is Modality.IMU and signal.window_s is not None:
        yield signal.path.with_name(f'{signal.path.stem}_timestamps.npy')


def check_files(job: Job, skip: bool) -> None:
    """Look for all files of signals, so that a missing one is told before the model is loaded.

    :param skip: let some be missing.
    :raises RunError: naming the first, and where it is annotated.
    """
    exists: dict[Path, bool] = {}
    missing: list[tuple[Item, Path]] = []
    for item in job.items:
        for modality, signal in item.signals.items():
            for path in _paths(modality, signal):
                if path not in exists:
                    exists[path] = path.is_file()
                    if not exists[path]:
                        missing.append((item, path))
    if not missing or (skip and len(missing) < len(exists)):
        return
    item, path = missing[0]
    what = told(item, f'found no file {path}')
    raise RunError(
        f'{what}, and of {len(exists)} files {len(missing)} are missing; `onellm eval --explain '
        f'{job.task.name}` tells what to fetch'
        + ('' if skip else '; --skip-broken counts items without their files as wrong'))


def check_run(job: Job) -> None:
    """Compare with the run that lies in the folder, if there is one.

    :raises RunError: if that one was asked otherwise.
    """
    path = job.folder / ABOUT
    if not path.is_file():
        return
    found = differences(read_json_file(path), job.about)
    if found:
        raise RunError(f'{path}: this run was begun otherwise: {"; ".join(found)}; ask as it was '
                       'asked there to go on with it, or give another --out')


def check_out(folder: Path) -> None:
    """Make the folder of a run, so that one that cannot be written is told before the model.

    :raises RunError: if it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f'{folder}: cannot be written ({error.strerror or error}), expected a '
                       'folder for the answers; give another --out') from None


def _begin(job: Job, processes: int) -> None:
    """Write ``run.json``, or note in it that the run goes on."""
    path = job.folder / ABOUT
    (job.folder / RESULT).unlink(missing_ok=True)
    if not path.is_file():
        _write_about(job.folder, {**job.about, 'processes': processes})
        return
    before = read_json_file(path)
    changed = [f'{name} {was} there, {now} now' for name, now in job.about['versions'].items()
               if (was := before['versions'].get(name)) != now]
    if changed:
        print(f'onellm eval: {job.folder} goes on with other versions: {", ".join(changed)}',
              file=sys.stderr)
    now = {'at': job.about['created'], 'processes': processes, 'versions': job.about['versions'],
           'machine': job.about['machine']}
    _write_about(job.folder, {**before, 'resumed': [*before.get('resumed', []), now]})


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    write_atomically(folder / ABOUT,
                     (json.dumps(about, indent=1, ensure_ascii=False) + '\n').encode())


@contextmanager
def _alone(ranks: Ranks) -> Iterator[bool]:
    """Let rank 0 do something that the others wait for.

    :raises RunError: on the others, if it failed.
    """
    try:
        with ranks.first_alone() as first:
            yield first
    except RuntimeError as error:
        if ranks.first:
            raise
        raise RunError(str(error)) from error


def _wait(ranks: Ranks) -> None:
    """Return when all ranks are here.

    :raises RunError: if one has ended.
    """
    try:
        ranks.wait()
    except RuntimeError as error:
        raise RunError('another process of this run has ended; the same command goes on with '
                       f'what is missing ({str(error).splitlines()[0][:80]})') from None


class Harness:
    """Runs what is requested.

    :param ranks: the processes that share the work. :param quiet: no progress bar.
    """

    def __init__(self, request: Request, ranks: Ranks, quiet: bool = False) -> None:
        self._request, self._ranks, self._quiet = request, ranks, quiet
        self._engine: Engine | None = None
        self.done = self.asked = 0              # items of the task at hand

    def run(self) -> Iterator[dict[str, Any]]:
        """Yield the result of one task after the other (on rank 0 alone).

        :raises ValueError, EngineError, CheckpointError: for what cannot be used.
        """
        request = self._request
        model = models.which(request.model, request.device, request.backend, request.quantize)
        if model.batch(request.batch) < request.batch and self._ranks.first:
            print(f'onellm eval: {model.backend} answers one question at a time: batch '
                  f'{model.batch(request.batch)}, not {request.batch}', file=sys.stderr)
        jobs = [job_of(request, task, model) for task in request.tasks]
        with _alone(self._ranks) as first:
            for job in jobs if first else ():
                check_run(job)
                if self._missing(job):
                    check_files(job, request.skip_broken)
                    check_out(job.folder)
        for job in jobs:
            result = self._run(job, model)
            if result is not None:
                yield result

    def _missing(self, job: Job) -> int:
        """Return how many items have no prediction yet; a cut last line is mended before."""
        for path in files(job.folder):
            mend(path)
        known = self._known(job)
        return sum(item.id not in known for item in job.items)

    def _known(self, job: Job) -> dict[str, Prediction]:
        """Return what is not asked again: what was answered, and what is broken if it may be."""
        return {key: found for key, found in read_predictions(job.folder).items()
                if self._request.skip_broken or found.finish_reason != BROKEN}

    def _run(self, job: Job, model: models.Which) -> dict[str, Any] | None:
        """Run one task; returns its result on rank 0."""
        known = self._known(job)
        missing = sum(item.id not in known for item in job.items)
        _wait(self._ranks)                      # nobody writes before all have read
        self.done, self.asked = len(job.items) - missing, len(job.items)
        if missing:
            self._answer(job, known, model)
            _wait(self._ranks)
        if not self._ranks.first:
            return None
        tools = self._request.tools
        if not missing and (job.folder / RESULT).is_file() and not (tools.judge or tools.java):
            return read_json_file(job.folder / RESULT)
        return self._score(job)

    def _answer(self, job: Job, known: Mapping[str, Prediction], model: models.Which) -> None:
        """Ask what has no prediction yet, as far as it is this rank's part."""
        from tqdm import tqdm

        ranks, request = self._ranks, self._request
        if self._engine is None:
            device = request.device if ranks.size == 1 else str(ranks.device)
            self._engine = models.load(request.model, model, device)
        answering = Answering(self._engine, job.task, job.form, job.decoding, job.batch,
                              request.skip_broken)
        with _alone(ranks) as first:
            if first:
                _begin(job, ranks.size)
        whole = chunks(job.items, job.batch)
        open_ones = [chunk for chunk in whole
                     if any(item.id not in known for unit in chunk for item in unit)]
        mine = share(open_ones, ranks.rank, ranks.size)
        total = sum(item.id not in known for chunk in mine for unit in chunk for item in unit)
        name = job.task.name if ranks.size == 1 else f'{job.task.name} 1/{ranks.size}'
        bar = tqdm(desc=name, total=total, unit='item', smoothing=0.05,
                   disable=self._quiet or not ranks.first or not sys.stderr.isatty())
        with bar, Writer(job.folder, ranks.rank, ranks.size) as writer:
            for found in answering.answer(mine, known):
                writer.add(found)
                self.done += len(found)
                bar.update(len(found))

    def _score(self, job: Job) -> dict[str, Any]:
        """Put the predictions in order and score them."""
        known = read_predictions(job.folder)
        lost = [item.id for item in job.items if item.id not in known]
        if lost:
            raise RunError(f'{job.folder}: found no prediction of {len(lost)} items ({lost[0]}), '
                           'expected one each; the same command asks them')
        predictions = tuple(known[item.id] for item in job.items)
        write_whole(job.folder, predictions)
        about = read_json_file(job.folder / ABOUT)
        return write_scores(Run(job.folder, about, job.task, job.items, predictions, None),
                            self._request.tools)


@contextmanager
def harness(request: Request, quiet: bool = False) -> Iterator[Harness]:
    """Yield what runs a request, in as many processes as ``torchrun`` has started.

    :raises EngineError: for a device that is not there.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        yield Harness(request, Ranks(), quiet)
        return
    device = find_device(request.device)
    if device.type == 'cuda':                   # each process on this machine takes its own
        find_device(f'cuda:{os.environ.get("LOCAL_RANK", "0")}')
    with started_ranks(device) as ranks:
        yield Harness(request, ranks, quiet)
