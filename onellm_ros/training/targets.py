"""What a window's signals should let a small model tell, as numbers.

Training from scratch at nano's size learns too little from answers alone, so its early stages
also predict these targets through heads that are thrown away afterwards (``heads.py``). Owns the
targets and which modality can tell which; no networks, no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
import math

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation.facts import is_clear
from onellm_ros.simulation.truth import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    MOTIONS,
    PLACES,
    SOUNDS,
    SeenObject,
    Truth,
)
from onellm_ros.training.shards import FIRST_KIND
from onellm_ros.training.shards import IGNORE as DENSE_IGNORE

IGNORE = -100
BINS_M = 7                      # metre bins 0 .. 6, farther counts as 6
OWNER = 2                       # what a cell should tell of its whole object: bearing, size
WAYS = 2 + len(DIRECTIONS)      # at rest, the directions, some other way


@dataclass(frozen=True)
class Target:
    """One group of predictions: ``items`` independent ones with ``classes`` classes each."""

    name: str
    items: int
    classes: int


TARGETS = (
    Target('kind', len(KINDS), 2),
    Target('count', len(KINDS), 4),
    Target('colour', len(KINDS), len(COLOURS)),
    Target('place', len(KINDS), len(PLACES)),
    Target('metres', len(KINDS), BINS_M),
    Target('colour_seen', len(COLOURS), 2),
    Target('total', 1, 8),
    Target('clear', 1, BINS_M),
    Target('direction', 1, len(DIRECTIONS) + 1),
    Target('mover', 1, len(KINDS) + 1),
    Target('motion', 1, len(MOTIONS)),
    Target('sound', 1, len(SOUNDS)))

_SEEN = {'kind', 'count', 'colour', 'place', 'metres', 'colour_seen', 'total'}
TELLS: dict[Modality, set[str]] = {
    Modality.IMAGE: _SEEN,
    Modality.VIDEO: _SEEN | {'direction', 'mover'},
    Modality.DEPTH: _SEEN | {'clear'},
    Modality.NORMAL: _SEEN,
    Modality.POINT: _SEEN | {'clear'},
    Modality.AUDIO: {'sound'},
    Modality.IMU: {'motion'},
    Modality.FMRI: {'kind', 'count', 'place', 'colour_seen'}}


def metre_bin(distance_m: float) -> int:
    """Return the bin of a distance: whole metres, 6 and more together."""
    return int(np.clip(round(distance_m), 0, BINS_M - 1)) if np.isfinite(distance_m) else IGNORE


def truth_targets(truth: Truth) -> dict[str, np.ndarray]:
    """Return int64 [items] a group of TARGETS; IGNORE where the truth does not say."""
    out = {t.name: np.full(t.items, IGNORE, np.int64) for t in TARGETS}
    colours = list(COLOURS)
    for index, kind in enumerate(KINDS):
        items = [s for s in truth.seen if s.kind == kind]
        clear = [s for s in items if is_clear(s)]
        if not items or clear:
            out['kind'][index] = int(bool(clear))
        if len(items) == len(clear):
            out['count'][index] = min(len(clear), 3)
        if len(items) == 1 and clear:
            item = clear[0]
            out['colour'][index] = colours.index(item.colour)
            out['place'][index] = PLACES.index(item.place)
            out['metres'][index] = metre_bin(item.distance_m)
    for index, colour in enumerate(colours):
        items = [s for s in truth.seen if s.colour == colour]
        clear = [s for s in items if is_clear(s)]
        if not items or clear:
            out['colour_seen'][index] = int(bool(clear))
    if all(is_clear(s) for s in truth.seen):
        out['total'][0] = min(len(truth.seen), 7)
    out['clear'][0] = metre_bin(truth.clear_m)
    moving = [s for s in truth.seen if s.direction or s.moves]
    if not moving:
        out['direction'][0] = 0
        out['mover'][0] = 0
    elif len(moving) == 1 and is_clear(moving[0]) and moving[0].direction:
        out['direction'][0] = 1 + DIRECTIONS.index(moving[0].direction)
        out['mover'][0] = 1 + KINDS.index(moving[0].kind)
    out['motion'][0] = MOTIONS.index(truth.motion)
    out['sound'][0] = SOUNDS.index(truth.sound)
    return out


def cell_owners(dense: np.ndarray, truth: Truth) -> np.ndarray:
    """Return bearing (rad) and size (a fifth of its logarithm) of the object behind each cell.

    :param dense: uint8 [G, G, 2], kind (see ``shards.dense_labels``) and colour of each cell.
    :returns: float32 [G, G, OWNER]; NaN without an object and where two look alike.
    """
    out = np.full((*dense.shape[:2], OWNER), np.nan, np.float32)
    for thing, mask in _alone(dense, truth):
        out[mask] = thing.bearing_rad, math.log(thing.pixels) / 5
    return out


def way_of(thing: SeenObject) -> int:
    """Return the class of an object's way, 0..WAYS - 1."""
    if thing.direction:
        return 1 + DIRECTIONS.index(thing.direction)
    return WAYS - 1 if thing.moves else 0


def cell_ways(dense: np.ndarray, truth: Truth) -> np.ndarray:
    """Return the way (``way_of``) of the object behind each cell.

    :param dense: as for ``cell_owners``.
    :returns: uint8 [G, G]; the shards' IGNORE without an object and where two look alike.
    """
    out = np.full(dense.shape[:2], DENSE_IGNORE, np.uint8)
    for thing, mask in _alone(dense, truth):
        out[mask] = way_of(thing)
    return out


def _alone(dense: np.ndarray, truth: Truth) -> Iterator[tuple[SeenObject, np.ndarray]]:
    """Yield each object that no other looks like, and its cells, bool [G, G]."""
    looks = Counter((s.kind, s.colour) for s in truth.seen)
    for thing in truth.seen:
        if looks[thing.kind, thing.colour] == 1:
            yield thing, (dense[..., 0] == FIRST_KIND + KINDS.index(thing.kind)) & (
                dense[..., 1] == list(COLOURS).index(thing.colour))


def told_by(targets: dict[str, np.ndarray], present: frozenset[Modality]) -> dict[str, np.ndarray]:
    """Return the targets with those that no present modality can tell set to IGNORE."""
    told = set().union(*(TELLS[m] for m in present))
    return {name: value if name in told else np.full_like(value, IGNORE)
            for name, value in targets.items()}
