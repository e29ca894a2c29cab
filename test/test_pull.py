"""Models from a hub: resumed, checked, and from the cache without a network."""

from __future__ import annotations

import errno
import os
from pathlib import Path
import shutil
import socket

from fake_hub import COMMIT, FakeHub
from golden.tiny import tiny
import huggingface_hub
from huggingface_hub import constants
import pytest

from onellm_ros.cli import main as cli
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError, find_model
from onellm_ros.model.checkpoint import load_model, save_model
from onellm_ros.model.text import train_tokenizer
from onellm_ros.weights import hub as transfer
from onellm_ros.weights.cache import find_cached
from onellm_ros.weights.errors import WeightsError
from onellm_ros.weights.pull import pull

WEIGHTS = 'model.safetensors'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return the files of a small model that can answer, and some that nobody here reads."""
    folder = tmp_path_factory.mktemp('model')
    save_model(tiny(), folder)
    train_tokenizer(['A red box stands ahead.'] * 9, 290).save(str(folder / 'tokenizer.json'))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {'notes/read me.md': b'hello', 'pytorch_model.bin': b'x' * 600,
                    '.gitattributes': b'y', 'empty.txt': b''}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """Return a hub on this machine, and an empty cache."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: None)
    monkeypatch.setattr(transfer, 'WAIT_S', 0.0)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    server = FakeHub(dict(files))
    monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
    yield server
    server.close()


def _repo(tmp_path):
    return tmp_path / 'cache' / 'models--acme--robot'


def test_a_model_is_fetched_and_answers(hub, tmp_path, capsys):
    assert cli(['pull', 'acme/robot']) == 0
    said = capsys.readouterr()
    assert 'checksums agree' in said.out and 'use it with --model hub:acme/robot' in said.out
    assert 'pytorch_model.bin' in said.err
    folder = find_model('hub:acme/robot')
    assert folder == _repo(tmp_path) / 'snapshots' / COMMIT
    assert {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()} == {
        WEIGHTS, 'config.json', 'tokenizer.json', 'notes/read me.md', 'empty.txt'}
    engine = Engine.load('hub:acme/robot', 'cpu')
    assert engine.ask(engine.encode({}), 'What is ahead?', max_tokens=2).tokens <= 2
    assert cli(['convert', 'hub:acme/robot', str(tmp_path / 'there')]) == 0
    load_model(tmp_path / 'there')
    # the tools of Hugging Face find it too, and take no offence
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, 'HF_HUB_OFFLINE', True)
        assert huggingface_hub.try_to_load_from_cache(
            'acme/robot', 'config.json', cache_dir=tmp_path / 'cache') == str(
                folder / 'config.json')
    scanned = huggingface_hub.scan_cache_dir(tmp_path / 'cache')
    assert not scanned.warnings and [r.repo_id for r in scanned.repos] == ['acme/robot']
    hub.asked.clear()
    assert cli(['pull', 'acme/robot', '--revision', 'v1']) == 0
    assert not hub.asked        # the same commit: nothing is fetched again
    assert find_model('hub:acme/robot@v1') == folder
    assert cli(['pull', 'acme/robot', '--all']) == 0
    assert {name for name, _ in hub.asked} == {'pytorch_model.bin', '.gitattributes'}


def test_a_broken_connection_goes_on_where_it_broke(hub):
    hub.cut, hub.cuts = {WEIGHTS: 1000}, 1
    told = []
    done = pull('acme/robot', told=told.append)
    assert hub.ranges(WEIGHTS) == ['', 'bytes=1000-']
    assert sum(told) == sum(file.size for file in done.files)


def test_an_interrupted_download_is_resumed_by_the_next_call(hub, tmp_path, capsys):
    hub.cut, hub.cuts = {WEIGHTS: 3000}, 10**6
    assert cli(['pull', 'acme/robot']) == 2
    said = capsys.readouterr().err
    size = len(hub.files[WEIGHTS])
    assert f'3000 of {size} bytes of {WEIGHTS} are kept: the same command goes on' in said
    assert len(hub.ranges(WEIGHTS)) == transfer.ATTEMPTS
    with pytest.raises(EngineError, match='fetch it with `onellm pull acme/robot`'):
        find_model('hub:acme/robot')
    assert list((_repo(tmp_path) / 'blobs').glob('*.incomplete'))
    hub.cut.clear()
    hub.asked.clear()
    told = []
    pull('acme/robot', told=told.append)
    assert hub.ranges(WEIGHTS) == ['bytes=3000-'] and 3000 in told
    load_model(find_model('hub:acme/robot'))
    assert not list((_repo(tmp_path) / 'blobs').glob('*.incomplete'))


def test_a_server_that_knows_no_ranges(hub):
    hub.cut, hub.whole = {WEIGHTS: 1000}, True
    told = []
    done = pull('acme/robot', told=told.append)
    assert hub.ranges(WEIGHTS) == ['', 'bytes=1000-']
    assert sum(told) == sum(file.size for file in done.files)
    load_model(done.folder)


@pytest.mark.parametrize('path', [WEIGHTS, 'notes/read me.md'])
@pytest.mark.parametrize('to', [False, True])
def test_a_wrong_checksum_is_refused(hub, tmp_path, path, to, capsys):
    hub.wrong = {path}
    target = tmp_path / 'out'
    assert cli(['pull', 'acme/robot', *(['--to', str(target)] if to else [])]) == 2
    said = capsys.readouterr().err
    assert f'{path}: expected the checksum ' in said and 'has been removed' in said
    assert not (target / path).exists()
    assert not list(tmp_path.rglob('*.incomplete'))
    with pytest.raises(WeightsError):
        find_cached('hub:acme/robot')
    hub.wrong = set()
    load_model(pull('acme/robot', to=target if to else None).folder)


def test_the_cache_serves_without_a_network(hub, tmp_path, monkeypatch, capsys):
    pull('acme/robot')
    hub.close()
    assert cli(['pull', 'acme/robot']) == 0
    assert 'no answer' in (said := capsys.readouterr()).err and 'taken from the cache' in said.err
    load_model(find_model('hub:acme/robot'))
    assert cli(['pull', 'acme/robot', '--to', str(tmp_path / 'out')]) == 0
    load_model(tmp_path / 'out')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    capsys.readouterr()
    assert cli(['pull', 'acme/robot']) == 0
    assert 'HF_HUB_OFFLINE is set' in capsys.readouterr().err
    assert cli(['pull', 'acme/other']) == 2
    assert 'acme/other@main is not whole in the cache' in capsys.readouterr().err


def test_without_a_network_the_text_says_what_to_do(hub, capsys):
    with socket.socket() as held:       # a port that nobody answers at
        held.bind(('127.0.0.1', 0))
        address = f'http://127.0.0.1:{held.getsockname()[1]}'
        assert cli(['pull', 'acme/robot', '--endpoint', address]) == 2
    said = capsys.readouterr().err
    assert f'{address}: no answer (' in said and 'look after the network and the proxy' in said
    assert 'is not whole in the cache' in said and 'Traceback' not in said


def test_a_directory_of_its_own(hub, tmp_path, capsys):
    target = tmp_path / 'out'
    hub.cut, hub.cuts = {WEIGHTS: 2000}, 10**6
    assert cli(['pull', 'acme/robot', '--to', str(target)]) == 2
    assert not (target / WEIGHTS).exists()
    hub.cut.clear()
    hub.asked.clear()
    assert cli(['pull', 'acme/robot', '--to', str(target)]) == 0
    assert f'use it with --model {target}' in capsys.readouterr().out
    assert hub.ranges(WEIGHTS) == ['bytes=2000-'] and not hub.ranges('config.json')
    assert not (target / '.onellm-pull').exists() and not _repo(tmp_path).exists()
    load_model(target)
    (target / 'config.json').write_text('mine')
    assert cli(['pull', 'acme/robot', '--to', str(target)]) == 2
    assert 'exists and is not the file of acme/robot' in capsys.readouterr().err
    assert (target / 'config.json').read_text() == 'mine'


def test_what_the_cache_has_lost_is_fetched_again(hub, tmp_path, capsys):
    folder = pull('acme/robot').folder
    blob = (folder / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(EngineError, match=f'{WEIGHTS} is missing or not whole'):
        find_model('hub:acme/robot')
    hub.asked.clear()
    pull('acme/robot')
    assert {name for name, _ in hub.asked} == {WEIGHTS}
    load_model(find_model('hub:acme/robot'))


@pytest.mark.parametrize('to', [False, True])
def test_what_a_disk_has_changed_is_found(hub, tmp_path, to, capsys):
    """A file of the right size with one other bit is no good file."""
    target = tmp_path / 'out' if to else None
    path = (pull('acme/robot', to=target).folder / WEIGHTS).resolve()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    hub.asked.clear()
    arguments = ['pull', 'acme/robot', *(['--to', str(target)] if to else [])]
    assert cli(arguments) == (2 if to else 0)           # what a user may have changed is kept
    said = capsys.readouterr()
    if to:
        assert f'{path}: exists and is not the file of acme/robot' in said.err and not hub.asked
    else:
        assert 'checksums agree' in said.out and hub.ranges(WEIGHTS) == ['']
        assert (find_model('hub:acme/robot') / WEIGHTS).read_bytes() == whole


def test_a_branch_of_which_nothing_is_noted_is_not_cached(hub, tmp_path):
    pull('acme/robot')
    ref = _repo(tmp_path) / 'refs' / 'main'
    for broken in (b'', b'..', b'\xff\xfe'):
        ref.write_bytes(broken)
        with pytest.raises(EngineError, match='not in the cache .*fetch it with `onellm pull'):
            find_model('hub:acme/robot')
    pull('acme/robot')
    load_model(find_model('hub:acme/robot'))


def test_a_full_disk_keeps_what_was_fetched(hub, tmp_path, monkeypatch, capsys):
    copy = transfer.Hub._copy

    def full(self, answer, file, stream, told):
        if file.path == WEIGHTS and stream.tell() == 0:
            stream.write(answer.read(1500))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(self, answer, file, stream, told)

    monkeypatch.setattr(transfer.Hub, '_copy', full)
    assert cli(['pull', 'acme/robot']) == 2
    said = capsys.readouterr().err
    assert 'no room left; what was fetched is kept' in said and 'Traceback' not in said
    # room for the rest is room enough
    rest = len(hub.files[WEIGHTS]) - 1500
    usage = shutil.disk_usage(tmp_path)
    for free, status in ((rest - 1, 2), (rest, 0)):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _, free=free: usage._replace(free=free))
        assert cli(['pull', 'acme/robot']) == status
    assert hub.ranges(WEIGHTS) == ['', 'bytes=1500-']
    load_model(find_model('hub:acme/robot'))


def test_a_token_is_told_to_the_hub_alone(hub, monkeypatch, capsys):
    hub.token = 'secret'
    assert cli(['pull', 'acme/robot']) == 2
    assert 'no such repository, or not open to you; `hf auth login`' in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: 'secret')
    assert cli(['pull', 'acme/robot']) == 0
    assert hub.ranges(WEIGHTS) and not hub.leaked


@pytest.mark.parametrize('args, text', [
    (['acme/none'], 'acme/none, revision main at .*no such repository'),
    (['acme/robot', '--revision', 'v9'], 'revision v9 at .*no such revision'),
    (['acme/robot@v1', '--revision', 'v9'], 'names a revision, and so does --revision'),
    (['a/b/c'], 'expected OWNER/NAME'), (['../x'], 'expected OWNER/NAME'),
    (['acme/robot', '--revision', '../../x'], 'expected OWNER/NAME'),
    (['acme/robot', '--endpoint', 'ftp://x'], 'expected http'),
    (['acme/robot', '--to', __file__], 'expected a directory, found a file'),
])
def test_requests_that_cannot_be_served(hub, args, text, capsys):
    import re
    assert cli(['pull', *args]) == 2
    said = capsys.readouterr().err
    assert re.search(text, said), said


def test_a_hub_out_of_order(hub, capsys):
    hub.broken = 503
    assert cli(['pull', 'acme/robot']) == 2
    assert 'refused (HTTP 503' in capsys.readouterr().err
    hub.broken = 200
    assert cli(['pull', 'acme/robot']) == 2
    assert 'expected JSON from the hub' in capsys.readouterr().err


@pytest.mark.parametrize('path', ['../config.json', '/etc/x', 'a/../../b'])
def test_names_that_leave_the_folder_are_refused(hub, path, tmp_path):
    hub.files[path] = b'x'
    with pytest.raises(WeightsError, match='does not stay in its folder'):
        pull('acme/robot', to=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_room_is_looked_for_first(hub, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=10))
    assert cli(['pull', 'acme/robot']) == 2
    assert 'GB are needed, 0.00 GB are free' in capsys.readouterr().err and not hub.asked


def test_names_of_cached_models(hub):
    with pytest.raises(EngineError, match=r'hub:acme/robot@v1: not in the cache .*--revision v1`'):
        find_model('hub:acme/robot@v1')
    with pytest.raises(EngineError, match='expected OWNER/NAME'):
        find_model('hub:')
    # what another tool has put there is taken as it is
    folder = Path(constants.HF_HUB_CACHE) / 'models--acme--robot'
    (folder / 'snapshots' / COMMIT).mkdir(parents=True)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text(COMMIT)
    assert find_model(f'hub:acme/robot@{COMMIT}') == find_model('hub:acme/robot')
    assert os.path.samefile(find_model('hub:acme/robot'), folder / 'snapshots' / COMMIT)
