"""Examples of right and wrong answers for a report: which items, and what every model replied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import random

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.prompts import LETTERS
from onellm_ros.evaluation.report_tables import Section, Told

RIGHT, WRONG, HIGH, LOW = 'right', 'wrong', 'high', 'low'
_GRADES = 12            # values that a score takes, above which it is no right or wrong
_REFERENCES = 5         # that are shown of an item


@dataclass(frozen=True)
class Reply:
    """What a model replied. :param mark: ``right``, ``wrong``, a score, or empty: not known."""

    label: str
    text: str
    mark: str
    good: bool | None
    confidence: float


@dataclass(frozen=True)
class Example:
    """One item.

    :param kind: ``right`` or ``wrong``; ``high`` or ``low`` where scores are graded.
    :param references: what is held as right; ``more`` others are not shown.
    :param pictures: by modality; :param lacking: why some are not there.
    """

    id: str
    kind: str
    group: str
    question: str
    choices: tuple[str, ...]
    references: tuple[str, ...]
    more: int
    replies: tuple[Reply, ...]
    pictures: Mapping[str, bytes]
    lacking: str


def examples(section: Section, count: int, seed: int) -> tuple[list[Example], str]:
    """Choose examples: as many of right as of wrong answers, of several groups where it can be.

    Of several models, those on which all were right, and in turn those that each had wrong.

    :param count: of each kind.
    :returns: the examples, and why there are none.
    """
    asked = [told for told in section.runs if told.items]
    if not asked or count < 1:
        return [], section.runs[0].why
    scored = [scores for told in asked if (scores := item_scores(told)) is not None]
    if len(scored) < len(asked):
        return [], ('no metric scores single items, so none is right or wrong by itself')
    good = [[_is_good(value, scores) for value in scores] for scores in scored]
    graded = any(_graded(scores) for scores in scored)
    items = asked[0].items
    rng = random.Random(f'{seed} {section.name}')
    rights = [i for i in range(len(items)) if all(one[i] is True for one in good)] or \
        [i for i in range(len(items)) if good[0][i] is True]
    chosen = [(i, HIGH if graded else RIGHT) for i in _spread(items, rights, count, rng)]
    taken = {i for i, _ in chosen}
    each = -(-count // len(good))
    for one in good:
        wrongs = [i for i in range(len(items)) if one[i] is False and i not in taken]
        found = _spread(items, wrongs, each, rng)
        taken |= set(found)
        chosen += [(i, LOW if graded else WRONG) for i in found]
    return [_example(asked, scored, place, kind) for place, kind in chosen], ''


def item_scores(told: Told) -> Sequence[float] | None:
    """Return the score of each item by the first metric that has one for each."""
    for name in told.result['scores']:
        found = (told.each or {}).get(name) or ()
        if len(found) == len(told.items) and found:
            return found
    return None


def _graded(scores: Sequence[float]) -> bool:
    return len(set(scores)) > _GRADES


def _is_good(value: float, scores: Sequence[float]) -> bool | None:
    """Return whether a score is that of a right answer; None: neither right nor wrong.

    Of graded scores (CIDEr) the best quarter is good, the worst one bad.
    """
    if not _graded(scores):
        return True if value >= 100.0 else False if value <= 0.0 else None
    ordered = sorted(scores)
    quarter = len(ordered) // 4
    if value <= ordered[quarter - 1]:
        return False
    return True if value >= ordered[-quarter] else None


def _spread(items: Sequence[Item], places: Sequence[int], count: int, rng: random.Random
            ) -> list[int]:
    """Draw places of items, of each group in turn; returned in the items' order."""
    groups: dict[str, list[int]] = {}
    for place in places:
        groups.setdefault(items[place].group, []).append(place)
    queues = list(groups.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    out: list[int] = []
    while len(out) < min(count, len(places)):
        for queue in queues:
            if queue and len(out) < count:
                out.append(queue.pop())
    return sorted(out)


def _example(asked: Sequence[Told], scored: Sequence[Sequence[float]], place: int, kind: str
             ) -> Example:
    """Return one item with all replies and its pictures."""
    from onellm_ros.evaluation.report_shown import pictures_of  # which imports torch

    item = asked[0].items[place]
    references = item.answers or (
        (item.choices[item.right],) if 0 <= item.right < len(item.choices) else ())
    pictures, lacking = pictures_of(item)
    unique = tuple(dict.fromkeys(references))
    return Example(
        item.id, kind, item.group, item.question, item.choices, unique[:_REFERENCES],
        len(unique[_REFERENCES:]),
        tuple(_reply(told, told.predictions[place], item, scores[place], scores)
              for told, scores in zip(asked, scored, strict=True)), pictures, lacking)


def _reply(told: Told, given: Prediction, item: Item, value: float, scores: Sequence[float]
           ) -> Reply:
    """Return what a model replied, and how it counts."""
    text = given.text or (f'(nothing: {given.error})' if given.error else '(nothing)')
    if 0 <= given.choice < len(item.choices):
        text += f' [likeliest choice: {_choice(item, given.choice)}]'
    good = _is_good(value, scores)
    graded = _graded(scores) or good is None
    return Reply(told.label, text, f'{value:.0f}' if graded else RIGHT if good else WRONG, good,
                 given.confidence)


def _choice(item: Item, place: int) -> str:
    letter = f'{LETTERS[place]}. ' if place < len(LETTERS) else ''
    return letter + item.choices[place]
