"""Which questions each modality can really answer, and how often an answer is kept.

The table of families by modality and question type, and the thinning of the answers that the world
offers more often than the others (measured over many worlds).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation.asking_objects import (
    ASKED_PLACES,
    Draw,
    colour,
    colour_is,
    count_all,
    count_colour,
    count_kind,
    distance,
    near_or_far,
    object_largest,
    object_nearest,
    object_only,
    object_place,
    place,
    place_is,
    place_nearest,
    presence,
    presence_colour,
    presence_place,
    relation_nearer,
    relation_side,
)
from onellm_ros.simulation.asking_senses import (
    MOTION_PHRASES,
    clear_space,
    clear_way,
    floor,
    floor_is,
    motion_is,
    motion_what,
    moving_any,
    moving_way,
    moving_what,
    sound_is,
    sound_quiet,
    sound_what,
)
from onellm_ros.simulation.truth import Truth

__all__ = ['ASKED_PLACES', 'FAMILIES', 'KEEP', 'MOTION_PHRASES', 'OBJECT_NAMING', 'Draw',
           'keep', 'object_largest']

OBJECT_NAMING = frozenset((Modality.IMAGE, Modality.VIDEO, Modality.POINT, Modality.NORMAL,
                           Modality.FMRI))
Family = Callable[[Truth, Modality, np.random.Generator], 'Draw | None']

# Share of the draws of an answer that is kept, where the world offers it more than the others
# (from the shares measured on 3000 worlds; what is rare stays rarer than the rest).
KEEP: dict[tuple[str, str], float] = {
    ('count.kind', 'zero'): 0.20, ('count.kind', 'one'): 0.22,
    ('count.colour', 'zero'): 0.20, ('count.colour', 'one'): 0.24,
    ('count.all', 'two'): 0.85, ('range', 'near'): 0.80,
    ('distance', 'about 1 metre'): 0.55, ('distance', 'about 2 metres'): 0.36,
    ('clear.way', 'yes'): 0.42, ('clear.space', 'about 1 metre'): 0.34,
    ('clear.space', 'about 2 metres'): 0.54, ('clear.space', 'about 3 metres'): 0.80,
    ('moving.any', 'no'): 0.54, ('moving.what', 'nothing'): 0.12}


def keep(draw: Draw) -> float:
    """Return the probability with which a draw is kept, to be decided once for a truth."""
    return draw.keep * KEEP.get((draw.family, draw.answer), 1.0)


_POINT_OBJECTS = (object_largest, object_place, object_nearest)
FAMILIES: dict[Modality, dict[str, tuple[Family, ...]]] = {
    Modality.IMAGE: {
        'object': (object_largest, object_place, object_nearest),
        'colour': (colour, colour, colour_is),
        'count': (count_kind, count_colour, count_all),
        'presence': (presence, presence, presence_colour, presence_place),
        'place': (place, place, place_is), 'range': (near_or_far,),
        'relation': (relation_side, relation_nearer), 'floor': (floor, floor, floor_is)},
    Modality.VIDEO: {
        'moving': (moving_what, moving_any, moving_way, moving_way),
        'object': (object_largest, object_place), 'colour': (colour, colour, colour_is),
        'presence': (presence, presence, presence_colour, presence_place),
        'place': (place, place, place_is)},
    Modality.DEPTH: {
        'distance': (distance,), 'clear': (clear_way, clear_space), 'range': (near_or_far,),
        'place': (place_nearest,), 'relation': (relation_nearer,)},
    Modality.POINT: {
        'object': _POINT_OBJECTS, 'distance': (distance,),
        'place': (place, place, place_nearest, place_is), 'clear': (clear_way, clear_space),
        'colour': (colour, colour, colour_is),
        'presence': (presence, presence, presence_colour, presence_place)},
    Modality.NORMAL: {
        'object': (object_largest, object_place), 'presence': (presence, presence, presence_place),
        'count': (count_kind,), 'place': (place, place, place_is), 'relation': (relation_side,)},
    Modality.IMU: {'motion': (motion_what, motion_is)},
    Modality.AUDIO: {'sound': (sound_what, sound_is, sound_is, sound_quiet)},
    Modality.FMRI: {
        'object': (object_only, object_place), 'presence': (presence,),
        'place': (place, place, place_is)}}
