"""Training from annotated files on disk: as from worlds, in parts, with broken samples."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

import pytest
from training_worlds import ONE_EXPERT, TINY, killed, lines, sets, trainer

from onellm_ros.cli import main
from onellm_ros.datasets.mix import Mix
from onellm_ros.datasets.render import RenderConfig, render
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import load_model
from onellm_ros.model.text import Text, train_tokenizer
from onellm_ros.simulation.language import vocabulary_texts
from onellm_ros.training.batches import Split, blank_input
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.manifests import ManifestBatches
from onellm_ros.training.stages import Stage

CAPTIONS = Stage('captions', 'align', sets(*((m,) for m in Modality)), ('tokenizers', 'upm'),
                 steps=4, data='manifest', batch=4, warmup=1, max_tokens=24, experts=1)
TALK = replace(CAPTIONS, name='talk', sets=sets((Modality.AUDIO,), ()), trains=('llm',),
               template='training', max_tokens=0, experts=3)


@pytest.fixture(scope='module')
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp('manifests')
    render(folder / 'set', RenderConfig(worlds=4, points=300, video=(4, 32, 32)))
    train_tokenizer(vocabulary_texts(), TINY.llm.vocab_size).save(str(folder / 'tokenizer.json'))
    return folder


def start(disk, out, stages, **options):
    files = {s.name: disk / 'set' / ('alignment.yaml' if s.name == 'captions'
                                     else 'manifest.yaml') for s in stages}
    return trainer(disk, out, stages, ONE_EXPERT, manifests=files, eval_batches=1, **options)


def test_stages_train_from_files_and_are_gone_on_with(disk, tmp_path):
    stages = (CAPTIONS, replace(TALK, accumulate=2))
    options = {'log_every': 1, 'save_every': 1}
    whole = start(disk, tmp_path / 'whole', stages, **options)
    whole.run()
    killed(start(disk, tmp_path / 'cut', stages, **options), 6)
    second = start(disk, tmp_path / 'cut', stages, **options)
    assert (second.stage_index, second.step) == (1, 2)
    assert second.config.text.template == second.text.config.template == 'training'
    second.run()
    one, other = (lines(tmp_path / name, untimed=True) for name in ('whole', 'cut'))
    assert one == other
    titles = {key.partition(':')[0] for line in one for key in line if key.endswith(':loss')}
    assert {'audio', 'text'} <= titles <= {'text', *(m.value for m in Modality)}
    said = next(line for line in one if line['stage'] == 'talk' and 'held_out' in line)
    assert {'text:text', 'audio:audio', 'text:exact'} <= set(said['held_out'])


@pytest.mark.parametrize('modality', list(Modality))
def test_every_modality_comes_as_one_batch_with_its_captions(disk, modality):
    text = Text.load(disk, TINY.text)
    mix = Mix.open(disk / 'set' / 'alignment.yaml', TINY)
    batches = ManifestBatches(mix, CAPTIONS, TINY, text).only((modality,))
    batch = batches[0]
    assert batch.modalities == (modality,) and len(batch) == 4
    assert batch.inputs[modality].shape[1:] == blank_input(modality, TINY).shape[1:]
    assert batches.inputs(modality, 2).shape[0] == 2
    assert all('(row ' in name for name in batch.names)
    for row, kinds in zip(batch.text.labels, batch.text.types, strict=True):
        wanted = row[row != -100]
        assert 0 < len(wanted) <= 24 and kinds == ['caption']
        assert row[0] != -100                       # said by what ends the signal's block
        assert wanted[-1] == text.eos or batch.text.cut


def test_parts_of_a_batch_from_files_are_the_batch(disk):
    text = Text.load(disk, TINY.text)
    mix = Mix.open(disk / 'set' / 'manifest.yaml', TINY)
    whole = ManifestBatches(mix, TALK, TINY, text, seed=3)
    ranks = [ManifestBatches(mix, TALK, TINY, text, seed=3, split=Split(rank, 2, 2))
             for rank in range(2)]
    for step in range(4):
        parts = [rank[2 * step + turn] for rank in ranks for turn in range(2)]
        batch = whole[step]
        assert [name for part in parts for name in part.names] == batch.names
        assert sum(part.counts['answers'] for part in parts) == batch.counts['answers'] > 0
        assert {part.modalities for part in parts} == {batch.modalities}
    with pytest.raises(TrainingError, match='batch of 4 for 3 ranks with 1 parts each'):
        ManifestBatches(mix, TALK, TINY, text, split=Split(0, 3, 1))


def test_a_stage_without_a_manifest_or_a_modality_says_so(disk, tmp_path):
    with pytest.raises(TrainingError, match='stage captions trains from a manifest: give '
                                            '--manifest captions=FILE'):
        trainer(disk, tmp_path / 'a', (CAPTIONS,), ONE_EXPERT).run()
    lacking = replace(CAPTIONS, name='x', sets=sets(()))
    run = trainer(disk, tmp_path / 'b', (lacking,), ONE_EXPERT,
                  manifests={'x': disk / 'set' / 'alignment.yaml'})
    with pytest.raises(TrainingError, match=r'stage x, step 0: weights: found .*text'):
        run.run()


def test_a_broken_sample_stops_or_is_counted(disk, tmp_path, capfd):
    folder = tmp_path / 'broken'
    render(folder, RenderConfig(worlds=2, points=300, video=(4, 32, 32)))
    wav = sorted(folder.rglob('*.wav'))[0]
    wav.write_bytes(b'no sound')
    stage = replace(CAPTIONS, sets=sets((Modality.AUDIO,)), batch=2)

    def run(name: str, **more):
        return trainer(disk, tmp_path / name, (stage,), ONE_EXPERT, eval_batches=1, log_every=1,
                       manifests={'captions': folder / 'alignment.yaml'}, **more)

    with pytest.raises(TrainingError, match=f'stage captions, step 0: .*{wav.name}'):
        run('stop').run()
    skipping = run('skip', on_broken='skip')
    skipping.run()
    assert [x['skipped a step'] for x in lines(tmp_path / 'skip') if 'loss' in x] == [1.0] * 4
    noted = (tmp_path / 'skip' / 'skipped.log').read_text().splitlines()
    assert len(noted) == 5 and all(wav.name in line for line in noted)
    assert [line.split()[1] for line in noted] == ['0', '1', '2', '3', 'held']
    assert 'skipped: ' in capfd.readouterr().err
    # A part of which nothing is left learns nothing, and harms nothing.
    for path in folder.rglob('*.wav'):
        path.write_bytes(b'no sound')
    empty = run('empty', on_broken='skip')
    before = {n: v.clone() for n, v in empty.model.state_dict().items()}
    empty.run()
    assert all(x['loss'] == 0.0 for x in lines(tmp_path / 'empty') if 'loss' in x)
    moved = max(float((before[n] - v).abs().max()) for n, v in empty.model.state_dict().items())
    assert moved < 1e-3                                         # (weight decay alone)


def test_the_command_tunes_nano_on_files_and_writes_a_model(disk, tmp_path, root: Path, capsys):
    folder = disk / 'set'
    arguments = ['train', '--preset', 'nano', '--stage', 'instruct', '--init',
                 str(root / 'models/nano'), '--manifest', str(folder / 'manifest.yaml'),
                 '--held-out-manifest', str(folder / 'manifest.yaml'), '--steps', 'instruct=2',
                 '--set', 'batch=2', '--set', 'warmup=0', '--set', 'learning_rate=0.01',
                 '--workers', '0', '--out', str(tmp_path / 'run'),
                 '--export', str(tmp_path / 'model'), '--log-every', '1', '--device', 'cpu']
    assert main(arguments) == 0
    assert 'wrote' in capsys.readouterr().out
    before, after = load_model(root / 'models/nano'), load_model(tmp_path / 'model')
    changed = {n for n, v in before.state_dict().items()
               if (v - after.state_dict()[n]).abs().max() > 1e-4}
    assert changed and all(n.startswith('llm.') for n in changed)
    assert (tmp_path / 'run' / 'loss.png').exists()
    log = [json.loads(x) for x in (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()]
    assert [x['step'] for x in log if 'loss' in x] == [1, 2]
    engine = Engine.load(tmp_path / 'model')
    assert isinstance(engine.ask(engine.encode({}), 'What do you hear?').text, str)
    assert main([*arguments[:-4], '--stage', 'stage_2']) == 1   # the run is past that
    assert 'the run stands at the end of' in capsys.readouterr().err
    assert main(['train', '--preset', 'onellm_7b', '--out', str(tmp_path / 'large')]) == 1
    assert 'needs encoder and llm trained before it' in capsys.readouterr().err
