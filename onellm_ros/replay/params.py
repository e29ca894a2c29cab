"""The perception node's parameters, read from a file without ROS: of ROS, or of a recording.

A parameter file of ROS 2 (``NODE: ros__parameters: ...``), or the report.yaml that ``onellm
record`` writes beside a bag; both give dotted names and values, and from them the node's settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
import re
from typing import Any, get_type_hints

import yaml

from onellm_ros.config import ConfigError, from_mapping
from onellm_ros.modality import parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.robot_params import is_named, with_robot

REPORT = 'report.yaml'          # beside the bag that ``onellm record`` writes
_MODALITY_LISTS = ('modalities', 'window.required')
# What the node has beside its settings; a replay has no use for most of them.
_OTHERS = re.compile(r'(autostart|use_sim_time|start_type_description_service'
                     r'|qos_overrides\..+)$')


@dataclass(frozen=True)
class NodeParams:
    """What a node was told, or what a recording says about it.

    :param values: parameters by dotted names.
    :param config: the settings that they give; the others have their defaults.
    :param sources: of a recording's report: its table of sources; else empty.
    :param model: of a recording's report: the node's model, such as ``nano@1a2b3c4d``.
    :param notes: what was not understood, for people.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    config: NodeConfig = field(default_factory=NodeConfig)
    sources: tuple[Mapping[str, Any], ...] = ()
    model: str = ''
    notes: tuple[str, ...] = ()

    @property
    def use_sim_time(self) -> bool:
        """Whether the node's clock was that of the topic /clock."""
        return self.values.get('use_sim_time') is True


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return nested parameters by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f'{prefix}{key}'
        out.update(flat(value, f'{name}.') if isinstance(value, Mapping) else {name: value})
    return out


def _sections(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield node name and parameters of each ``ros__parameters``."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        if key == 'ros__parameters' and path and isinstance(value, Mapping):
            yield '/'.join(path), value
        else:
            yield from _sections(value, (*path, str(key).strip('/')))


def _fits(section: str, node: str) -> bool:
    """Tell whether a section is for a node; ``*`` is one part of a name, ``**`` are any."""
    pattern = ''.join({'**': r'(?:/[^/]+)*', '*': r'/[^/]+'}.get(part, '/' + re.escape(part))
                      for part in section.split('/') if part)
    return re.fullmatch(pattern, node) is not None


def _limits(cls: type = NodeConfig, prefix: str = '') -> dict[str, Any]:
    """Return what each setting says about itself, by its dotted name."""
    hints = get_type_hints(cls)
    out: dict[str, Any] = {}
    for item in fields(cls):
        if 'names' in item.metadata:
            continue                # sources and extrinsics: perception/robot_params
        if is_dataclass(hints[item.name]):
            out.update(_limits(hints[item.name], f'{prefix}{item.name}.'))  # type: ignore[arg-type]
        else:
            out[prefix + item.name] = item.metadata
    return out


def _checked(name: str, value: Any, meta: Mapping[str, Any]) -> Any:
    """Return a value as the settings take it.

    :raises ConfigError: for one beyond its limits.
    """
    if isinstance(value, (list, tuple)):
        if not all(isinstance(word, str) for word in value):
            raise ConfigError(f'{name}: found {list(value)}, expected a list of words')
        words = tuple(word.strip() for word in value if word.strip())
        if name not in _MODALITY_LISTS:
            return words
        try:
            return tuple(parse_modality(word).value for word in words)
        except ValueError as error:
            raise ConfigError(f'{name}: {error}') from error
    low, high = meta.get('low'), meta.get('high')
    if low is not None and high is not None and isinstance(value, (int, float)) \
            and not low <= value <= high:
        raise ConfigError(f'{name}: found {value}, expected {low:g} to {high:g}')
    if meta.get('one_of') and value not in meta['one_of']:
        raise ConfigError(f'{name}: found {value!r}, expected one of {", ".join(meta["one_of"])}')
    return value


def config_of(values: Mapping[str, Any]) -> tuple[NodeConfig, tuple[str, ...]]:
    """Return the settings that dotted names give, and notes on names that are none.

    :raises ConfigError: for a value that cannot be.
    """
    limits = _limits()
    tree: dict[str, Any] = {}
    notes = []
    for name, value in values.items():
        if is_named(name):
            continue
        if name not in limits:
            if not _OTHERS.match(name):
                notes.append(f'parameter {name}: the perception node has none of that name; '
                             'it is ignored')
            continue
        *path, last = name.split('.')
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = _checked(name, value, limits[name])
    return with_robot(from_mapping(NodeConfig, tree), values), tuple(notes)


def read_params(path: str | Path, node: str = '') -> NodeParams:
    """Read a parameter file, or the report of a recording.

    :param node: full name of the node, such as ``/robot1/perception``; empty: whatever node named
        ``perception`` the file is for.
    :raises ConfigError: if it cannot be used.
    """
    file = Path(path).expanduser()
    try:
        tree = yaml.safe_load(file.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigError(f'params file {file}: {error.strerror}; expected a YAML file') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'params file {file}: found no YAML: {" ".join(str(error).split())}'
                          ) from error
    if isinstance(tree, Mapping) and 'onellm_record' in tree:
        return _of_report(file, tree)
    values: dict[str, Any] = {}
    found = list(_sections(tree))
    for section, given in found:
        if _fits(section, node) if node else \
                section.split('/')[-1] in ('perception', '*', '**', ''):
            values.update(flat(given))
    if not values:
        raise ConfigError(
            f'params file {file}: found parameters for '
            f'{", ".join(section for section, _ in found) or "no node"}, expected some for '
            f'{node or "a node named perception"} (PERCEPTION: ros__parameters: NAME: VALUE)')
    try:
        config, notes = config_of(values)
    except ConfigError as error:
        raise ConfigError(f'params file {file}: {error}') from error
    return NodeParams(values, config, notes=notes)


def _of_report(file: Path, tree: Mapping[str, Any]) -> NodeParams:
    """Return what a recording's report says."""
    values, sources = tree.get('parameters') or {}, tree.get('sources') or []
    if not isinstance(values, Mapping) or not isinstance(sources, list) or not all(
            isinstance(s, Mapping) and {'name', 'modality', 'topics'} <= set(s) for s in sources):
        raise ConfigError(f'report {file}: expected parameters and sources as onellm record '
                          'writes them; give --params-file or --topics instead')
    try:
        config, notes = config_of(values)
    except ConfigError as error:
        raise ConfigError(f'report {file}: {error}') from error
    return NodeParams(dict(values), config, tuple(sources), str(tree.get('model') or ''), notes)
