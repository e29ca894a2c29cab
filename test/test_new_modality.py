"""A stage that adds a modality: what learns, what does not, its data and the study of it."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace
import json
import math

import numpy as np
import pytest
import torch
from training_worlds import TINY

from onellm_ros.modalities.scan import SCAN, scan_input
from onellm_ros.modalities.scan_questions import scan_questions
from onellm_ros.modalities.scan_world import FARTHEST_M, ScanTruth, scan_world
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import save_model
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text, train_tokenizer
from onellm_ros.simulation.language import vocabulary_texts
from onellm_ros.simulation.world import World
from onellm_ros.study import new_modality, scan_data
from onellm_ros.training.batches import Split, blank_input
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.new_modality import (
    TextBatches,
    Texts,
    TextSources,
    stage_for,
    with_modality,
)
from onellm_ros.training.trainer import Options, Trainer

ASKED = [[('Is the way ahead free?', 'yes', 'clear')],
         [('What do you hear?', 'unknown', 'unknown'),
          ('Where is the nearest thing?', 'left', 'place')],
         [('Is it free?', 'no', 'clear')]]


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    """Return a folder with a tiny model of the eight and its tokenizer."""
    folder = tmp_path_factory.mktemp('model')
    train_tokenizer(vocabulary_texts(), TINY.llm.vocab_size).save(str(folder / 'tokenizer.json'))
    text = Text.load(folder, TINY.text)
    torch.manual_seed(1)
    model = OneLLM(replace(TINY, llm=replace(TINY.llm, vocab_size=text.size)))
    save_model(model, folder, torch.float32)
    return folder


def loaded(folder) -> tuple[OneLLM, Text]:
    from onellm_ros.model.checkpoint import load_model
    model = load_model(folder)
    return model, Text.load(folder, model.config.text)


def texts(count: int = 3) -> Texts:
    torch.manual_seed(2)
    return Texts(SCAN, torch.rand(count, 3, 180), (ASKED * count)[:count])


def trained(folder, out, stage) -> tuple[OneLLM, OneLLM]:
    """Return the model with the ninth before and after the stage."""
    model, text = loaded(folder)
    torch.manual_seed(0)
    new = with_modality(model, SCAN, Modality.DEPTH)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    run = Trainer(new, text, (stage,), out, TextSources(out, out, texts=texts()),
                  options=Options(workers=0, precision='float32', eval_every=10**9))
    run.run()
    old = OneLLM(new.config)
    old.load_state_dict(before)
    return old.eval(), run.finished().eval()


@pytest.mark.parametrize('experts', [False, True])
@torch.no_grad()
def test_only_what_is_its_own_learns(tiny_model, tmp_path, experts):
    with torch.enable_grad():
        stage = stage_for(SCAN, experts=experts, steps=3, batch=2, warmup=1)
        before, after = trained(tiny_model, tmp_path, stage)
    changed = {name for name, value in after.state_dict().items()
               if not torch.equal(value, before.state_dict()[name])}
    own = {name for name in before.state_dict() if 'scan' in name.split('.')}
    assert len(own) == 4 + 3 + 4 + 4 + 3 and own - changed <= {'upm.proj_in.scan.0.bias'}
    others = {name for name in changed if 'scan' not in name.split('.')}
    assert all(name.startswith('upm.experts.') for name in others) and bool(others) == experts
    for modality in Modality:
        x = blank_input(modality, after.config) + 0.5
        same = torch.equal(before.encode(modality, x).tokens, after.encode(modality, x).tokens)
        assert same != experts, modality


def test_the_input_projection_begins_centred(tiny_model, tmp_path):
    stage = stage_for(SCAN, steps=1, batch=2, warmup=0, learning_rate=1e-12, weight_decay=0)
    _, model = trained(tiny_model, tmp_path, stage)
    features = model.features(SCAN, texts().inputs.repeat(22, 1, 1)[:64]).flatten(0, 1)
    projected = model.upm.proj_in['scan'][0](features)
    assert float(projected.mean(0).abs().max()) < 0.02 < 0.2 < float(projected.std(0).min())


def test_each_signal_comes_once_before_any_comes_again(tiny_model):
    _, text = loaded(tiny_model)
    stage = stage_for(SCAN, batch=4)
    batches = TextBatches(texts(6), stage, text, seed=3)
    names = [name for index in range(3) for name in batches[index].names]
    assert sorted(names[:6]) == sorted(names[6:]) == [f'scan {i}' for i in range(6)]
    assert names[:6] != names[6:]
    parts = [TextBatches(texts(6), stage, text, seed=3, split=Split(rank, 2))[1].names
             for rank in range(2)]
    assert [*parts[0], *parts[1]] == batches[1].names
    assert batches[0].text.types and batches.present() == [(SCAN,)]


def test_other_modalities_are_replayed_in_their_share(tiny_model):
    _, text = loaded(tiny_model)

    class Old:
        def __getitem__(self, index):
            return 'old'

    batches = TextBatches(texts(6), stage_for(SCAN), text, replay=Old(), replayed=0.25)
    share = sum(batches[index] == 'old' for index in range(200)) / 200
    assert 0.15 < share < 0.35


def test_pairs_are_counted_and_checked():
    some = texts(6)
    assert some.pairs == 8 and some.first(3).asked == [*ASKED[:2]] and some.first(99).pairs == 8
    assert some.first(2).asked == [ASKED[0], ASKED[1][:1]] and len(some.first(2).inputs) == 2
    with pytest.raises(TrainingError, match='scan: found 3 signals and 2 with questions'):
        Texts(SCAN, torch.zeros(3, 3, 180), [ASKED[0], ASKED[1], []])


# -- the scanner of the simulated world -----------------------------------------------------------

def test_scans_are_the_same_each_time_and_tell_the_truth():
    free = {True: [], False: []}
    for seed in range(40, 64):
        scan, truth = scan_world(World(seed))
        again, same = scan_world(World(seed))
        assert np.array_equal(scan, again, equal_nan=True) and truth == same
        assert scan.shape == (541, 2) and scan.dtype == np.float32
        ranges = scan[np.isfinite(scan[:, 1]), 1]
        assert len(ranges) > 400 and 0 < ranges.min() and ranges.max() <= FARTHEST_M
        ahead = np.abs(scan[:, 0]) < math.radians(10)
        clear = float((scan[ahead, 1] * np.cos(scan[ahead, 0])).min())
        if truth.metres is not None:
            assert abs(clear - truth.metres) < 0.45
        if truth.free is not None:
            free[truth.free].append(clear)
    assert min(free[True]) > 1.7 and max(free[False]) < 1.3


def test_a_scan_is_asked_what_it_can_tell():
    rng = np.random.default_rng(0)
    asked = [q for _ in range(300) for q in scan_questions(ScanTruth(1, True, 2, 'left'), rng)]
    answers = {kind: {q.answer for q in asked if q.type == kind} for kind in (
        'clear', 'place', 'unknown')}
    assert answers == {'clear': {'yes', 'about 2 metres'}, 'place': {'left'},
                       'unknown': {'unknown'}}
    assert {q.modality for q in asked} == {SCAN}
    nothing = [q for _ in range(50) for q in scan_questions(ScanTruth(1, None, None, None), rng)]
    assert {q.type for q in nothing} == {'unknown'}


# -- the study ------------------------------------------------------------------------------------

def test_the_study_goes_from_worlds_to_figures(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scan_data, 'PIECE_WORLDS', 12)
    parser = ArgumentParser()
    new_modality.add_arguments(parser)
    arguments = ['--model', str(tiny_model), '--pairs', '4,10', '--seeds', '1', '--steps', '2',
                 '--batch', '4', '--held-out', '8', '--old-worlds', '1', '--replay-worlds', '3',
                 '--out', str(tmp_path)]
    assert new_modality.run(parser.parse_args(arguments)) == 0
    report = json.loads((tmp_path / 'new_modality.json').read_text())
    assert [(r['kind'], r['pairs']) for r in report['runs']] == [
        ('own', 4), ('own', 10), ('experts', 10)]
    assert set(report['others']['before']) <= {m.value for m in Modality}
    assert report['others']['own']['after'] == report['others']['before']
    assert report['others']['own']['changed answers'] == 0
    assert report['questions']['unknown'] + report['questions']['answerable'] == 8
    written = (tmp_path / 'new_modality.md').read_text()
    assert '| its own parts | 10 |' in written and '| answers changed, of ' in written
    assert (tmp_path / 'new_modality.png').stat().st_size > 5000
    monkeypatch.setattr(new_modality, 'Trainer', None)      # what is done is not done again
    assert new_modality.run(parser.parse_args(arguments)) == 0
    assert written in capsys.readouterr().out
    (tmp_path / 'weights.txt').write_text('0123456789ab\n')
    assert new_modality.run(parser.parse_args(arguments)) == 2
    assert 'begun with the weights 0123456789ab, found' in capsys.readouterr().err


def test_scans_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_data, 'PIECE_WORLDS', 6)
    one = scan_data.scan_texts(tmp_path, 6)
    monkeypatch.setattr(scan_data, 'World', None)
    few = scan_data.scan_texts(tmp_path, 3)
    assert few.asked == one.first(3).asked and torch.equal(few.inputs, one.inputs[:len(few)])
    scan, _ = scan_world(World(scan_data._FIRST_SEED))
    assert (scan_input(scan) == one.inputs[0].numpy()).all() or len(one) < 6


@pytest.mark.parametrize(('options', 'text'), [
    (['--pairs', '10,x'], "--pairs: found '10,x'"), (['--seeds', '0'], '--seeds: found 0'),
    (['--pairs', '0'], '--pairs: found 0'), (['--model', 'no_such'], 'no_such')])
def test_wrong_options_are_told(tmp_path, capsys, options, text):
    parser = ArgumentParser()
    new_modality.add_arguments(parser)
    assert new_modality.run(parser.parse_args([*options, '--out', str(tmp_path)])) == 2
    assert text in capsys.readouterr().err
