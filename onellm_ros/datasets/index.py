"""Rows of annotation files, found by byte offset: nothing of the file stays in memory.

Three forms: tables (tab-separated, a header line, fields quoted as pandas and Excel write them),
JSON lists of objects, and JSON objects one a line. The whole file is read once, when it is
opened; 8 bytes a row are kept. Rows are read from disk each time, with a file opened for it, so
that worker processes share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
from typing import Any, BinaryIO

import numpy as np

from onellm_ros.datasets.errors import DataError, RowError

TABLES, JSON_LISTS, JSON_LINES = ('.csv', '.tsv', '.txt'), ('.json',), ('.jsonl', '.ndjson')
_CHUNK = 8 << 20
_LONGEST = 64 << 20             # of one item of a JSON list, bytes
_LONGEST_FIELD = 1 << 16        # of a quoted field with line ends in it, bytes
_BOM = b'\xef\xbb\xbf'
# A whole field in quotes, doubled quotes inside.
_QUOTED = re.compile(rb'"[^"]*(?:""[^"]*)*"(?=[\t\r\n]|\Z)')
_BETWEEN = re.compile(r'[ \t\r\n]*(,?)[ \t\r\n]*(\]?)[ \t\r\n]*')
_SPACE = re.compile(r'[ \t\r\n]*')
_QUOTED_TEXT = re.compile(_QUOTED.pattern.decode('ascii'))
_DECODER = json.JSONDecoder()


def _opened(path: Path) -> BinaryIO:
    """Open an annotation file.

    :raises DataError: if it is missing or not readable.
    """
    try:
        return open(path, 'rb')
    except FileNotFoundError:
        raise DataError(f'{path}: no such annotation file') from None
    except OSError as error:
        raise DataError(f'{path}: cannot be read: {error.strerror or error}') from None


def _line_starts(path: Path, table: bool) -> np.ndarray:
    """Return where the lines that hold something start, and the end of the file; int64 [n + 1].

    :param table: a line end inside a quoted field ends no line.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        pieces = [np.array([at], np.int64)]
        inside = 0                              # up to here a quoted field reaches
        while at < size:
            file.seek(at)
            data = file.read(_CHUNK)
            values = np.frombuffer(data, np.uint8)
            ends = np.flatnonzero(values == 10) + at
            if table:
                inside, ends = _without_quoted(file, data, values, ends, at, inside)
            pieces.append(ends + 1)
            at += len(data)
    starts = np.concatenate(pieces)
    starts = starts[starts < size]
    lengths = np.diff(np.append(starts, size))
    return np.append(_with_content(path, starts, lengths), size)


def _without_quoted(file: BinaryIO, data: bytes, values: np.ndarray, ends: np.ndarray, at: int,
                    inside: int) -> tuple[int, np.ndarray]:
    """Return how far the last quoted field reaches, and the line ends outside of all of them."""
    quotes = np.flatnonzero(values == 34)
    opening = quotes[(quotes > 0) & np.isin(values[quotes - 1], (9, 10))]
    if len(quotes) and quotes[0] == 0:
        file.seek(max(0, at - 1))
        if at == 0 or file.read(1) in b'\t\n' or at == len(_BOM):
            opening = np.concatenate([[0], opening])
    keep = ends >= inside
    for start in opening.tolist():
        if start + at < inside:
            continue
        limit = min(len(data), start + _LONGEST_FIELD)
        found = _QUOTED.match(data, start, limit)
        if found is None or found.end() == limit:           # it may reach into the next chunk
            file.seek(at + start)
            text = file.read(_LONGEST_FIELD)
            found = _QUOTED.match(text)
            length = found.end() if found and (
                found.end() < len(text) or len(text) < _LONGEST_FIELD) else 0
        else:
            length = found.end() - start
        inside = at + start + length
        if data.find(b'\n', start, start + length) >= 0:
            first, last = np.searchsorted(ends, (at + start, inside))
            keep[first:last] = False
    return inside, ends[keep]


def _with_content(path: Path, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Leave out the starts of empty lines."""
    short = np.flatnonzero(lengths <= 2)        # '\n', '\r\n', or one or two characters
    if not len(short):
        return starts
    keep = np.ones(len(starts), bool)
    with _opened(path) as file:
        for i in short.tolist():
            file.seek(int(starts[i]))
            keep[i] = bool(file.read(int(lengths[i])).strip(b'\r\n'))
    return starts[keep]


class _Window:
    """A text of a file that grows at its end and is cut at its start.

    Bytes are taken as Latin-1, which keeps one character a byte; JSON's marks are the same in it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.start, self.ended = file, '', 0, False

    def advance(self, at: int, more: int = _CHUNK) -> None:
        """Forget what is before a position of the text, and read more behind it."""
        data = self.file.read(more)
        self.ended = not data
        self.text, self.start = self.text[at:] + data.decode('latin-1'), self.start + at

    def skip(self, pattern: re.Pattern[str], at: int) -> tuple[re.Match[str], int]:
        """Match a pattern that can be empty, with more text read where it touches the end."""
        while True:
            found = pattern.match(self.text, at)
            assert found is not None
            if found.end() < len(self.text) or self.ended:
                return found, found.end()
            self.advance(at)
            at = 0


def _list_starts(path: Path) -> np.ndarray:
    """Return where the items of a JSON list start, and the list's end; int64 [n + 1].

    :raises DataError: for a file that is no JSON list, or is damaged.
    """
    starts: list[int] = []
    with _opened(path) as file:
        window = _Window(file)
        window.advance(0)
        if window.text.startswith(_BOM.decode('latin-1')):
            window.advance(len(_BOM))
        _, at = window.skip(_SPACE, 0)
        if window.text[at:at + 1] != '[':
            raise DataError(f'{path}: found {window.text[at:at + 20]!r} at its start, expected a '
                            'JSON list of objects [{...}, ...]')
        _, at = window.skip(_SPACE, at + 1)
        more = window.text[at:at + 1] != ']'
        while more:
            starts.append(window.start + at)
            mark, at = window.skip(_BETWEEN, _item_end(path, window, at, starts))
            more = bool(mark.group(1))
            if more == bool(mark.group(2)):
                raise DataError(
                    f'{path}: found {window.text[mark.start():at + 20]!r} behind item '
                    f'{len(starts) - 1} (from 0), at byte {window.start + mark.start()}, expected '
                    'a comma or ]; is the file cut short?')
        _, at = window.skip(_SPACE, at if starts else at + 1)
        if at < len(window.text):
            raise DataError(f'{path}: found {window.text[at:at + 20]!r} behind the list, at byte '
                            f'{window.start + at}, expected nothing')
        starts.append(window.start + at)
    return np.array(starts, np.int64)


def _item_end(path: Path, window: _Window, at: int, starts: list[int]) -> int:
    """Return where the item at a position of the window's text ends.

    :raises DataError: for an item that is no JSON.
    """
    while True:
        try:
            return _DECODER.raw_decode(window.text, at)[1]
        except (json.JSONDecodeError, RecursionError) as error:
            found = len(window.text) - at
            if window.ended or found > _LONGEST:
                raise _damaged(path, starts, window, error) from None
            window.advance(at, max(_CHUNK, found))
            at = 0


def _damaged(path: Path, starts: list[int], window: _Window, error: Exception) -> DataError:
    """Return the error of an item that cannot be read."""
    text = getattr(error, 'msg', type(error).__name__)
    end = window.start + len(window.text)
    return DataError(
        f'{path}: item {len(starts) - 1} (from 0), which starts at byte {starts[-1]}, is no JSON: '
        f'{text}{" where the file ends" if window.ended else ""} (read up to byte {end}); is the '
        'file cut short? The items behind it cannot be found')


def table_fields(line: str) -> list[str]:
    """Split a line of a table at tabs; fields in quotes lose them."""
    fields, at = [], 0
    data = line.rstrip('\r\n')
    while True:
        found = _QUOTED_TEXT.match(data, at) if data.startswith('"', at) else None
        end = found.end() if found else data.find('\t', at)
        end = len(data) if end < 0 else end
        text = data[at:end]
        fields.append(text[1:-1].replace('""', '"') if found else text)
        if end >= len(data):
            return fields
        at = end + 1


@dataclass(frozen=True, eq=False)
class RowFile:
    """An annotation file with an index of its rows; cheap to pickle (8 bytes a row).

    :param form: ``table``, ``list`` or ``lines``.
    :param starts: byte offset of each row, and the end of the last; int64 [n + 1].
    :param columns: of a table, in lower case.
    :param state: size in bytes and time of change of the file that was indexed.
    """

    path: Path
    form: str
    starts: np.ndarray
    columns: tuple[str, ...]
    state: tuple[int, int]

    @classmethod
    def open(cls, path: str | Path) -> RowFile:
        """Read a file once and note where its rows are.

        :raises DataError: if it is missing, of an unknown form, damaged or empty.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        with _opened(path) as file:
            found = os.fstat(file.fileno())
        state = (found.st_size, found.st_mtime_ns)
        if suffix in JSON_LISTS:
            return cls(path, 'list', _list_starts(path), (), state)
        if suffix in JSON_LINES:
            return cls(path, 'lines', _line_starts(path, table=False), (), state)
        if suffix not in TABLES:
            raise DataError(f'{path}: found the ending {suffix!r}, expected one of '
                            f'{", ".join((*TABLES, *JSON_LISTS, *JSON_LINES))}')
        starts = _line_starts(path, table=True)
        if len(starts) < 2:
            raise DataError(f'{path}: the file is empty, expected a header line with the columns '
                            'caption and url')
        head = cls(path, 'table', starts, (), state)._bytes(0)
        columns = tuple(name.strip().lower()
                        for name in table_fields(head.decode('utf-8', 'replace')))
        return cls(path, 'table', starts[1:], columns, state)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def _bytes(self, row: int) -> bytes:
        start, end = int(self.starts[row]), int(self.starts[row + 1])
        with _opened(self.path) as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != self.state:
                raise DataError(f'{self.path}: the file has changed since it was indexed; open '
                                'the data set anew')
            file.seek(start)
            return file.read(end - start)

    def read(self, row: int) -> dict[str, Any]:
        """Return one row: column -> text, or the JSON object.

        :raises RowError: if it is not understood. :raises DataError: if the file has changed.
        """
        try:
            text = self._bytes(row).decode('utf-8')
        except UnicodeDecodeError as error:
            raise RowError(f'found bytes that are no UTF-8 text ({error.reason})') from None
        if self.form == 'table':
            fields = table_fields(text)
            if len(fields) != len(self.columns):
                raise RowError(f'found {len(fields)} fields, expected {len(self.columns)} '
                               f'({", ".join(self.columns)}), separated by tabs')
            return dict(zip(self.columns, fields))
        try:
            value, _ = _DECODER.raw_decode(text.lstrip())
        except (json.JSONDecodeError, RecursionError) as error:
            raise RowError(f'found no JSON object: {error}') from None
        if not isinstance(value, dict):
            raise RowError(f'found {str(value)[:40]!r}, expected a JSON object')
        return value
