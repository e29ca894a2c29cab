"""Tasks of a replay on several processes of this machine; each loads the model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
from multiprocessing.connection import wait
import os
import signal
import threading

from onellm_ros.replay.records import ReplayError
from onellm_ros.replay.work import Done, Item, Loader, Task, Work, load_engine

_TRIES = 3
_work: Work | None = None       # of this worker process

Result = tuple[Task, list[Item], Done]


def _start(load: Loader, threads: int) -> None:
    """Prepare a worker process."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is the parent's business,
    threading.Thread(target=_end_with_parent, daemon=True).start()      # and so is its end
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))
    _work = Work(load)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def do(task: Task, work: Work | None = None) -> Result:
    """Do a whole task and return its windows; runs in a worker."""
    worker = work or _work
    assert worker is not None
    done = Done()
    return task, list(worker.windows(task, done)), done


class Processes:
    """A pool of processes; a context manager. One that is killed is replaced, and its task redone.

    :param count: processes. :param load: gives the engine in each of them.
    """

    def __init__(self, count: int, load: Loader = load_engine) -> None:
        self._count, self._load = count, load
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        threads = max(1, (os.cpu_count() or 1) // self._count)
        return ProcessPoolExecutor(self._count, multiprocessing.get_context('spawn'), _start,
                                   (self._load, threads))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; what they are at is not waited for."""
        processes = list((getattr(self._pool, '_processes', None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5.0)

    def results(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Do the tasks and yield their results in order.

        :raises ReplayError: if processes end again and again.
        """
        waiting: dict[int, Future[Result]] = {}
        ready: dict[int, Result] = {}
        broken = 0
        for index, task in enumerate(tasks):
            while index not in ready:
                try:
                    for place in range(index, len(tasks)):
                        if place not in waiting and place not in ready:
                            waiting[place] = self._pool.submit(do, tasks[place])
                    ready[index] = waiting.pop(index).result()
                    broken = 0
                except BrokenProcessPool as error:
                    broken += 1
                    if broken >= _TRIES:
                        raise ReplayError(
                            f'{task.path}: processes of the replay ended {broken} times before '
                            'a part of it was done (out of memory, or killed); use fewer '
                            '--processes') from error
                    ready.update(self._gather(waiting))
                    waiting.clear()
                    self._pool.shutdown(wait=False, cancel_futures=True)
                    self._pool = self._new()
            yield ready.pop(index)

    @staticmethod
    def _gather(waiting: dict[int, Future[Result]]) -> dict[int, Result]:
        """Return the results that were ready before the pool broke."""
        return {place: future.result() for place, future in waiting.items()
                if future.done() and not future.cancelled() and future.exception() is None}
