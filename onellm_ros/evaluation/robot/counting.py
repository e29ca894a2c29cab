"""Shares, means and errors of rows: the small sums that the tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from statistics import mean

import numpy as np

from onellm_ros.evaluation.calibration import calibration
from onellm_ros.evaluation.robot.scoring import Row, says_unknown

Cells = dict[str, float | int | None]
Table = dict[str, Cells]


def percent(flags: Iterable[bool]) -> float | None:
    """Return the share of what holds, in percent; None of nothing."""
    found = list(flags)
    return round(100.0 * sum(found) / len(found), 1) if found else None


def grouped(rows: Iterable[Row], key: Callable[[Row], str],
            order: Sequence[str] = ()) -> dict[str, list[Row]]:
    """Return rows by key: those of ``order`` first, then as they come."""
    out: dict[str, list[Row]] = {name: [] for name in order}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return {name: found for name, found in out.items() if found}


def accuracy(rows: Sequence[Row]) -> Cells:
    """Return accuracy and guesser in percent, and how many questions."""
    return {'accuracy': percent(row.right for row in rows),
            'guesser': percent(row.guessed for row in rows), 'questions': len(rows)}


def confidence(rows: Iterable[Row]) -> float | None:
    """Return the mean confidence; None where none is known."""
    known = [row.prediction.confidence for row in rows
             if not math.isnan(row.prediction.confidence)]
    return round(mean(known), 3) if known else None


def unknown(rows: Iterable[Row]) -> float | None:
    """Return the share that says 'unknown', in percent."""
    return percent(says_unknown(row.text) for row in rows)


def paired(rows: Sequence[Row], by_id: Mapping[str, Row], fact: str = 'alone'
           ) -> tuple[list[Row], list[Row]]:
    """Return the rows with a partner that ``fact`` names, and those partners."""
    found = [(row, by_id[row.item.facts[fact]]) for row in rows
             if row.item.facts.get(fact) in by_id]
    return [row for row, _ in found], [partner for _, partner in found]


def sureness(rows: Sequence[Row]) -> Cells | None:
    """Return how confidence compares with accuracy; None without confidences."""
    found = calibration([(row.prediction.confidence, row.right) for row in rows])
    if found is None:
        return None
    return {'error': found['error'], 'confidence': confidence(rows),
            'accuracy': percent(row.right for row in rows), 'questions': found['questions']}


def errors(pairs: Sequence[tuple[float, float | None]], digits: int) -> Cells:
    """Return sizes of errors.

    :param pairs: truth and what was said; None: the reply says no number and no place.
    :returns: ``read``: share of replies that say one, percent; ``median``, ``mean`` and ``p90``
        of the absolute errors of those.
    """
    found = np.array([abs(said - true) for true, said in pairs if said is not None])
    out: Cells = {'median': None, 'mean': None, 'p90': None}
    if len(found):
        out = {'median': round(float(np.median(found)), digits),
               'mean': round(float(found.mean()), digits),
               'p90': round(float(np.quantile(found, 0.9)), digits)}
    return {**out, 'read': percent(said is not None for _, said in pairs)}
