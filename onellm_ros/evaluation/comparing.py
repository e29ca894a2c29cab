"""Compares two models' predictions for the same items: by metric, by group, right against wrong.

Owns which scores are compared how; ``bootstrap.py`` owns the statistics, ``compare.py`` the
command.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def unit_key(task: Task, item: Item) -> str:
    """Return what items are called together that are not independent of each other.

    Of robot-world all that is asked in a world: many conditions ask the same questions again.
    """
    if task.name == 'robot-world':
        return item.id.split('/')[1]
    return evidence_key(item)


def evidence_key(item: Item) -> str:
    """Return what an item's evidence is called: by its name, else by the files that it shows."""
    return item.evidence or '\n'.join(
        sorted(f'{modality.value} {signal}' for modality, signal in item.signals.items()))


def compare(task: Task, items: Sequence[Item], a: Sequence[Prediction], b: Sequence[Prediction],
            *, name: str = '', tools: tuple[Tools, Tools] | None = None, resamples: int = 0,
            seed: int = 0) -> Comparison:
    """Compare two models.

    :param items: of the task, as both were asked.
    :param a: replies of model A in the items' order; so are those of ``b``.
    :param name: of the metric that judges; empty: the task's main one.
    :param tools: of the metrics, for A and for B (a judge's replies are kept by run).
    :param resamples: 0: ``RESAMPLES`` of a mean, ``RESCORED`` of what must be scored anew.
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
        rows += _Metric(task, which, items, (a, b), tools or (Tools(), Tools()), resamples,
                        seed).rows(names, chosen)
    judged = next(row for row in rows if row.metric == judge and not row.group)
    same = sum((x.text, x.choice) != (y.text, y.choice) for x, y in zip(a, b, strict=True))
    broken = (sum(p.finish_reason == 'broken' for p in a),
              sum(p.finish_reason == 'broken' for p in b))
    return Comparison(tuple(rows), judged, same, broken)


class _Metric:
    """Compares by one metric."""

    def __init__(self, task: Task, name: str, items: Sequence[Item],
                 replies: tuple[Sequence[Prediction], Sequence[Prediction]],
                 tools: tuple[Tools, Tools], resamples: int, seed: int) -> None:
        self._name, self._items, self._replies = name, items, replies
        self._score, self._tools = metric(name), tools
        self._resamples, self._seed = resamples, seed
        self._units = units_of([unit_key(task, item) for item in items])

    def rows(self, names: Sequence[str], groups: Sequence[Sequence[int]]) -> list[Row]:
        """Return the rows of all items and of groups; p of the latter as Holm corrects them.

        :param groups: places of items, all of them first.
        """
        found = [self._score(self._items, given, tools)
                 for given, tools in zip(self._replies, self._tools, strict=True)]
        if any(score.value is None for score in found):
            return [Row(self._name, '', len(self._items), found[0].value, found[1].value,
                        why=found[0].why or found[1].why)]
        a, b = (np.asarray(score.items, dtype=np.float64) for score in found)
        mean = len(a) == len(b) == len(self._items)
        made = []
        for group, places in zip(names, groups, strict=True):
            at = np.asarray(places)
            made.append(self._of_means(group, a[at], b[at], self._units[at]) if mean else
                        self._of_sets(group, places))
        corrected = holm([row.p for row in made[1:]])
        return made[:1] + [replace(row, p=p)
                           for row, p in zip(made[1:], corrected, strict=True)]

    def _of_means(self, group: str, a: np.ndarray, b: np.ndarray, units: np.ndarray) -> Row:
        """Compare means of the items' scores."""
        found = paired_means(a, b, units, self._resamples or RESAMPLES, self._seed)
        return Row(self._name, group, len(a), float(a.mean()), float(b.mean()), found,
                   _rights(a, b), found.p)

    def _of_sets(self, group: str, places: Sequence[int]) -> Row:
        """Compare a score of a whole set, by scoring resampled sets anew."""
        items = [self._items[i] for i in places]
        a, b = ([given[i] for i in places] for given in self._replies)
        _, units = np.unique(self._units[np.asarray(places)], return_inverse=True)
        differing = len({unit for unit, x, y in zip(units.tolist(), a, b, strict=True)
                         if _said(x) != _said(y)})

        def both(drawn: Sequence[int], copies: Sequence[int]) -> tuple[float, float]:
            # what is drawn twice is another picture to a metric that gathers by pictures
            asked = [_copy(items[i], copy) for i, copy in zip(drawn, copies, strict=True)]
            values = []
            for given, tools in zip((a, b), self._tools, strict=True):
                told = [replace(given[i], id=item.id)
                        for i, item in zip(drawn, asked, strict=True)]
                value = self._score(asked, told, tools).value
                values.append(0.0 if value is None else value)
            return values[0], values[1]

        whole = [self._score(items, given, tools)
                 for given, tools in zip((a, b), self._tools, strict=True)]
        first, second = (score.value for score in whole)
        if first is None or second is None:
            return Row(self._name, group, len(items), first, second,
                       why=whole[0].why or whole[1].why)
        found = paired_scores(both, units, differing, self._resamples or RESCORED, self._seed)
        return Row(self._name, group, len(items), first, second, found, None, found.p)


def _said(prediction: Prediction) -> tuple[str, int, tuple[float, ...]]:
    return prediction.text, prediction.choice, prediction.probabilities


def _rights(a: np.ndarray, b: np.ndarray) -> Rights | None:
    """Return the counts of right and wrong; None where scores are not that alone."""
    if not all(np.isin(scores, (0.0, 100.0)).all() for scores in (a, b)):
        return None
    first, second = a > 0, b > 0
    only = int((first & ~second).sum()), int((second & ~first).sum())
    return Rights(int((first & second).sum()), *only, int((~first & ~second).sum()),
                  mcnemar(*only))


def _copy(item: Item, copy: int) -> Item:
    """Return an item that was drawn again as one of its own."""
    if not copy:
        return item
    return replace(item, id=f'{item.id}#{copy}', evidence=f'{evidence_key(item)}#{copy}')
