"""The scene as slots: what each modality token should say, and a scene said without any sensor.

A window's objects are laid out from left to right, one to the modality token whose bearing it is
nearest to. ``SceneEmbedding`` writes such a layout straight into modality tokens, so that the LLM
can learn to answer before there is anything to see; ``SlotHead`` reads it from the tokens that the
UPM makes. Both are thrown away after training. Owns the layout, the two heads and their loss.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from onellm_ros.modality import Modality
from onellm_ros.simulation.captions import COLOUR_TELLING, METRIC, RANGE_TELLING, VISUAL
from onellm_ros.simulation.facts import is_clear
from onellm_ros.simulation.truth import (
    COLOURS,
    FLOORS,
    KINDS,
    MOTIONS,
    PLACES,
    SOUNDS,
    SeenObject,
    Truth,
)
from onellm_ros.training.targets import IGNORE, WAYS, way_of

VIEW_LIMIT_RAD = 0.70           # bearing of the outer edge of the first and the last slot
STEP_M = 0.25                   # bins of distance
DISTANCES = 26                  # the last bin: from 6.25 m on
SIZES = 24                      # bins of the logarithm of an object's share of the picture
LEAST_SIZE, MOST_SIZE = 0.002, 0.5


@dataclass(frozen=True)
class Attribute:
    """One thing to say: its classes and the modalities that can tell it."""

    name: str
    classes: int
    told_by: frozenset[Modality]


_VIEWS = VISUAL - {Modality.FMRI}
SLOT = (
    Attribute('kind', 1 + len(KINDS), VISUAL),          # 0: the slot is empty
    Attribute('place', len(PLACES), VISUAL),
    Attribute('colour', len(COLOURS), COLOUR_TELLING),
    Attribute('metres', DISTANCES, _VIEWS),
    Attribute('size', SIZES, _VIEWS),
    Attribute('clear', 2, _VIEWS),
    Attribute('way', WAYS, frozenset((Modality.VIDEO,))))
SCENE = (
    Attribute('floor', len(FLOORS), RANGE_TELLING),
    Attribute('free', DISTANCES, METRIC),
    Attribute('motion', len(MOTIONS), frozenset((Modality.IMU,))),
    Attribute('sound', len(SOUNDS), frozenset((Modality.AUDIO,))))


def distance_bin(distance_m: float) -> int:
    """Return the bin of a distance, metres."""
    return int(min(DISTANCES - 1, max(0.0, distance_m) / STEP_M))


def size_bin(pixels: float) -> int:
    """Return the bin of a share of the picture."""
    share = math.log(max(pixels, LEAST_SIZE) / LEAST_SIZE) / math.log(MOST_SIZE / LEAST_SIZE)
    return int(min(SIZES - 1, share * SIZES))


@dataclass(frozen=True)
class Seat:
    """An object in its slot; ``other`` is the next best slot beside it or IGNORE."""

    thing: SeenObject
    other: int


def layout(seen: tuple[SeenObject, ...], slots: int, by_place: bool) -> dict[int, Seat]:
    """Give each object a slot, from left to right; who is largest chooses first.

    :param by_place: only left, ahead and right are known: kinds choose in their own order.
    """
    width = 2 * VIEW_LIMIT_RAD / slots
    if by_place:
        seen = tuple(sorted(seen, key=lambda thing: KINDS.index(thing.kind)))
    taken: dict[int, Seat] = {}
    for thing in seen[:slots]:
        bearing = (1 - PLACES.index(thing.place)) * 2 / 3 * VIEW_LIMIT_RAD if by_place \
            else thing.bearing_rad
        wish = (VIEW_LIMIT_RAD - bearing) / width - 0.5
        free = sorted((abs(slot - wish), slot) for slot in range(slots) if slot not in taken)
        best = free[0][1]
        beside = [slot for _, slot in free[1:2] if abs(slot - best) == 1 and not by_place]
        taken[best] = Seat(thing, beside[0] if beside else IGNORE)
    return taken


def _said(thing: SeenObject) -> dict[str, int]:
    return {'kind': 1 + KINDS.index(thing.kind), 'place': PLACES.index(thing.place),
            'colour': list(COLOURS).index(thing.colour), 'metres': distance_bin(thing.distance_m),
            'size': size_bin(thing.pixels), 'clear': int(is_clear(thing)),
            'way': way_of(thing)}


def slot_targets(truth: Truth, modality: Modality, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a modality can tell of a window.

    :returns: int64 [slots, len(SLOT) + 1], the last column the slot beside this one that would do
        as well, and [len(SCENE)]; IGNORE where it cannot tell.
    """
    out = np.full((slots, len(SLOT) + 1), IGNORE, np.int64)
    if modality in VISUAL:
        out[:, 0] = 0
        for slot, seat in layout(truth.seen, slots, modality is Modality.FMRI).items():
            said = _said(seat.thing)
            out[slot, -1] = seat.other
            for column, attribute in enumerate(SLOT):
                if modality in attribute.told_by:
                    out[slot, column] = said[attribute.name]
    scene = {'floor': FLOORS.index(truth.floor), 'free': distance_bin(truth.clear_m),
             'motion': MOTIONS.index(truth.motion), 'sound': SOUNDS.index(truth.sound)}
    return out, np.array([scene[a.name] if modality in a.told_by else IGNORE for a in SCENE])


def _one_hot(values: Tensor, attributes: tuple[Attribute, ...]) -> Tensor:
    """Return [..., sum of classes] of int [..., attributes]; zeros where nothing is said."""
    parts = []
    for column, attribute in enumerate(attributes):
        value = values[..., column]
        known = (value != IGNORE)[..., None]
        parts.append(F.one_hot(value.clamp(min=0), attribute.classes) * known)
    return torch.cat(parts, -1).float()


def _blurred(one_hot: Tensor, most: float) -> Tensor:
    """Mix what is said with other things, as a reader that is not sure would."""
    share = most * torch.rand(one_hot.shape[0], *[1] * (one_hot.ndim - 1), device=one_hot.device)
    other = one_hot[torch.randperm(len(one_hot), device=one_hot.device)]
    return (1 - share) * one_hot + share * other


class SceneEmbedding(nn.Module):
    """Modality tokens of a scene that is told instead of sensed.

    :param dim: of the LLM; :param scale: root mean square of the tokens.
    """

    def __init__(self, dim: int, slots: int, scale: float):
        super().__init__()
        self.slot = nn.Linear(sum(a.classes for a in SLOT), dim, bias=False)
        self.scene = nn.Linear(sum(a.classes for a in SCENE), dim, bias=False)
        self.order = nn.Parameter(torch.zeros(slots, dim))
        for weight in (self.slot.weight, self.scene.weight, self.order):
            nn.init.normal_(weight)
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, slots: Tensor, scene: Tensor, blur: float = 0.0) -> Tensor:
        """Return tokens [B, M, dim] of the targets [B, M, len(SLOT) + 1] and [B, len(SCENE)].

        :param blur: how unsure the tokens may be, 0..1 (training of the LLM).
        """
        said, whole = _one_hot(slots, SLOT), _one_hot(scene, SCENE)
        if blur:
            said, whole = _blurred(said, blur), _blurred(whole, blur)
        tokens = self.norm(self.slot(said) + self.scene(whole)[:, None] + self.order)
        if blur:
            size = blur * torch.rand(len(tokens), 1, 1, device=tokens.device)
            tokens = tokens + size * self.norm.weight.mean().detach() * torch.randn_like(tokens)
        return tokens


class SlotHead(nn.Module):
    """Reads the layout from modality tokens; each token is asked for its own slot only."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.slot = nn.Linear(dim, sum(a.classes for a in SLOT))
        self.scene = nn.Linear(dim, sum(a.classes for a in SCENE))

    @torch.no_grad()
    def settle(self, tokens: Tensor, slots: Tensor) -> Tensor:
        """Let each object move to the slot beside it if that is where the tokens show it.

        An object on the border between two slots may stand in either: without this, both would
        learn to be half sure.

        :param slots: int64 [B, M, len(SLOT) + 1] as ``slot_targets`` gives it.
        :returns: the same with some objects moved; as many of each as before.
        """
        out = slots.clone()
        scores = self.slot(self.norm(tokens.float()))[..., :SLOT[0].classes]
        log_p = torch.log_softmax(scores.float(), -1)
        row = torch.arange(len(out), device=out.device)
        for slot in range(out.shape[1]):
            kind, there = out[:, slot, 0].clamp(min=0), out[:, slot, -1].clamp(min=0)
            free = (out[:, slot, 0] > 0) & (out[:, slot, -1] != IGNORE) & (out[row, there, 0] == 0)
            stays = log_p[row, slot, kind] + log_p[row, there, 0]
            moves = log_p[row, there, kind] + log_p[row, slot, 0]
            go = torch.nonzero(free & (moves > stays))[:, 0]
            out[go, there[go]] = out[go, slot]
            out[go, there[go], -1] = IGNORE
            out[go, slot] = IGNORE
            out[go, slot, 0] = 0
        return out

    def loss(self, tokens: Tensor, slots: Tensor, scene: Tensor
             ) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss of all that is told and the share right of each attribute."""
        tokens = self.norm(tokens.float())
        total = tokens.new_zeros(())
        accuracy = {}
        for read, values, attributes in ((self.slot(tokens), slots, SLOT),
                                         (self.scene(tokens.mean(1)), scene, SCENE)):
            for column, logits in enumerate(read.split([a.classes for a in attributes], -1)):
                name, wanted = attributes[column].name, values[..., column]
                known = wanted != IGNORE
                if not bool(known.any()):
                    continue
                chosen, wanted = logits.float()[known], wanted[known]
                total = total + F.cross_entropy(chosen, wanted)
                counted = wanted > 0 if name == 'kind' else wanted >= 0    # empty slots are easy
                right = (chosen.argmax(-1) == wanted)[counted]
                accuracy[name] = float(right.float().mean()) if len(right) else math.nan
        return total, {k: v for k, v in accuracy.items() if not math.isnan(v)}
