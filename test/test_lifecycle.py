"""Memory before and after a model, the clock of deadlines, and the node's lives with a model."""

from __future__ import annotations

from onellm_ros.perception.pausing import PausingClock

S = 1_000_000_000


class Times:
    sim: int | None = None
    wall = 1000 * S


def pausing() -> tuple[Times, PausingClock]:
    times = Times()
    return times, PausingClock(lambda: times.sim, lambda: times.wall)


def test_without_simulated_time_deadlines_are_on_the_wall_clock() -> None:
    times, clock = pausing()
    begin = clock()
    times.wall += 3 * S
    assert clock() == begin + 3 * S and clock.paused_s == 0


def test_deadlines_stand_still_with_simulated_time_and_go_at_its_pace() -> None:
    times, clock = pausing()
    times.sim = 50 * S
    begin = clock()
    for _ in range(100):                        # an hour's pause
        times.wall += 36 * S
        assert clock() == begin
    assert clock.paused_s == 3600
    times.sim += S // 2                         # it goes on as if nothing had been
    assert clock() == begin + S // 2 and clock.paused_s == 0
    times.wall += S
    times.sim += 10 * S                         # ten times as fast
    assert clock() == begin + S // 2 + 10 * S


def test_deadlines_never_go_back_when_simulated_time_jumps() -> None:
    times, clock = pausing()
    times.sim = 5000 * S
    begin = clock()
    times.wall, times.sim = times.wall + S // 10, 3 * S           # a bag that loops
    assert clock() == begin + S // 10
    times.wall, times.sim = times.wall + S // 10, 90_000 * S      # and one that leaps
    assert clock() == begin + S // 5
    times.wall, times.sim = times.wall + S // 10, times.sim + S // 10
    assert clock() == begin + 3 * S // 10
    times.wall, times.sim = times.wall + 2 * S, None              # simulated no longer
    assert clock() == begin + 23 * S // 10
