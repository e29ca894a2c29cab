"""What a trainer is given: one batch, which share of it a rank takes, and who makes batches.

Item ``index`` of a source of batches depends only on stage, seed and index, so that a resumed run
sees what the first would have seen, and so that all ranks and parts together see what one alone
would.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality, spec_of
from onellm_ros.model.modality_tokenizers import PICTURES
from onellm_ros.training.counts import Counts, count_terms
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.heads import Cells
from onellm_ros.training.templates import Packed


@dataclass(frozen=True)
class Split:
    """Each batch is cut into ``ranks`` x ``accumulate`` parts; a rank takes its own in turn."""

    rank: int = 0
    ranks: int = 1
    accumulate: int = 1

    @property
    def parts(self) -> int:
        """Parts of a batch."""
        return self.ranks * self.accumulate

    def place(self, index: int) -> tuple[int, int]:
        """Return step and part of this rank's item ``index``."""
        step, turn = divmod(index, self.accumulate)
        return step, self.rank * self.accumulate + turn

    def samples(self, part: int, count: int) -> range:
        """Return which of ``count`` samples a part holds.

        :raises TrainingError: if there are fewer samples than parts.
        """
        if count < self.parts:
            raise TrainingError(f'found a batch of {count} for {self.ranks} ranks '
                                f'with {self.accumulate} parts each, expected a sample at least '
                                'for each part; take a larger batch, fewer ranks or less '
                                'accumulation')
        return range(part * count // self.parts, (part + 1) * count // self.parts)


@dataclass
class Batch:
    """A batch, or one part of it; ``inputs`` are the tensors that the modality tokenizers take.

    :param modalities: none for text alone. :param names: of its samples, for messages.
    :param targets: of the facts heads. :param slots: of ``slots.slot_targets``, stacked.
    :param cells: of the dense heads; of clouds by group (``counts.on_groups``).
    :param counts: what its losses are divided by. :param skipped: what is broken and left out.
    """

    modalities: tuple[Modality, ...]
    inputs: dict[Modality, Tensor]
    names: list[str]
    targets: dict[str, Tensor] = field(default_factory=dict)
    text: Packed | None = None
    slots: dict[Modality, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cells: Cells | None = None
    counts: Counts = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def title(self) -> str:
        """Its modality, ``several`` or ``text``."""
        if not self.modalities:
            return 'text'
        return self.modalities[0].value if len(self.modalities) == 1 else 'several'

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        if device.type == 'cpu':
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self, inputs={m: moved(x) for m, x in self.inputs.items()},
            text=self.text and self.text.to(device),
            targets={k: moved(v) for k, v in self.targets.items()},
            slots={m: (moved(a), moved(b)) for m, (a, b) in self.slots.items()},
            cells=self.cells and self.cells.to(device))


def counted(batch: Batch) -> Batch:
    """Give a batch its counts; returns it."""
    batch.counts = count_terms(batch.targets, batch.slots, batch.cells,
                               None if batch.text is None else batch.text.labels, len(batch))
    return batch


class StageBatches(Protocol):
    """Makes the batches of one stage; items count parts of this rank over the whole stage."""

    def __getitem__(self, index: int) -> Batch:
        """Return the part ``index`` of this rank."""

    def present(self) -> list[tuple[Modality, ...]]:
        """Return the sets of modalities that batches may hold."""

    def only(self, present: tuple[Modality, ...]) -> StageBatches:
        """Return batches of one of the sets alone."""

    def inputs(self, modality: Modality, count: int) -> Tensor:
        """Return some tokenizer inputs of a modality, [count, ...]."""


def blank_input(modality: Modality, config: ModelConfig) -> Tensor:
    """Return an input of zeros of one sample, [1, ...]: what stands for a part without any."""
    tokenizer, size = config.tokenizer, config.encoder.image_size
    spec = spec_of(modality)
    if spec is not None:
        return torch.zeros((1, *spec.shape))
    frames = {Modality.VIDEO: tokenizer.video_frames, Modality.IMAGE: 0}.get(modality, 2)
    if modality in PICTURES:
        return torch.zeros((1, frames, 3, size, size) if frames else (1, 3, size, size))
    return torch.zeros({
        Modality.AUDIO: (1, 1, tokenizer.audio_mels, tokenizer.audio_frames),
        Modality.POINT: (1, tokenizer.points, 6), Modality.IMU: (1, 6, tokenizer.imu_samples),
        Modality.FMRI: (1, 1, tokenizer.fmri_voxels)}[modality])
