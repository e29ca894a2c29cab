"""ROS parameters of the perception node: declared from its settings, read and judged.

This module also writes ``config/onellm.yaml`` (``python -m onellm_ros.ros.parameters``), so that a
default is written once, in the dataclass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
import json
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidTopicNameException, ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from onellm_ros.config import ConfigError
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.robot_params import (
    KEYS,
    LISTS,
    is_named,
    names_of,
    strangers,
    value_of,
)
from onellm_ros.perception.settings import SETTINGS, Setting, config_of, settings

_LOADED = 'the model was loaded, and its memory computed, with it'
_SUBSCRIBED = 'the inputs are subscribed by it'
# Beginnings of the names of parameters that cannot change while the node is configured.
_WHY_FIXED = {
    'window.kept': _LOADED, 'window.': 'open windows and their buffers are cut by it',
    'model': _LOADED, 'device': _LOADED, 'quantize': _LOADED, 'threads': _LOADED,
    'memory_mb': _LOADED, 'inputs.': _SUBSCRIBED, 'source': _SUBSCRIBED, 'extrinsic': _SUBSCRIBED}


_ENTRIES: Mapping[str, tuple[Setting, ...]] = {
    prefix: tuple(settings(cls)) for prefix, cls in LISTS.values()}
_LIST_TEXTS: Mapping[str, str] = {
    f.name: f.metadata['names'] for f in fields(NodeConfig) if 'names' in f.metadata}


def _descriptor(setting: Setting) -> ParameterDescriptor:
    text = setting.text
    if setting.one_of:
        text += f' One of {", ".join(setting.one_of)}.'
    if not setting.live:
        text += ' Takes effect when the node is configured.'
    out = ParameterDescriptor(description=text, dynamic_typing=(
        setting.kind is float or isinstance(setting.default, tuple)))
    if setting.low is not None and setting.high is not None:
        if setting.kind is int:
            out.integer_range = [IntegerRange(
                from_value=int(setting.low), to_value=int(setting.high), step=1)]
        else:
            out.floating_point_range = [FloatingPointRange(
                from_value=setting.low, to_value=setting.high, step=0.0)]
    return out


def declare(node: Node) -> None:
    """Declare every parameter with its default, text and limits.

    :raises rclpy.exceptions.InvalidParameterValueException: for an override out of its limits.
    """
    for setting in SETTINGS.values():
        node.declare_parameter(setting.name, setting.ros_default, _descriptor(setting))
    for name, text in _LIST_TEXTS.items():
        node.declare_parameter(name, [''], ParameterDescriptor(
            description=f'{text} Takes effect when the node is configured.', dynamic_typing=True))
    declare_robot(node)

    def named(changes: Iterable[Parameter]) -> None:
        if any(p.name in LISTS for p in changes):
            declare_robot(node)
    node.add_post_set_parameters_callback(named)


def declare_robot(node: Node) -> None:
    """Declare ``source.NAME.*`` and ``extrinsic.NAME.*`` of every name that is listed now.

    :raises rclpy.exceptions.ParameterException: for an override of the wrong type.
    """
    for list_name, (prefix, _) in LISTS.items():
        try:
            names = names_of(list_name, node.get_parameter(list_name).value)
        except ConfigError:
            continue                # told when the node is configured
        for name in names:
            for setting in _ENTRIES[prefix]:
                full = f'{prefix}.{name}.{setting.name}'
                if not node.has_parameter(full):
                    node.declare_parameter(full, setting.ros_default, _descriptor(setting))


def _robot_values(node: Node) -> dict[str, Any]:
    """Return what the node was told about sources and extrinsics, declared or not."""
    # Names that nobody declared stand in the overrides alone, for which rclpy has no public way.
    out = {name: parameter.value
           for name, parameter in getattr(node, '_parameter_overrides', {}).items()
           if is_named(name)}
    for prefix in KEYS:
        found = node.get_parameters_by_prefix(prefix)
        out.update({f'{prefix}.{name}': parameter.value for name, parameter in found.items()})
    out.update({name: node.get_parameter(name).value for name in LISTS})
    return out


def read(node: Node) -> NodeConfig:
    """Return the node's settings as they are now.

    :raises ConfigError: for a value that cannot be.
    """
    try:
        declare_robot(node)
    except ParameterException as error:
        raise ConfigError(str(error)) from error
    robot = _robot_values(node)
    config = config_of({**{name: node.get_parameter(name).value for name in SETTINGS}, **robot})
    for source in config.sources:
        for key in ('topic', 'camera_info'):
            if getattr(source, key):
                check_topic(f'source.{source.name}.{key}', getattr(source, key))
    return config


def without_effect(node: Node) -> list[str]:
    """Return in words which parameters of sources and extrinsics no list names."""
    return strangers(_robot_values(node))


def check_topic(name: str, topic: str) -> None:
    """Judge the name of a topic.

    :param name: what it is of, for the text.
    :raises ConfigError: if ROS would refuse it.
    """
    try:
        validate_topic_name(topic)
    except (InvalidTopicNameException, ValueError) as error:
        raise ConfigError(f'{name}: found {topic!r}, expected the name of a topic '
                          f'({" ".join(str(error).split())})') from error


def _why_fixed(name: str) -> str:
    return next((why for prefix, why in _WHY_FIXED.items() if name.startswith(prefix)),
                'it is read when the node is configured')


def check(node: Node, changes: Iterable[Parameter], configured: bool) -> SetParametersResult:
    """Judge a change of parameters before it is made.

    :param configured: the model is loaded: only live parameters can change.
    """
    changes = list(changes)
    ours = {p.name: p.value for p in changes if p.name in SETTINGS}
    robot = {p.name: p.value for p in changes if is_named(p.name)}
    fixed = [n for n, v in {**ours, **robot}.items()
             if configured and not (n in SETTINGS and SETTINGS[n].live)
             and node.has_parameter(n) and v != node.get_parameter(n).value]
    if fixed:
        return SetParametersResult(successful=False, reason=(
            f'{fixed[0]} is fixed while the node is configured, since {_why_fixed(fixed[0])}: '
            'deactivate and clean it up, set the parameter, then configure and activate'))
    try:
        for name, value in robot.items():  # whether they fit each other shows when configuring
            names_of(name, value) if name in LISTS else value_of(name, value)
        known = {n: node.get_parameter(n).value for n in SETTINGS if node.has_parameter(n)}
        config_of({**known, **ours} if len(known) == len(SETTINGS) else ours)
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _yaml(value: Any) -> str:
    """Return a value as YAML; JSON is YAML, quotes as the project has them."""
    return json.dumps(value).replace('"', "'")


def _robot_yaml() -> list[str]:
    """Return the lists of sources and extrinsics, with an entry of each as a comment."""
    out = []
    for list_name, (prefix, _) in LISTS.items():
        out += [f'    # {_LIST_TEXTS[list_name]}', f"    {list_name}: ['']",
                f'    # {prefix}:', '    #   NAME:']
        for setting in _ENTRIES[prefix]:
            one_of = f' One of: {", ".join(setting.one_of)}.' if setting.one_of else ''
            out += [f'    #     # {setting.text}{one_of}',
                    f'    #     {setting.name}: {_yaml(setting.ros_default)}']
    return out


def yaml_text() -> str:
    """Return the commented parameter file with every default."""
    lines = ['# Parameters of the perception node with their defaults.',
             '# Written by `python -m onellm_ros.ros.parameters`; a copy of it is a good start.',
             '/**:', '  ros__parameters:']
    group = ''
    for setting in SETTINGS.values():
        *path, last = setting.name.split('.')
        if path and not group:
            lines += _robot_yaml()
        if path and path[0] != group:
            group = path[0]
            lines.append(f'    {group}:')
        indent = '      ' if path else '    '
        limits = ''
        if setting.one_of:
            limits = f' One of: {", ".join(setting.one_of)}.'
        elif setting.low is not None:
            limits = f' {setting.low:g} to {setting.high:g}.'
        live = ' Can change while running.' if setting.live else ''
        lines.append(f'{indent}# {setting.text}{limits}{live}')
        lines.append(f'{indent}{last}: {_yaml(setting.ros_default)}')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    print(yaml_text(), end='')
