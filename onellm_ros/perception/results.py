"""Questions, answers and descriptions as records, and what the worker needs of an engine.

This module owns plain data that ``worker.py`` makes and ``outputs.py`` turns into messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import math
import threading
import time
from typing import Any, Protocol

from onellm_ros.choose import Selection
from onellm_ros.modality import Modality


class EngineLike(Protocol):
    """What the worker needs of ``inference.engine.Engine``."""

    name: str
    weights_hash: str
    config: Any
    preprocessor: Any

    def encode(self, tensors: Mapping[Modality, Any]) -> Any:
        """Encode a window's inputs into a prefix."""

    def ask(self, prefix: Any, question: str, *, choices: Sequence[str] = (),
            max_tokens: int = 48, temperature: float = 0.0,
            cancel: threading.Event | None = None) -> Any:
        """Answer a question behind a prefix."""


def model_text(engine: EngineLike) -> str:
    """Return name and short hash of the weights, such as ``nano@1a2b3c4d``.

    Of quantized weights it ends in their type: ``nano@1a2b3c4d+int8``.
    """
    short, mark, kind = engine.weights_hash.partition('+')
    return f'{engine.name}@{short[:8]}{mark}{kind}' if short else engine.name


@dataclass(frozen=True)
class Question:
    """A question as it was checked.

    :param modalities: what may be looked at; None: all that the window has.
    :param sources: names of the sources to look at; empty: of each modality the first.
    :param conversation: name of the dialogue that it belongs to; empty: it stands alone.
    :param at_ns: the newest window that ended by then; 0: the newest.
    :param on_delta: called with each piece of text and the count of tokens, by the worker.
    """

    text: str
    modalities: frozenset[Modality] | None = None
    at_ns: int = 0
    choices: tuple[str, ...] = ()
    max_tokens: int = 64
    temperature: float = 0.0
    sources: tuple[str, ...] = ()
    conversation: str = ''
    on_delta: Callable[[str, int], None] | None = None


@dataclass(frozen=True, eq=False)
class Described:
    """A description and how it came about; times are seconds of a steady clock.

    :param answer: None where the model could see nothing of the window.
    :param left_out: modalities that gave the model no input, and why.
    """

    selection: Selection
    prompt: str
    answer: Any
    weights: Mapping[Modality, Sequence[float]]
    model: str
    skipped: int
    encode_s: float
    first_token_s: float
    total_s: float
    left_out: Mapping[Modality, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer, or why there is none.

    :param error: name of an error code of Ask.srv; NONE: ``answer`` holds the answer.
    """

    error: str = 'NONE'
    error_msg: str = ''
    selection: Selection | None = None
    answer: Any = None
    finish_reason: str = ''
    weights: Mapping[Modality, Sequence[float]] = field(default_factory=dict)
    model: str = ''
    queue_s: float = 0.0
    encode_s: float = 0.0
    first_token_s: float = math.nan
    total_s: float = 0.0


@dataclass
class WorkerStats:
    """Counts since the worker was made; times are those of the newest description.

    Several threads count: what they change goes through the methods.

    :param undescribed_s: how long windows have come without a description, beyond the pause that
        ``describe.rate_hz`` and ``describe.min_interval_s`` make.
    :param interrupted: descriptions beside which, or in whose midst, a question was answered.
    :param failure: why the newest work failed; empty once a description has succeeded.
    :param last_error: why any work last failed, at ``last_error_s`` of the monotonic clock.
    :param left_out: modalities of described windows that gave the model no input.
    :param described_s: when the newest description was ready, on the monotonic clock.
    :param kept: windows held for questions, ``kept_bytes`` their memory, ``kept_dropped`` those
        that went for want of memory, ``kept_span_ns`` the ends of the oldest and the newest.
    """

    described: int = 0
    skipped: int = 0
    interrupted: int = 0
    empty: int = 0
    left_out: int = 0
    failed: int = 0
    failure: str = ''
    last_error: str = ''
    last_error_s: float = math.nan
    answered: int = 0
    refused: int = 0
    waiting: int = 0
    conversations: int = 0
    encode_s: float = math.nan
    decode_s: float = math.nan
    tokens_per_s: float = math.nan
    described_s: float = math.nan
    kept: int = 0
    kept_bytes: int = 0
    kept_dropped: int = 0
    kept_span_ns: tuple[int, int] | None = None
    undescribed_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, name: str, more: int = 1) -> None:
        """Count ``name`` up."""
        with self._lock:
            setattr(self, name, getattr(self, name) + more)

    def fail(self, text: str) -> None:
        """Note why work failed."""
        self.count('failed')
        self.failure = self.last_error = text
        self.last_error_s = time.monotonic()

    def succeed(self, found: Described) -> None:
        """Note a description."""
        self.count('described')
        self.failure = ''
        self.described_s = time.monotonic()
        self.encode_s, self.decode_s = found.encode_s, found.total_s - found.encode_s
        self.tokens_per_s = found.answer.tokens / max(self.decode_s, 1e-9)
