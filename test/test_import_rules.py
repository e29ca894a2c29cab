"""Imports point one way, and those of ROS and torch stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

PACKAGE = 'onellm_ros'
# What each part may import from the package, beside itself.
BASE = {'modality', 'config'}
ALLOWED: dict[str, set[str]] = {
    'modality': set(),
    'config': set(),
    'roots': set(),
    'machine': set(),
    'node_config': {'config'},
    'choose': BASE | {'windows', 'synchronizer'},
    'windows': BASE,
    'jumps': BASE | {'windows'},
    'synchronizer': BASE | {'windows', 'jumps'},
    'simulation': BASE,
    'preprocess': BASE,
    'files': BASE,
    'report': BASE,
    'model': BASE | {'preprocess'},
    'export': BASE | {'model'},
    'modalities': BASE | {'preprocess', 'files', 'simulation'},
    'weights': BASE | {'model'},
    'inference': BASE | {
        'preprocess', 'model', 'choose', 'windows', 'synchronizer', 'weights', 'export', 'roots',
        'machine'},
    'datasets': BASE | {'preprocess', 'files', 'model', 'simulation'},
    'training': BASE | {'datasets', 'preprocess', 'model', 'inference', 'simulation'},
}
# What else lies above those: it may import any of them, but never the command line.
ABOVE = {
    'evaluation', 'study', 'perception', 'replay', 'ros', 'data', 'describe', 'verify', 'bench',
    'cli', 'export_command'}
# Only ros/ may import these.
ROS = {
    'rclpy', 'rcl_interfaces', 'lifecycle_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs',
    'geometry_msgs', 'diagnostic_msgs', 'builtin_interfaces', 'rosgraph_msgs', 'action_msgs',
    'onellm_msgs', 'cv_bridge', 'sensor_msgs_py', 'tf2_ros', 'launch', 'launch_ros',
    'diagnostic_updater', 'message_filters', 'audio_common_msgs', 'visualization_msgs',
    'tf2_msgs'}
# Modules of ros/ that convert messages by their fields, without ROS: bags are read with them too.
FIELDS_ONLY = re.compile(r'ros\.(\w+_)?(conversions|fields|types)(\.|$)')
ROS_OPTIONAL = {'cv_bridge', 'sensor_msgs_py'}
HEAVY = {'torch', 'transformers'}
WITHOUT_TORCH = {
    'modality', 'config', 'node_config', 'choose', 'jumps', 'windows', 'synchronizer',
    'simulation', 'files'}


def part_of(path: Path, package: Path) -> str:
    """Return the part (module or subpackage of the first level) that a file belongs to."""
    name = path.relative_to(package).parts[0]
    return name.removesuffix('.py')


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of everything that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import; write it in full'
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f'{node.module}.{alias.name}'


def violations(part: str, name: str) -> Iterator[str]:
    """Yield what is wrong with ``part`` importing ``name``."""
    top, _, rest = name.partition('.')
    if top in ROS and part != 'ros':
        yield f'only {PACKAGE}/ros may import {top}'
    if top in HEAVY and part in WITHOUT_TORCH:
        yield f'{part} must work without {top}'
    if top != PACKAGE or not rest:
        return
    target = rest.split('.')[0]
    if target == 'cli' and part != 'cli':
        yield 'nothing imports cli'
    if part not in ABOVE and target not in ALLOWED[part] | {part}:
        yield f'{part} may import {sorted(ALLOWED[part])} of the package, not {target}'
    if part in {'evaluation', 'perception', 'replay'} and target == 'ros' \
            and not FIELDS_ONLY.match(rest):
        yield f'{part} must work without ROS'


def test_imports_point_one_way(root: Path) -> None:
    package = root / PACKAGE
    wrong = []
    for path in sorted(package.rglob('*.py')):
        part = part_of(path, package)
        if part == '__init__':
            continue
        assert part in ALLOWED or part in ABOVE, (
            f'{part}: a new part of the package; say in test/test_import_rules.py what it imports')
        wrong += [
            f'{path.relative_to(root)}:{line}: {name}: {reason}'
            for line, name in imports(path) for reason in violations(part, name)]
    assert not wrong, '\n'.join(['imports against the rules:', *wrong])


def test_conversions_need_no_ros(root: Path) -> None:
    wrong = [
        f'{path.name}:{line}: {name}'
        for path in sorted((root / PACKAGE / 'ros').glob('*.py'))
        if FIELDS_ONLY.match(f'ros.{path.stem}') for line, name in imports(path)
        if name.split('.')[0] in ROS - ROS_OPTIONAL]
    assert not wrong, f'conversions work by the fields of messages, without ROS: {wrong}'


@pytest.mark.parametrize(('part', 'name'), [
    ('synchronizer', 'torch.nn'), ('simulation', 'torch'), ('model', 'rclpy.node'),
    ('modality', 'onellm_ros.config.X'), ('preprocess', 'onellm_ros.model.onellm.OneLLM'),
    ('inference', 'onellm_ros.ros.conversions.f'), ('ros', 'onellm_ros.cli.main'),
    ('replay', 'onellm_ros.ros.perception_node.main'),
    ('model', 'onellm_ros.simulation.truth.Truth')])
def test_the_rules_bite(part: str, name: str) -> None:
    assert list(violations(part, name))


@pytest.mark.parametrize(('part', 'name'), [
    ('ros', 'sensor_msgs.msg.Image'), ('model', 'torch'), ('training', 'onellm_ros.model.onellm'),
    ('ros', 'onellm_ros.inference.engine.Engine'), ('replay', 'onellm_ros.ros.conversions.f'),
    ('simulation', 'onellm_ros.simulation.truth')])
def test_the_rules_allow(part: str, name: str) -> None:
    assert not list(violations(part, name))
