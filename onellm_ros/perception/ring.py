"""The last windows, for questions about the past: so many at most, and so many bytes at most.

Windows overlap (a microphone's last ten seconds stand in ten windows of a second), and arrays are
views of messages: each piece of memory is counted once, at its full size. Not for two threads at
once: its user locks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from onellm_ros.choose import Selection
from onellm_ros.modality import Sample

MIB = 1 << 20


def _memory(data: Any) -> tuple[int, int]:
    """Return identity and size in bytes of the memory that an array keeps alive."""
    while True:
        below = data.obj if isinstance(data, memoryview) else getattr(data, 'base', None)
        if below is None:
            break
        data = below
    size = getattr(data, 'nbytes', None)
    if size is None:
        size = len(data) * getattr(data, 'itemsize', 1)
    return id(data), int(size)


def _samples(selection: Selection) -> Iterator[Sample]:
    """Yield every sample that a window keeps alive, some of them twice."""
    for samples in selection.samples.values():
        yield from samples
    for offer in selection.offers:
        yield from offer.samples


def memory_of(selection: Selection) -> dict[int, int]:
    """Return identity -> bytes of every piece of memory that a window keeps alive."""
    return dict(_memory(sample.data) for sample in _samples(selection))


class Ring:
    """Keeps the newest windows; the oldest go first, the newest always stays.

    :param kept: windows at most.
    :param most_bytes: bytes at most that their samples take.

    Attributes: ``bytes`` (held now), ``dropped`` (windows that went for want of memory).
    """

    def __init__(self, kept: int, most_bytes: int) -> None:
        self._kept, self._most = kept, most_bytes
        self._windows: deque[tuple[Selection, dict[int, int]]] = deque()
        self._users: dict[int, int] = {}
        self.bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._windows)

    def __bool__(self) -> bool:
        return bool(self._windows)

    def add(self, selection: Selection) -> None:
        """Keep a window, newer than all before it."""
        memory = memory_of(selection)
        self._windows.append((selection, memory))
        for key, size in memory.items():
            users = self._users.get(key, 0)
            self._users[key] = users + 1
            if not users:
                self.bytes += size
        while len(self._windows) > 1 and (
                len(self._windows) > self._kept or self.bytes > self._most):
            self.dropped += len(self._windows) <= self._kept
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, memory = self._windows.popleft()
        for key, size in memory.items():
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self.bytes -= size

    def clear(self) -> None:
        """Forget all windows; the count of those dropped stays."""
        self._windows.clear()
        self._users.clear()
        self.bytes = 0

    def find(self, at_ns: int = 0) -> Selection | None:
        """Return the newest window that ended by ``at_ns`` (0: the newest), None without one."""
        for selection, _ in reversed(self._windows):
            if not at_ns or selection.end_ns <= at_ns:
                return selection
        return None

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Ends of the oldest and of the newest window held; None without any."""
        return (self._windows[0][0].end_ns, self._windows[-1][0].end_ns) if self._windows else None


def not_kept(at_ns: int, span_ns: tuple[int, int]) -> str:
    """Say why there is no window of ``at_ns``; the windows kept end within ``span_ns``."""
    first, last = (end / 1e9 for end in span_ns)
    return (f'no window is kept that ended by {at_ns / 1e9:.3f} s; the windows kept ended from '
            f'{first:.3f} to {last:.3f} s (window.kept, window.kept_mb)')
