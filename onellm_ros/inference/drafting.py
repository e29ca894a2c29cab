"""Guesses at what comes next, from what was said to the same prompt before.

A robot's windows resemble each other, and so do their descriptions. A model that computes some
tokens for little more than one checks a guess with the token that it computes anyway; what it
would not have said itself is thrown away, so an answer is the same with guesses and without.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
import threading

PROMPTS, ANSWERS = 16, 4    # prompts whose answers are kept, and how many of each
_LONGEST = 512              # tokens of an answer that are kept
_BEGIN, _MORE = 2, 2        # tokens guessed at first, and by how many more after a right guess
_PATIENCE = 2               # wrong guesses in a row before one token alone is no hint any more

_Grams = dict[tuple[int, ...], list[int]]


class _Said:
    """An earlier answer, and where its runs of one and of two tokens end."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids[:_LONGEST])
        self.ends: _Grams = {}
        for end in range(1, len(self.ids)):         # behind the last there is nothing to guess
            for size in (1, 2):
                if size <= end:
                    self.ends.setdefault(tuple(self.ids[end - size:end]), []).append(end)


class Drafts:
    """Earlier answers by prompt; may be used by several threads.

    Attributes: ``most`` (tokens of a guess at most; 0: none is made), ``proposed`` and
    ``accepted`` (tokens guessed so far, and those of them that were right).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.proposed = self.accepted = 0
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[int, ...], deque[_Said]] = OrderedDict()

    def of(self, prompt: Sequence[int]) -> Draft:
        """Return the guesses for one answer to a prompt (its ids)."""
        key = tuple(prompt)
        with self._lock:
            if key in self._said:
                self._said.move_to_end(key)
            return Draft(self, key, tuple(self._said.get(key, ())))

    def forget(self) -> None:
        """Forget all earlier answers; the counts stay."""
        with self._lock:
            self._said.clear()

    def _note(self, proposed: int, accepted: int) -> None:
        with self._lock:
            self.proposed += proposed
            self.accepted += accepted

    def _keep(self, key: tuple[int, ...], ids: Sequence[int]) -> None:
        said = _Said(ids)
        with self._lock:
            self._said.setdefault(key, deque(maxlen=ANSWERS)).appendleft(said)
            self._said.move_to_end(key)
            while len(self._said) > PROMPTS:
                self._said.popitem(last=False)


class Draft:
    """The guesses for one answer; it learns how far they can be trusted."""

    def __init__(self, drafts: Drafts, key: tuple[int, ...], earlier: tuple[_Said, ...]) -> None:
        self._drafts, self._key, self._earlier = drafts, key, earlier
        self._room, self._misses = _BEGIN, 0

    def guess(self, said: Sequence[int], most: int) -> list[int]:
        """Return what may come behind ``said``: ``most`` tokens or fewer, often none."""
        most = min(most, self._room, self._drafts.most)
        if most < 1 or not self._earlier:
            return []
        if not said:
            return self._earlier[0].ids[:most]
        for size in (2, 1) if self._misses < _PATIENCE else (2,):
            key = tuple(said[-size:])
            for other in self._earlier:
                ends = other.ends.get(key)
                if ends and len(key) == size:       # of several places the one nearest to ours
                    end = min(ends, key=lambda place: abs(place - len(said)))
                    return other.ids[end:end + most]
        return []

    def judge(self, guessed: int, right: int) -> None:
        """Learn that of so many guessed tokens so many were right."""
        if not guessed:
            return
        self._drafts._note(guessed, right)
        self._room = self._room + _MORE if right == guessed else max(1, right)
        self._misses = 0 if right else self._misses + 1

    def keep(self, said: Sequence[int]) -> None:
        """Keep a whole answer for those that come; its last token ends it, if one does."""
        if self._drafts.most and said:
            self._drafts._keep(self._key, said)
