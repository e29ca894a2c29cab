"""Data sets of files: every form that the reference has, lazily, and what is broken is told."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import pickle

from dataset_files import FORMS, RATE, WINDOW, write_instructions, write_sensor_files
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from onellm_ros.config import NANO, PRESETS
from onellm_ros.datasets import (
    Broken,
    BrokenSampleError,
    DataError,
    Example,
    FileSet,
    SetConfig,
    Tally,
    collate,
)
from onellm_ros.files import read_audio, read_depth, read_image, read_points
from onellm_ros.modality import Modality
from onellm_ros.preprocess import audio_tensor, depth_tensor, image_tensor, point_tensor

# Sizes of the release, with as few voxels as the test file has.
LARGE = replace(PRESETS['onellm_7b'], tokenizer=replace(PRESETS['onellm_7b'].tokenizer,
                                                        fmri_voxels=256))
SHAPES = {'image': (3, 112, 112), 'video': (4, 3, 112, 112), 'audio': (1, 128, 256),
          'point': (2048, 6), 'depth': (2, 3, 112, 112), 'normal': (2, 3, 112, 112),
          'imu': (6, 400), 'fmri': (1, 256)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Return a folder with one sensor file of every kind; nothing may be changed in it."""
    path = tmp_path_factory.mktemp('sensors')
    write_sensor_files(path)
    return path


def instructions(path: Path, items, modality, root, model=NANO, **options) -> FileSet:
    write_instructions(path, items)
    return FileSet(SetConfig(path.name, modality, files=str(root)), model, path.parent, **options)


def table(path: Path, text: str, modality='image', **options) -> FileSet:
    path.write_text(text, encoding='utf-8')
    return FileSet(SetConfig(path.name, modality, 'alignment', **options), NANO, path.parent)


@pytest.mark.parametrize('form', FORMS)
def test_instructions_of_every_form(form, folder, tmp_path):
    modality, keys = FORMS[form]
    data = instructions(tmp_path / 'a.json', [keys, keys], modality, folder)
    example = data[1]
    assert isinstance(example, Example) and example.row == 1 and len(data) == 2
    assert example.turns == (('What is it?', 'A box.'), ('Which colour?', 'Red.'))
    assert example.kind == 'instruction' and example.set == 'a'
    if modality == 'text':
        assert example.modality is None and example.tensor is None
        assert example.path == str(tmp_path / 'a.json')
        return
    assert example.modality is Modality(modality)
    assert example.tensor.shape == SHAPES[modality] and example.tensor.dtype == torch.float32
    assert bool(torch.isfinite(example.tensor).all()) and float(example.tensor.std()) > 0
    named = keys.get(f'{modality}_image', keys.get('image', 'uid-1.npy'))
    assert example.path == str(folder / str(named))


def test_signals_are_those_of_live_preprocessing(folder, tmp_path):
    def tensor(form, model=LARGE):
        modality, keys = FORMS[form]
        return instructions(tmp_path / 'a.json', [keys], modality, folder, model)[0].tensor

    rgb, size = read_image(folder / 'i.png').data, 224
    assert torch.equal(tensor('image'), image_tensor(rgb, size))
    metres = read_depth(folder / 'd.png').data
    assert torch.equal(tensor('depth'), depth_tensor(metres, size, 'crop', 'relative', rgb))
    assert torch.equal(tensor('depth', NANO),
                       depth_tensor(metres, 112, 'squash', 'metric', rgb))
    cloud = read_points(folder / 'p.npy').data
    assert torch.equal(tensor('point'), point_tensor(cloud, 8192, 'unit'))
    assert torch.equal(tensor('fmri'), 3.0 + torch.arange(256.0)[None])     # of three
    # A normal picture is within its 8 bits of the vectors; where there is none, grey.
    assert float((tensor('normal npy') - tensor('normal')).abs().max()) < 0.03
    # Of 6 s of sound that fade out, the first 2.56 s are heard, as in the reference.
    sound = read_audio(folder / 's.wav')
    first = audio_tensor(sound.data[:255 * 160 + 400], RATE, NANO.tokenizer)
    assert torch.equal(tensor('audio', NANO), first)
    # IMU: 2 s from the window's start on, at 200 Hz; whole files from their first sample.
    imu = tensor('imu')
    assert np.allclose(imu[0], 4.0 + np.arange(400) / 200, atol=1e-4)
    assert np.allclose(tensor('imu csv')[0], np.arange(400) / 200, atol=1e-4)
    assert float(tensor('imu', NANO)[2].mean()) == pytest.approx((9.8 - 9.80665) * 0.5, abs=1e-4)


def test_short_and_long_imu_windows(folder, tmp_path):
    items = [{'imu_path': '.', **WINDOW, 'window_end': end} for end in (5.0, 9.0)]
    data = instructions(tmp_path / 'a.json', items, 'imu', folder, LARGE)
    short, long = data[0].tensor, data[1].tensor
    assert np.allclose(short[0, :200], 4.0 + np.arange(200) / 200, atol=1e-4)
    assert float(short[:, 210:].abs().max()) == 0                       # padded behind
    assert np.allclose(long[0], 4.0 + np.arange(400) / 200, atol=1e-4)  # cut


def test_rendered_depth_goes_to_models_of_relative_depth_only(folder, tmp_path):
    keys = {'image': 'i.png', 'depth_image': 'd8.png'}
    picture = image_tensor(read_image(folder / 'd8.png').data, 224)
    data = instructions(tmp_path / 'a.json', [keys], 'depth', folder, LARGE)
    assert torch.equal(data[0].tensor[1], picture)
    with pytest.raises(BrokenSampleError, match='8-bit picture of depth, expected 16-bit'):
        instructions(tmp_path / 'a.json', [keys], 'depth', folder, NANO)[0]


def test_alignment_tables(folder, tmp_path):
    text = (f'caption\turl\nA red box.\t{folder}/i.png\r\n\n"Say ""box""\tor\nnot"\t{folder}/i.jpg'
            f'\n"Unclosed\t{folder}/i.png\nGrüße "so"\t{folder}/i.png')
    data = table(tmp_path / 'a.csv', text)
    assert [data[i].turns for i in range(len(data))] == [
        (('', 'A red box.'),), (('', 'Say "box"\tor\nnot'),), (('', '"Unclosed'),),
        (('', 'Grüße "so"'),)]
    assert data[0].kind == 'alignment' and data[1].path == f'{folder}/i.jpg'
    assert data[0].tensor.shape == (3, 112, 112)
    other = table(tmp_path / 'b.tsv', f'id\turl\tcaption\n7\t{folder}/s.wav\tA tone.\n', 'audio')
    assert other[0].turns == (('', 'A tone.'),) and other[0].modality is Modality.AUDIO


def test_alignment_with_companions_renames_and_many_files(folder, tmp_path):
    for name, source in (('cc3m', 'i.png'), ('cc3m_depth', 'd.png')):
        (tmp_path / name).mkdir()
        (tmp_path / name / '1.png').write_bytes((folder / source).read_bytes())
    for part in (1, 2):
        (tmp_path / f'part{part}.csv').write_text('caption\turl\nOne.\ts3://bucket/cc3m/1.png\n')
    config = SetConfig('part*.csv', 'depth', 'alignment', rename=(('s3://bucket/', ''),),
                       companion=('cc3m/', 'cc3m_depth/'))
    data = FileSet(config, NANO, tmp_path)
    assert len(data) == 2 and data[1].path == str(tmp_path / 'cc3m_depth/1.png')
    rgb, metres = (read_image(folder / 'i.png').data, read_depth(folder / 'd.png').data)
    assert torch.equal(data[1].tensor, depth_tensor(metres, 112, 'squash', 'metric', rgb))
    with pytest.raises(BrokenSampleError, match='found the address .*rename'):
        FileSet(replace(config, rename=()), NANO, tmp_path)[0]
    with pytest.raises(BrokenSampleError, match='companion'):
        FileSet(replace(config, companion=()), NANO, tmp_path)[0]


def test_alignment_of_imu(folder, tmp_path):
    items = [{**WINDOW, 'text': ['One wording.', 'Another.']}, {**WINDOW, 'text': 'Alone.'}]
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(items))
    data = FileSet(SetConfig('a.json', 'imu', 'alignment', imu=str(folder)), LARGE, tmp_path)
    assert [data.read(0, v).turns[0][1] for v in range(3)] == [
        'One wording.', 'Another.', 'One wording.']
    assert data[1].turns == (('', 'Alone.'),)
    assert np.allclose(data[1].tensor[0], 4.0 + np.arange(400) / 200, atol=1e-4)


def conversation(*turns):
    return {'conversations': [{'from': who, 'value': text} for who, text in turns]}


@pytest.mark.parametrize(('row', 'told'), [
    ({'conversations': []}, 'expected a list of'),
    ({'conversations': 'Hello'}, 'expected a list of'),
    (conversation(('gpt', 'Hi.')), "turn of 'gpt', expected human"),
    (conversation(('human', 'Hi?'), ('human', 'Hi?')), 'expected gpt'),
    (conversation(('human', 'Hi?')), '1 turns, the last without an answer'),
    (conversation(('human', 'Hi?'), ('gpt', ' <image> ')), 'empty answer'),
    ({'conversations': [{'from': 'human'}, {'value': 'x'}]}, 'from, value'),
    ({'image': ''}, "image: found ''"), ({'image': 5}, "image: found '5'")])
def test_rows_that_are_not_understood(row, told, folder, tmp_path):
    item = {'image': 'i.png', **row}
    data = instructions(tmp_path / 'a.json', [{'image': 'i.png'}, item], 'image', folder)
    assert isinstance(data[0], Example)
    with pytest.raises(BrokenSampleError) as caught:
        data[1]
    assert told in str(caught.value) and f'{tmp_path / "a.json"}: row 1: ' in str(caught.value)
    assert caught.value.broken.row == 1


@pytest.mark.parametrize(('form', 'change', 'told'), [
    ('image', {'image': None}, 'image: found'), ('depth', {'depth_image': ''}, 'depth_image'),
    ('imu', {'window_end': 3.0}, 'the first below the second'),
    ('imu', {'window_start': True}, 'expected seconds'),
    ('imu', {'window_start': 19.0, 'window_end': 30.0}, None),
    ('imu', {'window_start': 19.95, 'window_end': 30.0}, 'found 5 samples from 19.95 to 30 s'),
    ('imu', {'video_uid': 'uid-2'}, 'uid-2.npy: no such file'),
    ('text', {'image': 'i.png'}, "the key 'image', expected none")])
def test_keys_of_a_modality(form, change, told, folder, tmp_path):
    modality, keys = FORMS[form]
    data = instructions(tmp_path / 'a.json', [{**keys, **change}], modality, folder)
    if told is None:
        assert isinstance(data[0], Example)
        return
    with pytest.raises(BrokenSampleError, match=told):
        data[0]


DAMAGE = {
    'png cut': ('image', 'i.png', 'damaged picture'),
    'no picture': ('image', 's.wav', 'found no picture'), 'empty': ('image', 'i.png', 'is empty'),
    'wav cut': ('audio', 's.wav', 'as its header says; the file is cut short'),
    'wav nan': ('audio', 's.wav', 'found 16000 values that are not finite'),
    'mp4 cut': ('video', 'v.mp4', 'found no video'),
    'mp4 cut behind its index': ('video', 'v_fast.mp4', 'expected 12 as the file says'),
    'npy cut': ('point', 'p.npy', 'damaged .npy'),
    'voxels': ('fmri', 'f.npy', 'expected [256] voxels'),
    'imu nan': ('imu', 'm.csv', 'found 1 of 2000 samples that are not finite')}


def damage(form: str, folder: Path, target: Path) -> tuple[str, Path]:
    """Put a damaged copy of a form's sensor file into a folder; returns its modality and path."""
    modality, name, _ = DAMAGE[form]
    content, path = (folder / name).read_bytes(), target / name
    if form == 'wav nan':
        import soundfile
        soundfile.write(path, np.full(RATE, np.nan, np.float32), RATE, subtype='FLOAT')
    elif form == 'voxels':
        np.save(path, np.zeros((3, 255)))
    elif form == 'imu nan':
        lines = content.splitlines()
        lines[5] = lines[5].replace(lines[5].split(b',')[3], b'nan')
        path.write_bytes(b'\n'.join(lines))
    elif form == 'empty':
        path.write_bytes(b'')
    else:
        path.write_bytes(content if form == 'no picture' else content[:len(content) // 2])
    return modality, path


@pytest.mark.parametrize('form', DAMAGE)
def test_damaged_sensor_files(form, folder, tmp_path):
    modality, path = damage(form, folder, tmp_path)
    items = [{'image': path.name}]
    data = instructions(tmp_path / 'a.json', items, modality, tmp_path)
    with pytest.raises(BrokenSampleError) as caught:
        data[0]
    told = str(caught.value)
    assert DAMAGE[form][2] in told and told.startswith(f'{tmp_path / "a.json"}: row 0: ')
    assert str(path) in told and caught.value.broken.path == str(path)
    skipping = instructions(tmp_path / 'a.json', items, modality, tmp_path, on_broken='skip')
    assert skipping[0] == caught.value.broken


def test_nothing_is_read_before_it_is_asked_for(tmp_path, monkeypatch):
    items = [{'image': f'missing/{i}.png'} for i in range(3000)]
    data = instructions(tmp_path / 'a.json', items, 'image', tmp_path)
    assert len(data) == 3000 and data.item(2999).signal.path == tmp_path / 'missing/2999.png'
    kept = pickle.dumps(data)
    assert len(kept) < 3000 * 8 + 4000              # offsets, not rows
    copy = pickle.loads(kept)
    assert len(copy) == 3000 and copy.item(7) == data.item(7)
    with pytest.raises(BrokenSampleError, match=r'row 12: .*missing/12.png: no such file'):
        copy[12]
    with pytest.raises(IndexError):
        data[3000]


def mixed(folder, tmp_path, on_broken) -> FileSet:
    """Return 12 items of which number 2 and 7 are broken."""
    items = [{'image': f'missing{i}.png' if i in (2, 7) else 'i.png'} for i in range(12)]
    return instructions(tmp_path / 'a.json', items, 'image', folder, on_broken=on_broken)


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('workers', [0, 2])
def test_workers_skip_and_count(workers, folder, tmp_path):
    loader = DataLoader(mixed(folder, tmp_path, 'skip'), batch_size=3, collate_fn=collate,
                        num_workers=workers)
    tally = Tally()
    batches = list(loader)
    told = [str(broken) for batch in batches for broken in tally.add(batch)]
    assert [len(batch) for batch in batches] == [2, 3, 2, 3]    # nothing in place of the broken
    assert batches[0].rows == [0, 1] and batches[0].tensor.shape == (2, 3, 112, 112)
    assert (tally.examples, tally.skipped) == (10, 2) and len(told) == 2
    assert 'missing2.png' in told[0] and 'row 7' in told[1]
    assert str(tally) == f'10 examples, 2 skipped (2 of {tmp_path / "a.json"})'


@pytest.mark.parametrize('workers', [0, 1])
def test_workers_raise(workers, folder, tmp_path):
    loader = DataLoader(mixed(folder, tmp_path, 'error'), batch_size=3, collate_fn=collate,
                        num_workers=workers)
    with pytest.raises(BrokenSampleError, match=r'row 2: .*missing2.png: no such file'):
        list(loader)


def test_collate_refuses_two_modalities(folder, tmp_path):
    one = instructions(tmp_path / 'a.json', [{'image': 'i.png'}], 'image', folder)[0]
    two = instructions(tmp_path / 'a.json', [{'image': 'f.npy'}], 'fmri', folder)[0]
    with pytest.raises(ValueError, match='in one batch, expected one modality'):
        collate([one, two])
    broken = Broken('a.json', 0, '', 'why')
    nothing = collate([broken], Modality.FMRI)
    assert len(nothing) == 0 and nothing.modality is Modality.FMRI
    assert nothing.skipped == (broken,) and nothing.tensor is None


@pytest.mark.parametrize(('changes', 'told'), [
    ({'modality': 'smell'}, "unknown modality 'smell'"), ({'kind': 'x'}, 'kind: found'),
    ({'modality': 'text', 'kind': 'alignment'}, 'expected instruction'), ({'file': ''}, 'no file'),
    ({'rename': (('a',),)}, 'expected two texts'), ({'repeats': 0.0}, 'repeats: found 0'),
    ({'weight': float('nan')}, 'weight: found nan')])
def test_wrong_settings(changes, told):
    with pytest.raises(DataError, match=told):
        SetConfig(**{'file': 'a.json', 'modality': 'image', **changes})


def test_wrong_files(folder, tmp_path):
    with pytest.raises(DataError, match='no such annotation file'):
        FileSet(SetConfig('no.json', 'image'), NANO, tmp_path)
    with pytest.raises(DataError, match='found the columns text, path, expected caption and url'):
        table(tmp_path / 'a.csv', 'text\tpath\nx\ty\n')
    with pytest.raises(DataError, match='has no rows'):
        table(tmp_path / 'a.csv', 'caption\turl\n')
    with pytest.raises(BrokenSampleError, match='row 0: found 1 fields, expected 2'):
        table(tmp_path / 'a.csv', 'caption\turl\nonly this\n')[0]
    with pytest.raises(BrokenSampleError, match='caption: found'):
        table(tmp_path / 'a.csv', f'caption\turl\n\t{folder}/i.png\n')[0]
    with pytest.raises(DataError, match="on_broken: found 'replace'"):
        mixed(folder, tmp_path, 'replace')
