"""Measure training: samples a second beside the same loop without packing and overlap; MFU.

Ours is the loop of ``onellm train`` on the stage ``instruct`` of nano: a process builds batches
ahead, and all questions about a world stand in one row behind its modality tokens, each seeing
these and itself. The reference takes the same batches, built in between the steps, with a row for
each question and the world's signals encoded again for each; their steps are taken in turns. Both
losses must be equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

from _report import Report, arguments, timed
import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from onellm_ros.config import ModelConfig
from onellm_ros.inference.locate import find_device, find_model
from onellm_ros.model.checkpoint import load_model
from onellm_ros.model.text import Text
from onellm_ros.training.batches import Batch, counted
from onellm_ros.training.data import WorldBatches
from onellm_ros.training.distributed import Ranks
from onellm_ros.training.recipes import RECIPES
from onellm_ros.training.shards import render_shard
from onellm_ros.training.stage_run import StageRun
from onellm_ros.training.stages import Stage
from onellm_ros.training.targets import IGNORE
from onellm_ros.training.templates import Segment, pack_segments

STAGE = 'instruct'
WARM_UP = 1             # steps that do not count
TOLERANCE = 0.02        # of the first step's loss: bfloat16, and another order of sums


def one_question_a_row(batch: Batch, pad: int) -> Batch:
    """Return the batch with a row for each question, its signals repeated."""
    text = batch.text
    assert text is not None
    rows: list[list[Segment]] = []
    owners: list[int] = []
    for b, types in enumerate(text.types):
        for number, kind in enumerate(types, 1):
            at = text.segments[b] == number
            rows.append([Segment(text.ids[b][at].tolist(), (text.labels[b][at] != IGNORE).tolist(),
                                 kind)])
            owners.append(b)
    take = torch.tensor(owners)
    return counted(replace(
        batch, inputs={m: x[take] for m, x in batch.inputs.items()},
        names=[batch.names[b] for b in owners],
        targets={k: v[take] for k, v in batch.targets.items()},
        slots={m: (a[take], b[take]) for m, (a, b) in batch.slots.items()},
        text=pack_segments(rows, pad)))


@dataclass
class Measured:
    """What a loop took, without its first steps."""

    worlds: int = 0
    questions: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    cpu: float = 0.0
    loss: float = 0.0           # of the first step

    @property
    def rate(self) -> float:
        """Worlds a second."""
        return self.worlds / self.seconds


class Bench:
    """One stage of training on rendered worlds.

    :param worlds: folder with shards. :param steps: that count.
    """

    def __init__(self, worlds: Path, stage: Stage, steps: int, device: torch.device,
                 precision: str) -> None:
        folder = find_model('nano')
        self.folder, self.device, self.precision = folder, device, precision
        self.config: ModelConfig = load_model(folder).config
        self.text = Text.load(folder, self.config.text)
        self.stage, self.steps = stage, steps
        self.batches = WorldBatches(worlds, stage, self.config, self.text)

    def new_run(self, out: Path) -> StageRun:
        """Return the stage at its begin."""
        model = load_model(self.folder, dtype=torch.float32)
        return StageRun(self.stage, model, None, self.text.bos, out,
                        ranks=Ranks(device=self.device), seed=0, precision=self.precision)

    def packed(self, workers: int) -> Iterable[Batch]:
        """Return the batches as ``onellm train`` has them."""
        items: Any = self.batches
        return DataLoader(items, batch_size=None, num_workers=workers,
                          sampler=range(WARM_UP + self.steps),
                          prefetch_factor=4 if workers else None,
                          generator=torch.Generator().manual_seed(0))

    def in_turns(self, out: Path) -> tuple[Measured, Measured]:
        """Take each step packed and with a row for each question, one right after the other.

        What else the machine does then meets both alike.
        """
        runs, found = [self.new_run(out), self.new_run(out)], (Measured(), Measured())
        for step in range(WARM_UP + self.steps):
            for turn in (0, 1):
                self.wait()
                started, begun = time.perf_counter(), time.process_time()
                batch = self.batches[step]
                worlds = self.batches.size(batch.modalities)
                questions = sum(map(len, batch.text.types)) if batch.text else 0
                if turn:
                    batch = one_question_a_row(batch, self.text.pad)
                sums = runs[turn].update(step, [batch])
                self.wait()
                mine = found[turn]
                if step == 0:
                    mine.loss = sums['loss'][0]
                if step >= WARM_UP:
                    mine.seconds += time.perf_counter() - started
                    mine.cpu += time.process_time() - begun
                    mine.worlds += worlds
                    mine.questions += questions
        return found

    def go(self, batches: Iterable[Batch], out: Path) -> Measured:
        """Take all steps."""
        run, found = self.new_run(out), Measured()
        source, begun = iter(batches), 0.0
        for step in range(WARM_UP + self.steps):
            if step == WARM_UP:
                self.wait()
                begun = time.perf_counter()
            asked = time.perf_counter()
            batch = next(source)
            waited = time.perf_counter() - asked
            sums = run.update(step, [batch])
            if step == 0:
                found.loss = sums['loss'][0]
            if step >= WARM_UP:
                found.waited += waited
                found.worlds += self.batches.size(batch.modalities)
                found.questions += sum(map(len, batch.text.types)) if batch.text else 0
        self.wait()
        found.seconds = time.perf_counter() - begun
        return found

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def flops(self, out: Path) -> float:
        """Return the floating-point operations of all steps that count, as torch counts them."""
        run, total = self.new_run(out), 0
        for step in range(WARM_UP, WARM_UP + self.steps):
            with FlopCounterMode(display=False) as counter:
                run.update(step, [self.batches[step]])
            total += counter.get_total_flops()
        return float(total)

    def peak(self) -> float:
        """Return the operations a second of a large matrix product in the type of training."""
        kind = torch.bfloat16 if self.precision == 'bf16' else torch.float32
        n = 8192 if self.device.type == 'cuda' else 1024
        a = torch.randn(n, n, device=self.device).to(kind)

        def product() -> None:
            torch.mm(a, a)
            self.wait()

        return 2 * n ** 3 / min(timed(product, 7, warmup=2).values)


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=1)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--steps', type=int, default=40, help='optimizer steps that count')
    parser.add_argument('--worlds', type=int, default=128, help='to render and train on')
    parser.add_argument('--workers', type=int, default=1, help='as of onellm train')
    parser.add_argument('--precision', choices=('bf16', 'float32'), default='bf16')
    args = parser.parse_args()
    device = find_device(args.device)
    steps, worlds = (2, 16) if args.quick else (args.steps, args.worlds)
    report = Report('Training', 'torch', 'numpy')
    stage = RECIPES['nano'].stage(STAGE)
    if args.quick:
        stage = replace(stage, batch=8)
    print(f'stage {STAGE} of nano, batches of {stage.batch} worlds, {args.precision}, on '
          f'{device}, {torch.get_num_threads()} threads; {steps} steps after {WARM_UP}')
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        bench_config = load_model(find_model('nano')).config
        render_shard(out / 'worlds', 0, bench_config, worlds=worlds)
        bench = Bench(out / 'worlds', stage, steps, device, args.precision)
        ours = bench.go(bench.packed(args.workers), out)
        packed, plain = bench.in_turns(out)
        if abs(packed.loss - plain.loss) > TOLERANCE * abs(plain.loss):
            sys.exit(f'the first loss is {packed.loss:.4f} packed and {plain.loss:.4f} with a row '
                     'for each question; expected the same')
        operations, peak = bench.flops(out), bench.peak()
    print(f'{ours.questions / ours.worlds:.1f} questions and captions a world; the first loss: '
          f'{packed.loss:.4f}, without packing {plain.loss:.4f}')
    report.add('samples, packed and built ahead', ours.rate, unit='worlds/s')
    report.add('samples in turns, packed', packed.rate, plain.rate, unit='worlds/s',
               more_is_better=True)
    report.add('questions in turns, packed', packed.questions / packed.seconds,
               plain.questions / plain.seconds, unit='a second', more_is_better=True)
    if device.type == 'cpu':
        report.add('CPU of a world, packed', 1e3 * packed.cpu / packed.worlds,
                   1e3 * plain.cpu / plain.worlds, unit='ms CPU')
    report.add('share of time that waits for data', 100 * ours.waited / ours.seconds, unit='%',
               goal='<= 5')
    report.add('matrix product, the peak of MFU', peak / 1e9, unit='GFLOP/s')
    report.add('MFU', 100 * operations / ours.seconds / peak, unit='%')
    report.note(f'MFU: {operations / steps / 1e9:.1f} GFLOP a step (products, convolutions and '
                'attention, forward and backward, as torch counts them) over the measured rate '
                f'of a large matrix product in {args.precision}; {os.cpu_count()} cores')
    report.finish(args.json)


if __name__ == '__main__':
    main()
