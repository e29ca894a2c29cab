"""Says what is wrong once, however often it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import re
from typing import Any

_BYTES = re.compile(r'\b[0-9a-f]{2}( [0-9a-f]{2})+\b')
_NUMBER = re.compile(r'[-+]?\d[\d.,]*(e[-+]?\d+)?')
_TEXTS = 12     # of one kind; what comes after them is only counted
_KINDS = 200    # topics and the like; there are never so many


@dataclass
class Once:
    """Says each kind of thing once; texts that differ in numbers alone are of one kind.

    Garbage can make a text of its own out of every message: after a dozen texts about one topic
    the others are not said.
    """

    say: Callable[[str], Any]
    told: set[tuple[str, str]] = field(default_factory=set)
    texts: Counter[str] = field(default_factory=Counter)

    def __call__(self, kind: str, text: str) -> None:
        """Say ``text`` about ``kind`` (a topic, mostly), if that is new."""
        key = (kind, _NUMBER.sub('#', _BYTES.sub('#', text)))
        if key in self.told or self.texts[kind] >= _TEXTS or len(self.texts) > _KINDS:
            return
        self.told.add(key)
        self.texts[kind] += 1
        end = 'said once; counted in /diagnostics'
        if self.texts[kind] == _TEXTS:
            end += '; no more is said about it'
        self.say(f'{kind}: {text} ({end})')
