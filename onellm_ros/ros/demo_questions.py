"""The three questions of the demonstration, and what is true in the simulated world.

This module owns their wording (one that the world's language knows) and how an answer is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation.answers import Question, is_correct
from onellm_ros.simulation.asking import Draw, object_largest
from onellm_ros.simulation.asking_senses import motion_what, sound_what
from onellm_ros.simulation.facts import clear_objects
from onellm_ros.simulation.truth import Truth
from onellm_ros.simulation.wording import indefinite

Family = Callable[[Truth, Modality, np.random.Generator], 'Draw | None']


@dataclass(frozen=True)
class DemoQuestion:
    """A question and where its right answer comes from.

    :param about: what it is about, for people.
    """

    about: str
    text: str
    modality: Modality
    family: Family

    def _draw(self, truth: Truth) -> Draw | None:
        return self.family(truth, self.modality, np.random.default_rng(0))

    def has_answer(self, truth: Truth) -> bool:
        """Whether the world gives one right answer (nothing may be in view, or two alike)."""
        return self._draw(truth) is not None

    def truth(self, truth: Truth) -> str:
        """Return the right answer, or what there is if no single answer is right."""
        draw = self._draw(truth)
        if draw is not None:
            return draw.answer
        seen = [indefinite(thing.kind, thing.colour) for thing in clear_objects(truth)]
        return f'no single one: {", ".join(seen)}' if seen else 'nothing that stands out'

    def is_right(self, truth: Truth, answer: str) -> bool | None:
        """Whether an answer is right; None where no single answer is."""
        draw = self._draw(truth)
        if draw is None:
            return None
        return is_correct(Question(draw.type, self.modality, self.text, draw.answer, draw.accept),
                          answer)


QUESTIONS = (
    DemoQuestion('seen', 'What is the largest thing you see?', Modality.IMAGE, object_largest),
    DemoQuestion('heard', 'What do you hear?', Modality.AUDIO, sound_what),
    DemoQuestion('motion', 'What is the robot doing?', Modality.IMU, motion_what))
