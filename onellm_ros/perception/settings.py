"""The node's settings as parameters by dotted names: each with its kind, limits and text, checked.

They derive from ``NodeConfig``; the node declares them (``ros/parameters.py``), a replay reads
them from files. Knows no ROS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from onellm_ros.config import ConfigError, from_mapping
from onellm_ros.modality import parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.robot_params import is_named, with_robot

_MODALITY_LISTS = ('modalities', 'window.required')


@dataclass(frozen=True)
class Setting:
    """One parameter: dotted name, default and what its field says about it."""

    name: str
    kind: Any
    default: Any
    text: str
    low: float | None
    high: float | None
    one_of: tuple[str, ...]
    live: bool

    @property
    def is_list(self) -> bool:
        """Tell whether it is a list of words."""
        return isinstance(self.default, tuple)

    @property
    def ros_default(self) -> Any:
        """Return the default as a ROS value: an empty list of strings has no type, [''] has."""
        return (list(self.default) or ['']) if self.is_list else self.default

    def value(self, found: Any) -> Any:
        """Return a ROS value as the field's, checked.

        :raises ConfigError: saying what was found and expected.
        """
        if self.is_list:
            if not isinstance(found, (list, tuple)) or not all(isinstance(v, str) for v in found):
                raise ConfigError(f'{self.name}: found {found!r}, expected a list of words')
            words = tuple(v.strip() for v in found if v.strip())
            if self.name in _MODALITY_LISTS:
                try:
                    return tuple(parse_modality(word).value for word in words)
                except ValueError as error:
                    raise ConfigError(f'{self.name}: {error}') from error
            return words
        if self.kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        if not isinstance(found, self.kind) or (
                isinstance(found, bool) and self.kind is not bool):
            raise ConfigError(f'{self.name}: found {found!r}, expected a {self.kind.__name__}')
        if self.low is not None and self.high is not None and not self.low <= found <= self.high:
            raise ConfigError(f'{self.name}: found {found}, expected {self.low} to {self.high}')
        if self.one_of and found not in self.one_of:
            raise ConfigError(
                f'{self.name}: found {found!r}, expected one of {", ".join(self.one_of)}')
        return found


def settings(cls: type = NodeConfig, prefix: str = '') -> Iterator[Setting]:
    """Yield every parameter of a settings dataclass, in its order."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        kind = hints[item.name]
        if 'text' not in item.metadata and not is_dataclass(kind):
            continue                # names of an entry, and the entries: perception/robot_params
        if is_dataclass(kind):
            yield from settings(kind, f'{prefix}{item.name}.')  # type: ignore[arg-type]
        else:
            meta = item.metadata
            yield Setting(prefix + item.name, kind, item.default, meta['text'], meta['low'],
                          meta['high'], meta['one_of'], meta['live'])


SETTINGS: Mapping[str, Setting] = {s.name: s for s in settings()}


def config_of(values: Mapping[str, Any]) -> NodeConfig:
    """Return the settings that dotted names and ROS values give; the others keep their defaults.

    :param values: ``sources``, ``source.NAME.KEY`` and those of extrinsics may be among them.
    :raises ConfigError: for a value that cannot be.
    """
    tree: dict[str, Any] = {}
    for name, found in values.items():
        if is_named(name):
            continue
        *path, last = name.split('.')
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = SETTINGS[name].value(found)
    return with_robot(from_mapping(NodeConfig, tree), values)
