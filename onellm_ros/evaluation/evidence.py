"""What a model is shown and what it replies, for any benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math

from onellm_ros.modality import Modality, Sample
from onellm_ros.simulation.language import Question


@dataclass(frozen=True)
class Evidence:
    """What a model may look at for some questions.

    :param blocks: modalities that the prompt holds.
    :param chosen: samples by modality, as a window hands them on; may hold more than the blocks
        (the colour picture that goes into the block of depth).
    :param end_ns: end of the window.
    """

    blocks: tuple[Modality, ...]
    chosen: Mapping[Modality, Sequence[Sample]]
    end_ns: int


@dataclass(frozen=True)
class Reply:
    """An answer of a model; ``confidence`` is 0..1, NaN where it is not known."""

    text: str
    confidence: float = math.nan


AnswerFn = Callable[[Evidence, Sequence[str]], Sequence[Reply | str]]
OnAnswer = Callable[[Evidence, Question, str, bool], None]
