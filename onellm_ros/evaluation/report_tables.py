"""What a report says of runs: benchmarks with their models side by side, scores and facts.

Owns which runs belong together and how models are called; knows nothing of HTML or Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import json
import math
from pathlib import Path
from typing import Any

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.predictions import PredictionError
from onellm_ros.evaluation.runs import (
    RESULT,
    SCORES,
    RunError,
    find_runs,
    read_json_file,
    read_run,
)

NOT_COMPUTED = 'not computed'


@dataclass(frozen=True)
class Told:
    """A run as a report tells it.

    :param label: of its model, another one for each run of a benchmark.
    :param result: what ``result.json`` holds.
    :param items: what was asked; empty where the annotations cannot be read, ``why`` says why.
    :param predictions: one an item. :param each: by metric the score of each item.
    """

    folder: Path
    label: str
    result: Mapping[str, Any]
    items: tuple[Item, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    each: Mapping[str, Sequence[float]] | None = None
    why: str = ''


@dataclass(frozen=True)
class Section:
    """A benchmark and the runs that were asked the same.

    :param number: in the paper; 0: beside it. :param note: what its title must tell besides.
    """

    name: str
    title: str
    number: int
    split: str
    version: int
    runs: tuple[Told, ...]
    note: str = ''

    @property
    def paper(self) -> Mapping[str, Any]:
        """What the paper reports of it; empty: nothing."""
        return self.runs[0].result.get('paper') or {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of metrics, the main one first."""
        found: dict[str, None] = {}
        for run in self.runs:
            found |= dict.fromkeys(run.result['scores'])
        return tuple(found)


@dataclass(frozen=True)
class ScoreRow:
    """One metric of a benchmark.

    :param values: one a model; None: not computed (``whys``), or not asked.
    :param paper: OneLLM-7B's. :param best: of the best other model in the paper, ``best_name``.
    """

    metric: str
    values: tuple[float | None, ...]
    whys: tuple[str, ...]
    paper: float | None
    best_name: str
    best: float | None
    fine_tuned: bool


def read_sections(paths: Sequence[Path], data: Path | None = None) -> list[Section]:
    """Read runs and put those together that were asked the same, in the paper's order.

    :param paths: folders of runs, or of several. :param data: folder of the data, if it lies
        elsewhere now.
    :raises RunError: for a folder without a run, or a run that is not scored.
    """
    folders = list(dict.fromkeys(folder.resolve() for path in paths for folder in find_runs(path)))
    groups: dict[str, list[Told]] = {}
    for folder in folders:
        told = _read(folder, data)
        asked, items = told.result['task'], told.result['items']
        key = json.dumps([asked['name'], asked['version'], asked['split'], asked['options'],
                          items['digest']])
        groups.setdefault(key, []).append(told)
    labels = _labels([told for runs in groups.values() for told in runs])
    sections = []
    for key, runs in groups.items():
        asked = runs[0].result['task']
        paper = runs[0].result.get('paper') or {}
        twins = [other for other in groups if other != key
                 and json.loads(other)[0] == asked['name']]
        note = '' if not twins else \
            f'{runs[0].result["items"]["count"]} items {_options(asked["options"])}'.strip()
        sections.append(Section(
            asked['name'], asked['title'], int(paper.get('number') or 0), asked['split'],
            asked['version'], tuple(replace(told, label=labels[told.folder]) for told in runs),
            note))
    return sorted(sections, key=lambda s: (s.number or (99 if s.paper else 100), s.name))


def _read(folder: Path, data: Path | None) -> Told:
    """Read a run; what was asked is not needed for its scores.

    :raises RunError: if it is not scored.
    """
    if not (folder / RESULT).is_file():
        raise RunError(f'{folder}: found no {RESULT}, expected a finished run; the same '
                       '`onellm eval --task` command goes on with it, --rescore scores it')
    result = read_json_file(folder / RESULT)
    each = read_json_file(folder / SCORES) if (folder / SCORES).is_file() else None
    try:
        run = read_run(folder, data)
    except (RunError, PredictionError) as error:
        return Told(folder, '', result, why=str(error))
    except (ValueError, OSError) as error:
        return Told(folder, '', result, why=f'{error}; --data names where its data lie now')
    return Told(folder, '', result, run.items, run.predictions, each)


def _labels(runs: Sequence[Told]) -> dict[Path, str]:
    """Return how models are called: by name, with their hash and folder where that is needed."""
    weights: dict[str, set[str]] = {}
    for told in runs:
        model = told.result['model']
        weights.setdefault(model['name'], set()).add(model['weights'])
    plain: dict[Path, str] = {}
    for told in runs:
        model = told.result['model']
        several = len(weights[model['name']]) > 1
        plain[told.folder] = f'{model["name"]} {model["weights"][:8]}' if several \
            else model['name']
    seen: dict[tuple[str, str, str], list[Path]] = {}
    for told in runs:
        asked = told.result['task']
        seen.setdefault((plain[told.folder], asked['name'], told.result['items']['digest']),
                        []).append(told.folder)
    again = {label for (label, *_), folders in seen.items() if len(folders) > 1}
    return {folder: f'{label} ({folder.parent.name}/{folder.name})' if label in again else label
            for folder, label in plain.items()}


def models(sections: Sequence[Section]) -> tuple[str, ...]:
    """Return the models of all benchmarks, in order of appearance."""
    return tuple(dict.fromkeys(told.label for section in sections for told in section.runs))


def score_rows(section: Section) -> list[ScoreRow]:
    """Return the scores of a benchmark, the main metric first."""
    paper = section.paper
    rows = []
    for name in section.metrics:
        found = [told.result['scores'].get(name) or {'value': None, 'why': 'not asked'}
                 for told in section.runs]
        rows.append(ScoreRow(
            name, tuple(score['value'] for score in found),
            tuple(score.get('why') or '' for score in found),
            (paper.get('scores') or {}).get(name), paper.get('best') or '',
            (paper.get('best_scores') or {}).get(name), bool(paper.get('fine_tuned'))))
    return rows


def parts(section: Section, name: str) -> dict[str, tuple[float | None, ...]]:
    """Return the score of a metric by groups of items, one value a model."""
    found = [(told.result['scores'].get(name) or {}).get('parts') or {} for told in section.runs]
    groups = dict.fromkeys(group for one in found for group in one)
    return {group: tuple(one.get(group) for one in found) for group in groups}


def facts(told: Told) -> dict[str, str]:
    """Return what a score depends on: model, prompt, decoding, versions, and what went wrong."""
    result = told.result
    model, counts = result['model'], result['counts']
    out = {
        'model': f'{model["name"]}, weights {model["weights"]}',
        'computed': ', '.join(str(model[key]) for key in ('backend', 'dtype', 'device')
                              if model.get(key)) + f', {result["batch"]} at once',
        'asked': f'{result["task"]["name"]} version {result["task"]["version"]}, split '
                 f'{result["task"]["split"]}, {counts["items"]} items'
                 + (f' (the first {result["items"]["limit"]})' if result['items']['limit'] else '')
                 + f', {result["items"]["digest"]} {_options(result["task"]["options"])}'.rstrip(),
        'prompt': f'{result["prompt"]["form"]}: {result["prompt"]["text"]}',
        'decoding': _decoding(result['decoding']),
        'versions': _pairs(result['versions']['answered']),
        'scored': f'as version {result["scored_as_version"]}, '
                  + _pairs(result['versions']['scored'])}
    odd = {'broken': 'files could not be used, counted as wrong', 'empty': 'empty replies',
           'cut': 'replies cut at their length'}
    for key, text in odd.items():
        if counts.get(key):
            out[key] = f'{counts[key]} of {counts["items"]} items: {text}'
    return out


def _decoding(decoding: Mapping[str, Any]) -> str:
    if not decoding['temperature']:
        return f'greedy, {decoding["max_tokens"]} tokens at most'
    return (f'temperature {decoding["temperature"]:g}, top-p {decoding["top_p"]:g}, seed '
            f'{decoding["seed"]}, {decoding["max_tokens"]} tokens at most')


def _pairs(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{key} {value}' for key, value in values.items())


def _options(options: Mapping[str, Any]) -> str:
    shown = ' '.join(f'{key}={value}' for key, value in options.items() if value != '')
    return f'({shown})' if shown else ''


def number(value: float | int | None, digits: int = 2) -> str:
    """Return a figure as people read it; nothing known is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '–'
    if isinstance(value, int):
        return f'{value:,}'
    return f'{value:,.{digits}f}'


def grid(table: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return a task's table as texts: its columns, and rows that begin with their name.

    Figures of a column have as many digits as each other.
    """
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    texts = []
    for column in columns:
        values = [row.get(column) for row in table.values()]
        large = any(isinstance(v, float) and abs(v) >= 10 for v in values)
        texts.append([v if isinstance(v, str) else number(v, 1 if large else 2) for v in values])
    return columns, [[name, *cells] for name, *cells in zip(table, *texts, strict=True)]


def best_text(row: ScoreRow) -> str:
    """Return the best other model of the paper and its score; empty: the paper names none."""
    if row.best is None:
        return ''
    return f'{row.best_name} {row.best:g}' + (' (fine-tuned)' if row.fine_tuned else '')
