"""The perception node's parameters, read from a file without ROS: of ROS, or of a recording.

A parameter file of ROS 2 (``NODE: ros__parameters: ...``), or the report.yaml that ``onellm
record`` writes beside a bag; both give dotted names and values, and from them the node's settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
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


# Of settings that changed while recording, a replay follows these from window to window;
_FOLLOWED = ('describe.prompt', 'describe.max_tokens', 'describe.temperature', 'modalities')
# and its windows and words do not hang on these.
_NO_MATTER = re.compile(
    r'(describe\..+|window\.kept(_mb)?|ask\.(?!max_tokens).+|heartbeat_hz|stall_s'
    r'|diagnostics_period_s|threads|memory_mb|device)$')


@dataclass(frozen=True)
class Change:
    """A parameter that changed while the node was recorded.

    :param stamp_ns: time of recording, integer nanoseconds since 1970.
    :param before: its value; None: there was no such parameter. ``after`` likewise.
    """

    stamp_ns: int
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.stamp_ns // 10**9, timezone.utc)
        text = f'{self.name} changed at {self.stamp_ns / 1e9:.3f} s ({when:%Y-%m-%d %H:%M:%S} ' \
            f'UTC) from {self.before!r} to {self.after!r}'
        if self.name in _FOLLOWED:
            return f'{text}; followed from the first window that closes after that, where no ' \
                'option goes before it'
        if _NO_MATTER.match(self.name) or _OTHERS.match(self.name):
            return f'{text}; the replay does not hang on it'
        return f'{text}; NOT followed, {self.before!r} counts throughout: replay what comes ' \
            f'after with --from {self.stamp_ns / 1e9:.3f} and a --params-file that says so'


@dataclass(frozen=True)
class NodeParams:
    """What a node was told, or what a recording says about it.

    :param values: parameters by dotted names.
    :param config: the settings that they give; the others have their defaults.
    :param sources: of a recording's report: its table of sources; else empty.
    :param model: of a recording's report: the node's model, such as ``nano@1a2b3c4d``.
    :param notes: what was not understood, and what changed, for people.
    :param changes: of a recording's report: parameters that changed meanwhile, in their order.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    config: NodeConfig = field(default_factory=NodeConfig)
    sources: tuple[Mapping[str, Any], ...] = ()
    model: str = ''
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def followed(self, config: NodeConfig) -> tuple[Change, ...]:
        """Return the changes that a replay makes, too.

        :param config: the replay's settings: what they give otherwise than the node was begun
            with is the user's word, and stays.
        """
        return tuple(c for c in self.changes if c.name in _FOLLOWED
                     and _value(config, c.name) == _value(self.config, c.name))

    @property
    def use_sim_time(self) -> bool:
        """Whether the node's clock was that of the topic /clock."""
        return self.values.get('use_sim_time') is True


def _value(config: NodeConfig, name: str) -> Any:
    for part in name.split('.'):
        config = getattr(config, part)
    return config


def config_at(config: NodeConfig, changes: Iterable[Change], stamp_ns: int) -> NodeConfig:
    """Return the settings as changes have left them at a time of recording.

    :param changes: such as :meth:`NodeParams.followed` gives.
    """
    for change in changes:
        if change.stamp_ns <= stamp_ns:
            value = SETTINGS[change.name].value(change.after)
            group, _, name = change.name.rpartition('.')
            if group:
                value = replace(getattr(config, group), **{name: value})
            config = replace(config, **{group or name: value})
    return config


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
        changes = tuple(Change(int(c['stamp_ns']), str(c['name']), c['from'], c['to'])
                        for c in tree.get('changes') or [])
        restarts = tuple(
            f'the node was restarted, and found again at {int(t) / 1e9:.3f} s: its windows held '
            "nothing from before then, the replay's do" for t in tree.get('restarts') or [])
        for change in changes:
            shown = config_at(config, (change,), 2**63).modalities \
                if change.name in _FOLLOWED else config.modalities
            if config.modalities and not (shown and set(shown) <= set(config.modalities)):
                notes += ('of the modalities only those of the begin are shown, '
                          f'{", ".join(config.modalities)}: give --modalities for more',)
    except ConfigError as error:
        raise ConfigError(f'report {file}: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'report {file}: changes, restarts: {type(error).__name__}: {error}; '
                          'expected lists as onellm record writes them') from error
    return NodeParams(dict(values), config, tuple(sources), str(tree.get('model') or ''),
                      (*notes, *map(str, changes), *restarts), changes)
