"""The sources and extrinsics of a robot, out of parameters by dotted names, checked.

``sources`` and ``extrinsics`` are lists of names; ``source.NAME.KEY`` and ``extrinsic.NAME.KEY``
say what each is. This module owns reading them and judging whether they fit each other. It knows
no ROS: the node, a replay and the commands that start nodes read them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
import difflib
import math
import re
from typing import Any

from onellm_ros.config import ConfigError
from onellm_ros.modality import parse_modality
from onellm_ros.node_config import ExtrinsicConfig, NodeConfig, SourceConfig

# list of names -> (prefix of the entries' parameters, what an entry is)
LISTS: Mapping[str, tuple[str, type]] = {
    'sources': ('source', SourceConfig), 'extrinsics': ('extrinsic', ExtrinsicConfig)}
KEYS: Mapping[str, Mapping[str, Any]] = {
    prefix: {f.name: f for f in fields(cls) if f.name != 'name'} for prefix, cls in LISTS.values()}
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')
_TYPE = re.compile(r'[a-z][a-z0-9_]*(/msg)?/[A-Z][A-Za-z0-9]*')
_TAKEN = {'camera_info', 'model'}       # the node's own, in its diagnostics


def is_named(name: str) -> bool:
    """Tell whether a parameter is a list of names, or says something about one of them."""
    return name in LISTS or name.partition('.')[0] in KEYS


def names_of(list_name: str, found: Any) -> tuple[str, ...]:
    """Return the names that a list holds; ROS writes an empty one ``['']``.

    :raises ConfigError: for what is no list of names, or a name that comes twice.
    """
    if not isinstance(found, (list, tuple)) or not all(isinstance(v, str) for v in found):
        raise ConfigError(f'{list_name}: found {found!r}, expected a list of names')
    names = tuple(v.strip() for v in found if v.strip())
    for name in names:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise ConfigError(f'{list_name}: found {name!r}, expected letters, digits and _, the '
                              f'first a letter, and none of {", ".join(sorted(_TAKEN))}')
        if names.count(name) > 1:
            raise ConfigError(f'{list_name}: found {name!r} twice, expected each name once')
    return names


def value_of(name: str, found: Any) -> Any:
    """Return the value of ``source.NAME.KEY`` or ``extrinsic.NAME.KEY``, checked by itself.

    :raises ConfigError: saying what was found and expected.
    """
    prefix, _, rest = name.partition('.')
    entry, _, key = rest.partition('.')
    item = KEYS[prefix].get(key)
    if not entry or item is None:
        near = difflib.get_close_matches(key, KEYS[prefix], 1)
        raise ConfigError(f'{name}: found the key {key!r}, expected one of '
                          f'{", ".join(KEYS[prefix])}'
                          + (f'; did you mean {near[0]}?' if near else ''))
    if isinstance(item.default, tuple):
        return _vector(name, found, len(item.default))
    if not isinstance(found, str):
        raise ConfigError(f'{name}: found {found!r}, expected a text')
    word = found.strip()
    one_of = item.metadata['one_of']
    if word and one_of and word not in one_of:
        raise ConfigError(f'{name}: found {found!r}, expected one of {", ".join(one_of)}')
    if word and key == 'modality':
        try:
            return parse_modality(word).value
        except ValueError as error:
            raise ConfigError(f'{name}: {error}') from error
    if word and key == 'type':
        if not _TYPE.fullmatch(word):
            raise ConfigError(f'{name}: found {found!r}, expected package/msg/Name, such as '
                              'sensor_msgs/msg/Image')
        if '/msg/' not in word:
            word = word.replace('/', '/msg/')
    return word


def _vector(name: str, found: Any, length: int) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in found if not isinstance(v, (str, bool)))
    except (TypeError, ValueError):
        values = ()
    if len(values) != length or len(found) != length or not all(map(math.isfinite, values)):
        raise ConfigError(f'{name}: found {found!r}, expected {length} finite numbers')
    return values


def with_robot(config: NodeConfig, values: Mapping[str, Any]) -> NodeConfig:
    """Return the settings with the sources and extrinsics that the parameters name.

    :param values: parameters by dotted names; others than these are ignored.
    :raises ConfigError: for a value that cannot be, a source without a topic, an unknown key, two
        sources of one topic and modality, or two poses of one frame.
    """
    entries: dict[str, dict[str, dict[str, Any]]] = {prefix: {} for prefix in KEYS}
    for name, found in values.items():
        prefix, _, rest = name.partition('.')
        if prefix in KEYS:
            entry, _, key = rest.partition('.')
            entries[prefix].setdefault(entry, {})[key] = value_of(name, found)
    made = {list_name: tuple(cls(name=name, **entries[prefix].get(name, {}))
                             for name in names_of(list_name, values.get(list_name, ())))
            for list_name, (prefix, cls) in LISTS.items()}
    _check_sources(made['sources'])
    _check_extrinsics(made['extrinsics'], config.base_frame)
    return replace(config, sources=made['sources'], extrinsics=made['extrinsics'])


def _check_sources(sources: Iterable[SourceConfig]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for source in sources:
        if not source.topic:
            raise ConfigError(f'source.{source.name}.topic: found none, expected the topic of '
                              f'the source {source.name!r}')
        other = seen.setdefault((source.topic, source.modality), source.name)
        if other != source.name:
            raise ConfigError(
                f'source.{source.name}.topic: found {source.topic!r}, which the source {other!r} '
                f'has, too, as {source.modality or "what its messages are"}; expected each topic '
                'once, or with another modality')


def _check_extrinsics(extrinsics: Iterable[ExtrinsicConfig], base_frame: str) -> None:
    seen: dict[str, str] = {}
    for entry in extrinsics:
        frame = (entry.frame or entry.name).lstrip('/')
        if frame == base_frame.lstrip('/'):
            raise ConfigError(f'extrinsic.{entry.name}.frame: found {frame!r}, which is the '
                              "base_frame itself; expected a sensor's frame")
        if seen.setdefault(frame, entry.name) != entry.name:
            raise ConfigError(f'extrinsic.{entry.name}.frame: found {frame!r}, whose pose '
                              f'extrinsic.{seen[frame]} gives, too; expected each frame once')


def strangers(values: Mapping[str, Any]) -> list[str]:
    """Return in words which entries no list names: they have no effect."""
    out = []
    for list_name, (prefix, _) in LISTS.items():
        listed = names_of(list_name, values.get(list_name, ()))
        told = {n.split('.')[1] for n in values if n.startswith(f'{prefix}.') and n.count('.') > 1}
        out += [f'{prefix}.{name}: found its parameters, but {list_name} names only '
                f'{list(listed)}; expected {name!r} there, else it has no effect'
                for name in sorted(told - set(listed))]
    return out
