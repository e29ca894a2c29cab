"""Batches from rendered worlds: tensors of one set of modalities, questions about them, targets.

``Batches`` is a map-style data set of whole batches: item ``step`` depends only on the stage, the
seed, the step and the worlds at hand, so that a resumed run sees what the first would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
from onellm_ros.training.heads import Cells
from onellm_ros.training.mirror import MIRRORED, mirror_signal, mirror_truth
from onellm_ros.training.shards import Shards
from onellm_ros.training.slots import slot_targets
from onellm_ros.training.stages import Stage
from onellm_ros.training.targets import TARGETS, cell_owners, told_by, truth_targets

REFRESH_STEPS = 50
WITH_CELLS = (Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL, Modality.POINT)
NO_COLOUR = 0.15                # share of depth and normal batches without a colour camera


@dataclass(frozen=True)
class Segment:
    """A question and its answer as token ids."""

    prompt: list[int]
    answer: list[int]
    type: str


@dataclass
class Packed:
    """Question segments of a batch, padded: each segment sees the prefix and itself.

    ``ids``, ``segments`` (0 = padding) and ``positions`` (from the prefix' end on) are int64
    [B, L]; ``labels`` holds the next token where it belongs to an answer, else -100.
    """

    ids: Tensor
    segments: Tensor
    positions: Tensor
    labels: Tensor
    types: list[list[str]]


def pack_segments(rows: list[list[Segment]], pad: int, multiple: int = 16) -> Packed:
    """Lay the segments of each row one behind another."""
    lengths = [sum(len(s.prompt) + len(s.answer) for s in row) for row in rows]
    width = -(-max(lengths) // multiple) * multiple
    shape = (len(rows), width)
    ids = np.full(shape, pad, np.int64)
    segments, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, -100, np.int64)
    for b, row in enumerate(rows):
        at = 0
        for number, segment in enumerate(row, 1):
            tokens = segment.prompt + segment.answer
            end = at + len(tokens)
            ids[b, at:end] = tokens
            segments[b, at:end] = number
            positions[b, at:end] = np.arange(len(tokens))
            first = at + len(segment.prompt) - 1
            labels[b, first:end - 1] = segment.answer
            at = end
    return Packed(torch.from_numpy(ids), torch.from_numpy(segments), torch.from_numpy(positions),
                  torch.from_numpy(labels), [[s.type for s in row] for row in rows])


@dataclass
class Batch:
    """One batch; ``inputs`` are the tensors that the modality tokenizers take.

    ``slots`` are the targets of ``slots.slot_targets``, stacked; ``cells`` those of the dense
    heads.
    """

    modalities: tuple[Modality, ...]
    inputs: dict[Modality, Tensor]
    targets: dict[str, Tensor]
    text: Packed | None = None
    slots: dict[Modality, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cells: Cells | None = None

    @property
    def worlds(self) -> int:
        """Number of worlds (or told scenes) in the batch."""
        return len(next(iter(self.slots.values()))[0])


def _jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast and colour balance of uint8 [B, H, W, 3], as cameras do."""
    b = image.shape[0]
    gain = rng.uniform(0.75, 1.25, (b, 1, 1, 1)) * rng.uniform(0.93, 1.07, (b, 1, 1, 3))
    offset = rng.uniform(-18, 18, (b, 1, 1, 1))
    noise = rng.normal(0, 1, image.shape).astype(np.float32) * rng.uniform(0, 5, (b, 1, 1, 1))
    return np.clip((image - 110.0) * gain + 110.0 + offset + noise, 0, 255).astype(np.uint8)


def model_input(shards: Shards, worlds: list[int], modality: Modality, config: ModelConfig,
                rng: np.random.Generator | None = None, mirrored: bool = False) -> Tensor:
    """Return the tokenizer input of one modality for some worlds.

    :param rng: varies pictures as cameras do; None: as rendered (evaluation).
    :param mirrored: exchange left and right.
    """
    def picture(array: np.ndarray) -> Tensor:
        return normalise(torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, -3) / 255)

    raw = shards.rows(worlds, modality.value)
    if mirrored:
        raw = mirror_signal(raw, modality.value)
    if modality is Modality.IMAGE:
        return picture(_jitter(raw, rng) if rng is not None else raw)
    if modality is Modality.VIDEO:
        frames = raw.reshape(-1, *raw.shape[2:])
        return picture(frames).unflatten(0, raw.shape[:2])            # [B, T, 3, S, S]
    tensor = torch.from_numpy(raw.astype(np.float32))
    if modality in (Modality.DEPTH, Modality.NORMAL):
        if rng is not None and rng.random() < NO_COLOUR:
            return tensor[:, None]                                    # [B, 1, 3, S, S]
        colour = model_input(shards, worlds, Modality.IMAGE, config, rng, mirrored)
        return torch.stack([colour, tensor], 1)                       # [B, 2, 3, S, S]
    if modality is Modality.IMU:
        tensor = tensor.transpose(1, 2)                               # [B, 6, n]
        return standardise_imu(tensor) if config.tokenizer.imu_standardise else tensor
    return tensor[:, None] if modality is Modality.FMRI else tensor


class Batches(Dataset[Batch]):
    """All batches of a stage.

    :param folder: where the shards are; :param seed: varies order and wordings.
    :param as_rendered: do not vary signals (evaluation); the wordings are those of training.
    """

    def __init__(self, folder: str, stage: Stage, config: ModelConfig, text: Text, *,
                 seed: int = 0, as_rendered: bool = False):
        self.shards = Shards(Path(folder))
        self.stage, self.config, self.text = stage, config, text
        self.seed, self.as_rendered = seed, as_rendered
        weights = np.array([w for _, w in stage.sets], float)
        self.weights = weights / weights.sum()
        self._built = 0

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        """Build the batch of a step."""
        self._built += 1
        if self._built % REFRESH_STEPS == 0:
            self.shards.refresh()
        if self.stage.kind != 'language' and not len(self.shards):
            raise FileNotFoundError(f'no rendered worlds in {self.shards.folder}: let '
                                    '`onellm train` render some first')
        rng = np.random.default_rng([self.seed, step, len(self.stage.name)])
        present = self.stage.sets[int(rng.choice(len(self.weights), p=self.weights))][0]
        count = self.stage.batch
        if self.stage.kind == 'encoder' and present[0] in (
                Modality.AUDIO, Modality.IMU, Modality.POINT, Modality.FMRI):
            count *= 2                                  # cheap ones
        elif len(present) > 2:
            count //= 2                                 # dear ones
        if self.stage.kind == 'language':
            return self.build_language(count, present, rng)
        worlds = [int(w) for w in rng.integers(0, len(self.shards), count)]
        return self.build(worlds, present, rng)

    def build_language(self, count: int, present: tuple[Modality, ...],
                       rng: np.random.Generator) -> Batch:
        """Build a batch of scenes that are told by their slots, without rendering anything."""
        ordered = tuple(m for m in PROMPT_ORDER if m in present)
        seen = frozenset(ordered)
        truths = [language.random_truth(rng) for _ in range(count)]
        return Batch(
            ordered, {}, {}, slots=self._slots(truths, ordered),
            text=pack_segments([self._segments(t, seen, rng) for t in truths], self.text.pad))

    def build(self, worlds: list[int], present: tuple[Modality, ...],
              rng: np.random.Generator) -> Batch:
        """Build a batch of given worlds with the given modalities."""
        truths = [self.shards.truth(w) for w in worlds]
        ordered = tuple(m for m in PROMPT_ORDER if m in present)
        seen = frozenset(ordered)
        mirrored = not self.as_rendered and seen <= MIRRORED and rng.random() < 0.5
        if mirrored:
            truths = [mirror_truth(t) for t in truths]
        targets = [told_by(truth_targets(t), seen) for t in truths]
        batch = Batch(ordered, {}, {
            t.name: torch.from_numpy(np.stack([row[t.name] for row in targets])) for t in TARGETS})
        batch.slots = self._slots(truths, ordered)
        batch.inputs = {m: model_input(self.shards, worlds, m, self.config,
                                       None if self.as_rendered else rng, mirrored)
                        for m in ordered}
        if self.stage.dense and ordered[0] in WITH_CELLS:
            batch.cells = self._cells(worlds, truths, mirrored)
        if self.stage.kind in ('encoder', 'project'):
            return batch
        batch.text = pack_segments([self._segments(t, seen, rng) for t in truths],
                                   self.text.pad)
        return batch

    def _cells(self, worlds: list[int], truths: list[Truth], mirrored: bool) -> Cells:
        dense, distance = self.shards.rows(worlds, 'dense'), self.shards.rows(worlds, 'distance')
        if mirrored:
            dense, distance = mirror_signal(dense, 'dense'), mirror_signal(distance, 'distance')
        owner = np.stack([cell_owners(d, t) for d, t in zip(dense, truths, strict=True)])
        return Cells(torch.from_numpy(np.ascontiguousarray(dense)),
                     torch.from_numpy(distance.astype(np.float32)), torch.from_numpy(owner))

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
                 for q in language.questions(truth, m, rng, max(2, -(-count // len(ordered))))]
        asked = [asked[int(i)] for i in rng.permutation(len(asked))[:count]]
        if rng.random() < self.stage.unknowns:
            asked += language.unknown_questions(truth, present, rng, 1)
        rows = [self._segment(q.question, q.answer, q.type) for q in asked]
        if rows and rng.random() >= self.stage.captions:
            return rows
        prompts = language.CAPTION_PROMPTS
        prompt = prompts[0] if rng.random() < 0.5 else prompts[int(rng.integers(len(prompts)))]
        style = 'plain' if prompt == prompts[0] else 'varied'
        rows.append(self._segment(prompt, language.caption(truth, present, rng, style=style),
                                  'caption'))
        return rows

    def _segment(self, question: str, answer: str, kind: str) -> Segment:
        return Segment(self.text.encode_prompt(question), self.text.encode_answer(answer), kind)
