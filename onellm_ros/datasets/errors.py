"""What can be wrong with a data set, and with one sample of it."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """A data set, manifest or request that cannot be used; says found, expected and what to do."""


class RowError(ValueError):
    """A row of an annotation file that is not understood; the text says found and expected."""


@dataclass(frozen=True)
class Broken:
    """One sample that cannot be used. It is what a data set that skips gives in its place.

    :param source: the annotation file; :param row: its row, counted from 0 (without the header);
        -1: the whole file.
    :param path: the sensor file at fault; empty if the row itself is.
    :param reason: what was found and what was expected.
    """

    source: str
    row: int
    path: str
    reason: str

    def __str__(self) -> str:
        named = not self.path or self.path in self.reason
        return f'{self.source}: row {self.row}: {"" if named else self.path + ": "}{self.reason}'


class BrokenSampleError(DataError):
    """A sample that cannot be used, where none may be skipped.

    :param text: names the annotation file, the row, the sensor file, what was found and expected.
    :param broken: the same in parts; None behind the border of a worker process, which torch lets
        only the text pass.
    """

    def __init__(self, text: str, broken: Broken | None = None) -> None:
        super().__init__(text)
        self.broken = broken
