"""Messages of a recording through the node's intake, in the order of recording: windows come out.

The clock is the recording's: a message is received when it was recorded, and deadlines are looked
at as often as the node does. A part of a recording gives the windows of the whole: it is read from
a while before, so that what is held then is what would be held; `Handover` tells whether that is
so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import heapq
from typing import Any

from onellm_ros.perception.intake import Intake
from onellm_ros.perception.pausing import PausingClock
from onellm_ros.replay.bags import Bag, BagMessage
from onellm_ros.replay.topics import TopicPlan
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.windows import Event, Window, WindowSpec

POLL_NS = 50_000_000            # as the node's timer
_POLLED_NS = 60_000_000_000     # of a pause of all topics; by then every deadline has passed
Handover = tuple[Any, ...]      # what is held at a moment; equal: the same windows follow


@dataclass(frozen=True)
class Segment:
    """A part of a recording, by the time of recording; integer nanoseconds.

    :param begin_ns: a multiple of ``POLL_NS``; windows that close from here on belong to it;
        None: from the begin.
    :param end_ns: and before here; None: to the end of the recording.
    :param read_ns: messages are read from here; None: from the begin.
    :param before: topic -> stamp of its last message before ``read_ns``, which is read, too (the
        calibration of a camera, a sensor that has fallen silent).
    """

    begin_ns: int | None = None
    end_ns: int | None = None
    read_ns: int | None = None
    before: Mapping[str, int] = field(default_factory=dict)


def settle_ns(spec: WindowSpec) -> int:
    """Return how long before a part one must begin to read, so that its windows are the whole's.

    As long as samples are held, and streams are waited for.
    """
    held = max((s.lookback_ns for s in spec.streams), default=0)
    return max(held, spec.length_ns) + 2 * (spec.length_ns + spec.period_ns) \
        + 2 * spec.silence_ns + spec.deadline_ns + 5_000_000_000


def last_before(bag: Bag, topics: Sequence[str], moments: Sequence[int]
                ) -> list[dict[str, int]]:
    """Return, for each moment (ascending), the stamp of each topic's last message before it."""
    out: list[dict[str, int]] = []
    newest: dict[str, int] = {}
    if moments:
        for raw in bag.raw_messages(topics, None, moments[-1]):
            while len(out) < len(moments) and raw.stamp_ns >= moments[len(out)]:
                out.append(dict(newest))
            newest[raw.topic] = max(raw.stamp_ns, newest.get(raw.topic, 0))
    return out + [dict(newest) for _ in range(len(moments) - len(out))]


def _messages(bag: Bag, plan: TopicPlan, part: Segment) -> Iterable[BagMessage]:
    """Return what is read for a part, in the order of recording."""
    topics = plan.topics()
    if part.read_ns is None:
        return bag.messages(topics, None, part.end_ns)
    streams: list[Iterable[BagMessage]] = [bag.messages(topics, part.read_ns, part.end_ns)]
    whole = [topic for topic in plan.whole if topic in topics]
    if whole:
        streams.append(bag.messages(whole, None, part.read_ns))
    for topic, stamp in part.before.items():
        if topic not in whole:
            streams.append(list(bag.messages([topic], stamp, stamp + 1))[-1:])
    return heapq.merge(*streams, key=lambda m: m.stamp_ns)


class Stream:
    """The windows of one part of a recording; iterate once over :meth:`windows`.

    Attributes: ``now_ns`` (time of recording that was reached), ``begins`` and ``ends`` (handovers
    to it and from it; None: it has no such border).

    :param on_wrong: (topic, text) for a message that cannot be used.
    :param on_event: called with what happens to time.
    :param on_frames: called with each message of transforms.
    :raises ConfigError: for settings that cannot be.
    """

    def __init__(self, bag: Bag, plan: TopicPlan, spec: WindowSpec, part: Segment, *,
                 on_wrong: Callable[[str, str], None],
                 on_event: Callable[[Event], None] = lambda event: None,
                 on_frames: Callable[[Any], None] = lambda message: None) -> None:
        self._bag, self._plan, self._part = bag, plan, part
        self._closed: list[Window] = []
        self._on_wrong, self._on_event, self._on_frames = on_wrong, on_event, on_frames
        self._intake = Intake(plan.sources, plan.inputs, spec, on_window=self._closed.append,
                              on_jump=lambda: None, on_event=self._event, on_wrong=self._wrong)
        self._feeds: dict[str, list[Any]] = {}
        for feed in (*self._intake.feeds, *self._intake.camera_feeds):
            self._feeds.setdefault(feed.topic, []).append(feed)
        self.now_ns = 0
        self._heard_ns: int | None = None       # the newest message
        self._clock_ns: int | None = None       # simulated time, if the node went by that
        self._deadline = PausingClock(lambda: self._clock_ns, lambda: self.now_ns)
        self._last: tuple[Any, ...] = ()
        self.begins: Handover | None = None
        self.ends: Handover | None = None

    def _mine(self) -> bool:
        return self._part.begin_ns is None or self.begins is not None

    def _event(self, event: Event) -> None:
        if self._mine():
            self._on_event(event)

    def _wrong(self, topic: str, text: str) -> None:
        if self._mine():
            self._on_wrong(topic, text)

    def windows(self) -> Iterator[tuple[Window, int]]:
        """Yield each window that belongs to the part and when it closed, by time of recording."""
        for message in _messages(self._bag, self._plan, self._part):
            stamp = max(self.now_ns, message.stamp_ns)
            yield from self._deadlines(stamp)
            self._reach(stamp)
            if self._heard_ns is not None:
                self._intake.poll(self._deadline())
            self._receive(message)
            yield from self._take()
        if self._part.end_ns is None:
            self._cross()
            self._intake.flush()
            yield from self._take()
        else:
            yield from self._deadlines(self._part.end_ns - 1)
            self._cross()
            self.ends = self._handover()

    def _deadlines(self, until_ns: int) -> Iterator[tuple[Window, int]]:
        """Look at the deadlines as often as the node does, up to a moment."""
        if self._heard_ns is None:
            return
        due = (self.now_ns // POLL_NS + 1) * POLL_NS
        while due <= min(until_ns, self._heard_ns + _POLLED_NS):
            self._reach(due)
            self._intake.poll(self._deadline())
            yield from self._take()
            due += POLL_NS

    def _reach(self, now_ns: int) -> None:
        """Make it later; past the part's begin, what has closed before is not its own."""
        if not self._mine() and self._part.begin_ns is not None and now_ns >= self._part.begin_ns:
            self._cross()
        self.now_ns = max(self.now_ns, now_ns)

    def _cross(self) -> None:
        if not self._mine():
            self.begins = self._handover()

    def _receive(self, message: BagMessage) -> None:
        self._heard_ns = self.now_ns
        if message.topic == self._plan.clock:
            self._clock_ns = stamp_ns(message.message.clock)
            return
        if message.topic in self._plan.frames:
            self._on_frames(message.message)
            return
        # before simulated time has come, the node does not know when it is
        receive_ns = (self._clock_ns or 0) if self._plan.clock else self.now_ns
        for feed in self._feeds.get(message.topic, ()):
            self._intake.receive(feed, message.message, receive_ns, self._deadline())

    def _take(self) -> Iterator[tuple[Window, int]]:
        """Yield what has closed."""
        closed, self._closed[:] = list(self._closed), []
        for window in closed:
            self._last = (window.end_ns, window.closed_by)
            if self._mine():
                yield window, self.now_ns

    def _handover(self) -> Handover:
        stats = self._intake.synchronizer.stats()
        # the rate of a stream that has ended is of no use
        return (self._last, *((name, s.newest_ns, s.arrival_ns, s.held, s.offset_ns, s.foreign,
                               s.held and s.period_ns) for name, s in stats.items()))
