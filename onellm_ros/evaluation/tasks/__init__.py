"""The table of benchmarks; each module below adds its rows."""

from __future__ import annotations

import functools
import importlib

from onellm_ros.evaluation.task import Task

_MODULES: tuple[str, ...] = (
    'image_qa', 'image_choice', 'image_captions',
    'video', 'audio', 'audio_visual', 'points', 'scenes', 'signals', 'robot')


@functools.cache
def tasks() -> dict[str, Task]:
    """Return all benchmarks by name: the paper's in its order, then those beside them."""
    found = [task for module in _MODULES
             for task in importlib.import_module(f'{__name__}.{module}').TASKS]
    found.sort(key=lambda task: task.paper.number or 99 if task.paper else 100)
    return {task.name: task for task in found}


def find_task(name: str) -> Task:
    """Return a benchmark.

    :raises ValueError: for an unknown name; the text lists the known ones.
    """
    known = tasks()
    if name not in known:
        raise ValueError(f'unknown task {name!r}: expected one of {", ".join(known)}')
    return known[name]
