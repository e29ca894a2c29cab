"""What data sets give: one example, and a batch of them for a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onellm_ros.datasets.errors import Broken
from onellm_ros.modality import Modality

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Example:
    """One signal and what is said about it.

    :param modality: None for text alone.
    :param tensor: the input of the modality's tokenizer without a batch dimension, float32: image
        [3, S, S]; video [T, 3, S, S]; depth and normal [2, 3, S, S], the colour picture first;
        audio [1, mels, frames]; point [N, 6]; imu [6, n]; fmri [1, V]. None for text.
    :param turns: (question, answer) pairs in order; an alignment has one, with an empty question:
        its answer, the caption, follows the signal without any template.
    :param kind: ``instruction`` or ``alignment``.
    :param path: the sensor file (of depth and normals: theirs, not the colour picture's); of text
        the annotation file.
    :param set: name of the data set; :param row: its number there.
    """

    modality: Modality | None
    tensor: Tensor | None
    turns: Turns
    kind: str
    path: str
    set: str
    row: int


@dataclass(eq=False)
class ExampleBatch:
    """Examples of one modality; what was skipped is told, nothing stands in its place.

    :param modality: None for text. :param tensor: [B, ...] as :class:`Example`; None for text and
        where nothing is left.
    :param skipped: what is broken among those that were to be in this batch.
    """

    modality: Modality | None
    tensor: Tensor | None
    turns: list[Turns] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    skipped: tuple[Broken, ...] = ()

    def __len__(self) -> int:
        return len(self.turns)

    def pin_memory(self) -> ExampleBatch:
        """Put the tensor into page-locked memory, as DataLoader's ``pin_memory`` asks."""
        if self.tensor is not None:
            self.tensor = self.tensor.pin_memory()
        return self


def collate(items: Sequence[Example | Broken], modality: Modality | None = None) -> ExampleBatch:
    """Make a batch; may be given to a DataLoader as ``collate_fn``.

    :param items: examples of one modality, and what was skipped.
    :param modality: of the batch, where nothing but broken ones is left.
    :raises ValueError: for examples of several modalities.
    """
    good = [item for item in items if isinstance(item, Example)]
    senses = {item.modality for item in good}
    if len(senses) > 1:
        raise ValueError(f'found {sorted(str(s) for s in senses)} in one batch, expected one '
                         'modality; take batches from MixBatches, or from one data set')
    tensors = [item.tensor for item in good if item.tensor is not None]
    return ExampleBatch(
        next(iter(senses), modality), torch.stack(tensors) if tensors else None,
        [item.turns for item in good], [item.kind for item in good], [item.path for item in good],
        [item.set for item in good], [item.row for item in good],
        tuple(item for item in items if isinstance(item, Broken)))
