"""Clocks of the inputs: offsets found through jitter, drift, stalls and jumps."""

from __future__ import annotations

from collections.abc import Iterator
import random

import pytest

from onellm_ros.perception.clocks import Continued, StreamClock

S = 1_000_000_000
MS = 1_000_000


def messages(seconds: float, rate_hz: float = 30.0, offset_ns: int = 0, begin_s: float = 1e9,
             jitter_ns: int = 40 * MS, drift: float = 0.0, seed: int = 1
             ) -> Iterator[tuple[int, int]]:
    """Yield (stamp, receipt): sent at a rate, received 2 ms and some jitter later."""
    chance = random.Random(seed)
    received = 0
    for i in range(round(seconds * rate_hz)):
        sent = round((begin_s + i / rate_hz) * S)
        stamp = sent + offset_ns + round(i / rate_hz * S * drift)
        received = max(received, sent + 2 * MS + round(chance.expovariate(1 / jitter_ns)))
        yield stamp, received


@pytest.mark.parametrize('offset_s', [-1_699_999_000.0, -180.0, 3.0, 1e8])
def test_the_offset_is_that_of_the_least_disturbed_message(offset_s: float) -> None:
    clock = StreamClock()
    for stamp, received in messages(5, offset_ns=round(offset_s * S)):
        clock.observe(stamp, received)
    assert clock.settled and clock.differs and not clock.waiting and clock.jumps == 0
    assert abs(clock.offset_ns - offset_s * S) < 5 * MS  # while the jitter is 40 ms and more


def test_a_clock_that_agrees_is_left_alone() -> None:
    clock = StreamClock()
    for stamp, received in messages(5):
        clock.observe(stamp, received)
        assert not clock.waiting and not clock.differs
    for _ in range(5):
        clock.observe(10**9 * S, received)      # a wild one is not believed, but noticed
        assert clock.waiting and not clock.differs
        received += 20 * MS
        clock.observe(received, received)
        assert not clock.waiting
    assert clock.settled and -5 * MS < clock.offset_ns <= 0


def test_corrected_stamps_keep_the_spacing_of_the_driver() -> None:
    clock, shifted, arrived = StreamClock(), [], []
    for stamp, received in messages(20, offset_ns=-500 * S, jitter_ns=60 * MS):
        clock.observe(stamp, received)
        if clock.differs:
            shifted.append(clock.shifted(stamp))
            arrived.append(received)
    spacing = [b - a for a, b in zip(shifted, shifted[1:])]
    jitter = [b - a for a, b in zip(arrived, arrived[1:])]
    assert max(abs(d - S // 30) for d in spacing[60:]) < 2 * MS
    assert max(abs(d - S // 30) for d in jitter) > 50 * MS
    assert all(-S < s - r < 10 * MS for s, r in zip(shifted, arrived))


def test_drift_is_followed_without_a_step() -> None:
    clock, worst, last = StreamClock(), 0, None
    for stamp, received in messages(600, rate_hz=10, offset_ns=100 * S, drift=200e-6):
        clock.observe(stamp, received)
        now = clock.shifted(stamp)
        if clock.settled and last is not None:
            assert now > last
            worst = max(worst, abs(now - received) if now > received else 0)
        last = now
    assert clock.jumps == 0
    assert abs(clock.offset_ns - (100 * S + 600 * S * 200e-6)) < 10 * MS
    assert worst < 10 * MS


def test_one_wild_stamp_and_a_stall_change_nothing() -> None:
    clock = StreamClock()
    changes = 0
    for i, (stamp, received) in enumerate(messages(20, jitter_ns=5 * MS)):
        if i in (100, 101, 300):
            stamp += 5000 * S
        if 200 <= i < 290:                      # three seconds held up, then all at once
            received = round((1e9 + 290 / 30) * S) + i
        changes += clock.observe(stamp, received)
    assert changes == 1                         # it became known, once
    assert not clock.differs and clock.jumps == 0 and abs(clock.offset_ns) < 10 * MS


def test_a_jump_of_the_clock_is_a_new_offset_after_a_second() -> None:
    clock = StreamClock()
    pairs = list(messages(20, jitter_ns=5 * MS))
    found_at = None
    for i, (stamp, received) in enumerate(pairs):
        clock.observe(stamp - (90 * S if i >= 300 else 0), received)
        if clock.jumps and found_at is None:
            found_at = i
    assert clock.jumps == 1 and clock.differs and found_at is not None
    assert 300 + 29 <= found_at <= 300 + 35
    assert abs(clock.offset_ns + 90 * S) < 10 * MS
    assert abs(clock.shifted(pairs[-1][0] - 90 * S) - pairs[-1][0]) < 10 * MS


def test_a_stream_that_begins_with_a_backlog_settles_on_the_truth() -> None:
    clock = StreamClock()
    for i in range(10):
        clock.observe(1000 * S + i * S, 1010 * S + i * MS)   # ten old messages within 10 ms
        assert clock.waiting or abs(clock.offset_ns) < S
    for stamp, received in messages(5, begin_s=1010, jitter_ns=MS):
        clock.observe(stamp, received)
    assert clock.settled and not clock.differs and abs(clock.offset_ns) < 10 * MS


def test_before_enough_was_seen_a_foreign_clock_is_waited_for() -> None:
    clock = StreamClock()
    assert not clock.observe(5 * S, 1000 * S)
    assert clock.waiting and not clock.settled and clock.offset_ns == -995 * S
    clock.observe(5 * S + 200 * MS, 1000 * S + 200 * MS)
    assert clock.observe(5 * S + 400 * MS, 1000 * S + 400 * MS)
    assert clock.differs and not clock.waiting
    clock.clear()
    assert not clock.settled and not clock.differs and clock.offset_ns == 0
    with pytest.raises(ValueError, match='tolerance_ns'):
        StreamClock(0)


def test_sound_that_is_stamped_by_its_arrival_has_no_gaps() -> None:
    joined = Continued()
    begins = [joined.begin(10 * S + i * 100 * MS + (i % 3) * 30 * MS, 100 * MS) for i in range(20)]
    assert [b - a for a, b in zip(begins, begins[1:])] == [100 * MS] * 19
    assert joined.begin(20 * S, 100 * MS) == 20 * S - 100 * MS  # a pause
