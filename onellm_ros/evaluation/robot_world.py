"""Scores a model on fresh held-out worlds: questions for each modality alone, and captions.

Each world is rendered anew from its seed. A question comes with one modality as the only evidence
(``EVIDENCE``: depth and normals are pictures beside the colour picture, as the model takes them,
and what they are asked stands in the depths or kinds of things, not in colours). Beside each
accuracy stands that of a guesser that sees only the question. Questions without an answer in the
evidence count as the type 'unknown' alone: their wording often gives them away, so the guesser is
strong there, and it is on the other types that a model shows that it says 'unknown' only when due.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
import json
import math
from pathlib import Path
import platform
import sys
from typing import Any

import numpy as np

from onellm_ros.evaluation.calibration import calibration
from onellm_ros.evaluation.evidence import AnswerFn, Evidence, OnAnswer, Reply
from onellm_ros.evaluation.failures import Failures
from onellm_ros.evaluation.guesser import Guesser
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.simulation import language
from onellm_ros.simulation.language import Question
from onellm_ros.simulation.truth import Truth
from onellm_ros.simulation.world import World

# What the model is given for a question to a modality; the first one is its block in the prompt,
# the others go into that block.
EVIDENCE: dict[Modality, tuple[Modality, ...]] = {
    **{m: (m,) for m in Modality},
    Modality.DEPTH: (Modality.DEPTH, Modality.IMAGE),
    Modality.NORMAL: (Modality.NORMAL, Modality.IMAGE)}
GUESSER_WORLDS = 200
GUESSER_DRAWS = 8
MAX_TOKENS = 160                # the longest caption, of all modalities, is about 70 words
COMBINATIONS = ('objects together in training', 'objects never together')
_WORLDS_A_SEED = 1_000_000


def engine_answerer(engine: Any) -> AnswerFn:
    """Return the answers of an inference engine; one prefix serves all questions of an evidence.

    :param engine: an ``onellm_ros.inference.engine.Engine``.
    """
    def answer(evidence: Evidence, questions: Sequence[str]) -> list[Reply | str]:
        tensors = engine.preprocessor.tensors(evidence.chosen, evidence.end_ns)
        prefix = engine.encode({block: tensors[block] for block in evidence.blocks})
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


def _questions(truth: Truth, modality: Modality, seed: Sequence[int], count: int,
               said: str) -> list[Question]:
    """Draw the questions to one modality, the last one unanswerable."""
    rng = np.random.default_rng(seed)
    return (language.questions(truth, modality, rng, count, said=said)
            + language.unknown_questions(truth, frozenset((modality,)), rng, 1, said=said))


class _Guessers:
    """Guessers for answerable and for unanswerable questions.

    That for answerable ones has never heard 'unknown', which makes it the stronger; that for
    unanswerable ones knows both, in the proportion in which they are asked.
    """

    def __init__(self, truths: Sequence[Truth], modalities: Sequence[Modality], seed: int,
                 count: int, said: str) -> None:
        asked = [question for number, truth in enumerate(truths)
                 for index, modality in enumerate(modalities) for draw in range(GUESSER_DRAWS)
                 for question in _questions(truth, modality, (seed, number, index, draw, 7), count,
                                            said)]
        self._answerable = Guesser(q for q in asked if q.type != 'unknown')
        self._all = Guesser(asked)

    def right(self, question: Question) -> bool:
        """Whether the guess is right."""
        guesser = self._all if question.type == 'unknown' else self._answerable
        return language.is_correct(question, guesser.guess(question))


class _Tally:
    """Right answers and right guesses by key."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[bool, bool]]] = defaultdict(list)

    def add(self, key: str, right: bool, guessed: bool) -> None:
        self._rows[key].append((right, guessed))

    def table(self, order: Sequence[str]) -> dict[str, dict[str, float | int]]:
        """Return accuracy, guesser and number of questions by key, in the given order."""
        return {key: {'accuracy': round(sum(r for r, _ in rows) / len(rows), 4),
                      'guesser': round(sum(g for _, g in rows) / len(rows), 4),
                      'questions': len(rows)}
                for key in order if (rows := self._rows.get(key))}


def world_seed(seed: int, number: int) -> int:
    """Return the seed of world ``number`` of an evaluation."""
    return seed * _WORLDS_A_SEED + number


def objects_of(truth: Truth) -> frozenset[tuple[str, str]]:
    """Return kinds and colours of all that a world shows."""
    return frozenset((thing.kind, thing.colour) for thing in truth.seen)


def shown_together(folder: Path) -> set[frozenset[tuple[str, str]]]:
    """Return which objects rendered worlds show together.

    :raises ValueError: if there are no rendered worlds in the folder.
    """
    from onellm_ros.training.shards import Shards
    shards = Shards(folder)
    if not len(shards):
        raise ValueError(f'--rendered {folder}: found no rendered worlds, expected the folder '
                         'that `onellm train --data` was given')
    return {objects_of(shards.truth(world)) for world in range(len(shards))}


def held_out_truths(seed: int, worlds: int) -> Iterator[Truth]:
    """Yield the truths of worlds that no evaluation of this seed asks about."""
    for number in range(worlds):
        yield World(world_seed(seed, _WORLDS_A_SEED - 1 - number), held_out=True).truth()


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
    if said not in language.SAID:
        raise ValueError(f'found wording {said!r}, expected one of {", ".join(language.SAID)}')
    if worlds < 1 or questions_per_world < 1 or not modalities:
        raise ValueError('expected at least one world, one modality and one question')
    strangers = [m.value for m in modalities if m not in EVIDENCE]
    if strangers:
        raise ValueError(f'found the modality {strangers[0]}, which these worlds do not have; '
                         f'expected some of {", ".join(EVIDENCE)}')
    learned = GUESSER_WORLDS if guesser_worlds is None else guesser_worlds
    if worlds + learned > _WORLDS_A_SEED:
        raise ValueError(f'{worlds} worlds: at most {_WORLDS_A_SEED - learned} have a seed')
    from tqdm import tqdm

    hidden = not (sys.stderr.isatty() if progress is None else progress)
    described = min(math.ceil(worlds / 4), 50) if caption_worlds is None else caption_worlds
    together_before = None if rendered is None else shown_together(rendered)
    truths = list(tqdm(held_out_truths(seed, learned), 'guesser', learned,
                       disable=hidden))
    guessers = _Guessers(truths, modalities, seed, questions_per_world, said)
    by_modality, by_type, by_objects = _Tally(), _Tally(), _Tally()
    matrix: dict[str, _Tally] = defaultdict(_Tally)
    confidences: list[tuple[float, bool]] = []
    captions: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in tqdm(range(worlds), 'worlds', disable=hidden):
        world = World(world_seed(seed, number), held_out=True)
        shown = World(world_seed(seed, (number + 1) % max(worlds, 2)), held_out=True) \
            if shuffled else world
        observation = shown.sample()
        truth = world.truth() if shuffled else observation.truth
        chosen, end_ns = observation.chosen(), observation.stamp_ns
        known = together_before is None or objects_of(truth) in together_before
        for index, modality in enumerate(modalities):
            evidence = Evidence((modality,), {m: chosen[m] for m in EVIDENCE[modality]},
                                end_ns)
            asked = _questions(truth, modality, (seed, number, index), questions_per_world,
                               said)
            texts = [question.question for question in asked]
            if number < described:
                texts.append(language.CAPTION_PROMPTS[0])
            answers = _replies(answer_fn, evidence, texts)
            for question, answer in zip(asked, answers[:len(asked)], strict=True):
                right = language.is_correct(question, answer.text)
                guessed = guessers.right(question)
                by_type.add(question.type, right, guessed)
                if together_before is not None and question.type != 'unknown':
                    by_objects.add(COMBINATIONS[not known], right, guessed)
                matrix[modality.value].add(question.type, right, guessed)
                confidences.append((answer.confidence, right))
                if on_answer:
                    on_answer(evidence, question, answer.text, right)
                if question.type != 'unknown':
                    by_modality.add(modality.value, right, guessed)
            if number < described:
                _add_scores(captions[modality.value], answers[-1].text, truth,
                            frozenset((modality,)))
        if number < described and len(modalities) > 1:
            together = Evidence(tuple(modalities), chosen, end_ns)
            told = _replies(answer_fn, together, [language.CAPTION_PROMPTS[0]])[0]
            _add_scores(captions['together'], told.text, truth, frozenset(modalities))
    return {
        'modalities': by_modality.table([m.value for m in modalities]),
        'question_types': by_type.table(language.QUESTION_TYPES),
        'matrix': {name: tally.table(language.QUESTION_TYPES) for name, tally in matrix.items()},
        'combinations': by_objects.table(COMBINATIONS),
        'calibration': calibration(confidences),
        'captions': {name: {score: round(float(np.mean(values)), 4)
                            for score, values in scores.items()}
                     for name, scores in captions.items()},
        'seed': seed, 'worlds': worlds, 'wording': said,
        'shuffled': shuffled,
        'evidence': {m.value: [part.value for part in EVIDENCE[m]] for m in modalities}}


def _add_scores(lists: dict[str, list[float]], text: str, truth: Truth,
                present: frozenset[Modality]) -> None:
    for name, value in language.caption_score(text, truth, present).items():
        lists[name].append(value)


def format_report(report: Mapping[str, Any]) -> str:
    """Return the tables of a report as text."""
    lines = []
    for title in ('modalities', 'question_types', 'combinations'):
        if not report[title]:
            continue
        lines.append(f'{title.replace("_", " "):30s} accuracy  guesser  questions')
        lines += [f'  {name:28s} {row["accuracy"]:8.3f} {row["guesser"]:8.3f} '
                  f'{row["questions"]:10d}' for name, row in report[title].items()]
    found = report['calibration']
    if found:
        lines.append(f'confidence: expected calibration error {found["error"]:.3f}')
    for name, scores in report['captions'].items():
        told = ', '.join(f'{score} {value:.2f}' for score, value in scores.items())
        lines.append(f'captions {name}: {told}')
    return '\n'.join(lines)


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    from importlib.metadata import PackageNotFoundError, version
    found = {'python': platform.python_version()}
    for name in ('onellm_ros', 'torch', 'numpy', 'numba'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'not installed'
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm eval robot-world``."""
    parser.add_argument('--seed', type=int, default=0, help='which worlds (default: 0)')
    parser.add_argument('--worlds', type=int, default=100, help='how many (default: 100)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')
    parser.add_argument('--model', default='nano', help='name or folder (default: nano)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda')
    parser.add_argument('--questions', type=int, default=4, metavar='N',
                        help='questions to each modality in each world (default: 4)')
    parser.add_argument('--modalities', default=','.join(m.value for m in Modality),
                        help='comma-separated (default: all eight)')
    parser.add_argument('--caption-worlds', type=int, default=None, metavar='N',
                        help='worlds that are also described (default: a quarter, at most 50)')
    parser.add_argument('--wording', choices=language.SAID, default='plain',
                        help='ask in wordings of a list (plain), in those of a list that training '
                             'never says (held_out), or in many others (varied)')
    parser.add_argument('--shuffled', action='store_true',
                        help='show the evidence of another world than the one asked about: shows '
                             'how much of an accuracy comes from looking')
    parser.add_argument('--rendered', type=Path, metavar='DIR',
                        help='worlds that the model was trained on (cache/worlds): also scores '
                             'worlds with objects that none of them shows together')
    parser.add_argument('--failures', type=Path, metavar='DIR',
                        help='draw wrong answers there, a few pictures of each kind')


def _prepare(path: Path | None) -> None:
    """Find out before the evaluation, not after it, whether its figures can be written.

    :raises ValueError: if they cannot.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open('a', encoding='utf-8').close()
    except OSError as error:
        raise ValueError(f'--json: expected a file that can be written: {error}') from error


def run(args: argparse.Namespace) -> int:
    """Evaluate as the options say; returns the exit status."""
    from onellm_ros.inference.engine import Engine
    from onellm_ros.inference.locate import EngineError

    try:
        modalities = tuple(parse_modality(name) for name in args.modalities.split(','))
        engine = Engine.load(args.model, device=args.device)
        _prepare(args.json)
        failures = Failures(args.failures) if args.failures else None
        report = evaluate(
            engine_answerer(engine), seed=args.seed, worlds=args.worlds, modalities=modalities,
            questions_per_world=args.questions, caption_worlds=args.caption_worlds,
            said=args.wording, shuffled=args.shuffled, rendered=args.rendered,
            on_answer=failures)
    except (ValueError, OSError, EngineError) as error:
        print(f'onellm eval robot-world: {error}', file=sys.stderr)
        return 2
    if failures is not None:
        failures.sheet()
    report['model'] = {'name': engine.name, 'weights': engine.weights_hash}
    report['versions'] = versions()
    print(format_report(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    return 0
