"""What a run of a benchmark leaves in its folder, and how it is read again, without the model.

========================  =========================================================================
``run.json``              what was asked of which model, and how (:func:`differences` of two)
``predictions.jsonl``     what the model replied, one line an item
``times.jsonl``           seconds to the first token, where they were measured
``result.json``           the scores; it is there when the run is finished
``scores.json``           by metric the score of each item, in their order, where there is one
``judge.jsonl``           prompts and replies of a judge
========================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
import hashlib
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
import json
from pathlib import Path
import platform
from typing import Any

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.predictions import read_predictions
from onellm_ros.evaluation.task import Task
from onellm_ros.evaluation.tasks import find_task

ABOUT, RESULT, SCORES, JUDGE = 'run.json', 'result.json', 'scores.json', 'judge.jsonl'
# What two runs must share for the one to go on with the other's answers.
SAME = ('task', 'items', 'model', 'prompt', 'decoding', 'batch')
PACKAGES = ('onellm_ros', 'torch', 'numpy', 'tokenizers', 'onnxruntime')
_NAMES = ('model.name',)        # the weights say which model it is


class RunError(ValueError):
    """A run that cannot be read or gone on with; the text says what to do."""


@dataclass(frozen=True)
class Run:
    """A run as it lies in its folder.

    :param about: what ``run.json`` holds. :param items: all that was asked.
    :param predictions: one an item, in their order. :param result: what ``result.json`` holds;
        None: not scored yet.
    """

    folder: Path
    about: Mapping[str, Any]
    task: Task
    items: tuple[Item, ...]
    predictions: tuple[Prediction, ...]
    result: Mapping[str, Any] | None

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.about['model']['name'])


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of what figures depend on; what is not installed is left out."""
    found = {'python': platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def folder_of(out: Path, task: Task, split: str) -> Path:
    """Return the folder of a run: by its task, and its split where that is not the default."""
    return out / (task.name if split == task.splits[0] else f'{task.name}-{split}')


def data_of(data: Path, task: Task) -> Path:
    """Return a task's folder of data: the one of its name in the folder given, or that itself."""
    own = data / task.name
    return own if own.is_dir() else data


def read_json_file(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run.

    :raises RunError: if there is none.
    """
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise RunError(f'{path}: found no such file, expected a run of `onellm eval`') from None
    except (OSError, ValueError) as error:
        raise RunError(f'{path}: not readable as JSON ({error}); a run that is asked anew writes '
                       'it again') from None
    if not isinstance(value, dict):
        raise RunError(f'{path}: found {str(value)[:40]!r}, expected a JSON object')
    return value


def find_runs(path: Path) -> list[Path]:
    """Return the folders of runs: the folder itself, or those in it and one below, by name.

    :raises RunError: if there is none.
    """
    if (path / ABOUT).is_file():
        return [path]
    found = sorted(p.parent for depth in ('*', '*/*') for p in path.glob(f'{depth}/{ABOUT}'))
    if not found:
        raise RunError(f'{path}: found no {ABOUT} here or below, expected a folder that '
                       '`onellm eval --task ... --out` wrote')
    return found


def read_items(task: Task, root: Path, split: str, options: Mapping[str, int | float | str],
               limit: int = 0) -> tuple[Item, ...]:
    """Read what a benchmark asks.

    :param limit: only the first so many; 0: all.
    :raises AnnotationError: from the reader. :raises RunError: if nothing is asked, or an id
        comes twice.
    """
    items = tuple(islice(task.read(root, split, **options), limit or None))
    if not items:
        raise RunError(f'{task.name}: found no items in {root}, split {split}; '
                       f'`onellm eval --explain {task.name}` tells what to fetch')
    if len({item.id for item in items}) < len(items):
        ids = [item.id for item in items]
        again = next(i for i in ids if ids.count(i) > 1)
        raise RunError(f'{task.name}: found the id {again!r} more than once, expected each once')
    return items


def _plain(value: Any) -> Any:
    """Return what a digest is made of where JSON has no form."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value) if isinstance(value, Path) else type(value).__name__


def digest(items: Sequence[Item]) -> str:
    """Return a hash of all that items ask and hold as right, wherever their files lie."""
    found = hashlib.sha256()
    for item in items:
        # a picture may be one of several forms, which a reader cannot tell where it is not
        signals = {m.value: [s.path.stem, s.colour.stem if s.colour else '', s.window_s]
                   for m, s in item.signals.items()}
        found.update(json.dumps(
            [item.id, item.question, signals, item.answers, item.choices, item.right, item.group,
             item.facts], default=_plain, ensure_ascii=True, sort_keys=True).encode())
    return found.hexdigest()[:16]


def _flat(about: Mapping[str, Any], start: str = '') -> Iterator[tuple[str, Any]]:
    """Yield what a mapping of mappings holds, by dotted names."""
    for key, value in about.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{start}{key}.')
        else:
            yield start + key, value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what of two ``run.json`` changes answers and differs, with both values."""
    one, other = ({key: value for key, value in _flat({k: about.get(k) for k in SAME})
                   if key not in _NAMES} for about in (before, now))
    return [f'{key} {json.dumps(one.get(key))} there, {json.dumps(other.get(key))} now'
            for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def items_of(about: Mapping[str, Any], data: Path | None = None) -> tuple[Task, tuple[Item, ...]]:
    """Read again what a run asked.

    :param data: folder of the data, if it lies elsewhere now.
    :raises RunError: if the annotations are others. :raises ValueError: for a task that is not
        known, or annotations that are not understood.
    """
    asked = about['task']
    task = find_task(asked['name'])
    root = data_of(data, task) if data else Path(about['data'])
    items = read_items(task, root, asked['split'], asked['options'], about['items']['limit'])
    found = digest(items)
    if found != about['items']['digest']:
        raise RunError(
            f'{task.name}: found {len(items)} items ({found}) in {root}, the run asked '
            f'{about["items"]["count"]} others ({about["items"]["digest"]}); give the folder with '
            'the annotations of then as --data, or ask the model anew')
    return task, items


def read_run(folder: Path, data: Path | None = None) -> Run:
    """Read a finished run.

    :param data: folder of the data, if it lies elsewhere now.
    :raises RunError: if it is not finished, or its annotations are others.
    :raises ValueError: as :func:`items_of`; :raises PredictionError: for a file that is damaged.
    """
    about = read_json_file(folder / ABOUT)
    try:
        task, items = items_of(about, data)
    except (KeyError, TypeError) as error:
        raise RunError(f'{folder / ABOUT}: found no {error}, expected what `onellm eval` writes'
                       ) from None
    known = read_predictions(folder)
    missing = sum(item.id not in known for item in items)
    if missing:
        raise RunError(f'{folder}: found {len(items) - missing} predictions, expected '
                       f'{len(items)}; the same `onellm eval --task` command goes on with it')
    result = read_json_file(folder / RESULT) if (folder / RESULT).is_file() else None
    return Run(folder, about, task, items, tuple(known[item.id] for item in items), result)
