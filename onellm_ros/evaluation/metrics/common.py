"""What every metric does first and last: checks what it is given, sorts scores into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.task import Score


def check(items: Sequence[Item], predictions: Sequence[Prediction]) -> None:
    """Raise ValueError unless there are items and the predictions are theirs, in their order."""
    if not items:
        raise ValueError('found no items, expected at least one')
    if len(items) != len(predictions):
        raise ValueError(f'found {len(predictions)} predictions, expected one for each of '
                         f'{len(items)} items')
    for item, prediction in zip(items, predictions):
        if item.id != prediction.id:
            raise ValueError(f'found a prediction of item {prediction.id!r}, expected one of '
                             f"{item.id!r}: predictions come in the items' order")


def reply(prediction: Prediction) -> str:
    """Return the reply without blanks around it; empty where the item's files were broken."""
    return '' if prediction.finish_reason == 'broken' else prediction.text.strip()


def grouped(items: Sequence[Item]) -> dict[str, list[int]]:
    """Return the indices of the items of each group, in the order of their first item."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.group:
            found.setdefault(item.group, []).append(index)
    return found


def mean(items: Sequence[Item], values: Sequence[float]) -> Score:
    """Return the mean of the items' scores, of all and of each group."""
    return Score(sum(values) / len(values), tuple(values), parts={
        group: sum(values[index] for index in indices) / len(indices)
        for group, indices in grouped(items).items()})


def without(items: Sequence[Item], lacks: Callable[[Item], bool], what: str) -> Score | None:
    """Return a score that is not computed if some items lack what it needs, else None.

    :param what: they lack, for the text.
    """
    lacking = [item.id for item in items if lacks(item)]
    if not lacking:
        return None
    return Score(None, why=f'{len(lacking)} of {len(items)} items have no {what} (the first: '
                           f'{lacking[0]}); a split whose answers are withheld cannot be scored '
                           'here')
