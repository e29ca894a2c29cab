"""Measure memory: weights and KV cache counted beside measured, and no growth over many windows.

A window is encoded and described again and again, by a tiny model with random weights and by the
shipped one; the slope of the resident memory is fitted over the second half of the windows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import gc
from typing import Any

from _report import Report, arguments
import numpy as np
import torch

from onellm_ros.bench.models import SIZES, check, count, position_bytes, random_engine
from onellm_ros.bench.stages import FIVE, fresh_copy, sensed_windows
from onellm_ros.config import NANO, ModelConfig
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import find_device
from onellm_ros.machine import rss_bytes
from onellm_ros.modality import Modality
from onellm_ros.perception.memory import BudgetError, give_back
from onellm_ros.perception.ring import MIB

TINY = replace(
    NANO, name='tiny', encoder=replace(NANO.encoder, width=32, layers=1, heads=2),
    tokenizer=replace(NANO.tokenizer, video_frames=2, points=256, point_centres=16,
                      point_neighbours=8),
    upm=replace(NANO.upm, layers=1, heads=2, modality_tokens=4),
    llm=replace(NANO.llm, dim=32, layers=1, heads=2))
KEPT = 5                # encoded windows that are held at a time, as by the node
WARM_UP = 50            # windows until allocators and caches have what they take
# Memory that 10,000 windows may add, MiB: a leak of 1 KiB a window would be 10.
GOAL_MIB = 10
MOST_TOKENS = 24


def rss_mib() -> float:
    """Return the resident memory of this process, MiB."""
    return (rss_bytes() or 0) / MIB


def on_gpu(device: torch.device) -> int:
    """Return the bytes that tensors take on a CUDA device."""
    torch.cuda.synchronize(device)
    return torch.cuda.memory_allocated(device)


def tensor_bytes(cache: Any) -> int:
    """Return the bytes of the storages of all tensors that an object holds, each counted once."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    waiting = [cache]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, torch.nn.Module):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
        elif hasattr(item, '__dict__'):
            waiting += vars(item).values()
    return sum(storages.values())


def counted(report: Report, name: str, config: ModelConfig, device: torch.device) -> None:
    """Add weights and KV cache of a random model: measured, the count as the reference."""
    kind = torch.bfloat16 if device.type == 'cuda' else torch.float32
    goal = '<= 1.1' if device.type == 'cuda' else ''
    try:
        check(name, config, device, kind.itemsize)
    except BudgetError as error:
        report.note(f'left out: {error}')
        return
    give_back()
    before = on_gpu(device) if device.type == 'cuda' else rss_bytes() or 0
    engine = random_engine(config, device, kind)
    give_back()
    taken = (on_gpu(device) if device.type == 'cuda' else rss_bytes() or 0) - before
    wanted = count(config, kind.itemsize)
    report.add(f'weights, {name}', taken / MIB, wanted.weights / MIB, unit='MiB')
    window = next(sensed_windows(config.tokenizer, FIVE, 1))
    tensors = engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False)
    inputs = tensors.only(FIVE)
    prefix = engine.encode(inputs)
    bytes_held = tensor_bytes(prefix.cache)
    expected = prefix.positions * position_bytes(config, kind.itemsize)
    report.add(f'keys and values of a window, {name}', bytes_held / MIB, expected / MIB,
               unit='MiB')
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    engine.describe(engine.encode(inputs), max_tokens=MOST_TOKENS)
    if device.type == 'cuda':
        peak = torch.cuda.max_memory_allocated(device) - before
        held = wanted.weights + expected + (2 * prefix.positions + MOST_TOKENS) * position_bytes(
            config, kind.itemsize)
        report.add(f'peak over weights and caches, {name}', peak / held, unit='times', goal=goal)
    report.add(f'whole over counted, {name}', (taken + bytes_held) / (wanted.weights + expected),
               goal=goal, unit='times')


def growth(report: Report, name: str, engine: Engine, windows: int,
           present: tuple[Modality, ...] = FIVE) -> None:
    """Add how much memory grows with the windows that are encoded and described.

    :param present: modalities of a window; its samples are never those of another one.
    """
    sensed = list(sensed_windows(engine.config.tokenizer, present, 4))
    kept: list[Any] = []
    sizes = np.zeros(windows)
    for number in range(-WARM_UP, windows):
        window = fresh_copy(sensed[number % len(sensed)])
        tensors = engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False)
        prefix = engine.encode(tensors.only(present))
        engine.describe(prefix, max_tokens=MOST_TOKENS)
        kept = [*kept[1 - KEPT:], prefix]
        if number >= 0:
            sizes[number] = rss_mib()
    gc.collect()
    half = sizes[windows // 2:]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 1 else 0.0
    report.note(f'{name}: {windows} windows after {WARM_UP}; resident {sizes[0]:.1f} MiB at '
                f'first, {sizes[-1]:.1f} at last, {sizes.max():.1f} at most')
    report.add(f'slope of the resident memory, {name}', 1024 * slope, unit='KiB/window')
    report.add(f'growth over {windows} windows, {name}', sizes[-1] - sizes[windows // 10],
               unit='MiB', goal=f'<= {GOAL_MIB}')


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=1)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--windows', type=int, default=10_000, help='of each model')
    parser.add_argument('--only-tiny', action='store_true', help='no growth of nano')
    parser.add_argument('--sizes', nargs='*', default=['nano', '1b', '7b'], choices=list(SIZES),
                        help='models to count (those that fit)')
    args = parser.parse_args()
    device = find_device(args.device)
    report = Report('Memory: counted and measured', 'torch')
    windows = min(args.windows, 300) if args.quick else args.windows
    sizes = [s for s in args.sizes if not args.quick or s == 'nano' or device.type == 'cuda']
    # What libraries take at their first use is no model's.
    first = random_engine(TINY, device, torch.float32)
    first.describe(first.encode({}), max_tokens=2)
    del first
    for name in sizes:
        counted(report, name, SIZES[name], device)
        give_back()
    kind = torch.bfloat16 if device.type == 'cuda' else torch.float32
    present = (Modality.IMAGE, Modality.IMU) if args.quick else FIVE
    growth(report, 'tiny, random', random_engine(TINY, device, kind), windows, present)
    if not args.only_tiny:
        growth(report, 'nano', Engine.load('nano', args.device), windows, present)
    report.finish(args.json)


if __name__ == '__main__':
    main()
