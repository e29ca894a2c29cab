"""Peak memory and time of `onellm convert`, both ways, on a random checkpoint.

    .venv/bin/python benchmarks/bench_convert.py --layers 2 --folder /somewhere/with/room

The checkpoint has the released model's sizes but for the numbers of layers; it is written, like
everything here, a tensor at a time, and removed afterwards.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import filecmp
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import torch

from onellm_ros.config import PRESETS
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import entries
from onellm_ros.weights.convert import CONSOLIDATED, released_values, write_json
from onellm_ros.weights.tensors import Item, write_torch

FULL = PRESETS['onellm_7b']


def write_random(folder: Path, width: int, layers: int) -> None:
    """Write a released-layout directory of random float16 bits."""
    config = replace(FULL, llm=replace(FULL.llm, dim=width, heads=width // 128, layers=layers),
                     encoder=replace(FULL.encoder, layers=4), upm=replace(FULL.upm, layers=1))
    with torch.device('meta'):
        own = OneLLM(config).state_dict()
    items = [Item(e.released, torch.float16, tuple(e.to_released(own[e.own]).shape))
             for e in entries(config)]
    items.append(Item('llma.clip.token_embedding.weight', torch.float16, (49408, 768)))
    shapes = {item.name: item.shape for item in items}
    folder.mkdir()
    write_torch(folder / CONSOLIDATED, items, lambda names: (
        torch.randint(-20000, 20000, shapes[n], dtype=torch.int16).view(torch.float16)
        for n in names), lambda _: None)
    write_json(folder / 'config.json', released_values(config))


def measured(*command: str) -> None:
    """Run a command of Python's in a process of its own; print its times and its peak memory."""
    start = time.perf_counter()
    sys.stdout.flush()
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f'{" ".join(command)}: exit status {process.returncode}')
    print(f'  peak {usage.ru_maxrss / 1024:.0f} MiB, {time.perf_counter() - start:.0f} s '
          f'({usage.ru_utime + usage.ru_stime:.0f} s of a CPU)', flush=True)


def convert(*args: str) -> None:
    """Convert in a process of its own."""
    measured('-m', 'onellm_ros.cli', 'convert', *args)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--width', type=int, default=4096, help='of the language model')
    parser.add_argument('--layers', type=int, default=2, help='of the language model; 32: all')
    parser.add_argument('--folder', type=Path, help='where to write (default: the temporary one)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        source, there, back = (Path(name) / part for part in ('source', 'there', 'back'))
        write_random(source, args.width, args.layers)
        print(f'checkpoint of {(source / CONSOLIDATED).stat().st_size / 1e9:.2f} GB')
        convert(str(source), str(there))
        convert(str(there), str(back), '--to', 'released')
        same = filecmp.cmp(source / CONSOLIDATED, back / CONSOLIDATED, shallow=False)
        print('the way back gives', 'the same file' if same else 'ANOTHER FILE')


if __name__ == '__main__':
    main()
