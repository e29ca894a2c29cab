"""The linters are tests: ruff (ament's rules, see pyproject.toml) and mypy."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import pytest


def run(root: Path, *command: str) -> None:
    """Run a tool's module in the repository; fail with its output if it complains."""
    done = subprocess.run(
        [sys.executable, '-m', *command], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f'{" ".join(command)}:\n{done.stdout}{done.stderr}', pytrace=False)


def test_ruff(root: Path) -> None:
    run(root, 'ruff', 'check', '--output-format=concise', '.')


def test_mypy(root: Path) -> None:
    run(root, 'mypy')


@pytest.mark.parametrize('limit', [400])
def test_files_stay_short(root: Path, limit: int) -> None:
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding='utf-8').splitlines())
        for path in (root / 'onellm_ros').rglob('*.py')}
    long = {name: lines for name, lines in lengths.items() if lines > limit}
    assert not long, f'files of more than {limit} lines (split them by responsibility): {long}'
