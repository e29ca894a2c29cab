"""Room for pictures in the middleware: Fast DDS shares less memory by default than one takes."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import shutil

from onellm_ros.roots import package_roots

PROFILE = Path('config/fastdds_large.xml')
_VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
# What the user may have said about it.
_SAID = (_VARIABLE, 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTDDS_BUILTIN_TRANSPORTS',
         'RMW_FASTRTPS_USE_QOS_FROM_XML')
_LEAST = 512 << 20      # of a few processes with 64 MiB each; a container often has 64 MiB in all


def large_messages(environment: Mapping[str, str] = os.environ, *,
                   memory: Path = Path('/dev/shm')) -> dict[str, str]:
    """Return what to add to the environment of processes that publish pictures or clouds.

    Nothing where the user has said how Fast DDS shall send, for another middleware, and where
    there is not enough shared memory.

    :param memory: where shared memory lies.
    """
    if any(environment.get(name) for name in _SAID) \
            or 'fastrtps' not in environment.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'):
        return {}
    try:
        if shutil.disk_usage(memory).free < _LEAST:
            return {}
    except OSError:
        return {}
    found = (root / PROFILE for root in package_roots())
    return next(({_VARIABLE: str(path)} for path in found if path.is_file()), {})
