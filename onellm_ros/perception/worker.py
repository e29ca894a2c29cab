"""The thread that computes: the newest window is described, questions go first, nothing queues up.

A question joins the description in the making at its next token (``running.py``).

This module owns the slot for the newest window, the few questions that wait, the windows kept for
questions about the past, and the dialogues. It imports no ROS: results leave through callbacks and
futures, which are never called while the lock is held. docs/asking.md says what goes before what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
import math
import threading
import time

from onellm_ros.choose import Selection
from onellm_ros.modality import Modality
from onellm_ros.node_config import AskConfig, DescribeConfig, WindowConfig
from onellm_ros.perception.answering import Answerer
from onellm_ros.perception.dialogue import Dialogues
from onellm_ros.perception.jobs import STOPPED, Cancel, Job
from onellm_ros.perception.results import (
    Described,
    EngineLike,
    Question,
    Reply,
    WorkerStats,
    model_text,
)
from onellm_ros.perception.ring import MIB, Ring, not_kept
from onellm_ros.perception.running import Answering, Describing, Running
from onellm_ros.perception.tasks import FAILURES, Steps, Task

_JOIN_S = 1.5
_GRACE_S = 2.0      # a question whose end has come gets its reply by then, even if the model hangs


class Worker:
    """One thread around one engine.

    Settings may change while it runs: ``describe``, ``asking``, ``modalities``; ``thread`` is the
    one that computes.

    :param modalities: what the model may be shown.
    :param kept: windows kept for questions at most, of ``kept_mb`` MiB at most.
    :param on_description: called by the worker's thread with each description.
    :param on_trouble: called by the worker's thread with a kind and a text.
    :param why_silent: returns what is known about the inputs when no window is there.
    :param after: the :attr:`thread` of a worker that was stopped, in which the model may still
        compute; nothing is computed before that has ended.
    """

    def __init__(self, engine: EngineLike, modalities: frozenset[Modality], *, kept: int,
                 on_description: Callable[[Described], None],
                 on_trouble: Callable[[str, str], None],
                 why_silent: Callable[[], str] = lambda: '',
                 kept_mb: int = WindowConfig.kept_mb,
                 after: threading.Thread | None = None) -> None:
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
        self._ring = Ring(kept, kept_mb * MIB)
        self._dialogues = Dialogues()
        self._slot: Selection | None = None
        self._questions: deque[Job] = deque()
        self._skipped_since = self._in_a_row = 0    # windows, answers since a description
        self._stopping = False
        self._forgotten = False             # what was encoded is from before a jump of time
        self._running = Running(engine)
        self._spared = False                # many questions went before this description: no more
        self._begun_s = self._ended_s = -math.inf
        self._unseen_s = math.nan           # since when windows have come without a description
        self._after = after
        self.thread = threading.Thread(target=self._run, name='onellm-worker', daemon=True)

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the model may be shown."""
        return self._answerer.modalities

    @modalities.setter
    def modalities(self, modalities: frozenset[Modality]) -> None:
        self._answerer.modalities = modalities

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> bool:
        """End the thread; what is being generated stops within a token, questions are cancelled.

        :returns: whether the thread has ended.
        """
        with self._changed:
            self._stopping = True
            for cancel in self._running.cancels():
                cancel.set()
            waiting = list(self._questions)
            self._questions.clear()
            self._slot = None
            self._ring.clear()
            self._changed.notify_all()
        for job in waiting:
            self._refuse(job, *STOPPED)
        if self.thread.is_alive():
            self.thread.join(_JOIN_S)
        running = self._running.answering
        if running is not None:
            self._refuse(running.job, *STOPPED)
        return not self.thread.is_alive()

    # -- called by the node's executor --------------------------------------------------------

    def submit(self, selection: Selection) -> None:
        """Hand over a window that closed; an older one that still waits is skipped."""
        with self._changed:
            self._ring.add(selection)
            if self.describe.enabled:
                if math.isnan(self._unseen_s):
                    self._unseen_s = time.monotonic()
                if self._slot is not None:
                    self.stats.count('skipped')
                    self._skipped_since += 1
                self._slot = selection
            self._changed.notify_all()

    def forget(self) -> None:
        """Forget all windows and dialogues (time jumped back); a description of one is ended."""
        with self._changed:
            self._ring.clear()
            self._dialogues.forget()
            self._slot, self._unseen_s = None, math.nan
            self._forgotten = True
            if self._running.describing is not None:
                self._running.describing.wanted = False
                self._running.describing.cancel.set()
            self._changed.notify_all()

    def ask(self, question: Question) -> Future[Reply]:
        """Ask; the future always gets a reply, never an exception."""
        now_s = time.monotonic()
        job = Job(question, Cancel(now_s + self.asking.timeout_s), now_s)
        with self._changed:
            waiting = len(self._questions)
            if not self._stopping and waiting < self.asking.waiting:
                self._questions.append(job)
                self._changed.notify_all()
                return job.future
            stopping = self._stopping
        if stopping:
            self._refuse(job, 'NOT_ACTIVE', 'the node is not active')
        else:
            self._refuse(job, 'REJECTED', f'{waiting} questions are waiting already '
                         '(ask.waiting); ask again when one has been answered')
        return job.future

    def cancel(self, future: Future[Reply]) -> None:
        """Stop answering the question of ``future`` within a token; one that waits ends now."""
        with self._changed:
            job = next((j for j in self._questions if j.future is future), None)
            if job is not None:
                self._questions.remove(job)
            elif (running := self._running.answering) and running.job.future is future:
                running.job.cancel.set()
        if job is not None:
            self._refuse(job, 'CANCELLED', 'cancelled by the client')

    def poll(self) -> None:
        """End questions that have waited too long, whatever the model does; call it often."""
        now_s = time.monotonic()
        with self._changed:
            late = [job for job in self._questions if job.cancel.over]
            for job in late:
                self._questions.remove(job)
            answering = self._running.answering
            running = answering.job if answering is not None else None
            if running is not None and running.cancel.over:
                running.over_s = min(running.over_s, now_s)
                if now_s - running.over_s > _GRACE_S:
                    late.append(running)
        for job in late:
            code, text = job.why_ended(self._stopping, self.asking.timeout_s)
            hangs = job is running
            self._refuse(job, code, text + (f'; the model has not responded for {_GRACE_S:g} s'
                                            if hangs else ''))

    def busy(self) -> tuple[str, float]:
        """Return what the thread computes ('' nothing), and since when without a sign of life.

        A sign of life is the start, and each token.
        """
        return self._running.doing()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive()

    def report(self) -> WorkerStats:
        """Return the counts as they are now."""
        stats, ring = self.stats, self._ring
        with self._changed:
            stats.waiting, stats.conversations = len(self._questions), len(self._dialogues)
            stats.kept, stats.kept_bytes = len(ring), ring.bytes
            stats.kept_dropped, stats.kept_span_ns = ring.dropped, ring.span_ns
            unseen_s = time.monotonic() - self._unseen_s    # nan: there is nothing to describe
            overdue = self.describe.enabled and not self._running.describing and unseen_s > 0
            stats.undescribed_s = max(0.0, min(unseen_s, -self._rest_s())) if overdue else 0.0
        return stats

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        if self._after is not None:
            self._running.before = 'waiting for what the model began before'
            self._after.join()
            self._after, self._running.before = None, ''
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Begin something, or compute a token of what has begun; False: the worker was stopped."""
        with self._changed:
            begun = self._next()
        if begun is None and not self._running:
            return False
        if begun is not None:
            begun.task.go_on()
            self._end()
        # One that was refused or scored at once leaves its turn to what goes on beside it.
        if begun is None or begun.task.over and self._running.shares:
            self._running.round()
            self._end()
        return True

    def _next(self) -> Answering | Describing | None:
        """Return what begins now (lock held): a question, or a window to describe."""
        running = self._running
        while not self._stopping:
            if self._forgotten:
                self._answerer.forget()
                self._forgotten = False
            rest_s = self._rest_s()
            due = self._slot is not None and rest_s <= 0 and not running
            starved = due and self._in_a_row >= self.asking.waiting
            job = None if starved or not self._open() else self._next_job()
            if job is not None:
                self._in_a_row += 1
                if running.describing is not None and not running.describing.interrupted:
                    running.describing.interrupted = True
                    self.stats.count('interrupted')
                running.answering = Answering(job, Task(self._answer(job)))
                job.cancel.looked_s = time.monotonic()
                return running.answering
            if due and self._slot is not None:
                running.describing = self._describe(self._slot)
                self._slot, self._in_a_row, self._spared = None, 0, starved
                return running.describing
            if running:
                return None
            wait_s = 0.05 if self._questions else 0.5
            self._changed.wait(min(wait_s, rest_s) if self._slot is not None else wait_s)
        return None

    def _describe(self, selection: Selection) -> Describing:
        cancel, skipped, self._skipped_since = Cancel(), self._skipped_since, 0
        return Describing(skipped, cancel, time.monotonic(), Task(self._answerer.describing(
            selection, self.describe, skipped=skipped, cancel=cancel)))

    def _open(self) -> bool:
        """Say whether a question may begin now: one at a time, and none against the settings."""
        running = self._running
        if not running:
            return True
        if running.answering is not None or not self.describe.preempt:
            return False
        # A description goes on beside a question, or waits for some, but not for ever more.
        return self._running.shares or not (self._spared or self._in_a_row >= self.asking.waiting)

    def _end(self) -> None:
        """Give away what has come to its end."""
        answering, describing = self._running.answering, self._running.describing
        if answering is not None and answering.task.over:
            reply = answering.task.result
            if reply is None:           # of what is called back, such as why_silent
                self._failed('answer', text := 'the question could not be answered: '
                             f'{answering.task.failure}')
                reply = answering.job.refusal('UNKNOWN', text, self.model)
                answering.task.error = None
            self._finish(answering.job, reply)
            with self._changed:
                self._running.answering = None
        if describing is not None and describing.task.over:
            self._ended(describing)

    def _rest_s(self) -> float:
        """Return how long the next description has to wait by rate_hz and min_interval_s."""
        settings = self.describe
        due_s = self._ended_s + settings.min_interval_s
        if settings.rate_hz > 0:
            due_s = max(due_s, self._begun_s + 1 / settings.rate_hz)
        return due_s - time.monotonic()

    def _next_job(self) -> Job | None:
        """Take the first question that has its window or shall wait no longer (lock held)."""
        for job in self._questions:
            waited_s = time.monotonic() - job.asked_s
            # windows come in the order of time: one from before those that are kept will not come
            if self._ring or job.cancel.over or waited_s >= self.asking.wait_s:
                self._questions.remove(job)
                return job
        return None

    def _finish(self, job: Job, reply: Reply) -> None:
        if job.reply(reply):
            self.stats.count('answered' if reply.error == 'NONE' else 'refused')

    def _refuse(self, job: Job, code: str, text: str) -> None:
        self._finish(job, job.refusal(code, text, self.model))

    def _answer(self, job: Job) -> Steps[Reply]:
        """Answer one question or say why not."""
        question, queue_s = job.question, time.monotonic() - job.asked_s
        if job.cancel.over:
            return job.refusal(*job.why_ended(self._stopping, self.asking.timeout_s), self.model)
        with self._changed:
            selection, span_ns = self._ring.find(question.at_ns), self._ring.span_ns
        if selection is None:
            return job.refusal('NO_WINDOW', self._no_window(question, span_ns), self.model)
        dialogue = self._dialogues.open(question.conversation, self.asking) \
            if question.conversation else None
        reply = yield from self._answerer.answering(
            selection, question, history=dialogue.turns if dialogue else (), queue_s=queue_s,
            cancel=job.cancel)
        if reply.error == 'MODEL_FAILED':
            self._failed('answer', f'the model failed to answer: {reply.error_msg}')
        if reply.finish_reason == 'cancelled':
            code, text = job.why_ended(self._stopping, self.asking.timeout_s)
            return replace(reply, error=code, error_msg=text, finish_reason=code.lower())
        if dialogue is not None and reply.error == 'NONE' and reply.answer.text:
            self._dialogues.add(dialogue, question.text, reply.answer.text, self.asking)
        return reply

    def _failed(self, kind: str, text: str) -> None:
        self.stats.fail(text)
        self._on_trouble(kind, text)

    def _no_window(self, question: Question, span_ns: tuple[int, int] | None) -> str:
        if span_ns is not None:
            return not_kept(question.at_ns, span_ns)
        why = self._why_silent()
        return f'no window closed within {self.asking.wait_s:g} s' + (f': {why}' if why else '')

    def _ended(self, describing: Describing) -> None:
        """Hand a description out; trouble is told and counted, and the thread goes on."""
        found = describing.task.result
        cancelled = bool(found and found.answer and found.answer.finish_reason == 'cancelled')
        if not cancelled:
            self._begun_s, self._ended_s = describing.begun_s, time.monotonic()
        with self._changed:
            wanted = describing.wanted and not self._stopping and not cancelled
            self._running.describing, self._spared = None, False
            if not self._running.shares:
                self._in_a_row = 0              # questions have waited for it, and are first now
            if found is None or cancelled:
                self._skipped_since += describing.skipped
        if found is None:
            self._failed('description',
                         f'the model failed to describe a window: {describing.task.failure}')
            describing.task.error = None        # its traceback holds keys, values and more
        elif wanted:
            self._described(found)

    def _described(self, found: Described) -> None:
        """Count a description and hand it out."""
        self.stats.count('left_out', len(found.left_out))
        for modality, why in found.left_out.items():
            self._on_trouble(f'left out {modality.value}', why)
        if found.answer is None:
            self.stats.count('empty')
            with self._changed:
                self._skipped_since += found.skipped
            return
        self.stats.succeed(found)
        self._unseen_s = math.nan
        try:
            self._on_description(found)
        except FAILURES as error:
            self._failed('description', f'a description could not be sent: {error}')
