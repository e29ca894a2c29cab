"""One stage in the making: the module that computes its losses, the optimizer, single steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
import json
import math
from pathlib import Path
import sys
import zlib

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torch.utils.checkpoint import checkpoint

from onellm_ros.model.onellm import OneLLM
from onellm_ros.training import lora
from onellm_ros.training.batches import Batch, StageBatches
from onellm_ros.training.checkpoint import Moments
from onellm_ros.training.counts import Counts
from onellm_ros.training.distributed import (
    BLOCKS,
    Ranks,
    Sums,
    add_sums,
    gathered,
    like,
    shard,
    whole,
)
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.losses import Heads, Losses, attention_backends
from onellm_ros.training.schedule import share_of_peak
from onellm_ros.training.stages import Stage

STOPPED, SKIPPED = 'stopped.json', 'skipped.log'


def seed_of(*of: object) -> int:
    """Return a seed that these things name."""
    return zlib.crc32(repr(of).encode())


class StageRun:
    """Takes the optimizer steps of one stage.

    :param model: in the form that the stage wants, on the CPU or this rank's device; with several
        ranks it is spread over them. :param heads: likewise, None without any.
    :param bos: id of the beginning-of-sequence token. :param precision: ``bf16`` or ``float32``.
    :param adapters: only the LLM's adapters learn, not its weights.
    :param moments: of the optimizer, by parameter, where the stage is gone on with.
    :param out: where what stops or is skipped is written.
    """

    def __init__(self, stage: Stage, model: OneLLM, heads: Heads | None, bos: int, out: Path, *,
                 ranks: Ranks, seed: int, precision: str = 'bf16', adapters: bool = False,
                 moments: Mapping[str, Mapping[str, Tensor]] | None = None):
        self.stage, self.ranks, self.seed, self.out = stage, ranks, seed, out
        model.requires_grad_(False)
        for part in stage.trains:
            for name, parameter in model.part(part).named_parameters():
                parameter.requires_grad_(stage.learns(name) and (
                    part != 'llm' or not adapters or lora.is_adapter(name)))
        if heads is not None:
            heads.requires_grad_(True)
        for block in model.modules():
            if isinstance(block, BLOCKS):
                block.__dict__.pop('forward', None)
                if stage.checkpointing:
                    block.__dict__['forward'] = partial(checkpoint, block.forward,
                                                        use_reentrant=False)
        kind = torch.bfloat16 if precision == 'bf16' else torch.float32
        self.losses = Losses(model, heads, bos, kind, ranks.size > 1)
        if ranks.size > 1:
            shard(self.losses, self.losses.state_dict() if ranks.first else {}, ranks)
        else:
            self.losses.to(ranks.device)
        self.learning = {n: p for n, p in self.losses.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            [{'params': [p for p in self.learning.values() if p.ndim > 1],
              'weight_decay': stage.weight_decay},
             {'params': [p for p in self.learning.values() if p.ndim <= 1], 'weight_decay': 0.0}],
            lr=stage.learning_rate, betas=stage.betas, fused=True)
        for name, parameter in self.learning.items():
            if moments and name in moments:
                self.optimizer.state[parameter] = {
                    key: value.clone().to(parameter.device) if key == 'step'
                    else like(value.clone() if ranks.first else None, parameter, ranks)
                    for key, value in moments[name].items()}

    def moments(self) -> Moments:
        """Return the optimizer's moments by parameter, on rank 0; to be called by all ranks."""
        return {name: gathered(self.optimizer.state[parameter], self.ranks)
                for name, parameter in self.learning.items() if parameter in self.optimizer.state}

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of model and heads, on rank 0; to be called by all ranks."""
        heads = self.losses.heads
        return (gathered(self.losses.model.state_dict(), self.ranks),
                {} if heads is None else gathered(heads.state_dict(), self.ranks))

    def _whole_counts(self, parts: list[Batch]) -> Counts | None:
        """Return the counts of a whole batch; None where one part is the whole."""
        if len(parts) == 1 and self.ranks.size == 1:
            return None
        names = sorted(parts[0].counts)
        totals = self.ranks.sum(sum(part.counts[name] for part in parts) for name in names)
        return dict(zip(names, totals))

    def _noted(self, sums: Sums, total: float, part: Batch) -> None:
        """Add the loss of a whole batch; one rank tells what all know."""
        if self.ranks.first:
            add_sums(sums, {'loss': [total, 1.0], f'{part.title}:loss': [total, 1.0]})

    def update(self, step: int, parts: list[Batch]) -> Sums:
        """Take an optimizer step on this rank's parts of a batch.

        :returns: figures to log; those that all ranks know come from rank 0 alone.
        :raises TrainingError: where loss or gradient is not finite, before any weight changes.
        """
        stage, device = self.stage, self.ranks.device
        for group in self.optimizer.param_groups:
            group['lr'] = self.learning_rate(step)
        self.losses.train()
        counts, own = self._whole_counts(parts), 0.0
        sums: Sums = {}
        self.optimizer.zero_grad(set_to_none=True)
        for turn, part in enumerate(parts):
            torch.manual_seed(seed_of(self.seed, stage.name, step,
                                      self.ranks.rank * len(parts) + turn))
            with sdpa_kernel(attention_backends(device)):
                loss, found = self.losses(stage, part.to(device), counts)
                # FSDP gives the mean over the ranks; the parts' losses are to be summed.
                (loss * self.ranks.size).backward()
            own += float(loss.detach())
            add_sums(sums, found)
            self._tell_skipped(step, part)
        total = self.ranks.sum([own])[0]
        if not math.isfinite(total):
            raise self._stopped(step, parts, f'the loss is {total}')
        norm = float(whole(nn.utils.clip_grad_norm_(self.learning.values(), stage.clip)))
        if not math.isfinite(norm):
            raise self._stopped(step, parts, f'the norm of the gradient is {norm}')
        self.optimizer.step()
        self._noted(sums, total, parts[0])
        if self.ranks.first:
            add_sums(sums, {'gradient norm': [norm, 1.0]})
        return sums

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of an optimizer step."""
        stage = self.stage
        return stage.learning_rate * share_of_peak(step, stage.steps, stage.warmup, stage.floor)

    @torch.no_grad()
    def evaluate(self, batches: StageBatches, count: int) -> dict[str, float]:
        """Score batches that training does not see.

        :param count: of batches, shared among the sets of modalities; one each at least.
        """
        self.losses.eval()
        sums: Sums = {}
        present = batches.present()
        for chosen in present:
            only = batches.only(chosen)
            for index in range(max(1, count // len(present))):
                part = only[index]
                self._tell_skipped('held out', part)
                with sdpa_kernel(attention_backends(self.ranks.device)):
                    loss, found = self.losses(self.stage, part.to(self.ranks.device),
                                              self._whole_counts([part]))
                add_sums(sums, found)
                self._noted(sums, self.ranks.sum([float(loss)])[0], part)
        return means(self.ranks.merged(sums), 4)

    def _tell_skipped(self, step: int | str, part: Batch) -> None:
        """Note which samples of a part are broken, each with its place and what is wrong."""
        if part.skipped:
            path = self.out / SKIPPED
            if not path.exists():
                print(f'skipped: {part.skipped[0]}; all that are go to {path}', file=sys.stderr)
            with open(path, 'a') as file:
                file.writelines(f'{self.stage.name} {step} {broken}\n' for broken in part.skipped)

    def _stopped(self, step: int, parts: list[Batch], what: str) -> TrainingError:
        """Return the error of a step that would spoil the model; the batch goes to a file, too."""
        names = self.ranks.gather([name for part in parts for name in part.names])
        wrong = self.ranks.gather([
            name for part in parts for x in part.inputs.values()
            for name, good in zip(part.names, x.isfinite().flatten(1).all(1).tolist())
            if not good])
        if self.ranks.first:
            (self.out / STOPPED).write_text(json.dumps(
                {'stage': self.stage.name, 'step': step, 'found': what,
                 'modality': parts[0].title, 'inputs not finite': wrong, 'batch': names},
                indent=1))
        shown = ', '.join((wrong or names)[:4])
        more = len(wrong or names) - 4
        return TrainingError(
            f'stage {self.stage.name}, step {step}: {what} on a batch of {parts[0].title}'
            f'{", the input not finite" if wrong else ""}: {shown}'
            f'{f" and {more} more" if more > 0 else ""} (all in {self.out / STOPPED}); the last '
            'checkpoint is unharmed')


def means(sums: Sums, digits: int) -> dict[str, float]:
    """Return the mean of each figure that was counted."""
    return {name: round(value / count, digits) for name, (value, count) in sorted(sums.items())
            if count}
