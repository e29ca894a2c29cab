"""What data sets hold (``stats``) and what of it is broken (``check``), in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch.utils.data import DataLoader, Dataset

from onellm_ros.datasets.errors import Broken, BrokenSampleError, DataError
from onellm_ros.datasets.sets import FileSet
from onellm_ros.model.text import Text

_CHUNK = 64                     # rows that a worker takes at a time


@dataclass
class Stats:
    """Numbers of one data set, or of several.

    :param broken: rows that are not understood; the other numbers are without them.
    :param rows: rows that the numbers are from, the broken ones among them.
    :param prompt_tokens: of the questions; :param answer_tokens: of the answers or captions.
    :param longest: tokens of the longest conversation, questions and answers together.
    """

    rows: int = 0
    broken: int = 0
    turns: int = 0
    prompt_words: int = 0
    answer_words: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    longest: int = 0

    def add(self, other: Stats) -> None:
        """Add the numbers of other rows."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, max(mine, more) if one.name == 'longest' else mine + more)


class _Chunks(Dataset[Any]):
    """Rows of a data set in chunks; an item is what there is to say about one chunk."""

    def __init__(self, data: FileSet, limit: int | None) -> None:
        self.data = data
        count = len(data) if limit is None else min(limit, len(data))
        self.count = count

    def __len__(self) -> int:
        return -(-self.count // _CHUNK)

    def rows(self, chunk: int) -> list[int]:
        """Return the rows of a chunk: all, or evenly spread ones."""
        size = len(self.data)
        numbers = range(chunk * _CHUNK, min(self.count, (chunk + 1) * _CHUNK))
        return [n * size // self.count for n in numbers]


class _StatsOf(_Chunks):
    def __init__(self, data: FileSet, limit: int | None, text: Text | None) -> None:
        super().__init__(data, limit)
        self.text = text

    def __getitem__(self, chunk: int) -> Stats:
        stats = Stats()
        for row in self.rows(chunk):
            stats.rows += 1
            try:
                turns = self.data.item(row).variants[0]
            except BrokenSampleError:
                stats.broken += 1
                continue
            stats.turns += len(turns)
            stats.prompt_words += sum(len(question.split()) for question, _ in turns)
            stats.answer_words += sum(len(answer.split()) for _, answer in turns)
            if self.text is not None:
                asked = sum(len(self.text.encode(question)) for question, _ in turns)
                said = sum(len(self.text.encode(answer)) for _, answer in turns)
                stats.prompt_tokens += asked
                stats.answer_tokens += said
                stats.longest = max(stats.longest, asked + said)
        return stats


class _BrokenOf(_Chunks):
    def __getitem__(self, chunk: int) -> tuple[int, list[Broken]]:
        found = []
        rows = self.rows(chunk)
        for row in rows:
            try:
                self.data.read(row)
            except BrokenSampleError as error:
                assert error.broken is not None
                found.append(error.broken)
        return len(rows), found


def _loaded(chunks: _Chunks, workers: int) -> Iterator[Any]:
    try:
        yield from DataLoader(chunks, batch_size=None, num_workers=workers,
                              prefetch_factor=2 if workers else None)
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise DataError('a worker process ended early (killed, out of memory?); try fewer '
                        f'--workers: {error}') from None


def count(data: FileSet, text: Text | None = None, *, workers: int = 0,
          limit: int | None = None) -> Iterator[Stats]:
    """Yield the numbers of a data set, part by part; the parts add up.

    :param text: tokenizer to count with; None: tokens stay 0.
    :param limit: at most so many rows, evenly spread.
    """
    yield from _loaded(_StatsOf(data, limit, text), workers)


def broken_ones(data: FileSet, *, workers: int = 0, limit: int | None = None
                ) -> Iterator[tuple[int, Sequence[Broken]]]:
    """Decode every sample; yield (number decoded, broken ones among them), part by part.

    :param limit: at most so many rows, evenly spread.
    """
    yield from _loaded(_BrokenOf(data, limit), workers)
