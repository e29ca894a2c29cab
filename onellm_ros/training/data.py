"""Batches from rendered worlds, and from scenes that are told: signals, questions, targets.

Everything drawn for a sample comes from a generator of its own (seed, stage, step, place in the
batch), so a part of a batch holds what the whole one would hold at these places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import zlib

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onellm_ros.config import ModelConfig
from onellm_ros.modality import PROMPT_ORDER, Modality
from onellm_ros.model.text import Text
from onellm_ros.preprocess import normalise, standardise_imu
from onellm_ros.simulation import language
from onellm_ros.simulation.truth import Truth
from onellm_ros.training.batches import Batch, Split, counted
from onellm_ros.training.counts import on_groups
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.heads import Cells
from onellm_ros.training.mirror import MIRRORED, mirror_signal, mirror_truth
from onellm_ros.training.shards import Shards
from onellm_ros.training.slots import slot_targets
from onellm_ros.training.stages import Stage
from onellm_ros.training.targets import (
    TARGETS,
    cell_owners,
    cell_ways,
    told_by,
    truth_targets,
)
from onellm_ros.training.templates import Segment, pack_segments

REFRESH_STEPS = 50
WITH_CELLS = (Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL, Modality.POINT)
MOVING = 0.5                    # share of video batches taken from worlds where something moves
NO_COLOUR = 0.15                # share of depth and normal batches without a colour camera
_CHEAP = (Modality.AUDIO, Modality.IMU, Modality.POINT, Modality.FMRI)
Generators = Sequence[np.random.Generator]


def _jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast and colour balance of uint8 [H, W, 3], as cameras do."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    offset = rng.uniform(-18, 18)
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 5)
    return np.clip((image - 110.0) * gain + 110.0 + offset + noise, 0, 255).astype(np.uint8)


def model_input(shards: Shards, worlds: list[int], modality: Modality, config: ModelConfig,
                rngs: Generators | None = None, mirrored: bool = False, colour: bool = True
                ) -> Tensor:
    """Return the tokenizer input of one modality for some worlds.

    :param rngs: vary pictures as cameras do, one a world; None: as rendered (evaluation).
    :param mirrored: exchange left and right.
    :param colour: depth and normals have the colour picture beside them.
    """
    def picture(array: np.ndarray) -> Tensor:
        return normalise(torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, -3) / 255)

    raw = shards.rows(worlds, modality.value)
    if mirrored:
        raw = mirror_signal(raw, modality.value)
    if modality is Modality.IMAGE:
        if rngs is not None:
            raw = np.stack([_jitter(one, rng) for one, rng in zip(raw, rngs, strict=True)])
        return picture(raw)
    if modality is Modality.VIDEO:
        frames = raw.reshape(-1, *raw.shape[2:])
        return picture(frames).unflatten(0, raw.shape[:2])            # [B, T, 3, S, S]
    tensor = torch.from_numpy(raw.astype(np.float32))
    if modality in (Modality.DEPTH, Modality.NORMAL):
        if not colour:
            return tensor[:, None]                                    # [B, 1, 3, S, S]
        beside = model_input(shards, worlds, Modality.IMAGE, config, rngs, mirrored)
        return torch.stack([beside, tensor], 1)                       # [B, 2, 3, S, S]
    if modality is Modality.IMU:
        tensor = tensor.transpose(1, 2)                               # [B, 6, n]
        return standardise_imu(tensor) if config.tokenizer.imu_standardise else tensor
    return tensor[:, None] if modality is Modality.FMRI else tensor


class WorldBatches(Dataset[Batch]):
    """The batches of a stage from rendered worlds, or of told scenes (kind ``language``).

    :param folder: where the shards are; :param seed: varies order and wordings.
    :param split: which parts of the batches these are.
    :param as_rendered: do not vary signals (evaluation); the wordings are those of training.
    """

    def __init__(self, folder: str | Path, stage: Stage, config: ModelConfig, text: Text, *,
                 seed: int = 0, split: Split = Split(), as_rendered: bool = False):
        self.shards = Shards(Path(folder))
        self.stage, self.config, self.text = stage, config, text
        self.seed, self.split, self.as_rendered = seed, split, as_rendered
        weights = np.array([w for _, w in stage.sets], float)
        self.weights = weights / weights.sum()
        self._key = zlib.crc32(stage.name.encode())
        self._built = 0

    def present(self) -> list[tuple[Modality, ...]]:
        """Return the sets of modalities that batches may hold."""
        return [present for present, _ in self.stage.sets]

    def only(self, present: tuple[Modality, ...]) -> WorldBatches:
        """Return batches of one of the sets alone."""
        return WorldBatches(self.shards.folder, replace(self.stage, sets=((present, 1.0),)),
                            self.config, self.text, seed=self.seed, split=self.split,
                            as_rendered=self.as_rendered)

    def inputs(self, modality: Modality, count: int) -> Tensor:
        """Return the tokenizer inputs of some worlds, as rendered."""
        self._check()
        rng = np.random.default_rng(self.seed)
        worlds = [int(w) for w in rng.integers(0, len(self.shards), count)]
        return model_input(self.shards, worlds, modality, self.config)

    def _check(self) -> None:
        if not len(self.shards):
            raise TrainingError(f'no rendered worlds in {self.shards.folder}: let '
                                '`onellm train` render some first')

    def size(self, present: tuple[Modality, ...]) -> int:
        """Return the samples of a whole batch of a set of modalities."""
        if self.stage.kind == 'encoder' and present[0] in _CHEAP:
            return 2 * self.stage.batch
        return max(1, self.stage.batch // 2) if len(present) > 2 else self.stage.batch

    def __getitem__(self, index: int) -> Batch:
        """Build the part ``index`` of this rank."""
        self._built += 1
        if self._built % REFRESH_STEPS == 0:
            self.shards.refresh()
        step, part = self.split.place(index)
        rng = np.random.default_rng([self.seed, self._key, step])
        present = self.stage.sets[int(rng.choice(len(self.weights), p=self.weights))][0]
        count = self.size(present)
        mine = self.split.samples(part, count)
        rngs = [np.random.default_rng([self.seed, self._key, step, 1 + place]) for place in mine]
        if self.stage.kind == 'language':
            return self.build_language(present, rngs)
        self._check()
        worlds = rng.integers(0, len(self.shards), count)
        if present == (Modality.VIDEO,) and self.shards.moving and not self.as_rendered:
            moving = np.array(self.shards.moving)
            chosen = rng.random(count) < MOVING
            worlds[chosen] = moving[rng.integers(0, len(moving), int(chosen.sum()))]
        return self.build([int(w) for w in worlds[mine.start:mine.stop]], present, rng, rngs)

    def build_language(self, present: tuple[Modality, ...], rngs: Generators) -> Batch:
        """Build a batch of scenes that are told by their slots, without rendering anything."""
        ordered = tuple(m for m in PROMPT_ORDER if m in present)
        seen = frozenset(ordered)
        truths = [language.random_truth(rng) for rng in rngs]
        rows = [self._segments(t, seen, rng) for t, rng in zip(truths, rngs, strict=True)]
        batch = Batch(ordered, {}, [f'told scene {t.seed}' for t in truths],
                      text=pack_segments(rows, self.text.pad), slots=self._slots(truths, ordered))
        return counted(batch)

    def build(self, worlds: list[int], present: tuple[Modality, ...], rng: np.random.Generator,
              rngs: Generators) -> Batch:
        """Build a batch of given worlds with the given modalities.

        :param rng: for what the whole batch has in common. :param rngs: one for each world.
        """
        varied = not self.as_rendered
        mirrored, colours = rng.random() < 0.5, rng.random(2) >= NO_COLOUR
        colour = {Modality.DEPTH: bool(colours[0]), Modality.NORMAL: bool(colours[1])}
        truths = [self.shards.truth(w) for w in worlds]
        names = [f'world {w} (seed {t.seed})' for w, t in zip(worlds, truths, strict=True)]
        ordered = tuple(m for m in PROMPT_ORDER if m in present)
        seen = frozenset(ordered)
        mirrored = mirrored and varied and seen <= MIRRORED
        if mirrored:
            truths = [mirror_truth(t) for t in truths]
        targets = [told_by(truth_targets(t), seen) for t in truths]
        batch = Batch(ordered, {}, names, {
            t.name: torch.from_numpy(np.stack([row[t.name] for row in targets])) for t in TARGETS})
        batch.slots = self._slots(truths, ordered)
        batch.inputs = {
            m: model_input(self.shards, worlds, m, self.config, rngs if varied else None,
                           mirrored, not varied or colour.get(m, True)) for m in ordered}
        if self.stage.dense and ordered[0] in WITH_CELLS:
            cells = self._cells(worlds, truths, mirrored, ordered[0] is Modality.VIDEO)
            batch.cells = on_groups(cells, batch.inputs[ordered[0]], self.config) \
                if ordered[0] is Modality.POINT else cells
        if self.stage.kind == 'align' and self.stage.answers:
            rows = [self._segments(t, seen, r) for t, r in zip(truths, rngs, strict=True)]
            batch.text = pack_segments(rows, self.text.pad)
        return counted(batch)

    def _cells(self, worlds: list[int], truths: list[Truth], mirrored: bool,
               ways: bool = False) -> Cells:
        dense, distance = self.shards.rows(worlds, 'dense'), self.shards.rows(worlds, 'distance')
        if mirrored:
            dense, distance = mirror_signal(dense, 'dense'), mirror_signal(distance, 'distance')
        owner = np.stack([cell_owners(d, t) for d, t in zip(dense, truths, strict=True)])
        way = [cell_ways(d, t) for d, t in zip(dense, truths, strict=True)] if ways else None
        return Cells(torch.from_numpy(np.ascontiguousarray(dense)),
                     torch.from_numpy(distance.astype(np.float32)), torch.from_numpy(owner),
                     None if way is None else torch.from_numpy(np.stack(way)))

    def _slots(self, truths: list[Truth], ordered: tuple[Modality, ...]
               ) -> dict[Modality, tuple[Tensor, Tensor]]:
        count = self.config.upm.modality_tokens
        out = {}
        for modality in ordered:
            slots, scenes = zip(*(slot_targets(t, modality, count) for t in truths), strict=True)
            out[modality] = (torch.from_numpy(np.stack(slots)), torch.from_numpy(np.stack(scenes)))
        return out

    def _segments(self, truth: Truth, present: frozenset[Modality],
                  rng: np.random.Generator) -> list[Segment]:
        count, ordered = self.stage.questions, [m for m in PROMPT_ORDER if m in present]
        asked = [q for m in ordered
                 for q in language.questions(truth, m, rng, max(2, -(-count // len(ordered))),
                                       said='varied')]
        asked = [asked[int(i)] for i in rng.permutation(len(asked))[:count]]
        if rng.random() < self.stage.unknowns:
            asked += language.unknown_questions(truth, present, rng, 1, said='varied')
        rows = [self._segment(q.question, q.answer, q.type) for q in asked]
        if rows and rng.random() >= self.stage.captions:
            return rows
        prompts = language.CAPTION_PROMPTS
        prompt = prompts[0] if rng.random() < 0.5 else language.varied_prompt(rng) \
            if rng.random() < 0.5 else prompts[int(rng.integers(len(prompts)))]
        style = 'plain' if prompt == prompts[0] else 'varied'
        rows.append(self._segment(prompt, language.caption(truth, present, rng, style=style),
                                  'caption'))
        return rows

    def _segment(self, question: str, answer: str, kind: str) -> Segment:
        return Segment.of(self.text.encode_prompt(question), self.text.encode_answer(answer), kind)
