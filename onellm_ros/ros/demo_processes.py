"""Child processes of the demonstration: started apart, watched, and all gone at its end.

Each child has a session of its own, so that Ctrl-C reaches the demonstration alone, which then
ends its children in order: SIGINT, SIGTERM, SIGKILL, to the whole process group. A child is told
by the kernel when the demonstration itself dies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import ctypes
from dataclasses import dataclass
from functools import partial
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import time

_DISCOVERY_PORT, _PORTS_PER_DOMAIN, _DOMAINS = 7400, 250, 100
_PR_SET_PDEATHSIG = 1
_PATIENCE: tuple[tuple[signal.Signals, float], ...] = (
    (signal.SIGINT, 4.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))


def free_domain() -> int:
    """Return a ROS domain whose discovery port nobody on this machine has open.

    :raises RuntimeError: when all are taken.
    """
    for domain in random.SystemRandom().sample(range(1, _DOMAINS + 1), _DOMAINS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', _DISCOVERY_PORT + _PORTS_PER_DOMAIN * domain))
            except OSError:
                continue
        return domain
    raise RuntimeError(f'none of the ROS domains 1..{_DOMAINS} is free on this machine: stop some '
                       'ROS nodes and try again')


def started_s() -> float:
    """Return when this process started, on the clock of ``time.monotonic``, to 10 ms.

    Where the kernel does not tell, it is now.
    """
    stat = Path('/proc/self/stat')
    if not stat.exists():
        return time.monotonic()
    ticks = int(stat.read_text().rpartition(')')[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
    return time.monotonic() - max(0.0, age_s)


def _die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies (Linux)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)                                 # it died before the kernel was told


@dataclass(frozen=True)
class Child:
    """A running child and the file that it writes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return '\n'.join(self.text().splitlines()[-lines:])

    def text(self) -> str:
        """Return its whole log."""
        return self.log.read_text(errors='replace') if self.log.exists() else ''

    @property
    def alive(self) -> bool:
        """Whether anything of its process group still runs."""
        ended = self.process.poll() is not None
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return not ended
        return True


class Children:
    """The children of one demonstration; use it as a context manager.

    :param folder: where the logs go. :param settings: added to the environment.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, 'PYTHONUNBUFFERED': '1', **settings}
        self.all: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, module: str, arguments: Sequence[str] = ()) -> Child:
        """Start a module of Python as a child."""
        log = self._folder / f'{name}.log'
        with log.open('wb') as file:
            process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments], stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, env=self._environment, start_new_session=True,
                preexec_fn=partial(_die_with_parent, os.getpid()))
        self.all.append(Child(name, process, log))
        return self.all[-1]

    def stop(self) -> None:
        """End all children; returns when none is left (or the kernel keeps one)."""
        for number, patience_s in _PATIENCE:
            for child in self.all:
                if child.alive:
                    try:
                        os.killpg(child.process.pid, number)
                    except ProcessLookupError:
                        continue
            end = time.monotonic() + patience_s
            while any(c.alive for c in self.all) and time.monotonic() < end:
                time.sleep(0.02)
            if not any(c.alive for c in self.all):
                return
