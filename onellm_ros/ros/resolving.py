"""What open sources send: types asked of the graph, modalities of pictures of a first message.

A source without a type, or without a modality, waits here until a publisher appears; this module
owns choosing among what its publishers send, and saying what was found. What becomes of it is the
business of ``inputs.py``. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
import time
from typing import Any

from rclpy.node import Node

from onellm_ros.modality import Modality, in_order
from onellm_ros.node_config import SourceConfig
from onellm_ros.perception.sources import (
    PICTURES,
    SourceSpec,
    SourceTable,
    modality_of,
    spec_for,
    unfit,
)
from onellm_ros.ros.conversions import modality_of_message, reason_unused
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.message_types import short_type
from onellm_ros.ros.subscriptions import FollowingSubscription

LOOK_S = 0.5
Warn = Callable[[str, str], None]


@dataclass(eq=False)
class _Topic:
    """A topic of a source, and what is known of it.

    :param raw: as it is named before remapping. :param modality: None: not known yet.
    :param kind: the type in use; empty: not known yet. :param why: why it is not.
    :param probe: subscription for a first message of ``probed``, which is then ``found``.
    """

    name: str
    raw: str
    topic: str
    modality: Modality | None
    config: SourceConfig | None = None
    kind: str = ''
    why: str = ''
    probe: FollowingSubscription | None = None
    probed: str = ''
    found: tuple[str, Modality] | None = None


class Resolver:
    """Watches the topics of sources whose type or modality is not told.

    Call :meth:`poll` some 20 times a second, :meth:`close` to end.

    :param modalities: what the model is shown.
    :param settled: called with a source once it is known, or sends another type than before.
    """

    def __init__(self, node: Node, table: SourceTable, modalities: Collection[Modality],
                 warn: Warn, settled: Callable[[SourceSpec], None]) -> None:
        self._node, self._warn, self._settled = node, warn, settled
        self._wanted = set(modalities)
        if Modality.VIDEO in self._wanted:
            self._wanted.add(Modality.IMAGE)
        self._look_s = 0.0
        self._specs = {s.name: s for s in table.specs}

        def topic(name: str, raw: str, modality: Modality | None,
                  config: SourceConfig | None = None) -> _Topic:
            return _Topic(name, raw, node.resolve_topic_name(raw), modality, config)
        self._topics = [topic(s.name, raw, s.modality) for s in table.specs
                        for raw, kind in s.topics if not kind]
        self._topics += [topic(s.name, s.topic, None, s) for s in table.open]

    def poll(self) -> None:
        """Ask the graph, and take over what first messages have shown."""
        for topic in self._topics:
            if topic.probe is not None:
                topic.probe.poll()
            if topic.found is not None:
                kind, modality = topic.found
                self._end_probe(topic)
                self._settle(topic, kind, modality)
        now_s = time.monotonic()
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            for topic in self._topics:
                self._look(topic)

    def waiting(self) -> dict[str, tuple[str, str]]:
        """Return the topic of each source that is not known yet, and why it is not."""
        return {t.name: (t.topic, t.why) for t in self._topics if not t.kind}

    def _types(self, topic: _Topic) -> list[str]:
        """Return what the publishers send, pictures as they are before compressed ones."""
        found = {p.topic_type for p in self._node.get_publishers_info_by_topic(topic.topic)}
        return sorted(found, key=lambda kind: (short_type(kind) == 'CompressedImage', kind))

    def _look(self, topic: _Topic) -> None:
        types = self._types(topic)
        if not types or topic.kind in types or topic.probed in types:
            return
        self._end_probe(topic)
        usable, wrong = [], []
        for kind in types:
            modality, why = self._judge(topic, kind)
            if why:
                wrong.append(why)
            else:
                usable.append((kind, modality))
        topic.why = '; '.join(wrong)
        if not usable:
            self._warn(topic.name, f'nothing on {topic.topic} can be used: {topic.why}')
            return
        kind, modality = usable[0]
        if len(types) > 1:
            self._warn(topic.name, f'publishers of {topic.topic} send {", ".join(types)}; '
                       f'{kind} is taken')
        if modality is None:
            self._probe(topic, kind)
        else:
            self._settle(topic, kind, modality)

    def _judge(self, topic: _Topic, kind: str) -> tuple[Modality | None, str]:
        """Return the modality of a type (None: a message will show), or why it is unusable."""
        try:
            fields = tuple(message_class(kind).get_fields_and_field_types())
        except ImportError as error:
            return None, f'the message type {kind} is not installed ({error})'
        modality = topic.modality
        if modality is None:
            if short_type(kind) in PICTURES:
                return None, ''
            modality = modality_of(kind, topic.topic, self._wanted, fields)
        if modality is None:
            return None, reason_unused(kind, topic.topic)
        return modality, unfit(modality, kind, fields) or self._unwanted(modality)

    def _unwanted(self, modality: Modality) -> str:
        if modality in self._wanted:
            return ''
        return (f'found {modality}, which the model is not shown; expected one of '
                f'{", ".join(in_order(self._wanted))}')

    def _probe(self, topic: _Topic, kind: str) -> None:
        """Wait for a first message; it only shows what the topic is, the next ones are used."""
        def take(message: Any) -> None:
            if topic.found is not None:
                return
            modality = modality_of_message(kind, topic.topic, message)
            topic.why = reason_unused(kind, topic.topic) if modality is None \
                else self._unwanted(modality)
            if modality is None or topic.why:
                self._warn(topic.name, f'{topic.topic} cannot be used: {topic.why}')
            else:
                topic.found = (kind, modality)
        topic.probed, topic.why = kind, 'no message yet that shows what it is'
        topic.probe = FollowingSubscription(
            self._node, message_class(kind), topic.topic, take, self._warn, may_latch=True,
            depth=1)

    @staticmethod
    def _end_probe(topic: _Topic) -> None:
        if topic.probe is not None:
            topic.probe.close()
        topic.probe, topic.probed, topic.found = None, '', None

    def _settle(self, topic: _Topic, kind: str, modality: Modality) -> None:
        topic.kind, topic.modality, topic.why = kind, modality, ''
        self._node.get_logger().info(f'{topic.name}: {topic.topic} is {kind}, used as {modality}')
        before = self._specs.get(topic.name)
        if before is None:
            assert topic.config is not None
            spec = spec_for(topic.config, kind, modality)
        else:
            spec = replace(before, topics=tuple(
                (raw, kind if raw == topic.raw else old) for raw, old in before.topics))
        self._specs[topic.name] = spec
        self._settled(spec)

    def close(self) -> None:
        """End the subscriptions that wait for a first message."""
        for topic in self._topics:
            self._end_probe(topic)
