"""Parameter files of ROS 2: the sections of a YAML file, and which of them are for a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re
from typing import Any

from onellm_ros.config import ConfigError


def sections(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield node name and parameters of each ``ros__parameters`` in a parameter file.

    :raises ConfigError: for what is no parameter file.
    """
    where = '/'.join(path) or 'the top'
    if not isinstance(tree, Mapping):
        raise ConfigError(f'at {where}: found {tree!r:.60}, expected NODE: ros__parameters: NAME: '
                          'VALUE, where NODE is a name or /**')
    for key, value in tree.items():
        if key == 'ros__parameters':
            if not path or not isinstance(value, Mapping):
                raise ConfigError(f'at {where}: found ros__parameters: {value!r:.60}, expected '
                                  "the node's name above and parameters below it")
            yield '/'.join(path), value
        else:
            yield from sections(value, (*path, str(key).strip('/')))


def fits(section: str, name: str) -> bool:
    """Tell whether a section of a parameter file is for a node, as ROS decides it.

    :param section: a name, perhaps with ``*`` (one part) and ``**`` (any number of parts).
    :param name: fully qualified name of the node, such as ``/robot1/perception``.
    """
    pattern = ''.join({'**': r'(?:/[^/]+)*', '*': r'/[^/]+'}.get(part, '/' + re.escape(part))
                      for part in section.split('/') if part)
    return re.fullmatch(pattern, name) is not None


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return nested parameters by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f'{prefix}{key}'
        out.update(flat(value, f'{name}.') if isinstance(value, Mapping) else {name: value})
    return out
