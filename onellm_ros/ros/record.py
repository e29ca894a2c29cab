"""``onellm record``: what the perception node hears and says, into a bag for a bug report.

The node's topics are found on the graph, as they come and go; their messages are written as they
are. Beside them stand the node's parameters, its model and its sources (report.yaml), by which
``onellm replay`` makes the same windows and words again. This module owns what is recorded;
``record_file.py`` owns the files. One thread does it all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timezone
import importlib.metadata
import os
from pathlib import Path
import platform
import signal
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from onellm_ros.config import ConfigError
from onellm_ros.modality import SHIPPED, Modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.sources import (
    CAMERA_INFO,
    PICTURES,
    modality_of,
    source_table,
)
from onellm_ros.replay.params import config_of
from onellm_ros.ros.conversions import modality_of_message
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.message_types import short_type
from onellm_ros.ros.record_file import RecordError, RecordFile, offered
from onellm_ros.ros.subscriptions import Policy, fitting

LOOK_S = 0.5                    # the graph is looked at this often
ASK_S = 10.0                    # parameters that have not come by then are asked for again
_BESIDE = ('/tf', '/tf_static', '/clock', '/diagnostics')
_LEFT_OUT = ('/_action/', '/parameter_events')
_DEPTH = 1000
_SEEN = 5000                    # messages remembered while a subscription changes over


class _Topic:
    """One recorded topic: its subscription, whose QoS follows the publishers."""

    def __init__(self, recorder: Recorder, name: str, kind: str) -> None:
        self.recorder, self.name, self.kind = recorder, name, kind
        self.message = message_class(kind)
        self.policy: Policy = self._fitting()
        self.first: bytes | None = None
        self._seen: dict[tuple[int, int], None] = {}
        self._old: Any = None
        self._end_old_s = 0.0
        recorder.file.types.learn(kind)
        self._current = self._subscribe()

    def _fitting(self) -> Policy:
        node = self.recorder
        return fitting((p for p in node.get_publishers_info_by_topic(self.name)
                        if p.topic_type == self.kind), 'auto', True)

    def _subscribe(self) -> Any:
        return self.recorder.create_subscription(
            self.message, self.name, self._take, self.policy.qos(_DEPTH), raw=True)

    def _take(self, raw: bytes, info: dict[str, int]) -> None:
        mark = (info.get('source_timestamp') or 0, info.get('publication_sequence_number') or 0)
        if mark[0]:
            if mark in self._seen:
                return              # by the other subscription, while changing over
            self._seen[mark] = None
            if len(self._seen) > _SEEN:
                del self._seen[next(iter(self._seen))]
        if self.first is None:      # only now it is known what the publishers offer
            self.first = bytes(raw)
            self.recorder.file.add_topic(self.name, self.kind, offered(
                self.policy.reliable, self.policy.latched))
        self.recorder.take(self, bytes(raw), info.get('received_timestamp') or time.time_ns())

    def look(self) -> None:
        """Change over if other publishers have come or gone."""
        now_s = time.monotonic()
        if self._old is not None and now_s > self._end_old_s:
            self.recorder.destroy_subscription(self._old)
            self._old = None
        policy = self._fitting()
        if policy != self.policy and self._old is None:
            self.policy = policy
            self._old, self._end_old_s = self._current, now_s + 1.0
            self._current = self._subscribe()


class Recorder(Node):
    """Records one node. Attribute ``warnings``: what could not be recorded, and why.

    :param target: full name of the node, such as ``/perception``.
    :param only: topics to record; empty: all that the node hears and says.
    :raises RecordError: if the files cannot be written.
    """

    def __init__(self, target: str, path: Path, only: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__('onellm_record', **kwargs)
        self.target = target
        self.file = RecordFile(path)
        self.topics: dict[str, _Topic] = {}
        self.warnings: dict[str, str] = {}
        self.model = ''
        self.values: dict[str, Any] = {}
        self._only = [self.resolve_topic_name(name) for name in only]
        self._streams: dict[str, list[str]] = {}
        self._began = datetime.now(timezone.utc).isoformat(timespec='seconds')
        self._parameters = AsyncParameterClient(self, target)
        self._ask_s = 0.0
        self._look_s = 0.0

    # -- what there is ------------------------------------------------------------------------

    def poll(self) -> None:
        """Follow the graph and bring what has come to the disk; call it some times a second.

        :raises RecordError: if the disk is full.
        """
        self.file.flush()
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        for name, kinds in self._found().items():
            if name not in self.topics and name not in self.warnings:
                self._add(name, kinds)
        for topic in self.topics.values():
            topic.look()
        self._ask()
        self.file.report(self._report())

    def _found(self) -> dict[str, list[str]]:
        """Return the topics to record with their types."""
        space, _, name = self.target.rpartition('/')
        try:
            heard = dict(self.get_subscriber_names_and_types_by_node(name, space or '/'))
            said = dict(self.get_publisher_names_and_types_by_node(name, space or '/'))
        except NodeNameNonExistentError:
            heard, said = {}, {}        # it is gone, and may come again
        every = dict(self.get_topic_names_and_types())
        if self._only:
            return {n: every[n] for n in self._only if n in every}
        out = {**heard, **said, **{n: every[n] for n in _BESIDE if n in every}}
        return {n: kinds for n, kinds in out.items() if not any(w in n for w in _LEFT_OUT)}

    def _add(self, name: str, kinds: Sequence[str]) -> None:
        sent = {p.topic_type for p in self.get_publishers_info_by_topic(name)}
        kind = next((k for k in kinds if k in sent), kinds[0])
        try:
            self.topics[name] = _Topic(self, name, kind)
            self.get_logger().info(f'records {name} ({kind})')
        except (ImportError, ValueError) as error:
            self.warnings[name] = str(error)
            self.get_logger().warning(f'{name} is not recorded: {error}')

    def _ask(self) -> None:
        """Ask for the node's parameters until they have come."""
        now_s = time.monotonic()
        if self.values or now_s < self._ask_s or not self._parameters.services_are_ready():
            return
        self._ask_s = now_s + ASK_S         # a node that ended meanwhile does not answer
        self._parameters.list_parameters().add_done_callback(self._listed)

    def _listed(self, future: Any) -> None:
        names = list(future.result().result.names)
        got = self._parameters.get_parameters(names)

        def take(future: Any) -> None:
            self.values = {n: _plain(parameter_value_to_python(v)) for n, v in
                           zip(names, future.result().values, strict=True)}
        got.add_done_callback(take)

    # -- messages -----------------------------------------------------------------------------

    def take(self, topic: _Topic, raw: bytes, stamp_ns: int) -> None:
        """Write a message; those that tell of the node's sources and model are read, too."""
        self.file.write(topic.name, stamp_ns, raw)
        if topic.name == '/diagnostics':
            self._read(deserialize_message(raw, DiagnosticArray))

    def _read(self, message: DiagnosticArray) -> None:
        begin = self.target.strip('/') + ': '
        streams = {}
        for status in message.status:
            if not status.name.startswith(begin):
                continue
            stream = status.name[len(begin):]
            values = {v.key: v.value for v in status.values}
            if 'model' in values:
                self.model = values['model']
            elif 'topics' in values:
                streams[stream] = [t for t in values['topics'].split(', ') if t]
        self._streams = streams or self._streams

    # -- the report ---------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        try:
            version = importlib.metadata.version('onellm_ros')
        except importlib.metadata.PackageNotFoundError:
            version = 'unknown'
        sources, unsure = self._sources()
        return {
            'onellm_record': 1, 'node': self.target, 'model': self.model, 'began': self._began,
            'machine': {'onellm_ros': version, 'ros': os.environ.get('ROS_DISTRO', ''),
                        'rmw': os.environ.get('RMW_IMPLEMENTATION', ''),
                        'python': platform.python_version(), 'system': platform.platform()},
            'parameters': self.values, 'sources': sources,
            'topics': {t.name: {'type': t.kind, 'qos': str(t.policy)}
                       for t in self.topics.values()},
            'not_recorded': {**self.warnings, **unsure}}

    def _sources(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the node's sources in order of rank, with the topics that they heard."""
        if not self.values or not self._streams:
            return [], {}
        try:
            config, _ = config_of(self.values)
            specs = {s.name: s for s in source_table(config, _modalities(config)).specs}
        except ConfigError as error:
            return [], {'sources': str(error)}
        named = {s.name: s for s in config.sources}
        cameras = self._streams.get(CAMERA_INFO, [])
        out, unsure = [], {}
        for stream, topics in self._streams.items():
            if stream == CAMERA_INFO:
                continue
            spec = specs.get(stream)
            modality = spec.modality if spec is not None else self._shown(topics)
            if modality is None:
                unsure[f'source {stream}'] = 'no message has shown what it is'
                continue
            entry: dict[str, Any] = {'name': stream, 'modality': modality.value, 'topics': topics}
            pictures = modality in (Modality.IMAGE, Modality.DEPTH)
            beside = _nearest(topics[0], cameras) if topics and cameras and pictures else ''
            if beside and (spec is None or spec.camera_info):
                entry['camera_info'] = beside
            if stream in named:
                entry |= {k: getattr(named[stream], k) for k in ('frame', 'stamps')
                          if getattr(named[stream], k)}
            out.append(entry)
        return out, unsure

    def _shown(self, topics: Sequence[str]) -> Modality | None:
        """Return the modality of a source by what came on its topics."""
        for name in topics:
            topic = self.topics.get(name)
            if topic is None or topic.first is None:
                continue
            if short_type(topic.kind) not in PICTURES:
                return modality_of(topic.kind, name, tuple(Modality),
                                   tuple(topic.message.get_fields_and_field_types()))
            return modality_of_message(topic.kind, name,
                                       deserialize_message(topic.first, topic.message))
        return None

    def close(self) -> None:
        """Write the rest.

        :raises RecordError: if the disk is full.
        """
        self.file.report(self._report())
        self.file.close()


def _plain(value: Any) -> Any:
    """Return a parameter's value as YAML takes it."""
    if isinstance(value, (str, bytes)) or value is None:
        return value
    return list(value) if hasattr(value, '__iter__') else value


def _modalities(config: NodeConfig) -> tuple[Modality, ...]:
    return tuple(Modality(m) for m in config.modalities) or (
        *Modality, *(Modality(name) for name in SHIPPED))


def _nearest(topic: str, cameras: Sequence[str]) -> str:
    """Return the calibration whose name shares the longest begin with a topic's."""
    return max(cameras, key=lambda c: len(os.path.commonprefix((c, topic))))


# ---- the command --------------------------------------------------------------------------------

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    parser.add_argument('--node', default='', help='full name of the node, such as /perception '
                        '(default: the one that there is)')
    parser.add_argument('--out', metavar='FOLDER',
                        help='new folder (default: onellm_record_ and the time)')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help='end after so long (default: with Ctrl-C)')
    parser.add_argument('--topics', nargs='+', default=[], metavar='TOPIC',
                        help='only these (default: all that the node hears and says, /tf, /clock '
                             'and /diagnostics)')
    parser.add_argument('--wait', type=float, default=10.0, metavar='S',
                        help='for the node to appear (default: %(default)g s)')


def find_node(node: Node, name: str, wait_s: float) -> str:
    """Return the full name of the node to record.

    :param name: as the user gave it; empty: the only one called ``perception``.
    :raises RecordError: if there is none, or several.
    """
    end_s = time.monotonic() + wait_s
    wanted = '/' + name.strip('/') if name else ''
    while True:
        known = sorted({f'{space.rstrip("/")}/{n}' for n, space in
                        node.get_node_names_and_namespaces() if not n.startswith('_')})
        fits = [n for n in known if n == wanted or (
            not wanted and n.rpartition('/')[2] == 'perception')]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise RecordError(f'found the nodes {", ".join(fits)}; give --node to choose one')
        if time.monotonic() > end_s:
            others = [n for n in known if n != node.get_fully_qualified_name()]
            raise RecordError(
                f'found no node {wanted or "called perception"} within {wait_s:g} s, but '
                f'{", ".join(others) or "none at all"}; start it, or give --node; check '
                'ROS_DOMAIN_ID')
        time.sleep(0.1)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns its exit status."""
    path = Path(args.out or datetime.now().strftime('onellm_record_%Y%m%d_%H%M%S')).expanduser()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    recorder: Recorder | None = None
    try:
        looker = rclpy.create_node('onellm_record_search')
        try:
            target = find_node(looker, args.node, args.wait)
        finally:
            looker.destroy_node()
        recorder = Recorder(target, path, args.topics)
        record(recorder, stopped, args.seconds)
    except (RecordError, ExternalShutdownException) as error:
        print(f'onellm record: error: {error}', file=sys.stderr)
        return 2
    finally:
        if recorder is not None:
            recorder.destroy_node()
        rclpy.try_shutdown()
    counts = {t: n for t, n in recorder.file.counts.items() if n}
    print(f'onellm record: {sum(counts.values())} messages of {len(counts)} topics in {path}; '
          f'onellm replay {path} does it again')
    return 0


def record(recorder: Recorder, stopped: Sequence[Any], seconds: float | None = None) -> None:
    """Record until ``stopped`` holds something, or for so long.

    :raises RecordError: if the disk is full; what was written until then can be read.
    """
    executor = SingleThreadedExecutor(context=recorder.context)
    executor.add_node(recorder)
    end_s = time.monotonic() + seconds if seconds is not None else None
    try:
        while not stopped and (end_s is None or time.monotonic() < end_s):
            executor.spin_once(timeout_sec=0.05)
            recorder.poll()
        recorder.close()
    except RecordError:
        recorder.file.abandon()
        raise
    finally:
        executor.shutdown(timeout_sec=0.5)
