"""What can stop a training run."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot begin or go on; says found, expected and what to do, or stage and step."""


def plain(error: Exception) -> str:
    """Return what an error says, without the traceback that a worker process puts before it."""
    return str(error).rpartition(f'{type(error).__name__}: ')[2].strip()
