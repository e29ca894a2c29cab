"""Batches from annotated sensor files: the data sets of a manifest (``onellm_ros.datasets``)."""

from __future__ import annotations

from collections.abc import Mapping
import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from onellm_ros.config import ModelConfig
from onellm_ros.datasets import Mix, MixBatches
from onellm_ros.datasets.config import TEXT
from onellm_ros.datasets.shuffle import key_of
from onellm_ros.modality import Modality
from onellm_ros.model.text import Text
from onellm_ros.training.batches import Batch, Split, blank_input, counted
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.stages import Stage
from onellm_ros.training.templates import (
    Segment,
    caption_segment,
    conversation_segment,
    pack_segments,
)


def weights_of(stage: Stage) -> Mapping[str, float] | None:
    """Return the frequency of each modality by name; None: as the manifest says."""
    if not stage.sets:
        return None
    return {present[0].value if present else TEXT: share for present, share in stage.sets}


class ManifestBatches(Dataset[Batch]):
    """The batches of a stage from a manifest; a batch has one modality.

    :param mix: its data sets. :param steps: length of the stage. :param seed: of the order.
    :param split: which parts of the batches these are.
    :raises DataError: if the mix lacks a modality of the stage.
    :raises TrainingError: if the batch cannot be shared.
    """

    def __init__(self, mix: Mix, stage: Stage, config: ModelConfig, text: Text, *,
                 seed: int = 0, split: Split = Split()):
        self.mix = Mix(mix.sets, seed=key_of(seed, *stage.name.encode()),
                       weights=weights_of(stage))
        self.stage, self.config, self.text = stage, config, text
        self.seed, self.split = seed, split
        if stage.batch % split.parts:
            raise TrainingError(f'found a batch of {stage.batch} for {split.ranks} ranks with '
                                f'{split.accumulate} parts each, expected a multiple of '
                                f'{split.parts}')
        first = MixBatches(self.mix, batch=stage.batch, steps=max(1, stage.steps),
                           rank=split.rank * split.accumulate, ranks=split.parts)
        self._parts = []
        for turn in range(split.accumulate):
            part = copy.copy(first)                     # they share the order of the steps
            part.rank += turn
            self._parts.append(part)
        room = config.llm.max_positions - (config.upm.modality_tokens + 3)
        self.limit = min(stage.max_tokens or room, room)

    def present(self) -> list[tuple[Modality, ...]]:
        """Return the sets of modalities that batches may hold; text is an empty one."""
        return [() if name == TEXT else (Modality(name),) for name in self.mix.modalities]

    def only(self, present: tuple[Modality, ...]) -> ManifestBatches:
        """Return batches of one modality alone."""
        return ManifestBatches(self.mix, replace(self.stage, sets=((present, 1.0),)), self.config,
                               self.text, seed=self.seed, split=self.split)

    def inputs(self, modality: Modality, count: int) -> Tensor:
        """Return the tokenizer inputs of some examples of a modality."""
        mix = Mix(self.mix.sets, seed=self.seed, weights={modality.value: 1.0})
        tensor = MixBatches(mix, batch=count, steps=1)[0].tensor
        return blank_input(modality, self.config) if tensor is None else tensor

    def __getitem__(self, index: int) -> Batch:
        """Read the part ``index`` of this rank."""
        step, turn = divmod(index, self.split.accumulate)
        found = self._parts[turn][step]
        modality = found.modality
        tensor, rows = found.tensor, []
        for turns, kind, name in zip(found.turns, found.kinds, found.sets, strict=True):
            rows.append([self._segment(turns, kind, name)])
        if not rows:
            # All of it is broken: the ranks go on together, this one with nothing to learn.
            rows = [[]]
            tensor = None if modality is None else blank_input(modality, self.config)
        inputs = {} if modality is None or tensor is None else {modality: tensor.to(torch.float32)}
        names = [f'{path} (row {row} of {name})' for path, row, name in zip(
            found.paths, found.rows, found.sets, strict=True)]
        return counted(Batch(
            () if modality is None else (modality,), inputs, names,
            text=pack_segments(rows, self.text.pad),
            skipped=tuple(str(one) for one in found.skipped)))

    def _segment(self, turns: tuple[tuple[str, str], ...], kind: str, name: str) -> Segment:
        if kind == 'alignment':
            segment = caption_segment(self.text, turns[0][1])
        else:
            segment = conversation_segment(self.text, turns, name)
        return segment.within(self.limit)
