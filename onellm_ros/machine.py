"""What this machine computes with: its processor, the cores and the memory that are usable."""

from __future__ import annotations

import os
from pathlib import Path
import platform
import re


def processor() -> str:
    """Return the processor's name; where the system does not tell it, its architecture."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return name
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')),
                name)


def usable_cores() -> int | None:
    """Return how many cores this process may use; None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding='ascii'))
    except (OSError, ValueError):
        return None                                     # no such file, or 'max'


def _cgroup_free(root: Path, group: str) -> int | None:
    """Return what a control group and those above it have left; None without a limit."""
    found: list[int] = []
    for base, limit, used in ((root, 'memory.max', 'memory.current'),
                              (root / 'memory', 'memory.limit_in_bytes',
                               'memory.usage_in_bytes')):
        for part in (Path(group), *Path(group).parents):
            at = base / str(part).lstrip('/')
            most, now = _number(at / limit), _number(at / used)
            if most is None or now is None:
                continue
            try:
                table = (at / 'memory.stat').read_text(encoding='ascii')
                cached = int(dict(line.split() for line in table.splitlines())['inactive_file'])
            except (OSError, ValueError, KeyError):
                cached = 0                              # pages of files, freed where needed
            found.append(max(0, most - now + cached))
    return min(found, default=None)


def host_free(proc: Path = Path('/proc'), cgroups: Path = Path('/sys/fs/cgroup')) -> int | None:
    """Return the bytes that this process can still take; None where the system does not say."""
    try:
        table = (proc / 'meminfo').read_text(encoding='ascii')
        found = re.search(r'^MemAvailable:\s+(\d+) kB', table, re.M)
        free = int(found[1]) << 10 if found else None
    except OSError:
        free = None
    try:
        groups = [line.split(':', 2) for line in
                  (proc / 'self/cgroup').read_text(encoding='utf-8').splitlines()]
        names = {g[2] for g in groups if len(g) == 3 and (not g[1] or 'memory' in g[1])}
    except OSError:
        names = set()
    limits = [left for name in names | {'/'} if (left := _cgroup_free(cgroups, name)) is not None]
    return min([*limits, *([] if free is None else [free])], default=None)


def rss_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not say."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf('SC_PAGE_SIZE')
