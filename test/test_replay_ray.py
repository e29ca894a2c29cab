"""A replay on a Ray cluster of this machine: like one process, even if a worker is killed."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import threading
import time

import pytest

ray = pytest.importorskip('ray', reason='pip install -r requirements/ray.txt')

import replay_parts as parts  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope='module')
def cluster() -> Iterator[str]:
    """Start a cluster of two CPUs; its workers find the tests' modules."""
    here = str(Path(parts.__file__).parent)
    ray.init(address='local', num_cpus=2, include_dashboard=False, log_to_driver=False,
             object_store_memory=200_000_000,
             runtime_env={'env_vars': {'PYTHONPATH': f'{here}:{os.environ.get("PYTHONPATH", "")}',
                                       'REPLAY_DELAY': '0.15'}})
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def actors() -> list[int]:
    """Return the processes of the replay's actors on this machine."""
    out = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / 'cmdline').read_bytes().split(b'\0')[0].decode()
                parent = (entry / 'stat').read_text().rpartition(')')[2].split()[1]
            except OSError:
                continue
            if name.startswith('ray::') and 'MapWorker' in name and parent != '1':
                out.append(int(entry.name))
    return out


def test_on_a_cluster_of_which_a_worker_is_killed(cluster: str, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    bag = parts.write(tmp_path / 'bag', parts.nasty(80))
    other = parts.write(tmp_path / 'other', parts.plain(5))
    whole, out = tmp_path / 'whole', tmp_path / 'out'
    assert parts.replay(bag, other, '--out', whole, '--no-times') == 0
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.1) and not killed:
            found = actors()
            if len(found) > 1:
                time.sleep(2.0)         # it is in the midst of a part then
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
    monkeypatch.setattr(ray, 'shutdown', lambda: None)      # the cluster is the fixture's
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert parts.replay(bag, other, '--out', out, '--no-times', '--ray', cluster,
                            '--segment', 12) == 0
    finally:
        stop.set()
        killer.join()
    assert killed
    assert out.read_bytes() == whole.read_bytes()


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    bag = parts.write(tmp_path / 'bag', parts.plain(2))
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)

    def unreachable(**_: object) -> None:
        raise ConnectionError('nobody there')
    monkeypatch.setattr(ray, 'init', unreachable)
    assert parts.replay(bag, '--ray', '10.0.0.1:6379') == 2
    assert '--ray 10.0.0.1:6379: nobody there' in capsys.readouterr().err
