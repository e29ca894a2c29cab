"""Mend the CMake files of the ROS wheels, which carry the paths of the machine that built them.

Run with the venv's own Python: ``.venv/bin/python tools/mend_wheels.py``; twice is harmless.
"""

from __future__ import annotations

from pathlib import Path
import re
import sys
import sysconfig

import numpy

BUILD_MACHINE = '/opt/python/'
NUMPY_INCLUDE = re.compile(
    r'/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages/numpy/_?core/include')
PYTHON_INCLUDE = re.compile(r'/opt/python/cp3\d+-cp3\d+/include/python3\.\d+')


def mend(share: Path) -> int:
    """Point the files below ``share`` at this machine's NumPy and Python headers.

    :returns: how many files were changed.
    """
    numpy_include = numpy.get_include()
    python_include = sysconfig.get_paths()['include']
    changed = 0
    for path in sorted(share.rglob('*.cmake')):
        text = path.read_text(encoding='utf-8')
        if BUILD_MACHINE not in text:
            continue
        mended = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
        mended = PYTHON_INCLUDE.sub(lambda _: python_include, mended)
        if mended != text:
            path.write_text(mended, encoding='utf-8')
            changed += 1
    return changed


def main() -> int:
    """Mend the environment that runs this script; return the exit status."""
    if sys.prefix == sys.base_prefix:
        print('mend_wheels: run with the Python of the venv', file=sys.stderr)
        return 1
    print(f'mended {mend(Path(sys.prefix) / "share")} CMake files of the ROS wheels')
    return 0


if __name__ == '__main__':
    sys.exit(main())
