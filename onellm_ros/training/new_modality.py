"""A model that learns a further modality: its new parts, its data, and the stage that trains it.

The new parts are a tokenizer and, in the UPM, modality tokens, two projections, a router and tags.
As long as nothing else learns, all other modalities give what they gave before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import zlib

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.training.batches import Batch, Split, StageBatches, counted
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.sources import Sources
from onellm_ros.training.stages import Stage
from onellm_ros.training.templates import Segment, pack_segments


@torch.no_grad()
def with_modality(model: OneLLM, modality: Modality, like: Modality) -> OneLLM:
    """Return the model with a registered modality more; all else is as it was.

    Its part of the UPM begins as that of another modality, its tokenizer and input projection
    (which a stage fits where the modality is ``fresh``) are drawn from torch's generator.

    :param like: a modality that tells about the same, so that the LLM knows what it gets.
    :raises TrainingError: if the model knows it already.
    """
    if modality in model.modalities:
        raise TrainingError(f'{modality}: the model knows it already; train it further instead')
    names = (*model.config.modalities, modality.value)
    new = OneLLM(replace(model.config, modalities=names)).to(model.llm.tok_embeddings.weight)
    new.load_state_dict({**new.state_dict(), **model.state_dict()})
    upm = new.upm
    upm.begin_as(modality, like, inputs=False)
    for table in (upm.start_tag, upm.end_tag):
        table[modality.value].copy_(table[like.value])
    if modality.value in upm.routers:
        upm.routers[modality.value].load_state_dict(upm.routers[like.value].state_dict())
    return new.train(model.training)


def stage_for(modality: Modality, *, experts: bool = False, **changes: object) -> Stage:
    """Return the stage that adds a modality: only what is its own learns.

    :param experts: the experts of the UPM learn, too: to be used with replay of what they know.
    :param changes: of fields of the stage.
    """
    own = (modality.value, 'experts') if experts else (modality.value,)
    stage = Stage(f'add_{modality.value}', 'align', (((modality,), 1.0),), ('tokenizers', 'upm'),
                  only=own, fresh=(modality,), steps=400, batch=32, learning_rate=1e-3, warmup=40)
    return replace(stage, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Texts:
    """Signals of one modality, and what is asked about each with the right answers.

    :param inputs: of the tokenizer, float32 [n, ...].
    :param asked: of each signal one or more (question, answer, type).
    """

    modality: Modality
    inputs: Tensor
    asked: Sequence[Sequence[tuple[str, str, str]]]

    def __post_init__(self) -> None:
        """Check that there is a text for each signal.

        :raises TrainingError: saying what is missing.
        """
        if len(self.inputs) != len(self.asked) or not all(self.asked):
            raise TrainingError(f'{self.modality}: found {len(self.inputs)} signals and '
                                f'{sum(map(bool, self.asked))} with questions, expected '
                                'questions to each')

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def pairs(self) -> int:
        """Pairs of a signal and a question with its answer."""
        return sum(map(len, self.asked))

    def first(self, pairs: int) -> Texts:
        """Return the first signals, with so many pairs or, if there are fewer, all."""
        kept: list[Sequence[tuple[str, str, str]]] = []
        for asked in self.asked:
            left = pairs - sum(map(len, kept))
            if left <= 0:
                break
            kept.append(asked[:left])
        return Texts(self.modality, self.inputs[:len(kept)], kept)

    def batch(self, places: Sequence[int], text: Text) -> Batch:
        """Return a batch of some of the signals, with all that is asked about them."""
        rows = [[Segment.of(text.encode_prompt(question), text.encode_answer(answer), kind)
                 for question, answer, kind in self.asked[place]] for place in places]
        return counted(Batch(
            (self.modality,), {self.modality: self.inputs[torch.tensor(places)]},
            [f'{self.modality} {place}' for place in places],
            text=pack_segments(rows, text.pad)))


class TextBatches(Dataset[Batch]):
    """The batches of a stage from signals with texts, each signal once before any comes again.

    :param replay: batches of other modalities, in place of the share ``replayed`` of these.
    """

    def __init__(self, texts: Texts, stage: Stage, text: Text, *, seed: int = 0,
                 split: Split = Split(), replay: StageBatches | None = None,
                 replayed: float = 0.5):
        self.texts, self.stage, self.text, self.seed, self.split = texts, stage, text, seed, split
        self.replay, self.replayed = replay, replayed
        self._key = zlib.crc32(stage.name.encode())

    def __getitem__(self, index: int) -> Batch:
        """Build the part ``index`` of this rank."""
        step, part = self.split.place(index)
        if self.replay is not None:
            rng = np.random.default_rng([self.seed, self._key, step])
            if rng.random() < self.replayed:
                return self.replay[index]
        count = self.stage.batch
        mine = self.split.samples(part, count)
        return self.texts.batch([self._place(step * count + turn) for turn in mine], self.text)

    def _place(self, turn: int) -> int:
        """Return which signal comes at a turn, counted over the whole stage."""
        epoch, at = divmod(turn, len(self.texts))
        rng = np.random.default_rng([self.seed, self._key, epoch, 1])
        return int(rng.permutation(len(self.texts))[at])

    def present(self) -> list[tuple[Modality, ...]]:
        """Return the sets of modalities that batches may hold."""
        return [(self.texts.modality,), *(self.replay.present() if self.replay else ())]

    def only(self, present: tuple[Modality, ...]) -> StageBatches:
        """Return batches of one of the sets alone."""
        if self.replay is not None and present != (self.texts.modality,):
            return self.replay.only(present)
        return TextBatches(self.texts, self.stage, self.text, seed=self.seed, split=self.split)

    def inputs(self, modality: Modality, count: int) -> Tensor:
        """Return some tokenizer inputs of a modality."""
        if modality is not self.texts.modality:
            if self.replay is None:
                raise TrainingError(f'{modality}: found texts of {self.texts.modality} alone')
            return self.replay.inputs(modality, count)
        return self.texts.inputs[[self._place(turn) for turn in range(count)]]


@dataclass(frozen=True)
class TextSources(Sources):
    """Where a stage's batches come from: signals with texts, and worlds for replay.

    :param texts: to train on; :param held_out_texts: to score on, None: nothing is scored.
    :param replay: sets, batch and questions of replayed worlds; None: no replay.
    """

    texts: Texts = field(kw_only=True)
    held_out_texts: Texts | None = field(default=None, kw_only=True)
    replay: Stage | None = field(default=None, kw_only=True)

    def training(self, stage: Stage, config: ModelConfig, text: Text, seed: int, split: Split
                 ) -> StageBatches:
        """Return the batches of a stage."""
        replay = None
        if self.replay is not None:
            replay = super().training(self.replay, config, text, seed, split)
        return TextBatches(self.texts, stage, text, seed=seed, split=split, replay=replay)

    def evaluation(self, stage: Stage, config: ModelConfig, text: Text, split: Split
                   ) -> StageBatches | None:
        """Return batches that training does not see; None where there are none."""
        if self.held_out_texts is None:
            return None
        stage = replace(stage, accumulate=1)
        return TextBatches(self.held_out_texts, stage, text, seed=1,
                           split=replace(split, accumulate=1))
