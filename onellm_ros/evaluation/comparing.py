"""Compares two models' predictions for the same items: by metric, by group, right against wrong.

Owns which scores are compared how; ``bootstrap.py`` owns the statistics, ``compare.py`` the
command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from onellm_ros.evaluation.bootstrap import (
    LEVEL,
    Interval,
    holm,
    mcnemar,
    paired_means,
    paired_scores,
    units_of,
)
from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics import metric
from onellm_ros.evaluation.task import Task, Tools

RESAMPLES = 10_000              # of a mean
RESCORED = 400                  # of a score of the whole set, which each resample computes anew
SLOW = ('meteor', 'spice', 'spider')        # start Java: not computed hundreds of times unasked
SAME, BETTER, WORSE = 'same', 'better', 'worse'
OnStep = Callable[[], object]


@dataclass(frozen=True)
class Rights:
    """How often both, one or none of two models was right, and McNemar's exact p."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


@dataclass(frozen=True)
class Row:
    """One comparison.

    :param group: of items; empty: all of them. :param items: how many.
    :param a: score of model A; None: not computed; so is ``b``.
    :param interval: of B - A; None: not compared, ``why`` says why not.
    :param rights: where each item is right or wrong.
    :param p: of the interval; of groups, as Holm corrects it for their number.
    """

    metric: str
    group: str
    items: int
    a: float | None
    b: float | None
    interval: Interval | None = None
    rights: Rights | None = None
    p: float = 1.0
    why: str = ''

    @property
    def verdict(self) -> str:
        """``same``: no difference beyond the noise; else B is ``better`` or ``worse``.

        Where items are right or wrong, McNemar's test must agree: of few items, the bootstrap
        alone finds differences too easily.
        """
        found = self.interval
        if found is None or not found.differs or self.p >= LEVEL \
                or (self.rights is not None and self.rights.p >= LEVEL):
            return SAME
        return BETTER if found.value > 0 else WORSE


@dataclass(frozen=True)
class Comparison:
    """Two models on one task.

    :param rows: by metric, all items first, then groups. :param judged: the row that tells whether
        B is worse: of the task's main metric, or the one asked for.
    :param replies: items to which A and B replied differently.
    :param broken: items whose files could not be used by A, and by B.
    """

    rows: tuple[Row, ...]
    judged: Row
    replies: int
    broken: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        rows = [{**asdict(row), 'verdict': row.verdict} for row in self.rows]
        return {'verdict': self.judged.verdict, 'metric': self.judged.metric, 'rows': rows,
                'replies_that_differ': self.replies, 'broken': list(self.broken),
                'level': LEVEL}


def evidence_key(item: Item) -> str:
    """Return what an item's evidence is called: by its name, else by the files that it shows."""
    return item.evidence or '\n'.join(
        sorted(f'{modality.value} {signal}' for modality, signal in item.signals.items()))


def compare(task: Task, items: Sequence[Item], a: Sequence[Prediction], b: Sequence[Prediction],
            *, name: str = '', tools: Tools | None = None, resamples: int = 0, seed: int = 0,
            on_step: OnStep | None = None) -> Comparison:
    """Compare two models.

    :param items: of the task, as both were asked.
    :param a: replies of model A in the items' order; so are those of ``b``.
    :param name: of the metric that judges; empty: the task's main one.
    :param resamples: 0: ``RESAMPLES`` of a mean, ``RESCORED`` of what must be scored anew.
    :param on_step: called after each metric and group.
    :raises ValueError: for replies to other items, no items, or a metric that the task has not.
    """
    if name and name not in task.metrics:
        raise ValueError(f'metric: found {name!r}, expected one of {", ".join(task.metrics)}')
    ids = [item.id for item in items]
    for which, given in (('A', a), ('B', b)):
        if [p.id for p in given] != ids:
            raise ValueError(f'predictions of {which}: expected one to each of the {len(ids)} '
                             'items, in their order')
    if not ids:
        raise ValueError('found no items, expected at least one')
    judge = name or task.metrics[0]
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.group, []).append(place)
    chosen: list[list[int]] = [list(range(len(items)))]
    names = ['']
    if len(groups) > 1:
        names += list(groups)
        chosen += list(groups.values())
    rows: list[Row] = []
    for which in task.metrics:
        if which in SLOW and which != judge:
            rows.append(Row(which, '', len(items), None, None,
                            why=f'starts Java for each resample: --metric {which} asks for it'))
            continue
        rows += _metric_rows(which, items, a, b, names, chosen, tools or Tools(), resamples, seed,
                             on_step)
    judged = next(row for row in rows if row.metric == judge and not row.group)
    same = sum((x.text, x.choice) != (y.text, y.choice) for x, y in zip(a, b, strict=True))
    broken = (sum(p.finish_reason == 'broken' for p in a),
              sum(p.finish_reason == 'broken' for p in b))
    return Comparison(tuple(rows), judged, same, broken)


def _metric_rows(which: str, items: Sequence[Item], a: Sequence[Prediction],
                 b: Sequence[Prediction], names: Sequence[str], groups: Sequence[Sequence[int]],
                 tools: Tools, resamples: int, seed: int, on_step: OnStep | None) -> list[Row]:
    """Return the rows of one metric; groups' p are corrected for their number."""
    score = metric(which)
    found = score(items, a, tools), score(items, b, tools)
    if found[0].value is None or found[1].value is None:
        return [Row(which, '', len(items), found[0].value, found[1].value,
                    why=found[0].why or found[1].why)]
    first, second = (np.asarray(s.items, dtype=np.float64) for s in found)
    mean = len(first) == len(second) == len(items)
    units = units_of([evidence_key(item) for item in items])
    rows = []
    for group, places in zip(names, groups, strict=True):
        at = np.asarray(places)
        if mean:
            interval = paired_means(first[at], second[at], units[at], resamples or RESAMPLES, seed)
            row = Row(which, group, len(at), float(first[at].mean()), float(second[at].mean()),
                      interval, _rights(first[at], second[at]), interval.p)
        else:
            row = _rescored(which, group, [items[i] for i in places], [a[i] for i in places],
                            [b[i] for i in places], tools, resamples or RESCORED, seed)
        rows.append(row)
        if on_step:
            on_step()
    corrected = holm([row.p for row in rows[1:]])
    return rows[:1] + [replace(row, p=p) for row, p in zip(rows[1:], corrected, strict=True)]


def _rights(a: np.ndarray, b: np.ndarray) -> Rights | None:
    """Return the counts of right and wrong; None where scores are not that alone."""
    if not all(np.isin(scores, (0.0, 100.0)).all() for scores in (a, b)):
        return None
    first, second = a > 0, b > 0
    only = int((first & ~second).sum()), int((second & ~first).sum())
    return Rights(int((first & second).sum()), *only, int((~first & ~second).sum()),
                  mcnemar(*only))


def _rescored(which: str, group: str, items: Sequence[Item], a: Sequence[Prediction],
              b: Sequence[Prediction], tools: Tools, resamples: int, seed: int) -> Row:
    """Compare a score of the whole set by scoring resampled sets anew."""
    score = metric(which)
    units = units_of([evidence_key(item) for item in items])
    differing = len({unit for unit, x, y in zip(units.tolist(), a, b, strict=True)
                     if (x.text, x.choice, x.probabilities) != (y.text, y.choice,
                                                                y.probabilities)})

    def both(places: Sequence[int], copies: Sequence[int]) -> tuple[float, float]:
        # what is drawn twice is another picture to a metric that gathers by pictures
        asked = [_copy(items[i], copy) for i, copy in zip(places, copies, strict=True)]
        values = []
        for given in (a, b):
            told = [replace(given[i], id=item.id) for i, item in zip(places, asked, strict=True)]
            value = score(asked, told, tools).value
            values.append(0.0 if value is None else value)
        return values[0], values[1]

    whole = score(items, a, tools), score(items, b, tools)
    if whole[0].value is None or whole[1].value is None:
        return Row(which, group, len(items), whole[0].value, whole[1].value,
                   why=whole[0].why or whole[1].why)
    interval = paired_scores(both, units, differing, resamples, seed)
    return Row(which, group, len(items), whole[0].value, whole[1].value, interval, None,
               interval.p)


def _copy(item: Item, copy: int) -> Item:
    """Return an item that was drawn again as one of its own."""
    if not copy:
        return item
    return replace(item, id=f'{item.id}#{copy}', evidence=f'{evidence_key(item)}#{copy}')
