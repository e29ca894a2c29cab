"""Heads that exist only while a small model is trained.

``DenseHead`` reads from the encoder's tokens what each patch shows, ``WayHead`` where its object
goes, ``CloudHead`` what each group of a cloud belongs to, ``FactsHead`` the facts of
``targets.py``, pooled over all tokens. Shipped weights hold none of them. Owns the heads and
their losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.truth import COLOURS, KINDS
from onellm_ros.training.shards import FIRST_KIND, GRID
from onellm_ros.training.shards import IGNORE as DENSE_IGNORE
from onellm_ros.training.targets import IGNORE, OWNER, TARGETS, WAYS

ROOM_WEIGHT = 0.25              # of floor and walls, which fill most cells
OWNER_WEIGHT = 2.0              # of the bearing and the size of a cell's object
CELL_KINDS = FIRST_KIND + len(KINDS)
CELL_OUTPUTS = CELL_KINDS + len(COLOURS) + 1 + OWNER
STILL_WEIGHT = 0.2              # of the ways of objects that do not move, which most do not
SAME_PLACE_M = 0.25             # a group of points this close to a cell's surface belongs to it


@dataclass
class Cells:
    """What the cells of a picture show (see ``shards.dense_labels``).

    :param dense: uint8 [B, GRID, GRID, 2]. :param distance: float32 [B, GRID, GRID] metres, NaN
        unknown. :param owner: float32 [B, GRID, GRID, OWNER] as ``targets.cell_owners`` gives it,
        NaN unknown. :param way: uint8 [B, GRID, GRID] of a video, as ``targets.cell_ways`` gives
        it.
    """

    dense: Tensor
    distance: Tensor
    owner: Tensor
    way: Tensor | None = None

    def to(self, device: torch.device) -> Cells:
        """Return the same on a device."""
        return Cells(self.dense.to(device), self.distance.to(device), self.owner.to(device),
                     None if self.way is None else self.way.to(device))


def cell_loss(out: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Return the loss and the share of object cells whose kind is right (NaN without objects).

    :param out: [..., CELL_OUTPUTS] predictions; the labels have the same leading shape.
    """
    out = out.float()
    kind, colour = cells.dense[..., 0].long().flatten(), cells.dense[..., 1].long().flatten()
    logits = out[..., :CELL_KINDS].flatten(0, -2)
    weight = torch.ones(CELL_KINDS, device=logits.device)
    weight[:FIRST_KIND] = ROOM_WEIGHT
    colours = out[..., CELL_KINDS:CELL_KINDS + len(COLOURS)].flatten(0, -2)
    loss = out.new_zeros(())
    if bool((kind != DENSE_IGNORE).any()):
        loss = loss + F.cross_entropy(logits, kind, weight, ignore_index=DENSE_IGNORE)
    if bool((colour != DENSE_IGNORE).any()):
        loss = loss + 0.5 * F.cross_entropy(colours, colour, ignore_index=DENSE_IGNORE)
    wanted = torch.cat([torch.log1p(cells.distance.float())[..., None], cells.owner.float()], -1)
    for column, share in enumerate((1.0, *[OWNER_WEIGHT] * OWNER), -1 - OWNER):
        measured = torch.isfinite(wanted[..., column])
        error = (out[..., column] - wanted[..., column])[measured]
        if len(error):
            loss = loss + share * F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
    objects = (kind != DENSE_IGNORE) & (kind >= FIRST_KIND)
    return loss, (logits.argmax(-1) == kind)[objects].float().mean()


class DenseHead(nn.Module):
    """What the cells below each patch show: kind, colour, distance, and whose part they are.

    The bearing and the size of the whole object that a cell belongs to make patches look beyond
    themselves and tell where they are.

    :param width: encoder width; :param patches: patches a side of the picture (divides GRID).
    """

    def __init__(self, width: int, patches: int):
        super().__init__()
        if GRID % patches:
            raise ValueError(f'{patches} patches a side do not divide the {GRID} label cells; '
                             'choose image_size / patch_size among 1, 2, 4, 8, 16')
        self.cells = GRID // patches
        self.patches = patches
        self.out = nn.Linear(width, self.cells ** 2 * CELL_OUTPUTS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, GRID, GRID, CELL_OUTPUTS] from patch tokens [B, patches^2, D]."""
        p, c = self.patches, self.cells
        out = self.out(tokens).view(-1, p, p, c, c, CELL_OUTPUTS)
        return out.permute(0, 1, 3, 2, 4, 5).reshape(-1, p * c, p * c, out.shape[-1])


class WayHead(nn.Module):
    """Where the object behind each cell goes, from the patches around it.

    A patch alone shows that something was there earlier or later; where it went, its neighbours
    know, and whether the robot itself turned.

    :param width: encoder width; :param patches: patches a side of the picture (divides GRID).
    """

    def __init__(self, width: int, patches: int, hidden: int = 64):
        super().__init__()
        self.patches, self.cells = patches, GRID // patches
        self.body = nn.Sequential(
            nn.Conv2d(width, hidden, 5, padding=2), nn.GELU(),
            nn.Conv2d(hidden, hidden, 5, padding=2), nn.GELU(),
            nn.Conv2d(hidden, self.cells ** 2 * WAYS, 1), nn.PixelShuffle(self.cells))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, WAYS, GRID, GRID] from patch tokens [B, patches^2, D]."""
        out: Tensor = self.body(tokens.transpose(1, 2).unflatten(2, (self.patches, -1)))
        return out

    def loss(self, tokens: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss, of cells that are still by STILL_WEIGHT, and rights of movers.

        :param way: uint8 [B, GRID, GRID], DENSE_IGNORE unknown.
        """
        logits, known = self(tokens).float().movedim(1, -1), way != DENSE_IGNORE
        weight = torch.ones(WAYS, device=way.device)
        weight[0] = STILL_WEIGHT
        loss = F.cross_entropy(logits[known], way[known].long(), weight, reduction='sum')
        moving = known & (way > 0)
        return loss, (logits.argmax(-1) == way)[moving].float().sum()


class CloudHead(nn.Module):
    """What each group of a cloud shows: the same as the cell of the picture that it lies on.

    :param width: encoder width.
    """

    def __init__(self, width: int):
        super().__init__()
        self.out = nn.Linear(width, CELL_OUTPUTS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, C, CELL_OUTPUTS] from group tokens [B, C, D]."""
        return self.out(tokens)


def cells_at(cells: Cells, places: Tensor, camera: Camera) -> Cells:
    """Return what the cells show that lie at some places; unknown off every cell.

    :param places: [B, C, 3] metres in the robot's frame.
    :param camera: took the picture of the cells (as the robot stands).
    :returns: dense [B, C, 2], distance [B, C], owner [B, C, OWNER].
    """
    there = cell_positions(cells.distance, camera)
    far, nearest = torch.cdist(places.float(), there.nan_to_num(1e6)).min(-1)
    lost = (far > SAME_PLACE_M)[..., None]

    def at(labels: Tensor, nothing: float) -> Tensor:
        rows = labels.flatten(1, 2)
        picked = rows.gather(1, nearest[..., None].expand(-1, -1, rows.shape[-1]))
        return picked.masked_fill(lost, nothing)

    return Cells(at(cells.dense, DENSE_IGNORE), at(cells.distance[..., None], torch.nan)[..., 0],
                 at(cells.owner, torch.nan))


def cell_positions(distance: Tensor, camera: Camera) -> Tensor:
    """Return where the surfaces behind the cells of a picture lie.

    :param distance: [B, GRID, GRID] metres along the optical axis, NaN unknown.
    :returns: [B, GRID^2, 3] metres in the robot's frame (x ahead, y left, z up), NaN unknown.
    """
    fx, fy, cx, cy = camera.intrinsics
    at, axes = camera.placed(Pose(0.0, 0.0))
    middle = (np.arange(GRID) + 0.5) / GRID
    u, v = np.meshgrid((middle * camera.width - cx) / fx, (middle * camera.height - cy) / fy)
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ axes.T
    return (distance.float().flatten(1)[..., None] * distance.new_tensor(rays, dtype=torch.float32)
            + distance.new_tensor(at, dtype=torch.float32))


class FactsHead(nn.Module):
    """The facts of a window from one vector."""

    def __init__(self, width: int, hidden: int = 256):
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.out = nn.Linear(hidden, sum(t.items * t.classes for t in TARGETS))

    def forward(self, vector: Tensor) -> dict[str, Tensor]:
        """Return logits [B, items, classes] a target group."""
        parts = self.out(self.body(vector)).split([t.items * t.classes for t in TARGETS], -1)
        return {t.name: part.view(-1, t.items, t.classes)
                for t, part in zip(TARGETS, parts, strict=True)}

    def loss(self, vector: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of the groups that have a target and the accuracy of each."""
        total = vector.new_zeros((), dtype=torch.float32)
        accuracy = {}
        for name, logits in self(vector).items():
            target = targets[name]
            known = target != IGNORE
            if not bool(known.any()):
                continue
            chosen, wanted = logits.float()[known], target[known]
            total = total + F.cross_entropy(chosen, wanted)
            accuracy[name] = (chosen.argmax(-1) == wanted).float().mean()
        return total, accuracy


def pooled(features: Tensor) -> Tensor:
    """Return mean and maximum over tokens, [B, 2 D], of encoder features [B, N, D]."""
    return torch.cat([features.mean(1), features.amax(1)], -1)
