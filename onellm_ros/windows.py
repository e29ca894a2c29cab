"""The records of event-time windows: what is asked for, what comes out, what went wrong.

This module owns the plain data that ``synchronizer.py`` works with, and the buffer of a stream
with what is known of its rate; it is pure Python.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from onellm_ros.modality import Modality, Sample

NEVER = 1 << 80  # later than any stamp
_SLOW_NS = 50_000_000       # a stream with a shorter period is never slow
_STEPS = 4                  # newest steps from which a slow rate is known
_SLACK_NS = 100_000_000     # how much sooner or later than those the next may be, at most
_TURNS = 3                  # changes of clock, each within this time of the one before,
_TURNS_NS = 10_000_000_000  # that are a fault of their own


@dataclass(frozen=True)
class StreamSpec:
    """One input of the windows.

    :param required: the watermark waits for this stream. Where no stream is required, every stream
        that has spoken is.
    :param lookback_ns: how far before the window's end its members may reach, if that is further
        than the window's length (an IMU's last 2 s, a microphone's last 10 s).
    :param capacity: samples held at most; the oldest are dropped, and counted.
    :param thin_ns: keep one sample for each span of this length once its first window has closed
        (pictures that only serve the lookback); 0 keeps all.
    """

    name: str
    modality: Modality
    required: bool = False
    lookback_ns: int = 0
    capacity: int = 1024
    thin_ns: int = 0


@dataclass(frozen=True)
class WindowSpec:
    """How windows are cut. All times are integer nanoseconds.

    :param streams: in order of rank: the first one that speaks is the reference for the clock.
        None yet is possible: ``Synchronizer.extend`` adds them.
    :param deadline_ns: wall-clock time that a window waits past its end for a late stream.
    :param silence_ns: a stream that has said nothing for so long does not hold windows back; one
        with a steady rate may be as slow as it is.
    :param backward_ns: a stamp further than this from those of its stream is doubted: a stray, a
        jump of time, or another clock, see ``jumps.py``.
    :param gap_ns: a span without any sample that is longer than this is reported.
    :param offset_ns: streams whose clocks differ by more than this are reported.
    :param foreign_ns: streams whose clocks differ by more than this from the reference, for
        ``silence_ns``, are left out until the clocks agree.
    """

    streams: tuple[StreamSpec, ...]
    length_ns: int = 1_000_000_000
    period_ns: int = 1_000_000_000
    lateness_ns: int = 100_000_000
    deadline_ns: int = 500_000_000
    silence_ns: int = 2_000_000_000
    backward_ns: int = 1_000_000_000
    gap_ns: int = 10_000_000_000
    offset_ns: int = 1_000_000_000
    foreign_ns: int = 30_000_000_000

    def __post_init__(self) -> None:
        """Check the values.

        :raises ValueError: saying what was found and what was expected.
        """
        names = [s.name for s in self.streams]
        if len(set(names)) != len(names):
            raise ValueError(f'streams: expected different names, found {names}')
        for name in ('length_ns', 'period_ns', 'deadline_ns', 'silence_ns', 'foreign_ns'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name}: expected more than 0, found {getattr(self, name)}')
        if not 0 <= self.lateness_ns <= min(self.deadline_ns, self.backward_ns):
            raise ValueError(
                f'lateness_ns: expected 0 to the smaller of deadline_ns {self.deadline_ns} and '
                f'backward_ns {self.backward_ns}, found {self.lateness_ns}')
        for stream in self.streams:
            if stream.capacity < 1 or stream.lookback_ns < 0 or stream.thin_ns < 0:
                raise ValueError(f'stream {stream.name!r}: expected capacity >= 1, '
                                 f'lookback_ns >= 0 and thin_ns >= 0, found {stream}')


@dataclass(frozen=True)
class Event:
    """Something about time that a user should know.

    :param kind: ``backward`` (time jumped back, everything was emptied), ``gap`` (a long span
        without any sample), ``offset`` (a stream's clock differs), ``foreign`` (so much that it is
        left out, or it alone jumped), ``agrees`` (it no longer differs), ``mixed`` (the stamps of
        a stream go to and fro between clocks; told once) or ``clash`` (different samples with one
        stamp; told once). The intake adds ``clock`` (a stream's clock is another one than the
        node's) and ``elsewhen`` (so are those of all).
    """

    kind: str
    stream: str
    stamp_ns: int
    text: str


@dataclass(frozen=True, eq=False)
class Window:
    """The samples of one window.

    :param index: ``end_ns`` divided by the period.
    :param members: samples of each stream that has any, oldest first.
    :param late: samples for each stream, since the previous window, that came after their window
        had closed; ``dropped``: that the buffer could not hold or that belonged to another clock;
        ``duplicates``: whose stamp was there already. Only streams with any.
    :param closed_by: ``deadline`` if streams were missing, else ``watermark``.
    :param silent: required streams that had not passed the end; of one with a slow, steady rate:
        that owe a sample by that rate.
    """

    start_ns: int
    end_ns: int
    index: int
    members: Mapping[str, tuple[Sample, ...]]
    late: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    closed_by: str = 'watermark'
    silent: tuple[str, ...] = ()

    def age_ns(self, stream: str) -> int:
        """Return how old the newest member of ``stream`` is at the window's end.

        :raises KeyError: if the window holds nothing of it.
        """
        return self.end_ns - self.members[stream][-1].stamp_ns

    def skew_ns(self) -> int:
        """Return the distance between the newest members of the streams that differ most."""
        newest = [samples[-1].stamp_ns for samples in self.members.values()]
        return max(newest) - min(newest)


@dataclass(frozen=True)
class StreamStats:
    """Counts of one stream since the synchronizer was made; ``held`` is what it holds now.

    :param offset_ns: this stream's clock less the reference's (latency included).
    :param period_ns: of a stream with a slow, steady rate; 0: fast, or not known.
    :param arrival_ns: wall clock when the newest sample came; None: it has never spoken.
    """

    received: int
    late: int
    dropped: int
    duplicates: int
    held: int
    newest_ns: int | None
    arrival_ns: int | None
    offset_ns: int
    foreign: bool
    period_ns: int = 0


class StreamBuffer:
    """The buffer and the counts of one stream.

    :param times: the times of its windows.
    """

    __slots__ = ('spec', 'name', 'rank', 'times', 'span_ns', 'stamps', 'samples', 'newest', 'mark',
                 'arrival', 'suspects', 'seen', 'received', 'late', 'dropped', 'duplicates',
                 'told', 'differs_since', 'foreign', 'foreign_ns', 'tolerance_ns', 'offset_since',
                 'offset_told', 'steps', 'ahead', 'due', 'grace', 'turns', 'turned', 'mixed_told',
                 'compared')

    def __init__(self, spec: StreamSpec, rank: int, times: WindowSpec) -> None:
        self.times = times
        self.take_spec(spec, rank)
        self.received = self.late = self.dropped = self.duplicates = 0
        self.told = (0, 0, 0)
        self.arrival: int | None = None
        self.foreign = self.offset_told = self.mixed_told = False
        self.foreign_ns = 0  # how far its clock was off when last heard, while it is left out
        self.tolerance_ns = times.foreign_ns  # how near it must come to be taken in again
        self.turns = self.turned = 0  # how often in a row its stamps changed clocks; when last
        self.compared = 0  # samples with equal stamps
        self.steps: list[int] = []
        self._forget_rate()
        self.clear()

    def take_spec(self, spec: StreamSpec, rank: int) -> None:
        """Take over what is asked of it; what it holds stays."""
        self.spec, self.name, self.rank = spec, spec.name, rank
        self.span_ns = max(self.times.length_ns, spec.lookback_ns)

    def clear(self) -> None:
        """Forget the samples; the counts and the rate stay."""
        self.stamps: list[int] = []
        self.samples: list[Sample] = []
        self.newest: int | None = None
        self.mark = -NEVER  # the newest sample's end: what comes next has no older stamp
        self.suspects: list[tuple[Sample, int]] = []  # with stamps in doubt; and their arrivals
        self.seen: dict[str, tuple[int, int, int]] = {}  # the others then: offset, mark, received
        self.differs_since: int | None = None
        self.offset_since: int | None = None    # end of the window in which it was seen first

    @property
    def offset(self) -> int:
        """Return its clock less the wall clock, as last heard."""
        return self.mark - (self.arrival or 0)

    def is_alive(self, since_ns: int) -> bool:
        """Return whether it spoke at or after ``since_ns`` (wall clock), and is not left out."""
        return (self.newest is not None and self.arrival is not None
                and self.arrival + self.grace >= since_ns and not self.foreign)

    def speaks(self, since_ns: int) -> bool:
        """Return the same, samples in doubt included."""
        return self.is_alive(since_ns) or (
            bool(self.suspects) and self.suspects[-1][1] + self.grace >= since_ns)

    def learn(self, step_ns: int) -> None:
        """Take the step from the newest stamp to the next: a slow, steady rate is relied on."""
        times, steps = self.times, self.steps
        if 2 * step_ns <= times.deadline_ns - times.lateness_ns or step_ns < _SLOW_NS:
            steps.clear()  # windows can wait for its next sample
        elif steps and step_ns > 4 * max(steps):
            steps.clear()  # a pause
        else:
            steps.append(step_ns)
            del steps[:-_STEPS]
        if len(steps) < 2 or 2 * max(steps) > 5 * min(steps):
            self._forget_rate()
            return
        slack = min(min(steps) // 10, _SLACK_NS)
        self.ahead, self.due = min(steps) - slack, max(steps) + slack
        self.grace = max(self.due + times.deadline_ns - times.silence_ns, 0)

    def _forget_rate(self) -> None:
        # the next stamp is expected no sooner than ``ahead`` after the mark, no later than ``due``
        self.ahead = self.due = -self.times.lateness_ns
        self.grace = 0  # how long it may be silent beyond ``silence_ns``

    def turn(self, now_ns: int) -> bool:
        """Count a change of its clock; return whether it goes to and fro."""
        self.turns = self.turns + 1 if now_ns - self.turned < _TURNS_NS else 1
        self.turned = now_ns
        return self.turns >= _TURNS

    def stray(self) -> int:
        """Forget the samples in doubt, count them and return how many there were."""
        count = len(self.suspects)
        if count and self.newest is not None:
            if self.suspects[-1][0].stamp_ns < self.newest:
                self.late += count
            else:
                self.dropped += count
        self.suspects = []
        return count

    def trim(self, before_ns: int, closed_ns: int) -> None:
        """Forget samples older than ``before_ns`` and thin out those older than ``closed_ns``."""
        cut = bisect_left(self.stamps, before_ns)
        del self.stamps[:cut]
        del self.samples[:cut]
        thin_ns = self.spec.thin_ns
        if not thin_ns:
            return
        hi = bisect_left(self.stamps, closed_ns)
        keep = [i for i in range(hi)
                if i == 0 or self.stamps[i] // thin_ns != self.stamps[i - 1] // thin_ns]
        self.samples[:hi] = [self.samples[i] for i in keep]
        self.stamps[:hi] = [self.stamps[i] for i in keep]
