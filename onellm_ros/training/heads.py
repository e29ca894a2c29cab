"""Heads that exist only while a small model is trained.

``DenseHead`` reads what each patch shows from the encoder's tokens, ``FactsHead`` reads the facts
of ``targets.py`` from pooled encoder tokens or from the modality tokens that the LLM will get.
Shipped weights hold neither. Owns the heads and their losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from onellm_ros.simulation.truth import COLOURS, KINDS
from onellm_ros.training.shards import FIRST_KIND, GRID
from onellm_ros.training.shards import IGNORE as DENSE_IGNORE
from onellm_ros.training.targets import IGNORE, TARGETS

ROOM_WEIGHT = 0.25              # of floor and walls, which fill most cells


class DenseHead(nn.Module):
    """Kind, colour and distance of the cells below each patch.

    :param width: encoder width; :param patches: patches a side of the picture (divides GRID).
    """

    def __init__(self, width: int, patches: int):
        super().__init__()
        if GRID % patches:
            raise ValueError(f'{patches} patches a side do not divide the {GRID} label cells; '
                             'choose image_size / patch_size among 1, 2, 4, 8, 16')
        self.cells = GRID // patches
        self.patches = patches
        self.kinds = FIRST_KIND + len(KINDS)
        self.out = nn.Linear(width, self.cells ** 2 * (self.kinds + len(COLOURS) + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, GRID, GRID, kinds + colours + 1] from patch tokens [B, patches^2, D]."""
        p, c = self.patches, self.cells
        out = self.out(tokens).view(-1, p, p, c, c, self.kinds + len(COLOURS) + 1)
        return out.permute(0, 1, 3, 2, 4, 5).reshape(-1, p * c, p * c, out.shape[-1])

    def loss(self, tokens: Tensor, dense: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the share of cells whose kind is right.

        :param dense: uint8 [B, GRID, GRID, 2].
        :param distance: [B, GRID, GRID] metres, NaN unknown.
        """
        out = self(tokens).float()
        kind, colour = dense[..., 0].long(), dense[..., 1].long()
        logits = out[..., :self.kinds].flatten(0, 2)
        known = kind.flatten() != DENSE_IGNORE
        weight = torch.ones(self.kinds, device=logits.device)
        weight[:FIRST_KIND] = ROOM_WEIGHT
        loss = F.cross_entropy(logits, kind.flatten(), weight, ignore_index=DENSE_IGNORE)
        loss = loss + 0.5 * F.cross_entropy(
            out[..., self.kinds:-1].flatten(0, 2), colour.flatten(), ignore_index=DENSE_IGNORE)
        measured = torch.isfinite(distance)
        error = (out[..., -1] - torch.log1p(torch.nan_to_num(distance.float())))[measured]
        loss = loss + F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
        objects = known & (kind.flatten() >= FIRST_KIND)
        right = (logits.argmax(-1) == kind.flatten())[objects].float().mean()
        return loss, right


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
