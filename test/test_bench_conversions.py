"""The benchmark of the conversions runs, compares all arrays, and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys


def test_ours_and_the_reference_give_the_same(root: Path, tmp_path: Path) -> None:
    file = tmp_path / 'rows.json'
    done = subprocess.run(
        [sys.executable, str(root / 'benchmarks' / 'bench_conversions.py'), '--quick', '--json',
         str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row['case']: row for row in json.loads(file.read_text(encoding='utf-8'))}
    assert {'rgb8', 'nv12', 'jpeg', 'depth 16UC1', 'xyz', 'audio, int16'} <= set(rows)
    assert all(row['ours'] > 0 and row['reference'] > 0 and row['unit'] == 'us'
               for row in rows.values())
