"""Files of recorded messages behind one interface: channels, and raw messages in time order.

`RosbagsSource` reads what is whole through the `rosbags` package; `salvage` reads what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import lzma
from pathlib import Path
import struct
import sys
from typing import Any, Protocol

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import ReaderError as ReaderError1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import ReaderError as ReaderError2

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
NO_STAMP = 2**63 - 1

# What the readers raise on files that are cut or damaged.
READ_ERRORS: tuple[type[Exception], ...] = (
    ReaderError1, ReaderError2, OSError, EOFError, ValueError, TypeError, KeyError, IndexError,
    AssertionError, struct.error, RuntimeError, MemoryError, lzma.LZMAError, zstd.ZstdError)


class BagError(ValueError):
    """A recording that cannot be used: the text says what was found, expected and what to do."""


@dataclass(frozen=True)
class Channel:
    """One topic of one file.

    :param type: normalised name, ``sensor_msgs/msg/Imu``.
    :param definition: text of the message definition; empty if the file has none.
    :param definition_format: ``msg``, ``idl`` or empty.
    :param encoding: ``cdr`` (ROS 2) or ``ros1``; others cannot be read.
    :param count: number of messages.
    :param qos: what its publishers offered, as `rosbags` has it; empty if that is not known.
    """

    key: int
    topic: str
    type: str
    definition: str = ''
    definition_format: str = ''
    encoding: str = 'cdr'
    count: int = 0
    qos: tuple[Any, ...] = ()


class Source(Protocol):
    """A file (or a rosbag2 folder) of raw messages."""

    channels: list[Channel]
    start_ns: int
    end_ns: int
    distro: str
    problems: list[str]

    def messages(self, keys: set[int], start_ns: int, stop_ns: int
                 ) -> Iterator[tuple[Channel, int, bytes]]:
        """Yield (channel, stamp, raw message) of the wanted channels in time order."""

    def close(self) -> None:
        """Close the files."""


def normal_type(name: str) -> str:
    """Return a type's name with ``msg`` (``std_msgs/Header`` -> ``std_msgs/msg/Header``)."""
    parts = name.split('/')
    return f'{parts[0]}/msg/{parts[1]}' if len(parts) == 2 else name


def unpacked(raw: bytes) -> bytes:
    """Return a raw message, decompressed if rosbag2 compressed it by itself."""
    return zstd.decompress(raw) if bytes(raw[:4]) == ZSTD_MAGIC else raw


def unpack_file(path: Path, folder: Path) -> tuple[Path, str]:
    """Decompress a ``.zstd`` file into ``folder``, as far as it is whole.

    :returns: the decompressed file, and what is wrong with it (empty: nothing).
    :raises BagError: if nothing of it can be decompressed, or there is no room for it.
    """
    target = folder / path.stem
    wrong = ''
    try:
        with path.open('rb') as source, target.open('wb') as sink:
            unpacker = zstd.ZstdDecompressor()
            try:
                while block := source.read(1 << 18):
                    while block:
                        if unpacker.eof:            # another frame follows
                            unpacker = zstd.ZstdDecompressor()
                        sink.write(unpacker.decompress(block))
                        block = unpacker.unused_data if unpacker.eof else b''
                if not unpacker.eof:
                    wrong = 'it ends before its end'
            except zstd.ZstdError as error:
                wrong = str(error)
            size = sink.tell()
    except OSError as error:
        raise BagError(f'{path} cannot be unpacked into {folder}: {error.strerror}; expected a '
                       'file compressed by zstd, and room; TMPDIR names another place') from error
    if wrong and not size:
        raise BagError(f'found {path} damaged ({wrong}); expected a file compressed by zstd; '
                       'copy it again')
    return target, wrong and f'{path.name} is damaged ({wrong}): {size} bytes were unpacked'


class RosbagsSource:
    """A whole recording, read by `rosbags`: a rosbag2 folder, a .db3, .mcap or ROS 1 .bag file.

    :raises: any of `READ_ERRORS` when the recording is not whole.
    """

    def __init__(self, path: Path) -> None:
        """Open the recording and read its index."""
        self.path = path
        self.problems: list[str] = []
        reader: Any = Reader1(path) if path.suffix == '.bag' else Reader2(path)
        reader.open()
        self._reader = reader
        ros1 = path.suffix == '.bag'
        formats = {MessageDefinitionFormat.MSG: 'msg', MessageDefinitionFormat.IDL: 'idl'}
        self._connections = dict(enumerate(reader.connections))
        self.channels = [
            Channel(index, c.topic, normal_type(c.msgtype), c.msgdef.data,
                    formats.get(c.msgdef.format, ''), 'ros1' if ros1 else
                    str(c.ext.serialization_format), int(c.msgcount),
                    () if ros1 else tuple(c.ext.offered_qos_profiles))
            for index, c in self._connections.items()]
        self.distro = 'noetic' if ros1 else str(reader.ros_distro or '')
        count = int(reader.message_count)
        self.start_ns = int(reader.start_time) if count else 0
        self.end_ns = int(reader.end_time) if count else 0

    def messages(self, keys: set[int], start_ns: int, stop_ns: int
                 ) -> Iterator[tuple[Channel, int, bytes]]:
        """Yield (channel, stamp, raw message) of the wanted channels in time order."""
        wanted = {key: self._connections[key] for key in keys}
        if not wanted:
            return
        channel_of = {id(connection): self.channels[key] for key, connection in wanted.items()}
        by_name = {(c.topic, c.msgtype): self.channels[key] for key, c in wanted.items()}
        raw_messages = self._reader.messages(list(wanted.values()), start_ns, stop_ns)
        try:
            for connection, stamp, raw in raw_messages:
                channel = channel_of.get(id(connection))
                if channel is None:
                    channel = by_name[(connection.topic, connection.msgtype)]
                yield channel, int(stamp), unpacked(bytes(raw))
        except READ_ERRORS as error:
            self.problems.append(f'{self.path.name} is damaged: reading stopped ({error})')

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


class ScanSource:
    """A recording that is read from front to back, up to where it is damaged.

    :param path: the file.
    :param scan: called with no argument, yields (channel key, stamp, raw message) in file order,
        filling ``channels`` as they appear, and raises one of `READ_ERRORS` where it must stop.
    :param channels: filled by ``scan``, key -> channel.
    """

    def __init__(self, path: Path, why: str,
                 scan: Callable[[], Iterator[tuple[int, int, bytes]]],
                 channels: dict[int, Channel]) -> None:
        """Scan the file once, to know its channels, counts and times."""
        self.path = path
        self._scan = scan
        self.problems: list[str] = []
        self.distro = ''
        counts: dict[int, int] = {}
        start, end, stopped = NO_STAMP, 0, ''
        try:
            for key, stamp, _ in scan():
                counts[key] = counts.get(key, 0) + 1
                start, end = min(start, stamp), max(end, stamp + 1)
        except READ_ERRORS as error:
            stopped = f'; it ends at a damaged place ({error})'
        self.start_ns, self.end_ns = (start, end) if counts else (0, 0)
        self._channels = {
            key: Channel(key, c.topic, c.type, c.definition, c.definition_format, c.encoding,
                         counts.get(key, 0))
            for key, c in channels.items()}
        self.channels = list(self._channels.values())
        self.problems.append(f'{path.name} is not whole ({why}): {sum(counts.values())} messages '
                             f'were found by reading it from the front{stopped}')

    def messages(self, keys: set[int], start_ns: int, stop_ns: int
                 ) -> Iterator[tuple[Channel, int, bytes]]:
        """Yield (channel, stamp, raw message) of the wanted channels in the order of the file."""
        try:
            for key, stamp, raw in self._scan():
                if key in keys and start_ns <= stamp < stop_ns:
                    yield self._channels[key], stamp, unpacked(raw)
        except READ_ERRORS:
            return  # the damaged place that the first scan has reported

    def close(self) -> None:
        """Nothing stays open between scans."""
