"""Captions of the simulated world: said from the truth, read back, and scored.

``caption_facts`` decides what the present modalities can tell, ``caption`` says it,
``parse_caption`` reads the facts out of a text again (of ours or of a model) and ``caption_score``
compares with the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
import re

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.facts import clear_objects, is_clear
from onellm_ros.simulation.truth import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    MOTIONS,
    SOUNDS,
    SeenObject,
    Truth,
)

CAPTION_OBJECTS = 3
VISUAL = frozenset((Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL,
                    Modality.POINT, Modality.FMRI))
COLOUR_TELLING = frozenset((Modality.IMAGE, Modality.VIDEO, Modality.POINT))
PLACE_TELLING = VISUAL
METRIC = frozenset((Modality.DEPTH, Modality.POINT))
RANGE_TELLING = frozenset((Modality.IMAGE, Modality.VIDEO))


@dataclass(frozen=True)
class ObjectFact:
    """What a caption says of one object; empty or None where it says nothing.

    :param metres: whole metres; :param near: near or far.
    """

    kind: str
    colour: str = ''
    place: str = ''
    metres: int | None = None
    near: bool | None = None


@dataclass(frozen=True)
class Facts:
    """What a caption says.

    :param moving: (kind, direction) of what moves; None: movement is not spoken of.
    :param clear_m: whole metres of free way ahead (0: blocked); None: not spoken of.
    """

    objects: tuple[ObjectFact, ...] | None = None
    motion: str = ''
    sound: str = ''
    moving: tuple[tuple[str, str], ...] | None = None
    clear_m: int | None = None


def _whole_metres(distance_m: float) -> int:
    return max(1, round(distance_m))


def object_fact(thing: SeenObject, present: frozenset[Modality]) -> ObjectFact:
    """Return what the present modalities can tell of an object."""
    metric = bool(present & METRIC)
    return ObjectFact(
        kind=thing.kind,
        colour=thing.colour if present & COLOUR_TELLING else '',
        place=thing.place if present & PLACE_TELLING else '',
        metres=_whole_metres(thing.distance_m) if metric else None,
        near=thing.near if present & RANGE_TELLING and not metric else None)


def caption_facts(truth: Truth, present: frozenset[Modality],
                  limit: int = CAPTION_OBJECTS) -> Facts:
    """Return what a caption from the present modalities tells.

    :param limit: objects at most, the largest first.
    """
    objects = None
    if present & VISUAL:
        objects = tuple(object_fact(t, present) for t in clear_objects(truth)[:limit])
    moving = None
    if Modality.VIDEO in present:
        movers = [t for t in truth.seen if t.direction or t.moves]
        moving = tuple((t.kind, t.direction) for t in movers if t.direction and is_clear(t))[:2]
        if movers and not moving:
            moving = None      # something small moves, or to and fro: neither said nor denied
    return Facts(
        objects=objects, moving=moving,
        motion=truth.motion if Modality.IMU in present else '',
        sound=truth.sound if Modality.AUDIO in present else '',
        clear_m=round(truth.clear_m) if present & METRIC else None)


def _choose(options: Sequence[str], rng: np.random.Generator | None) -> str:
    return options[0] if rng is None else options[int(rng.integers(len(options)))]


def _item(fact: ObjectFact, number: int, rng: np.random.Generator | None) -> str:
    parts = []
    if fact.metres is not None:
        parts.append(w.metres(fact.metres) + ' away')
    if fact.near is not None:
        parts.append(_choose(w.NEAR_PHRASES if fact.near else w.FAR_PHRASES, rng))
    name = w.indefinite(fact.kind, fact.colour, number)
    if not fact.place:
        return ' '.join([name, *parts])
    place = _choose(w.PLACE_PHRASES[fact.place], rng)
    order = 0 if rng is None else int(rng.choice(3, p=(0.6, 0.2, 0.2)))
    return ' '.join(([name, place, *parts], [name, *parts, place], [place, name, *parts])[order])


def _list_sentence(objects: tuple[ObjectFact, ...], rng: np.random.Generator | None) -> str:
    if not objects:
        return _choose(w.EMPTY_SENTENCES, rng)
    counts = Counter(objects)          # insertion order: the largest first
    items = [_item(fact, number, rng) for fact, number in counts.items()]
    text = items[0] if len(items) == 1 else ', '.join(items[:-1]) + ' and ' + items[-1]
    be = 'are' if next(iter(counts.values())) > 1 else 'is'
    return _choose(w.LIST_SENTENCES, rng).format(be=be, list=text, List=w.sentence_case(text))


def say(facts: Facts, rng: np.random.Generator | None = None) -> str:
    """Say facts in a few sentences.

    :param rng: None: the plain wording, always the same; otherwise the wording varies.
    """
    rest: list[str] = []
    if facts.moving is not None:
        rest += [_choose(w.MOVER_SENTENCES, rng).format(
            The=w.sentence_case(w.definite(kind)), way=way) for kind, way in facts.moving]
        if not facts.moving:
            rest.append(_choose(w.STILL_SENTENCES, rng))
    if facts.clear_m is not None:
        rest.append(_choose(w.FREE_SENTENCES, rng).format(metres=w.metres(facts.clear_m))
                    if facts.clear_m else _choose(w.BLOCKED_SENTENCES, rng))
    if facts.motion:
        rest.append(_choose(w.MOTION_SENTENCES, rng).format(motion=facts.motion))
    if facts.sound == 'silence':
        rest.append(_choose(w.QUIET_SENTENCES, rng))
    elif facts.sound:
        rest.append(_choose(w.SOUND_SENTENCES, rng).format(
            sound=facts.sound, Sound=w.sentence_case(facts.sound),
            be='are' if facts.sound == 'footsteps' else 'is'))
    if rng is not None and len(rest) > 1:
        rest = [rest[int(i)] for i in rng.permutation(len(rest))]
    if facts.objects is not None:
        rest.insert(0, _list_sentence(facts.objects, rng))
    return ' '.join(rest)


def caption(truth: Truth, present: frozenset[Modality], rng: np.random.Generator | None = None,
            style: str = 'varied') -> str:
    """Describe a window from the modalities that are present.

    :param style: ``plain`` (one wording; ``rng`` is not used) or ``varied``.
    :raises ValueError: for an unknown style, no modality, or ``varied`` without ``rng``.
    """
    if style not in ('plain', 'varied'):
        raise ValueError(f"unknown caption style {style!r}: expected 'plain' or 'varied'")
    if not present:
        raise ValueError('no modality is present: nothing can be described')
    if style == 'varied' and rng is None:
        raise ValueError("a varied caption needs a random generator: pass rng or style='plain'")
    return say(caption_facts(truth, present), rng if style == 'varied' else None)


_KIND_OF = {form: kind for kind in KINDS for form in (kind, w.plural(kind))}
_KINDS = '|'.join(sorted(_KIND_OF, key=len, reverse=True))
_COLOURS = '|'.join(COLOURS)
_NUMBERS = {word: number for number, word in enumerate(w.NUMBERS)} | {
    str(number): number for number in range(11)}
_MENTION = re.compile(
    rf'\b(?:(?P<number>{"|".join(w.NUMBERS)}|\d+) )?(?:(?P<colour>{_COLOURS}) )?'
    rf'(?P<kind>{_KINDS})\b(?: in (?P<wears>{_COLOURS})\b)?')
_PLACES = (('left', re.compile(r'\bleft\b')), ('right', re.compile(r'\bright\b')),
           ('ahead', re.compile(r'\b(?:ahead|in front)\b')))
_METRES = re.compile(r'(\d+(?:\.\d+)?|' + '|'.join(w.NUMBERS) + r') ?(?:metres?|meters?|m)\b')
_SOUND_KEYS = tuple((sound, re.compile(r'\b' + re.sub('^an? ', '', sound) + r'\b'))
                    for sound in SOUNDS)
_QUIET = re.compile(r'\b(?:quiet|silence|silent|nothing is heard)\b')
_FREE = re.compile(r'\b(?:free|path is clear|clear for)\b')
_BLOCKED = re.compile(r'\bblocked\b')
_MOVER = re.compile(rf'\b(?P<kind>{_KINDS})\b(?: in \w+)? (?:is moving|moves|is going)\b')


def _metres_in(text: str) -> int | None:
    found = _METRES.search(text)
    if not found:
        return None
    word = found.group(1)
    return _NUMBERS[word] if word in _NUMBERS else round(float(word))


def _objects_in(sentence: str) -> list[ObjectFact]:
    objects: list[ObjectFact] = []
    for clause in re.split(r'[,;:]| and ', sentence):
        found = _MENTION.search(clause)
        if not found:
            continue
        place = next((name for name, key in _PLACES if key.search(clause)), '')
        near = None
        if re.search(r'\b(?:nearby|close by|near)\b', clause):
            near = True
        elif re.search(r'\bfar\b', clause):
            near = False
        fact = ObjectFact(
            kind=_KIND_OF[found['kind']], colour=found['colour'] or found['wears'] or '',
            place=place, metres=_metres_in(clause), near=near)
        number = _NUMBERS.get(found['number'] or 'one', 1)
        objects += [fact] * min(number, 10)
    return objects


def parse_caption(text: str) -> Facts:
    """Read the facts out of a caption; what is not understood is left out."""
    facts = Facts()
    objects: list[ObjectFact] = []
    moving: list[tuple[str, str]] = []
    for sentence in re.split(r'[.!?](?!\d)', text.lower()):
        motion = next((m for m in MOTIONS if m in sentence), '')
        sound = next((s for s, key in _SOUND_KEYS if key.search(sentence)), '')
        way = next((d for d in DIRECTIONS if d in sentence), '')
        mover = _MOVER.search(sentence)
        if motion:
            facts = replace(facts, motion=motion)
        elif _QUIET.search(sentence):
            facts = replace(facts, sound='silence')
        elif sound:
            facts = replace(facts, sound=sound)
        elif re.search(r'\bnothing (?:is moving|moves)\b', sentence):
            facts = replace(facts, moving=())
        elif mover and way:
            moving.append((_KIND_OF[mover['kind']], way))
        elif _BLOCKED.search(sentence):
            facts = replace(facts, clear_m=0)
        elif _FREE.search(sentence) and not _MENTION.search(sentence):
            facts = replace(facts, clear_m=_metres_in(sentence))
        elif re.search(r'\bno (?:clear )?object\b', sentence):
            facts = replace(facts, objects=())
        else:
            own = re.sub(r'^\s*the robot sees\b', '', sentence)
            objects += _objects_in(own)
    if objects:
        facts = replace(facts, objects=tuple(objects))
    return replace(facts, moving=tuple(moving)) if moving else facts


def _f1(said: Counter, wanted: Counter, allowed: Counter) -> float:
    """F1 of what was said: recall on ``wanted``, precision on ``allowed`` (wanted and more)."""
    if not said and not wanted:
        return 1.0
    if not said or not wanted:
        return 0.0
    precision = (said & allowed).total() / said.total()
    recall = (said & wanted).total() / wanted.total()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _attribute(said: Sequence[ObjectFact], seen: Sequence[SeenObject], name: str) -> float | None:
    """Share of the objects said, of a kind that is there once, whose attribute is right."""
    single = Counter(thing.kind for thing in seen)
    by_kind = {thing.kind: thing for thing in seen if single[thing.kind] == 1}
    pairs = [(getattr(fact, name), by_kind[fact.kind]) for fact in said if fact.kind in by_kind]
    if not pairs:
        return None
    if name == 'metres':
        right = [value is not None and abs(value - t.distance_m) <= max(0.75, 0.2 * t.distance_m)
                 for value, t in pairs]
    else:
        right = [value == getattr(t, name) for value, t in pairs]
    return sum(right) / len(right)


def caption_score(text: str, truth: Truth, present: frozenset[Modality]) -> dict[str, float]:
    """Compare a caption with the truth, in what the present modalities can tell.

    :returns: the applicable ones of ``objects_f1`` (kinds of the main objects; naming a lesser one
        that is there does no harm), ``named_f1`` (kind with colour), ``colour``, ``place`` and
        ``metres`` (share right of the objects named), ``motion``, ``sound``, ``moving`` and
        ``clear`` (0 or 1).
    """
    said, wanted = parse_caption(text), caption_facts(truth, present)
    scores: dict[str, float] = {}
    if wanted.objects is not None:
        told = said.objects or ()
        every = [object_fact(thing, present) for thing in truth.seen]
        scores['objects_f1'] = _f1(Counter(o.kind for o in told),
                                   Counter(o.kind for o in wanted.objects),
                                   Counter(o.kind for o in every))
        if present & COLOUR_TELLING:
            scores['named_f1'] = _f1(Counter((o.kind, o.colour) for o in told),
                                     Counter((o.kind, o.colour) for o in wanted.objects),
                                     Counter((o.kind, o.colour) for o in every))
        for name, telling in (('colour', COLOUR_TELLING), ('place', PLACE_TELLING),
                              ('metres', METRIC)):
            share = _attribute(told, truth.seen, name) if present & telling else None
            if share is not None:
                scores[name] = share
    if wanted.motion:
        scores['motion'] = float(said.motion == wanted.motion)
    if wanted.sound:
        scores['sound'] = float(said.sound == wanted.sound)
    if wanted.moving is not None:
        scores['moving'] = float(Counter(said.moving or ()) == Counter(wanted.moving)
                                 and said.moving is not None)
    if wanted.clear_m is not None:
        scores['clear'] = float(said.clear_m is not None
                                and abs(said.clear_m - truth.clear_m) <= 0.75)
    return scores
