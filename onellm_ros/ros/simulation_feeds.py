"""When the simulated sensors speak: feeds with a rate each, and the loops that serve them.

A :class:`Feed` makes the messages of one instant; they are made before that instant and published
at it, so that stamps are true and not late. A feed that may skip leaves instants out when the CPU
cannot keep up; the others (IMU, microphone) never do. Time is seconds of the simulated world,
from 0. No ROS here: what publishing means is the business of the functions that come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import math
import threading
import time

LATE_S = 0.5               # a frame that is ready later than this after its time is left out
_ESTIMATE_DECAY, _LONGEST_ESTIMATE_S = 0.5, 5.0
_LONGEST_WAIT_S = 0.2


@dataclass(eq=False)
class Feed:
    """One sensor.

    :param rate_hz: instants a second. :param phase_s: shift of all instants.
    :param prepare: makes the messages of an instant and returns the function that sends them.
    :param may_skip: leave instants out when they cannot be ready in time.
    """

    name: str
    rate_hz: float
    prepare: Callable[[float], Callable[[], None]]
    phase_s: float = 0.0
    may_skip: bool = False
    sent: int = 0
    skipped: int = 0
    _number: int = field(default=0, repr=False)
    _cost_s: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        """Begin at ``phase_s``, or if that is below 0 with the first instant that is not."""
        self._number = max(0, math.ceil(-self.phase_s * self.rate_hz - 1e-9))

    @property
    def next_s(self) -> float:
        """The next instant."""
        return self._number / self.rate_hz + self.phase_s

    def choose(self, now_s: float) -> float:
        """Skip to the first instant that can be ready in time, and return it.

        The last instant of each whole second comes before others: windows end there.
        """
        if self.may_skip:
            ready_s = now_s + self._cost_s
            first = math.ceil((ready_s - self.phase_s) * self.rate_hz - 1e-6)
            if first > self._number:
                at_s = first / self.rate_hz + self.phase_s
                last = math.floor((math.floor(at_s) + 1 - self.phase_s) * self.rate_hz - 1e-6)
                if (last / self.rate_hz + self.phase_s) < at_s + self._cost_s:
                    first = max(first, last)
                self.skipped += first - self._number
                self._number = first
        return self.next_s

    def done(self, cost_s: float, sent: bool) -> None:
        """Go on to the next instant.

        :param cost_s: how long the messages took to make.
        """
        self._cost_s = min(max(cost_s * 1.1, self._cost_s * _ESTIMATE_DECAY),
                           _LONGEST_ESTIMATE_S)
        self.sent += sent
        self.skipped += not sent
        self._number += 1


def run_live(feeds: Sequence[Feed], now_s: Callable[[], float], stop: threading.Event) -> None:
    """Serve feeds at their times until stopped, in order of time.

    :param now_s: the world's time now.
    """
    while not stop.is_set():
        feed = min(feeds, key=lambda f: f.choose(now_s()))
        at_s, begin_s = feed.next_s, time.perf_counter()
        send = feed.prepare(at_s)
        cost_s = time.perf_counter() - begin_s
        while (left_s := at_s - now_s()) > 0:
            if stop.wait(min(left_s, _LONGEST_WAIT_S)):
                return
        in_time = not feed.may_skip or left_s > -LATE_S
        if in_time:
            send()
        feed.done(cost_s, in_time)


def run_at_once(feeds: Sequence[Feed], tell: Callable[[float], None], stop: threading.Event
                ) -> None:
    """Serve feeds as fast as they can be made until stopped, nothing skipped.

    :param tell: called with the world's time before the messages of that time are sent.
    """
    while not stop.is_set():
        feed = min(feeds, key=lambda f: f.next_s)
        at_s = feed.next_s
        send = feed.prepare(at_s)
        tell(at_s)
        send()
        feed.done(0.0, True)
