"""Tasks of a replay on a Ray cluster: Ray Data, one task a part of a recording.

Each of its actors loads the model once. One that is killed is started anew and its task redone by
Ray. The bags and the model must be at the same paths on all machines. Ray is optional:
requirements/ray.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import pickle
from typing import Any

from onellm_ros.replay.processes import Result, do
from onellm_ros.replay.records import ReplayError
from onellm_ros.replay.work import Loader, Task, Work, load_engine


class _Actor:
    """What Ray starts on the machines."""

    def __init__(self, load: Loader) -> None:
        self._work = Work(load)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = do(pickle.loads(row['task']), self._work)
        return {'place': row['place'], 'result': pickle.dumps(result)}


class RayPool:
    """A Ray cluster; a context manager.

    :param address: ``auto`` (the cluster of this machine), ``local`` (a new one on it), HOST:PORT
        of a cluster's head, or ray://HOST:PORT from outside of it.
    :param count: actors at most; 0: one a CPU, or one a GPU where ``gpu``.
    :param gpu: each actor takes a GPU.
    :raises ReplayError: if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str, count: int = 0, *, gpu: bool = False,
                 load: Loader = load_engine) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ReplayError(f'--ray: Ray is not installed ({error}); install it with '
                              'pip install -r requirements/ray.txt -c requirements/constraints.txt'
                              ) from error
        self._ray, self._load, self._gpu = ray, load, gpu
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, include_dashboard=False
                         if address == 'local' else None, configure_logging=True,
                         logging_level='ERROR')
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ReplayError(f'--ray {address}: {" ".join(str(error).split())}; expected auto, '
                              'local, HOST:PORT of a running cluster or ray://HOST:PORT'
                              ) from error
        found = ray.cluster_resources()
        self._most = int(found.get('GPU' if gpu else 'CPU', 0))
        if self._most < 1:
            raise ReplayError(f'--ray {address}: found a cluster without any '
                              f'{"GPU" if gpu else "CPU"}; expected at least one')
        self.count = min(count or self._most, self._most)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()

    def results(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Do the tasks and yield their results in order.

        :raises ReplayError: if a task fails wherever it is tried.
        """
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{'place': place, 'task': pickle.dumps(task)} for place, task in enumerate(tasks)]
        actors = min(self.count, len(rows))
        done = data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor, fn_constructor_args=(self._load,), concurrency=actors, num_cpus=1,
            **({'num_gpus': 1} if self._gpu else {}))
        ready: dict[int, Result] = {}
        wanted = 0
        try:
            for row in done.iter_rows():
                ready[int(row['place'])] = pickle.loads(row['result'])
                while wanted in ready:
                    yield ready.pop(wanted)
                    wanted += 1
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, 'cause', None) or error
            raise ReplayError(f'--ray: a part of the replay failed: '
                              f'{type(cause).__name__}: {cause}') from error
