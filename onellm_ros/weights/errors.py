"""What can go wrong with files of weights."""

from __future__ import annotations


class WeightsError(RuntimeError):
    """Files that cannot be converted or fetched; the text says what was found and what to do."""
