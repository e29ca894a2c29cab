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
from typing import Any

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
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
OVERLAP_S = 0.3         # the old subscription stays this long after the new one's first message,
OVERLAP_MOST_S = 3.0    # and no longer than this
_REMEMBERED = 2000      # messages of an overlap, to know which ones came twice


def type_name(kind: Any) -> str:
    """Return a message class's name on the graph, such as ``sensor_msgs/msg/Image``."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


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

    :param receive: called with each message. :param warn: (topic, text), if a QoS cannot match.
    :param choice: see :func:`fitting`. :param may_latch: likewise.
    :param depth: messages that may wait.
    :param setting: name of the parameter that the choice is from.

    Attribute ``incompatible``: publishers that cannot be heard, and why; empty: there are none.
    """

    def __init__(self, node: Node, kind: Any, topic: str, receive: Callable[[Any], None],
                 warn: Callable[[str, str], None], *, choice: str = 'auto',
                 may_latch: bool = False, depth: int = 10,
                 setting: str = 'inputs.reliability') -> None:
        self._node, self._kind, self.topic, self._receive = node, kind, topic, receive
        self._warn, self._choice, self._may_latch, self._depth = warn, choice, may_latch, depth
        self._setting = setting
        self.incompatible = ''
        self._publishers = 0
        self._look_s = 0.0
        self._old: Any = None               # what is subscribed still while changing over
        self._end_old_s = 0.0
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
        mine: list[Any] = []

        def take(message: Any, info: dict[str, int]) -> None:
            self._take(message, info, bool(mine) and mine[0] is self._current)

        def incompatible(_: QoSRequestedIncompatibleQoSInfo) -> None:
            self._look_s = 0.0  # who it is, the graph tells
        mine.append(self._node.create_subscription(
            self._kind, self.topic, take, self.policy.qos(self._depth),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible)))
        return mine[0]

    def _take(self, message: Any, info: dict[str, int], current: bool) -> None:
        """Pass a message on; around a change-over, not the ones that came twice."""
        now_s = time.monotonic()
        if current and self._old is not None:
            self._end_old_s = min(self._end_old_s, now_s + OVERLAP_S)
        mark = (info['source_timestamp'], info.get('publication_sequence_number') or 0)
        if mark[0] and now_s < self._twice_until_s and mark in self._seen:
            return
        self._seen[mark] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._receive(message)

    def poll(self) -> None:
        """Change over if other publishers have come or gone."""
        now_s = time.monotonic()
        if self._old is not None:
            if now_s >= self._end_old_s:
                self._end_old()
            return
        if now_s < self._look_s and self._node.count_publishers(self.topic) == self._publishers:
            return
        policy = self._look()
        if policy == self.policy:
            return
        self.policy = policy
        self._old, self._end_old_s = self._current, now_s + OVERLAP_MOST_S
        self._twice_until_s = now_s + 2 * OVERLAP_MOST_S
        self._current = self._subscribe()
        if self._publishers:
            self._tell()

    def _end_old(self) -> None:
        if self._old is not None:
            self._node.destroy_subscription(self._old)
        self._old = None

    def close(self) -> None:
        """End the subscription."""
        self._end_old()
        self._node.destroy_subscription(self._current)
