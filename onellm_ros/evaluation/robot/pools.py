"""Questions that can be asked of two truths alike: which answers differ between two worlds.

Owns the families that are followed from one truth to another: those with few things to ask for, so
that all their questions about a truth can be collected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.simulation import asking_objects as objects
from onellm_ros.simulation import asking_senses as senses
from onellm_ros.simulation.answers import normalise
from onellm_ros.simulation.asking import FAMILIES, Draw, Family
from onellm_ros.simulation.truth import Truth

FOLLOWED: frozenset[Family] = frozenset((
    objects.object_largest, objects.object_only, objects.object_place, objects.object_nearest,
    objects.colour, objects.count_all, objects.presence_place, objects.place,
    objects.place_nearest, objects.near_or_far, objects.distance, senses.clear_way,
    senses.clear_space, senses.motion_what, senses.sound_what, senses.moving_any,
    senses.moving_what, senses.moving_way))
_DRAWS = 30                     # of a family with slots: it has at most some ten of them
_CLOSED = frozenset(('yes', 'no', 'near', 'far'))       # of two answers each denies the other
Key = tuple[str, tuple[tuple[str, str], ...]]           # family and slots
Pool = Mapping[Key, Draw]


@lru_cache(maxsize=256)
def pool(truth: Truth, modality: Modality) -> Pool:
    """Return the followed questions that a modality can answer about a truth, before wording."""
    rng = np.random.default_rng(7)
    found: dict[Key, Draw] = {}
    for families in FAMILIES[modality].values():
        for family in dict.fromkeys(families):
            if family not in FOLLOWED:
                continue
            for _ in range(_DRAWS):
                draw = family(truth, modality, rng)
                if draw is not None:
                    found.setdefault((draw.family, tuple(sorted(draw.slots.items()))), draw)
                if draw is None or not draw.slots:
                    break
    return found


def answers(draw: Draw) -> frozenset[str]:
    """Return what counts as the answer, in the form in which answers compare."""
    return frozenset(normalise(text) for text in (draw.answer, *draw.accept))


def contradictions(one: Pool, other: Pool) -> list[tuple[Draw, Draw]]:
    """Return the questions of both pools to which nothing answers both, sorted.

    Questions with two answers alone are left out: what does not follow the one follows the other.
    """
    both = sorted(one.keys() & other.keys())
    return [(one[key], other[key]) for key in both
            if not answers(one[key]) & answers(other[key])
            and not {one[key].answer, other[key].answer} & _CLOSED]


def drawn(pairs: Sequence[tuple[Draw, Draw]], rng: np.random.Generator, count: int
          ) -> list[tuple[Draw, Draw]]:
    """Draw some pairs, each type of question being equally likely."""
    by_type: dict[str, list[tuple[Draw, Draw]]] = {}
    for pair in pairs:
        by_type.setdefault(pair[0].type, []).append(pair)
    out: list[tuple[Draw, Draw]] = []
    while by_type and len(out) < count:
        name = sorted(by_type)[int(rng.integers(len(by_type)))]
        out.append(by_type[name].pop(int(rng.integers(len(by_type[name])))))
        if not by_type[name]:
            del by_type[name]
    return out
