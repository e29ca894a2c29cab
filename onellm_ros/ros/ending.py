"""How the node's process ends: on SIGINT or SIGTERM whoever has asked is told before it goes.

rclpy's own handlers end the context at once, and nothing could be sent any more. Here a signal is
a wish, which is granted between two callbacks: the node is deactivated, the questions that waited
get their replies, then the context ends. Where a callback takes long (a model is being loaded) the
process leaves from the signal's handler: an exception would have to go through the C++ below it.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import signal
import sys
import time
from typing import Any

from rclpy.executors import Executor

from onellm_ros.ros.scripts import SIGNALS

_INSIST_S = 0.5     # what has not come back to the executor by then is left as it is
_AGAIN_S = 1.0      # a signal so much later is a second wish (Ctrl-C often comes twice at once)
_FAREWELL_S = 1.0   # for the last replies, at most
_SENT_S = 0.1       # what has been handed to the middleware is on its way by then
_SPIN_S = 0.1


class Ending:
    """The wish that the process ends; a context manager of the main thread.

    :param leave: called from the signal's handler, before the process is left with code 0, if
        nothing has come back to :meth:`spin` half a second after the first signal, or at another.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.asked = False
        self._leave = leave
        self._asked_s = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: self._go())
        return self

    def __exit__(self, *_: object) -> None:
        self._heard()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        now_s = time.monotonic()
        if not self.asked:
            self.asked, self._asked_s = True, now_s
            signal.setitimer(signal.ITIMER_REAL, _INSIST_S)
        elif now_s - self._asked_s > _AGAIN_S:
            self._go()

    def _go(self) -> None:
        try:
            self._leave()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)

    def _heard(self) -> None:
        """Insist no more."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def spin(self, executor: Executor) -> None:
        """Spin until the end is asked for, or the context is shut down by someone else."""
        while not self.asked and executor.context.ok():
            executor.spin_once(timeout_sec=_SPIN_S)
        self._heard()

    def farewell(self, executor: Executor, node: Any) -> None:
        """End what a node does and send what it owes.

        :param node: has ``close()``, which ends what it does, and ``owed``, the count of those who
            wait for a reply.
        """
        self._heard()
        node.close()
        begin_s = time.monotonic()
        while executor.context.ok() and time.monotonic() < begin_s + _FAREWELL_S:
            executor.spin_once(timeout_sec=0.02)
            if not node.owed and time.monotonic() > begin_s + _SENT_S:
                break
