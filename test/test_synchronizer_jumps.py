"""Slow streams, stray stamps, jumps of time and second clocks: what closes windows, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
import random

import numpy as np
import pytest

from onellm_ros.modality import Modality, Sample
from onellm_ros.synchronizer import StreamSpec, Synchronizer, Window, WindowSpec

MS = 1_000_000
S = 1_000_000_000
BASE = 1_700_000_000 * S
NOTHING = np.zeros(0, np.float32)
Arrivals = list[tuple[int, str, int]]       # (arrival, stream, stamp)


def stream(name: str, hz: float, seconds: float, *, phase_ms: int = 0, lag_ms: int = 2,
           jitter_ms: int = 0, clock: Callable[[int], int] = lambda now: 0) -> Arrivals:
    """Return a healthy stream; ``clock`` is how far its stamps are off, by the time since 0."""
    chance = random.Random(name)
    out = []
    for i in range(round(seconds * hz)):
        now = round(i * S / hz) + phase_ms * MS + chance.randint(-jitter_ms, jitter_ms) * MS
        out.append((now + lag_ms * MS, name, BASE + now + clock(now)))
    return out


class Run:
    """What a synchronizer made of arrivals, polled 20 times a second."""

    def __init__(self, *arrivals: Arrivals, required: Iterable[str] = (), flush: bool = False,
                 **times: int) -> None:
        messages = sorted(sum(arrivals, []), key=lambda item: item[0])
        names = sorted({name for _, name, _ in messages})
        self.sync = sync = Synchronizer(WindowSpec(tuple(
            StreamSpec(n, Modality.IMAGE, n in required) for n in names), **times))
        self.windows: list[Window] = []
        self.closed: list[float] = []       # seconds after the window's end, by the wall clock
        self.restarted: list[int] = []      # when
        polled = 0
        for now, name, stamp in messages:
            while polled + 50 * MS <= now:
                polled += 50 * MS
                self._take(sync.poll(polled), polled)
            self._take(sync.add(name, Sample(stamp, NOTHING), now), now)
            if sync.restarts > len(self.restarted):
                self.restarted.append(now)
        if flush:
            self._take(sync.flush(), 0)
        self.events = sync.take_events()
        self.kinds = [(e.kind, e.stream) for e in self.events]
        stats = sync.stats().values()
        assert sum(s.received for s in stats) == len(messages)

    def _take(self, windows: list[Window], now: int) -> None:
        self.windows += windows
        self.closed += [round((BASE + now - w.end_ns) / S, 3) for w in windows]

    @property
    def ends(self) -> list[float]:
        return [(w.end_ns - BASE) / S for w in self.windows]

    def silent(self) -> dict[float, tuple[str, ...]]:
        return {(w.end_ns - BASE) / S: w.silent for w in self.windows if w.silent}

    def after(self, second: float) -> Run:
        keep = [i for i, end in enumerate(self.ends) if end > second]
        self.windows, self.closed = ([x[i] for i in keep] for x in (self.windows, self.closed))
        return self


# -- slow streams -----------------------------------------------------------------------------


@pytest.mark.parametrize('phase_ms', [0, 30, 500, 880, 920, 970])
@pytest.mark.parametrize(('hz', 'lag_ms', 'jitter_ms'), [
    (1.0, 50, 0), (1.0, 50, 20), (1.0, 300, 0), (1.9, 50, 20), (0.5, 50, 20), (0.2, 300, 20)])
def test_a_slow_stream_that_keeps_its_rate_is_waited_for_and_never_silent(
        hz: float, lag_ms: int, jitter_ms: int, phase_ms: int) -> None:
    slow = stream('gps', hz, 40, phase_ms=phase_ms, lag_ms=lag_ms, jitter_ms=jitter_ms)
    run = Run(slow, stream('imu', 50, 40), stream('image', 10, 40)).after(3.2 / hz + 1)
    assert len(run.windows) >= 39 - 3.2 / hz - 1
    assert run.silent() == {} and {w.closed_by for w in run.windows} == {'watermark'}
    # no later than the sample that is due before the end, its delay, and the lateness allow
    assert max(run.closed) <= (lag_ms + jitter_ms + 110) / 1000
    stamps = [s.stamp_ns for w in run.windows for s in w.members.get('gps', ())]
    first, last = run.windows[0].start_ns, run.windows[-1].end_ns
    assert stamps == [stamp for _, _, stamp in slow if first <= stamp < last]
    assert run.events == []


@pytest.mark.parametrize('required', [(), ('gps',), ('imu',)])
def test_a_slow_stream_that_stops_is_named_as_soon_as_it_owes_a_sample(
        required: tuple[str, ...]) -> None:
    run = Run(stream('gps', 1.0, 10, phase_ms=400), stream('imu', 50, 20), required=required)
    run.after(4)
    assert run.ends == list(range(5, 20))           # and windows go on
    silent = run.silent()
    if required == ('imu',):
        assert silent == {}
        assert max(run.closed) <= 0.11
    else:
        assert min(silent) == 11 and set(silent.values()) == {('gps',)}
        assert max(run.closed) <= 0.55
    if not required:                                # after silence_s nothing waits for it
        assert max(run.after(13).closed) <= 0.12


def test_a_slow_stream_alone_closes_by_its_deadline_without_being_called_silent() -> None:
    run = Run(stream('fmri', 0.5, 40)).after(8)
    assert run.silent() == {} and max(run.closed) <= 0.56
    assert run.ends == list(range(9, 38, 2)) and run.events == []


def test_an_uneven_stream_promises_nothing() -> None:
    chance = random.Random(5)
    now, uneven = 0, []
    for _ in range(40):
        now += chance.choice((80, 300, 700, 1500)) * MS
        uneven.append((now + 5 * MS, 'map', BASE + now))
    run = Run(uneven, stream('imu', 50, now / S))
    assert run.sync.stats()['map'].late == 0 and run.sync.stats()['map'].period_ns == 0
    inside = {s.stamp_ns for w in run.windows for s in w.members.get('map', ())}
    assert inside == {stamp for _, _, stamp in uneven if stamp < run.windows[-1].end_ns}


def test_a_lost_sample_of_a_slow_stream_is_told_once() -> None:
    slow = stream('gps', 1.0, 30, phase_ms=600)
    del slow[15]
    run = Run(slow, stream('imu', 50, 30)).after(4)
    assert run.silent() == {16: ('gps',)}
    assert Run(slow).sync.stats()['gps'].period_ns == pytest.approx(S, rel=0.11)


# -- strays -----------------------------------------------------------------------------------


HEALTHY = (('image', 30), ('imu', 200), ('points', 10), ('gps', 1))


def healthy(seconds: float = 12) -> Arrivals:
    return sum((stream(n, hz, seconds, phase_ms=i * 7) for i, (n, hz) in enumerate(HEALTHY)), [])


@pytest.mark.parametrize('count', [1, 2, 5])
@pytest.mark.parametrize('far_s', [1.5, 4.8, 40, 3600, -1.5, -5, -40, -3600])
@pytest.mark.parametrize('name', ['image', 'imu', 'points'])
def test_strays_of_one_stream_change_nothing(name: str, far_s: float, count: int) -> None:
    """Neither a single one nor a burst, before or behind; all else closes as without them."""
    messages = healthy()
    stray: Arrivals = [(5 * S + 1 + i, name, BASE + 5 * S + round(far_s * S) + i * 20 * MS)
                       for i in range(count)]
    run, plain = Run(messages, stray), Run(messages)
    assert run.sync.restarts == 0 and run.events == []
    assert run.ends == plain.ends and run.closed == plain.closed
    assert [[s.stamp_ns for m in w.members.values() for s in m] for w in run.windows] == [
        [s.stamp_ns for m in w.members.values() for s in m] for w in plain.windows]
    stats = run.sync.stats()[name]
    assert (stats.late, stats.dropped) == ((count, 0) if far_s < 0 else (0, count))


def test_any_strays_give_the_windows_without_them() -> None:
    for seed in range(40):
        chance = random.Random(seed)
        messages = healthy(9)
        strays: Arrivals = []
        for _ in range(chance.randint(1, 12)):
            now = chance.randrange(2 * S, 8 * S)
            far = chance.choice((-1, 1)) * chance.choice((1.3, 3, 20, 100, 9999))
            name = chance.choice(HEALTHY[:3])[0]
            strays += [(now + i, name, BASE + now + round(far * S) + i * MS)
                       for i in range(chance.randint(1, 3))]
        run, plain = (Run(m, flush=True) for m in (messages + strays, messages))
        assert run.sync.restarts == 0, seed
        assert run.ends == plain.ends, seed
        for a, b in zip(run.windows, plain.windows):
            assert {n: [s.stamp_ns for s in m] for n, m in a.members.items()} == {
                n: [s.stamp_ns for s in m] for n, m in b.members.items()}, seed
        stats = run.sync.stats().values()
        assert sum(s.late + s.dropped for s in stats) == len(strays), seed
        assert {e.kind for e in run.events} <= {'mixed'}, seed


def test_a_stray_at_the_end_is_no_window() -> None:
    messages = [*healthy(4), (4 * S, 'image', BASE + 90 * S)]
    run = Run(messages, flush=True)
    assert run.ends == [1, 2, 3, 4, 5] and run.sync.stats()['image'].dropped == 1


# -- jumps ------------------------------------------------------------------------------------


def leap(after_s: float, by_s: float) -> Callable[[int], int]:
    return lambda now: round(by_s * S) if now >= after_s * S else 0


@pytest.mark.parametrize('by_s', [2, 30, 86400])
def test_all_that_jump_forward_do_so_within_a_sample_of_the_slowest(by_s: float) -> None:
    messages = sum((stream(n, hz, 12, clock=leap(6.3, by_s)) for n, hz in HEALTHY[:3]), [])
    run = Run(messages, flush=True)
    assert run.sync.restarts == 0
    assert run.ends == [1, 2, 3, 4, 5, 6, 7, *(t + by_s for t in (7, 8, 9, 10, 11, 12))]
    inside = sorted(s.stamp_ns for w in run.windows for m in w.members.values() for s in m)
    assert inside == sorted(stamp for _, _, stamp in messages)      # nothing is lost
    assert sum(s.late + s.dropped for s in run.sync.stats().values()) == 0
    # the jump is known when the slowest has jumped, 0.1 s later, if not with its first sample
    assert run.closed[7:12] == pytest.approx([-by_s + 0.1] * 5, abs=0.05)
    assert [e.kind for e in run.events if e.kind != 'gap'] == []


def test_a_stream_alone_jumps_with_its_second_sample() -> None:
    forward = Run(stream('image', 30, 10, clock=leap(5.3, 1000)), flush=True)
    assert forward.sync.stats()['image'].dropped == 0 and forward.sync.restarts == 0
    assert forward.ends[5:8] == [6, 1006, 1007]
    back = Run(stream('image', 30, 10, clock=leap(5.3, -4)))
    assert back.restarted == [pytest.approx(5.3 * S + S / 30, abs=S / 25)]
    back = Run(stream('image', 30, 10, clock=leap(5.3, -4)), stream('gone', 30, 2))
    assert back.restarted == [pytest.approx(5.3 * S + S / 30, abs=S / 25)]


def test_a_bag_that_loops_restarts_when_its_last_stream_has_begun_again() -> None:
    messages = sum((stream(n, hz, 18, lag_ms=lag, clock=lambda now: -(now // (6 * S)) * 6 * S)
                    for (n, hz), lag in zip(HEALTHY, (5, 0, 150, 20))), [])
    run = Run(messages, flush=True)
    assert [(r - 6 * S * (i + 1)) / S for i, r in enumerate(run.restarted)] == [
        pytest.approx(0.15, abs=0.05)] * 2
    assert [k for k, _ in run.kinds] == ['backward'] * 2
    # nothing of the new time is lost, nothing of the old mixed in
    for begin in (i for i, end in enumerate(run.ends) if end == 1):
        whole = run.windows[begin:begin + 5]
        assert [(w.end_ns - BASE) // S for w in whole] == [1, 2, 3, 4, 5]
        assert [len(w.members['imu']) for w in whole] == [200] * 5
        assert [len(w.members['gps']) for w in whole] == [1] * 5
    assert len(run.windows) in (16, 17, 18)


@pytest.mark.parametrize('length_s', [1.5, 2, 3.3])
def test_short_loops_are_followed(length_s: float) -> None:
    """Also where a stamp of the new time is less than a second before the newest of the old."""
    length = round(length_s * S)
    messages = sum((stream(n, hz, 5 * length_s, lag_ms=lag,
                           clock=lambda now: -(now // length) * length)
                    for (n, hz), lag in zip(HEALTHY, (50, 0, 150, 20))), [])
    run = Run(messages, flush=True)
    assert len(run.restarted) == 4 and {k for k, _ in run.kinds} == {'backward'}
    assert run.ends.count(1) == 5
    assert [len(w.members['imu']) for w in run.windows if w.end_ns == BASE + S] == [200] * 5


def test_a_jump_is_not_held_up_by_a_stream_that_has_ended() -> None:
    messages = sum((stream(n, hz, 12, clock=leap(6, -6)) for n, hz in HEALTHY[:2]), [])
    run = Run(messages, stream('points', 10, 5.9))
    assert len(run.restarted) == 1 and run.restarted[0] <= 6.51 * S


@pytest.mark.parametrize('by_s', [-3600, -20, -5, 5, 3600])
@pytest.mark.parametrize('name', ['image', 'imu', 'points'])
def test_one_clock_that_is_reset_is_left_out_and_the_others_go_on(name: str, by_s: float) -> None:
    """Whether it is the reference (first of all) or not."""
    messages = sum((stream(n, hz, 20, clock=leap(6.3, by_s) if n == name else leap(99, 0))
                    for n, hz in HEALTHY), [])
    run = Run(messages)
    assert run.sync.restarts == 0
    assert run.ends == list(range(1, 20)) and max(run.closed[5:]) <= 0.56
    assert run.kinds == [('foreign', name)] and f'{by_s:+.2f}'[:4] in run.events[0].text
    assert run.sync.stats()[name].foreign
    assert run.sync.stats()[name].offset_ns / S == pytest.approx(by_s, abs=0.2)
    assert all(name not in w.members for w in run.windows[9:])
    assert all(set(w.members) == {n for n, _ in HEALTHY} - {name} for w in run.windows[9:])
    again = [(20 * S + now, n, stamp + 20 * S) for now, n, stamp in healthy(4)]
    run = Run(messages, again)
    assert run.kinds == [('foreign', name), ('agrees', name)]
    assert set(run.windows[-1].members) == {n for n, _ in HEALTHY}


def test_most_streams_outvote_the_rest() -> None:
    """A live driver goes on beside a bag that loops: after silence_ns the bag has it."""
    messages = sum((stream(n, hz, 12, clock=leap(6, -6)) for n, hz in HEALTHY[:3]), [])
    run = Run(messages, stream('live', 30, 12))
    assert len(run.restarted) == 1 and run.restarted[0] == pytest.approx(8 * S, abs=S // 5)


def test_a_driver_that_catches_up_has_not_jumped() -> None:
    """It was 5 s behind, drops its queue, and is with the others again."""
    late = [(now + (5 * S if now < 6 * S else 0), n, stamp)
            for now, n, stamp in stream('points', 10, 15) if not S < now < 6 * S]
    run = Run(late, stream('image', 30, 15), stream('imu', 200, 15))
    assert run.sync.restarts == 0 and run.sync.stats()['points'].dropped == 0
    assert [k for k, _ in run.kinds] in ([], ['offset'])


def test_after_any_chaos_healthy_streams_are_whole_again() -> None:
    """No doubt outlives its cause, whatever clocks the streams had in between."""
    for seed in range(60):
        chance = random.Random(seed)
        chaos: Arrivals = []
        for name, hz in HEALTHY:
            clock = 0
            for now, _, stamp in stream(name, hz, 10):
                if chance.random() < 0.02:
                    clock = chance.choice((0, 0, 3, -3, 40, -40, 5000, -5000)) * S
                if chance.random() < 0.95:
                    chaos.append((now, name, stamp + clock))
        later = chance.choice((0, 0, -7, -500, 20, 900)) * S     # where all are afterwards
        after = [(now + 10 * S, name, stamp + 10 * S + later) for now, name, stamp in healthy(16)]
        run = Run(chaos, after)
        last = run.windows[-4:]
        ends = [(w.end_ns - BASE - later) // S for w in last]
        assert ends == list(range(ends[0], ends[0] + 4)) and ends[-1] == 25, seed
        assert all(set(w.members) == {n for n, _ in HEALTHY} for w in last), seed
        assert max(run.closed[-4:]) + later / S <= 0.2, seed
        assert len(run.events) < 40, seed


# -- two clocks, two devices ------------------------------------------------------------------


@pytest.mark.parametrize('by_s', [50, -50, 5, -5])
@pytest.mark.parametrize('begins', [0, 1])
@pytest.mark.parametrize('beside', [(), ('imu', 'points')])
def test_a_stream_of_two_clocks_is_told_once(by_s: float, begins: int, beside: tuple[str, ...]
                                             ) -> None:
    rates = dict(HEALTHY)
    others = sum((stream(n, rates[n], 30) for n in beside), [])
    mixed = [(now, n, stamp + (round(by_s * S) if i % 2 == begins else 0))
             for i, (now, n, stamp) in enumerate(stream('image', 20, 30, phase_ms=1))]
    run = Run(others, mixed)
    assert [k for k, _ in run.kinds].count('mixed') == 1
    assert len(run.events) <= 2 and run.sync.restarts == 0
    text = next(e.text for e in run.events if e.kind == 'mixed')
    assert f'{abs(by_s):.3f} s' in text and 'publisher' in text
    if beside:
        assert max(run.closed[1:]) <= 0.16      # the very first stamp may be an odd one
        assert all(set(w.members) == {'image', *beside} for w in run.windows[2:])


def test_blocks_of_two_clocks_flood_nothing() -> None:
    mixed = stream('image', 20, 60, clock=lambda now: 50 * S * (now // (3 * S) % 2))
    run = Run(mixed, stream('imu', 200, 60), stream('points', 10, 60))
    assert len(run.events) <= 4 and [k for k, _ in run.kinds].count('mixed') == 1
    assert run.ends == list(range(1, 60)) and max(run.closed) <= 0.56


def test_equal_stamps_of_two_devices_are_told_and_repeats_are_not() -> None:
    sync = Synchronizer(WindowSpec((StreamSpec('audio', Modality.AUDIO),)))
    chunk = Sample(5 * S, np.arange(8, dtype=np.float32), 'left', 16000.0)
    sync.add('audio', chunk, 0)
    sync.add('audio', replace(chunk, data=chunk.data.copy()), 1)
    assert sync.take_events() == [] and sync.stats()['audio'].duplicates == 1
    sync.add('audio', replace(chunk, data=chunk.data + 1), 2)
    event, = sync.take_events()
    assert (event.kind, event.stream) == ('clash', 'audio')
    assert 'one device' in event.text and 'count as duplicates' in event.text
    sync.add('audio', replace(chunk, data=chunk.data + 2), 3)
    assert sync.take_events() == [] and sync.stats()['audio'].duplicates == 3
    window, = sync.flush()
    assert window.members['audio'] == (chunk,)

    sync = Synchronizer(WindowSpec((StreamSpec('imu', Modality.IMU),)))
    sync.add('imu', chunk, 0)
    sync.add('imu', replace(chunk, frame_id='right'), 1)    # the same values of another device
    assert [e.kind for e in sync.take_events()] == ['clash']
