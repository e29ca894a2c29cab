"""Where the files lie that come with the package: models/, config/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import sys

PACKAGE = 'onellm_ros'


def package_roots() -> Iterator[Path]:
    """Yield the folders that may hold them: source tree, ROS share folder, prefix."""
    yield Path(__file__).resolve().parents[1]
    try:
        from ament_index_python.packages import (
            PackageNotFoundError,
            get_package_share_directory,
        )
    except ImportError:
        pass
    else:
        try:
            yield Path(get_package_share_directory(PACKAGE))
        except (PackageNotFoundError, OSError):     # OSError: no ROS environment is set up
            pass
    yield Path(sys.prefix) / 'share' / PACKAGE
