"""The trainer: runs one stage after another, writes checkpoints, resumes where it was stopped.

Owns the order of things: a stage's beginning, what is due after a step, a stage's end. Steps are
taken by ``stage_run.py``, batches come from ``sources.py``, the run's folder is written by
``checkpoint.py`` and ``progress.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from onellm_ros.config import ModelConfig
from onellm_ros.datasets import DataError
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.training import lora
from onellm_ros.training.batches import Batch, Split, StageBatches
from onellm_ros.training.checkpoint import Moments, RunState, load_state, restore, save_state
from onellm_ros.training.distributed import Ranks, Sums, add_sums
from onellm_ros.training.errors import TrainingError, plain
from onellm_ros.training.experts import copied_experts
from onellm_ros.training.losses import Heads
from onellm_ros.training.progress import Log, Progress
from onellm_ros.training.sources import Sources
from onellm_ros.training.stage_run import StageRun, means, seed_of
from onellm_ros.training.stages import Stage
from onellm_ros.training.templates import with_template

FIT_SAMPLES = 64


@dataclass(frozen=True)
class Options:
    """How to train, beside the stages.

    :param seed: of everything drawn. :param workers: processes that build batches.
    :param precision: ``bf16`` (autocast) or ``float32``. :param lora: rank of adapters in stages
        in which the LLM learns; 0: all of its weights learn.
    :param tensorboard: write TensorBoard's files, too.
    :param log_every: optimizer steps between lines of the log; likewise the others.
    :param eval_batches: that a stage is scored on.
    """

    seed: int = 0
    workers: int = 1
    precision: str = 'bf16'
    lora: int = 0
    tensorboard: bool = False
    log_every: int = 50
    save_every: int = 200
    eval_every: int = 500
    eval_batches: int = 16


class Trainer:
    """Trains one model through stages.

    :param model: to begin with; of several ranks only the first needs its values, the others may
        have it on the meta device. A run found in ``out`` brings its own.
    :param stages: to go through. :param out: folder of the run; resumed where there is one.
    :param heads: tensors of some heads that were trained before.
    :param start: index of the stage that a new run begins with.
    :raises TrainingError: if the run found cannot be gone on with.
    """

    def __init__(self, model: OneLLM, text: Text, stages: Sequence[Stage], out: Path,
                 sources: Sources, *, options: Options = Options(), ranks: Ranks = Ranks(),
                 heads: dict[str, Tensor] | None = None, start: int = 0):
        self.stages, self.out, self.sources = tuple(stages), Path(out), sources
        self.options, self.ranks = options, ranks
        self.out.mkdir(parents=True, exist_ok=True)
        self.stage_index, self.step, self.adapters = start, 0, 0
        self._window: Sums = {}
        self._moments: Moments = {}
        state = load_state(self.out, [s.name for s in self.stages])
        torch.manual_seed(options.seed)
        if state is not None:
            self._resume(state)
        else:
            self.model = model
            self.heads = self._new_heads(model.config, model)
            if heads and self.heads is not None and ranks.first:
                self.heads.load_state_dict({**self.heads.state_dict(), **heads})
        self.text = with_template(text, self.config.text.template)
        self.log = Log(self.out, self.stages, self.stage_index, self.step,
                       options.tensorboard) if ranks.first else None

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model as it stands."""
        return self.model.config

    def _new_heads(self, config: ModelConfig, model: OneLLM | None) -> Heads | None:
        """Return heads where a stage asks for them; without a model, their structure."""
        if not any(s.kind != 'align' or s.facts or s.told for s in self.stages):
            return None
        if model is None or next(model.parameters()).device.type == 'meta':
            with torch.device('meta'):
                return Heads(config, 1.0)
        scale = float(model.llm.tok_embeddings.weight.detach().float().square().mean().sqrt())
        return Heads(config, scale)

    def _resume(self, state: RunState) -> None:
        self.stage_index, self.step = state.stage, state.step
        self.adapters, self._moments = state.lora, state.optimizer
        self._window = state.window if self.ranks.first else {}
        if self.step and self.adapters != self._wanted_adapters(self.stages[self.stage_index]):
            raise TrainingError(f'{self.out}: the stage was begun with --lora {self.adapters}, '
                                f'found --lora {self.options.lora}; go on with the same')
        self._hold(state.config, state.model, state.heads)

    def _hold(self, config: ModelConfig, model: dict[str, Tensor], heads: dict[str, Tensor]
              ) -> None:
        """Take model and heads of these values; on other ranks than the first their structure."""
        with torch.device('meta'):
            self.model = OneLLM(config)
            if self.adapters:
                lora.add_adapters(self.model.llm, self.adapters)
        self.heads = self._new_heads(config, None)
        if self.ranks.first:
            restore(self.model, model, self.out)
            if self.heads is not None:
                restore(self.heads, heads, self.out)

    def run(self, before: Callable[[Stage], None] = lambda stage: None) -> None:
        """Run the stages from where the run stands to the end.

        :param before: called with each stage before it starts (to wait for its data).
        :raises TrainingError: naming stage and step.
        """
        while self.stage_index < len(self.stages):
            before(self.stages[self.stage_index])
            self.run_stage()
        if self.log is not None:
            self.log.close()

    def run_stage(self) -> None:
        """Run the stage where the run stands, from its step to its end."""
        stage, options = self.stages[self.stage_index], self.options
        if not stage.steps:                             # left out
            self.stage_index += 1
            return
        torch.manual_seed(seed_of(options.seed, stage.name))
        try:
            if self.step == 0:
                self._begin(stage)
            split = Split(self.ranks.rank, self.ranks.size, stage.accumulate)
            batches = self.sources.training(stage, self.config, self.text, options.seed, split)
            if self.step == 0:
                self._fit(stage, batches)
            run = StageRun(stage, self.model, self.heads, self.text.bos, self.out,
                           ranks=self.ranks, seed=options.seed, precision=options.precision,
                           adapters=self.adapters > 0, moments=self._moments)
            self._moments = {}
            self._go_through(stage, run, batches)
        except DataError as error:
            raise TrainingError(f'stage {stage.name}, step {self.step}: {plain(error)}') from error
        self._end(run)

    def _go_through(self, stage: Stage, run: StageRun, batches: StageBatches) -> None:
        """Take all steps of a stage that are left."""
        items: Any = batches
        loader = DataLoader(
            items, batch_size=None, num_workers=self.options.workers,
            sampler=range(self.step * stage.accumulate, stage.steps * stage.accumulate),
            prefetch_factor=4 if self.options.workers else None,
            generator=torch.Generator().manual_seed(0))
        progress = Progress(stage, self.step, self.ranks.first)
        parts: list[Batch] = []
        try:
            for part in loader:
                parts.append(part)
                if len(parts) == stage.accumulate:
                    self._step(stage, run, parts, progress)
                    parts = []
        finally:
            progress.close()

    def _wanted_adapters(self, stage: Stage) -> int:
        return self.options.lora if 'llm' in stage.trains else 0

    def _begin(self, stage: Stage) -> None:
        """Give the model the form that a stage wants."""
        if stage.experts:
            self.model = copied_experts(self.model, stage.experts)
        if stage.template:
            config = self.config
            self.model.config = replace(config, text=replace(config.text,
                                                             template=stage.template))
            self.text = with_template(self.text, stage.template)
        self.adapters = self._wanted_adapters(stage)
        if self.adapters:
            lora.add_adapters(self.model.llm, self.adapters)

    @torch.no_grad()
    def _fit(self, stage: Stage, batches: StageBatches) -> None:
        """Start what is new in the UPM: as image's, or on the encoder's features."""
        if not (stage.fresh or stage.copied) or not self.ranks.first:
            return
        for modality in stage.copied:
            self.model.upm.begin_as(modality, Modality.IMAGE, modality not in stage.fresh)
        self.model.to(self.ranks.device)
        for modality in stage.fresh:
            x = batches.inputs(modality, FIT_SAMPLES).to(self.ranks.device)
            features = self.model.features(modality, x).flatten(0, 1).float()
            self.model.upm.centre(modality, features.mean(0), features.std(0))

    def _step(self, stage: Stage, run: StageRun, parts: list[Batch], progress: Progress) -> None:
        """Take one optimizer step, and do what is due after it."""
        add_sums(self._window, run.update(self.step, parts))
        if stage.data == 'manifest' and self.sources.on_broken == 'skip':
            skipped = sum(len(part.skipped) for part in parts)
            add_sums(self._window, {'skipped a step': [float(skipped), 1 / self.ranks.size]})
        self.step += 1
        progress.step(sum(len(part) for part in parts) * self.ranks.size)
        last = self.step == stage.steps
        if self.step % self.options.log_every == 0 or last:
            mean, rate = means(self.ranks.merged(self._window), 6), progress.rate()
            if self.log is not None:
                progress.tell(mean['loss'], rate)
                self._log(stage, samples_per_s=round(rate, 1),
                          learning_rate=run.learning_rate(self.step - 1), **mean)
            self._window = {}
        if self.step % self.options.eval_every == 0 or last:
            held_out = self.sources.evaluation(
                stage, self.config, self.text, Split(self.ranks.rank, self.ranks.size))
            if held_out is not None:
                self._log(stage, held_out=run.evaluate(held_out, self.options.eval_batches))
            progress.pause()
        if self.step % self.options.save_every == 0 and not last:
            merged = self.ranks.merged(self._window)
            self._window = merged if self.ranks.first else {}
            self._write(*run.tensors(), run.moments())

    def _log(self, stage: Stage, **values: Any) -> None:
        if self.log is not None:
            self.log.write(stage.name, self.step, **values)

    def _write(self, model: dict[str, Tensor], heads: dict[str, Tensor], moments: Moments) -> None:
        names = [stage.name for stage in self.stages]
        if self.ranks.first:
            save_state(self.out, RunState(
                self.stage_index, ''.join(names[self.stage_index:][:1]), names[:self.stage_index],
                self.step, self.config, model, heads, moments, self._window, self.adapters))
        self.ranks.wait()

    def _end(self, run: StageRun) -> None:
        """Bring the model back to one place, in its plain form, and go on to the next stage."""
        if self.ranks.size > 1:
            self._hold(self.config, *run.tensors())
        self._merge()
        self.model.requires_grad_(False)
        self.stage_index, self.step, self._window = self.stage_index + 1, 0, {}
        self._write(dict(self.model.state_dict()),
                    {} if self.heads is None else dict(self.heads.state_dict()), {})

    def _merge(self) -> None:
        if self.adapters:
            lora.merge_adapters(self.model.llm)
            self.adapters = 0

    def finished(self) -> OneLLM:
        """Return the model as it stands, whole and plain; it has values on rank 0 alone."""
        self._merge()
        return self.model
