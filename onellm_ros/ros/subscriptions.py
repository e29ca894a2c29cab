"""Subscriptions whose quality of service follows the publishers of their topic.

A best-effort subscription connects to every publisher, but loses most large messages on a busy
machine; a reliable one hears nothing from a best-effort publisher. So this module owns which of
the two a topic gets, watching who publishes, changing over without losing messages, and naming
publishers that cannot be heard. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import time
from typing import Any, NamedTuple

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo

LOOK_S = 1.0            # all publishers are looked at this often, and when their number changes
# While changing over the old subscription stays
OVERLAP_S = 0.3         # so long after a message came by both: nothing lies between them then;
OVERLAP_MOST_S = 3.0    # so long where none does, once the new one has found every publisher;
OVERLAP_LIMIT_S = 10.0  # and no longer than this.
_SHARE = 16             # of a queue that is taken at one turn: a sixteenth
_REMEMBERED = 2000      # messages at least, to know which ones come twice


def type_name(kind: Any) -> str:
    """Return a message class's name on the graph, such as ``sensor_msgs/msg/Image``."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


class RawMessage(NamedTuple):
    """A message as it was sent: ``data`` serialized (CDR), received at ``stamp_ns`` since 1970."""

    data: bytes
    stamp_ns: int


@dataclass(frozen=True)
class Policy:
    """What a subscription asks of its publishers; ``latched``: what they sent before, too."""

    reliable: bool = False
    latched: bool = False

    def __str__(self) -> str:
        return ('reliable' if self.reliable else 'best effort') + \
            (', transient local' if self.latched else '')

    def qos(self, depth: int) -> QoSProfile:
        """Return the profile with a queue of ``depth`` messages."""
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=depth,
            reliability=(ReliabilityPolicy.RELIABLE if self.reliable
                         else ReliabilityPolicy.BEST_EFFORT),
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if self.latched
                        else DurabilityPolicy.VOLATILE))


def fitting(publishers: Iterable[TopicEndpointInfo], choice: str, may_latch: bool) -> Policy:
    """Return the most that all publishers offer; best effort while there are none.

    :param choice: ``auto``, or ``best_effort`` or ``reliable`` whatever the publishers offer.
    :param may_latch: ask for what was sent before, where that is to be had.
    """
    offers = [p.qos_profile for p in publishers]
    reliable = choice == 'reliable' or (choice == 'auto' and bool(offers) and all(
        o.reliability == ReliabilityPolicy.RELIABLE for o in offers))
    latched = may_latch and reliable and bool(offers) and all(
        o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    return Policy(reliable, latched)


def mismatches(offered: QoSProfile, requested: QoSProfile) -> list[str]:
    """Return each policy that keeps a publisher from being heard, as DDS judges it.

    :returns: such as ``RELIABILITY: offers BEST_EFFORT, requested RELIABLE``; empty: compatible.
    """
    def text(policy: str, offer: Any, request: Any) -> str:
        return f'{policy}: offers {offer}, requested {request}'

    def seconds(duration: Any) -> str:
        return f'{duration.nanoseconds / 1e9:g} s' if duration.nanoseconds else 'none'

    def slower(offer: Any, request: Any) -> bool:  # 0: no limit
        limit = request.nanoseconds
        return bool(limit) and (not offer.nanoseconds or offer.nanoseconds > limit)
    out = []
    if (offered.reliability == ReliabilityPolicy.BEST_EFFORT
            and requested.reliability == ReliabilityPolicy.RELIABLE):
        out.append(text('RELIABILITY', offered.reliability.name, requested.reliability.name))
    if (offered.durability == DurabilityPolicy.VOLATILE
            and requested.durability == DurabilityPolicy.TRANSIENT_LOCAL):
        out.append(text('DURABILITY', offered.durability.name, requested.durability.name))
    if slower(offered.deadline, requested.deadline):
        out.append(text('DEADLINE', seconds(offered.deadline), seconds(requested.deadline)))
    if (offered.liveliness == LivelinessPolicy.AUTOMATIC
            and requested.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC):
        out.append(text('LIVELINESS', offered.liveliness.name, requested.liveliness.name))
    if slower(offered.liveliness_lease_duration, requested.liveliness_lease_duration):
        out.append(text('LIVELINESS lease', seconds(offered.liveliness_lease_duration),
                        seconds(requested.liveliness_lease_duration)))
    return out


def node_of(publisher: TopicEndpointInfo) -> str:
    """Return the full name of the node that a publisher belongs to."""
    return f'{publisher.node_namespace.rstrip("/")}/{publisher.node_name}'


class FollowingSubscription:
    """One topic's subscription; call :meth:`poll` some 20 times a second, :meth:`close` to end.

    While it changes over, two subscriptions listen, and each message is passed on once. Not to be
    had are messages from before the publisher and the subscription found each other (but for
    latched ones), what a best-effort publisher sends before the subscription stopped asking for
    reliable, and a queue's overflow. A middleware that stamps no messages passes some on twice.

    :param receive: called with each message. :param warn: (topic, text), if a QoS cannot match.
    :param choice: see :func:`fitting`. :param may_latch: likewise.
    :param depth: messages that may wait.
    :param setting: name of the parameter that the choice is from.
    :param raw: ``receive`` gets a :class:`RawMessage`, not one of type ``kind``.

    Attributes: ``policy`` (what is asked for now), ``incompatible`` (publishers that cannot be
    heard, and why; empty: there are none).
    """

    def __init__(self, node: Node, kind: Any, topic: str, receive: Callable[[Any], None],
                 warn: Callable[[str, str], None], *, choice: str = 'auto',
                 may_latch: bool = False, depth: int = 10,
                 setting: str = 'inputs.reliability', raw: bool = False) -> None:
        self._node, self._kind, self.topic, self._receive = node, kind, topic, receive
        self._warn, self._choice, self._may_latch, self._depth = warn, choice, may_latch, depth
        self._setting, self._raw = setting, raw
        self.incompatible = ''
        self._publishers = 0
        self._look_s = 0.0
        self._old: Any = None               # what is subscribed still while changing over
        self._old_until_s = 0.0             # at the longest
        self._apart_s = 0.0                 # when the new one was last known to lack a publisher
        self._joined = False                # a message came by both
        self._twice_until_s = 0.0           # a late copy may come by the new one after the end
        self._seen: dict[tuple[int, int], None] = {}
        self.policy = self._look()
        self._current = self._subscribe()
        if any(self._offers()):
            self._tell()

    def _offers(self) -> list[TopicEndpointInfo]:
        """Return the topic's publishers that send the right type of message."""
        expected = type_name(self._kind)
        return [p for p in self._node.get_publishers_info_by_topic(self.topic)
                if p.topic_type == expected]

    def _look(self) -> Policy:
        self._look_s = time.monotonic() + LOOK_S
        self._publishers = self._node.count_publishers(self.topic)
        offers = self._offers()
        policy = fitting(offers, self._choice, self._may_latch)
        self._judge(offers, policy)
        return policy

    def _judge(self, offers: Iterable[TopicEndpointInfo], policy: Policy) -> None:
        """Find the publishers that cannot be heard, and name them once."""
        requested = policy.qos(self._depth)
        wrong = [f'{node_of(offer)} ({"; ".join(found)})' for offer in offers
                 if (found := mismatches(offer.qos_profile, requested))]
        self.incompatible = ', '.join(sorted(set(wrong)))
        if wrong:
            self._warn(self.topic, 'a publisher offers a QoS that this subscription cannot use: '
                       f'{self.incompatible}: nothing is received from it; set {self._setting} '
                       'to auto or make the publisher reliable')

    def _tell(self) -> None:
        self._node.get_logger().info(f'{self.topic}: subscribed {self.policy}')

    def _subscribe(self) -> Any:
        def incompatible(_: QoSRequestedIncompatibleQoSInfo) -> None:
            self._look_s = 0.0  # who it is, the graph tells
        return self._node.create_subscription(
            self._kind, self.topic, self._take, self.policy.qos(self._depth), raw=self._raw,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible))

    def _take(self, message: Any, info: dict[str, int]) -> None:
        """Pass a message on, and then those of a long queue that wait behind it.

        The executor takes one message of each topic a turn, in which all other topics have
        theirs: on a busy machine an IMU would fall behind until its queue overflows.
        """
        self._pass_on(message, info)
        own = self._current
        for _ in range(self._depth // _SHARE):
            if self._old is not None or own is not self._current:
                return
            try:
                with own.handle:
                    more = own.handle.take_message(own.msg_type, own.raw)
            except rclpy_implementation.InvalidHandle:
                return                  # the callback has ended the subscription
            if more is None:
                return
            self._pass_on(*more)

    def _pass_on(self, message: Any, info: dict[str, int]) -> None:
        """Pass a message on; around a change-over, not the ones that came twice."""
        now_s = time.monotonic()
        changing = self._old is not None or now_s < self._twice_until_s
        mark = (info.get('source_timestamp') or 0, info.get('publication_sequence_number') or 0)
        if mark[0]:
            if changing and mark in self._seen:
                if not self._joined:
                    self._joined, self._apart_s = True, now_s
                return
            self._seen[mark] = None
            while len(self._seen) > _REMEMBERED and not changing:
                del self._seen[next(iter(self._seen))]
        self._receive(RawMessage(bytes(message), info.get('received_timestamp') or time.time_ns())
                      if self._raw else message)

    def poll(self) -> None:
        """Change over if other publishers have come or gone."""
        now_s = time.monotonic()
        if self._old is not None:
            if self._is_changed_over(now_s):
                self._twice_until_s = now_s + OVERLAP_MOST_S
                self._end_old()
            return
        if now_s < self._look_s and self._node.count_publishers(self.topic) == self._publishers:
            return
        policy = self._look()
        if policy == self.policy:
            return
        self.policy = policy
        self._old, self._old_until_s = self._current, now_s + OVERLAP_LIMIT_S
        self._apart_s, self._joined = now_s, False
        self._current = self._subscribe()
        if self._publishers:
            self._tell()

    def _is_changed_over(self, now_s: float) -> bool:
        """Tell whether the new subscription hears all that the old one does."""
        if self._current.get_publisher_count() < self._old.get_publisher_count():
            self._apart_s = now_s
        return now_s >= min(self._old_until_s, self._apart_s + (
            OVERLAP_S if self._joined else OVERLAP_MOST_S))

    def _end_old(self) -> None:
        if self._old is not None:
            self._node.destroy_subscription(self._old)
        self._old = None

    def close(self) -> None:
        """End the subscription."""
        self._end_old()
        self._node.destroy_subscription(self._current)
