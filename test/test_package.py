"""What the package says of itself is true: versions, entry points, dependencies, sizes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

MEBIBYTE = 1 << 20
# Imported name -> (requirement, rosdep key); None: no key, package.xml's comment names it.
THIRD_PARTY: dict[str, tuple[str, str | None]] = {
    'PIL': ('pillow', 'python3-pil'),
    'av': ('av', None),
    'backports': ('backports-zstd', None),
    'cv2': ('opencv-python-headless', 'python3-opencv'),
    'huggingface_hub': ('huggingface-hub', None),
    'lmms_eval': ('lmms-eval', None),
    'lz4': ('lz4', 'python3-lz4'),
    'matplotlib': ('matplotlib', 'python3-matplotlib'),
    'numba': ('numba', 'python3-numba'),
    'numpy': ('numpy', 'python3-numpy'),
    'onnx': ('onnx', None),
    'onnxruntime': ('onnxruntime', None),
    'open3d': ('open3d-cpu', 'python3-open3d'),
    'peft': ('peft', None),
    'ray': ('ray', None),
    'rosbags': ('rosbags', 'python3-rosbags-pip'),
    'safetensors': ('safetensors', None),
    'scipy': ('scipy', 'python3-scipy'),
    'sentencepiece': ('sentencepiece', None),
    'soundfile': ('soundfile', 'python3-soundfile'),
    'tokenizers': ('tokenizers', None),
    'torch': ('torch', 'python3-torch'),
    'torchao': ('torchao', None),
    'tqdm': ('tqdm', 'python3-tqdm'),
    'yaml': ('pyyaml', 'python3-yaml'),
}
# ROS packages carry the name that is imported; these wheels bring them.
ROS_WHEELS = {
    'ros-common-interfaces': {
        'diagnostic_msgs', 'geometry_msgs', 'nav_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs',
        'visualization_msgs'},
    'ros-rclpy': {
        'action_msgs', 'ament_index_python', 'builtin_interfaces', 'lifecycle_msgs',
        'rcl_interfaces', 'rclpy', 'rosgraph_msgs'},
}
# Part of Python from 3.14 on.
LATER_PYTHON = {'compression'}
# In a normal ROS installation only; the code must do without them.
ROS_ONLY = {'cv_bridge', 'launch', 'launch_ros', 'sensor_msgs_py', 'tf2_ros'}


def imported_names(root: Path) -> set[str]:
    """Return the top-level names that the package and its launch files import from elsewhere."""
    names: set[str] = set()
    for path in [*(root / 'onellm_ros').rglob('*.py'), *(root / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition('.')[0])
    return names - set(sys.stdlib_module_names) - LATER_PYTHON - {'onellm_ros'}


def manifest(root: Path, package: str = '.') -> ET.Element:
    """Return the parsed package.xml."""
    return ET.parse(root / package / 'package.xml').getroot()


def dependencies(root: Path) -> set[str]:
    """Return every key that package.xml depends on."""
    return {str(tag.text) for tag in manifest(root) if tag.tag.endswith('depend')}


def requirements(root: Path, name: str) -> list[Requirement]:
    """Return the requirements of one file below requirements/."""
    lines = (root / 'requirements' / name).read_text(encoding='utf-8').splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith('#')]


def setup_text(root: Path, pattern: str) -> list[str]:
    """Return what ``pattern`` finds in setup.py."""
    return re.findall(pattern, (root / 'setup.py').read_text(encoding='utf-8'))


def tracked(root: Path) -> list[Path]:
    """Return the files that git holds; the test is skipped outside a repository."""
    if not (root / '.git').exists():
        pytest.skip('not a git checkout')
    listed = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in listed.split('\0') if name and (root / name).is_file()]


def test_versions_are_equal(root: Path) -> None:
    versions = {
        'package.xml': manifest(root).findtext('version'),
        'onellm_msgs/package.xml': manifest(root, 'onellm_msgs').findtext('version'),
        'setup.py': setup_text(root, r"version='([^']+)'")[0]}
    assert len(set(versions.values())) == 1, versions
    changelog = (root / 'CHANGELOG.rst').read_text(encoding='utf-8')
    assert re.search(rf'^{re.escape(str(versions["setup.py"]))} \(', changelog, re.MULTILINE)


def test_names_and_licences_agree(root: Path) -> None:
    found = manifest(root)
    assert found.findtext('name') == 'onellm_ros'
    assert found.findtext('license') == setup_text(root, r"license='([^']+)'")[0] == 'Apache-2.0'
    assert 'Apache License' in (root / 'LICENSE').read_text(encoding='utf-8')
    assert (root / 'resource' / 'onellm_ros').is_file()


def test_entry_points_import(root: Path) -> None:
    entries = setup_text(root, r"'(\w+) = ([\w.]+):(\w+)'")
    assert {name for name, _, _ in entries} == {
        'onellm', 'perception', 'picture', 'simulation'}
    for name, module, function in entries:
        assert callable(getattr(importlib.import_module(module), function)), name


def test_every_import_is_declared(root: Path) -> None:
    files = ('runtime.txt', 'train.txt', 'ray.txt', 'onnx.txt', 'lmms.txt', 'quantize.txt',
             'eval.txt')
    wheels = {canonicalize_name(each.name) for file in files for each in requirements(root, file)}
    keys = dependencies(root)
    manifest_text = (root / 'package.xml').read_text(encoding='utf-8')
    by_pip = {'onellm_msgs'}.union(*(ROS_WHEELS[wheel] for wheel in wheels & ROS_WHEELS.keys()))
    for name in sorted(imported_names(root)):
        if name in THIRD_PARTY:
            wheel, key = THIRD_PARTY[name]
            assert wheel in wheels, f'{name}: {wheel} is missing in requirements/runtime.txt'
            declared = key in keys if key else re.search(rf'<!--[^>]*\b{name}\b', manifest_text)
            assert declared, f'{name}: {key or wheel} is missing in package.xml'
        else:
            assert name in by_pip | ROS_ONLY, (
                f'{name}: not declared; add it to requirements/runtime.txt, package.xml and here')
            assert name in keys, f'{name} is missing in package.xml'


def test_pins_are_exact_and_locked(root: Path) -> None:
    locked = {(canonicalize_name(each.name), str(each.specifier))
              for each in requirements(root, 'constraints.txt')}
    for name in ('runtime.txt', 'build.txt', 'test.txt', 'train.txt', 'ray.txt', 'onnx.txt',
                 'quantize.txt', 'eval.txt', 'constraints.txt'):
        for each in requirements(root, name):
            exact = [part.operator for part in each.specifier] == ['==']
            assert exact, f'{name}: {each} is not pinned'
            assert (canonicalize_name(each.name), str(each.specifier)) in locked, (
                f'{each} is not in constraints.txt: run tools/lock.sh')


def test_nothing_large_or_compiled_in_git(root: Path) -> None:
    files = tracked(root)
    compiled = [path for path in files if path.suffix in {'.pyc', '.pyo', '.so', '.o'}]
    assert not compiled
    models = root / 'models'
    large = [path for path in files
             if models not in path.parents and path.stat().st_size > 2 * MEBIBYTE]
    assert not large, f'over 2 MiB: {large}'
    assert sum(path.stat().st_size for path in files if models in path.parents) < 40e6


def test_tools_are_executable_shell(root: Path) -> None:
    for script in [root / '.ci' / 'run', *(root / 'tools').glob('*.sh')]:
        assert script.stat().st_mode & 0o111, f'{script} is not executable'
        subprocess.run(['sh', '-n', script], check=True)


def test_launch_file_describes_the_node(root: Path) -> None:
    pytest.importorskip('launch_ros', reason='launch comes with a full ROS installation only')
    path = root / 'launch' / 'onellm.launch.py'
    spec = importlib.util.spec_from_file_location('onellm_launch', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.generate_launch_description().entities


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_colcon_builds_both_packages(root: Path, tmp_path: Path) -> None:
    """``colcon build --base-paths . onellm_msgs``, as in a ROS workspace, from a clean copy."""
    pytest.importorskip('colcon_core', reason='colcon is not installed')
    source = tmp_path / 'onellm_ros'
    for path in tracked(root):
        copy = source / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    prefix = Path(sys.prefix)
    built = subprocess.run(
        [sys.executable, '-m', 'colcon', 'build', '--base-paths', '.', 'onellm_msgs'],
        cwd=source, capture_output=True, text=True, check=False,
        env=dict(os.environ, AMENT_PREFIX_PATH=str(prefix), CMAKE_PREFIX_PATH=str(prefix),
                 PATH=f'{prefix / "bin"}{os.pathsep}{os.environ["PATH"]}'))
    assert built.returncode == 0, (built.stdout + built.stderr)[-4000:]
    install = source / 'install'
    assert (install / 'onellm_ros/share/ament_index/resource_index/packages/onellm_ros').is_file()
    assert (install / 'onellm_ros/share/onellm_ros/package.xml').is_file()
    assert (install / 'onellm_ros/share/onellm_ros/launch/onellm.launch.py').is_file()
    assert (install / 'onellm_ros/lib/onellm_ros/perception').is_file()
    assert (install / 'onellm_msgs/share/onellm_msgs/srv/Ask.srv').is_file()
