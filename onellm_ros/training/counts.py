"""What the terms of a loss are divided by: how many things of each kind a batch says.

A part of a batch gives sums; divided by the counts of the whole batch they add up to what the
whole would have given, whatever it is cut into. Owns the names of the terms and their counts, and
which cell of the picture each group of a cloud lies on.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.points import farthest_points
from onellm_ros.preprocess.points import METRIC_SCALE_M
from onellm_ros.simulation.render import Camera
from onellm_ros.training.heads import ROOM_WEIGHT, STILL_WEIGHT, Cells, cells_at
from onellm_ros.training.shards import FIRST_KIND
from onellm_ros.training.shards import IGNORE as NO_CELL
from onellm_ros.training.slots import SCENE, SLOT
from onellm_ros.training.targets import IGNORE, OWNER, TARGETS

Counts = dict[str, float]
ANSWERS, SAMPLES, OBJECTS = 'answers', 'samples', 'cells/objects'
WAY, MOVERS = 'cells/way', 'cells/movers'


def on_groups(cells: Cells, cloud: Tensor, config: ModelConfig) -> Cells:
    """Return what each group of a cloud shows: the labels of the cell that it lies on.

    :param cells: of the picture, as ``heads.Cells`` says. :param cloud: [B, N, 6], metric frame.
    :returns: dense [B, C, 2], distance [B, C], owner [B, C, OWNER]; unknown off every cell.
    """
    channel = config.tokenizer.point_grouping_channel
    chosen = farthest_points(cloud[..., channel:channel + 3].contiguous(),
                             config.tokenizer.point_centres)
    centres = METRIC_SCALE_M * cloud[..., :3].gather(1, chosen[..., None].expand(-1, -1, 3))
    return cells_at(cells, centres, Camera())


def cell_terms(cells: Cells) -> Iterator[tuple[str, Cells, float]]:
    """Yield name, labels of this term alone, and count of each term of ``heads.cell_loss``."""
    nothing = Cells(torch.full_like(cells.dense, NO_CELL),
                    torch.full_like(cells.distance, torch.nan),
                    torch.full_like(cells.owner, torch.nan))
    kind, colour = cells.dense[..., 0], cells.dense[..., 1]
    for column, name in enumerate(('kind', 'colour')):
        dense = nothing.dense.clone()
        dense[..., column] = cells.dense[..., column]
        # The room's kinds weigh less, in the loss and so in what it is divided by.
        count = float(((kind != NO_CELL) * torch.where(kind < FIRST_KIND, ROOM_WEIGHT, 1.0)).sum()
                      if name == 'kind' else (colour != NO_CELL).sum())
        yield f'cells/{name}', Cells(dense, nothing.distance, nothing.owner), count
    known = torch.isfinite(torch.log1p(cells.distance.float()))
    yield ('cells/distance', Cells(nothing.dense, cells.distance, nothing.owner),
           float(known.sum()))
    for column in range(OWNER):
        owner = nothing.owner.clone()
        owner[..., column] = cells.owner[..., column]
        yield (f'cells/owner {column}', Cells(nothing.dense, nothing.distance, owner),
               float(torch.isfinite(owner).sum()))


def slot_terms(slots: Tensor, scene: Tensor, modality: Modality
               ) -> Iterator[tuple[str, str, Tensor, Tensor, float]]:
    """Yield term, attribute, slots and scene of this attribute alone, and count of each."""
    for table, attributes in ((slots, SLOT), (scene, SCENE)):
        for column, attribute in enumerate(attributes):
            alone = torch.full_like(table, IGNORE)
            alone[..., column] = table[..., column]
            pair = (alone, torch.full_like(scene, IGNORE)) if attributes is SLOT \
                else (torch.full_like(slots, IGNORE), alone)
            yield (f'slots/{modality}/{attribute.name}', attribute.name, *pair,
                   float((alone != IGNORE).sum()))


def seen_name(modality: Modality) -> str:
    """Return the name of the count of slots that hold something."""
    return f'seen/{modality}'


def count_terms(targets: dict[str, Tensor], slots: dict[Modality, tuple[Tensor, Tensor]],
                cells: Cells | None, labels: Tensor | None, samples: int) -> Counts:
    """Return the counts of a batch; the names depend on stage and modality alone."""
    out: Counts = {SAMPLES: float(samples)}
    if labels is not None:
        out[ANSWERS] = float((labels != IGNORE).sum())
    for target in TARGETS if targets else ():
        out[f'facts/{target.name}'] = float((targets[target.name] != IGNORE).sum())
    for modality, (slot, scene) in slots.items():
        out.update({term: count for term, _, _, _, count in slot_terms(slot, scene, modality)})
        out[seen_name(modality)] = float((slot[..., 0] > 0).sum())
    if cells is not None:
        out.update({term: count for term, _, count in cell_terms(cells)})
        kind = cells.dense[..., 0]
        out[OBJECTS] = float(((kind != NO_CELL) & (kind >= FIRST_KIND)).sum())
        if cells.way is not None:
            out[MOVERS] = float(((cells.way != NO_CELL) & (cells.way > 0)).sum())
            out[WAY] = out[MOVERS] + STILL_WEIGHT * float((cells.way == 0).sum())
    return out
