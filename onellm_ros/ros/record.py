"""``onellm record``: what the perception node hears and says, into a bag for a bug report.

The node's topics are found on the graph, as they come and go; their messages are written as they
are. Beside them stand the node's parameters and what changed of them, its model and its sources
(report.yaml), by which ``onellm replay`` makes the same windows and words again. This module owns
what is recorded; ``record_file.py`` owns the files. One thread does it all.
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
from rcl_interfaces.msg import ParameterEvent
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from onellm_ros.modality import Modality
from onellm_ros.perception.sources import PICTURES, modality_of
from onellm_ros.ros.conversions import modality_of_message
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.message_types import short_type
from onellm_ros.ros.record_file import RecordError, RecordFile, check_free, offered
from onellm_ros.ros.record_params import EVENTS, ParameterTrail
from onellm_ros.ros.record_sources import HeardSources
from onellm_ros.ros.subscriptions import FollowingSubscription, RawMessage

LOOK_S = 0.5                    # the graph is looked at this often,
POLL_S = 0.05                   # and the subscriptions this often
_BESIDE = ('/tf', '/tf_static', '/clock', '/diagnostics', EVENTS)
_READ = ('/diagnostics', EVENTS)         # they tell of the node, whatever is recorded
_LEFT_OUT = '/_action/'
_DEPTH = 1000


class _Topic:
    """One recorded topic: its subscription, whose QoS follows the publishers.

    Attribute ``first``: its first message, serialized; None: none has come.
    """

    def __init__(self, recorder: Recorder, name: str, kind: str) -> None:
        self.recorder, self.name, self.kind = recorder, name, kind
        self.message = message_class(kind)
        self.first: bytes | None = None
        recorder.file.types.learn(kind)
        self.subscription = FollowingSubscription(
            recorder, self.message, name, self._take, recorder.warn, may_latch=True,
            depth=_DEPTH, raw=True)

    def _take(self, message: RawMessage) -> None:
        if not self.recorder.wants(self, message):
            return
        if self.first is None:      # only now it is known what the publishers offer
            policy = self.subscription.policy
            self.first = message.data
            self.recorder.file.add_topic(
                self.name, self.kind, offered(policy.reliable, policy.latched))
        self.recorder.file.write(self.name, message.stamp_ns, message.data)


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
        self.parameters = ParameterTrail.of(self, target)
        self.sources = HeardSources(target)
        self._only = [self.resolve_topic_name(name) for name in only]
        self._began = datetime.now(timezone.utc).isoformat(timespec='seconds')
        self._look_s = self._poll_s = 0.0

    # -- what there is ------------------------------------------------------------------------

    def poll(self) -> None:
        """Follow the graph and bring what has come to the disk; call it some times a second.

        :raises RecordError: if the disk is full.
        """
        self.file.flush()
        now_s = time.monotonic()
        if now_s < self._poll_s:
            return
        self._poll_s = now_s + POLL_S
        for topic in self.topics.values():
            topic.subscription.poll()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        for name, kinds in self._found().items():
            if name not in self.topics and name not in self.warnings:
                self._add(name, kinds)
        self.parameters.poll()
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
            wanted: Sequence[str] = (*self._only, *_READ)
            return {n: every[n] for n in wanted if n in every}
        out = {**heard, **said, **{n: every[n] for n in _BESIDE if n in every}}
        return {n: kinds for n, kinds in out.items() if _LEFT_OUT not in n}

    def _add(self, name: str, kinds: Sequence[str]) -> None:
        sent = {p.topic_type for p in self.get_publishers_info_by_topic(name)}
        kind = next((k for k in kinds if k in sent), kinds[0])
        try:
            self.topics[name] = _Topic(self, name, kind)
            self.get_logger().info(f'records {name} ({kind})')
        except (ImportError, ValueError) as error:
            self.warn(name, str(error))

    def warn(self, topic: str, text: str) -> None:
        """Keep for the report why a topic is not recorded, and say it once."""
        if self.warnings.get(topic) != text:
            self.warnings[topic] = text
            self.get_logger().warning(f'{topic} is not recorded: {text}')

    # -- messages -----------------------------------------------------------------------------

    def wants(self, topic: _Topic, message: RawMessage) -> bool:
        """Read what tells of the node, and return whether the message is to be recorded.

        Of /parameter_events those of the node are; so is what the user named.
        """
        if topic.name == '/diagnostics':
            self.sources.take(deserialize_message(message.data, DiagnosticArray))
        elif topic.name == EVENTS:
            event = deserialize_message(message.data, ParameterEvent)
            if event.node != self.target:
                return False
            self.parameters.take(event, message.stamp_ns)
        return not self._only or topic.name in self._only

    # -- the report ---------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        try:
            version = importlib.metadata.version('onellm_ros')
        except importlib.metadata.PackageNotFoundError:
            version = 'unknown'
        trail = self.parameters
        sources, _ = self._table()
        return {
            'onellm_record': 1, 'node': self.target, 'model': self.sources.model,
            'began': self._began,
            'machine': {'onellm_ros': version, 'ros': os.environ.get('ROS_DISTRO', ''),
                        'rmw': os.environ.get('RMW_IMPLEMENTATION', ''),
                        'python': platform.python_version(), 'system': platform.platform()},
            'parameters': trail.first, 'changes': trail.changes,
            'restarts': trail.restarts, 'sources': sources,
            'topics': {t.name: {'type': t.kind, 'qos': str(t.subscription.policy)}
                       for t in self.topics.values() if not self._only or t.name in self._only},
            'not_recorded': self.not_recorded()}

    def not_recorded(self) -> dict[str, str]:
        """Return what could not be recorded, and why."""
        _, unsure = self._table()
        if not self.parameters.first:
            unsure['parameters'] = f'{self.target} has not answered what they are'
        return {**self.warnings, **unsure}

    def _table(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the node's sources, and what is not known of them."""
        trail = self.parameters             # what it may be shown, it was told at the begin
        return self.sources.table({**trail.values, **{
            n: v for n, v in trail.first.items() if n == 'modalities'}}, self._shown)

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


def find_node(node: Node, name: str, wait_s: float, stopped: Sequence[Any] = ()) -> str:
    """Return the full name of the node to record; empty: stopped before it was there.

    :param name: as the user gave it; empty: the only one called ``perception``.
    :param stopped: holds something as soon as the user has enough.
    :raises RecordError: if there is none, or several.
    """
    end_s = time.monotonic() + wait_s
    wanted = '/' + name.strip('/') if name else ''
    while not stopped:
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
    return ''


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns its exit status."""
    if args.seconds is not None and not args.seconds > 0:
        print(f'onellm record: error: --seconds: found {args.seconds:g}, expected more than 0',
              file=sys.stderr)
        return 2
    path = Path(args.out or datetime.now().strftime('onellm_record_%Y%m%d_%H%M%S')).expanduser()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    recorder: Recorder | None = None
    try:
        check_free(path)
        looker = rclpy.create_node('onellm_record_search')
        try:
            target = find_node(looker, args.node, args.wait, stopped)
        finally:
            looker.destroy_node()
        if not target:
            print('onellm record: interrupted before there was a node', file=sys.stderr)
            return 130
        recorder = Recorder(target, path, args.topics)
        print(f'onellm record: {target} into {path}; Ctrl-C ends it', file=sys.stderr)
        record(recorder, stopped, args.seconds)
    except (RecordError, ExternalShutdownException) as error:
        print(f'onellm record: error: {error}', file=sys.stderr)
        return 2
    finally:
        if recorder is not None:
            recorder.destroy_node()
        rclpy.try_shutdown()
    return _tell(recorder, path)


def _tell(recorder: Recorder, path: Path) -> int:
    """Say what was recorded, and what was not; returns the exit status."""
    for what, why in recorder.not_recorded().items():
        if not what.startswith('source '):      # nothing came on its topics: nothing is missing
            print(f'onellm record: not recorded: {what}: {why}', file=sys.stderr)
    counts = {t: n for t, n in recorder.file.counts.items() if n}
    changes = len(recorder.parameters.changes)
    print(f'onellm record: {sum(counts.values())} messages of {len(counts)} topics'
          + (f', {changes} change(s) of parameters' if changes else '') + f' in {path}'
          + (f'; onellm replay {path} does it again' if counts else
             f': no message came within that time; is {recorder.target} active, and does '
             'anybody publish?'))
    return 0 if counts else 1


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
    except BaseException:
        recorder.file.abandon()
        raise
    finally:
        executor.shutdown(timeout_sec=0.5)
