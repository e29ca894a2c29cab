"""The machine that figures come from: its name, its memory, how fast that can be copied."""

from __future__ import annotations

from importlib import metadata
import os
from pathlib import Path
import platform
import statistics
import time
from typing import TYPE_CHECKING

from onellm_ros.machine import host_free, processor, usable_cores
from onellm_ros.perception.memory import megabytes

if TYPE_CHECKING:
    import torch

_BOARD = Path('/proc/device-tree/model')        # of a Jetson, a Raspberry Pi, ...
_COPIED = 256 << 20                             # bytes, more than caches hold


def machine_line(device: torch.device) -> str:
    """Return one line: board or processor, cores, load, free memory, GPU, versions."""
    import torch

    try:
        name = _BOARD.read_text(encoding='utf-8').strip('\0 \n')
    except OSError:
        name = processor()
    parts = [f'{name}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}']
    free = host_free()
    if free is not None:
        parts[0] += f', {megabytes(free)} MB free'
    if device.type == 'cuda':
        left, whole = torch.cuda.mem_get_info(device)
        parts.append(f'{torch.cuda.get_device_name(device)}, {megabytes(left)} of '
                     f'{megabytes(whole)} MB free')
    else:
        parts.append(f'{torch.get_num_threads()} threads')
    parts.append(f'Python {platform.python_version()}, torch {metadata.version("torch")}')
    return '; '.join(parts)


def copy_bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Return bytes a second that a copy reads and writes on a device, the median."""
    import torch

    count = min(_COPIED, (host_free() or 8 * _COPIED) // 8)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        if number:                              # the first touches the pages
            seconds.append(time.perf_counter() - started)
    return 2 * count / statistics.median(seconds)
