"""The node's inputs: its sources are subscribed, and what they bring is handed to the intake.

This module owns what is subscribed (``subscriptions.py`` owns how) and each input's health;
converting and cutting windows is the intake's (``perception/intake.py``). All of it runs on the
thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import time
from typing import Any

from rclpy.node import Node

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.intake import Feed, Intake
from onellm_ros.perception.pausing import PausingClock
from onellm_ros.perception.sources import CAMERA_INFO, SECOND_NS, SourceSpec
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.once import Once
from onellm_ros.ros.subscriptions import FollowingSubscription
from onellm_ros.windows import Event, Window, WindowSpec

_STALL_S = 0.25
_QUEUE = {Modality.IMU: 200, Modality.AUDIO: 100}


@dataclass(frozen=True)
class Health:
    """How one input does.

    :param rate_hz: messages a second since the last look; ``age_s``: since the newest one, None if
        there was none.
    :param lost: samples that were late, duplicates or too many.
    :param error_age_s: since the newest message that could not be used; None if there was none.
    :param mistyped: publishers are there, and all of them send another type: which and expected.
    :param qos: how the topics are subscribed.
    """

    stream: str
    topics: tuple[str, ...]
    publishers: int
    received: int
    rate_hz: float
    age_s: float | None
    late: int
    lost: int
    errors: int
    last_error: str
    offset_s: float = 0.0
    foreign: bool = False
    error_age_s: float | None = None
    mistyped: str = ''
    qos: str = ''


class Inputs:
    """Subscribes while it exists; call :meth:`poll` some 20 times a second, :meth:`close` to end.

    :param sources: what to subscribe to.
    :param on_window: called with each window that closes.
    :param on_jump: called when time jumped back.
    :raises ConfigError: for settings that do not fit.
    """

    def __init__(self, node: Node, config: NodeConfig, sources: Sequence[SourceSpec],
                 spec: WindowSpec, on_window: Callable[[Window], None],
                 on_jump: Callable[[], None]) -> None:
        self._node = node
        self._config = config.inputs
        self.enabled = True
        self.warn = Once(node.get_logger().warning)
        self.intake = Intake(sources, config.inputs, spec, on_window=on_window, on_jump=on_jump,
                             on_event=self._tell, on_wrong=self.warn,
                             resolve=node.resolve_topic_name)
        clock = node.get_clock()
        self.clock = PausingClock(
            lambda: (clock.now().nanoseconds or None) if clock.ros_time_is_active else None)
        self._polled_s, self._stalled = time.monotonic(), False
        self._looked_s = time.monotonic()
        self._counted: dict[str, int] = {}
        kinds = [(feed, self._kind(feed)) for feed in
                 (*self.intake.feeds, *self.intake.camera_feeds)]
        self._subscriptions = {feed: self._subscribe(feed, kind) for feed, kind in kinds}

    @staticmethod
    def _kind(feed: Feed) -> Any:
        try:
            return message_class(feed.type)
        except ImportError as error:
            raise ConfigError(
                f'{feed.source.name} ({feed.topic}): message type {feed.type!r} is not installed '
                f'({error}); install its package or choose another type') from error

    def _subscribe(self, feed: Feed, kind: Any) -> FollowingSubscription:
        return FollowingSubscription(
            self._node, kind, feed.topic, lambda message: self._receive(feed, message), self.warn,
            choice=self._config.reliability, may_latch=feed in self.intake.camera_feeds,
            depth=_QUEUE.get(feed.source.modality, 10))

    def close(self) -> None:
        """End the subscriptions and forget the samples."""
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()
        self.intake.restart()

    def restart(self) -> None:
        """Forget what is held (after a pause)."""
        self.intake.restart()

    def _receive(self, feed: Feed, message: Any) -> None:
        if self.enabled:
            self.intake.receive(feed, message, self._node.get_clock().now().nanoseconds,
                                self.clock())

    def poll(self) -> None:
        """Follow the publishers, and close windows whose deadline has passed.

        After a stall of this thread the messages that wait are taken first: one turn is skipped.
        """
        for subscription in self._subscriptions.values():
            subscription.poll()
        now_s = time.monotonic()
        stalled, self._polled_s = now_s - self._polled_s > _STALL_S, now_s
        self._stalled = stalled and not self._stalled
        if not self._stalled:
            self.intake.poll(self.clock())

    def _tell(self, event: Event) -> None:
        """Say what happened to time."""
        if event.kind in ('gap', 'agrees'):
            self._node.get_logger().info(f'time: {event.text}')
        elif event.kind == 'backward':
            self._node.get_logger().warning(f'time: {event.text}', throttle_duration_sec=5.0)
        else:
            self.warn(f'time ({event.kind})', event.text)

    # -- health -------------------------------------------------------------------------------

    def health(self) -> list[Health]:
        """Return how each input does; rates are since the call before."""
        now_s = time.monotonic()
        span_s, self._looked_s = max(now_s - self._looked_s, 1e-3), now_s
        out = []
        for stream, counts in self.intake.synchronizer.stats().items():
            feeds = self._feeds_of(stream)
            out.append(replace(
                self._health(stream, feeds, now_s, span_s), late=counts.late,
                lost=counts.dropped + counts.duplicates, offset_s=counts.offset_ns / SECOND_NS,
                foreign=counts.foreign))
        if self.intake.camera_feeds:
            out.append(self._health(CAMERA_INFO, self.intake.camera_feeds, now_s, span_s))
        return out

    def _feeds_of(self, stream: str) -> list[Feed]:
        return [feed for feed in self.intake.feeds if feed.source.name == stream]

    def _health(self, stream: str, feeds: list[Feed], now_s: float, span_s: float) -> Health:
        """Return what the topics of one stream say about it."""
        received = sum(f.received for f in feeds)
        fresh, self._counted[stream] = received - self._counted.get(stream, 0), received
        heard = [f.arrival_s for f in feeds if f.received]
        last = max(feeds, key=lambda f: f.error_s)
        return Health(
            stream, tuple(f.topic for f in feeds if f.received),
            sum(self._node.count_publishers(f.topic) for f in feeds), received, fresh / span_s,
            now_s - max(heard) if heard else None, 0, 0, sum(f.errors for f in feeds),
            last.last_error, error_age_s=now_s - last.error_s if last.errors else None,
            mistyped='' if received else self._mistyped(feeds),
            qos='; '.join(dict.fromkeys(str(self._subscriptions[f].policy) for f in feeds
                                        if f.received or len(feeds) == 1)))

    def _mistyped(self, feeds: list[Feed]) -> str:
        """Return which wrong types the publishers of a stream send, if there are no others."""
        wrong = ''
        for feed in feeds:
            found = {i.topic_type for i in self._node.get_publishers_info_by_topic(feed.topic)}
            if feed.type in found:
                return ''
            if found:
                wrong = f'found {", ".join(sorted(found))} on {feed.topic}, expected {feed.type}'
                self.warn(feed.topic, f'{wrong}: nothing is received; remap the topic')
        return wrong

    def silence(self, only: str = '') -> str:
        """Return in words which inputs have brought nothing usable, and why if that is known."""
        parts = []
        for stream, counts in self.intake.synchronizer.stats().items():
            feeds = self._feeds_of(stream)
            errors = [f for f in feeds if f.errors]
            if counts.received or only not in ('', stream):
                continue
            if errors:
                parts.append(f'{stream}: {errors[0].errors} unusable messages '
                             f'({errors[0].last_error})')
            elif any(self._node.count_publishers(f.topic) for f in feeds):
                parts.append(f'{stream}: {self._mistyped(feeds) or "no message yet"}')
            else:
                parts.append(f'{stream}: no publisher on {feeds[0].topic}')
        return '; '.join(parts)
