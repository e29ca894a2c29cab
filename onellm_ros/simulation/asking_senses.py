"""Questions about motion, sound, moving things, the floor and the way ahead.

Each function draws one, or None. The companion of ``asking_objects``; yes and no are as frequent
as each other for each thing asked, given motions and sounds that are equally likely.
"""

from __future__ import annotations

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation import facts as f
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.asking_objects import Draw, about_one, pick, yes_or_no
from onellm_ros.simulation.truth import FLOORS, MOTIONS, SOUNDS, SeenObject, Truth

_ALL = frozenset(MOTIONS)
_TURNS = frozenset(('turning left', 'turning right'))
_VAGUE = frozenset(('hitting an obstacle', 'being lifted'))
_MOVING = _ALL - _VAGUE - {'standing still'}
# What can be asked about the motion: phrase -> (motions that say yes, motions that say no).
MOTION_PREDICATES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    'turning': (_TURNS, _ALL - _TURNS - {'hitting an obstacle'}),
    'moving': (_MOVING, frozenset(('standing still',))),
    'driving straight': (frozenset(('driving straight',)),
                         _TURNS | {'standing still', 'being lifted'}),
    'hitting something': (frozenset(('hitting an obstacle',)), _ALL - {'hitting an obstacle'}),
    **{m: (frozenset((m,)), _ALL - _VAGUE - {m}) for m in ('speeding up', 'slowing down')},
    **{m: (frozenset((m,)), _ALL - {m}) for m in MOTIONS if m not in (
        'driving straight', 'speeding up', 'slowing down')}}
MOTION_PHRASES = tuple(MOTION_PREDICATES)


def floor(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the floor."""
    return Draw('floor', 'floor', {}, truth.floor, {
        'wood': ('wooden', 'a wooden floor'), 'tile': ('tiles', 'tiled', 'a tiled floor')}.get(
            truth.floor, (f'a {truth.floor} floor',)))


def floor_is(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether the floor is of some sort; half the time it is."""
    name, answer = yes_or_no(truth.floor, FLOORS, rng)
    return Draw('floor', 'floor.is', {'floor': name}, answer)


def clear_way(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether the way ahead is free."""
    free = f.way_is_free(truth.clear_m)
    return None if free is None else Draw('clear', 'clear.way', {}, 'yes' if free else 'no')


def clear_space(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the free distance ahead."""
    number = f.plain_metres(truth.clear_m)
    return None if number is None else Draw(
        'clear', 'clear.space', {}, w.metres(number), (str(number),))


def motion_what(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the motion of the robot."""
    return Draw('motion', 'motion.what', {}, truth.motion, {
        'hitting an obstacle': ('hitting something',), 'being lifted': ('lifted',),
        'standing still': ('nothing', 'standing')}.get(truth.motion, ()))


def motion_is(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether the motion is of some sort, yes as often as no for each sort."""
    phrase = pick(MOTION_PHRASES, rng)
    yes, no = MOTION_PREDICATES[phrase]
    if truth.motion not in yes | no:
        return None
    answer = 'yes' if truth.motion in yes else 'no'
    ratio = len(no) / len(yes) if answer == 'yes' else len(yes) / len(no)
    return Draw('motion', 'motion.is', {'doing': phrase}, answer, keep=min(1.0, ratio))


def sound_what(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask what is heard."""
    return Draw('sound', 'sound.what', {}, truth.sound, w.SOUND_SYNONYMS[truth.sound])


def sound_is(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether a sound is heard; yes as often as no, silence included."""
    real = SOUNDS[1:]
    if truth.sound in real and rng.random() < (len(real) + 1) / (2 * len(real)):
        return Draw('sound', 'sound.is', {'sound': truth.sound}, 'yes')
    other = pick([s for s in real if s != truth.sound], rng)
    return Draw('sound', 'sound.is', {'sound': other}, 'no')


def sound_quiet(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether it is quiet."""
    if truth.sound == 'silence':
        return Draw('sound', 'sound.quiet', {}, 'yes')
    return Draw('sound', 'sound.quiet', {}, 'no', keep=1 / (len(SOUNDS) - 1))


def _movers(truth: Truth) -> list[SeenObject]:
    return [t for t in truth.seen if t.direction or t.moves]


def moving_what(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask what is moving, where one thing moves or none."""
    movers = _movers(truth)
    if not movers:
        return Draw('moving', 'moving.what', {}, 'nothing')
    if len(movers) > 1 or not f.is_clear(movers[0]) or not movers[0].direction:
        return None
    return Draw('moving', 'moving.what', {}, w.indefinite(movers[0].kind, movers[0].colour),
                (movers[0].kind,))


def moving_any(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether anything is moving."""
    movers = _movers(truth)
    if movers and not any(f.is_clear(t) and t.direction for t in movers):
        return None
    return Draw('moving', 'moving.any', {}, 'yes' if movers else 'no')


def moving_way(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask which way an object moves; while the robot turns or is lifted, sides do not count."""
    disturbed = truth.motion in _TURNS or truth.motion in _VAGUE
    drawn = about_one(truth, modality, rng, lambda t: t.direction if t.direction and not (
        disturbed and t.direction.startswith('to the ')) else None)
    return None if drawn is None else Draw('moving', 'moving.way', *drawn)
