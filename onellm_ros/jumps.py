"""Stamps that misbehave: strays, jumps of time, and streams whose clock is not that of the others.

This module owns judging such stamps, and telling of them; ``synchronizer.py`` closes windows on
what is left. It knows nothing of ROS or torch either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.windows import Event, StreamBuffer, WindowSpec

_EVENTS_KEPT = 64
_COMPARED = 16      # samples with equal stamps that are looked at, for each stream


class ClockWatch:
    """The clocks of some streams: which one is the reference, who is off, what was said of it.

    :param spec: streams and times.
    """

    def __init__(self, spec: WindowSpec) -> None:
        self.spec = spec
        self._all: list[StreamBuffer] = []
        self._backward = spec.backward_ns
        self._foreign = spec.foreign_ns
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._begin_clock()

    def _begin_clock(self) -> None:
        self._began: int | None = None  # wall clock of the first sample
        self._reference: StreamBuffer | None = None
        self._reference_offset = 0  # its newest stamp less that stamp's arrival

    def _empty(self, own: StreamBuffer) -> None:
        """Drop what is held of one stream."""
        own.dropped += len(own.stamps)
        own.clear()

    def _event(self, kind: str, stream: str, stamp_ns: int, text: str) -> None:
        self._events.append(Event(kind, stream, stamp_ns, text))

    def take_events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def _lead(self, own: StreamBuffer, offset: int, now_ns: int) -> None:
        """Make ``own`` the reference of the clock."""
        self._reference, self._reference_offset = own, offset
        own.foreign, own.differs_since = False, None
        if self._began is None:
            self._began = now_ns

    def _is_foreign(self, own: StreamBuffer, offset: int, stamp: int, now_ns: int) -> bool:
        """Decide whether a stream whose clock differs greatly is left out; count if so."""
        if abs(offset) <= (own.tolerance_ns if own.foreign else self._foreign):
            own.differs_since = None
            if own.foreign:
                own.foreign = False
                if not self._turn(own, own.foreign_ns, stamp, now_ns):
                    self._event('agrees', own.name, stamp, f'the clock of {own.name} agrees again')
            return False
        leader = self._reference
        if leader is None or leader.arrival is None or not leader.is_alive(
                now_ns - self.spec.silence_ns):
            self._lead(own, stamp - now_ns, now_ns)
            return False
        if not own.foreign:
            if own.differs_since is None:
                own.differs_since = now_ns
            if (now_ns - own.differs_since < self.spec.silence_ns
                    or leader.arrival <= own.differs_since):
                return False
            self._make_foreign(own, offset, stamp, now_ns, self._foreign)
        own.dropped += 1
        own.foreign_ns = offset
        return True

    def _offset(self, stream: StreamBuffer) -> int:
        if stream.foreign:
            return stream.foreign_ns
        if stream.newest is None or stream.arrival is None or self._reference is None:
            return 0
        return stream.mark - stream.arrival - self._reference_offset

    def _check_offsets(self, end: int) -> None:
        """Tell of a clock that differs once it has for ``silence_ns``: a stall is shorter."""
        for s in self._all:
            offset = self._offset(s)
            if s.foreign or not self._reference or abs(offset) <= self.spec.offset_ns:
                s.offset_since = None
                continue
            s.offset_since = end if s.offset_since is None else s.offset_since
            if not s.offset_told and end - s.offset_since >= self.spec.silence_ns:
                s.offset_told = True
                self._event('offset', s.name, s.newest or 0,
                            f'stamps of {s.name} are {offset / 1e9:+.3f} s from those of '
                            f'{self._reference.name} that arrive with them')

    def _turn(self, own: StreamBuffer, far: int, stamp: int, now_ns: int) -> bool:
        """Count a change of clock; tell, once, and return whether the stream goes to and fro."""
        often = own.turn(now_ns)
        if often and not own.mixed_told:
            own.mixed_told = True
            self._event('mixed', own.name, stamp,
                        f'stamps of {own.name} are of two clocks: they go to and fro, last by '
                        f'{far / 1e9:+.3f} s; the odd ones are left out; expected one publisher '
                        'with one clock on its topic: find the second, or mend the driver')
        return often

    def _leave_out(self, own: StreamBuffer, offset: int, now_ns: int) -> None:
        """Leave out a stream that alone has jumped, until it agrees with the others again."""
        stamp = own.suspects[-1][0].stamp_ns
        own.dropped += len(own.suspects)
        own.suspects = []
        if self._reference is own:
            leader = next(s for s in self._all if s is not own and not s.suspects
                          and s.is_alive(now_ns - self.spec.silence_ns))
            self._lead(leader, leader.offset, now_ns)
        self._make_foreign(own, offset - self._reference_offset, stamp, now_ns, self._backward)

    def _make_foreign(self, own: StreamBuffer, offset: int, stamp: int, now_ns: int,
                      tolerance: int) -> None:
        self._empty(own)
        own.foreign, own.tolerance_ns, own.foreign_ns = True, tolerance, offset
        if not self._turn(own, offset, stamp, now_ns):
            name = self._reference.name if self._reference else 'the others'
            self._event('foreign', own.name, stamp,
                        f'the clock of {own.name} is {offset / 1e9:+.3f} s from that of {name}: '
                        'its samples are left out until they agree; have both drivers stamp with '
                        'the same clock')

    def _compare(self, own: StreamBuffer, sample: Sample, other: Sample) -> None:
        """Tell, once, of two samples with one stamp that are not the same message."""
        if own.compared >= _COMPARED:
            return
        own.compared += 1
        if sample.frame_id == other.frame_id and (
                sample.data is other.data or np.array_equal(sample.data, other.data)):
            return
        own.compared = _COMPARED
        self._event('clash', own.name, sample.stamp_ns,
                    f'found different samples of {own.name} with one stamp, expected one '
                    'device on its topic: the first is kept, the others count as duplicates; give '
                    'each device a topic and a source of its own')


def judge(own: StreamBuffer, sample: Sample, offset_ns: int, now_ns: int,
          streams: Sequence[StreamBuffer]) -> tuple[str, list[StreamBuffer]]:
    """Say what a stamp means that is far from its stream's newest, or follows such a one.

    One such sample is a stray. Two in a row are a jump of time if every other stream that speaks
    jumps, too. Who has said nothing since then is waited for, ``deadline_ns``; where one stream
    alone has jumped a slow one its period, ``silence_ns`` at most. If others go on as before for
    ``silence_ns``, it is the number of streams that counts.

    :param offset_ns: the sample's end less its arrival. :param streams: all.
    :returns: and the streams for which it holds: ``fits`` (it goes on from the newest), ``held``
        (it is put to the stream's suspects, more will show), ``jump`` (these streams jumped),
        ``back`` (it comes back to the clock of the others), ``alone`` (it has another clock now).
    """
    times, newest = own.times, own.newest
    assert newest is not None
    near, step = times.backward_ns, sample.stamp_ns - newest
    since = now_ns - times.silence_ns
    others = [s for s in streams if s is not own and s.newest is not None and not s.foreign
              and s.speaks(since)]
    offsets = sorted(s.offset for s in others if not s.suspects)
    common = offsets[len(offsets) // 2] if offsets else None
    if step >= -near and not _goes_on(own, sample.stamp_ns - now_ns) and (
            step <= near or offset_ns - own.offset <= near or (
                step <= 2 * own.due if common is None else abs(offset_ns - common) <= near)):
        return 'fits', [own]
    if own.suspects and abs(own.suspects[-1][0].stamp_ns - sample.stamp_ns) > times.foreign_ns:
        own.stray()
    if not own.suspects:
        own.seen = {s.name: (s.offset, s.mark, s.received) for s in others if not s.suspects}
    own.suspects.append((sample, now_ns))
    if len(own.suspects) > own.spec.capacity:
        del own.suspects[1]  # the first tells since when
        own.dropped += 1
    count = len(own.suspects)
    sure = count > 1 or own.mixed_told
    if common is not None and abs(offset_ns - common) <= near and (
            abs(own.offset - common) > (near if sure else times.foreign_ns)):
        return 'back', [own]
    allies = [own, *(s for s in others if s.suspects and _same_jump(own, s))]
    first = min(allies, key=lambda s: s.suspects[0][1])
    began = first.suspects[0][1]
    against = waiting = 0
    for s in others:
        if s.suspects or s.name not in first.seen:
            continue
        offset, mark, received = first.seen[s.name]
        patience = times.deadline_ns if len(allies) > 1 else min(
            times.silence_ns, max(times.deadline_ns, s.due))
        if s.received > received:
            against += s.mark > mark and abs(s.offset - offset) <= near
        elif (s.arrival or 0) >= began - patience and now_ns <= began + patience:
            waiting += 1
    if sum(len(s.suspects) for s in allies) > 1 and not against and not waiting:
        return 'jump', allies
    if count > 1 and own.suspects[0][1] <= since:
        return ('jump', allies) if len(allies) > against else ('alone', [own])
    return 'held', [own]


def _goes_on(own: StreamBuffer, offset_ns: int) -> bool:
    """Return whether a stamp less its arrival goes on from those in doubt, not from the newest."""
    if not own.suspects:
        return False
    (last, arrival) = own.suspects[-1]
    before = (own.newest or 0) - (own.arrival or 0)
    return abs(offset_ns - last.stamp_ns + arrival) < abs(offset_ns - before)


def _same_jump(one: StreamBuffer, other: StreamBuffer) -> bool:
    """Return whether the samples in doubt of two streams are of one time, and one direction."""
    (a, a_ns), (b, b_ns) = one.suspects[-1], other.suspects[-1]
    return ((a.stamp_ns > (one.newest or 0)) == (b.stamp_ns > (other.newest or 0))
            and abs(a.stamp_ns - a_ns - b.stamp_ns + b_ns) <= one.times.foreign_ns)
