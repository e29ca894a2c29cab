"""When an answer of robot-world is right: by the rules of the world's own language.

An empty reply, or one to evidence that could not be used, is always wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import re

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.robot import measures
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.language import Question
from onellm_ros.simulation.truth import SeenObject, Truth


def question_of(item: Item) -> Question:
    """Return an item as the question that it was made of."""
    return Question(item.facts['type'], Modality(item.facts['source']), item.question,
                    item.answers[0], item.answers[1:])


def says(answers: Iterable[str], item: Item, text: str) -> bool:
    """Whether a reply says one of some answers."""
    given = tuple(answers)
    return bool(given and text.strip()) and language.is_correct(
        Question(item.facts['type'], Modality(item.facts['source']), item.question, given[0],
                 given[1:]), text)


def says_unknown(text: str) -> bool:
    """Whether a reply says that it cannot be told."""
    return language.normalise(text) == language.UNKNOWN


def caption_scores(item: Item, text: str) -> dict[str, float]:
    """Compare a description with the truth (``language.caption_score``), each 0..1."""
    values = dict(item.facts['truth'])
    values['seen'] = tuple(SeenObject(**thing) for thing in values['seen'])
    return language.caption_score(text, Truth(**values),
                                  frozenset(Modality(name) for name in item.facts['blocks']))


def is_right(item: Item, text: str) -> bool:
    """Whether a reply is right.

    Of two worlds that contradict each other, what either shows is right; a description is right
    if all that is scored of it is; distances and bearings as ``measures`` says.
    """
    if not re.search(r'\w', text):
        return False
    condition = item.facts['condition']
    if condition == 'caption':
        return all(score == 1.0 for score in caption_scores(item, text).values())
    if condition == 'contradict':
        return says(item.facts['first'], item, text) or says(item.facts['second'], item, text)
    if condition == 'measure':
        return measures.is_right(item.facts['kind'], item.facts['true'], question_of(item), text)
    return says(item.answers, item, text)


@dataclass(frozen=True)
class Row:
    """An item with what was replied.

    :param right: whether the reply is right. :param guessed: whether the guesser's is.
    """

    item: Item
    prediction: Prediction
    right: bool
    guessed: bool

    @property
    def condition(self) -> str:
        """Under which condition it was asked."""
        return str(self.item.facts['condition'])

    @property
    def text(self) -> str:
        """The reply; empty if the evidence could not be used."""
        return '' if self.prediction.finish_reason == 'broken' else self.prediction.text


def rows_of(items: Iterable[Item], predictions: Iterable[Prediction]) -> list[Row]:
    """Return items with replies and what they are worth, in their order."""
    rows = []
    for item, prediction in zip(items, predictions, strict=True):
        broken = prediction.finish_reason == 'broken'
        rows.append(Row(item, prediction, not broken and is_right(item, prediction.text),
                        bool(item.facts['guess']) and is_right(item, item.facts['guess'])))
    return rows
