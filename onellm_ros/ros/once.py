"""Says what is wrong once, however often it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import re
from threading import Lock
from typing import Any

_BYTES = re.compile(r'\b[0-9a-f]{2}( [0-9a-f]{2})+\b')
_NUMBER = re.compile(r'[-+]?\d[\d.,]*(e[-+]?\d+)?')
_TEXTS = 12     # of one kind; what comes after them is only counted
_KINDS = 200    # topics and the like; there are never so many


@dataclass
class Once:
    """Says each kind of thing once; texts that differ in numbers alone are of one kind.

    Garbage can make a text of its own out of every message, or a name: after a dozen texts about
    one topic the others are not said, and after 200 topics nothing about further ones; both are
    told with the last text that is said. Several threads may call it; ``say`` is called by one at
    a time, in the order in which things were found, and must not call back.
    """

    say: Callable[[str], Any]
    told: set[tuple[str, str]] = field(default_factory=set)
    texts: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def __call__(self, kind: str, text: str) -> None:
        """Say ``text`` about ``kind`` (a topic, mostly), if that is new."""
        key = (kind, _NUMBER.sub('#', _BYTES.sub('#', text)))
        with self._lock:
            known = kind in self.texts
            if key in self.told or self.texts[kind] >= _TEXTS or (
                    not known and len(self.texts) >= _KINDS):
                return
            self.told.add(key)
            self.texts[kind] += 1
            end = 'said once; counted in /diagnostics'
            if self.texts[kind] == _TEXTS:
                end += '; no more is said about it'
            if not known and len(self.texts) == _KINDS:
                end += (f'; it is the {_KINDS}th thing with something wrong, and nothing is said '
                        'about further ones')
            self.say(f'{kind}: {text} ({end})')
