"""The perception node's parameters, read from a file without ROS: of ROS, or of a recording.

A parameter file of ROS 2 (``NODE: ros__parameters: ...``), or the report.yaml that ``onellm
record`` writes beside a bag; both give dotted names and values, and from them the node's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

import yaml

from onellm_ros.config import ConfigError
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception import settings
from onellm_ros.perception.params_file import fits, flat, sections
from onellm_ros.perception.robot_params import is_named
from onellm_ros.perception.settings import SETTINGS

REPORT = 'report.yaml'          # beside the bag that ``onellm record`` writes
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


def config_of(values: Mapping[str, Any]) -> tuple[NodeConfig, tuple[str, ...]]:
    """Return the settings that dotted names give, and notes on names that are none.

    :raises ConfigError: for a value that cannot be.
    """
    known = {name: value for name, value in values.items() if name in SETTINGS or is_named(name)}
    notes = [f'parameter {name}: the perception node has none of that name; it is ignored'
             for name in values if name not in known and not _OTHERS.match(name)]
    return settings.config_of(known), tuple(notes)


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
    try:
        found = list(sections(tree))
    except ConfigError as error:
        raise ConfigError(f'params file {file}: {error}') from error
    for section, given in found:
        if fits(section, node) if node else \
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
