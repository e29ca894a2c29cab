"""The losses of each kind of stage, as one module: what a trainer runs, and what it shards.

Owns the forward pass of training, the masks of packed questions and the figures to log. A loss of
a part of a batch is its share of the whole batch's loss, by ``counts.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
import torch.nn.functional as F

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.training.batches import Batch
from onellm_ros.training.counts import (
    ANSWERS,
    MOVERS,
    OBJECTS,
    SAMPLES,
    WAY,
    Counts,
    cell_terms,
    seen_name,
    slot_terms,
)
from onellm_ros.training.heads import CloudHead, DenseHead, FactsHead, WayHead, cell_loss, pooled
from onellm_ros.training.slots import SceneEmbedding, SlotHead
from onellm_ros.training.stages import Stage
from onellm_ros.training.targets import IGNORE
from onellm_ros.training.templates import Packed

WAY_SHARE = 0.5                 # of where things go, beside what they are (dense)
BLUR = 0.4                      # how unsure told scenes are while the LLM learns from them
Sums = dict[str, list[float]]   # name -> [sum, count]


def attention_backends(device: torch.device) -> list[SDPBackend]:
    """Return the ways to compute attention that are fast in training on a device.

    On CPU the fused attention's backward pass is slower than the plain one at small sizes.
    """
    if device.type == 'cpu':
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Heads(nn.Module):
    """All heads that training throws away.

    :param scale: root mean square of the LLM's word embeddings.
    """

    def __init__(self, config: ModelConfig, scale: float):
        super().__init__()
        encoder, slots = config.encoder, config.upm.modality_tokens
        self.dense = DenseHead(encoder.width, encoder.image_size // encoder.patch_size)
        self.pooled = nn.ModuleDict({m.value: FactsHead(2 * encoder.width) for m in Modality})
        self.slots = SlotHead(config.llm.dim)
        self.scene = SceneEmbedding(config.llm.dim, slots, scale)
        self.cloud = CloudHead(encoder.width)
        self.way = WayHead(encoder.width, encoder.image_size // encoder.patch_size)


def block_mask(prefix: int, segments: Tensor) -> Tensor:
    """Return which positions see which, bool [B, 1, P + L, P + L].

    Prefix positions see the prefix before them; text sees the whole prefix and its own segment up
    to itself. Padding sees itself (a row without any key would be NaN).
    """
    b, length = segments.shape
    total = prefix + length
    causal = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril()
    mask = causal.expand(b, total, total).clone()
    mask[:, prefix:, prefix:] &= segments[:, :, None] == segments[:, None, :]
    return mask[:, None]


def answer_loss(logits: Tensor, packed: Packed, tokens: float) -> tuple[Tensor, Sums]:
    """Return the loss on answer tokens and, per question type, how many answers are all right.

    An answer whose every token is the likeliest one given the right ones before it is exactly what
    greedy decoding would say.

    :param logits: [answer tokens of this part, vocabulary].
    :param tokens: answer tokens of the whole batch, which the sum is divided by.
    """
    known = packed.labels != IGNORE
    wanted = packed.labels[known]
    loss = F.cross_entropy(logits.float(), wanted, reduction='sum') / max(1.0, tokens)
    wrong = logits.detach().argmax(-1) != wanted
    most = int(packed.segments.max()) + 1
    row = torch.arange(len(known), device=known.device)[:, None].expand_as(known)
    key = (row * most + packed.segments)[known]
    mistakes = torch.bincount(key, wrong.float(), minlength=len(known) * most).tolist()
    outcome: Sums = {}
    for b, types in enumerate(packed.types):
        for number, kind in enumerate(types, 1):
            found = outcome.setdefault(kind, [0.0, 0.0])
            found[0] += float(mistakes[b * most + number] == 0)
            found[1] += 1.0
    return loss, outcome


class Losses(nn.Module):
    """A model with the heads and losses of its training.

    :param heads: None where no stage asks for them.
    :param bos: id of the beginning-of-sequence token.
    :param precision: autocast's type; float32 for none.
    :param sharded: weights come and go (FSDP), so that autocast must not keep copies of them.
    """

    def __init__(self, model: OneLLM, heads: Heads | None, bos: int,
                 precision: torch.dtype = torch.bfloat16, sharded: bool = False):
        super().__init__()
        self.model, self.heads = model, heads
        self.bos, self.precision, self.sharded = bos, precision, sharded

    def forward(self, stage: Stage, batch: Batch, whole: Counts | None = None
                ) -> tuple[Tensor, Sums]:
        """Return the loss of a batch, or a part's share of it, and figures to log.

        :param batch: on the model's device.
        :param whole: counts of the whole batch; None: this is the whole batch.
        """
        if batch.text is not None:
            device = batch.text.ids.device
        else:
            device = batch.inputs[batch.modalities[0]].device
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=not self.sharded,
                            enabled=self.precision is torch.bfloat16):
            if stage.kind == 'encoder':
                return self._encoder(stage, batch, whole)
            if stage.kind == 'language':
                blur = BLUR if self.training else 0.0
                told = {m: self._heads.scene(*batch.slots[m], blur=blur) for m in batch.modalities}
                return self._answers(told, batch, whole)
            return self._align(stage, batch, whole)

    @property
    def _heads(self) -> Heads:
        assert self.heads is not None, 'the trainer makes heads for such stages'
        return self.heads

    def _encoder(self, stage: Stage, batch: Batch, whole: Counts | None) -> tuple[Tensor, Sums]:
        modality, own = batch.modalities[0], batch.counts
        features = self.model.features(modality, batch.inputs[modality])
        head, vector = self._heads.pooled[modality.value], pooled(features)
        sums: Sums = {}
        if whole is None:
            loss, right = head.loss(vector, batch.targets)
        else:
            loss, right = features.new_zeros((), dtype=torch.float32), {}
            for name, target in batch.targets.items():
                term = f'facts/{name}'
                if own[term]:
                    alone = {k: v if k == name else torch.full_like(v, IGNORE)
                             for k, v in batch.targets.items()}
                    part, found = head.loss(vector, alone)
                    loss, right = loss + part * (own[term] / whole[term]), {**right, **found}
        for name, value in right.items():
            _add(sums, f'{modality}/{name}', value, own[f'facts/{name}'])
        loss = _anchored(stage.facts * loss, features, head)
        if batch.cells is not None:
            dense = self._heads.cloud if modality is Modality.POINT else self._heads.dense
            tokens = features[:, 1:]
            out = dense(tokens)
            part, right_cells = cell_loss(out, batch.cells)
            if whole is not None:
                part = torch.zeros_like(part)
                for term, alone_cells, count in cell_terms(batch.cells):
                    if count:
                        part = part + cell_loss(out, alone_cells)[0] * (count / whole[term])
            if own[OBJECTS]:
                _add(sums, f'{modality}/patch', right_cells, own[OBJECTS])
            loss = _anchored(loss + stage.dense * part, features, dense)
            if batch.cells.way is not None:
                way = self._heads.way
                part, right_ways = way.loss(tokens, batch.cells.way)
                part = part / max(1.0, (whole or own)[WAY])
                loss = _anchored(loss + WAY_SHARE * stage.dense * part, features, way)
                if own[MOVERS]:
                    _add(sums, f'{modality}/way', right_ways / own[MOVERS], own[MOVERS])
        return loss, sums

    def _align(self, stage: Stage, batch: Batch, whole: Counts | None) -> tuple[Tensor, Sums]:
        tokens: dict[Modality, Tensor] = {}
        sums: Sums = {}
        facts: Tensor | float = 0.0
        features = self.model.features_of({m: batch.inputs[m] for m in batch.modalities})
        for modality in batch.modalities:
            tokens[modality], _ = self.model.project(modality, features[modality])
            if not stage.facts and not stage.told:
                continue
            share, (slots, scene) = 1 / len(batch.modalities), batch.slots[modality]
            said = self._heads.slots.settle(tokens[modality], slots), scene
            if stage.facts:
                facts = facts + share * stage.facts * self._slots(
                    tokens[modality], said, batch, modality, whole, sums)
            if stage.told:
                facts = facts + share * stage.told * self._told(
                    tokens[modality], said, batch, whole)
        if not stage.answers:
            assert isinstance(facts, Tensor)
            return facts, sums
        loss, found = self._answers(tokens, batch, whole)
        return stage.answers * loss + facts, {**sums, **found}

    def _slots(self, made: Tensor, said: tuple[Tensor, Tensor], batch: Batch, modality: Modality,
               whole: Counts | None, sums: Sums) -> Tensor:
        """Return the loss on what the slots should say; figures go into ``sums``."""
        head, (slots, scene), own = self._heads.slots, said, batch.counts
        if whole is None:
            loss, right = head.loss(made, slots, scene)
        else:
            loss, right = made.new_zeros((), dtype=torch.float32), {}
            for term, _, slot, rest, count in slot_terms(slots, scene, modality):
                if count:
                    part, found = head.loss(made, slot, rest)
                    loss, right = loss + part * (count / whole[term]), {**right, **found}
        for name, value in right.items():
            count = own[seen_name(modality)] if name == 'kind' else own[
                f'slots/{modality}/{name}']
            _add(sums, f'{modality}/{name}', value, count)
        return _anchored(loss, made, head)

    def _told(self, made: Tensor, said: tuple[Tensor, Tensor], batch: Batch, whole: Counts | None
              ) -> Tensor:
        """Return how far tokens are from those that the LLM was trained on, in their variances.

        An unsure UPM nears the mean of what it might be.
        """
        with torch.no_grad():
            told = self._heads.scene(*said)
            norm = self._heads.scene.norm
            variance = norm.weight.float().square().mean() + norm.bias.float().var()
        count = batch.counts[SAMPLES]
        share = count / (whole or batch.counts)[SAMPLES]
        return share * F.mse_loss(made.float(), told.float()) / variance

    def _answers(self, tokens: dict[Modality, Tensor], batch: Batch, whole: Counts | None
                 ) -> tuple[Tensor, Sums]:
        text = batch.text
        assert text is not None
        prefix = self.model.prefix_embeds(tokens, self.bos, batch=len(text.ids))
        length = prefix.shape[1]
        embeds = torch.cat([prefix, self.model.llm.embed(text.ids).to(prefix.dtype)], 1)
        positions = torch.cat([
            torch.arange(length, device=prefix.device).expand(len(embeds), length),
            length + text.positions], 1)
        several = int(text.segments.max()) > 1
        hidden = self.model.llm(
            embeds, position_ids=positions, return_hidden=True,
            attn_mask=block_mask(length, text.segments) if several else None)
        # What stands before a token says it: the prefix' end says the first one.
        before = hidden[:, length - 1:-1][text.labels != IGNORE]
        loss, outcome = answer_loss(self.model.llm.logits(before), text,
                                    (whole or batch.counts)[ANSWERS])
        sums: Sums = {f'{batch.title}:{kind}': found for kind, found in outcome.items()}
        asked = [found for kind, found in outcome.items() if kind != 'caption']
        if asked:
            sums[f'{batch.title}:exact'] = [sum(a for a, _ in asked), sum(n for _, n in asked)]
        if text.cut:
            sums[f'{batch.title}:cut tokens'] = [float(text.cut), float(len(text.ids))]
        return loss, sums


def _add(sums: Sums, name: str, value: Tensor | float, count: float) -> None:
    if count:
        sums[name] = [float(value) * count, count]


def _anchored(loss: Tensor, features: Tensor, head: nn.Module) -> Tensor:
    """Tie a loss to all that it may depend on, so that every rank has the same gradients to sum.

    A part of a batch may hold nothing that a head could tell.
    """
    ties = features.float().sum() + sum(p.float().sum() for p in head.parameters())
    return loss + 0.0 * ties
