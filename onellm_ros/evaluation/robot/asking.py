"""Questions of the benchmark, the guessers that answer them unseen, and how an item is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onellm_ros.evaluation.guesser import Guesser
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.robot import measures
from onellm_ros.evaluation.robot.plan import SETS, Plan
from onellm_ros.evaluation.robot.worlds import Shown, tensors_of
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.asking import Draw
from onellm_ros.simulation.language import Question
from onellm_ros.simulation.truth import Truth

GUESSER_DRAWS = 8
_ORDER = tuple(Modality)
_MIXED, _MEASURE, _DRAWN = 8, 9, 7          # of random numbers, behind those of the modalities


def alone(truth: Truth, modality: Modality, seed: Sequence[int], count: int, said: str
          ) -> list[Question]:
    """Draw the questions to one modality, the last one unanswerable."""
    rng = np.random.default_rng(seed)
    return (language.questions(truth, modality, rng, count, said=said)
            + language.unknown_questions(truth, frozenset((modality,)), rng, 1, said=said))


def alone_in(plan: Plan, truth: Truth, number: int, modality: Modality) -> list[Question]:
    """Draw the questions to one modality of world ``number``; those of a plan never change."""
    return alone(truth, modality, (plan.seed, number, _ORDER.index(modality)), plan.questions,
                 plan.said)


def mixed(truth: Truth, blocks: Sequence[Modality], seed: Sequence[int], said: str
          ) -> Question | None:
    """Draw a question that needs two of the modalities; None where there is none."""
    return language.mixed_question(truth, frozenset(blocks), np.random.default_rng(seed),
                                   said=said)


def worded(draw: Draw, modality: Modality, rng: np.random.Generator, said: str) -> Question:
    """Put a draw into words."""
    return Question(draw.type, modality,
                    language.word_question(draw.family, draw.slots, rng, said), draw.answer,
                    draw.accept)


class Guessers:
    """Guess answers from the questions alone, learned from worlds that are not asked about.

    One guesser for answerable questions has never heard 'unknown', which makes it the stronger;
    that for unanswerable ones knows both, in the proportion in which they are asked of modalities
    alone. Questions for a distance or a bearing have a guesser of their own.
    """

    def __init__(self, truths: Sequence[Truth], plan: Plan) -> None:
        seed, said = plan.seed, plan.said
        asked = [question for number, truth in enumerate(truths)
                 for modality in plan.modalities for draw in range(GUESSER_DRAWS)
                 for question in alone(truth, modality, (
                     seed, number, _ORDER.index(modality), draw, _DRAWN), plan.questions, said)]
        sets = [blocks for blocks in SETS if set(blocks) <= set(plan.modalities)]
        both: list[Question | None] = []
        measured: list[Question] = []
        for number, truth in enumerate(truths):
            if 'together' in plan.conditions:
                both += [mixed(truth, blocks, (seed, number, _MIXED, place, _DRAWN), said)
                         for place, blocks in enumerate(sets)]
            if 'measure' in plan.conditions:
                rng = np.random.default_rng((seed, number, _MEASURE, _DRAWN))
                measured += [measure.question for _ in range(GUESSER_DRAWS)
                             for measure in measures.all_questions(truth, rng, said)]
        answerable = [q for q in asked if q.type != 'unknown']
        self._answerable = Guesser([*answerable, *(q for q in both if q is not None)])
        self._all = Guesser(asked)
        self._measured = Guesser(measured)

    def guess(self, question: Question, measured: bool = False) -> str:
        """Return the guess; empty if nothing like it was ever asked."""
        if measured:
            return self._measured.guess(question)
        return (self._all if question.type == 'unknown' else self._answerable).guess(question)


def item_of(key: str, condition: str, question: Question, shown: Shown, guess: str,
            group: str = '', **facts: Any) -> Item:
    """Return an item.

    :param key: its id. :param guess: of the guesser.
    :param group: empty: that of the condition.
    :param facts: what its condition tells besides, as JSON takes it.
    """
    return Item(
        key, question.question, answers=(question.answer, *question.accept),
        group=group or condition, evidence=shown.key, tensors=tensors_of(shown),
        facts={'condition': condition, 'type': question.type, 'source': question.modality.value,
               'blocks': [block.value for block in shown.blocks], 'guess': guess, **facts})
