"""Replays: the node's windows, files that can be gone on with, parts that are like the whole."""

from __future__ import annotations

import json
from pathlib import Path
import random
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import replay_parts as parts
from replay_parts import BASE, ENGINES, S, nasty, plain, replay, write
from rosbags.rosbag2 import StoragePlugin

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality
from onellm_ros.node_config import AskConfig
from onellm_ros.replay import command, processes, topics
from onellm_ros.replay.bags import open_bag
from onellm_ros.replay.params import read_params
from onellm_ros.replay.questions_file import read_questions
from onellm_ros.replay.records import ReplayError
from onellm_ros.replay.work import Work

PARTS = Path(parts.__file__)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp('plain') / 'bag', plain())


@pytest.fixture(scope='module')
def hard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp('hard')
    write(folder / 'bag', nasty(80))
    assert replay(folder / 'bag', '--out', folder / 'whole.jsonl', '--no-times') == 0
    return folder / 'bag', (folder / 'whole.jsonl').read_bytes()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def windows(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines(path) if 'end_ns' in line]


def test_windows_words_and_answers(bag: Path, tmp_path: Path) -> None:
    questions = tmp_path / 'q.yaml'
    questions.write_text('- Is it dark?\n- {question: "Where?", choices: [left, right], '
                         'modalities: [image]}\n- {question: "Heard?", modalities: [audio]}\n')
    out = tmp_path / 'out.jsonl'
    assert replay(bag, '--out', out, '--questions', questions) == 0
    head, *found, summary = lines(out)
    assert head['onellm_replay'] == 1 and head['model'] == 'fake@01234567'
    assert head['bags'] == [str(bag)] and head['questions'][1]['choices'] == ['left', 'right']
    assert head['settings']['recordings'][0]['topics'] == {
        '/cam/image_raw': 'image', '/imu': 'imu'}
    assert [(w['window'], w['start_ns'], w['end_ns']) for w in found] == [
        (i, BASE + i * S, BASE + (i + 1) * S) for i in range(10)]
    second = found[1]
    # a window closes when picture and IMU have passed its end by the lateness of 0.1 s
    assert second['closed_by'] == 'watermark' and second['closed_ns'] == BASE + 2_103_000_000
    image, video, imu = second['modalities']
    assert (image['modality'], image['topics'], image['count']) == ('image', ['/cam/image_raw'], 1)
    assert image['last_ns'] == image['first_ns'] == BASE + 1_900_000_000
    assert (video['modality'], imu['modality'], imu['count']) == ('video', 'imu', 100)
    assert imu['expert_weights'] == [0.25, 0.75] and imu['seen'] and imu['max_skew_ns'] == 0
    assert second['text'].startswith('Describe what you sense. ') and second['tokens'] == 3
    assert len({w['text'] for w in found}) == 10
    dark, where, heard = second['answers']
    assert dark['answer'].startswith('Is it dark? ') and dark['error'] == 'NONE'
    assert (where['answer'], where['choice_index'], where['choice_probabilities']) == (
        'right', 1, [0.25, 0.75])
    assert heard['error'] == 'MODALITY_MISSING' and heard['answer'] == '' and 'audio' in \
        heard['error_msg']
    assert summary['summary'] | {'wall_s': 0, 'windows_per_s': 0} == {
        'windows': 10, 'described': 10, 'failed': 0, 'answers': 20, 'unanswered': 10,
        'closed_by_deadline': 1, 'late': 0, 'dropped': 0, 'tokens': 90, 'wall_s': 0,
        'windows_per_s': 0}
    assert second['total_s'] >= 0 and heard['first_token_s'] is None


def test_readable_lines_on_stdout(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(bag, '--from', 2, '--to', 4, '--ask', 'Who?', '--no-describe') == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(' (')[0] for line in said[::2]] == ['[2.00 - 3.00 s]', '[3.00 - 4.00 s]']
    assert all(line.strip().startswith('Who? -> Who? ') and line.endswith('(0.50)')
               for line in said[1::2])


@pytest.mark.parametrize(('words', 'wanted'), [
    (('--from', 18, '--to', 34), lambda n, w: 18 <= n < 34),     # time jumps back to 36
    (('--from', BASE / S + 30.5), lambda n, w: n >= 31),
    (('--every', 7), lambda n, w: w['end_ns'] // S % 7 == 0),
    (('--every', '2.5s'), lambda n, w: w['end_ns'] // S % 5 in (0, 3)),
    (('--every', '10s', '--from', 15), lambda n, w: n >= 15 and w['end_ns'] // S % 10 == 0)])
def test_some_windows_are_those_of_all(hard: tuple[Path, bytes], tmp_path: Path, words: Any,
                                       wanted: Any) -> None:
    path, whole = hard
    assert replay(path, '--out', tmp_path / 'some', '--no-times', *words) == 0
    every = [json.loads(line) for line in whole.splitlines()[1:-1]]
    expected = [w for w in every if wanted((w['start_ns'] - BASE) / S, w)]
    found = windows(tmp_path / 'some')
    assert found
    for record in [*expected, *found]:
        del record['window']
    assert found == expected


# ---- going on after a kill ----------------------------------------------------------------------

def test_cut_anywhere_and_gone_on_with(bag: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert replay(bag, '--out', whole, '--no-times', '--ask', 'Who?') == 0
    data, rng = whole.read_bytes(), random.Random(3)
    lengths = [len(line) for line in data.splitlines(keepends=True)]
    exact = [sum(lengths[:n]) for n in (1, 2, len(lengths) - 1, len(lengths))]
    for size in [0, 1, 17, *exact, *(rng.randrange(len(data)) for _ in range(3))]:
        cut.write_bytes(data[:size])
        ENGINES.clear()
        assert replay(bag, '--out', cut, '--no-times', '--ask', 'Who?') == 0
        assert cut.read_bytes() == data, size
        done = max(0, min(data[:size].count(b'\n') - 1, 10))
        assert sum(e.asked for e in ENGINES) == 2 * (10 - done)


@pytest.mark.slow
def test_killed_at_random_and_gone_on_with(bag: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out, page = tmp_path / 'whole', tmp_path / 'out', tmp_path / 'page.html'
    assert replay(bag, '--out', whole, '--no-times') == 0
    monkeypatch.setenv('REPLAY_DELAY', '0.1')
    program = [sys.executable, str(PARTS), str(bag), '--out', str(out), '--html', str(page),
               '--no-times']
    rng, sizes = random.Random(8), []
    for _ in range(2):
        process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
        before = sizes[-1] if sizes else 1
        end_s = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end_s and (
                not out.exists() or out.read_bytes().count(b'\n') <= before):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        sizes.append(out.read_bytes().count(b'\n'))
    assert 1 < sizes[0] < sizes[1] < 12, sizes
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and 'going on' in done.stderr
    assert out.read_bytes() == whole.read_bytes()
    text = page.read_text(encoding='utf-8')
    assert text.count('<article') == 10 and text.endswith('</html>\n')
    assert text.count('data-start="') == len(set(text.split('data-start="')[1:]))


def test_other_replays_are_not_gone_on_with(bag: Path, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'out'
    assert replay(bag, '--out', out) == 0
    before = out.read_bytes()
    assert replay(bag, '--out', out, '--window', 2) == 2
    said = capsys.readouterr().err
    assert 'settings.window.length_s: the file has 1.0, the command gives 2' in said
    assert 'remove it' in said
    assert replay(bag, '--out', out, '--ask', 'Who?') == 2 and out.read_bytes() == before
    out.write_text('my letters\n')
    assert replay(bag, '--out', out) == 2 and out.read_text() == 'my letters\n'
    assert 'not overwritten' in capsys.readouterr().err
    found = before.splitlines(keepends=True)[:4]
    found[2] = found[2].replace(str(BASE + S).encode(), str(BASE + 7).encode())
    out.write_bytes(b''.join(found))
    assert replay(bag, '--out', out) == 2
    assert 'window 1 is not the one' in capsys.readouterr().err


def test_a_window_that_fails_is_written_and_the_replay_goes_on(
        bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replay(bag, '--out', tmp_path / 'good') == 0
    digest = windows(tmp_path / 'good')[4]['text'].split()[4]
    monkeypatch.setenv('REPLAY_BROKEN', digest)
    assert replay(bag, '--out', tmp_path / 'out', '--ask', 'Who?') == 1
    found = windows(tmp_path / 'out')
    assert [w['window'] for w in found if 'error' in w] == [4] and len(found) == 10
    assert digest in found[4]['error'] and 'text' not in found[4]
    assert found[4]['answers'][0]['error'] == 'MODEL_FAILED' and 'text' in found[5]
    assert lines(tmp_path / 'out')[-1]['summary']['failed'] == 1


# ---- several recordings, and parts of one -------------------------------------------------------

def test_several_recordings(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                            ) -> None:
    other = write(tmp_path / 'other', plain(3, BASE - 100 * S), StoragePlugin.SQLITE3)
    out = tmp_path / 'out'
    assert replay(bag, other, '--out', out, '--no-times') == 0
    found = windows(out)
    assert [w['bag'] for w in found] == [0] * 10 + [1] * 3
    assert [w['window'] for w in found] == list(range(13))
    assert found[10]['start_ns'] == BASE - 100 * S
    data = out.read_bytes()
    cut = b''.join(data.splitlines(keepends=True)[:12])         # one window of the second
    out.write_bytes(cut)
    ENGINES.clear()
    assert replay(bag, other, '--out', out, '--no-times') == 0 and out.read_bytes() == data
    assert sum(e.asked for e in ENGINES) == 2
    (tmp_path / 'broken.mcap').write_bytes(b'nothing')
    ENGINES.clear()
    assert replay(bag, tmp_path / 'broken.mcap', '--out', tmp_path / 'new') == 2
    assert 'broken.mcap' in capsys.readouterr().err and not (tmp_path / 'new').exists()
    assert all(e.asked == 0 for e in ENGINES)


class Here:
    """A pool of this process."""

    def __init__(self) -> None:
        self.work = Work(parts.load_fake)
        self.tasks: list[Any] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, tasks: Any) -> Any:
        for task in tasks:
            self.tasks.append(task)
            yield processes.do(task, self.work)


@pytest.mark.parametrize('blind', [False, True])
def test_parts_give_the_windows_of_the_whole(
        hard: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], blind: bool) -> None:
    path, whole = hard
    pool = Here()
    monkeypatch.setattr(command, '_pool', lambda *_: pool)
    if blind:       # sound without stamps is read in part: it is noticed, and done again
        monkeypatch.setattr(topics, '_whole', lambda *_: ())
    again = ('--out', tmp_path / 'out', '--no-times', '--processes', 2, '--segment', 12)
    assert replay(path, *again) == 0
    assert (tmp_path / 'out').read_bytes() == whole
    assert sum(t.part.read_ns is not None for t in pool.tasks) >= 3
    assert ('done again' in capsys.readouterr().err) is blind
    if not blind:   # in the midst of a part
        (tmp_path / 'out').write_bytes(b''.join(whole.splitlines(keepends=True)[:40]))
        ENGINES.clear()
        pool.work, pool.tasks = Work(parts.load_fake), []
        assert replay(path, *again) == 0 and (tmp_path / 'out').read_bytes() == whole
        assert sum(e.asked for e in ENGINES) == len(whole.splitlines()) - 41
        assert len(pool.tasks) < 6


@pytest.mark.slow
def test_processes_of_which_one_is_killed(bag: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / 'whole', tmp_path / 'out'
    assert replay(bag, '--out', whole, '--no-times') == 0
    real, killed = processes.Processes._gather, []

    def start(pool: Any) -> Any:
        found = real_start(pool)
        if not killed:
            future = found.submit(time.sleep, 0)
            future.result(60)
            next(iter(found._processes.values())).kill()
            killed.append(found)
        return found
    real_start = processes.Processes._new
    monkeypatch.setattr(processes.Processes, '_new', start)
    monkeypatch.setattr(processes.Processes, '_gather', staticmethod(
        lambda waiting: killed.append(None) or real(waiting)))
    assert replay(bag, '--out', out, '--no-times', '--processes', 2, '--segment', 4) == 0
    assert out.read_bytes() == whole.read_bytes() and len(killed) == 2


# ---- what it is told ----------------------------------------------------------------------------

def test_parameters_of_the_node(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                ) -> None:
    file = tmp_path / 'params.yaml'
    file.write_text('/robot1/perception:\n  ros__parameters:\n    window: {length_s: 0.5, '
                    "period_s: 0.5}\n    describe.prompt: 'Say.'\n    modalities: [image]\n"
                    '    colour: red\n/other:\n  ros__parameters: {window: {length_s: 9.0}}\n')
    assert replay(bag, '--params-file', file, '--out', tmp_path / 'out', '--to', 2) == 0
    found = windows(tmp_path / 'out')
    assert [w['end_ns'] - w['start_ns'] for w in found] == [S // 2] * 4
    assert all(w['text'].startswith('Say. ') for w in found)
    assert {m['modality'] for w in found for m in w['modalities']} == {'image'}
    assert 'colour' in capsys.readouterr().err
    for text, words in (('a: [', 'no YAML'),
                        ('/x:\n  ros__parameters: {window: 1}', 'for x, expected'),
                        ('/**:\n  ros__parameters: {window.length_s: 0.0}', '0.01 to 3600')):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_params(file)


@pytest.mark.parametrize(('words', 'said'), [
    (('--topics', '/cam/image_raw=none', '--topics', '/imu=none'), '--topics TOPIC=MODALITY'),
    (('--topics', '/nothing=image'), 'expected one of /imu'), (('--topics', 'x'), 'TOPIC='),
    (('--every', 'x'), '--every'), (('--from', 5, '--to', 4), 'begin first'),
    (('--merge',), '--bag'), (('--no-describe',), 'nothing to do'),
    (('--modalities', 'smell'), 'smell'), (('--window', 0), '--window'),
    (('--questions', '/nowhere'), '/nowhere'), (('--modalities', 'fmri'), 'the model knows')])
def test_wrong_words(bag: Path, capsys: pytest.CaptureFixture[str], words: Any, said: str
                     ) -> None:
    assert replay(bag, *words) == 2
    text = capsys.readouterr().err
    assert text.splitlines()[-1].startswith('onellm replay: error: ') and said in text


def test_two_cameras_that_the_user_names(tmp_path: Path) -> None:
    rows = plain(4) + [('/rear/image', parts.IMAGE, ns + 5, parts.picture(ns, 7))
                       for ns in range(BASE, BASE + 4 * S, S // 5)]
    path = write(tmp_path / 'bag', sorted(rows, key=lambda row: row[2]))
    assert replay(path, '--out', tmp_path / 'out', '--topics', '/rear/image=image') == 0
    assert windows(tmp_path / 'out')[0]['modalities'][0]['topics'] == ['/rear/image']
    assert replay(path, '--out', tmp_path / 'both', '--topics', '/cam/image_raw=image',
                  '--topics', '/rear/image=image') == 0
    assert set(lines(tmp_path / 'both')[0]['settings']['recordings'][0]['topics']) == {
        '/cam/image_raw', '/rear/image', '/imu'}


def test_sources_and_poses_that_the_parameters_name(tmp_path: Path) -> None:
    params = tmp_path / 'params.yaml'
    params.write_text('/**:\n  ros__parameters:\n    sources: [top, rear]\n    source:\n'
                      '      top: {topic: top/points}\n      rear: {topic: /rear/image}\n'
                      '    extrinsics: [mast]\n    extrinsic.mast.xyz: [0.0, 0.0, 2.0]\n')
    rows = [('/rear/image', parts.IMAGE, ns, parts.picture(ns, 7))
            for ns in range(BASE, BASE + 3 * S, S // 5)]

    def texts(name: str, frame: str, shift: float, *more: parts.Row) -> list[str]:
        clouds = [('/robot/top/points', parts.CLOUD, ns + 9, parts.cloud(ns, frame, shift))
                  for ns in range(BASE, BASE + 3 * S, S // 5)]
        bag = parts.write(tmp_path / name, sorted([*rows, *more, *clouds], key=lambda r: r[2]))
        out = tmp_path / f'{name}.jsonl'
        assert replay(bag, '--params-file', params, '--out', out) == 0
        assert lines(out)[0]['settings']['recordings'][0]['topics'] == {
            '/robot/top/points': 'top', '/rear/image': 'rear'}
        return [w['text'] for w in windows(out)]
    static = ('/tf_static', parts.TF, BASE - 1, parts.transform('base_link', 'lidar', 0.5))
    placed = texts('placed', 'base_link', 0.5)
    assert len(placed) == 3 and 'image video point' in placed[1]
    assert texts('static', 'lidar', 0.0, static) == placed
    assert texts('unknown', 'lidar', 0.0) != placed
    assert texts('table', 'mast', 0.0) not in (placed, texts('none', 'pole', 0.0))


def test_questions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / 'q.txt'
    file.write_text('# about doors\nIs a door open?\n\n  What moves?  \n')
    assert [q.text for q in read_questions(file, AskConfig())] == [
        'Is a door open?', 'What moves?']
    file = tmp_path / 'q.yaml'
    file.write_text('questions: [{question: Hm, modalities: [imu], max_tokens: 7}]')
    (only,) = read_questions(file, AskConfig())
    assert only.modalities == {Modality.IMU} and only.max_tokens == 7
    for text, said in (('[{question: a, choices: [yes, no]}]', 'in quotes'), ('[]', 'none'),
                       ('[{question: a, choices: [b]}]', 'at least two'), ('{a: b}', 'a list'),
                       ('[{qestion: a}]', 'qestion'), ('[{question: a, modalities: [x]}]', 'x')):
        file.write_text(text)
        with pytest.raises(ReplayError, match=said):
            read_questions(file, AskConfig())


# ---- the bag of descriptions --------------------------------------------------------------------

@pytest.mark.parametrize('name', ['out.mcap', 'out.db3', 'folder'])
def test_bag_of_descriptions(bag: Path, tmp_path: Path, name: str) -> None:
    results, out = tmp_path / 'r.jsonl', tmp_path / name
    merge = ('--merge',) if name == 'folder' else ()
    for _ in range(2):          # the second has nothing to compute, and writes the bag again
        assert replay(bag, '--out', results, '--bag', out, *merge) == 0
    assert out.is_dir() == (name == 'folder')
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, 'r.jsonl'])
    found = windows(results)
    with open_bag(out) as made, open_bag(bag) as source:
        assert not made.problems
        kinds = {t.name: t.type for t in made.topics()}
        own = {'/perception/description': 'onellm_msgs/msg/Description',
               '/perception/text': 'std_msgs/msg/String',
               '/perception/markers': 'visualization_msgs/msg/MarkerArray'}
        assert kinds == own | ({t.name: t.type for t in source.topics()} if merge else {})
        said = list(made.messages(['/perception/description']))
        assert [m.stamp_ns for m in said] == [w['closed_ns'] for w in found]
        text = said[3].message
        assert text.text == found[3]['text'] and text.prompt == 'Describe what you sense.'
        assert text.window_end.sec == (BASE + 4 * S) // S and text.header.frame_id == 'base_link'
        assert [m.modality for m in text.modalities] == ['image', 'video', 'imu']
        assert text.modalities[0].age_s == pytest.approx(0.1) and text.model == 'fake@01234567'
        np.testing.assert_allclose(text.modalities[2].expert_weights, [0.25, 0.75])
        (marker,) = next(iter(made.messages(['/perception/markers']))).message.markers
        assert marker.text == found[0]['text'] and (marker.lifetime.sec, marker.type) == (1, 9)
        if merge:
            raw = [(m.topic, m.stamp_ns, m.raw) for m in source.raw_messages()]
            assert [(m.topic, m.stamp_ns, m.raw) for m in made.raw_messages(
                [t.name for t in source.topics()])] == raw
            assert made.type_hash('/imu') == source.type_hash('/imu')


def test_a_folder_that_is_no_bag_is_kept(bag: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('x')
    assert replay(bag, '--out', tmp_path / 'r', '--to', 2, '--bag', tmp_path / 'mine') == 2
    assert 'not replaced' in capsys.readouterr().err and (tmp_path / 'mine/thesis.txt').exists()


@pytest.mark.parametrize(('name', 'count', 'modality'), [
    ('husky_imu_odom_gps', 100, 'imu'), ('kapture_t265', 1, 'image'),
    ('jsk_audio_applause.bag', 15, 'audio')])
def test_real_recordings(recordings: Path, tmp_path: Path, name: str, count: int, modality: str
                         ) -> None:
    assert replay(recordings / 'bags' / name, '--out', tmp_path / 'out', '--to', 100) == 0
    found = windows(tmp_path / 'out')
    assert len(found) >= count and all('text' in w for w in found)
    assert all(modality in [m['modality'] for m in w['modalities']] for w in found[1:-1])
