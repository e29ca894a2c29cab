"""Indices of annotation files, mixes of data sets, and their manifests."""

from __future__ import annotations

from collections import Counter
import csv
from dataclasses import replace
import io
import json
from pathlib import Path

from dataset_files import FORMS, write_instructions, write_sensor_files
from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
import yaml

from onellm_ros.config import NANO
from onellm_ros.datasets import (
    BrokenSampleError,
    DataError,
    FileSet,
    Mix,
    MixBatches,
    SetConfig,
    Tally,
    load_manifest,
)
from onellm_ros.datasets import index as index_module
from onellm_ros.datasets.index import RowFile
from onellm_ros.datasets.mix import schedule
from onellm_ros.datasets.shuffle import shuffled
from onellm_ros.modality import Modality

# Not a carriage return: csv writes it without quotes, so that it looks like a line's end.
cell = st.text(st.sampled_from('ab"\t\n ,ä'), max_size=6)


@settings(max_examples=50, deadline=None)
@example(rows=[('', '\t'), ('', '\n')], chunk=4, end='\n')
@example(rows=[('a\t"b', '\n\n'), ('"', '')], chunk=1, end='\r\n')
@given(rows=st.lists(st.tuples(cell, cell), min_size=1, max_size=8), chunk=st.integers(1, 40),
       end=st.sampled_from(['\n', '\r\n']))
def test_tables_are_cut_where_csv_cuts_them(rows, chunk, end, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / 'table.csv'
    text = io.StringIO()
    writer = csv.writer(text, delimiter='\t', lineterminator=end)
    writer.writerows([('caption', 'url'), *rows])
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, '_CHUNK', chunk)
        file = RowFile.open(path)
    assert [tuple(file.read(i).values()) for i in range(len(file))] == rows


@pytest.mark.parametrize('chunk', [1, 3, 17, 1 << 20])
def test_lists_and_lines_of_json(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, '_CHUNK', chunk)
    items = [{'id': i, 'text': 'Grüße "x" \\ ] , [ {' * (i % 3)} for i in range(9)]
    for name, text in (
            ('a.json', json.dumps(items)), ('b.json', json.dumps(items, indent=2) + '\n\n'),
            ('c.json', json.dumps(items, ensure_ascii=False)),
            ('d.jsonl', '\n'.join(json.dumps(item) for item in items) + '\n\n')):
        (tmp_path / name).write_text(text, encoding='utf-8')
        file = RowFile.open(tmp_path / name)
        assert [file.read(i) for i in range(len(file))] == items
    (tmp_path / 'bom.json').write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert RowFile.open(tmp_path / 'bom.json').read(0) == {'a': 1}
    assert len(RowFile.open(write_instructions(tmp_path / 'e.json', []))) == 0


@pytest.mark.parametrize(('text', 'told'), [
    ('{"a": 1}', 'expected a JSON list'), ('', "found ''"), ('[{"a": 1}, {"a": ', 'item 1'),
    ('[{"a": 1}, {"a": 1}', 'cut short'), ('[{"a": 1}, ]', 'behind item 0'),
    ('[{"a": 1} {"a": 2}]', 'behind item 0'), ('[{"a": 1}] x', 'behind the list'),
    ("[{'a': 1}]", 'item 0 .from 0.*is no JSON')])
def test_damaged_lists(text, told, tmp_path):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(DataError, match=told):
        RowFile.open(tmp_path / 'a.json')


def test_changed_and_odd_annotation_files(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('[{"a": 1}, 5]')
    file = RowFile.open(path)
    with pytest.raises(ValueError, match="found '5', expected a JSON object"):
        file.read(1)
    path.write_text('[{"a": 1}, {"a": 22}]')
    with pytest.raises(DataError, match='has changed since it was indexed'):
        file.read(0)
    (tmp_path / 'a.xml').write_text('x')
    with pytest.raises(DataError, match="ending '.xml', expected one of"):
        RowFile.open(tmp_path / 'a.xml')


@pytest.mark.parametrize('size', [1, 2, 3, 64, 1000, 4097])
def test_shuffling_is_a_permutation(size):
    for key in range(3):
        places = shuffled(np.arange(size), size, key)
        assert sorted(places.tolist()) == list(range(size))
        assert np.array_equal(shuffled(np.array([size - 1]), size, key), places[-1:])
    if size > 60:
        other = shuffled(np.arange(size), size, 99)
        assert (places == np.arange(size)).mean() < 0.1 and (places == other).mean() < 0.1
    with pytest.raises(ValueError, match='expected 0 to'):
        shuffled(np.array([size]), size, 0)


def test_schedule_keeps_to_the_frequencies_at_any_step():
    shares = np.array([0.7, 0.2, 0.1])
    steps = schedule(list(shares), 1000, 4)
    counts = np.cumsum(np.eye(3)[steps], axis=0)
    assert np.abs(counts - np.outer(np.arange(1, 1001), shares)).max() < 3
    assert np.array_equal(schedule(list(shares), 400, 4), steps[:400])
    assert not np.array_equal(schedule(list(shares), 1000, 5), steps)


@pytest.fixture
def sets(tmp_path) -> list[FileSet]:
    """Return 12 images in two sets, 6 fMRI vectors and 4 texts (two of the images missing)."""
    write_sensor_files(tmp_path)
    items = [{'image': f'missing{i}.png' if i in (2, 7) else 'i.png'} for i in range(8)]
    sizes = {'a': ('image', items), 'b': ('image', [{'image': 'i.jpg'}] * 4),
             'c': ('fmri', [{'image': 'f.npy'}] * 6), 't': ('text', [{}] * 4)}
    out = []
    for name, (modality, rows) in sizes.items():
        write_instructions(tmp_path / f'{name}.json', rows)
        out.append(FileSet(SetConfig(f'{name}.json', modality), NANO, tmp_path, on_broken='skip'))
    return out


def reweighted(sets, **changes) -> list[FileSet]:
    return [FileSet(replace(one.config, **{key: values[i] for key, values in changes.items()}),
                    one.model, one.root, on_broken=one.on_broken) for i, one in enumerate(sets)]


def test_an_epoch_goes_through_everything_once(sets):
    mix = Mix(sets, seed=3)
    assert mix.modalities == ('image', 'fmri', 'text') and len(mix) == mix.epoch == 22
    assert mix.frequencies == pytest.approx({'image': 12 / 22, 'fmri': 6 / 22, 'text': 4 / 22})
    for epoch in range(3):
        rows = mix.rows('image', np.arange(12 * epoch, 12 * epoch + 12))
        assert sorted(rows) == sorted([(0, i, epoch) for i in range(8)]
                                      + [(1, i, epoch) for i in range(4)])
        assert rows != sorted(rows)
    assert [mix[i].set for i in (8, 12, 21)] == ['b', 'c', 't']
    with pytest.raises(IndexError):
        mix[22]


def test_repeats_and_weights(sets):
    mix = Mix(reweighted(sets, repeats=(1.0, 3.0, 0.5, 1.0)))
    assert mix.epoch == 8 + 12 + 3 + 4
    met = Counter(mix.rows('image', np.arange(20)))
    assert set(met.values()) == {1} and len(met) == 20
    assert sum(number == 1 for number, _, _ in met) == 12       # four rows, three passes
    mix = Mix(reweighted(sets, weight=(1.0, 3.0, 4.0, 2.0)))
    assert mix.frequencies == {'image': 0.4, 'fmri': 0.4, 'text': 0.2}
    rows = mix.rows('image', np.arange(240))
    counts = Counter(number for number, _, _ in rows)
    assert counts == {0: 60, 1: 180}
    each = Counter((number, row) for number, row, _ in rows)
    assert {each[0, i] for i in range(8)} <= {7, 8} and {each[1, i] for i in range(4)} == {45}
    only = Mix(sets, weights={'fmri': 1, 'image': 3})
    assert only.frequencies == {'image': 0.75, 'fmri': 0.25}
    for wrong in ({'audio': 1}, {}, {'image': 0}):
        with pytest.raises(DataError, match='weights: found'):
            Mix(sets, weights=wrong)
    with pytest.raises(DataError, match='a weight for 1 of 4'):
        Mix(reweighted(sets, weight=(1.0, 0.0, 0.0, 0.0)))


def same(one, two) -> bool:
    return (one.modality, one.turns, one.paths, one.rows, one.skipped) == (
        two.modality, two.turns, two.paths, two.rows, two.skipped) and (
        one.tensor is two.tensor is None or torch.equal(one.tensor, two.tensor))


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_batches_repeat_from_any_step_with_any_workers(sets):
    batches = MixBatches(Mix(sets, seed=1), batch=4, steps=11)
    whole = [batches[step] for step in range(11)]
    later = DataLoader(batches, batch_size=None, sampler=range(5, 11), num_workers=2)
    assert all(same(one, two) for one, two in zip(whole[5:], later, strict=True))
    longer = MixBatches(Mix(sets, seed=1), batch=4, steps=30)
    assert all(same(longer[step], whole[step]) for step in range(11))
    tally = Tally()
    for step, batch in enumerate(whole):
        tally.add(batch)
        assert batch.modality == batches.modality(step) and len(set(batch.sets)) <= 2
        assert len(batch) + len(batch.skipped) == 4
    assert tally.examples + tally.skipped == 44 and tally.skipped == 4      # two passes of two
    assert {b.modality for b in whole} == {Modality.IMAGE, Modality.FMRI, None}
    assert not all(same(batches[i], MixBatches(Mix(sets, seed=2), batch=4, steps=11)[i])
                   for i in range(11))


def test_ranks_share_the_batches_of_one(sets):
    mix = Mix(sets)
    alone = MixBatches(mix, batch=6, steps=5)
    parts = [MixBatches(mix, batch=6, steps=5, rank=rank, ranks=3) for rank in range(3)]
    for step in range(5):
        assert sum((part.rows(step) for part in parts), []) == alone.rows(step)
    with pytest.raises(DataError, match='that the ranks can share'):
        MixBatches(mix, batch=4, steps=5, rank=0, ranks=3)
    strict = Mix([FileSet(one.config, NANO, one.root) for one in sets])
    with pytest.raises(BrokenSampleError, match=r'missing[27].png'):
        list(DataLoader(MixBatches(strict, batch=6, steps=8), batch_size=None, num_workers=1))


def manifest(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_manifest(sets, tmp_path):
    path = manifest(tmp_path / 'm.yaml', name='four', expected={'image': 12}, sets=[
        {'file': f'{name}.json', 'modality': modality, 'weight': weight}
        for name, modality, weight in (('a', 'image', 2), ('b', 'image', 1.5), ('t', 'text', 1))])
    mix = Mix.open(path, NANO, on_broken='skip', seed=2)
    assert [one.name for one in mix.sets] == ['a', 'b', 't'] and len(mix) == 16
    assert mix.frequencies == pytest.approx({'image': 3.5 / 4.5, 'text': 1 / 4.5})
    assert load_manifest(path).expected == {'image': 12}
    (tmp_path / 'b.json').unlink()
    with pytest.raises(DataError, match=r'(?s)1 of 3 annotation files .*is the root.*b\.json'):
        load_manifest(path)
    with pytest.raises(DataError, match=r'(?s)3 of 3 .*a\.json.*b\.json.*t\.json'):
        load_manifest(path, root=tmp_path / 'elsewhere')


@pytest.mark.parametrize(('values', 'told'), [
    ({'sets': []}, 'expected a list of data sets'), ({'set': []}, "unknown key 'set'"),
    ({'sets': [{'file': 'a.json'}]}, 'expected at least file and modality'),
    ({'sets': [{'file': 'a.json', 'modality': 'image', 'repeat': 2}]}, "unknown key 'repeat'"),
    ({'sets': [{'file': 'a.json', 'modality': 'image', 'weight': 'x'}]}, 'weight: expected float'),
    ({'sets': [{'file': 'a.json', 'modality': 'image'}] * 2}, r"are called \['a'\]"),
    ({'sets': [{'file': 'a.json', 'modality': 'image', 'weight': 1.0},
               {'file': 'b.json', 'modality': 'image'}]}, 'but none for'),
    ({'sets': [{'file': 'a.json', 'modality': 'image'}], 'expected': {'smell': 1}}, 'expected:')])
def test_wrong_manifests(values, told, sets, tmp_path):
    with pytest.raises(DataError, match=told):
        load_manifest(manifest(tmp_path / 'm.yaml', **values))


def test_unreadable_manifests(tmp_path):
    (tmp_path / 'm.yaml').write_text('a: [')
    with pytest.raises(DataError, match='no readable YAML'):
        load_manifest(tmp_path / 'm.yaml')
    with pytest.raises(DataError, match='no such manifest'):
        load_manifest(tmp_path / 'n.yaml')


def test_the_papers_instruction_mix(root, tmp_path):
    path = root / 'config/instruction_mix.yaml'
    with pytest.raises(DataError) as caught:
        load_manifest(path, tmp_path)
    missing = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(missing) == 19 and all(name.startswith('InstructionTuning/') for name in missing)
    forms = {modality: keys for form, (modality, keys) in FORMS.items() if ' ' not in form}
    entries = yaml.safe_load(path.read_text())['sets']
    for entry in entries:
        (tmp_path / entry['file']).parent.mkdir(parents=True, exist_ok=True)
        write_instructions(tmp_path / entry['file'], [forms[entry['modality']]] * 2)
    write_sensor_files(tmp_path)
    config = load_manifest(path, tmp_path)
    assert sum(config.expected.values()) == 2_006_000
    mix = Mix.open(config, NANO)
    assert set(mix.modalities) == {*(m.value for m in Modality), 'text'} == set(config.expected)
    assert len(mix) == 38 and all(mix[i].turns for i in range(0, 38, 2))


def test_the_part_keeps_to_what_it_may_import(root):
    for path in (root / 'onellm_ros/datasets').glob('*.py'):
        text = path.read_text()
        if not path.name.startswith('render'):
            assert 'onellm_ros.simulation' not in text, path
        assert 'onellm_ros.model.' not in text.replace('onellm_ros.model.text', ''), path
