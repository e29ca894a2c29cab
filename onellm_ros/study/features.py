"""What a frozen encoder says of worlds, kept on disk, and batches of it in place of signals.

Most of the work of training a projection is the encoder's, which never changes here; it is done
once for all runs of a study. A piece of worlds is a folder with one ``.npy`` a modality (half
precision), named by what it was made from: the weights of encoder and tokenizers, the sizes, the
seeds of the worlds. It appears only when it is complete, so that nothing half-done is ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
import hashlib
import os
from pathlib import Path
import shutil

import numpy as np
import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.training.batches import Batch, Split, StageBatches, counted
from onellm_ros.training.data import Generators, WorldBatches, model_input
from onellm_ros.training.shards import Shards
from onellm_ros.training.sources import Sources
from onellm_ros.training.stages import Stage
from onellm_ros.training.templates import pack_segments

PIECE_WORLDS, ENCODED_AT_ONCE = 256, 32


class FeatureModel(OneLLM):
    """A OneLLM that is given the encoder's features where others are given signals."""

    def features(self, modality: Modality, x: Tensor) -> Tensor:
        """Return the features, which are given, [B, N, D]."""
        if x.ndim != 3 or x.shape[-1] != self.config.encoder.width:
            raise ValueError(f'{modality}: expected features [any, any, '
                             f'{self.config.encoder.width}], found {list(x.shape)}')
        return x.to(self.encoder.patch.weight.dtype)

    def features_of(self, inputs: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return the features of several modalities, which are given."""
        return {modality: self.features(modality, x) for modality, x in inputs.items()}


def _hash(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:16]


def part_hash(model: OneLLM, *parts: str) -> str:
    """Return a name of the values of some parts."""
    tensors = [pair for part in parts for pair in sorted(model.part(part).state_dict().items())]
    return _hash(*(bit for name, value in tensors for bit in (
        name.encode(), value.detach().float().numpy().tobytes())))


def encoder_hash(model: OneLLM) -> str:
    """Return a name of all that features depend on beside the worlds."""
    sizes = repr((asdict(model.config.encoder), asdict(model.config.tokenizer)))
    return _hash(sizes.encode(), part_hash(model, 'encoder', 'tokenizers').encode())


@dataclass(frozen=True)
class Piece:
    """Some worlds of a folder, and where their features are.

    :param worlds: folder of the shards. :param numbers: of the worlds in it.
    """

    worlds: Path
    numbers: tuple[int, ...]
    path: Path

    @property
    def done(self) -> bool:
        """Whether the features are there."""
        return self.path.is_dir()


def pieces(worlds: Path, numbers: Sequence[int], encoder: str, folder: Path) -> list[Piece]:
    """Return the pieces that some worlds fall into.

    :param encoder: ``encoder_hash``. :param folder: of all features.
    """
    shards = Shards(worlds)
    out = []
    for start in range(0, len(numbers), PIECE_WORLDS):
        own = tuple(numbers[start:start + PIECE_WORLDS])
        seeds = repr([shards.truth(number).seed for number in own])
        out.append(Piece(worlds, own, folder / encoder / _hash(seeds.encode())))
    return out


@torch.no_grad()
def encode_piece(piece: Piece, model: OneLLM, precision: str = 'bf16') -> None:
    """Write the features of a piece, unless they are there."""
    if piece.done:
        return
    temporary = piece.path.with_name(f'.{piece.path.name}-{os.getpid()}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    shards = Shards(piece.worlds)
    for modality in Modality:
        found = []
        for start in range(0, len(piece.numbers), ENCODED_AT_ONCE):
            own = list(piece.numbers[start:start + ENCODED_AT_ONCE])
            x = model_input(shards, own, modality, model.config)
            with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
                found.append(model.features(modality, x).half().numpy())
        np.save(temporary / f'{modality.value}.npy', np.concatenate(found))
    try:
        temporary.rename(piece.path)
    except OSError:                         # another process was first, with the same features
        if not piece.done:
            raise
        shutil.rmtree(temporary)


class FeatureBatches(WorldBatches):
    """Batches of worlds whose inputs are the encoder's features.

    The sets of a stage come in turn, each exactly as often as its share of the steps; ``only`` one
    of them gives what ``self`` gives at the steps of that one. Questions are drawn as in
    :class:`WorldBatches`; signals are as rendered.

    :param made: pieces of the worlds, in order.
    :param as_rendered: evaluation: each world once, in order.
    """

    def __init__(self, made: Sequence[Piece], stage: Stage, config: ModelConfig, text: Text, *,
                 seed: int = 0, as_rendered: bool = False):
        super().__init__(made[0].worlds, stage, config, text, seed=seed, as_rendered=as_rendered)
        self.made = made
        self.numbers = [number for piece in made for number in piece.numbers]
        self._arrays: dict[Modality, list[np.ndarray]] = {}
        shares = [share for _, share in stage.sets]
        self._turns = turns(shares if not as_rendered else [1.0] * len(shares))
        self._taken: list[tuple[int, int]] = []

    def only(self, present: tuple[Modality, ...]) -> FeatureBatches:
        """Return batches of one of the sets alone."""
        return FeatureBatches(self.made, replace(self.stage, sets=((present, 1.0),)), self.config,
                              self.text, seed=self.seed, as_rendered=self.as_rendered)

    def features(self, places: Sequence[int], modality: Modality) -> Tensor:
        """Return the features at some places of ``numbers``."""
        if modality not in self._arrays:
            self._arrays[modality] = [np.load(piece.path / f'{modality.value}.npy', mmap_mode='r')
                                      for piece in self.made]
        arrays = self._arrays[modality]
        rows = [arrays[place // PIECE_WORLDS][place % PIECE_WORLDS] for place in places]
        return torch.from_numpy(np.stack(rows)).float()

    def inputs(self, modality: Modality, count: int) -> Tensor:
        """Return the features of some worlds."""
        rng = np.random.default_rng(self.seed)
        return self.features([int(p) for p in rng.integers(0, len(self.numbers), count)], modality)

    def __len__(self) -> int:
        """Return the batches that hold each world once."""
        return -(-len(self.numbers) // self.stage.batch)

    def __getitem__(self, index: int) -> Batch:
        """Build the batch ``index``."""
        while len(self._taken) <= index:
            self._taken.append(next(self._turns))
        turn, number = self._taken[index]
        present = self.stage.sets[number][0]
        if self.as_rendered:
            start = turn * self.stage.batch
            places = list(range(len(self.numbers)))[start:start + self.stage.batch]
        else:
            draw = np.random.default_rng([self.seed, self._key, turn, _code(present)])
            places = [int(p) for p in draw.integers(0, len(self.numbers), self.stage.batch)]
        # Drawn by turn and modality alone: one modality by itself gets what it gets among all.
        rngs = [np.random.default_rng([self.seed, self._key, turn, _code(present), 1 + at])
                for at in range(len(places))]
        return self.build_features(places, present, rngs)

    def build_features(self, places: Sequence[int], present: tuple[Modality, ...],
                       rngs: Generators) -> Batch:
        """Build a batch of the worlds at some places."""
        truths = [self.shards.truth(self.numbers[place]) for place in places]
        batch = Batch(present, {m: self.features(places, m) for m in present},
                      [f'world {self.numbers[place]} (seed {truth.seed})'
                       for place, truth in zip(places, truths, strict=True)])
        if self.stage.facts or self.stage.told:
            batch.slots = self._slots(truths, present)
        rows = [self._segments(t, frozenset(present), r)
                for t, r in zip(truths, rngs, strict=True)]
        batch.text = pack_segments(rows, self.text.pad)
        return counted(batch)


def turns(shares: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yield which comes next of some that have shares, as evenly as they can come.

    :returns: (how often it came before, its number) each.
    """
    credit, came = [0.0] * len(shares), [0] * len(shares)
    while True:
        credit = [had + share for had, share in zip(credit, shares, strict=True)]
        number = max(range(len(shares)), key=lambda at: (credit[at], -at))
        credit[number] -= sum(shares)
        yield came[number], number
        came[number] += 1


def _code(present: tuple[Modality, ...]) -> int:
    return sum(1 << list(Modality).index(modality) for modality in present)


@dataclass(frozen=True)
class FeatureSources(Sources):
    """Where the batches of a study's stages come from.

    :param made: features of the worlds to train on; :param made_held_out: of those to score on.
    :param eval_batch: of the latter at once; :param eval_questions: asked of each.
    """

    made: tuple[Piece, ...] = ()
    made_held_out: tuple[Piece, ...] = ()
    eval_batch: int = 64
    eval_questions: int = 4

    def training(self, stage: Stage, config: ModelConfig, text: Text, seed: int, split: Split
                 ) -> StageBatches:
        """Return the batches of a stage."""
        return FeatureBatches(self.made, stage, config, text, seed=seed)

    def evaluation(self, stage: Stage, config: ModelConfig, text: Text, split: Split
                   ) -> StageBatches | None:
        """Return batches that training does not see, the same for all runs."""
        stage = replace(stage, name='held out', batch=self.eval_batch,
                        questions=self.eval_questions)
        return FeatureBatches(self.made_held_out, stage, config, text, seed=1,
                              as_rendered=True)
