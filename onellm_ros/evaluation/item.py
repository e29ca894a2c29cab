"""One thing that a benchmark asks, and what a model replied to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any

from onellm_ros.datasets.rows import Signal
from onellm_ros.modality import Modality

BROKEN = 'broken'           # the finish reason of what could not be asked


class AnnotationError(ValueError):
    """Annotations that are not understood: names the file and the line, says found and expected.

    :param file: the file at fault. :param line: counted from 1; 0: the whole file, or one that has
        no lines (of a JSON list, ``what`` says which element).
    """

    def __init__(self, file: Path, line: int, what: str) -> None:
        super().__init__(f'{file}{f", line {line}" if line else ""}: {what}')
        self.file, self.line = file, line


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that a benchmark asks.

    :param id: of its own in task and split, the same in every run.
    :param question: as annotated, without the prompt's form; empty where the form has no question.
    :param signals: files of what is sensed, by modality.
    :param answers: references: answers of people, or captions.
    :param choices: texts to choose from; empty: a free answer.
    :param right: index of the right choice; -1: there is none, or it is not known.
    :param group: what parts of the score are told by: a subtask, a type of question.
    :param facts: what else the task's metrics need.
    :param evidence: items in a row with the same evidence are encoded once; empty: by the files.
    :param tensors: gives the model's inputs (a batch of 1 each) where they are not files, from an
        ``onellm_ros.inference.engine.Engine``.
    :param source: where it is annotated (``test.json, line 12``), for errors about its files:
        those are looked for by the harness, before the model is loaded.
    """

    id: str
    question: str = ''
    signals: Mapping[Modality, Signal] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    right: int = -1
    group: str = ''
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: str = ''
    tensors: Callable[[Any], Mapping[Modality, Any]] | None = None
    source: str = ''


@dataclass(frozen=True)
class Prediction:
    """What a model replied to an item; one line of a file of predictions.

    :param id: of the item. :param text: the reply, empty if there was none.
    :param choice: index of the likeliest choice, by likelihood; -1: not asked.
    :param probabilities: of the choices, summing to one; empty: not asked.
    :param confidence: of the text, 0..1; NaN where it is not known.
    :param tokens: generated. :param first_token_s: seconds from the request to the first one, the
        evidence encoded; NaN where it was not measured (in a batch).
    :param finish_reason: ``stop``, ``length``; ``broken``: the item's files could not be used.
    :param error: why not.
    """

    id: str
    text: str
    choice: int = -1
    probabilities: tuple[float, ...] = ()
    confidence: float = math.nan
    tokens: int = 0
    first_token_s: float = math.nan
    finish_reason: str = 'stop'
    error: str = ''
