"""The thread that computes: the newest window is described, questions go first, nothing queues up.

This module owns the slot for the newest window, the few questions that wait, and the windows kept
for questions about the past. It imports no ROS: results leave through callbacks and futures, which
are never called while the lock is held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
import math
import threading
import time

from onellm_ros.choose import Selection
from onellm_ros.modality import Modality
from onellm_ros.node_config import AskConfig, DescribeConfig
from onellm_ros.perception.answering import FAILURES, Answerer
from onellm_ros.perception.results import (
    Described,
    EngineLike,
    Question,
    Reply,
    WorkerStats,
    model_text,
)

_JOIN_S = 1.5


class _Cancel(threading.Event):
    """Set by hand, or by itself at a time of the monotonic clock."""

    def __init__(self, until_s: float = math.inf) -> None:
        super().__init__()
        self.until_s = until_s

    def is_set(self) -> bool:
        return super().is_set() or time.monotonic() > self.until_s


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
        self._answerer = Answerer(engine, modalities)
        self._on_description = on_description
        self._on_trouble = on_trouble
        self._why_silent = why_silent
        self._changed = threading.Condition()
        self._windows: deque[Selection] = deque(maxlen=kept)
        self._slot: Selection | None = None
        self._questions: deque[_Job] = deque()
        self._skipped_since = 0
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
        queue_s = time.monotonic() - job.asked_s
        with self._changed:
            selection = self._window_for(job.question)
        code, text = 'NONE', ''
        if job.cancel.is_set():
            code, text = self._why_cancelled(job)
        elif selection is None:
            code, text = 'NO_WINDOW', self._no_window(job.question)
        if selection is None or code != 'NONE':
            return Reply(code, text, model=self.model, queue_s=queue_s,
                         total_s=time.monotonic() - job.asked_s)
        reply = self._answerer.answer(selection, job.question, queue_s=queue_s, cancel=job.cancel)
        if reply.error == 'MODEL_FAILED':
            self._failed('answer', f'the model failed to answer: {reply.error_msg}')
        if reply.finish_reason == 'cancelled':
            code, text = self._why_cancelled(job)
            return replace(reply, error=code, error_msg=text, finish_reason=code.lower())
        return reply

    def _failed(self, kind: str, text: str) -> None:
        self.stats.failed += 1
        self.stats.failure = text
        self._on_trouble(kind, text)

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

    def _describe(self, selection: Selection, skipped: int) -> None:
        """Describe one window; trouble is told and counted, and the thread goes on."""
        try:
            found = self._answerer.describe(selection, self.describe, skipped=skipped,
                                            cancel=self._current)
        except FAILURES as error:
            self._failed('description', 'the model failed to describe a window: '
                         f'{str(error) or type(error).__name__}')
            return
        stats = self.stats
        stats.left_out += len(found.left_out)
        for modality, why in found.left_out.items():
            self._on_trouble(f'left out {modality.value}', why)
        if found.answer is None:
            stats.empty += 1
            return
        if self._stopping:
            return
        stats.described += 1
        stats.failure = ''
        stats.encode_s, stats.decode_s = found.encode_s, found.total_s - found.encode_s
        stats.tokens_per_s = found.answer.tokens / max(stats.decode_s, 1e-9)
        try:
            self._on_description(found)
        except FAILURES as error:
            self._failed('description', f'a description could not be sent: {error}')
