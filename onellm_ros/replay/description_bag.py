"""A bag of a replay's descriptions, written without ROS: for `ros2 bag play`, RViz and Foxglove.

The descriptions come as onellm_msgs/Description, as plain text (std_msgs/String) and as text above
the robot (visualization_msgs/MarkerArray); they stand where their windows closed, by the time of
recording, so that they play as they would have come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
import heapq
from itertools import chain, count
import math
import os
from pathlib import Path
import shutil
import sqlite3
import sys
import tempfile
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import onellm_ros
from onellm_ros.replay.bag_sources import READ_ERRORS, BagError, RosbagsSource
from onellm_ros.replay.bags import Bag, RawMessage, open_bag
from onellm_ros.replay.records import Record

TOPICS = {'description': 'onellm_msgs/msg/Description', 'text': 'std_msgs/msg/String',
          'markers': 'visualization_msgs/msg/MarkerArray'}
_OURS = ('ModalityReport', 'Description')
_SUFFIXES = {'.mcap': StoragePlugin.MCAP, '.db3': StoragePlugin.SQLITE3}
_SECOND_NS = 1_000_000_000
_TEXT_M = 0.25                  # height of a letter in RViz
_ABOVE_M = 1.0                  # the base frame


def _definitions() -> dict[str, Any]:
    """Return the types of onellm_msgs, from the text of their definitions.

    :raises BagError: if they are not there.
    """
    folders = [Path(onellm_ros.__file__).resolve().parents[1] / 'onellm_msgs/msg']
    prefixes = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(':') if p]
    folders += [Path(p) / 'share/onellm_msgs/msg' for p in (*prefixes, sys.prefix)]
    for folder in folders:
        files = [folder / f'{name}.msg' for name in _OURS]
        if all(file.is_file() for file in files):
            types: dict[str, Any] = {}
            for file in files:
                types.update(get_types_from_msg(file.read_text(encoding='utf-8'),
                                                f'onellm_msgs/msg/{file.stem}'))
            return types
    raise BagError(f'found no definition of onellm_msgs in {", ".join(map(str, folders))}; '
                   'expected Description.msg; source the workspace, or run make setup')


def typestore() -> Any:
    """Return the types of Jazzy and of onellm_msgs.

    :raises BagError: if the latter are not there.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(_definitions())
    return store


class Messages:
    """Makes the messages of a record. :param frame: the robot's base frame, for their headers."""

    def __init__(self, store: Any, frame: str) -> None:
        self._store, self._frame = store, frame

    def _make(self, name: str, **values: Any) -> Any:
        return self._store.types[name](**values)

    def _time(self, stamp_ns: int) -> Any:
        stamp_ns = min(max(stamp_ns, 0), (1 << 31) * _SECOND_NS - 1)
        return self._make('builtin_interfaces/msg/Time', sec=stamp_ns // _SECOND_NS,
                          nanosec=stamp_ns % _SECOND_NS)

    def _header(self, stamp_ns: int) -> Any:
        return self._make('std_msgs/msg/Header', stamp=self._time(stamp_ns), frame_id=self._frame)

    def _report(self, entry: Mapping[str, Any], end_ns: int) -> Any:
        import numpy as np
        return self._make(
            'onellm_msgs/msg/ModalityReport', modality=entry['modality'],
            topics=list(entry['topics']), count=entry['count'],
            first_stamp=self._time(entry['first_ns']), last_stamp=self._time(entry['last_ns']),
            age_s=(end_ns - entry['last_ns']) / _SECOND_NS,
            max_skew_s=entry['max_skew_ns'] / _SECOND_NS, late=entry['late'],
            dropped=entry['dropped'],
            expert_weights=np.array(entry['expert_weights'], np.float32))

    def description(self, record: Mapping[str, Any], model: str) -> Any:
        """Return onellm_msgs/Description; times that were not kept are NaN."""
        def seconds(name: str) -> float:
            value = record.get(name)
            return math.nan if value is None else float(value)
        return self._make(
            TOPICS['description'], header=self._header(record['end_ns']),
            window_start=self._time(record['start_ns']), window_end=self._time(record['end_ns']),
            text=record['text'], prompt=record['prompt'], model=model,
            modalities=[self._report(m, record['end_ns']) for m in record['modalities']
                        if m['seen']],
            finish_reason=record['finish_reason'], tokens=record['tokens'], skipped_windows=0,
            encode_s=seconds('encode_s'), first_token_s=seconds('first_token_s'),
            total_s=seconds('total_s'))

    def markers(self, record: Mapping[str, Any], left_ns: int) -> Any:
        """Return the text above the robot, shown for so long."""
        def point(x: float, y: float, z: float, kind: str = 'Point') -> Any:
            return self._make(f'geometry_msgs/msg/{kind}', x=x, y=y, z=z)
        pose = self._make('geometry_msgs/msg/Pose', position=point(0.0, 0.0, _ABOVE_M),
                          orientation=self._make('geometry_msgs/msg/Quaternion',
                                                 x=0.0, y=0.0, z=0.0, w=1.0))
        import numpy as np
        marker = self._make(
            'visualization_msgs/msg/Marker', header=self._header(record['end_ns']), ns='onellm',
            id=0, type=9, action=0, pose=pose, scale=point(0.0, 0.0, _TEXT_M, 'Vector3'),
            color=self._make('std_msgs/msg/ColorRGBA', r=1.0, g=1.0, b=1.0, a=1.0),
            lifetime=self._make('builtin_interfaces/msg/Duration', sec=left_ns // _SECOND_NS,
                                nanosec=left_ns % _SECOND_NS),
            frame_locked=False, points=[], colors=[], texture_resource='',
            texture=self._make('sensor_msgs/msg/CompressedImage',
                               header=self._header(record['end_ns']), format='',
                               data=np.zeros(0, np.uint8)),
            uv_coordinates=[], text=record['text'], mesh_resource='',
            mesh_file=self._make('visualization_msgs/msg/MeshFile', filename='',
                                 data=np.zeros(0, np.uint8)),
            mesh_use_embedded_materials=False)
        return self._make(TOPICS['markers'], markers=[marker])


def _of_records(store: Any, records: Sequence[Record], model: str, frame: str,
                names: Mapping[str, str]) -> Iterator[RawMessage]:
    """Yield the messages of all records that have a text, in the order of recording."""
    make = Messages(store, frame)
    said = sorted((r for r in records if 'text' in r), key=lambda r: r['closed_ns'])
    for number, record in enumerate(said):
        at = record['closed_ns']
        until = said[number + 1]['closed_ns'] if number + 1 < len(said) else at + 5 * _SECOND_NS
        built = {'description': make.description(record, model),
                 'text': store.types[TOPICS['text']](data=record['text']),
                 'markers': make.markers(record, min(max(until - at, 1), 60 * _SECOND_NS))}
        for key, message in built.items():
            kind = TOPICS[key]
            yield RawMessage(names[key], at, kind, 'cdr',
                             bytes(store.serialize_cdr(message, kind)))


def check_place(path: Path, inputs: Sequence[Path], merge: Path | None = None) -> None:
    """Check before hours of work that a bag can be written.

    :param inputs: recordings that are read. :param merge: as of ``write_descriptions``.
    :raises BagError: if it cannot: the place is that of a recording, or cannot be written, or the
        recording cannot be merged.
    """
    place = path.resolve()
    for given in inputs:
        taken = given.resolve()
        if place == taken or taken in place.parents or place in taken.parents:
            raise BagError(f'--bag {path}: found the recording {given} there; expected a place '
                           'outside of it: recordings are never overwritten')
    if path.exists() and not _is_ours(path):
        raise BagError(f'--bag {path}: found {"a folder" if path.is_dir() else "a file"} that is '
                       'no bag of descriptions; it is not replaced; give another --bag, or remove '
                       'it')
    try:
        os.rmdir(_room(path))
    except OSError as error:
        raise _unwritten(path, error) from error
    if merge is not None:
        with open_bag(merge) as bag:
            for info in bag.topics():
                try:
                    bag.definition(info.name)
                except BagError as error:
                    raise BagError(f'--merge: {error}, or leave out --merge') from error


def _is_ours(path: Path) -> bool:
    """Return whether a bag was written here: it has words as plain text, which no node says."""
    try:
        source = RosbagsSource(path)
    except READ_ERRORS:
        return False
    kinds = {channel.topic: channel.type for channel in source.channels}
    source.close()
    return any(all(kinds.get(f'{topic[:-len("/text")]}/{key}') == kind
                   for key, kind in TOPICS.items()) for topic in kinds if topic.endswith('/text'))


def _free_names(known: Collection[str]) -> dict[str, str]:
    """Return the names of our topics; others where a recording has such: the node's own words."""
    spaces = chain(('/perception', '/replay'), (f'/replay_{n}' for n in count(2)))
    return next(names for names in ({key: f'{space}/{key}' for key in TOPICS} for space in spaces)
                if not set(names.values()) & set(known))


def _room(path: Path) -> str:
    """Return a new folder beside a bag that is to be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=f'.{path.name}_', dir=path.parent)


def _unwritten(path: Path, error: Exception) -> BagError:
    return BagError(f'--bag {path}: {getattr(error, "strerror", None) or error}; expected a place '
                    'to write, and room')


def write_descriptions(path: Path, records: Sequence[Record], model: str, *,
                       frame: str = 'base_link', merge: Path | None = None) -> int:
    """Write a bag; it appears under its name when it is whole, and replaces an earlier one.

    :param path: ``.mcap`` or ``.db3``: one file; else a rosbag2 folder, which holds mcap. See
        ``check_place``.
    :param model: name and hash, for the descriptions.
    :param merge: a recording of ROS 2 whose messages are copied in between.
    :returns: number of descriptions.
    :raises BagError: if it cannot be written.
    """
    store = typestore()
    try:
        room = _room(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    folder = Path(room) / (path.stem or 'bag')
    plugin = _SUFFIXES.get(path.suffix, StoragePlugin.MCAP)
    try:
        with Writer(folder, version=9, storage_plugin=plugin) as writer:
            if merge is None:
                names = _free_names(())
                _write(writer, None, _of_records(store, records, model, frame, names), names,
                       store)
            else:
                with open_bag(merge) as bag:
                    names = _free_names([info.name for info in bag.topics()])
                    own = _of_records(store, records, model, frame, names)
                    _write(writer, bag, heapq.merge(bag.raw_messages(), own,
                                                    key=lambda m: m.stamp_ns), names, store)
        made = next(folder.glob(f'*{path.suffix}')) if path.suffix in _SUFFIXES else folder
        if made.is_dir() and path.is_dir():
            shutil.rmtree(path)
        made.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(room)
    return sum('text' in r for r in records)


def _write(writer: Writer, bag: Bag | None, messages: Iterable[RawMessage],
           names: Mapping[str, str], store: Any) -> None:
    """Write messages; types come from the recording, or are our own, which are always there."""
    connections = {name: writer.add_connection(name, TOPICS[key], typestore=store)
                   for key, name in names.items()}
    for message in messages:
        if message.topic not in connections:
            assert bag is not None
            text, digest, qos = bag.definition(message.topic)
            connections[message.topic] = writer.add_connection(
                message.topic, message.type, msgdef=text, rihs01=digest, offered_qos_profiles=qos)
        writer.write(connections[message.topic], message.stamp_ns, message.raw)
