"""The thread that computes: the newest window is described, questions go first, nothing queues up.

This module owns the slot for the newest window, the few questions that wait, and the windows kept
for questions about the past. It imports no ROS: results leave through callbacks and futures, which
are never called while the lock is held.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
import math
import threading
import time
from typing import Any

from onellm_ros.choose import Selection
from onellm_ros.modality import Modality
from onellm_ros.node_config import AskConfig, DescribeConfig
from onellm_ros.ros.results import (
    Described,
    EngineLike,
    Question,
    Reply,
    WorkerStats,
    model_text,
)

_PREFIXES_KEPT = 2
_JOIN_S = 1.5
# Whatever a model does to its inputs, the thread lives on and says so.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError,
             MemoryError, OSError, RuntimeError, TypeError, ValueError)
# How an engine's errors begin that are about what was asked.
_CODES = {'question:': 'INVALID_QUESTION', 'choices:': 'INVALID_CHOICES'}


class _Cancel(threading.Event):
    """Set by hand, or by itself at a time of the monotonic clock."""

    def __init__(self, until_s: float = math.inf) -> None:
        super().__init__()
        self.until_s = until_s

    def is_set(self) -> bool:
        return super().is_set() or time.monotonic() > self.until_s


class _AskError(Exception):
    """A question that cannot be answered: name of the error code, and text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(eq=False)
class _Job:
    question: Question
    future: Future[Reply]
    asked_s: float
    cancel: _Cancel


class Worker:
    """One thread around one engine.

    :param modalities: what the model may be shown.
    :param kept: windows kept for questions.
    :param on_description: called by the worker's thread with each description.
    :param on_trouble: called by the worker's thread with a kind and a text.
    :param why_silent: returns what is known about the inputs when no window is there.
    """

    def __init__(self, engine: EngineLike, modalities: frozenset[Modality], *, kept: int,
                 on_description: Callable[[Described], None],
                 on_trouble: Callable[[str, str], None],
                 why_silent: Callable[[], str] = lambda: '') -> None:
        self.engine = engine
        self.model = model_text(engine)
        self.describe = DescribeConfig()
        self.asking = AskConfig()
        self.stats = WorkerStats()
        self._modalities = modalities
        self._on_description = on_description
        self._on_trouble = on_trouble
        self._why_silent = why_silent
        self._changed = threading.Condition()
        self._windows: deque[Selection] = deque(maxlen=kept)
        self._slot: Selection | None = None
        self._questions: deque[_Job] = deque()
        self._skipped_since = 0
        self._prefixes: OrderedDict[Any, tuple[Any, Mapping[Modality, str]]] = OrderedDict()
        self._stopping = False
        self._current = _Cancel()
        self._answering: Future[Reply] | None = None
        self._thread = threading.Thread(target=self._run, name='onellm-worker', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread; what is being generated stops within a token, questions are cancelled.

        :returns: whether the thread has ended.
        """
        with self._changed:
            self._stopping = True
            self._current.set()
            waiting = list(self._questions)
            self._questions.clear()
            self._slot = None
            self._changed.notify_all()
        for job in waiting:
            self._finish(job, Reply('CANCELLED', 'the node was deactivated meanwhile'))
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    # -- called by the node's executor --------------------------------------------------------

    def submit(self, selection: Selection) -> None:
        """Hand over a window that closed; an older one that still waits is skipped."""
        with self._changed:
            self._windows.append(selection)
            if self.describe.enabled:
                if self._slot is not None:
                    self.stats.skipped += 1
                    self._skipped_since += 1
                self._slot = selection
            self._changed.notify_all()

    def forget(self) -> None:
        """Forget all windows (time jumped back)."""
        with self._changed:
            self._windows.clear()
            self._slot = None

    def ask(self, question: Question) -> Future[Reply]:
        """Ask; the future always gets a reply, never an exception."""
        now_s = time.monotonic()
        job = _Job(question, Future(), now_s, _Cancel(now_s + self.asking.timeout_s))
        with self._changed:
            if self._stopping:
                reply = Reply('NOT_ACTIVE', 'the node is not active')
            elif len(self._questions) >= self.asking.waiting:
                reply = Reply('REJECTED', f'{len(self._questions)} questions are waiting already; '
                              'ask again when one has been answered')
            else:
                self._questions.append(job)
                self._changed.notify_all()
                return job.future
        self._finish(job, reply)
        return job.future

    def cancel(self, future: Future[Reply]) -> None:
        """Stop answering the question of ``future`` within a token."""
        with self._changed:
            for job in self._questions:
                if job.future is future:
                    job.cancel.set()
            if self._answering is future:
                self._current.set()
            self._changed.notify_all()

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                job = self._next_job()
                while job is None and self._slot is None and not self._stopping:
                    self._changed.wait(0.05 if self._questions else 0.5)
                    job = self._next_job()
                if self._stopping:
                    if job is not None:
                        self._questions.append(job)
                    break
                selection, skipped = self._slot, self._skipped_since
                if job is None:
                    self._slot, self._skipped_since = None, 0
                    self._current = _Cancel()
                else:
                    self._current = job.cancel
                    self._answering = job.future
            if job is not None:
                self._finish(job, self._reply(job))
            elif selection is not None:
                self._describe(selection, skipped)
        for job in list(self._questions):
            self._finish(job, Reply('CANCELLED', 'the node was deactivated meanwhile'))

    def _next_job(self) -> _Job | None:
        """Take the first question that has its window or shall wait no longer (lock held)."""
        self.stats.waiting = len(self._questions)
        for job in self._questions:
            waited_s = time.monotonic() - job.asked_s
            # windows come in the order of time: one from before those that are kept will not come
            if (self._windows or job.cancel.is_set()
                    or waited_s >= self.asking.wait_s):
                self._questions.remove(job)
                return job
        return None

    def _window_for(self, question: Question) -> Selection | None:
        windows = [w for w in self._windows if not question.at_ns or w.end_ns <= question.at_ns]
        return max(windows, key=lambda w: w.end_ns) if windows else None

    def _finish(self, job: _Job, reply: Reply) -> None:
        if reply.error == 'NONE':
            self.stats.answered += 1
        else:
            self.stats.refused += 1
        job.future.set_result(reply)

    def _reply(self, job: _Job) -> Reply:
        """Answer one question or say why not."""
        question, begin_s = job.question, time.monotonic()
        known: dict[str, Any] = {'model': self.model, 'queue_s': begin_s - job.asked_s}
        try:
            if job.cancel.is_set():
                raise _AskError(*self._why_cancelled(job))
            with self._changed:
                selection = self._window_for(question)
            if selection is None:
                raise _AskError('NO_WINDOW', self._no_window(question))
            known['selection'] = selection
            prefix, left_out, fresh = self._prefix(selection, question.modalities)
            known['encode_s'] = time.monotonic() - begin_s if fresh else 0.0
            self._check_modalities(question, selection, prefix, left_out)
            known['weights'] = dict(prefix.expert_weights)
            started_s = time.monotonic()
            answer = self._generate(prefix, question, job.cancel)
        except _AskError as error:
            return Reply(error.code, str(error), total_s=time.monotonic() - job.asked_s, **known)
        except _FAILURES as error:
            text = str(error) or type(error).__name__
            code = next((c for word, c in _CODES.items() if text.startswith(word)), 'MODEL_FAILED')
            if code == 'MODEL_FAILED':
                self._failed('answer', f'the model failed to answer: {text}')
            return Reply(code, text, total_s=time.monotonic() - job.asked_s, **known)
        known['total_s'] = time.monotonic() - job.asked_s
        if answer.tokens:
            known['first_token_s'] = started_s - begin_s + answer.first_token_s
        if answer.finish_reason == 'cancelled':
            code, text = self._why_cancelled(job)
            return Reply(code, text, answer=answer, finish_reason=code.lower(), **known)
        reason = 'choice' if question.choices else answer.finish_reason
        return Reply(answer=answer, finish_reason=reason, **known)

    def _failed(self, kind: str, text: str) -> None:
        self.stats.failed += 1
        self.stats.failure = text
        self._on_trouble(kind, text)

    def _generate(self, prefix: Any, question: Question, cancel: _Cancel) -> Any:
        if question.on_delta is None or question.choices:
            return self.engine.ask(prefix, question.text, choices=question.choices,
                                   max_tokens=question.max_tokens,
                                   temperature=question.temperature, cancel=cancel)
        stream = self.engine.stream(  # type: ignore[attr-defined]
            prefix, question.text, max_tokens=question.max_tokens,
            temperature=question.temperature, cancel=cancel)
        for delta in stream:
            question.on_delta(delta, stream.tokens)
        return stream.answer

    def _why_cancelled(self, job: _Job) -> tuple[str, str]:
        if self._stopping:
            return 'CANCELLED', 'the node was deactivated meanwhile'
        if time.monotonic() > job.cancel.until_s:
            return 'TIMEOUT', f'not answered within ask.timeout_s of {self.asking.timeout_s} s'
        return 'CANCELLED', 'cancelled by the client'

    def _no_window(self, question: Question) -> str:
        with self._changed:
            held = [w.end_ns / 1e9 for w in self._windows]
        if held:
            return (f'no window is kept that ended by {question.at_ns / 1e9:.3f} s; the windows '
                    f'kept ended from {min(held):.3f} to {max(held):.3f} s')
        why = self._why_silent()
        return f'no window closed within {self.asking.wait_s:g} s' + (f': {why}' if why else '')

    @staticmethod
    def _check_modalities(question: Question, selection: Selection, prefix: Any,
                          left_out: Mapping[Modality, str]) -> None:
        missing = sorted((question.modalities or frozenset()) - set(prefix.modalities))
        if missing:
            why = left_out.get(missing[0], f'the window holds '
                               f'{", ".join(m.value for m in selection.samples)}')
            raise _AskError('MODALITY_MISSING', f'nothing of {missing[0].value}: {why}')
        if not prefix.modalities:
            raise _AskError('MODALITY_MISSING', 'nothing in the window can be used: ' + '; '.join(
                left_out.values()))

    def _prefix(self, selection: Selection, modalities: frozenset[Modality] | None
                ) -> tuple[Any, Mapping[Modality, str], bool]:
        """Return the encoded window, why modalities were left out, and whether it was made now."""
        key = (selection.end_ns, id(selection), modalities)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return (*self._prefixes[key], False)
        seen = selection if modalities is None else selection.restricted(
            modalities | ({Modality.DEPTH} if Modality.NORMAL in modalities else set()))
        tensors = self.engine.preprocessor.tensors(seen.samples, seen.end_ns, strict=False)
        allowed = self._modalities if modalities is None else modalities & self._modalities
        left_out = dict(tensors.left_out)
        prefix = self.engine.encode({m: t for m, t in tensors.items() if m in allowed})
        self._prefixes[key] = (prefix, left_out)
        while len(self._prefixes) > _PREFIXES_KEPT:
            self._prefixes.popitem(last=False)
        return prefix, left_out, True

    def _describe(self, selection: Selection, skipped: int) -> None:
        """Describe one window; trouble is told and counted, and the thread goes on."""
        settings, begin_s = self.describe, time.monotonic()
        prompt = settings.prompt.strip() or self.engine.config.text.describe_prompt
        try:
            prefix, left_out, _ = self._prefix(selection, None)
            self.stats.left_out += len(left_out)
            for modality, why in left_out.items():
                self._on_trouble(f'left out {modality.value}', why)
            if not prefix.modalities:
                self.stats.empty += 1
                return
            encode_s = time.monotonic() - begin_s
            answer = self.engine.ask(prefix, prompt, max_tokens=settings.max_tokens,
                                     temperature=settings.temperature, cancel=self._current)
        except _FAILURES as error:
            self._failed('description', 'the model failed to describe a window: '
                         f'{str(error) or type(error).__name__}')
            return
        if self._stopping:
            return
        total_s = time.monotonic() - begin_s
        stats = self.stats
        stats.described += 1
        stats.failure = ''
        stats.encode_s, stats.decode_s = encode_s, total_s - encode_s
        stats.tokens_per_s = answer.tokens / max(stats.decode_s, 1e-9)
        first_s = encode_s + answer.first_token_s if answer.tokens else math.nan
        try:
            self._on_description(Described(
                selection, prompt, answer, dict(prefix.expert_weights), self.model, skipped,
                encode_s, first_s, total_s))
        except _FAILURES as error:
            self._failed('description', f'a description could not be sent: {error}')
