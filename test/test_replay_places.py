"""Where a replay writes: full disks, places that are taken, and what can be gone on with then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import resource
import subprocess
import sys
from typing import Any

import pytest
import replay_parts as parts
from replay_parts import BASE, ENGINES, IMAGE, S, picture, plain, replay, write
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_typestore

from onellm_ros.replay.bag_sources import zstd
from onellm_ros.replay.bags import open_bag


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp('plain') / 'bag', plain())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse what makes a file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line on stderr, which is an error of one line."""
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('onellm replay: error: ')
    return last


# ---- full disks ---------------------------------------------------------------------------------

@pytest.mark.parametrize('windows', [-1, 0, 3, 9, 10])
def test_a_report_that_finds_no_room(bag: Path, tmp_path: Path, windows: int,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    """In its head (-1), so many windows behind it, or (10) only for its end."""
    whole, pages = tmp_path / 'whole', (tmp_path / 'page.html', tmp_path / 'whole.html')
    assert replay(bag, '--out', whole, '--html', pages[1], '--no-times') == 0
    page, data = pages[1].read_bytes(), whole.read_bytes()
    starts = [i for i in range(len(page)) if page.startswith((b'<article', b'</main>'), i)]
    assert len(starts) == 11 and starts[0] > len(data)
    out = tmp_path / 'out'
    again = (bag, '--out', out, '--html', pages[0], '--no-times')
    with files_of_at_most(starts[windows] + 20 if windows >= 0 else starts[0] - 90):
        assert replay(*again) == 2
        text = said(capsys)
    assert f'report {pages[0]}: File too large' in text and 'make room' in text
    there = out.read_bytes()
    kept = max(0, there.count(b'\n') - 1 - (windows == 10))
    assert data.startswith(there) and kept == min(windows + 1, 10)
    if windows >= 0:
        assert f'{out} holds {kept} windows' in text
    if windows > 0:
        assert f'its {windows} windows stay' in text
    ENGINES.clear()
    assert replay(*again) == 0
    assert out.read_bytes() == data and pages[0].read_bytes() == page
    assert sum(e.asked for e in ENGINES) == 10 - kept


def test_results_that_find_no_room(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                   ) -> None:
    whole, out = tmp_path / 'whole', tmp_path / 'out'
    assert replay(bag, '--out', whole, '--no-times') == 0
    data = whole.read_bytes()
    with files_of_at_most(len(data) // 2):      # half a line is written, and not the rest
        assert replay(bag, '--out', out, '--no-times') == 2
        text = said(capsys)
        assert f'{out}: File too large; what is written stays: make room' in text
    assert 0 < out.stat().st_size <= len(data) // 2
    assert replay(bag, '--out', out, '--no-times') == 0 and out.read_bytes() == data


@pytest.mark.parametrize('name', ['words.mcap', 'words.db3', 'words'])
def test_a_bag_of_descriptions_that_finds_no_room(
        bag: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / 'out', tmp_path / name
    assert replay(bag, '--out', out, '--bag', words) == 0
    with open_bag(words) as made:
        before = list(made.raw_messages())
    with files_of_at_most(9000):
        assert replay(bag, '--out', out, '--bag', words) == 2
        text = said(capsys)
        assert f'--bag {words}: ' in text and f'{out} is whole: make room' in text
        assert replay(bag, '--bag', words) == 2
        assert '--out FILE keeps it' in said(capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out', name]
    with open_bag(words) as made:               # the earlier one is still there
        assert list(made.raw_messages()) == before


# ---- places that are taken ----------------------------------------------------------------------

def test_recordings_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                          ) -> None:
    folder = write(tmp_path / 'drive', plain(2))
    other = write(tmp_path / 'other', plain(2))
    (file,) = folder.glob('*.mcap')
    (tmp_path / 'link').symlink_to(folder)
    page = tmp_path / 'page.html'
    page.write_text('my thesis')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    for option, place, why in (
            ('--bag', folder, 'never overwritten'), ('--bag', file, 'never overwritten'),
            ('--bag', tmp_path / 'link', 'never overwritten'),
            ('--bag', folder / 'words.mcap', 'never overwritten'),
            ('--bag', tmp_path, 'never overwritten'), ('--bag', other, 'no bag of descriptions'),
            ('--bag', page, 'no bag of descriptions'), ('--html', page, 'not overwritten'),
            ('--html', file, 'not overwritten'), ('--html', folder, 'Is a directory'),
            ('--out', file, 'not overwritten'), ('--bag', Path('/dev/null/x'), '--bag /dev/null')):
        ENGINES.clear()
        assert replay(folder, option, place) == 2, (option, place)
        text = said(capsys)
        assert why in text and str(place) in text
        assert all(e.asked == 0 for e in ENGINES)               # told before the work
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before
    for words in (('--out', 'x', '--html', 'x'), ('--html', 'x', '--bag', './x')):
        assert replay(folder, *words) == 2
        assert 'goes there' in said(capsys)


def test_a_report_of_another_replay_is_written_anew(bag: Path, tmp_path: Path) -> None:
    """One with other settings, and one whose head was cut, beside results that are there."""
    page, out = tmp_path / 'page.html', tmp_path / 'out'
    assert replay(bag, '--out', out, '--html', page, '--no-times') == 0
    whole = page.read_bytes()
    assert replay(bag, '--html', page, '--to', 5, '--ask', 'Who?') == 0
    assert page.read_bytes().count(b'<article') == 5
    assert replay(bag, '--out', out, '--html', page, '--no-times') == 0
    articles = whole.split(b'</main>')[0]
    assert page.read_bytes().startswith(articles)
    for size in (0, 50, 700):
        page.write_bytes(whole[:size])
        assert replay(bag, '--out', out, '--html', page, '--no-times') == 0
        assert page.read_bytes().startswith(articles), size


def test_words_beside_words(tmp_path: Path) -> None:
    """A merged bag that is replayed and merged again: the words of each have their topics."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    bag = write(tmp_path / 'bag', plain(3))
    assert replay(bag, '--bag', first, '--merge') == 0
    assert replay(first, '--bag', second, '--merge', '--prompt', 'Say.') == 0
    assert replay(second, '--bag', tmp_path / 'third', '--merge', '--prompt', 'Tell.') == 0
    with open_bag(tmp_path / 'third') as made:
        found = {space: {m.message.data.split()[0] for m in made.messages([f'/{space}/text'])}
                 for space in ('perception', 'replay', 'replay_2')}
    assert found == {'perception': {'Describe'}, 'replay': {'Say.'}, 'replay_2': {'Tell.'}}


def test_no_words_give_a_bag_that_can_be_replaced(tmp_path: Path) -> None:
    bag = write(tmp_path / 'bag', plain(3))
    for _ in range(2):
        assert replay(bag, '--every', 1000, '--bag', tmp_path / 'words.mcap') == 0
    assert replay(bag, '--bag', tmp_path / 'words.mcap') == 0


def test_what_cannot_be_merged_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                             ) -> None:
    old = get_typestore(Stores.ROS1_NOETIC)
    kind = 'std_msgs/msg/Float32MultiArray'
    layout = old.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    with Writer1(tmp_path / 'old.bag') as writer:
        connection = writer.add_connection('/fmri', kind, typestore=old)
        import numpy as np
        message = old.types[kind](layout=layout, data=np.ones(9, np.float32))
        writer.write(connection, BASE, old.serialize_ros1(message, kind))
    ENGINES.clear()
    assert replay(tmp_path / 'old.bag', '--bag', tmp_path / 'new', '--merge') == 2
    text = said(capsys)
    assert '--merge' in text and 'ROS 1' in text and not (tmp_path / 'new').exists()
    assert all(e.asked == 0 for e in ENGINES)


# ---- what is said -------------------------------------------------------------------------------

def test_what_is_told_of_topics_and_damage_is_so(tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    rows = plain(4) + [('/rear/image', IMAGE, ns + 5, picture(ns, 7))
                       for ns in range(BASE, BASE + 4 * S, S // 5)]
    folder = write(tmp_path / 'bag', sorted(rows, key=lambda row: row[2]))
    (file,) = folder.glob('*.mcap')
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(file.read_bytes()[:-40])
    assert replay(cut, '--topics', '/cam/image_raw=image', '--topics', '/rear/image=image') == 0
    text = capsys.readouterr().err
    assert '/rear/image  -> image_2 (image)' in text and 'not used' not in text
    assert text.count('cut.mcap is not whole') == 1


def test_a_compressed_file_that_is_cut_is_read_as_far_as_it_goes(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = write(tmp_path / 'bag', plain(60)).glob('*.mcap')
    data = file.read_bytes()
    halves = zstd.compress(data[:len(data) // 2]) + zstd.compress(data[len(data) // 2:])
    packed = tmp_path / 'drive.mcap.zstd'
    packed.write_bytes(halves)                  # of two frames
    assert replay(file, '--out', tmp_path / 'plain', '--no-times') == 0
    assert replay(packed, '--out', tmp_path / 'packed', '--no-times') == 0
    whole, found = ((tmp_path / name).read_text().splitlines()[1:] for name in (
        'plain', 'packed'))
    assert found == whole and 'problem' not in capsys.readouterr().err
    packed.write_bytes(halves[:-2000])
    assert replay(packed, '--out', tmp_path / 'cut', '--no-times') == 0
    some = (tmp_path / 'cut').read_text().splitlines()[1:-2]
    assert len(some) > 20 and some == whole[:len(some)]
    assert 'drive.mcap.zstd is damaged (it ends before its end)' in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'why'), [
    (('--topics', '/imu=smell'), 'smell'), (('--topics', '/imu=image'), 'sensor_msgs/msg/Imu'),
    (('--audio-format', 'x'), '44100:2:S16LE'),
    (('--from', 1000), 'expected seconds from 0 to 10.0'), (('--to', 1e9), 'since 1970'),
    (('--processes', -1), '--processes')])
def test_words_that_do_not_fit_the_recording(bag: Path, tmp_path: Path, words: Any, why: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(bag, '--out', tmp_path / 'out', *words) == 2
    assert why in said(capsys) and not (tmp_path / 'out').exists()


def test_no_window_is_a_result_too(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                   ) -> None:
    assert replay(bag, '--every', 10**9, '--out', tmp_path / 'out') == 0
    assert 'onellm replay: windows 0' in capsys.readouterr().err
    assert json.loads((tmp_path / 'out').read_text().splitlines()[-1])['summary']['windows'] == 0


def test_a_reader_of_the_lines_that_has_enough(bag: Path) -> None:
    program = f'{sys.executable} {parts.__file__} {bag} | head -n 2; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', program], capture_output=True, text=True, timeout=60,
                          env={**os.environ, 'REPLAY_DELAY': '0.05'}, check=False)
    assert done.returncode == 141 and len(done.stdout.splitlines()) == 2
    assert 'Error' not in done.stderr and 'error' not in done.stderr, done.stderr
