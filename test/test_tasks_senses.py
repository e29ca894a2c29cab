"""Benchmarks of video, sound, clouds, scenes, IMU and fMRI: public formats, read and refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat
from senses_cases import CASES, PLACE, laid, read

from onellm_ros.evaluation.item import AnnotationError
from onellm_ros.evaluation.prompts import FORMS, item_prompt
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.evaluation.tasks.media import shuffled


@pytest.mark.parametrize('name', CASES)
def test_items_are_those_of_the_files(name, tmp_path):
    case = CASES[name]
    items = read(name, case, laid(case, tmp_path))
    assert len(items) == len(case.expected)
    for item, (key, question, signals, answers, choices, right, group) in zip(
            items, case.expected):
        found = {m: type(s)(**{**vars(s), 'path': s.path.relative_to(tmp_path),
                               'colour': s.colour and s.colour.relative_to(tmp_path)})
                 for m, s in item.signals.items()}
        assert (item.id, item.question, found) == (key, question, signals)
        assert (item.answers, item.choices, item.right, item.group) == (
            answers, choices, right, group)
        assert '.' in item.source                           # the file, for errors of the harness


BROKEN = [pytest.param(name, *broken, id=f'{name}-{n}') for name, case in CASES.items()
          for n, broken in enumerate(case.broken)]


@pytest.mark.parametrize('name, file, before, after, line, text', BROKEN)
def test_what_is_wrong_is_told_by_file_and_line(name, file, before, after, line, text, tmp_path):
    case = CASES[name]
    assert before in case.files[file], 'the damage is not in the file'
    path = laid(case, tmp_path) / file
    path.write_text(case.files[file].replace(before, after, 1), encoding='utf-8')
    with pytest.raises(AnnotationError) as told:
        read(name, case, tmp_path)
    assert told.value.file.name == path.name and told.value.line == line, told.value
    assert text in str(told.value)


@pytest.mark.parametrize('name', [name for name in CASES if ' ' not in name])
def test_missing_files_say_what_to_fetch(name, tmp_path):
    with pytest.raises(AnnotationError, match=rf'eval --explain {name}'):
        read(name, CASES[name], tmp_path)
    task = find_task(name)
    file = next(iter(CASES[name].files)).split('/')[-1]
    assert file.replace('_val_', '_') in task.fetch.replace('_val_', '_')
    assert all(len(line) < 100 for line in task.fetch.splitlines())


def test_splits_of_sun_rgbd_are_those_of_its_toolbox(tmp_path):
    case = CASES['sunrgbd-depth']
    laid(case, tmp_path)
    (tmp_path / 'test.txt').unlink()
    home = tmp_path / 'SUNRGBDtoolbox/traintestSUNRGBD'
    home.mkdir(parents=True)
    cells = np.empty((1, 2), object)
    cells[0] = [f'/n/fs/sun3d/data/{PLACE}', f'/n/fs/sun3d/data/{PLACE[:-1]}2']
    savemat(home / 'allsplit.mat', {'alltest': cells, 'alltrain': cells})
    (item,) = read('sunrgbd-depth', case, tmp_path)
    assert item.id == PLACE[8:] and item.source == f'{home / "allsplit.mat"}, alltest[0]'
    savemat(home / 'allsplit.mat', {'alltest': cells}, do_compression=True)
    whole = (home / 'allsplit.mat').read_bytes()
    for damaged in (b'no mat', whole[:90], whole[:126], whole[:-40],
                    whole[:200] + b'damaged' + whole[207:]):
        (home / 'allsplit.mat').write_bytes(damaged)
        with pytest.raises(AnnotationError, match='mat: found no alltest that is understood'):
            read('sunrgbd-depth', case, tmp_path)


PROMPTS = {
    'nextqa': 'how do the two man play the instrument\nA. roll\nB. tap, feet\nC. strum\nD. hit\n'
              "E. pat\nAnswer with the option's letter from the given choices directly",
    'msvd-qa': 'who is eating? Answer the question using a single word or phase.',
    'vatex': 'Provide a one-sentence caption for the provided video.',
    'valor-32k': 'Provide a one-sentence caption for the provided video.',
    'clotho-caption': 'Provide a one-sentence caption for the provided audio.',
    'objaverse-caption': 'Provide a one-sentence caption for the provided point cloud.',
    'objaverse-class authors': 'What is this?',
    'avsd question': 'what does he do? Answer the question and explain the reason in one '
                     'sentence.',
    'nyuv2-depth': 'bathroom, bedroom, bookstore, classroom, dining room, home office, kitchen, '
                   'living room, office, others What is the category of this scene? Choice one '
                   'class from the class sets.',
    'ego4d-imu': 'Describe the motion', 'nsd-fmri': 'Describe the scene based on fMRI data'}


@pytest.mark.parametrize('name', PROMPTS)
def test_prompts_are_the_papers(name, tmp_path):
    task = find_task(name.split()[0])
    item = read(name, CASES[name], laid(CASES[name], tmp_path))[0]
    assert item_prompt(task, item) == PROMPTS[name] and task.form in FORMS


def signal_of(name: str, root) -> str:
    (signal,) = read(name, CASES[name], root)[0].signals.values()
    return str(signal.path.relative_to(root))


def test_files_as_they_come(tmp_path):
    """Suffixes in upper case, other formats, paths of the authors' machine."""
    for name, wanted, found in (
            ('msvd-qa', 'YouTubeClips/0lh_UWF9ZP4_157_160.avi', '0lh_UWF9ZP4_157_160.AVI'),
            ('vatex coco', 'test/xyz_000003_000013.mp4', 'test/xyz_000003_000013.WEBM'),
            ('clotho-caption', 'evaluation/Santa Motor.wav', 'evaluation/Santa Motor.flac'),
            ('clotho-aqa', 'audio_files/fly.wav', 'audio/fly.WAV'),
            ('nsd-fmri', 'data/test/s0.npy', 'test/s0.npy')):
        root = laid(CASES[name], tmp_path / name)
        for there in CASES[name].there:
            (root / there).unlink()
        assert signal_of(name, root) == wanted              # told as missing
        (root / found).parent.mkdir(parents=True, exist_ok=True)
        (root / found).touch()
        assert signal_of(name, root) == found


def test_lists_that_windows_wrote(tmp_path):
    for name, file in (('msvd-qa', 'youtube_mapping.txt'), ('nyuv2-depth', 'test.txt'),
                       ('nyuv2-depth', 'test/scene_class/0000.txt'), ('nextqa', 'test.csv')):
        path = laid(CASES[name], tmp_path / name) / file
        expected = [item.id for item in read(name, CASES[name], tmp_path / name)]
        text = path.read_text(encoding='utf-8')
        path.write_bytes(b'\xef\xbb\xbf' + (text + '\n\n').replace('\n', '\r\n').encode())
        assert [item.id for item in read(name, CASES[name], tmp_path / name)] == expected


def test_policies(tmp_path):
    for name, options in (('avsd', {'context': 'all'}), ('music-avqa', {'silent': 'never'}),
                          ('clotho-aqa', {'agreement': 'one'})):
        laid(CASES[name], tmp_path / name)
        with pytest.raises(ValueError, match=f'{next(iter(options))}: found .*, expected one of'):
            read(name, CASES[name], tmp_path / name, **options)
    told = read('avsd', CASES['avsd'], tmp_path / 'avsd', context='dialog+caption')[0].question
    assert told.startswith('C: a man walks\nQ: is there a man?')


def test_choices_are_mixed_but_always_the_same():
    rights = [shuffled(f'v_{n}', 'right', ['x', 'y', 'z']) for n in range(400)]
    assert all(choices[right] == 'right' and sorted(choices) == ['right', 'x', 'y', 'z']
               for choices, right in rights)
    counts = np.bincount([right for _, right in rights], minlength=4)
    assert counts.min() > 70 and rights[0] == shuffled('v_0', 'right', ['x', 'y', 'z'])
