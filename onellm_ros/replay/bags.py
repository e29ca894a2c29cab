"""Recordings of any kind, read without ROS: rosbag2 (sqlite3, mcap) and ROS 1 bags.

`open_bag` takes a folder, a single storage file (with or without metadata.yaml) or a ROS 1 .bag.
Message definitions come from the bag itself; what the bag does not define comes from the ROS
distribution that recorded it. A topic that cannot be read is left out with a reason, and a file
that is cut off is read as far as it goes: `Bag.problems` tells both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
import heapq
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)

from onellm_ros.replay.bag_sources import (
    NO_STAMP,
    READ_ERRORS,
    BagError,
    Channel,
    RosbagsSource,
    ScanSource,
    Source,
    unpack_file,
)
from onellm_ros.replay.salvage import scan_mcap, scan_ros1, scan_sqlite

_STORAGE = ('.mcap', '.db3', '.bag')
_SCANS = {'.mcap': scan_mcap, '.db3': scan_sqlite, '.bag': scan_ros1}
_IDL_SEPARATOR = '=' * 80 + '\n'
_DECODE_ERRORS = (SerdeError, *READ_ERRORS)


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a recording.

    :param type: ``sensor_msgs/msg/Imu``, for ROS 1 bags too.
    :param count: number of messages.
    """

    name: str
    type: str
    count: int


class BagMessage(NamedTuple):
    """One deserialized message and when it was recorded (integer nanoseconds)."""

    topic: str
    stamp_ns: int
    message: Any


class RawMessage(NamedTuple):
    """One serialized message; encoding ``cdr`` or ``ros1``; ``source`` is for `Bag.decode`."""

    topic: str
    stamp_ns: int
    type: str
    encoding: str
    raw: bytes
    source: tuple[int, int] = (0, 0)


def storage_files(path: Path) -> list[Path]:
    """Return the storage files of a folder, split files in the order of their numbers."""
    files = [p for p in path.iterdir() if p.is_file() and (
        p.suffix in _STORAGE or p.suffix in ('.zstd', '.zst') and Path(p.stem).suffix in _STORAGE)]

    def number(file: Path) -> tuple[str, int, str]:
        stem = file.name.split('.')[0]
        base, _, last = stem.rpartition('_')
        return (base, int(last), file.name) if last.isdigit() else (stem, -1, file.name)
    return sorted(files, key=number)


class Bag(AbstractContextManager['Bag']):
    """An open recording; a context manager.

    :param path: what was opened.
    :param problems: what could not be read, for people; grows while reading.
    :param start_ns: stamp of the first message (0 if there is none).
    :param end_ns: just after the stamp of the last message.
    """

    def __init__(self, path: Path, sources: list[Source], stack: ExitStack,
                 problems: list[str]) -> None:
        """Gather the channels and their types; use `open_bag`."""
        self.path = path
        self._sources = sources
        self._stack = stack
        self._own_problems = problems
        self._failures: dict[str, tuple[int, str]] = {}
        self._stores: dict[tuple[int, int], Any] = {}
        filled = [s for s in sources if s.end_ns]
        self.start_ns = min((s.start_ns for s in filled), default=0)
        self.end_ns = max((s.end_ns for s in filled), default=0)
        for number, source in enumerate(sources):
            self._register(number, source)

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    @property
    def problems(self) -> list[str]:
        """What could not be read up to now, for people."""
        failed = [f'{topic}: {count} message(s) could not be read (first: {text})'
                  for topic, (count, text) in self._failures.items()]
        return [*self._own_problems, *(p for s in self._sources for p in s.problems), *failed]

    def topics(self) -> list[TopicInfo]:
        """Return the readable topics, in the order of the recording."""
        found: dict[str, TopicInfo] = {}
        for _, channel in self._readable():
            before = found.get(channel.topic)
            count = channel.count + (before.count if before else 0)
            found[channel.topic] = TopicInfo(channel.topic, channel.type, count)
        return list(found.values())

    def raw_messages(self, topics: Collection[str] | None = None, start_ns: int | None = None,
                     stop_ns: int | None = None) -> Iterator[RawMessage]:
        """Yield serialized messages in time order.

        :param topics: names to read; None: all readable ones.
        :param start_ns: first stamp wanted.
        :param stop_ns: first stamp no longer wanted.
        """
        for number, channel, stamp, raw in self._merged(topics, start_ns, stop_ns):
            yield RawMessage(channel.topic, stamp, channel.type, channel.encoding, raw,
                             (number, channel.key))

    def decode(self, raw: RawMessage) -> Any:
        """Deserialize a message of `raw_messages`.

        :raises BagError: if its bytes do not fit its type.
        """
        store = self._stores[raw.source]
        try:
            if raw.encoding == 'ros1':
                return store.deserialize_ros1(raw.raw, raw.type)
            return store.deserialize_cdr(raw.raw, raw.type)
        except _DECODE_ERRORS as error:
            raise BagError(f'found {len(raw.raw)} bytes that are no {raw.type} ({error!r}); '
                           'expected a whole message; record it again') from error

    def messages(self, topics: Collection[str] | None = None, start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[BagMessage]:
        """Yield deserialized messages in time order; parameters as of `raw_messages`."""
        for raw in self.raw_messages(topics, start_ns, stop_ns):
            try:
                message = self.decode(raw)
            except BagError as error:
                count, first = self._failures.get(raw.topic, (0, str(error)))
                self._failures[raw.topic] = (count + 1, first)
                continue
            yield BagMessage(raw.topic, raw.stamp_ns, message)

    def type_hash(self, topic: str) -> str:
        """Return the REP-2016 hash of a topic's type as the bag defines it; empty if unknown."""
        for number, channel in self._readable():
            if channel.topic == topic and channel.encoding == 'cdr':
                try:
                    return str(self._stores[(number, channel.key)].hash_rihs01(channel.type))
                except _DECODE_ERRORS:
                    return ''
        return ''

    def definition(self, topic: str) -> tuple[str, str, tuple[Any, ...]]:
        """Return the definition of a topic's type, its REP-2016 hash and the QoS offered.

        :raises BagError: for a topic that is not there, or of ROS 1.
        """
        for number, channel in self._readable():
            if channel.topic == topic and channel.encoding == 'cdr':
                store = self._stores[(number, channel.key)]
                text, _ = store.generate_msgdef(channel.type, ros_version=2)
                return text, str(store.hash_rihs01(channel.type)), channel.qos
        raise BagError(f'{self.path}: {topic} is not there, or of ROS 1; expected a topic of '
                       'ROS 2; convert the bag with rosbags-convert')

    def _readable(self) -> Iterator[tuple[int, Channel]]:
        """Yield (number of the source, channel) of all channels whose type is known."""
        for number, source in enumerate(self._sources):
            for channel in source.channels:
                if (number, channel.key) in self._stores:
                    yield number, channel

    def _merged(self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
                ) -> Iterator[tuple[int, Channel, int, bytes]]:
        """Yield (number of the source, channel, stamp, raw) of all files in time order."""
        start = 0 if start_ns is None else start_ns
        stop = NO_STAMP if stop_ns is None else stop_ns

        def numbered(number: int, source: Source) -> Iterator[tuple[int, Channel, int, bytes]]:
            keys = {c.key for c in source.channels if (number, c.key) in self._stores
                    and (topics is None or c.topic in topics)}
            for channel, stamp, raw in source.messages(keys, start, stop):
                yield number, channel, stamp, raw

        parts = [numbered(n, s) for n, s in enumerate(self._sources)]
        if len(parts) == 1:
            return parts[0]
        return heapq.merge(*parts, key=lambda item: item[2])

    def _register(self, number: int, source: Source) -> None:
        """Build the types of one source; channels without a usable type become problems."""
        types: dict[str, Any] = {}
        for channel in source.channels:
            try:
                types.update(_definitions(channel))
            except (TypesysError, *READ_ERRORS) as error:
                self._own_problems.append(f'{channel.topic}: the definition of {channel.type} in '
                                          f'the bag cannot be read ({error})')
        ros1 = any(c.encoding == 'ros1' for c in source.channels)
        base = get_typestore(_base_store(source.distro, ros1))
        store = get_typestore(Stores.EMPTY)
        try:
            store.register(_with_dependencies(source.channels, types, base.fielddefs))
        except (TypesysError, SyntaxError, *READ_ERRORS) as error:
            self._own_problems.append(f'the message definitions in the bag cannot be used '
                                      f'({error}); those of {source.distro or "Jazzy"} are')
            store = base
        for channel in source.channels:
            if channel.encoding not in ('cdr', 'ros1'):
                self._own_problems.append(f'{channel.topic}: its messages are encoded as '
                                          f'{channel.encoding!r}, expected cdr or ros1')
                continue
            try:
                store.get_msgdef(channel.type)
            except (TypesysError, SerdeError, *READ_ERRORS):
                self._own_problems.append(f'{channel.topic}: the type {channel.type} is unknown '
                                          'and the bag does not define it; record it as mcap, '
                                          'which carries definitions')
                continue
            self._stores[(number, channel.key)] = store


def _with_dependencies(channels: Collection[Channel], types: dict[str, Any],
                       known: dict[str, Any]) -> dict[str, Any]:
    """Return the types of the channels and all that they are made of (only these: it is faster).

    :param types: what the bag defines, which comes first.
    :param known: the types of the distribution.
    """
    needed: dict[str, Any] = {}
    waiting = [*types, *(channel.type for channel in channels)]
    while waiting:
        name = waiting.pop()
        definition = types.get(name) or known.get(name)
        if name in needed or definition is None:
            continue
        needed[name] = definition
        for _, (node, value) in definition[1]:
            if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                node, value = value[0]
            if node is Nodetype.NAME:
                waiting.append(value)
    return needed


def _base_store(distro: str, ros1: bool) -> Stores:
    """Return the types of the distribution that recorded (Jazzy if it is not known)."""
    if ros1:
        return Stores.ROS1_NOETIC
    return getattr(Stores, f'ROS2_{distro.upper()}', Stores.ROS2_JAZZY)


def _definitions(channel: Channel) -> dict[str, Any]:
    """Return the types that a channel's own definition defines."""
    text = channel.definition
    if channel.definition_format == 'msg':
        return dict(get_types_from_msg(text, channel.type))
    if channel.definition_format != 'idl':
        return {}
    types: dict[str, Any] = {}
    if not text.startswith(f'{_IDL_SEPARATOR}IDL: '):
        return dict(get_types_from_idl(text))
    for part in text.split(_IDL_SEPARATOR)[1:]:
        types.update(get_types_from_idl(part.split('\n', 1)[1]))
    return types


def _open_file(path: Path, stack: ExitStack) -> Source:
    """Open one storage file, by scanning if it is not whole."""
    wrong = ''
    if path.suffix in ('.zstd', '.zst'):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='onellm_bag_')))
        path, wrong = unpack_file(path, folder)
    try:
        source: Source = RosbagsSource(path)
    except READ_ERRORS as error:
        channels: dict[int, Channel] = {}
        source = ScanSource(path, str(error), _SCANS[path.suffix](path, channels), channels)
    if wrong:
        source.problems.insert(0, wrong)
    log = path.with_name(path.name + '-wal')
    if path.suffix == '.db3' and log.exists() and log.stat().st_size:
        source.problems.append(f'{log.name} holds messages that the recorder did not write back '
                               f'and that are not read; run: sqlite3 {path.name} '
                               '"PRAGMA wal_checkpoint(TRUNCATE)"')
    stack.callback(source.close)
    return source


def open_bag(path: str | Path) -> Bag:
    """Open a recording.

    :param path: a rosbag2 folder, a folder of storage files, or a .mcap, .db3 (both also .zstd) or
        ROS 1 .bag file.
    :returns: the open bag; use it as a context manager.
    :raises BagError: when there is nothing that can be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BagError(f'found no file or folder {path}; expected a bag; check the path')
    problems: list[str] = []
    with ExitStack() as stack:
        sources: list[Source] = []
        if path.is_dir():
            files = storage_files(path)
            if (path / 'metadata.yaml').exists():
                try:
                    sources = [RosbagsSource(path)]
                    stack.callback(sources[0].close)
                except READ_ERRORS as error:
                    problems.append(f'the recording as metadata.yaml describes it cannot be read '
                                    f'({error}); its storage files were read instead')
            if not sources and not files:
                raise BagError(f'found no bag in the folder {path}; expected .mcap, .db3 or .bag '
                               'files; give the folder that ros2 bag record made')
            sources = sources or [_open_file(file, stack) for file in files]
        else:
            kind = Path(path.stem).suffix if path.suffix in ('.zstd', '.zst') else path.suffix
            if kind not in _STORAGE:
                raise BagError(f'found the file {path.name}; expected a rosbag2 folder or a file '
                               'ending in .mcap, .db3 or .bag; give one of these')
            sources = [_open_file(path, stack)]
        bag = Bag(path, sources, stack.pop_all(), problems)
    if not any(topic.count for topic in bag.topics()):
        found = '; '.join(bag.problems) or 'it holds no messages'
        bag.close()
        raise BagError(f'found nothing to read in {path}: {found}; expected recorded messages')
    return bag
