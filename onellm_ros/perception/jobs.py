"""A question on its way to an answer: its future, its end, and the look that an engine takes.

This module owns when a question shall wait no longer, and that it gets one reply, from whichever
thread has it first.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
import math
import threading
import time

from onellm_ros.perception.results import Question, Reply

STOPPED = 'CANCELLED', 'the node was deactivated meanwhile'


class Cancel(threading.Event):
    """Set by hand, or by itself at a time of the monotonic clock.

    An engine looks at it before each token; ``looked_s`` says when it last did (monotonic).
    """

    def __init__(self, until_s: float = math.inf) -> None:
        super().__init__()
        self.until_s = until_s
        self.looked_s = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether it is set; nobody has looked by this."""
        return super().is_set() or time.monotonic() > self.until_s

    def is_set(self) -> bool:
        """Return whether it is set, and note that someone looked."""
        self.looked_s = time.monotonic()
        return self.over


@dataclass(eq=False)
class Job:
    """A question that was asked.

    :param asked_s: when, on the monotonic clock.
    :param over_s: when it was first seen that its end had come while it was being answered.
    """

    question: Question
    cancel: Cancel
    asked_s: float
    future: Future[Reply] = field(default_factory=Future)
    over_s: float = math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _replied: bool = False

    def refusal(self, code: str, text: str, model: str) -> Reply:
        """Return the reply of a model that has not been asked."""
        waited_s = time.monotonic() - self.asked_s
        return Reply(code, text, model=model, queue_s=waited_s, total_s=waited_s)

    def why_ended(self, stopping: bool, timeout_s: float) -> tuple[str, str]:
        """Return code and text of why it has ended without an answer.

        :param stopping: whether the node is being deactivated.
        """
        if stopping:
            return STOPPED
        if time.monotonic() > self.cancel.until_s:
            return 'TIMEOUT', f'not answered within ask.timeout_s of {timeout_s} s'
        return 'CANCELLED', 'cancelled by the client'

    def reply(self, reply: Reply) -> bool:
        """Give the question its reply; False if it had one already."""
        with self._lock:
            if self._replied:
                return False
            self._replied = True
        self.future.set_result(reply)
        return True
