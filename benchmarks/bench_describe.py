"""Measure a window's way to words and a question's, stage by stage, with the share of Python.

For one modality, five and all eight; with ``--growth`` also what more cameras' pictures, longer
windows, more tokens and larger models cost (docs/performance.md).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from _report import Report, Timing, arguments
import numpy as np
import torch

from onellm_ros.bench.models import SIZES, random_engine
from onellm_ros.bench.stages import (
    FIVE,
    WARM_UP,
    SensedWindow,
    Stages,
    fresh_copy,
    measure,
    python_shares,
    sensed_windows,
)
from onellm_ros.config import NANO, LlmConfig, ModelConfig
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality

SETS = {'image': (Modality.IMAGE,), 'five': FIVE, 'all eight': tuple(Modality)}
# Of nano on two CPU cores, for five modalities.
GOALS_MS = {'close to first token': '<= 150', 'question to first token': '<= 40',
            'description': '<= 500'}
PARTS = ('preprocess', 'encode', 'first token', 'rest', 'answer')


def timing(found: Stages, stage: str) -> Timing:
    """Return the milliseconds of a stage."""
    return Timing(tuple(found.seconds[stage])).scaled(1e3)


def cost(engine: Engine, found: Stages, stage: str) -> tuple[Timing, str]:
    """Return the milliseconds of CPU of a stage and their unit; on a GPU those of the clock."""
    if engine.device.type == 'cuda':
        return timing(found, stage), 'ms'
    return Timing(tuple(found.cpu[stage])).scaled(1e3), 'ms CPU'


class Bench:
    """The cases of one engine."""

    def __init__(self, report: Report, engine: Engine, repeats: int) -> None:
        self.report, self.engine, self.repeats = report, engine, repeats
        self.goals = GOALS_MS if engine.name == 'nano' and engine.device.type == 'cpu' else {}

    def stages(self, title: str, present: tuple[Modality, ...]) -> None:
        """Add the stages of windows that hold these modalities."""
        windows = list(sensed_windows(self.engine.config.tokenizer, present,
                                      self.repeats + WARM_UP))
        found = measure(self.engine, windows)
        self.report.note(f'{title}: {", ".join(m.value for m in found.used)}')
        for stage, goal in self.goals.items() or dict.fromkeys(GOALS_MS, '').items():
            self.report.add(f'{stage}, {title}', timing(found, stage), unit='ms',
                            goal=goal if title == 'five' else '')
        for stage in PARTS:
            self.report.add(f'  of it {stage}, {title}', timing(found, stage), unit='ms')
        if self.engine.device.type == 'cpu':
            for stage in found.cpu:
                self.report.add(f'  CPU of {stage}, {title}', cost(self.engine, found, stage)[0],
                                unit='ms CPU')
        if found.rates:
            self.report.add(f'tokens behind the first, {title}', Timing(tuple(found.rates)),
                            unit='tokens/s')
        if title == 'five':
            for stage, share in python_shares(self.engine, windows[0]).items():
                self.report.add(f'Python in {stage}, {title}', 100 * share, unit='% at most')


def with_frames(window: SensedWindow, seconds: float) -> SensedWindow:
    """Return a window as long as this, with as much sound and IMU as that has."""
    sound = window.chosen[Modality.AUDIO][0]
    wanted = round(seconds * sound.rate_hz)
    data = np.resize(sound.data, wanted)
    stamps = np.arange(round(seconds * 200)) * 5_000_000
    rows = window.chosen[Modality.IMU]
    imu = [replace(rows[i % len(rows)], stamp_ns=window.end_ns - int(stamps[-1]) + int(stamp))
           for i, stamp in enumerate(stamps)]
    start = window.end_ns - round(seconds * 1e9)
    return SensedWindow({**window.chosen, Modality.AUDIO: [replace(sound, data=data,
                                                                   stamp_ns=start)],
                         Modality.IMU: imu}, window.end_ns)


def growth(report: Report, engine: Engine, repeats: int) -> None:
    """Add how cost grows with pictures, window length, tokens and model size."""
    sizes, kind = engine.config.tokenizer, next(engine.model.parameters()).dtype

    def add(name: str, own: Engine, windows: list[SensedWindow], tokens: int,
            stage: str = 'description') -> None:
        value, unit = cost(own, measure(own, windows, tokens), stage)
        report.add(f'growth, {name}', value, unit=unit)

    report.note('growth: pictures in one window (frames of the video), encode')
    for frames in (1, 2, 4, 8):
        config = replace(engine.config, tokenizer=replace(
            sizes, video_frames=frames, video_positions=False))
        windows = list(sensed_windows(config.tokenizer, (Modality.VIDEO,), repeats + WARM_UP))
        add(f'{frames} pictures', random_engine(config, engine.device, kind), windows, 2, 'encode')
    report.note('growth: seconds of sound and IMU in a window, with two tokens')
    base = list(sensed_windows(sizes, (Modality.AUDIO, Modality.IMU), repeats + WARM_UP))
    for seconds in (0.5, 2.0, 8.0, 30.0):
        add(f'{seconds:g} s', engine, [with_frames(w, seconds) for w in base], 2)
    report.note('growth: tokens of a description, image and depth')
    windows = list(sensed_windows(sizes, FIVE[:2], repeats + WARM_UP))
    endless = random_engine(NANO, engine.device, kind)
    for tokens in (1, 16, 64, 256):
        add(f'{tokens} tokens', endless, [fresh_copy(w) for w in windows], tokens)
    report.note('growth: parameters of the model (random weights), image, 16 tokens')
    for name, config in size_steps().items():
        # One thread for all: threads that wait for each other take CPU, too.
        own = random_engine(config, engine.device, kind, threads=1)
        windows = list(sensed_windows(config.tokenizer, (Modality.IMAGE,), repeats + WARM_UP))
        count = sum(p.numel() for p in own.model.parameters()) / 1e6
        add(f'{name} ({count:.0f} M parameters)', own, windows, 16)


def size_steps() -> dict[str, ModelConfig]:
    """Return models between nano and the released one that a small machine can compute."""
    steps = {'nano': NANO}
    for name, dim, layers in (('small', 512, 8), ('medium', 1024, 12)):
        steps[name] = replace(
            NANO, encoder=replace(NANO.encoder, width=dim * 3 // 4, layers=layers, heads=12),
            upm=replace(NANO.upm, heads=12),
            llm=LlmConfig(dim=dim, layers=layers, heads=16, multiple_of=32, vocab_size=1024,
                          max_positions=1024, tied_embeddings=True))
    if torch.cuda.is_available():
        steps |= {'1b': SIZES['1b'], '7b': SIZES['7b']}
    return steps


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=20)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--growth', action='store_true',
                        help='how cost grows, too (without --quick always)')
    args = parser.parse_args()
    engine = Engine.load(args.model, args.device)
    report = Report('From a window to words', 'torch', 'numpy')
    repeats = min(args.repeats, 5) if args.quick else args.repeats
    print(f'model {engine.name} {engine.weights_hash} on {engine.device}, '
          f'{torch.get_num_threads()} threads; medians of {repeats} windows of the simulated '
          'robot, camera 640x480, 8192 points (lowest to highest)')
    bench = Bench(report, engine, repeats)
    for title, present in SETS.items():
        bench.stages(title, present)
    if args.growth or not args.quick:
        growth(report, engine, max(3, repeats // 3))
    report.finish(args.json)


if __name__ == '__main__':
    main()
