"""Distances in metres and bearings in degrees: asked for, read out of answers, compared.

The language of these worlds says distances in whole metres and bearings as left, ahead or right.
What an answer says is taken at its middle: 'about 2 metres' is 2 m; 'ahead' is 0 degrees; 'left'
is the middle of the picture's left part, 27.7 degrees (from 15.5, where 'left' begins, to 40,
where the picture of 80 degrees ends), 'right' the same on the other side. Numbers are taken as
they stand ('2.4 m', '80 cm', '20 degrees to the left'). Bearings are those of ``SeenObject``: of
the middle of what is visible, from the base, positive to the left.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
import re

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.answers import Question, is_correct, normalise
from onellm_ros.simulation.facts import (
    METRE_MARGIN,
    PLACE_MARGIN_RAD,
    clear_objects,
    place_of,
)
from onellm_ros.simulation.truth import PLACE_LIMIT_RAD, SeenObject, Truth

HALF_VIEW_RAD = math.radians(40.0)
SIDE_DEG = math.degrees((PLACE_LIMIT_RAD + HALF_VIEW_RAD) / 2)
CENTRES_DEG = {'left': SIDE_DEG, 'ahead': 0.0, 'right': -SIDE_DEG}
RIGHT_M = 0.5 + METRE_MARGIN    # whole metres: right up to here, near the middle both neighbours
RIGHT_DEG = 10.0
DISTANCE, FREE, PLACE, DEGREES = 'distance', 'free way', 'place', 'degrees'
_DEGREES_WORDINGS = {
    'plain': 'How many degrees to the left or to the right of straight ahead is {the}?',
    'held_out': 'At what angle to the left or to the right is {the}, in degrees?'}
_NUMBER = r'(\d+(?:[.,]\d+)?|' + '|'.join(w.NUMBERS) + ')'
_METRES = re.compile(_NUMBER + r'\s*(metres?|meters?|m|centimetres?|centimeters?|cm)\b')
_BARE = re.compile(r'(?:about |roughly |around )?' + _NUMBER)
_ANGLE = re.compile(r'(?:(minus|-) ?)?' + _NUMBER + r'\s*(?:degrees?|deg\b|\u00b0)')


@dataclass(frozen=True)
class Measure:
    """A question for a distance or a bearing.

    :param kind: DISTANCE, FREE, PLACE or DEGREES. :param truth: metres or degrees.
    """

    kind: str
    question: Question
    truth: float


def _number(text: str) -> float:
    return float(w.NUMBERS.index(text)) if text in w.NUMBERS else float(text.replace(',', '.'))


def metres_in(text: str) -> float | None:
    """Return the metres that an answer says; None if it says none."""
    said = text.lower().strip().rstrip('.!')
    found = _METRES.search(said)
    if found:
        return _number(found[1]) * (0.01 if found[2].startswith('c') else 1.0)
    bare = _BARE.fullmatch(said)
    return _number(bare[1]) if bare else None


def degrees_in(text: str) -> float | None:
    """Return the bearing in degrees that an answer says, positive to the left; None without one.

    A number of degrees needs its side (or a minus for the right), a word stands for its middle.
    """
    said = text.lower()
    places = {place for place in CENTRES_DEG if re.search(rf'\b{place}\b', normalise(said))}
    found = _ANGLE.search(said)
    if found:
        value, sides = _number(found[2]), places - {'ahead'}
        if len(sides) == 1:
            return value if sides == {'left'} else -value
        if value == 0 or found[1]:
            return -value
        return None
    return CENTRES_DEG[places.pop()] if len(places) == 1 else None


def said_in(kind: str, text: str) -> float | None:
    """Return what an answer to a question of this kind says, metres or degrees."""
    return metres_in(text) if kind in (DISTANCE, FREE) else degrees_in(text)


def is_right(kind: str, truth: float, question: Question, text: str) -> bool:
    """Whether an answer is right: by the words of the language, or near enough by its number.

    A place is right by its word (beside the limit of two places both are); a number of metres
    within 0.65 m, which is the nearest whole metre or, beside the middle of two, either; a number
    of degrees (or, asked for them, a word at its middle) within 10 degrees.
    """
    if is_correct(question, text):
        return True
    said = said_in(kind, text)
    if said is None or (kind == PLACE and not _ANGLE.search(text.lower())):
        return False
    return abs(said - truth) <= (RIGHT_M if kind in (DISTANCE, FREE) else RIGHT_DEG)


def _whole(metres: float) -> tuple[str, tuple[str, ...]]:
    number = max(1, round(metres))
    near = [n for n in (number - 1, number + 1) if n >= 1 and abs(n - metres) <= RIGHT_M]
    return w.metres(number), (str(number), *(w.metres(n) for n in near))


def distance(metres: float, text: str, kind: str = DISTANCE) -> Measure:
    """Return the question with this wording for a distance."""
    answer, accept = _whole(metres)
    return Measure(kind, Question(DISTANCE if kind == DISTANCE else 'clear', Modality.DEPTH, text,
                                  answer, accept), metres)


def bearing(bearing_rad: float, text: str, kind: str = PLACE) -> Measure:
    """Return the question with this wording for a bearing."""
    degrees = math.degrees(bearing_rad)
    if kind == DEGREES:
        number = round(abs(degrees))
        answer = f'{number} degrees to the {"left" if degrees > 0 else "right"}'
        return Measure(kind, Question('bearing', Modality.IMAGE, text, answer), degrees)
    places = [place_of(bearing_rad + shift) for shift in (0.0, PLACE_MARGIN_RAD,
                                                          -PLACE_MARGIN_RAD)]
    accept = tuple(dict.fromkeys(p for p in places if p != places[0]))
    return Measure(kind, Question('place', Modality.IMAGE, text, places[0], accept), degrees)


def measured_things(truth: Truth, most: int) -> list[SeenObject]:
    """Return clearly visible things of a kind that is seen once, the largest first."""
    kinds = [thing.kind for thing in truth.seen]
    return [thing for thing in clear_objects(truth) if kinds.count(thing.kind) == 1][:most]


def _slots(thing: SeenObject) -> dict[str, str]:
    name = w.definite(thing.kind)
    return {'the': name, 'The': w.sentence_case(name)}


def of_thing(thing: SeenObject, kind: str, rng: np.random.Generator, said: str) -> Measure:
    """Ask how far or where a thing is."""
    if kind == DISTANCE:
        return distance(thing.distance_m, language.word_question('distance', _slots(thing), rng,
                                                                 said))
    if kind == PLACE:
        return bearing(thing.bearing_rad, language.word_question('place', _slots(thing), rng,
                                                                 said))
    form = _DEGREES_WORDINGS.get(said, _DEGREES_WORDINGS['plain'])
    return bearing(thing.bearing_rad, form.format(**_slots(thing)), DEGREES)


def free_way(truth: Truth, rng: np.random.Generator, said: str) -> Measure:
    """Ask for the free metres ahead."""
    return distance(truth.clear_m, language.word_question('clear.space', {}, rng, said), FREE)


def all_questions(truth: Truth, rng: np.random.Generator, said: str) -> list[Measure]:
    """Return one question of each kind about each thing, and for the way ahead."""
    return [of_thing(thing, kind, rng, said) for thing in measured_things(truth, 99)
            for kind in (DISTANCE, PLACE, DEGREES)] + [free_way(truth, rng, said)]
