"""Runs a module as a child that ends with its parent: ``python -m ...up_child PID MODULE ARGS``.

The child asks the kernel for a SIGTERM at its parent's death by itself: code between fork and exec
(``preexec_fn``) could hang in a parent that has threads, as every process with a ROS node has.
"""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import os
import runpy
import signal
import sys

from onellm_ros.ros.scripts import leave_at_once

_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str]) -> None:
    """Run ``argv[1]`` as the main module with the arguments behind it.

    :param argv: the parent's process id, the module, its arguments.
    """
    leave_at_once()
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(argv[0]):
        sys.exit(1)                                 # it died before the kernel was told
    sys.argv[:] = [argv[1], *argv[2:]]
    runpy.run_module(argv[1], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    main(sys.argv[1:])
