"""The node's inputs: its sources are subscribed, and what they bring is handed to the intake.

This module owns what is subscribed (``subscriptions.py`` owns how) and each input's health;
converting and cutting windows is the intake's (``perception/intake.py``). All of it runs on the
thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
import time
from typing import Any

from rclpy.node import Node

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.intake import Feed, Intake
from onellm_ros.perception.pausing import PausingClock
from onellm_ros.perception.sources import CAMERA_INFO, SECOND_NS, SourceSpec, SourceTable
from onellm_ros.ros.frames import Frames
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.once import Once
from onellm_ros.ros.resolving import Resolver
from onellm_ros.ros.subscriptions import FollowingSubscription
from onellm_ros.windows import Event, Window, WindowSpec

_STALL_S = 0.25
QUEUE = {Modality.IMU: 200, Modality.AUDIO: 100}    # messages that may wait; else few


@dataclass(frozen=True)
class Health:
    """How one input does.

    :param rate_hz: messages a second since the last look; ``age_s``: since the newest one, None if
        there was none.
    :param lost: samples that were late, duplicates or too many.
    :param error_age_s: since the newest message that could not be used; None if there was none.
    :param mistyped: publishers are there, and all of them send another type: which and expected.
    :param qos: how the topics are subscribed.
    :param offset_s: the clock of its stamps less that of the node, where another clock is
        corrected or refused; else less that of the first input.
    :param stamps: the policy for its stamps, and how far its clock is off.
    :param incompatible: publishers whose QoS cannot be matched, with the policies.
    :param frame: what is missing to bring its data into the base frame, and how often.
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
    stamps: str = ''
    incompatible: str = ''
    frame: str = ''


def _message_class(source: SourceSpec, topic: str, kind: str) -> Any:
    try:
        return message_class(kind)
    except ImportError as error:
        raise ConfigError(
            f'{source.name} ({topic}): message type {kind!r} is not installed ({error}); install '
            'its package or choose another type') from error


def check_types(sources: Iterable[SourceSpec]) -> None:
    """Judge whether the message types of sources are installed.

    :raises ConfigError: for the first one that is not.
    """
    for source in sources:
        for topic, kind in source.topics:
            if kind:
                _message_class(source, topic, kind)


class Inputs:
    """Subscribes while it exists; call :meth:`poll` some 20 times a second, :meth:`close` to end.

    :param sources: what to subscribe to.
    :param on_window: called with each window that closes.
    :param on_jump: called when time jumped back.
    :param table: of the sources, if some are open; ``on_table`` is called with what is known of
        them later, and returns how windows are cut then.
    :param modalities: what the model is shown.
    :param frames: what brings data into the base frame; it is told of jumps, and closed.
    :raises ConfigError: for settings that do not fit.
    """

    def __init__(self, node: Node, config: NodeConfig, sources: Sequence[SourceSpec],
                 spec: WindowSpec, on_window: Callable[[Window], None],
                 on_jump: Callable[[], None], *, table: SourceTable | None = None,
                 on_table: Callable[[SourceTable], WindowSpec] | None = None,
                 modalities: Collection[Modality] = tuple(Modality),
                 frames: Frames | None = None) -> None:
        self._node = node
        self._config = config.inputs
        self.enabled = True
        self.warn = Once(node.get_logger().warning)
        self._frames, self._on_jump = frames, on_jump
        self._table = table or SourceTable(tuple(sources), rank=tuple(s.name for s in sources))
        self._on_table = on_table or (lambda table: spec)
        self.intake = Intake(sources, config.inputs, spec, on_window=on_window,
                             on_jump=self._jumped, on_event=self._tell, on_wrong=self.warn,
                             resolve=node.resolve_topic_name, later=True)
        clock = node.get_clock()
        self.clock = PausingClock(
            lambda: (clock.now().nanoseconds or None) if clock.ros_time_is_active else None)
        self._polled_s, self._stalled = time.monotonic(), False
        self._looked_s = time.monotonic()
        self._counted: dict[str, int] = {}
        self._subscriptions: dict[Feed, FollowingSubscription] = {}
        self._follow()
        self._resolver = Resolver(node, self._table, modalities, self.warn, self._resolved)

    def _follow(self) -> None:
        """Subscribe to the feeds that are new, and end the subscriptions of those that are gone.

        :raises ConfigError: for a message type that is not installed.
        """
        feeds = (*self.intake.feeds, *self.intake.camera_feeds)
        kinds = [(feed, _message_class(feed.source, feed.topic, feed.type)) for feed in feeds
                 if feed not in self._subscriptions]
        for feed in set(self._subscriptions) - set(feeds):
            self._subscriptions.pop(feed).close()
        for feed, kind in kinds:
            self._subscriptions[feed] = self._subscribe(feed, kind)

    def _resolved(self, source: SourceSpec) -> None:
        """Take in a source that is known now; the windows of the others go on."""
        before = self._table
        table = before.with_spec(source)
        try:
            self.intake.use(table.specs, self._on_table(table))
            self._follow()
        except ConfigError as error:
            self.warn(source.name, f'cannot be used: {error}')
            self.intake.use(before.specs, self._on_table(before))
            self._follow()
            return
        self._table = table

    def _jumped(self) -> None:
        if self._frames is not None:
            self._frames.clear()
        self._on_jump()

    def _subscribe(self, feed: Feed, kind: Any) -> FollowingSubscription:
        return FollowingSubscription(
            self._node, kind, feed.topic, lambda message: self._receive(feed, message), self.warn,
            choice=feed.source.reliability or self._config.reliability, may_latch=True,
            depth=QUEUE.get(feed.source.modality, 10),
            setting=(f'source.{feed.source.name}.reliability' if feed.source.reliability
                     else 'inputs.reliability'))

    def close(self) -> None:
        """End the subscriptions and forget the samples."""
        self._resolver.close()
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()
        self.intake.restart()
        if self._frames is not None:
            self._frames.close()

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
        self._resolver.poll()
        now_s = time.monotonic()
        stalled, self._polled_s = now_s - self._polled_s > _STALL_S, now_s
        self._stalled = stalled and not self._stalled
        if not self._stalled:
            self.intake.poll(self.clock())

    def _tell(self, event: Event) -> None:
        """Say what happened to time."""
        if event.kind in ('gap', 'agrees', 'elsewhen'):
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
            offset_s, stamps = self._clock(stream, counts.offset_ns)
            out.append(replace(
                self._health(stream, feeds, now_s, span_s), late=counts.late,
                lost=counts.dropped + counts.duplicates + sum(f.unsettled for f in feeds),
                offset_s=offset_s, stamps=stamps, foreign=counts.foreign))
        known = {health.stream for health in out}
        out += [self._health(name, [], now_s, span_s) for name in self._resolver.waiting()
                if name not in known]
        if self.intake.camera_feeds:
            out.append(self._health(CAMERA_INFO, self.intake.camera_feeds, now_s, span_s))
        return out

    def _clock(self, stream: str, offset_ns: int) -> tuple[float, str]:
        """Return how far a stream's clock is off, seconds, and what is done about its stamps."""
        source = next(s for s in self.intake.sources if s.name == stream)
        policy, clock = self.intake.stamping.policy(source), self.intake.stamping.clock(stream)
        if clock is None or not clock.differs:
            return offset_ns / SECOND_NS, policy
        known_s = clock.offset_ns / SECOND_NS
        text = f"{policy}: {known_s:+.3f} s from this node's clock"
        return offset_ns / SECOND_NS if policy == 'header' else known_s, text

    def _feeds_of(self, stream: str) -> list[Feed]:
        return [feed for feed in self.intake.feeds if feed.source.name == stream]

    def _health(self, stream: str, feeds: list[Feed], now_s: float, span_s: float) -> Health:
        """Return what the topics of one stream say about it."""
        received = sum(f.received for f in feeds)
        # a source whose type has changed counts from 0 again
        fresh, self._counted[stream] = max(received - self._counted.get(stream, 0), 0), received
        heard = [f.arrival_s for f in feeds if f.received]
        waits = self._resolver.waiting().get(stream)
        if not feeds:
            topic, why = waits or ('', '')
            publishers = self._node.count_publishers(topic) if topic else 0
            return Health(stream, (), publishers, 0, 0.0, None, 0, 0, 0, '', mistyped=why)
        last = max(feeds, key=lambda f: f.error_s)
        return Health(
            stream, tuple(f.topic for f in feeds if f.received),
            sum(self._node.count_publishers(f.topic) for f in feeds), received, fresh / span_s,
            now_s - max(heard) if heard else None, 0, 0, sum(f.errors for f in feeds),
            last.last_error, error_age_s=now_s - last.error_s if last.errors else None,
            mistyped='' if received else self._mistyped(feeds),
            qos='; '.join(dict.fromkeys(str(self._subscriptions[f].policy) for f in feeds
                                        if f.received or len(feeds) == 1)),
            incompatible='; '.join(f'{f.topic}: {self._subscriptions[f].incompatible}'
                                   for f in feeds if self._subscriptions[f].incompatible),
            frame=self._frame(feeds[0].source))

    def _frame(self, source: SourceSpec) -> str:
        """Return which transforms its clouds or normals were without, and how often."""
        if self._frames is None or source.modality not in (Modality.POINT, Modality.NORMAL):
            return ''
        placer = self._frames.placer
        return ', '.join(f'no transform from {frame} to {placer.base_frame}: {count} times'
                         for frame, count in placer.missing.items())

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
            elif feeds:
                parts.append(f'{stream}: no publisher on {feeds[0].topic}')
        parts += [f'{name}: {why or f"no publisher on {topic}"}'
                  for name, (topic, why) in self._resolver.waiting().items() if only in ('', name)]
        return '; '.join(parts)
