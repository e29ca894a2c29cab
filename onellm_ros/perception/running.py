"""What the worker's thread computes: a description, a question, or both, token by token."""

from __future__ import annotations

from dataclasses import dataclass
import time
from typing import Any

from onellm_ros.perception.jobs import Cancel, Job
from onellm_ros.perception.results import Described, Reply
from onellm_ros.perception.tasks import Task, advance


@dataclass(eq=False)
class Describing:
    """A description in the making.

    :param skipped: windows since the one described before.
    :param begun_s: when it was begun, on the monotonic clock.
    :param wanted: False once time has jumped: nobody is to hear of it.
    :param interrupted: whether a question has come between.
    """

    skipped: int
    cancel: Cancel
    begun_s: float
    task: Task[Described]
    wanted: bool = True
    interrupted: bool = False


@dataclass(eq=False)
class Answering:
    """A question that is being answered."""

    job: Job
    task: Task[Reply]


class Running:
    """A description, a question, or both; changed by the thread alone, read by others.

    Attributes: ``describing``, ``answering`` (each None where there is none), ``before`` (what is
    waited for before anything is computed; '' nothing).
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.describing: Describing | None = None
        self.answering: Answering | None = None
        self.before = ''

    def __bool__(self) -> bool:
        return self.describing is not None or self.answering is not None

    def cancels(self) -> list[Cancel]:
        """Return what ends each of them."""
        describing, answering = self.describing, self.answering
        return [*([describing.cancel] if describing is not None else []),
                *([answering.job.cancel] if answering is not None else [])]

    def doing(self) -> tuple[str, float]:
        """Return what is computed ('' nothing), and since when without a sign of life.

        A sign of life is the start, and each token.
        """
        named = {'describing': self.describing, 'answering': self.answering}
        doing = self.before or ' and '.join(n for n, what in named.items() if what is not None)
        looked_s = max((cancel.looked_s for cancel in self.cancels()), default=None)
        if not doing or looked_s is None:
            return doing, 0.0
        return doing, time.monotonic() - looked_s

    @property
    def shares(self) -> bool:
        """Whether a description goes on beside a question."""
        return bool(getattr(self._engine, 'shares', False))

    def round(self) -> None:
        """Compute a token of each; a description waits where two cost twice as much as one."""
        tasks: list[Task[Any]] = [
            running.task for running in (self.answering, self.describing)
            if running is not None and not running.task.over]
        if len(tasks) > 1 and not self.shares:
            tasks = tasks[:1]
        if tasks:
            advance(self._engine, tasks)
