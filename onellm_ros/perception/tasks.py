"""Work that needs the model token by token, so that several can go on together.

A task is a generator: it yields what it needs computed for its next token (ids, their cache, of
how many the logits), is sent the logits, and returns its result. Everything else that it does,
such as encoding a window, happens between two tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar('T')
Steps = Generator[Any, Any, T]
# Whatever a model, a converter or a library does to its inputs (OpenCV raises bare Exceptions),
# its caller lives on and says so.
FAILURES = (Exception,)


class Task(Generic[T]):
    """A generator on its way.

    Attributes: ``due`` (what it needs computed), ``over``, then ``result``, or ``error`` where it
    failed.
    """

    def __init__(self, steps: Steps[T]) -> None:
        """Hold a task; nothing of it is done."""
        self._steps = steps
        self.due: Any = None
        self.over = False
        self.result: T | None = None
        self.error: Exception | None = None

    @property
    def failure(self) -> str:
        """Why it failed, in words."""
        return str(self.error) or type(self.error).__name__

    def go_on(self, logits: Any = None, error: Exception | None = None) -> None:
        """Do what comes up to the next token, or to the end.

        :param logits: of what was due; None at the beginning.
        :param error: why there are none.
        """
        try:
            self.due = self._steps.send(logits) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self.over, self.result = True, end.value
        except FAILURES as failure:
            self.over, self.error = True, failure
        finally:
            error = None        # else its traceback keeps itself, and all that was computed with


def advance(engine: Any, tasks: Sequence[Task[Any]]) -> None:
    """Compute what some tasks need for their next token, together, and let them go on.

    Where that fails each is computed alone, and only those fail with which it does; so an engine's
    ``steps`` that raises must have changed nothing.
    """
    try:
        found = engine.steps([task.due for task in tasks])
        pairs = list(zip(tasks, found, strict=True))
    except FAILURES as error:
        if len(tasks) == 1:
            tasks[0].go_on(error=error)
            return
        pairs = []
    if not pairs:
        for task in tasks:
            advance(engine, [task])
    for task, logits in pairs:
        task.go_on(logits)


def finish(engine: Any, steps: Steps[T]) -> T:
    """Do a task alone, to its end, and return its result.

    :raises Exception: what it raises.
    """
    task = Task(steps)
    task.go_on()
    while not task.over:
        advance(engine, [task])
    if task.error is not None:
        raise task.error
    return task.result  # type: ignore[return-value]
