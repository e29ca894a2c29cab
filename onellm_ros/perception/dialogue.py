"""Dialogues: the last questions and answers under a name, which go before the next question.

This module owns how many turns and dialogues are remembered, and for how long. Times are seconds
of a steady clock. Safe for several threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import threading
import time

from onellm_ros.node_config import AskConfig

Turn = tuple[str, str]


class Dialogue:
    """The turns under one name.

    One that was forgotten meanwhile takes turns still; nobody will see them.
    """

    def __init__(self) -> None:
        self.turns: tuple[Turn, ...] = ()
        self.used_s = 0.0


class Dialogues:
    """Remembers dialogues by name; the one unused for longest goes first.

    :param clock: returns seconds of a steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Dialogue] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def open(self, name: str, settings: AskConfig) -> Dialogue:
        """Return the dialogue of a name, a new one where none is remembered."""
        now_s = self._clock()
        with self._lock:
            for other, dialogue in list(self._known.items()):
                if now_s - dialogue.used_s > settings.conversation_s:
                    del self._known[other]
            found = self._known.setdefault(name, Dialogue())
            self._known.move_to_end(name)
            found.used_s = now_s
            found.turns = found.turns[-settings.turns:] if settings.turns else ()
            while len(self._known) > settings.conversations:
                self._known.popitem(last=False)
            return found

    def add(self, dialogue: Dialogue, question: str, answer: str, settings: AskConfig) -> None:
        """Remember a turn that has been answered."""
        with self._lock:
            dialogue.used_s = self._clock()
            kept = settings.turns
            dialogue.turns = (*dialogue.turns, (question, answer))[-kept:] if kept else ()

    def forget(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._known.clear()
