"""The clock of deadlines: steady, and standing still while simulated time stands still.

A window waits ``window.deadline_s`` for an input that is silent. When a simulation or a bag is
paused, every input is silent, and none of them is late: a deadline on the wall clock would close
the window half full, and count as late what comes after the pause. So where time is simulated,
deadlines are on simulated time; a slow simulation gets the time that it needs, too.
"""

from __future__ import annotations

from collections.abc import Callable
import time

_JUMP_NS = 60_000_000_000       # simulated time that moves further at once has jumped


class PausingClock:
    """Nanoseconds that never go back; call it some 20 times a second.

    :param simulated: returns the simulated time, None where time is not simulated (or nobody has
        said what time it is).
    :param steady: returns steady nanoseconds of the wall clock.
    """

    def __init__(self, simulated: Callable[[], int | None],
                 steady: Callable[[], int] = time.monotonic_ns) -> None:
        self._simulated, self._steady = simulated, steady
        self._sim = simulated()
        self._wall = self._moved = self._now = steady()

    def __call__(self) -> int:
        """Return the time: that of the wall goes on, simulated time only as it moves.

        Across a jump of simulated time it goes on as the wall clock does.
        """
        sim, wall = self._simulated(), self._steady()
        if sim is None or self._sim is None:
            self._now += wall - self._wall
            self._moved = wall
        elif sim != self._sim:
            step = sim - self._sim
            self._now += step if 0 < step <= _JUMP_NS else wall - self._wall
            self._moved = wall
        self._sim, self._wall = sim, wall
        return self._now

    @property
    def paused_s(self) -> float:
        """Seconds of the wall clock that simulated time has stood still; 0 where it is real."""
        return (self._steady() - self._moved) / 1e9 if self._sim is not None else 0.0
