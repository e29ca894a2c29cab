"""Draw where the time of one window goes, and how cost grows: docs/images/profile_*.png.

The first picture is of torch's profiler over single windows: what of each stage is matrix
products, attention and so on; what is inside no operation of torch is Python with the libraries
that it calls, and the loops that numba compiled. The second is drawn from results that
``bench_describe.py --growth --json`` wrote.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
import json
from pathlib import Path
import re
import statistics
import time
from typing import Any

from _report import machine
import matplotlib
import torch
from torch.profiler import ProfilerActivity, profile

from onellm_ros.bench.stages import FIVE, QUESTION, profiled, sensed_windows
from onellm_ros.inference.engine import Engine

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / 'docs' / 'images'
OTHER, OUTSIDE = 'other operations of torch', 'Python and libraries it calls'
LOOPS = 'compiled loops'
# The first group with a fitting name takes an operation.
GROUPS = (('matrix products', r'mm|matmul|linear|addbmm'), ('attention', r'attention|sdpa'),
          ('convolutions', r'conv|unfold'), ('norms', r'norm'),
          ('activations', r'gelu|silu|sigmoid|softmax|mul'),
          ('choice of points', r'topk|sort|argmax|cdist|gather|index|min|max'),
          ('copies', r'copy|cat|clone|contiguous|to$|_to|stack|fill|empty|zeros'))
MOST_BYTES = 150_000
Groups = dict[str, float]


def group_of(name: str) -> str:
    """Return the group of an operation."""
    short = name.partition('::')[2] or name
    return next((group for group, pattern in GROUPS if re.search(pattern, short)), OTHER)


def split(function: Callable[[], object], repeats: int) -> tuple[float, Groups]:
    """Return seconds of a call, and of them in each group of operations.

    The seconds are those of CPU of a call without the profiler, which slows small operations
    down; what it finds is scaled to its own run's length.
    """
    function()
    plain, shares = [], []
    for _ in range(repeats):
        started = time.process_time()
        function()
        plain.append(time.process_time() - started)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            started = time.perf_counter()
            function()
            whole = time.perf_counter() - started
        inside: Groups = defaultdict(float)
        for event in found.events():
            inside[group_of(event.name)] += event.self_cpu_time_total / 1e6
        loops = profiled(function)[1] * whole
        inside[OUTSIDE] = max(0.0, whole - loops - sum(inside.values()))
        inside[LOOPS] = loops
        shares.append({group: value / whole for group, value in inside.items()})
    names = {group for one in shares for group in one}
    middle = {g: statistics.median(one.get(g, 0.0) for one in shares) for g in names}
    seconds, total = statistics.median(plain), sum(middle.values())
    return seconds, {group: seconds * share / total for group, share in middle.items()}


def stages(engine: Engine, repeats: int) -> dict[str, tuple[float, Groups]]:
    """Return the stages of a window of five modalities and of a question about it."""
    window = next(sensed_windows(engine.config.tokenizer, FIVE, 1, first=3))

    def prepared() -> Any:
        engine.forget()                         # what was made of these samples before
        return engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False).only(FIVE)

    inputs = prepared()
    prefix = engine.encode(inputs)

    def encoded() -> Any:
        engine.forget()
        return engine.encode(inputs)

    return {'prepare the signals': split(prepared, repeats),
            'encoder, UPM, prefix': split(encoded, repeats),
            'first token': split(lambda: engine.describe(prefix, max_tokens=1), repeats),
            'description, all tokens': split(lambda: engine.describe(prefix), repeats),
            'question, first token': split(
                lambda: engine.ask(prefix, QUESTION, max_tokens=1), repeats)}


def draw_profile(found: dict[str, tuple[float, Groups]], title: str, path: Path) -> None:
    """Draw the stages as bars, each made of its groups."""
    order = [OUTSIDE, *(name for name, _ in GROUPS), LOOPS, OTHER]
    colours = dict(zip(order, ['0.75', *(f'C{i}' for i in range(len(GROUPS))), 'gold', '0.45']))
    figure, axes = pyplot.subplots(figsize=(8.5, 3.6), layout='constrained')
    names = list(found)
    left = [0.0] * len(names)
    for group in order:
        widths = [1e3 * found[name][1].get(group, 0.0) for name in names]
        if sum(widths) > 0:
            axes.barh(names, widths, left=left, color=colours[group], label=group)
        left = [a + b for a, b in zip(left, widths)]
    for place, name in enumerate(names):
        axes.text(left[place], place, f' {1e3 * found[name][0]:.3g} ms', va='center', fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel('milliseconds of CPU')
    axes.set_xlim(0, 1.12 * max(left))
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, loc='lower right')
    save(figure, path)


def draw_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows ``growth, N what`` of bench_describe.

    :raises SystemExit: if there are none.
    """
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        name = re.fullmatch(r'growth, ([\d.]+) (pictures|s|tokens)', row['case'])
        size = re.fullmatch(r'growth, .* \((\d+) M parameters\)', row['case'])
        if name:
            series[name[2]].append((float(name[1]), row['ours']))
        elif size:
            series['parameters'].append((float(size[1]), row['ours']))
    if not series:
        raise SystemExit('found no rows "growth, ..."; write them with bench_describe.py --growth '
                         '--json FILE')
    titles = {'pictures': 'pictures in a window: encode',
              's': 'seconds of sound and IMU,\nand two tokens',
              'tokens': 'tokens about image\nand depth',
              'parameters': 'million parameters: an image\nand 16 tokens'}
    figure, grid = pyplot.subplots(1, len(series), figsize=(2.6 * len(series), 2.6),
                                   layout='constrained', squeeze=False)
    for axes, (kind, points) in zip(grid[0], series.items()):
        axes.plot(*zip(*points), marker='o')
        axes.set_title(titles[kind], fontsize=8)
        axes.tick_params(labelsize=7)
        if kind == 'parameters':
            axes.set_xscale('log')
            axes.set_yscale('log')
        else:
            axes.set_ylim(bottom=0)
    unit = next(row['unit'] for row in rows if row['case'].startswith('growth, '))
    grid[0][0].set_ylabel(unit, fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a picture, small enough for the repository."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f'{path}: {size} bytes, expected at most {MOST_BYTES}')
    print(f'wrote {path} ({size} bytes)')


def main() -> None:
    """Draw what can be drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--model', default='nano')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--growth', type=Path, default=HERE / 'results' / 'describe.json',
                        metavar='FILE', help='results of bench_describe.py --growth')
    parser.add_argument('--out', type=Path, default=IMAGES, metavar='DIR')
    args = parser.parse_args()
    engine = Engine.load(args.model, 'cpu')
    found = stages(engine, args.repeats)
    for name, (seconds, groups) in found.items():
        text = ', '.join(f'{group} {100 * value / seconds:.0f} %' for group, value in
                         sorted(groups.items(), key=lambda item: -item[1]) if value > 0)
        print(f'{name}: {1e3 * seconds:.1f} ms: {text}')
    draw_profile(found, f'{engine.name}, image + depth + point + audio + imu; {machine("torch")}, '
                 f'{torch.get_num_threads()} thread(s)', args.out / 'profile_window.png')
    if args.growth.is_file():
        draw_growth(json.loads(args.growth.read_text(encoding='utf-8')),
                    args.out / 'profile_growth.png')
    else:
        print(f'{args.growth}: not there; no picture of how cost grows')


if __name__ == '__main__':
    main()
