"""Windows depend on stamps alone: properties against brute force, and each kind of trouble."""

from __future__ import annotations

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from onellm_ros.modality import Modality, Sample
from onellm_ros.synchronizer import StreamSpec, Synchronizer, Window, WindowSpec
from onellm_ros.windows import StreamBuffer

MS = 1_000_000
S = 1_000_000_000
NOTHING = np.zeros(0, np.float32)


def sample(stamp_ns: int) -> Sample:
    return Sample(stamp_ns, NOTHING)


def spec(*names: str, required: tuple[str, ...] = (), **times: int) -> WindowSpec:
    return WindowSpec(tuple(StreamSpec(n, Modality.IMAGE, n in required) for n in names), **times)


def contents(windows: list[Window]) -> list[tuple]:
    return [(w.start_ns, w.end_ns, w.index,
             {n: tuple(s.stamp_ns for s in m) for n, m in w.members.items()}) for w in windows]


def brute_force(spec: WindowSpec, stamps: dict[str, set[int]]) -> list[tuple]:
    """Return the windows that the definition gives, from all stamps at once."""
    every = sorted(set().union(*stamps.values()))
    ends = {(s // spec.period_ns + k) * spec.period_ns
            for s in every for k in range(1, spec.length_ns // spec.period_ns + 2)}
    out = []
    for end in sorted(ends):
        start = end - spec.length_ns
        if not any(start <= s < end for s in every):
            continue
        members = {}
        for stream in spec.streams:
            low = end - max(spec.length_ns, stream.lookback_ns)
            inside = tuple(s for s in sorted(stamps[stream.name]) if low <= s < end)
            if inside:
                members[stream.name] = inside
        out.append((start, end, end // spec.period_ns, members))
    return out


def arrive(sync: Synchronizer, arrivals: list[tuple[int, str, int]], polls: bool = True
           ) -> list[Window]:
    """Feed (arrival, stream, stamp) in order of arrival, polling between."""
    windows: list[Window] = []
    for now_ns, name, stamp_ns in arrivals:
        if polls:
            windows += sync.poll(now_ns)
        windows += sync.add(name, sample(stamp_ns), now_ns)
    return windows


@st.composite
def recordings(draw: st.DrawFn) -> tuple[WindowSpec, list[tuple[str, int]]]:
    """Draw a spec and (stream, stamp) pairs with duplicates, long gaps and silent streams."""
    lateness = draw(st.integers(0, 300)) * MS
    specs = tuple(
        StreamSpec(name, Modality.IMAGE, draw(st.booleans()), draw(st.integers(0, 3000)) * MS,
                   100_000)
        for name in 'abcd'[:draw(st.integers(1, 4))])
    windows = WindowSpec(
        specs, length_ns=draw(st.integers(100, 3000)) * MS,
        period_ns=draw(st.integers(200, 2000)) * MS, lateness_ns=lateness,
        deadline_ns=lateness + draw(st.integers(1, 1000)) * MS)
    base = draw(st.sampled_from([0, 1_700_000_000 * S + 123]))
    messages = []
    for s in specs:
        stamp = base
        for step in draw(st.lists(st.sampled_from([0, 5, 33, 100, 1000, 8000, 100_000]),
                                  max_size=25)):
            stamp += step * MS
            messages.append((s.name, stamp))
    return windows, messages


@settings(max_examples=150, deadline=None)
@given(recordings(), st.randoms(use_true_random=False))
def test_any_order_within_the_lateness_gives_the_windows_of_the_definition(
        recording: tuple[WindowSpec, list[tuple[str, int]]], chance: random.Random) -> None:
    windows_spec, messages = recording
    stamps: dict[str, set[int]] = {s.name: set() for s in windows_spec.streams}
    for name, stamp in messages:
        stamps[name].add(stamp)
    arrivals = sorted((stamp + chance.randint(0, windows_spec.lateness_ns), name, stamp)
                      for name, stamp in messages)
    sync = Synchronizer(windows_spec)
    windows = arrive(sync, arrivals, polls=chance.random() < 0.5) + sync.flush()
    assert contents(windows) == brute_force(windows_spec, stamps)
    stats = sync.stats()
    assert sum(s.received for s in stats.values()) == len(messages)
    assert sum(s.duplicates + s.late for s in stats.values()) == len(messages) - sum(
        len(v) for v in stamps.values())
    assert all(e.kind == 'gap' for e in sync.take_events())


class Checked(Synchronizer):
    """Compares its short cuts with the long way."""

    looked = 0

    def _limit(self, now_ns: int) -> int:
        self.looked += 1
        return super()._limit(now_ns)

    def _is_held(self, now_ns: int) -> bool:
        held = super()._is_held(now_ns)
        assert not held or super()._limit(now_ns) < self._next_end
        return held

    def _insert(self, own: StreamBuffer, stamp: int, sample: Sample) -> bool:
        kept = super()._insert(own, stamp, sample)
        assert self._next_end == self._first_end()
        return kept


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('abc'), st.integers(-200, 200_000),
                          st.integers(0, 300)), max_size=120))
def test_nonsense_never_breaks_the_promises(chaos: list[tuple[str, int, int]]) -> None:
    """Jumps, late data, any clock: windows hold what they claim, counts add up."""
    streams = tuple(StreamSpec(n, Modality.IMU, n == 'a', 2 * S, 16, 100 * MS if n == 'b' else 0)
                    for n in 'abc')
    sync = Checked(WindowSpec(streams))
    now, restarts, last_end = 0, 0, None
    for name, stamp_ms, wait_ms in chaos:
        now += wait_ms * MS
        polled = [(w, sync.restarts) for w in sync.poll(now)]
        added = sync.add(name, sample(stamp_ms * MS), now)
        for window, epoch in polled + [(w, sync.restarts) for w in added]:
            assert window.end_ns - window.start_ns == S and window.end_ns % S == 0
            assert window.members
            for members in window.members.values():
                found = [s.stamp_ns for s in members]
                assert found == sorted(set(found))
                assert window.end_ns - 2 * S <= found[0] and found[-1] < window.end_ns
            if epoch == restarts and last_end is not None:
                assert window.end_ns > last_end
            last_end, restarts = window.end_ns, epoch
    assert all(s.held <= 16 for s in sync.stats().values())
    assert sum(s.received for s in sync.stats().values()) == len(chaos)
    sync.flush()
    assert sync.poll(now + 100 * S) == []


def test_thinning_and_order() -> None:
    """Old pictures are thinned alike, whatever the order of arrival."""
    windows_spec = WindowSpec((StreamSpec('a', Modality.IMAGE, True, 3 * S, 500, 200 * MS),))
    stamps = [i * 33 * MS for i in range(300)]
    chance = random.Random(3)
    runs = []
    for _ in range(3):
        arrivals = sorted((s + chance.randint(0, 100 * MS), 'a', s) for s in stamps)
        sync = Synchronizer(windows_spec)
        runs.append(contents(arrive(sync, arrivals) + sync.flush()))
    assert runs[0] == runs[1] == runs[2]
    last = runs[0][-2][3]['a']  # 1 s in full, 2 s at 5 Hz
    assert len(last) == 30 + 10


def test_closes_at_the_watermark_of_the_slowest_required_stream() -> None:
    sync = Synchronizer(spec('a', 'b', 'c', required=('a', 'b')))
    assert arrive(sync, [(0, 'a', 500 * MS), (0, 'b', 600 * MS), (1, 'c', 9 * S),
                         (1, 'a', 1200 * MS), (2, 'b', 1099 * MS)]) == []
    window, = sync.add('b', sample(1100 * MS), 3)
    assert (window.start_ns, window.end_ns, window.index) == (0, S, 1)
    assert contents([window])[0][3] == {'a': (500 * MS,), 'b': (600 * MS,)}
    assert (window.closed_by, window.silent) == ('watermark', ())
    assert window.age_ns('a') == 500 * MS and window.skew_ns() == 100 * MS


def test_an_audio_chunk_reaches_to_its_end() -> None:
    sync = Synchronizer(spec('image', 'audio'))
    chunk = np.zeros(8000, np.float32)
    sync.add('audio', Sample(0, chunk, rate_hz=8000.0), S)
    sync.add('image', sample(900 * MS), 1001 * MS)
    assert sync.add('image', sample(1150 * MS), 1150 * MS) == []  # the chunk ends at 1 s
    window, = sync.add('audio', Sample(S, chunk, rate_hz=8000.0), 2 * S)
    sync.add('image', sample(1990 * MS), 2001 * MS)
    assert window.end_ns == S and set(window.members) == {'image', 'audio'}
    assert abs(sync.stats()['audio'].offset_ns) < 20 * MS


def test_a_required_stream_that_never_speaks_costs_the_deadline_then_nothing() -> None:
    sync = Synchronizer(spec('a', 'b', required=('a', 'b')))
    closed = []
    for i in range(60):
        now = i * 100 * MS
        closed += [(w.end_ns, now, w.closed_by, w.silent)
                   for w in sync.poll(now) + sync.add('a', sample(now), now)]
    assert closed[0] == (S, 1500 * MS, 'deadline', ('b',))
    assert closed[-1] == (5 * S, 5100 * MS, 'deadline', ('b',))


def test_all_silent_closes_at_the_deadline_once() -> None:
    sync = Synchronizer(spec('a'))
    sync.add('a', sample(100 * S + 300 * MS), 5 * S)
    assert sync.poll(5 * S + 1199 * MS) == []
    window, = sync.poll(5 * S + 1201 * MS)
    assert window.end_ns == 101 * S and window.closed_by == 'deadline'
    assert sync.poll(500 * S) == []


def test_late_samples_are_counted_and_serve_the_lookback() -> None:
    sync = Synchronizer(WindowSpec((StreamSpec('a', Modality.IMAGE, True),
                                    StreamSpec('m', Modality.IMU, False, 2 * S))))
    first, = arrive(sync, [(0, 'a', 100 * MS), (1, 'a', 1100 * MS)])
    assert first.late == {}
    assert arrive(sync, [(2, 'm', 900 * MS), (2, 'a', 500 * MS)]) == []
    second, = arrive(sync, [(3, 'a', 2100 * MS)])
    assert second.late == {'m': 1, 'a': 1}
    assert contents([second])[0][3] == {'m': (900 * MS,), 'a': (1100 * MS,)}


def test_a_full_buffer_drops_the_oldest_and_says_so() -> None:
    sync = Synchronizer(WindowSpec((StreamSpec('a', Modality.IMAGE, capacity=3),)))
    windows = arrive(sync, [(i, 'a', i * 100 * MS) for i in range(12)])
    assert contents(windows)[0][3] == {'a': (900 * MS,)}
    assert windows[0].dropped == {'a': 9}


def test_a_full_buffer_makes_no_empty_window_of_what_it_drops() -> None:
    sync = Checked(WindowSpec((StreamSpec('a', Modality.IMAGE, capacity=2),
                               StreamSpec('b', Modality.IMAGE))))
    assert arrive(sync, [(5200 * MS, 'a', 5100 * MS), (5200 * MS, 'a', 5200 * MS),
                         (5250 * MS, 'a', 4500 * MS), (5300 * MS, 'b', 5300 * MS)]) == []
    window, = sync.flush()
    assert window.dropped == {'a': 1} and len(window.members['a']) == 2


def test_a_backward_jump_starts_anew_with_one_warning() -> None:
    sync = Synchronizer(spec('a', 'b'))
    one = [(i * 100 * MS, n, 50 * S + i * 100 * MS) for i in range(25) for n in 'ab']
    before = arrive(sync, one)
    assert [w.end_ns for w in before] == [51 * S, 52 * S]
    # the bag begins again: `a` first, while two samples of `b` are still on their way
    arrivals = []
    for i in range(25):
        now = 2500 * MS + i * 100 * MS
        arrivals.append((now, 'a', 50 * S + i * 100 * MS))
        stamp = 52 * S + 500 * MS + i * 100 * MS if i < 4 else 50 * S + i * 100 * MS
        arrivals.append((now, 'b', stamp))
    after = arrive(sync, arrivals)
    events = sync.take_events()
    assert [e.kind for e in events] == ['backward'] and 'jumped back' in events[0].text
    assert sync.restarts == 1
    assert [w.end_ns for w in after] == [51 * S, 52 * S]
    assert [len(w.members['a']) for w in after] == [10, 10]
    assert len(after[0].members['b']) == 6  # the first four belonged to the time before


def test_one_stray_old_stamp_is_late_and_no_jump() -> None:
    sync = Synchronizer(spec('a'))
    stamps = [20 * S + i * 100 * MS for i in range(13)]
    stamps.insert(8, 5 * S)
    windows = arrive(sync, [(i, 'a', stamp) for i, stamp in enumerate(stamps)])
    assert [w.end_ns for w in windows] == [21 * S]
    assert sync.restarts == 0 and sync.stats()['a'].late == 1


def test_a_forward_jump_skips_the_empty_span() -> None:
    sync = Synchronizer(spec('a', 'b'))
    arrivals = [(i * 100 * MS, n, i * 100 * MS) for i in range(20) for n in 'ab']
    arrivals += [(i * 100 * MS, n, 100_000 * S + i * 100 * MS)
                 for i in range(20, 40) for n in 'ab']
    windows = arrive(sync, arrivals)
    assert [w.end_ns for w in windows] == [S, 2 * S, 100_003 * S]
    assert [e.kind for e in sync.take_events()] == ['gap']


def test_a_stream_on_another_clock_is_left_out_and_reported_once() -> None:
    sync = Synchronizer(spec('a', 'b', required=('a', 'b')))
    arrivals = [(i * 100 * MS, n, (1000 * S if n == 'a' else 0) + i * 100 * MS)
                for i in range(80) for n in 'ab']
    windows = arrive(sync, arrivals)
    events = sync.take_events()
    assert [e.kind for e in events] == ['foreign']
    assert abs(sync.stats()['b'].offset_ns) > 30 * S
    assert 'the clock of b is -1000.000 s' in events[0].text
    assert [w.end_ns for w in windows] == [S * t for t in range(1001, 1008)]
    assert all(set(w.members) == {'a'} for w in windows)
    arrive(sync, [(i * 100 * MS, n, 1000 * S + i * 100 * MS)
                  for i in range(80, 100) for n in 'ab'])
    assert [e.kind for e in sync.take_events()] == ['agrees']
    assert not sync.stats()['b'].foreign


def test_a_clock_that_is_seconds_off_is_reported_and_used() -> None:
    sync = Synchronizer(spec('a', 'b'))
    arrivals = [(i * 100 * MS, n, (3 * S if n == 'a' else 0) + 100 * S + i * 100 * MS)
                for i in range(60) for n in 'ab']
    windows = arrive(sync, arrivals)
    assert [e.kind for e in sync.take_events()] == ['offset']
    assert {'a', 'b'} == set(windows[-1].members)
    assert round(sync.stats()['b'].offset_ns / S) == -3


def test_messages_that_a_stall_held_back_are_no_other_clock() -> None:
    """What one stream measured in 2 s comes in the 1.2 s after them."""
    sync = Synchronizer(spec('a', 'b', deadline_ns=S // 2, backward_ns=5 * S))
    arrivals = []
    for i in range(120):
        now = i * 100 * MS
        came = 6 * S + (i - 40) * 60 * MS if 40 <= i < 60 else now
        arrivals.append((max(came, 6 * S + 20 * 60 * MS) if 60 <= i < 72 else came, 'b',
                         100 * S + now))
        arrivals.append((now, 'a', 100 * S + now))
    arrive(sync, sorted(arrivals, key=lambda item: item[0]))
    assert [e.kind for e in sync.take_events()] == []


@pytest.mark.parametrize('kwargs, text', [
    ({'length_ns': 0}, 'length_ns'), ({'lateness_ns': 2 * S}, 'lateness_ns'),
    ({'deadline_ns': -1}, 'deadline_ns')])
def test_impossible_times_are_refused(kwargs: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        spec('a', **kwargs)


def test_impossible_streams_are_refused() -> None:
    with pytest.raises(ValueError, match='different names'):
        spec('a', 'a')
    with pytest.raises(ValueError, match='capacity'):
        WindowSpec((StreamSpec('a', Modality.IMU, capacity=0),))


def test_a_message_costs_microseconds() -> None:
    """Five streams of 30, 30, 10, 200 and 31 Hz; the bound leaves room for a busy machine."""
    rates = {'image': 30, 'depth': 30, 'points': 10, 'imu': 200, 'audio': 31}
    messages = sorted((i * S // rate, name) for name, rate in rates.items()
                      for i in range(20 * rate))
    samples = [(name, sample(stamp), stamp) for stamp, name in messages]
    best = 1.0
    for _ in range(3):
        sync = Synchronizer(spec(*rates))
        start = time.process_time()
        for name, one, now in samples:
            sync.add(name, one, now)
        best = min(best, (time.process_time() - start) / len(samples))
    assert best < 20e-6


def test_a_stream_that_lags_makes_the_others_no_dearer() -> None:
    """While windows wait for one stream, the samples of the others need no look at all streams."""
    names = [str(i) for i in range(20)]
    sync = Checked(spec(*names))
    arrivals = sorted((i * 10 * MS + (400 * MS if n == '7' else 0), n, 50 * S + i * 10 * MS)
                      for i in range(1000) for n in names)
    windows = arrive(sync, arrivals, polls=False)
    assert len(windows) == 9 and {w.closed_by for w in windows} == {'watermark'}
    assert sync.looked < 100  # 7000 samples came while a window waited


def test_a_stream_that_joins_later_costs_the_others_nothing() -> None:
    sync = Synchronizer(WindowSpec(()))
    assert sync.poll(5 * S) == [] and sync.flush() == [] and sync.stats() == {}
    sync.extend(spec('b', 'c'))
    windows = arrive(sync, [(i * 100 * MS, n, 50 * S + i * 100 * MS)
                            for i in range(15) for n in 'bc'])
    sync.extend(spec('a', 'b', 'c'))
    windows += arrive(sync, [(i * 100 * MS, n, 50 * S + i * 100 * MS)
                             for i in range(15, 45) for n in 'abc'])
    assert [w.end_ns for w in windows] == [51 * S, 52 * S, 53 * S, 54 * S]
    assert [len(w.members['b']) for w in windows] == [10] * 4
    assert [len(w.members.get('a', ())) for w in windows] == [0, 5, 10, 10]
    assert sync.take_events() == [] and sync.stats()['b'].received == 45
    sync.extend(spec('a', 'c'))
    assert set(sync.stats()) == {'a', 'c'} and sync.stats()['c'].received == 45
    rest = arrive(sync, [(i * 100 * MS, n, 50 * S + i * 100 * MS)
                         for i in range(45, 52) for n in 'ac'])
    assert [set(w.members) for w in rest] == [{'a', 'c'}]
    with pytest.raises(ValueError, match='same times'):
        sync.extend(WindowSpec((), length_ns=2 * S))
