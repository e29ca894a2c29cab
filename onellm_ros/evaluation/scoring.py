"""Scores of a run: every metric of its task, what could not be computed, and what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
import json
from typing import Any

from onellm_ros.evaluation.item import BROKEN, Item, Prediction
from onellm_ros.evaluation.metrics import metric
from onellm_ros.evaluation.metrics.endpoint import recorded_model
from onellm_ros.evaluation.predictions import values_of
from onellm_ros.evaluation.runs import JUDGE, RESULT, SCORES, Run, package_versions
from onellm_ros.evaluation.task import Score, Task, Tools
from onellm_ros.model.files import write_atomically

_SCORED_WITH = ('onellm_ros', 'numpy')
_DIGITS = 6


def scores(task: Task, items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools
           ) -> dict[str, Score]:
    """Return a task's scores by metric, the main one first."""
    return {name: metric(name)(items, predictions, tools) for name in task.metrics}


def counts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Return how many predictions there are, and how many are not as they should be."""
    broken = sum(p.finish_reason == BROKEN for p in predictions)
    return {
        'items': len(predictions), 'broken': broken,
        'empty': sum(not p.text.strip() and p.finish_reason != BROKEN for p in predictions),
        'cut': sum(p.finish_reason == 'length' for p in predictions)}


def _shown(score: Score) -> dict[str, Any]:
    """Return a score as ``result.json`` holds it."""
    if score.value is None:
        return {'value': None, 'why': score.why}
    shown: dict[str, Any] = {'value': round(score.value, _DIGITS)}
    if score.why:
        shown['why'] = score.why
    if score.parts:
        shown['parts'] = {name: round(value, _DIGITS) for name, value in score.parts.items()}
    return shown


def result_of(about: Mapping[str, Any], task: Task, items: Sequence[Item],
              predictions: Sequence[Prediction], found: Mapping[str, Score], judge: str = ''
              ) -> dict[str, Any]:
    """Return what ``result.json`` holds: what was asked of which model and how, and the scores.

    :param judge: the model that judged, empty if none did.
    """
    return values_of({
        'task': {**about['task'], 'title': task.title},
        'model': about['model'], 'items': about['items'], 'prompt': about['prompt'],
        'decoding': about['decoding'], 'batch': about['batch'],
        'scored_as_version': task.version,
        'main': task.metrics[0],
        'scores': {name: _shown(score) for name, score in found.items()},
        'judge': judge or None, 'counts': counts(predictions),
        'broken': [{'id': p.id, 'error': p.error} for p in predictions
                   if p.finish_reason == BROKEN],
        'tables': task.tables(items, predictions) if task.tables else {},
        'paper': asdict(task.paper) if task.paper else None,
        'versions': {'answered': about['versions'], 'scored': package_versions(_SCORED_WITH)}})


def write_scores(run: Run, tools: Tools) -> dict[str, Any]:
    """Score a run and write ``result.json`` and ``scores.json``; returns the former.

    :param tools: without a cache of its own, a judge's replies are kept in the run's folder.
    """
    if tools.judge_cache is None:
        tools = replace(tools, judge_cache=run.folder / JUDGE)
    found = scores(run.task, run.items, run.predictions, tools)
    each = {name: [round(v, _DIGITS) for v in score.items] for name, score in found.items()
            if score.items}
    judged = any(score.value is not None for name, score in found.items()
                 if name.startswith('judge_'))
    judge = (tools.judge_model if tools.judge else recorded_model(tools.judge_cache)) \
        if judged else ''
    result = result_of(run.about, run.task, run.items, run.predictions, found, judge)
    write_atomically(run.folder / SCORES, (json.dumps(values_of(each)) + '\n').encode())
    write_atomically(run.folder / RESULT,
                     (json.dumps(result, indent=1, ensure_ascii=False) + '\n').encode())
    return result


def told(result: Mapping[str, Any]) -> str:
    """Return a result as text: a line a metric, the paper's figure beside it, then what is odd."""
    paper = result['paper'] or {'scores': {}, 'best_scores': {}, 'best': ''}
    name = result['task']['name']
    lines = []
    for which, score in result['scores'].items():
        shown = 'not computed: ' + score['why'] if score['value'] is None \
            else f'{score["value"]:.2f}'
        beside = []
        if which in paper['scores']:
            beside.append(f'OneLLM-7B {paper["scores"][which]:g}')
        if which in paper['best_scores']:
            beside.append(f'{paper["best"]} {paper["best_scores"][which]:g}')
        told = f'   (paper: {", ".join(beside)})' if beside else ''
        if score['value'] is not None and score.get('why'):
            told += f'   ({score["why"]})'
        lines.append(f'{name:16s} {which:18s} {shown}{told}')
    odd = {key: value for key, value in result['counts'].items() if value and key != 'items'}
    more = ''.join(f', {value} {key}' for key, value in odd.items())
    lines.append(f'{name:16s} {result["counts"]["items"]} items{more}')
    for title, rows in result['tables'].items():
        lines += ['', *_table(title, rows)]
    return '\n'.join(lines)


def _table(title: str, rows: Mapping[str, Mapping[str, float | int | None]]) -> list[str]:
    """Return a table as lines; what was not measured is ``-``."""
    def shown(value: float | int | None) -> str:
        return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    names = max(map(len, (title, *rows)))
    widths = {c: max(len(c), *(len(shown(row.get(c))) for row in rows.values())) for c in columns}
    return [f'{title:{names}s}  ' + '  '.join(f'{c:>{widths[c]}s}' for c in columns),
            *(f'{name:{names}s}  ' + '  '.join(f'{shown(row.get(c)):>{widths[c]}s}'
                                               for c in columns) for name, row in rows.items())]
