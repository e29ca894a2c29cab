"""The commands of ``ros2 run``: each is there at once, and imports its node then.

Python would print a traceback for a signal that comes while modules are imported, which takes
seconds on a small computer; this module imports nothing that is slow.
"""

from __future__ import annotations

import importlib
import os
import signal

SIGNALS = signal.SIGINT, signal.SIGTERM


def leave_at_once() -> None:
    """Let SIGINT and SIGTERM end the process without a word, as long as it has begun nothing."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


def _run(module: str) -> int:
    leave_at_once()
    code: int = importlib.import_module(f'onellm_ros.ros.{module}').main()
    return code


def perception() -> int:
    """Run the node ``perception``."""
    return _run('perception_node')


def picture() -> int:
    """Run the node ``perception_picture``."""
    return _run('picture_node')


def simulation() -> int:
    """Run the node ``simulation``."""
    return _run('simulation_node')
