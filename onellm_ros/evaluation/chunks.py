"""Items as they are worked on: those with the same evidence together, some of these at once.

How items are put together depends on the items and the batch alone, never on what was answered
before or on how many processes there are: so a run that was stopped, or shared out, gives the
same answers to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onellm_ros.evaluation.item import Item

LONGEST = 64            # items on the same evidence that are kept together at most

Unit = tuple[Item, ...]             # items that look at the same
Chunk = tuple[Unit, ...]            # what is encoded at once


def _evidence(item: Item) -> Any:
    """Return what tells evidence apart; None: it is the item's own."""
    if item.evidence:
        return item.evidence
    return sorted((m.value, s) for m, s in item.signals.items()) or None


def units(items: Sequence[Item]) -> Iterator[Unit]:
    """Yield items in a row with the same evidence together."""
    held: list[Item] = []
    key: Any = None
    for item in items:
        found = _evidence(item)
        if held and (found is None or found != key or len(held) == LONGEST):
            yield tuple(held)
            held = []
        held.append(item)
        key = found
    if held:
        yield tuple(held)


def chunks(items: Sequence[Item], batch: int) -> list[Chunk]:
    """Return what is worked on at once: so many items at most, or those of one evidence."""
    out: list[Chunk] = []
    held: list[Unit] = []
    count = 0
    for unit in units(items):
        if held and count + len(unit) > batch:
            out.append(tuple(held))
            held, count = [], 0
        held.append(unit)
        count += len(unit)
    return [*out, tuple(held)] if held else out


def share(chunked: Sequence[Chunk], rank: int, size: int) -> list[Chunk]:
    """Return the part of one process of several: every so manieth."""
    return list(chunked[rank::size])
