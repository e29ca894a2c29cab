"""Questions about the objects in view: each function draws one about a truth, or None.

A family draws the class of its answer first and then what the question is about. No wording here
(``wording``), no balance over types (``language``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation import facts as f
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.captions import COLOUR_TELLING
from onellm_ros.simulation.truth import COLOURS, KINDS, SeenObject, Truth

ASKED_PLACES = {'left': 'on the left', 'ahead': 'straight ahead', 'right': 'on the right'}
MAX_COUNT = 4
SIDE_MARGIN_RAD = 0.12
LARGEST_RATIO = 1.3
ONE_SIDED = ('ball', 'cup', 'bottle')      # clearly visible only from near
NEARER_RATIO, NEARER_MARGIN_M = 1.2, 0.25

T = TypeVar('T')


@dataclass(frozen=True)
class Draw:
    """One question before it is worded.

    :param keep: probability with which it is kept (see ``asking.keep``).
    """

    type: str
    family: str
    slots: Mapping[str, str]
    answer: str
    accept: tuple[str, ...] = ()
    keep: float = 1.0


# Share of the worlds in which such a thing is clearly visible (measured on 3000 worlds).
KIND_RATE: dict[str, float] = dict.fromkeys(KINDS, 0.135) | {
    'ball': 0.21, 'cup': 0.07, 'bottle': 0.08, 'person': 0.25, 'robot': 0.22}


def pick(options: list[T] | tuple[T, ...], rng: np.random.Generator) -> T:
    """Draw one of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def yes_or_no(true: str, options: Iterable[str], rng: np.random.Generator) -> tuple[str, str]:
    """Draw what to ask for, half the time what is true, and the answer."""
    if rng.random() < 0.5:
        return true, 'yes'
    return pick([other for other in options if other != true], rng), 'no'


def by_class(pairs: list[tuple[str, T]], rng: np.random.Generator) -> tuple[str, T] | None:
    """Draw a class uniformly among those there are, then one of its members."""
    classes = sorted({name for name, _ in pairs})
    if not classes:
        return None
    chosen = pick(classes, rng)
    return chosen, pick([value for name, value in pairs if name == chosen], rng)


def naming(thing: SeenObject, modality: Modality) -> tuple[str, tuple[str, ...]]:
    """Return the answer that names an object, and other right ones."""
    full = w.indefinite(thing.kind, thing.colour)
    if modality in COLOUR_TELLING:
        return full, ()
    return w.indefinite(thing.kind), (full,)


def reference_to(truth: Truth, thing: SeenObject, modality: Modality,
               rng: np.random.Generator) -> str | None:
    """Return words that mean this object and no other, None if there are none."""
    options = []
    if sum(other.kind == thing.kind for other in truth.seen) == 1:
        options.append(w.definite(thing.kind))
    if modality in COLOUR_TELLING and sum(
            (other.kind, other.colour) == (thing.kind, thing.colour) for other in truth.seen) == 1:
        options.append(w.definite(thing.kind, thing.colour))
    return pick(options, rng) if options else None


def the(reference: str) -> dict[str, str]:
    return {'the': reference, 'The': w.sentence_case(reference)}


def object_largest(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the object that fills most of the view."""
    if not truth.seen or not f.is_clear(truth.seen[0]):
        return None
    if len(truth.seen) > 1 and truth.seen[0].pixels < LARGEST_RATIO * truth.seen[1].pixels:
        return None
    return Draw('object', 'object.largest', {}, *naming(truth.seen[0], modality))


def _nearest(truth: Truth) -> SeenObject | None:
    order = sorted(truth.seen, key=lambda thing: thing.distance_m)
    if not order or not f.is_clear(order[0]):
        return None
    if len(order) > 1 and not clearly_nearer(order[0], order[1]):
        return None
    return order[0]


def clearly_nearer(one: SeenObject, other: SeenObject) -> bool:
    return other.distance_m >= max(NEARER_RATIO * one.distance_m,
                                   one.distance_m + NEARER_MARGIN_M)


def object_only(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the main object where there is only one (for those who do not see sizes)."""
    return object_largest(truth, modality, rng) if len(truth.seen) == 1 else None


def object_nearest(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the nearest object."""
    thing = _nearest(truth)
    return None if thing is None else Draw(
        'object', 'object.nearest', {}, *naming(thing, modality))


def place_nearest(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask where the nearest object is."""
    thing = _nearest(truth)
    if thing is None or not f.place_is_plain(thing):
        return None
    return Draw('place', 'place.nearest', {}, thing.place)


def object_place(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask what is on one side, where exactly one thing is."""
    single = []
    for place in ASKED_PLACES:
        there = [t for t in truth.seen if t.place == place or not f.place_is_plain(t)]
        if len(there) == 1 and f.is_clear(there[0]) and f.place_is_plain(there[0]):
            single.append(there[0])
    if not single:
        return None
    thing = pick(single, rng)
    return Draw('object', 'object.place', {'place': ASKED_PLACES[thing.place]},
                *naming(thing, modality))


def colour(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the colour of the only object of its kind."""
    single = [t for t in f.clear_objects(truth)
              if sum(other.kind == t.kind for other in truth.seen) == 1]
    drawn = by_class([(t.colour, t) for t in single], rng)
    if drawn is None:
        return None
    return Draw('colour', 'colour', the(w.definite(drawn[1].kind)), drawn[0])


def colour_is(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether the only object of its kind has a colour; half the time it has."""
    drawn = colour(truth, modality, rng)
    if drawn is None:
        return None
    name, answer = yes_or_no(drawn.answer, COLOURS, rng)
    return Draw('colour', 'colour.is', {**drawn.slots, 'colour': name}, answer)


def _count(family: str, groups: dict[str, list[SeenObject]], slot: str,
           rng: np.random.Generator) -> Draw | None:
    pairs = [(str(len(things)), name) for name, things in groups.items()
             if len(things) <= MAX_COUNT and all(f.is_clear(t) for t in things)]
    drawn = by_class(pairs, rng)
    if drawn is None:
        return None
    number, name = int(drawn[0]), drawn[1]
    what = {'plural': w.plural(name), 'colour': name, '': ''}[slot]
    accept: tuple[str, ...] = (f'{number} {w.noun(name, "", number)}',) if slot == 'plural' else (
        f'{number} {what} objects', f'{number} {what} things')
    if number == 0:
        accept += ('none',)
    return Draw('count', family, {slot: what} if slot else {}, w.NUMBERS[number], accept)


def count_kind(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask how many objects of a kind there are."""
    absent = [kind for kind in KINDS if all(t.kind != kind for t in truth.seen)]
    groups = {t.kind: [o for o in truth.seen if o.kind == t.kind] for t in truth.seen}
    if absent:
        groups[_likely(absent, rng)] = []
    return _count('count.kind', groups, 'plural', rng)


def count_colour(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask how many objects of a colour there are."""
    groups = {name: [t for t in truth.seen if t.colour == name] for name in COLOURS}
    return _count('count.colour', groups, 'colour', rng)


def count_all(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask how many objects there are."""
    return _count('count.all', {'object': list(truth.seen)}, '', rng)


def _likely(kinds: list[str], rng: np.random.Generator) -> str:
    """Draw an absent kind so that over many worlds each is as often absent as there."""
    odds = np.array([KIND_RATE[kind] / (1.0 - KIND_RATE[kind]) for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]


def presence(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether something is there: half the time it is; else another kind or colour."""
    clear = f.clear_objects(truth)
    with_colour = modality in COLOUR_TELLING and rng.random() < 0.6
    absent = [kind for kind in KINDS if all(t.kind != kind for t in truth.seen)]
    if not clear:
        return None
    if rng.random() < 0.5:
        if with_colour:
            thing = pick(clear, rng)
            name = w.indefinite(thing.kind, thing.colour)
        else:
            name = w.indefinite(pick(sorted({thing.kind for thing in clear}), rng))
        return Draw('presence', 'presence', {'np': name}, 'yes')
    if not with_colour:
        name = w.indefinite(_likely(absent, rng))
    elif rng.random() < 0.67:
        kind = pick(clear, rng).kind
        there = {t.colour for t in truth.seen if t.kind == kind}
        name = w.indefinite(kind, pick([c for c in COLOURS if c not in there], rng))
    else:
        name = w.indefinite(_likely(absent, rng), pick(clear, rng).colour)
    return Draw('presence', 'presence', {'np': name}, 'no')


def presence_colour(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether anything has a colour; half the time something has."""
    clear = f.clear_objects(truth)
    absent = [c for c in COLOURS if all(t.colour != c for t in truth.seen)]
    if not clear or not absent:
        return None
    yes = rng.random() < 0.5
    name = pick(clear, rng).colour if yes else pick(absent, rng)
    return Draw('presence', 'presence.colour', {'colour': name}, 'yes' if yes else 'no')


def presence_place(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether anything is on one side."""
    pairs = []
    for place, phrase in ASKED_PLACES.items():
        there = [t for t in truth.seen if t.place == place or not f.place_is_plain(t)]
        if not there:
            pairs.append(('no', phrase))
        elif any(f.is_clear(t) and f.place_is_plain(t) for t in there):
            pairs.append(('yes', phrase))
    drawn = by_class(pairs, rng)
    return None if drawn is None else Draw(
        'presence', 'presence.place', {'place': drawn[1]}, drawn[0])


def about_one(truth: Truth, modality: Modality, rng: np.random.Generator,
              classify: Callable[[SeenObject], str | None]) -> tuple[dict[str, str], str] | None:
    """Draw an object by the class of the answer; return the slots that name it, and the class."""
    pairs = [(name, t) for t in f.clear_objects(truth) if (name := classify(t)) is not None
             and reference_to(truth, t, modality, rng) is not None]
    drawn = by_class(pairs, rng)
    if drawn is None:
        return None
    reference = reference_to(truth, drawn[1], modality, rng)
    assert reference is not None
    return the(reference), drawn[0]


def place(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask where an object is."""
    drawn = about_one(truth, modality, rng,
                       lambda t: t.place if f.place_is_plain(t) else None)
    return None if drawn is None else Draw('place', 'place', *drawn)


def place_is(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether an object is on a side; half the time it is."""
    drawn = place(truth, modality, rng)
    if drawn is None:
        return None
    side, answer = yes_or_no(drawn.answer, ASKED_PLACES, rng)
    return Draw('place', 'place.is', {**drawn.slots, 'place': ASKED_PLACES[side]}, answer)


def near_or_far(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether an object is near or far."""
    drawn = about_one(truth, modality, rng, lambda t: (
        None if t.kind in ONE_SIDED or not f.range_is_plain(t) else 'near' if t.near else 'far'))
    return None if drawn is None else Draw('range', 'range', *drawn)


def distance(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask for the distance of an object in metres."""
    def classify(thing: SeenObject) -> str | None:
        number = f.plain_metres(thing.distance_m)
        return None if number is None or thing.kind in ONE_SIDED else str(number)

    drawn = about_one(truth, modality, rng, classify)
    if drawn is None:
        return None
    return Draw('distance', 'distance', drawn[0], w.metres(int(drawn[1])), (drawn[1],))


def _pair(truth: Truth, modality: Modality, rng: np.random.Generator, fits: Callable[
        [SeenObject, SeenObject], bool]) -> tuple[SeenObject, SeenObject, str, str] | None:
    named = [(t, name) for t in f.clear_objects(truth)
             if (name := reference_to(truth, t, modality, rng)) is not None]
    pairs = [(a, b, x, y) for a, x in named for b, y in named if a is not b and fits(a, b)]
    return pick(pairs, rng) if pairs else None


def relation_side(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask whether an object is left (right) of another."""
    drawn = _pair(truth, modality, rng,
                  lambda a, b: a.bearing_rad - b.bearing_rad >= SIDE_MARGIN_RAD)
    if drawn is None:
        return None
    _, _, left, right = drawn
    side, answer = pick(('left', 'right'), rng), pick(('yes', 'no'), rng)
    the, other = (left, right) if (side == 'left') == (answer == 'yes') else (right, left)
    return Draw('relation', 'relation.side', {'the': the, 'other': other, 'side': side}, answer)


def relation_nearer(truth: Truth, modality: Modality, rng: np.random.Generator) -> Draw | None:
    """Ask which of two objects is nearer."""
    drawn = _pair(truth, modality, rng, clearly_nearer)
    if drawn is None:
        return None
    near, _, near_name, far_name = drawn
    the, other = (near_name, far_name) if rng.random() < 0.5 else (far_name, near_name)
    accept = (w.noun(near.kind), w.indefinite(near.kind, near.colour))
    return Draw('relation', 'relation.nearer', {'the': the, 'other': other}, near_name, accept)
