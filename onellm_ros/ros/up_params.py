"""Parameter files and arguments of the perception node, checked before anything is started.

The node itself ignores what it has not declared, so a misspelt parameter would go unseen; here it
is found. ``onellm up`` and the launch files use it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
import difflib
from pathlib import Path
import re
from typing import Any

from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.validate_namespace import validate_namespace
import yaml

from onellm_ros.config import ConfigError
from onellm_ros.perception.params_file import fits, flat, sections
from onellm_ros.perception.robot_params import is_named, strangers
from onellm_ros.perception.settings import SETTINGS, config_of
from onellm_ros.ros import parameters

NODE = 'perception'
# Names of the inputs before remapping; launch arguments carry those without a slash.
INPUTS = ('image', 'image/compressed', 'depth', 'depth/compressedDepth', 'normal', 'points', 'imu',
          'audio', 'fmri', 'scan', 'camera_info')
# Declared beside SETTINGS: by the node, and by rclpy for every node.
OTHERS = frozenset(('autostart', 'sources', 'extrinsics', 'use_sim_time',
                    'start_type_description_service'))
LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
_DEVICE = re.compile(r'auto|cpu|cuda(:\d+)?')


class UpError(ValueError):
    """An argument that cannot be; the text says what was found and what was expected."""


def node_name(namespace: str, node: str = NODE) -> str:
    """Return the fully qualified name of a node."""
    inside = namespace.strip('/')
    return f'/{inside}/{node}' if inside else f'/{node}'


def read_params_file(path: str | Path, namespace: str = '', node: str = NODE) -> dict[str, Any]:
    """Return what a parameter file gives to the node, by dotted names; values are not judged.

    :raises UpError: if it is not there, is no parameter file or has nothing for the node.
    """
    file, name = Path(path).expanduser(), node_name(namespace, node)
    if not file.is_file():
        raise UpError(f'params file {str(path)!r}: found no such file; expected a YAML file such '
                      'as config/onellm.yaml')
    try:
        found = list(sections(yaml.safe_load(file.read_text(encoding='utf-8'))))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UpError(f'params file {file}: found no YAML: {" ".join(str(error).split())}'
                      ) from error
    except ConfigError as error:
        raise UpError(f'params file {file}: {error}') from error
    out: dict[str, Any] = {}
    for section, values in found:
        if fits(section, name):
            out.update(flat(values))
    if not any(fits(section, name) for section, _ in found):
        raise UpError(f'params file {file}: found parameters for '
                      f'{", ".join(section for section, _ in found) or "no node"}, expected some '
                      f'for {name}; name the section /** to have it fit every namespace')
    return out


def check_params(values: Mapping[str, Any], also: Collection[str] = ()) -> None:
    """Judge parameters by their names and values.

    :param also: names that other nodes of the same start know.
    :raises UpError: for the first one that the node would ignore or refuse.
    """
    known = {*SETTINGS, *OTHERS, *also}
    for name, value in values.items():
        if isinstance(value, list):
            _check_list(name, value)
        if name.startswith('source.') and name.endswith(('.topic', '.camera_info')) \
                and isinstance(value, str) and value:
            check_topic(f'parameter {name}', value)
        elif not (is_named(name) or name in known or name.startswith('qos_overrides.')):
            near = difflib.get_close_matches(name, [*known, *(f'inputs.{k}' for k in known)], 1)
            raise UpError(f'parameter {name}: the node has none of that name' + (
                f'; did you mean {near[0]}?' if near else
                '; config/onellm.yaml lists them all'))
    for name in ('use_sim_time', 'autostart'):
        if not isinstance(values.get(name, True), bool):
            raise UpError(f'parameter {name}: found {values[name]!r}, expected true or false')
    try:
        config_of({n: v for n, v in values.items() if n in SETTINGS or is_named(n)})
        for text in strangers(values):
            raise UpError(f'parameter {text}')
    except ConfigError as error:
        raise UpError(f'parameter {error}') from error


def _check_list(name: str, value: Sequence[Any]) -> None:
    if not value:
        raise UpError(f"parameter {name}: found [], which has no type in ROS; write ['']")
    kinds = {type(item) for item in value}
    if len(kinds) > 1:
        raise UpError(f'parameter {name}: found {value}, expected values of one type; write whole '
                      'numbers as 1.0 beside fractions')


def check_topic(what: str, topic: str) -> None:
    """Judge the name of a topic.

    :raises UpError: if ROS would refuse it.
    """
    try:
        parameters.check_topic(what, topic)
    except ConfigError as error:
        raise UpError(str(error)) from error


def check_namespace(namespace: str) -> None:
    """Judge a namespace; empty: none.

    :raises UpError: if ROS would refuse it.
    """
    if not namespace:
        return
    try:
        validate_namespace(node_name(namespace, '').rstrip('/') or '/')
    except (InvalidNamespaceException, ValueError) as error:
        raise UpError(f'namespace: found {namespace!r}, expected a name such as robot1 '
                      f'({_line(error)})') from error


def check_remap(rule: str) -> tuple[str, str]:
    """Return both sides of a remapping rule ``FROM:=TO``.

    :raises UpError: for what is none.
    """
    old, sign, new = rule.partition(':=')
    if not (old and sign and new):
        raise UpError(f'remap {rule!r}: expected FROM:=TO, such as '
                      'image:=/camera/color/image_raw')
    bare = old.rpartition(':')[2]
    if bare.startswith('__'):
        raise UpError(f'remap {rule!r}: found {bare}, expected a topic; the namespace has an '
                      'argument of its own, and the nodes keep their names')
    for side in (bare, new):
        check_topic(f'remap {rule!r}', side)
    return old, new


def check_place(model: str, device: str) -> None:
    """Judge the names of a model and a device as far as can be told without loading them.

    :raises UpError: for a path without a folder, or no device's name.
    """
    is_path = '/' in model and not model.startswith('hub:')
    if is_path and not Path(model).expanduser().is_dir():
        raise UpError(f'model: found no folder {model!r}, expected one with config.json and '
                      'weights, or a name such as nano')
    if device and not _DEVICE.fullmatch(device):
        raise UpError(f'device: found {device!r}, expected auto, cpu, cuda or cuda:N')


def check_launch(params_file: str, namespace: str, model: str, device: str,
                 remaps: Iterable[tuple[str, str]]) -> None:
    """Judge the arguments of a launch file; empty texts are not given.

    :raises UpError: for the first one that cannot be.
    """
    check_namespace(namespace)
    check_place(model, device)
    for name, topic in remaps:
        check_topic(name, topic)
    if params_file:
        check_params(read_params_file(params_file, namespace))


def check_ros_arguments(arguments: Sequence[str]) -> None:
    """Have ROS itself read the arguments of a node.

    :raises UpError: with its words, if it refuses them.
    """
    context = Context()
    try:
        context.init(args=list(arguments), initialize_logging=False)
    except (rclpy_implementation.RCLError, RuntimeError) as error:
        raise UpError(f'ROS refuses the arguments: {_line(error)}') from error
    context.shutdown()


def _line(error: Exception) -> str:
    """Return an error's text in one line."""
    return ' '.join(str(error).split())
