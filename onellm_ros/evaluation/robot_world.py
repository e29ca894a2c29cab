"""Asks any answerer about fresh held-out worlds, each modality alone, and for descriptions.

The short form of the benchmark ``robot-world`` (package ``robot``), for studies and for code that
holds a model of its own; ``onellm eval --task robot-world`` asks under all conditions. A question
comes with one modality as the only evidence (``EVIDENCE``: depth and normals are pictures beside
the colour picture, as the model takes them, and what they are asked stands in the depths or kinds
of things, not in colours). Beside each accuracy stands that of a guesser that sees only the
question. Questions without an answer in the evidence count as the type 'unknown' alone: their
wording often gives them away, so the guesser is strong there, and it is on the other types that a
model shows that it says 'unknown' only when due.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
import sys
from typing import Any

import numpy as np

from onellm_ros.evaluation.calibration import calibration
from onellm_ros.evaluation.evidence import AnswerFn, Evidence, OnAnswer, Reply
from onellm_ros.evaluation.item import Prediction
from onellm_ros.evaluation.robot.counting import grouped
from onellm_ros.evaluation.robot.plan import GUESSER_WORLDS, Plan
from onellm_ros.evaluation.robot.reading import read_items
from onellm_ros.evaluation.robot.scoring import Row, caption_scores, question_of, rows_of
from onellm_ros.evaluation.robot.tables import COMBINATIONS
from onellm_ros.evaluation.robot.worlds import EVIDENCE, inputs, shown_by
from onellm_ros.modality import Modality
from onellm_ros.simulation import language

MAX_TOKENS = 160                # the longest caption, of all modalities, is about 70 words


def engine_answerer(engine: Any) -> AnswerFn:
    """Return the answers of an inference engine; one prefix serves all questions of an evidence.

    :param engine: an ``onellm_ros.inference.engine.Engine``.
    """
    def answer(evidence: Evidence, questions: Sequence[str]) -> list[Reply | str]:
        prefix = engine.encode(inputs(evidence, engine))
        answers = [engine.ask(prefix, question, max_tokens=MAX_TOKENS) for question in questions]
        return [Reply(found.text, found.confidence) for found in answers]

    return answer


def _replies(answer_fn: AnswerFn, evidence: Evidence, questions: Sequence[str]) -> list[Reply]:
    """Ask, and return as many replies as questions.

    :raises ValueError: for another number of answers.
    """
    answers = answer_fn(evidence, questions)
    if len(answers) != len(questions):
        raise ValueError(f'found {len(answers)} answers to {len(questions)} questions')
    return [a if isinstance(a, Reply) else Reply(a) for a in answers]


def evaluate(answer_fn: AnswerFn, *, seed: int, worlds: int,
             modalities: Sequence[Modality] = tuple(Modality), questions_per_world: int = 4,
             caption_worlds: int | None = None, guesser_worlds: int | None = None,
             said: str = 'plain', shuffled: bool = False, rendered: Path | None = None,
             on_answer: OnAnswer | None = None, progress: bool | None = None) -> dict[str, Any]:
    """Ask a model about fresh held-out worlds.

    :param answer_fn: given evidence and questions, returns as many answers.
    :param questions_per_world: questions to each modality in each world; one more has no answer
        in the evidence ('unknown') and counts only under that question type.
    :param caption_worlds: worlds that are also described (None: a quarter of them, 50 at most).
    :param guesser_worlds: worlds that the guesser learns from (None: GUESSER_WORLDS).
    :param said: how questions are worded, one of ``language.SAID``.
    :param shuffled: show the evidence of another world: a model that looks falls to the guesser.
    :param rendered: folder of the worlds that the model was trained on: scores those that show
        objects together which no training world showed together on their own, too.
    :param on_answer: called with evidence, question, answer text and whether it was right.
    :param progress: show a progress bar; None: if stderr is a terminal.
    :returns: ``modalities`` and ``question_types``: accuracy, guesser and questions each, and
        ``matrix``: both at once; ``calibration`` of the confidences (None without them);
        ``combinations``: worlds whose objects training showed together, and others (without
        ``rendered`` empty); ``captions``: means by modality; and what was asked of what.
    :raises ValueError: for numbers that are not positive, or too many worlds.
    """
    from tqdm import tqdm

    plan = Plan(
        seed=seed, worlds=worlds, questions=questions_per_world, said=said,
        modalities=tuple(modalities), conditions=('alone', 'caption'), shuffled=shuffled,
        rendered=rendered, captions=caption_worlds,
        guesser_worlds=GUESSER_WORLDS if guesser_worlds is None else guesser_worlds)
    rows: list[Row] = []
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    with tqdm(total=worlds, desc='worlds', disable=hidden) as bar:
        for _, same in groupby(read_items(plan, progress), key=lambda item: item.evidence):
            group = list(same)
            bar.update(int(group[0].id.split('/')[1]) - bar.n)
            evidence = shown_by(group[0].tensors).evidence()
            answers = _replies(answer_fn, evidence, [item.question for item in group])
            replies = [Prediction(item.id, answer.text, confidence=answer.confidence)
                       for item, answer in zip(group, answers, strict=True)]
            found = rows_of(group, replies)
            for row in found:
                if on_answer and row.condition == 'alone':
                    on_answer(evidence, question_of(row.item), row.text, row.right)
            rows += found
        bar.update(worlds - bar.n)
    return {**_report(rows), 'seed': seed, 'worlds': worlds, 'wording': said, 'shuffled': shuffled,
            'evidence': {m.value: [part.value for part in EVIDENCE[m]] for m in modalities}}


def _shares(rows: dict[str, list[Row]]) -> dict[str, dict[str, float | int]]:
    """Return accuracy and guesser, 0..1, and number of questions by key."""
    return {name: {'accuracy': round(sum(row.right for row in found) / len(found), 4),
                   'guesser': round(sum(row.guessed for row in found) / len(found), 4),
                   'questions': len(found)} for name, found in rows.items()}


def _report(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of questions to modalities alone, and of descriptions."""
    asked = [row for row in rows if row.condition == 'alone']
    told = [row for row in asked if row.item.facts['type'] != 'unknown']
    by_source = grouped(asked, lambda row: row.item.facts['source'])
    captions: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.condition == 'caption':
            for score, value in caption_scores(row.item, row.text).items():
                captions[row.item.facts['told']][score].append(value)
    return {
        'modalities': _shares(grouped(told, lambda row: row.item.facts['source'])),
        'question_types': _shares(grouped(asked, lambda row: row.item.facts['type'],
                                          language.QUESTION_TYPES)),
        'matrix': {name: _shares(grouped(found, lambda row: row.item.facts['type'],
                                         language.QUESTION_TYPES))
                   for name, found in by_source.items()},
        'combinations': _shares(grouped(
            [row for row in told if 'objects' in row.item.facts],
            lambda row: COMBINATIONS[row.item.facts['objects']], tuple(COMBINATIONS.values()))),
        'calibration': calibration([(row.prediction.confidence, row.right) for row in asked]),
        'captions': {name: {score: round(float(np.mean(values)), 4)
                            for score, values in scores.items()}
                     for name, scores in captions.items()}}
