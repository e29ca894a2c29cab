"""Language about the simulated world: questions that a modality can really answer, and captions.

Owns the drawing of questions: for each question the class of the answer is drawn before the object
it is about, so that somebody who sees only the question stays near chance. Families of questions
stand in ``asking``; captions, answers and wordings have modules of their own and are handed on
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onellm_ros.modality import PROMPT_ORDER, Modality
from onellm_ros.simulation import asking
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.answers import QUESTION_TYPES, Question, is_correct, normalise
from onellm_ros.simulation.captions import (
    COLOUR_TELLING,
    METRIC,
    VISUAL,
    Facts,
    ObjectFact,
    caption,
    caption_facts,
    caption_score,
    parse_caption,
)
from onellm_ros.simulation.facts import clear_objects, random_truth
from onellm_ros.simulation.truth import COLOURS, DIRECTIONS, FLOORS, KINDS, MOTIONS, SOUNDS, Truth
from onellm_ros.simulation.varied import varied_prompt, varied_question
from onellm_ros.simulation.wording import CAPTION_PROMPTS, CAPTION_PROMPTS_HELD_OUT, UNKNOWN

__all__ = [
    'CAPTION_PROMPTS', 'CAPTION_PROMPTS_HELD_OUT', 'QUESTION_TYPES', 'SAID', 'UNKNOWN', 'Facts',
    'ObjectFact', 'Question', 'caption', 'caption_facts', 'caption_score', 'is_correct',
    'mixed_question', 'mixed_questions', 'normalise', 'parse_caption', 'questions', 'random_truth',
    'unknown_questions', 'varied_prompt', 'vocabulary_texts', 'word_question']

# In the wordings of a list, in those of a list that training never says, or in many others.
SAID = ('plain', 'held_out', 'varied')
_TRIES = 40
_PATIENCE = 16         # draws without a new question until no more is expected


def word_question(family: str, slots: Mapping[str, str], rng: np.random.Generator,
                  said: str = 'plain') -> str:
    """Put a question of a family into words.

    :param said: one of SAID.
    """
    if said == 'varied':
        return varied_question(family, slots, rng)
    wordings = w.WORDINGS[family][SAID.index(said)]
    text = wordings[int(rng.integers(len(wordings)))].format(**slots)
    return w.sentence_case(text)


def _worded(draw: asking.Draw, modality: Modality, rng: np.random.Generator,
            said: str) -> Question:
    return Question(draw.type, modality, word_question(draw.family, draw.slots, rng, said),
                    draw.answer, draw.accept)


def questions(truth: Truth, modality: Modality, rng: np.random.Generator, count: int,
              *, said: str = 'plain') -> list[Question]:
    """Draw questions that this modality alone can answer.

    No family of questions gives the same answer twice, and what is thinned out is decided once,
    so that yes and no stay balanced however many are drawn.

    :param count: questions at most; fewer where the truth supports fewer.
    :param said: one of SAID.
    """
    types = tuple(asking.FAMILIES[modality])
    answered: set[tuple[str, str]] = set()
    refused: set[tuple[str, str, str]] = set()
    drawn: list[Question] = []
    idle = 0
    while len(drawn) < count and idle < _PATIENCE:
        idle += 1
        families = asking.FAMILIES[modality][types[int(rng.integers(len(types)))]]
        draw = families[int(rng.integers(len(families)))](truth, modality, rng)
        if draw is None or (draw.family, draw.answer) in answered:
            continue
        # Thinning by answer is one decision for the truth; that of a motion is one for each.
        phrase = draw.slots.get('doing', '')
        if (draw.family, draw.answer, phrase) in refused:
            continue
        if rng.random() >= asking.keep(draw):
            refused.add((draw.family, draw.answer, phrase))
            continue
        idle = 0
        answered.add((draw.family, draw.answer))
        drawn.append(_worded(draw, modality, rng, said))
    return drawn


def _lacking(present: frozenset[Modality]) -> list[str]:
    """Return the families whose evidence none of the present modalities holds."""
    families = []
    if not present & VISUAL:
        families += ['object.largest', 'colour', 'count.kind', 'presence', 'presence.colour',
                     'place', 'distance', 'clear.way', 'floor']
    if not present & {Modality.IMU, Modality.VIDEO}:
        families += ['motion.what', 'motion.is']
    if Modality.AUDIO not in present:
        families += ['sound.what', 'sound.is']
    if Modality.VIDEO not in present:
        families += ['moving.what', 'moving.way']
    return families


def _pick(options: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return str(options[int(rng.integers(len(options)))])


def _plausible_slots(rng: np.random.Generator, mover: bool) -> dict[str, str]:
    kind = _pick(('person', 'robot', 'ball') if mover else KINDS, rng)
    colour = _pick(tuple(COLOURS), rng) if rng.random() < 0.3 else ''
    the = w.definite(kind, colour)
    return {'the': the, 'The': w.sentence_case(the), 'np': w.indefinite(kind, colour),
            'plural': w.plural(kind), 'sound': _pick(SOUNDS[1:], rng),
            'doing': _pick(asking.MOTION_PHRASES, rng), 'colour': _pick(tuple(COLOURS), rng),
            'floor': _pick(FLOORS, rng)}


def unknown_questions(truth: Truth, present: frozenset[Modality], rng: np.random.Generator,
                      count: int, *, said: str = 'plain') -> list[Question]:
    """Draw questions that the present modalities cannot answer; the answer is 'unknown'.

    Either the sense is missing (what do you hear, with a picture only) or the object asked about
    is not there (the colour of a sofa where no sofa is seen).

    :raises ValueError: if no modality is present.
    """
    if not present:
        raise ValueError('no modality is present: pass those that the window has')
    first = next(m for m in PROMPT_ORDER if m in present)
    absent = [kind for kind in KINDS if all(thing.kind != kind for thing in truth.seen)]
    lacking = _lacking(present)
    about: list[str] = []
    if present & VISUAL:
        about = ['place', 'place', 'place.is']
        about += ['distance'] if present & METRIC else []
        about += ['colour'] * 2 + ['colour.is'] if present & COLOUR_TELLING else []
    drawn: list[Question] = []
    texts: set[str] = set()
    for _ in range(_TRIES * count):
        if len(drawn) == count:
            break
        if about and absent and (not lacking or rng.random() < 0.5):
            family = _pick(about, rng)
            the = w.definite(_pick(absent, rng))
            slots = {'the': the, 'The': w.sentence_case(the),
                     'colour': _pick(tuple(COLOURS), rng),
                     'place': _pick(tuple(asking.ASKED_PLACES.values()), rng)}
        elif lacking:
            family = _pick(lacking, rng)
            slots = _plausible_slots(rng, family == 'moving.way')
        else:
            break
        text = word_question(family, slots, rng, said)
        if text not in texts:
            texts.add(text)
            drawn.append(Question('unknown', first, text, UNKNOWN))
    return drawn


def _mixed(truth: Truth, present: frozenset[Modality],
           rng: np.random.Generator) -> asking.Draw | None:
    """Draw a question that needs two of the modalities at once."""
    looking = next((m for m in PROMPT_ORDER if m in present & asking.OBJECT_NAMING), None)
    combinations = []
    if looking and Modality.AUDIO in present:
        combinations.append('mixed.see_hear')
    if looking and Modality.IMU in present:
        combinations.append('mixed.see_move')
    if {Modality.AUDIO, Modality.IMU} <= present:
        combinations.append('mixed.move_hear')
    if not combinations:
        return None
    family = _pick(combinations, rng)
    parts = []
    if family != 'mixed.move_hear':
        # Colours are told if any of the present modalities tells them.
        source = next((m for m in PROMPT_ORDER if m in present & COLOUR_TELLING), looking)
        assert source is not None
        largest = asking.object_largest(truth, source, rng)
        if largest is None:
            return None
        parts.append(largest.answer)
    if family != 'mixed.see_hear':
        parts.append(truth.motion)
    if family != 'mixed.see_move':
        parts.append(truth.sound)
    accept = (', '.join(parts), ' and '.join(reversed(parts)))
    return asking.Draw('mixed', family, {}, ' and '.join(parts), accept)


def mixed_question(truth: Truth, present: frozenset[Modality], rng: np.random.Generator, *,
                   said: str = 'plain') -> Question | None:
    """Draw one question that needs two of the modalities at once; None where there is none.

    :raises ValueError: if no modality is present.
    """
    if not present:
        raise ValueError('no modality is present: pass those that the window has')
    draw = _mixed(truth, present, rng)
    first = next(m for m in PROMPT_ORDER if m in present)
    return None if draw is None else _worded(draw, first, rng, said)


def mixed_questions(truth: Truth, present: frozenset[Modality], rng: np.random.Generator,
                    count: int, *, said: str = 'plain') -> list[Question]:
    """Draw questions for several modalities at once: of each alone, and across two of them.

    :raises ValueError: if no modality is present.
    """
    if not present:
        raise ValueError('no modality is present: pass those that the window has')
    order = [m for m in PROMPT_ORDER if m in present]
    each = max(2, -(-count // len(order)))
    pool = {q.question: q for modality in order
            for q in questions(truth, modality, rng, each, said=said)}
    for _ in range(max(1, count // 4)):
        question = mixed_question(truth, present, rng, said=said)
        if question is not None:
            pool[question.question] = question
    drawn = list(pool.values())
    return [drawn[int(i)] for i in rng.permutation(len(drawn))[:count]]


def vocabulary_texts() -> Iterator[str]:
    """Yield texts that hold every word that may be said or asked, for training a tokenizer."""
    rng = np.random.default_rng(0)
    yield from CAPTION_PROMPTS
    yield from CAPTION_PROMPTS_HELD_OUT
    yield ' '.join(QUESTION_TYPES)
    yield 'yes no near far unknown nothing left ahead right'
    for words in (KINDS, tuple(COLOURS), MOTIONS, SOUNDS, FLOORS, DIRECTIONS, w.NUMBERS,
                  tuple(w.plural(kind) for kind in KINDS)):
        for word in words:
            yield word
            yield w.sentence_case(word)
    for family, (training, held_out) in w.WORDINGS.items():
        for template in (*training, *held_out):
            for _ in range(8):
                slots = _plausible_slots(rng, family == 'moving.way')
                slots |= {'other': slots['the'],
                          'side': _pick(('left', 'right'), rng),
                          'place': _pick(tuple(asking.ASKED_PLACES.values()), rng)}
                yield w.sentence_case(template.format(**slots))
    everything = frozenset(Modality)
    for _ in range(400):
        truth = random_truth(rng)
        yield caption(truth, everything, style='plain')
        yield caption(truth, frozenset((Modality.IMAGE,)), rng)
        yield caption(truth, frozenset((PROMPT_ORDER[int(rng.integers(8))],)), rng)
        for thing in clear_objects(truth):
            yield w.indefinite(thing.kind, thing.colour)
