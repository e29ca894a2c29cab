"""What this machine computes with, in words: its processor, and how many cores are usable."""

from __future__ import annotations

import os
from pathlib import Path
import platform


def processor() -> str:
    """Return the processor's name; where the system does not tell it, its architecture."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return name
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')),
                name)


def usable_cores() -> int | None:
    """Return how many cores this process may use; None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
