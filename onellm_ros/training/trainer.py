"""The trainer: runs one stage after another, writes checkpoints, resumes where it was stopped.

Owns the optimizer, the schedule, the losses of each kind of stage and the run's folder
(``state.pt``, ``log.jsonl``). Data come from ``data.py``, the order of things from ``stages.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import json
import math
import os
from pathlib import Path
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.points import farthest_points
from onellm_ros.model.text import Text
from onellm_ros.preprocess.points import METRIC_SCALE_M
from onellm_ros.simulation.render import Camera
from onellm_ros.training.data import Batch, Batches, Packed, model_input
from onellm_ros.training.heads import CloudHead, DenseHead, FactsHead, pooled
from onellm_ros.training.slots import SceneEmbedding, SlotHead
from onellm_ros.training.stages import Stage

EVAL_BATCHES = 16
BLUR = 0.4                      # how unsure told scenes are while the LLM learns from them
ALL_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class TrainingError(RuntimeError):
    """Training cannot go on; the text names the stage and the step."""


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


def answer_loss(logits: Tensor, packed: Packed) -> tuple[Tensor, dict[str, list[float]]]:
    """Return the mean loss on answer tokens and, per question type, which answers are all right.

    An answer whose every token is the likeliest one given the right ones before it is exactly what
    greedy decoding would say.

    :param logits: [answer tokens of the batch, vocabulary].
    """
    known = packed.labels != -100
    wanted = packed.labels[known]
    loss = F.cross_entropy(logits.float(), wanted)
    wrong = logits.detach().argmax(-1) != wanted
    most = int(packed.segments.max()) + 1
    row = torch.arange(len(known), device=known.device)[:, None].expand_as(known)
    key = (row * most + packed.segments)[known]
    mistakes = torch.bincount(key, wrong.float(), minlength=len(known) * most).tolist()
    outcome: dict[str, list[float]] = {}
    for b, types in enumerate(packed.types):
        for number, kind in enumerate(types, 1):
            outcome.setdefault(kind, []).append(float(mistakes[b * most + number] == 0))
    return loss, outcome


class Trainer:
    """Trains one model through the stages of a recipe.

    :param out: folder of the run; a ``state.pt`` in it is resumed.
    :param data: folder of rendered shards; :param held_out: folder of shards for evaluation.
    """

    def __init__(self, model: OneLLM, text: Text, out: Path, data: Path, held_out: Path, *,
                 seed: int = 0, device: str = 'cpu', workers: int = 1):
        self.model, self.text, self.config = model.to(device), text, model.config
        self.out, self.data, self.held_out = Path(out), Path(data), Path(held_out)
        self.device, self.workers, self.seed = torch.device(device), workers, seed
        torch.manual_seed(seed)
        state = self.out / 'state.pt'
        # (a restored run brings its own)
        scale = 1.0 if state.exists() else self.model.match_llm_scale()
        self.heads = Heads(model.config, scale).to(device)
        self.out.mkdir(parents=True, exist_ok=True)
        self.stage_index, self.step = 0, 0
        self._optimizer_state: dict[str, Any] | None = None
        if state.exists():
            self._restore(torch.load(state, map_location=device, weights_only=True))

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state['model'])
        self.heads.load_state_dict(state['heads'])
        self.stage_index, self.step = state['stage'], state['step']
        self._optimizer_state = state['optimizer']
        torch.set_rng_state(state['rng'].cpu())

    def save(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Write ``state.pt`` at once or not at all."""
        state = {'model': self.model.state_dict(), 'heads': self.heads.state_dict(),
                 'stage': self.stage_index, 'step': self.step, 'rng': torch.get_rng_state(),
                 'optimizer': optimizer.state_dict() if optimizer else None}
        temporary = self.out / f'state-{os.getpid()}.partial'
        torch.save(state, temporary)
        temporary.replace(self.out / 'state.pt')

    def run(self, recipe: tuple[Stage, ...],
            before: Callable[[Stage], None] = lambda stage: None) -> None:
        """Run the stages from where the run stands to the end of the recipe.

        :param before: called with each stage before it starts (to wait for its data).
        """
        while self.stage_index < len(recipe):
            before(recipe[self.stage_index])
            self.run_stage(recipe[self.stage_index])
            self.stage_index, self.step, self._optimizer_state = self.stage_index + 1, 0, None
            self.save(None)

    def _learning(self, stage: Stage) -> list[nn.Parameter]:
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        learning = [p for part in stage.trains for p in self.model.part(part).parameters()]
        for parameter in learning:
            parameter.requires_grad_(True)
        return learning + list(self.heads.parameters())

    def run_stage(self, stage: Stage, save_every: int = 200, eval_every: int = 500) -> None:
        """Run one stage from ``self.step`` to its end."""
        if stage.fresh_upm and self.step == 0:
            self._start_upm(stage)
        learning = self._learning(stage)
        optimizer = torch.optim.AdamW(
            [{'params': [p for p in learning if p.ndim > 1], 'weight_decay': stage.weight_decay},
             {'params': [p for p in learning if p.ndim <= 1], 'weight_decay': 0.0}],
            lr=stage.learning_rate, betas=(0.9, 0.95), fused=True)
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        batches = Batches(str(self.data), stage, self.config, self.text, seed=self.seed)
        loader = DataLoader(batches, batch_size=None, sampler=range(self.step, stage.steps),
                            num_workers=self.workers, prefetch_factor=4 if self.workers else None)
        bar = tqdm(loader, initial=self.step, total=stage.steps, desc=stage.name,
                   disable=None, mininterval=2.0)
        window: dict[str, list[float]] = {}
        started = time.monotonic()
        worlds = 0
        for batch in bar:
            for group in optimizer.param_groups:
                group['lr'] = stage.learning_rate * schedule(self.step, stage)
            metrics = self._update(stage, batch, optimizer, learning)
            worlds += batch.worlds
            for key, value in metrics.items():
                window.setdefault(key, []).append(value)
            self.step += 1
            if self.step % 50 == 0:
                mean = {k: round(sum(v) / len(v), 4) for k, v in sorted(window.items())}
                rate = worlds / (time.monotonic() - started)
                bar.set_postfix(loss=mean['loss'], per_s=round(rate))
                self._log(stage=stage.name, step=self.step, worlds_per_s=round(rate, 1), **mean)
                window, worlds, started = {}, 0, time.monotonic()
            if self.step % save_every == 0:
                self.save(optimizer)
            if self.step % eval_every == 0 or self.step == stage.steps:
                self._log(stage=stage.name, step=self.step, held_out=self.evaluate(stage))
                started = time.monotonic()
        self.save(optimizer)

    @torch.no_grad()
    def _start_upm(self, stage: Stage) -> None:
        """Fit the input projections of a fresh UPM to the encoder's features."""
        batches = Batches(str(self.data), stage, self.config, self.text, seed=self.seed)
        rng = torch.Generator().manual_seed(self.seed)
        worlds = torch.randint(len(batches.shards), (64,), generator=rng).tolist()
        for modality in sorted({m for present, _ in stage.sets for m in present}):
            x = model_input(batches.shards, worlds, modality, self.config).to(self.device)
            features = self.model.features(modality, x).flatten(0, 1)
            self.model.upm.centre(modality, features.mean(0), features.std(0))

    def _update(self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer,
                learning: list[nn.Parameter]) -> dict[str, float]:
        self.model.train()
        loss, metrics = self.losses(stage, batch)
        if not torch.isfinite(loss):
            names = ', '.join(m.value for m in batch.modalities)
            raise TrainingError(f'stage {stage.name}, step {self.step}: the loss is {loss.item()} '
                                f'on a batch of {names}; the last checkpoint is unharmed')
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, stage.clip)
        optimizer.step()
        return metrics

    def losses(self, stage: Stage, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and what to log of it."""
        batch = move(batch, self.device)
        # On CPU the fused attention's backward pass is slower than the plain one at these sizes.
        backends = [SDPBackend.MATH] if self.device.type == 'cpu' else ALL_ATTENTION
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(backends):
            if stage.kind == 'encoder':
                return self._encoder_losses(stage, batch)
            if stage.kind == 'language':
                tokens = {m: self.heads.scene(*batch.slots[m], blur=BLUR * self.model.training)
                          for m in batch.modalities}
                return self._text_losses(tokens, batch)
            tokens, loss, metrics = self._token_losses(stage, batch)
            if stage.kind == 'align':
                answers, more = self._text_losses(tokens, batch)
                loss = answers + stage.facts * loss
                metrics.update(more)
            return loss, {**metrics, 'loss': float(loss.detach())}

    def _encoder_losses(self, stage: Stage, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        modality = batch.modalities[0]
        features = self.model.features(modality, batch.inputs[modality])
        loss, accuracy = self.heads.pooled[modality.value].loss(pooled(features), batch.targets)
        metrics = {f'{modality.value}/{k}': float(v) for k, v in accuracy.items()}
        if batch.cells is not None:
            if modality is Modality.POINT:
                dense, right = self.heads.cloud.loss(
                    features[:, 1:], self._centres(batch.inputs[modality]), batch.cells, Camera())
            else:
                dense, right = self.heads.dense.loss(features[:, 1:], batch.cells)
            if not torch.isnan(right):
                metrics[f'{modality.value}/patch'] = float(right)
            loss = stage.facts * loss + stage.dense * dense
        return loss, {'loss': float(loss.detach()), **metrics}

    def _centres(self, cloud: Tensor) -> Tensor:
        """Return the centres [B, C, 3], metres, of the groups that the tokenizer makes."""
        channel = self.config.tokenizer.point_grouping_channel
        chosen = farthest_points(cloud[..., channel:channel + 3].contiguous(),
                                 self.config.tokenizer.point_centres)
        return METRIC_SCALE_M * cloud[..., :3].gather(1, chosen[..., None].expand(-1, -1, 3))

    def _token_losses(self, stage: Stage, batch: Batch
                      ) -> tuple[dict[Modality, Tensor], Tensor, dict[str, float]]:
        """Return the modality tokens and how well they say what the slots should hold."""
        through_encoder = bool({'encoder', 'tokenizers'} & set(stage.trains))
        features: dict[Modality, Tensor] = {}
        tokens: dict[Modality, Tensor] = {}
        loss = torch.zeros((), device=self.device)
        metrics: dict[str, float] = {}
        for modality in batch.modalities:
            with torch.set_grad_enabled(through_encoder and torch.is_grad_enabled()):
                features[modality] = self._features(modality, batch, features)
            made, _ = self.model.project(modality, features[modality])
            tokens[modality] = made
            slots, right = self.heads.slots.loss(made, *batch.slots[modality])
            metrics.update({f'{modality.value}/{k}': v for k, v in right.items()})
            loss = loss + slots / len(batch.modalities)
            if stage.kind == 'project':
                # The tokens that the LLM was trained on: an unsure UPM nears their mean.
                with torch.no_grad():
                    told = self.heads.scene(*batch.slots[modality])
                loss = loss + F.mse_loss(made.float(), told.float()) / told.float().var()
        return tokens, loss, metrics

    def _features(self, modality: Modality, batch: Batch, done: dict[Modality, Tensor]) -> Tensor:
        """Return encoder features; the colour picture beside depth and normals is encoded once."""
        x = batch.inputs[modality]
        if modality in (Modality.DEPTH, Modality.NORMAL) and x.shape[1] == 2 \
                and Modality.IMAGE in done:
            return (done[Modality.IMAGE] + self.model.features(modality, x[:, 1:])) / 2
        return self.model.features(modality, x)

    def _text_losses(self, tokens: dict[Modality, Tensor], batch: Batch
                     ) -> tuple[Tensor, dict[str, float]]:
        text = batch.text
        assert text is not None
        prefix = self.model.prefix_embeds(tokens, self.text.bos)
        length = prefix.shape[1]
        embeds = torch.cat([prefix, self.model.llm.embed(text.ids).to(prefix.dtype)], 1)
        positions = torch.cat([
            torch.arange(length, device=prefix.device).expand(len(embeds), length),
            length + text.positions], 1)
        hidden = self.model.llm(embeds, position_ids=positions, return_hidden=True,
                                attn_mask=block_mask(length, text.segments))[:, length:]
        loss, outcome = answer_loss(self.model.llm.logits(hidden[text.labels != -100]), text)
        metrics = {k: sum(v) / len(v) for k, v in outcome.items()}
        questions = [x for k, v in outcome.items() if k != 'caption' for x in v]
        metrics['exact'] = sum(questions) / max(len(questions), 1)
        name = batch.modalities[0].value if len(batch.modalities) == 1 else 'several'
        return loss, {'loss': float(loss.detach()),
                      **{f'{name}:{k}': v for k, v in metrics.items()}}

    @torch.no_grad()
    def evaluate(self, stage: Stage) -> dict[str, float]:
        """Score held-out worlds: each set of modalities of the stage on a few batches."""
        self.model.eval()
        sums: dict[str, list[float]] = {}
        for present, _ in stage.sets:
            only = replace(stage, sets=((present, 1.0),), steps=EVAL_BATCHES)
            data = Batches(str(self.held_out), only, self.config, self.text, seed=1,
                           as_rendered=True)
            for step in range(max(1, EVAL_BATCHES // len(stage.sets))):
                for key, value in self.losses(stage, data[step])[1].items():
                    sums.setdefault(key, []).append(value)
        return {k: round(sum(v) / len(v), 3) for k, v in sorted(sums.items())}

    def _log(self, **values: Any) -> None:
        with open(self.out / 'log.jsonl', 'a') as file:
            file.write(json.dumps(values) + '\n')


def schedule(step: int, stage: Stage) -> float:
    """Return the share of the peak learning rate: linear warm-up, cosine to a twentieth."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    if device.type == 'cpu':
        return batch
    text = batch.text and replace(
        batch.text, **{k: getattr(batch.text, k).to(device)
                       for k in ('ids', 'segments', 'positions', 'labels')})
    return replace(
        batch, inputs={m: x.to(device) for m, x in batch.inputs.items()}, text=text,
        targets={k: v.to(device) for k, v in batch.targets.items()},
        slots={m: (a.to(device), b.to(device)) for m, (a, b) in batch.slots.items()},
        cells=batch.cells and batch.cells.to(device))
