"""The files of ``onellm record``: a rosbag2 of raw messages that survives a kill, and its report.

Every second what has come is written as a chunk of its own, so that a kill or a full disk costs no
more than that; a recording without an end is read by ``onellm replay`` as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import os
from pathlib import Path
import time
from typing import Any

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
import yaml

from onellm_ros.replay.params import REPORT
from onellm_ros.ros.definitions import Types

FLUSH_S = 1.0


class RecordError(RuntimeError):
    """A recording that cannot be made; the text says what was found and what to do."""


def offered(reliable: bool, latched: bool, depth: int = 10) -> Qos:
    """Return what a publisher offers, for `ros2 bag play` to offer it again."""
    never = QosTime(9223372036, 854775807)
    return Qos(QosHistory.KEEP_LAST, depth,
               QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
               QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
               never, never, QosLiveliness.AUTOMATIC, never, False)


def check_free(path: Path) -> None:
    """Check that a recording can be made there, before anybody waits for a node.

    :raises RecordError: if there is something already, or it cannot be written.
    """
    if os.path.lexists(path):
        raise RecordError(f'{path} exists already; give another --out')
    above = next(p for p in path.absolute().parents if os.path.exists(p))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RecordError(f'{path}: {above} is no folder that can be written; give another --out')


class _Plain(yaml.SafeDumper):
    """Writes what stands twice twice, for people."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: no references."""
        return True


class RecordFile:
    """A rosbag2 folder in the making. Attribute ``counts``: messages of each topic.

    :raises RecordError: if it is there already or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types = Types()
        self.counts: dict[str, int] = {}
        self._connections: dict[str, Any] = {}
        self._flushed_s = time.monotonic()
        self._report = ''
        self._safe = 0                  # messages that are on the disk
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise RecordError(f'{path}: {error}; give another --out') from error

    def add_topic(self, topic: str, kind: str, qos: Qos) -> None:
        """Add a topic.

        :raises ImportError: if its type is not installed. :raises ValueError: likewise.
        """
        self.types.learn(kind)
        self._connections[topic] = self._writer.add_connection(
            topic, kind, typestore=self.types.store, offered_qos_profiles=[qos])
        self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, raw: bytes) -> None:
        """Append a serialized message.

        :param stamp_ns: when it was received.
        :raises RecordError: if the disk is full.
        """
        try:
            self._writer.write(self._connections[topic], stamp_ns, raw)
        except OSError as error:
            raise self._broken(error) from error
        self.counts[topic] += 1
        storage: Any = self._writer.storage
        if not storage.chunk.msgs:      # it was large enough to be written
            self._safe = sum(self.counts.values())

    def _broken(self, error: OSError) -> RecordError:
        left = f'{self._safe} messages until then can be read (onellm replay {self.path})' \
            if self._safe else 'not one message was on the disk by then'
        return RecordError(f'{self.path}: {error.strerror or error}; {left}; make room before '
                           'the next recording')

    def flush(self, now: bool = False) -> None:
        """Bring what has come to the disk, if it is time.

        :raises RecordError: if the disk is full.
        """
        if not now and time.monotonic() - self._flushed_s < FLUSH_S:
            return
        self._flushed_s = time.monotonic()
        storage: Any = self._writer.storage
        try:
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
            self._safe = sum(self.counts.values())
        except OSError as error:
            raise self._broken(error) from error

    def report(self, values: Mapping[str, Any]) -> None:
        """Write the report beside the messages, if it says something new.

        :raises RecordError: if the disk is full.
        """
        text = '# Written by onellm record; onellm replay of this folder goes by it.\n' + \
            yaml.dump(dict(values), Dumper=_Plain, sort_keys=False, allow_unicode=True)
        if text == self._report:
            return
        new = self.path / f'.{REPORT}'
        try:
            new.write_text(text, encoding='utf-8')
            os.replace(new, self.path / REPORT)
        except OSError as error:
            raise self._broken(error) from error
        self._report = text

    def close(self) -> None:
        """End the recording: index and metadata are written.

        :raises RecordError: if the disk is full.
        """
        try:
            self._writer.close()
        except OSError as error:
            self.abandon()
            raise self._broken(error) from error

    def abandon(self) -> None:
        """Leave the recording as it stands, without index and metadata."""
        with suppress(OSError, AttributeError):
            self._writer.abort()
