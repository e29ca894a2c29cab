"""Reads the messages of a cut rosbag2 .db3 file from its pages, without the tree above them.

A cut database has lost pages of its B-trees, and SQLite then finds little or nothing. But every
leaf page that is left holds whole rows (SQLite's file format, sections 1.6 and 2.1), and a row of
the table `messages` is easily told: id, topic_id, timestamp, data = NULL, integer, integer, blob.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import struct
from typing import BinaryIO

_LEAF = 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it."""
    value = 0
    for i in range(9):
        byte = data[position + i]
        if i == 8:
            return value << 8 | byte, position + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + i + 1
    raise AssertionError('unreachable')


def _local_bytes(payload: int, usable: int) -> int:
    """Return how many bytes of a payload lie on the leaf page itself."""
    largest = usable - 35
    if payload <= largest:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    wanted = least + (payload - least) % (usable - 4)
    return wanted if wanted <= largest else least


def _payload(file: BinaryIO, page: bytes, cell: int, size: int, usable: int) -> bytes | None:
    """Return the whole payload of a cell; None if some of its overflow pages are lost."""
    total, position = _varint(page, cell)
    _, position = _varint(page, position)
    local = _local_bytes(total, usable)
    parts = [page[position:position + local]]
    missing = total - local
    if missing > 0:
        (following,) = struct.unpack_from('>I', page, position + local)
        while missing > 0:
            if following == 0:
                return None
            file.seek((following - 1) * size)
            overflow = file.read(size)
            if len(overflow) < size:
                return None
            (following,) = struct.unpack_from('>I', overflow)
            parts.append(overflow[4:4 + min(missing, usable - 4)])
            missing -= usable - 4
    return b''.join(parts)


def _row(payload: bytes) -> tuple[int, int, bytes] | None:
    """Return (topic id, stamp, message) if a payload is a row of `messages`."""
    end, position = _varint(payload, 0)
    kinds = []
    while position < end:
        kind, position = _varint(payload, position)
        kinds.append(kind)
    if len(kinds) != 4 or kinds[0] != 0 or kinds[1] not in _INTEGER_BYTES \
            or kinds[2] not in _INTEGER_BYTES or kinds[3] < 12 or kinds[3] % 2:
        return None
    numbers = []
    for kind in kinds[1:3]:
        size = _INTEGER_BYTES[kind]
        value = int.from_bytes(payload[end:end + size], 'big', signed=True)
        numbers.append({8: 0, 9: 1}.get(kind, value))
        end += size
    data = payload[end:]
    return (numbers[0], numbers[1], data) if len(data) == (kinds[3] - 12) // 2 else None


def message_rows(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (topic id, stamp, message) of all rows that are whole, in the order of the pages.

    :raises EOFError: at a page that is cut.
    :raises ValueError: if the file is no SQLite database.
    """
    with path.open('rb') as file:
        head = file.read(100)
        if head[:15] != b'SQLite format 3':
            raise ValueError('it does not begin as an SQLite database')
        (size,) = struct.unpack_from('>H', head, 16)
        size = 65536 if size == 1 else size
        (pages,) = struct.unpack_from('>I', head, 28)
        usable = size - head[20]
        for number in range(1, pages):  # page 1 is the schema
            file.seek(number * size)
            page = file.read(size)
            if len(page) < size:
                raise EOFError(f'{pages - number} of {pages} pages are missing')
            if page[0] != _LEAF:
                continue
            (cells,) = struct.unpack_from('>H', page, 3)
            if 8 + 2 * cells > size:
                continue  # an overflow page that looks like a leaf
            for cell in struct.unpack_from(f'>{cells}H', page, 8):
                try:
                    payload = _payload(file, page, cell, size, usable)
                    row = None if payload is None else _row(payload)
                except (IndexError, struct.error):
                    break  # an overflow page that looks like a leaf
                if row is not None:
                    yield row
