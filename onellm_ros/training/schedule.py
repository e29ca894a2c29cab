"""The learning rate over a stage, counted in optimizer steps."""

from __future__ import annotations

import math


def share_of_peak(step: int, steps: int, warmup: int, floor: float) -> float:
    """Return the share of the peak learning rate of an optimizer step.

    Linear warm-up that reaches 1 with step ``warmup - 1``, then a cosine down to ``floor``.

    :param step: from 0. :param steps: of the stage. :param floor: share at the end, 0..1.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
