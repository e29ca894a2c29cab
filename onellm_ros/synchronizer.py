"""Event-time windows over stamped samples: which samples of which streams belong together.

This module owns closing windows, and counting what came late, twice or in excess. It is pure
Python: it knows nothing of ROS or torch. Which stamps can be believed stands in ``jumps.py``; what
a model takes out of a window is the business of ``choose.py``.

A window is [end - length, end); ends are multiples of the period in absolute event time, so that a
live run, a replay and a bag make the same windows. It closes as soon as

- the watermark has reached its end: the smallest of the newest stamps of the required streams that
  are alive (of an audio chunk: its end), less the allowed lateness; of a stream with a slow,
  steady rate: the stamp that its next sample will have; or
- the deadline has passed: by the wall clock every one of these streams should have reached the end
  ``deadline_ns`` ago.

Its members depend on stamps alone. Whatever order the samples arrive in, as long as none is later
than the lateness, the windows are the same. A window without any sample is never emitted.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from onellm_ros.jumps import ClockWatch, judge
from onellm_ros.modality import Sample
from onellm_ros.windows import (
    NEVER,
    Event,
    StreamBuffer,
    StreamSpec,
    StreamStats,
    Window,
    WindowSpec,
)

__all__ = ['Event', 'StreamSpec', 'StreamStats', 'Synchronizer', 'Window', 'WindowSpec']


class Synchronizer(ClockWatch):
    """Collects samples and gives back windows as they close.

    :param spec: streams and times.

    ``now_ns`` is a steady wall clock; a replay passes the time at which each message was recorded.
    Not thread-safe: one thread calls it.
    """

    def __init__(self, spec: WindowSpec) -> None:
        super().__init__(spec)
        self._streams = {s.name: StreamBuffer(s, rank, spec)
                         for rank, s in enumerate(spec.streams)}
        self._all = list(self._streams.values())
        self._required = [s for s in self._all if s.spec.required]
        self._period = spec.period_ns
        self._lateness = spec.lateness_ns
        self._slow = min((spec.deadline_ns - spec.lateness_ns) // 2, spec.backward_ns)
        self.restarts = 0
        self._retaking = False  # samples that were in doubt
        self._stale: tuple[int, int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        for stream in self._all:
            stream.clear()
        self._closed_end = -NEVER
        self._next_end = NEVER
        self._begin_clock()
        self._slowest: StreamBuffer | None = None  # what windows waited for when last asked

    def extend(self, spec: WindowSpec) -> None:
        """Take over a spec with further streams; what is held of the others stays.

        Streams that the spec no longer has are forgotten.

        :param spec: with the same times as before.
        :raises ValueError: if its times are others.
        """
        if replace(spec, streams=()) != replace(self.spec, streams=()):
            raise ValueError('extend: expected the same times, found others')
        before = self._streams
        self.spec, self._streams = spec, {}
        for rank, stream in enumerate(spec.streams):
            own = before.get(stream.name)
            if own is None or own.spec.modality != stream.modality:
                own = StreamBuffer(stream, rank, spec)
            own.take_spec(stream, rank)
            self._streams[stream.name] = own
        self._all = list(self._streams.values())
        self._required = [s for s in self._all if s.spec.required]
        if self._reference not in self._all:
            self._reference = None
        self._slowest = None
        self._next_end = self._first_end() if self._next_end != NEVER else NEVER

    # -- what comes in ------------------------------------------------------------------------

    def add(self, stream: str, sample: Sample, now_ns: int) -> list[Window]:
        """Take one sample and return the windows that close by it.

        :param stream: name of a stream of the spec.
        :param now_ns: wall clock, steady, integer nanoseconds.
        :returns: closed windows, oldest first; mostly none.
        :raises KeyError: for an unknown stream.
        """
        own = self._streams[stream]
        stamp = sample.stamp_ns
        mark = stamp
        if sample.rate_hz > 0:
            mark += round(len(sample.data) * 1_000_000_000 / sample.rate_hz)
        own.received += 1
        if self._stale is not None and self._is_stale(own, stamp, now_ns):
            return []
        newest = own.newest
        if newest is not None:
            step = stamp - newest
            if step > self._slow or step < -self._backward or own.steps or own.suspects:
                if own.suspects or not -self._backward <= step <= self._backward:
                    windows = self._doubt(own, sample, mark - now_ns, now_ns)
                    if windows is not None:
                        return windows
                if step > 0:
                    own.learn(step)
        reference = self._reference
        if reference is own:
            self._reference_offset = mark - now_ns
        elif reference is None or (own.rank < reference.rank and not own.foreign):
            self._lead(own, mark - now_ns, now_ns)
        else:
            offset = mark - now_ns - self._reference_offset
            if (offset > self._foreign or offset < -self._foreign or own.foreign
                    or own.differs_since is not None):
                if self._is_foreign(own, offset, stamp, now_ns):
                    return []
        if newest is None or stamp > newest:
            own.newest, own.arrival = stamp, now_ns
        if mark > own.mark:
            own.mark = mark
        if not self._insert(own, stamp, sample):
            return []
        if mark - self._lateness >= self._next_end:
            return self._close(now_ns)
        return []

    def _insert(self, own: StreamBuffer, stamp: int, sample: Sample) -> bool:
        """Put a sample into its place; False if it is not kept."""
        closed_end = self._closed_end
        if stamp < closed_end and stamp < closed_end + self._period - own.span_ns:
            own.late += 1
            return False
        stamps = own.stamps
        if not stamps or stamp > stamps[-1]:
            stamps.append(stamp)
            own.samples.append(sample)
        else:
            at = bisect_left(stamps, stamp)
            if stamps[at] == stamp:
                own.duplicates += 1
                self._compare(own, own.samples[at], sample)
                return False
            stamps.insert(at, stamp)
            own.samples.insert(at, sample)
        if stamp < closed_end:
            own.late += 1
        if len(stamps) > own.spec.capacity:
            self._overflow(own)
            if stamp < stamps[0]:
                return False
        if stamp < self._next_end - self._period:
            end = max((stamp // self._period + 1) * self._period, closed_end + self._period)
            if stamp >= end - self.spec.length_ns and end < self._next_end:
                self._next_end = end
        return True

    def _overflow(self, own: StreamBuffer) -> None:
        """Drop the oldest sample of a full buffer."""
        oldest = own.stamps[0]
        del own.stamps[0], own.samples[0]
        own.dropped += 1
        if oldest >= self._next_end - self.spec.length_ns and own.stamps[0] >= self._next_end:
            self._next_end = self._first_end()  # that was its last sample of the next window

    def poll(self, now_ns: int) -> list[Window]:
        """Return the windows that close because time passed (call it some 20 times a second)."""
        return self._close(now_ns) if self._next_end != NEVER else []

    def flush(self) -> list[Window]:
        """Close every window that holds a sample (the end of a bag)."""
        for stream in self._all:
            stream.stray()
        out = []
        while self._next_end != NEVER:
            out.append(self._emit(self._next_end))
        return out

    # -- closing ------------------------------------------------------------------------------

    def _waiting_for(self) -> list[StreamBuffer]:
        """Return the required streams; without any, those that have spoken."""
        if self._required:
            return [s for s in self._required if not s.foreign]
        return [s for s in self._all if s.newest is not None and not s.foreign]

    def _limit(self, now_ns: int) -> int:
        """Return the event time up to which windows may close: the watermark or the deadline."""
        oldest_alive = now_ns - self.spec.silence_ns
        if any(s.differs_since is not None and not s.foreign and s.differs_since >= oldest_alive
               for s in self._all):
            return -NEVER  # which clock is right will show
        waiting = self._waiting_for()
        awaited = [s for s in waiting if s.is_alive(oldest_alive)]
        self._slowest = None
        some = (awaited or [s for s in self._all if s.is_alive(oldest_alive)]
                or [s for s in self._all if s.is_alive(-NEVER)])
        slowest, promised, reached, offset = some[0], NEVER, NEVER, NEVER
        for s in some:
            mark = s.mark
            if mark < reached:
                reached = mark
            if mark + s.ahead < promised:
                slowest, promised = s, mark + s.ahead
            if mark - s.arrival < offset:  # type: ignore[operator]
                offset = mark - s.arrival  # type: ignore[operator]
        if awaited:
            self._slowest = slowest
        deadline = offset + now_ns - self.spec.deadline_ns
        if (self._began or 0) >= oldest_alive and any(s.newest is None for s in waiting):
            return deadline
        reached -= self._lateness
        if promised > reached:
            # when slow ones will speak is known; that it is as late as that, quick ones tell
            quick = [s.mark - self._lateness for s in self._all
                     if s.ahead <= 0 and s.is_alive(oldest_alive)]
            if quick:
                reached = max(reached, min(promised, *quick))
        return max(deadline, reached)

    def _is_held(self, now_ns: int) -> bool:
        """Return whether the slowest stream alone still keeps ``_limit`` before the next end."""
        s, end = self._slowest, self._next_end
        return (s is not None and s.mark + s.ahead < end
                and s.is_alive(now_ns - self.spec.silence_ns)
                and s.mark - (s.arrival or 0) + now_ns - self.spec.deadline_ns < end)

    def _close(self, now_ns: int) -> list[Window]:
        if self._is_held(now_ns):
            return []
        limit = self._limit(now_ns)
        out = []
        while self._next_end <= limit:
            out.append(self._emit(self._next_end))
        return out

    def _emit(self, end: int) -> Window:
        start = end - self.spec.length_ns
        members: dict[str, tuple[Sample, ...]] = {}
        late: dict[str, int] = {}
        dropped: dict[str, int] = {}
        duplicates: dict[str, int] = {}
        for s in self._all:
            low = bisect_left(s.stamps, end - s.span_ns)
            high = bisect_left(s.stamps, end, low)
            if high > low:
                members[s.name] = tuple(s.samples[low:high])
            counts = (s.late, s.dropped, s.duplicates)
            if counts != s.told:
                for out, count, told in zip((late, dropped, duplicates), counts, s.told):
                    if count != told:
                        out[s.name] = count - told
                s.told = counts
        silent = tuple(s.name for s in self._waiting_for()
                       if s.mark + s.due < end)
        if self._closed_end > -NEVER and start - self._closed_end > self.spec.gap_ns:
            gap_s = (start - self._closed_end) / 1e9
            self._event('gap', '', start, f'no sample at all for {gap_s:.1f} s')
        self._check_offsets(end)
        self._closed_end = end
        for s in self._all:
            s.trim(min(end + self._period - s.span_ns, end), end)
        self._next_end = self._first_end()
        return Window(start, end, end // self._period, members, late, dropped, duplicates,
                      'deadline' if silent else 'watermark', silent)

    def _first_end(self) -> int:
        """Return the end of the first open window that holds a sample."""
        length, period = self.spec.length_ns, self._period
        begin = self._closed_end + period - length
        while True:
            first = NEVER
            for s in self._all:
                at = bisect_left(s.stamps, begin)
                if at < len(s.stamps):
                    first = min(first, s.stamps[at])
            if first == NEVER:
                return NEVER
            end = max((first // period + 1) * period, self._closed_end + period)
            if first >= end - length:
                return end
            begin = end - length  # windows shorter than the period leave samples out

    # -- time that misbehaves -----------------------------------------------------------------

    def _doubt(self, own: StreamBuffer, sample: Sample, offset: int, now_ns: int
               ) -> list[Window] | None:
        """Look at a stamp far from those before it; None: the sample is taken as any other."""
        if self._retaking:
            return None
        verdict, streams = judge(own, sample, offset, now_ns, self._all)
        if verdict == 'held':
            return []
        if verdict == 'fits':
            if own.suspects:
                old, arrival = own.suspects[-1]
                far = old.stamp_ns - arrival - (sample.stamp_ns - now_ns)
                own.stray()
                self._turn(own, far, sample.stamp_ns, now_ns)
            return None
        if verdict == 'alone':
            self._leave_out(own, offset, now_ns)
            return []
        again = sorted(((arrival, s.rank, s, old) for s in streams for old, arrival in s.suspects),
                       key=lambda item: item[:2])
        stale = None
        if verdict == 'jump' and sample.stamp_ns < (own.newest or 0):
            newest = max(s.newest for s in self._all if s.newest is not None)
            stale = (now_ns + self.spec.deadline_ns, newest, sample.stamp_ns)
            back_s = (newest - sample.stamp_ns) / 1e9
            self._event('backward', own.name, sample.stamp_ns,
                        f'time jumped back by {back_s:.3f} s on {own.name}: what was held is '
                        'dropped, windows start anew')
            for s in self._all:
                s.dropped += len(s.stamps)
            self.restarts += 1
            self._begin()
            self._stale = None
        elif verdict == 'back':
            self._turn(own, own.offset - offset, sample.stamp_ns, now_ns)
            self._empty(own)
        for s in streams:
            s.newest, s.suspects = None, []
        self._retaking = True
        out = []
        for arrival, _, s, old in again:
            s.received -= 1
            out += self.add(s.name, old, arrival)
        self._retaking = False
        self._stale = stale or self._stale
        return out

    def _empty(self, own: StreamBuffer) -> None:
        """Drop what is held of one stream."""
        super()._empty(own)
        self._next_end = self._first_end() if self._next_end != NEVER else NEVER

    def _is_stale(self, own: StreamBuffer, stamp: int, now_ns: int) -> bool:
        """Recognise samples from before a jump that were still on their way."""
        until, old, new = self._stale  # type: ignore[misc]
        if now_ns > until:
            self._stale = None
            return False
        if abs(stamp - old) >= abs(stamp - new):
            return False
        own.dropped += 1
        return True

    def stats(self) -> dict[str, StreamStats]:
        """Return the counts of every stream."""
        return {s.name: StreamStats(
            s.received, s.late, s.dropped, s.duplicates, len(s.stamps), s.newest, s.arrival,
            self._offset(s), s.foreign, s.ahead if s.ahead > 0 else 0) for s in self._all}
