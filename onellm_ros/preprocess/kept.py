"""What was made of samples, kept so that windows that share a sample do not make it again.

A sample is known by its identity, never by its values: a window's samples are not changed, and
overlapping windows hold the same objects. What belongs to a sample that is gone is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
import threading
from typing import Any, NamedTuple
import weakref

from onellm_ros.modality import Sample

Ref = weakref.ref[Sample]


class Frame(NamedTuple):
    """A picture made of one sample.

    :param kind: what it shows: ``rgb``, ``depth``, ``normal`` or ``derived`` (normals of depth).
    :param maker: whose settings made it.
    """

    kind: str
    maker: Hashable
    sample: Ref


@dataclass(frozen=True)
class Origin:
    """What a model input was made of.

    :param key: equal for inputs that were made alike of the same samples.
    :param samples: of these samples (or of the oldest of many); without them it cannot recur.
    :param frames: of a picture modality what each of its frames is.
    """

    key: Hashable
    samples: tuple[Ref, ...]
    frames: tuple[Frame, ...] = ()


class Kept:
    """Values by key, those used last, of so many bytes at most; for any number of threads.

    A copy or a pickle of it is empty.

    :param limit: bytes; a value that is larger is not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Any, int, tuple[Ref, ...]]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return type(self), (self.limit,)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any | None:
        """Return the value, or None."""
        with self._lock:
            if not _lives(key):
                return None
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size: int, samples: tuple[Ref, ...]) -> None:
        """Keep a value of ``size`` bytes for as long as all of ``samples`` live."""
        with self._lock:
            if not _lives(key):
                return
            gone = [k for k, (_, _, refs) in self._values.items()
                    if any(ref() is None for ref in refs)]
            for old in (*gone, key):
                self._drop(old)
            if size > self.limit:
                return
            self._values[key] = value, size, samples
            self.bytes += size
            while self.bytes > self.limit:
                self._drop(next(iter(self._values)))

    def _drop(self, key: Hashable) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self.bytes -= found[1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.bytes = 0


def _lives(key: Hashable) -> bool:
    """Say whether a key can be looked up: none of its samples has gone before that was tried."""
    try:
        hash(key)
    except TypeError:                   # of a weak reference to what is gone
        return False
    return True
