"""``make bench``: one benchmark that breaks stops no other, and only that is a failure."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
import sys
import time
from types import ModuleType

import pytest

ROW = {'case': 'c', 'ours': 2.0, 'reference': 8.0, 'ratio': 4.0, 'goal': '>= 3x', 'unit': 'ms',
       'machine': 'm'}
WRITES = """
import json, sys
print('measured')
rows = {rows!r}
open(sys.argv[sys.argv.index('--json') + 1], 'w').write(json.dumps(rows))
"""


@pytest.fixture
def runner(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import benchmarks/run.py."""
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    for name in ('_report', 'run'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module('run')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of benchmarks of all kinds."""
    for name, text in {
            'decode': WRITES.format(rows=[ROW]),
            'missed': WRITES.format(rows=[{**ROW, 'ratio': 2.0}]),
            'broken': "import sys\n'--json'\nsys.exit('no such thing')\n",
            'silent': "'--json'\n",
            'wrong': WRITES.format(rows=[{'case': 'c'}]),
            'hangs': "import subprocess, sys\n'--json'\n"
                     "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n",
            'old': 'print("takes no file")\n'}.items():
        (tmp_path / f'bench_{name}.py').write_text(text, encoding='utf-8')
    return tmp_path


def test_a_broken_benchmark_stops_no_other(
        runner: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / 'results'
    found = runner.found(folder)
    assert list(found) == ['decode', 'broken', 'hangs', 'missed', 'silent', 'wrong']
    monkeypatch.setattr(runner, 'found', lambda: found)
    out.mkdir()
    (out / 'broken.json').write_text('[]')              # of an earlier run
    monkeypatch.setattr(sys, 'argv', ['run.py', '--out', str(out), '--limit', '3'])
    started = time.monotonic()
    assert runner.main() == 1
    assert time.monotonic() - started < 30              # what hangs is ended with its children
    text = (out / 'table.md').read_text(encoding='utf-8')
    assert '| decode | c | 2 ms | 8 | 4 | >= 3x | met |' in text
    assert '| missed | c | 2 ms | 8 | 2 | >= 3x | MISSED |' in text
    for name, why in {'broken': 'ended with status 1', 'hangs': 'not done within 3 s',
                      'silent': 'left no readable', 'wrong': "a row lacks ['goal'"}.items():
        assert f'- {name}: ' in text and why in text
    assert not (out / 'broken.json').exists()
    assert 'no such thing' in (out / 'broken.log').read_text(encoding='utf-8')
    said = capsys.readouterr()
    assert '1 goals missed' in said.out and 'broken: hangs' in said.err


def test_a_missed_goal_is_no_failure(runner: ModuleType, folder: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, 'found', lambda: {n: folder / f'bench_{n}.py'
                                                  for n in ('decode', 'missed')})
    out = folder / 'results'
    monkeypatch.setattr(sys, 'argv', ['run.py', '--quick', '--out', str(out)])
    assert runner.main() == 0
    assert json.loads((out / 'missed.json').read_text(encoding='utf-8'))[0]['ratio'] == 2.0
    monkeypatch.setattr(sys, 'argv', ['run.py', '--out', str(out), '--total', '1'])
    assert runner.main() == 0                           # nothing broke: nothing was begun
    assert 'left out: the 1 s of this run' in (out / 'table.md').read_text(encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['run.py', 'nothing'])
    with pytest.raises(SystemExit) as error:
        runner.main()
    assert error.value.code == 2


def test_all_benchmarks_of_the_issue_are_found(runner: ModuleType) -> None:
    assert {'describe', 'memory', 'replay', 'training', 'sync', 'simulation', 'preempt',
            'dialogue'} <= set(runner.found())
