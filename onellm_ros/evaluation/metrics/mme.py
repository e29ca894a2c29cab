"""MME's score: accuracy and accuracy of both questions of a picture, summed over subtasks."""

from __future__ import annotations

from collections.abc import Sequence

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.common import check, grouped, reply, without
from onellm_ros.evaluation.task import Score, Tools

PERCEPTION = ('existence', 'count', 'position', 'color', 'posters', 'celebrity', 'scene',
              'landmark', 'artwork', 'OCR')
COGNITION = ('commonsense_reasoning', 'numerical_calculation', 'text_translation',
             'code_reasoning')


def read_yes_no(text: str) -> str:
    """Return ``yes``, ``no`` or nothing, as MME's script reads a reply: by its first 4 letters."""
    said = text.strip().lower()[:4]
    return 'yes' if 'yes' in said else 'no' if 'no' in said else ''


def _picture(item: Item) -> object:
    return item.evidence or tuple(sorted((str(name), str(signal))
                                         for name, signal in item.signals.items()))


def mme(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score yes and no in points: the value is perception's (at most 2000); cognition (800) apart.

    :param items: ``group`` is the subtask, ``answers[0]`` yes or no; a picture's two questions
        follow each other. Where subtasks are missing, the score's ``why`` names them: its value is
        then no figure to set beside the published ones.
    :raises ValueError: for an unknown subtask, an answer that is not yes or no.
    """
    check(items, predictions)
    lacking = without(items, lambda item: not item.answers, 'answers')
    if lacking:
        return lacking
    parts: dict[str, float] = {}
    groups = grouped(items)
    if sum(map(len, groups.values())) < len(items) or set(groups) - {*PERCEPTION, *COGNITION}:
        found = sorted({item.group for item in items} - {*PERCEPTION, *COGNITION})
        raise ValueError(f'found subtasks {found}, expected some of {PERCEPTION + COGNITION}')
    for group, indices in groups.items():
        right: list[bool] = []
        for index in indices:
            truth = items[index].answers[0].strip().lower()
            if truth not in ('yes', 'no'):
                raise ValueError(f'item {items[index].id}: found the answer {truth!r}, expected '
                                 'yes or no')
            right.append(read_yes_no(reply(predictions[index])) == truth)
        pairs = list(zip(indices[::2], indices[1::2]))
        if len(indices) % 2 or any(_picture(items[one]) != _picture(items[other])
                                   for one, other in pairs):
            return Score(None, why=(
                f'{group}: found {len(indices)} questions that are not two of each picture, one '
                'behind the other; the score counts pictures with both right'))
        both = [one and other for one, other in zip(right[::2], right[1::2])]
        parts[group] = 100 * sum(right) / len(right) + 100 * sum(both) / len(both)
    for name, groups_of in (('perception', PERCEPTION), ('cognition', COGNITION)):
        if any(group in parts for group in groups_of):
            parts[name] = sum(parts.get(group, 0.0) for group in groups_of)
    absent = [group for group in PERCEPTION if group not in parts]
    if 'perception' not in parts:
        return Score(None, why='found no items of perception, which the score is of', parts=parts)
    return Score(parts['perception'], parts=parts,
                 why=f'a sum without {", ".join(absent)}' if absent else '')
