"""Reads what can be read of recordings that were cut off, have no index, or an unusual profile.

Each function returns a scan for `ScanSource`: a generator over the file from its front, which
raises where the file is damaged. Layouts: the MCAP specification, the ROS 1 bag format 2.0, and
rosbag2's tables in SQLite.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
import sqlite3
import struct
from typing import BinaryIO

from lz4.frame import decompress as lz4_decompress

from onellm_ros.replay.bag_sources import Channel, normal_type, zstd
from onellm_ros.replay.sqlite_pages import message_rows

Scan = Callable[[], Iterator[tuple[int, int, bytes]]]
_MCAP_MAGIC = b'\x89MCAP0\r\n'
_BAG_MAGIC = b'#ROSBAG V2.0\n'
_MCAP_FORMATS = {'ros2msg': 'msg', 'ros1msg': 'msg', 'ros2idl': 'idl', 'omgidl': 'idl'}


def _exactly(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes.

    :raises EOFError: at the end of the file.
    """
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f'{size - len(data)} of {size} bytes are missing at the end')
    return data


# ---------------------------------------------------------------------------------------- MCAP

def _text(data: bytes, position: int) -> tuple[str, int]:
    """Return an MCAP string and the position after it."""
    size = int.from_bytes(data[position:position + 4], 'little')
    end = position + 4 + size
    if end > len(data):
        raise EOFError('a text of the file is cut')
    return data[position + 4:end].decode(), end


def _mcap_records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (operation, content) of the records of an MCAP file, its footer excluded."""
    if file.read(8) != _MCAP_MAGIC:
        raise ValueError('it does not begin as an MCAP file')
    while head := file.read(1):
        size = int.from_bytes(_exactly(file, 8), 'little')
        if head[0] in (0x02, 0x0F):  # footer, end of data: only summaries follow
            return
        yield head[0], _exactly(file, size)


def _chunk_records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the records inside an MCAP chunk."""
    compression, position = _text(content, 28)
    size = int.from_bytes(content[position:position + 8], 'little')
    packed = content[position + 8:position + 8 + size]
    if compression == 'zstd':
        data = zstd.decompress(packed)
    elif compression == 'lz4':
        data = lz4_decompress(packed)
    elif compression:
        raise ValueError(f'a chunk is compressed by {compression}, expected zstd or lz4')
    else:
        data = packed
    position = 0
    while position + 9 <= len(data):
        size = int.from_bytes(data[position + 1:position + 9], 'little')
        yield data[position], data[position + 9:position + 9 + size]
        position += 9 + size


def scan_mcap(path: Path, channels: dict[int, Channel]) -> Scan:
    """Return a scan of an MCAP file (ROS 2 or ROS 1 profile) that needs no index.

    :param channels: filled while scanning.
    """
    def scan() -> Iterator[tuple[int, int, bytes]]:
        schemas: dict[int, tuple[str, str, str]] = {}

        def take(operation: int, content: bytes) -> tuple[int, int, bytes] | None:
            if operation == 0x03:
                name, position = _text(content, 2)
                encoding, position = _text(content, position)
                text, _ = _text(content, position)
                schemas[int.from_bytes(content[:2], 'little')] = (name, encoding, text)
            elif operation == 0x04:
                key, schema = struct.unpack_from('<HH', content)
                topic, position = _text(content, 4)
                encoding, _ = _text(content, position)
                name, form, text = schemas.get(schema, ('', '', ''))
                channels[key] = Channel(key, topic, normal_type(name), text,
                                        _MCAP_FORMATS.get(form, ''), encoding)
            elif operation == 0x05:
                key, _, stamp = struct.unpack_from('<HIQ', content)
                if key in channels:
                    return key, stamp, content[22:]
            return None

        with path.open('rb') as file:
            for operation, content in _mcap_records(file):
                if operation != 0x06:
                    if (message := take(operation, content)) is not None:
                        yield message
                    continue
                found = [take(*record) for record in _chunk_records(content)]
                yield from sorted((m for m in found if m is not None), key=lambda m: m[1])
    return scan


# ---------------------------------------------------------------------------------------- ROS 1

def _bag_record(data: BinaryIO) -> tuple[dict[str, bytes], bytes] | None:
    """Read one record of a ROS 1 bag: its header fields and its data; None at the end."""
    first = data.read(4)
    if not first:
        return None
    if len(first) != 4:
        raise EOFError('a record is cut at its begin')
    header = _exactly(data, int.from_bytes(first, 'little'))
    size = int.from_bytes(_exactly(data, 4), 'little')
    return _bag_fields(header), _exactly(data, size)


def _bag_fields(header: bytes) -> dict[str, bytes]:
    """Return the fields of a ROS 1 record header."""
    fields: dict[str, bytes] = {}
    position = 0
    while position + 4 <= len(header):
        size = int.from_bytes(header[position:position + 4], 'little')
        name, _, value = header[position + 4:position + 4 + size].partition(b'=')
        fields[name.decode()] = value
        position += 4 + size
    return fields


def _bag_chunk(fields: dict[str, bytes], data: bytes) -> bytes:
    """Return the content of a ROS 1 chunk."""
    compression = fields.get('compression', b'none').decode()
    if compression == 'bz2':
        return bz2.decompress(data)
    if compression == 'lz4':
        return lz4_decompress(data)
    if compression != 'none':
        raise ValueError(f'a chunk is compressed by {compression}, expected bz2 or lz4')
    return data


def scan_ros1(path: Path, channels: dict[int, Channel]) -> Scan:
    """Return a scan of a ROS 1 bag that needs no index (``.bag.active``, cut files).

    :param channels: filled while scanning.
    """
    def inner(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        file = BytesIO(data)
        while (record := _bag_record(file)) is not None:
            yield from one(*record)

    def one(fields: dict[str, bytes], data: bytes) -> Iterator[tuple[int, int, bytes]]:
        operation = fields.get('op', b'\0')[0]
        if operation == 7:
            key = int.from_bytes(fields['conn'], 'little')
            about = _bag_fields(data)
            channels.setdefault(key, Channel(
                key, fields['topic'].decode(), normal_type(about['type'].decode()),
                about.get('message_definition', b'').decode(errors='replace'), 'msg', 'ros1'))
        elif operation == 2:
            seconds, rest = struct.unpack('<II', fields['time'])
            key = int.from_bytes(fields['conn'], 'little')
            if key in channels:
                yield key, seconds * 1_000_000_000 + rest, data
        elif operation == 5:
            found = list(inner(_bag_chunk(fields, data)))
            yield from sorted(found, key=lambda message: message[1])

    def scan() -> Iterator[tuple[int, int, bytes]]:
        with path.open('rb') as file:
            if file.read(len(_BAG_MAGIC)) != _BAG_MAGIC:
                raise ValueError('it does not begin as a ROS 1 bag of format 2.0')
            while (record := _bag_record(file)) is not None:
                yield from one(*record)
    return scan


# ---------------------------------------------------------------------------------------- SQLite

def scan_sqlite(path: Path, channels: dict[int, Channel]) -> Scan:
    """Return a scan of a rosbag2 .db3 file in the order of its pages, up to where it is cut.

    :param channels: filled while scanning.
    """
    def scan() -> Iterator[tuple[int, int, bytes]]:
        database = sqlite3.connect(f'file:{path.absolute()}?mode=ro&immutable=1', uri=True)
        try:
            # lets SQLite open a file that is shorter than its header says
            database.execute('PRAGMA writable_schema=ON')
            rows = database.execute('SELECT id, name, type, serialization_format FROM topics')
            for key, topic, kind, encoding in rows:
                channels[key] = Channel(key, topic, normal_type(kind), encoding=encoding)
        except sqlite3.Error as error:
            raise ValueError(f'SQLite: {error}') from error
        finally:
            database.close()
        for key, stamp, raw in message_rows(path):
            if key in channels:
                yield key, stamp, raw
    return scan
