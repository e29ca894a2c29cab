"""How the node's process ends: on SIGINT or SIGTERM whoever has asked is told before it goes.

rclpy's own handlers end the context at once, and nothing could be sent any more. Here a signal is
a wish, which is granted between two callbacks: the node is deactivated, the questions that waited
get their replies, then the context ends. Where something takes long (a model is being loaded) the
same is done from the signal's handler: an exception would have to go through the C++ below it.
"""

from __future__ import annotations

from contextlib import suppress
import os
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import Executor

from onellm_ros.ros.scripts import SIGNALS

_INSIST_S = 0.5     # what has not come back to the executor by then is left as it is
_AGAIN_S = 1.0      # a signal so much later is a second wish (Ctrl-C often comes twice at once)
_FAREWELL_S = 1.0   # for the last replies, at most
_SENT_S = 0.1       # what has been handed to the middleware is on its way by then
_SPIN_S = 0.1


class Ending:
    """The wish that the process ends; a context manager of the main thread.

    Where nothing has come back to :meth:`spin` half a second after the first signal, and at
    another one, the process is left from the signal's handler, with code 0, after farewell.

    Attributes, to be set as soon as they exist: ``executor``, and ``node``, which has ``close()``
    (ends what it does), ``owed`` (how many wait for a reply) and ``destroy_node()``.
    """

    def __init__(self) -> None:
        self.asked = False
        self.executor: Executor | None = None
        self.node: Any = None
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
            with suppress(Exception):       # in whatever it was interrupted, it ends now
                self.farewell()
            self.leave()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)

    def _heard(self) -> None:
        """Insist no more."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def spin(self) -> None:
        """Spin until the end is asked for, or the context is shut down by someone else."""
        assert self.executor is not None
        while not self.asked and self.executor.context.ok():
            self.executor.spin_once(timeout_sec=_SPIN_S)
        self._heard()

    def farewell(self) -> None:
        """End what the node does and send what it owes."""
        self._heard()
        executor = self.executor
        if self.node is None or executor is None:
            return
        self.node.close()
        begin_s = time.monotonic()
        while executor.context.ok() and time.monotonic() < begin_s + _FAREWELL_S:
            executor.spin_once(timeout_sec=0.02)
            if not self.node.owed and time.monotonic() > begin_s + _SENT_S:
                break

    def leave(self) -> None:
        """End node and context."""
        if self.executor is not None:
            self.executor.shutdown(timeout_sec=0.2)
        if self.node is not None:
            self.node.destroy_node()
        rclpy.try_shutdown()
