"""Which truths are plain enough to be asked about, and truths made up without a picture.

Owns the margins: an object that is small or mostly hidden, or a value close to a limit, is never
the subject of a question. ``random_truth`` draws records for language pretraining and for tests.
"""

from __future__ import annotations

import numpy as np

from onellm_ros.simulation.truth import (
    COLOURS,
    DIRECTIONS,
    FLOORS,
    KINDS,
    MOTIONS,
    MOVERS,
    NEAR_LIMIT_M,
    PLACE_LIMIT_RAD,
    SOUNDS,
    SeenObject,
    Truth,
)

CLEAR_PIXELS = 0.006        # share of the picture from which an object is clearly visible
CLEAR_VISIBLE = 0.5         # share of its outline that must not be hidden
PLACE_MARGIN_RAD = 0.04
NEAR_MARGIN_M = 0.25
METRE_MARGIN = 0.15         # of a metre, to the edge between two metre bins
MAX_METRES = 6
WAY_LIMIT_M = 1.5           # the way ahead is free from here on
WAY_MARGIN_M = 0.25


def is_clear(thing: SeenObject) -> bool:
    """Whether an object is large and unhidden enough to be named."""
    return thing.pixels >= CLEAR_PIXELS and thing.visible >= CLEAR_VISIBLE


def clear_objects(truth: Truth) -> list[SeenObject]:
    """Return the clearly visible objects, the largest first."""
    return [thing for thing in truth.seen if is_clear(thing)]


def place_is_plain(thing: SeenObject) -> bool:
    """Whether the bearing is not close to the limit between two places."""
    return abs(abs(thing.bearing_rad) - PLACE_LIMIT_RAD) >= PLACE_MARGIN_RAD


def range_is_plain(thing: SeenObject) -> bool:
    """Whether the distance is not close to the limit between near and far."""
    return abs(thing.distance_m - NEAR_LIMIT_M) >= NEAR_MARGIN_M


def plain_metres(distance_m: float) -> int | None:
    """Return the whole metres (1..6) of a distance, None close to a bin's edge or outside."""
    number = round(distance_m)
    if not 1 <= number <= MAX_METRES or abs(distance_m - number) > 0.5 - METRE_MARGIN:
        return None
    return number


def way_is_free(clear_m: float) -> bool | None:
    """Whether the way ahead is free; None close to the limit."""
    if abs(clear_m - WAY_LIMIT_M) < WAY_MARGIN_M:
        return None
    return clear_m > WAY_LIMIT_M


def place_of(bearing_rad: float) -> str:
    """Return the place of a bearing (positive to the left)."""
    if abs(bearing_rad) < PLACE_LIMIT_RAD:
        return 'ahead'
    return 'left' if bearing_rad > 0 else 'right'


def random_truth(rng: np.random.Generator) -> Truth:
    """Make up a truth without a world: for language pretraining and tests, not for pictures.

    How many things there are, how far, how large and how many move is about as in the worlds.
    """
    count = int(rng.choice(6, p=(0.05, 0.21, 0.27, 0.25, 0.14, 0.08)))
    moving = rng.random() < 0.37
    things = []
    for index in range(count):
        direction = str(rng.choice(DIRECTIONS)) if moving and index == 0 else ''
        bearing = float(rng.uniform(-0.6, 0.6))
        distance = float(rng.uniform(0.8, 1.9) if rng.random() < 0.5 else rng.uniform(1.9, 5.0))
        things.append(SeenObject(
            object_id=index + 1, kind=str(rng.choice(MOVERS if direction else KINDS)),
            colour=str(rng.choice(list(COLOURS))), place=place_of(bearing), distance_m=distance,
            bearing_rad=bearing, pixels=float(0.004 * 10 ** rng.uniform(0.0, 1.9)),
            visible=float(min(1.0, rng.uniform(0.4, 2.0))), direction=direction))
    things.sort(key=lambda thing: -thing.pixels)
    return Truth(
        seed=int(rng.integers(2**31)), seen=tuple(things), motion=str(rng.choice(MOTIONS)),
        sound=str(rng.choice(SOUNDS)), floor=str(rng.choice(FLOORS)),
        wall_colour=str(rng.choice(list(COLOURS))),
        clear_m=float(min(6.4, 0.5 + rng.exponential(1.9))))
