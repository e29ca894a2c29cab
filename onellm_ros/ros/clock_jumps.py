"""The node's clock when it jumps back: a bag that loops, a simulation that is reset.

/clock and the messages come by different ways: after a jump back of the clock windows of the time
before may still be closed. This module owns noticing the jump, and telling those windows.
"""

from __future__ import annotations

from collections.abc import Callable
import time

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

_TOLD_S = 5.0       # so long after a jump (steady clock) windows of the time before may come


class ClockJumps:
    """Watches a node's clock while it exists; call :meth:`close` to end.

    :param on_back: called when the clock has jumped back by a second or more.
    """

    def __init__(self, node: Node, on_back: Callable[[], None]) -> None:
        self._clock = node.get_clock()
        self._on_back = on_back
        self._before_ns = 0
        self._until_s = 0.0
        self._handle = self._clock.create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1),
                          on_clock_change=False), post_callback=self._jumped)

    def _jumped(self, jump: TimeJump) -> None:
        self._before_ns = self._clock.now().nanoseconds - jump.delta.nanoseconds
        self._until_s = time.monotonic() + _TOLD_S
        self._on_back()

    def is_stale(self, end_ns: int) -> bool:
        """Tell whether a window that closes now is of the time before a jump."""
        return time.monotonic() < self._until_s and (
            abs(end_ns - self._before_ns) < abs(end_ns - self._clock.now().nanoseconds))

    def close(self) -> None:
        """End it."""
        self._handle.unregister()
