"""The study of the paper's findings: arms, features, a run of all, its table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from training_worlds import TINY, lines, render

from onellm_ros.cli import main
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import save_model
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.study import single
from onellm_ros.study.arms import (
    ARMS,
    BASE,
    COMPARISONS,
    WORDS,
    Budget,
    StudyError,
    changes,
    chosen_arms,
    image_stage,
    parts,
    samples,
)
from onellm_ros.study.features import (
    FeatureBatches,
    FeatureModel,
    encode_piece,
    encoder_hash,
    pieces,
    turns,
)
from onellm_ros.study.findings import BEGIN, END, Task, done, put_into, report
from onellm_ros.study.table import OVERALL, Result, figure, markdown, rows, verdict
from onellm_ros.training.checkpoint import read_values
from onellm_ros.training.data import model_input
from onellm_ros.training.experts import copied_experts
from onellm_ros.training.shards import Shards

SMALL = Budget(worlds=24, held_out=8, image_steps=8, steps=8, batch=4, questions=2, eval_batch=4)
SETTING = {'encoder': 'e', 'llm': 'l', 'budget': {
    'worlds': 24, 'held_out': 8, 'eval_questions': 4, 'image_steps': 8, 'steps': 8, 'batch': 4,
    'answers': 1.0, 'image_answers': 0.0, 'facts': 1.0, 'told': 0.0}}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = render(tmp_path_factory.mktemp('study'))
    torch.manual_seed(1)
    vocabulary = Text.load(folder, TINY.text).size
    config = replace(TINY, llm=replace(TINY.llm, vocab_size=vocabulary))
    save_model(OneLLM(config), folder / 'model')
    (folder / 'tokenizer.json').rename(folder / 'model' / 'tokenizer.json')
    return folder


def command(folder, *more, out='out'):
    """Run the study on the tiny model; returns the exit status."""
    return main(['study', 'findings', '--model', str(folder / 'model'), '--data',
                 str(folder / 'worlds'), '--features', str(folder / 'features'), '--out',
                 str(folder / out), '--worlds', '24', '--held-out', '8', '--image-steps', '8',
                 '--steps', '8', '--batch', '4', '--questions', '2', '--precision', 'float32',
                 *more])


def test_each_arm_changes_one_thing():
    assert not changes(BASE) and len({arm.name for arm in ARMS}) == len(ARMS)
    for arm in ARMS[1:]:
        assert len(changes(arm)) == 1, arm
    assert {arm.name for arm in ARMS} == set(WORDS) == {
        name for names in COMPARISONS.values() for name in names}
    assert all('base' in names for names in COMPARISONS.values())


def test_arms_get_as_many_samples():
    budget = Budget(image_steps=40, steps=80, batch=16)
    base = samples(BASE, budget)
    assert base[Modality.AUDIO] == 10 * 16 and base[Modality.IMAGE] == (10 + 40) * 16
    for arm in ARMS:
        found = samples(arm, budget)
        assert sum(found.values()) == sum(base.values())
        assert found == base or arm.beginning == 'even'
    stages = [part.stage for part in parts(ARMS[1], budget)]
    assert [stage.steps for stage in stages] == [10] * 8
    assert {part.modalities for part in parts(BASE, budget)} == {tuple(Modality)}
    mixed, random = (parts(ARMS[number], budget)[0].stage for number in (2, 3))
    order = [number for _, (_, number) in zip(range(120), turns([w for _, w in mixed.sets]))]
    assert [order.count(number) for number in range(8)] == [50] + [10] * 7
    assert max(order[at:at + 4].count(0) for at in range(116)) < 4      # not all images first
    assert [number for _, (_, number) in zip(range(16), turns([1.0] * 8))] == [*range(8)] * 2
    assert not random.copied and set(random.fresh) == set(Modality) and random.steps == 120
    assert image_stage(budget).experts == 1


@pytest.mark.parametrize(('wrong', 'text'), [
    ({'steps': 20}, '--steps: found 20, expected a multiple of 8'),
    ({'image_steps': 0}, '--image-steps: found 0'), ({'batch': 0}, 'batch: found 0')])
def test_budgets_that_no_arm_can_share(wrong, text):
    with pytest.raises(StudyError, match=text):
        Budget(**wrong)


def test_features_are_the_encoders(prepared):
    setting = single.Setting((str(prepared / 'model'),), prepared / 'worlds', prepared / 'out',
                             prepared / 'f', SMALL, 'float32')
    found = single.beginning(setting)
    model = single.whole_model(found, found.config, 0).eval()
    made = pieces(setting.data, range(24), encoder_hash(model), setting.features)
    for piece in made:
        encode_piece(piece, model, 'float32')
    text = single.text_of(setting, found)
    part = parts(BASE, SMALL)[0]
    batches = FeatureBatches(made, part.stage, found.config, text, seed=2)
    shards = Shards(setting.data)
    for index, modality in enumerate(Modality):
        batch = batches[8 + index]
        assert batch.modalities == (modality,)
        worlds = [int(name.split()[1]) for name in batch.names]
        x = model_input(shards, worlds, modality, found.config)
        with torch.no_grad():
            torch.testing.assert_close(batch.inputs[modality], model.features(modality, x),
                                       rtol=2e-3, atol=2e-3)
        # What trains alone sees what trains together sees.
        alone = batches.only((modality,))[1]
        assert alone.names == batch.names
        assert torch.equal(alone.text.ids, batch.text.ids)
    other = FeatureBatches(made, part.stage, found.config, text, seed=3)[8]
    assert other.names != batches[8].names
    # Another encoder has other features, in another place.
    with torch.no_grad():
        model.encoder.positions.add_(1.0)
    assert pieces(setting.data, range(24), encoder_hash(model), setting.features)[0].path \
        != made[0].path


@pytest.mark.slow
def test_a_study(prepared, capsys, monkeypatch):
    docs = prepared / 'study.md'
    docs.write_text(f'before\n{BEGIN}\nSTALE\n{END}\nafter\n')
    trained = []
    original = single._trained

    def counted(setting, part, *args):
        trained.append(part.stage.name)
        return original(setting, part, *args)

    monkeypatch.setattr(single, '_trained', counted)
    assert command(prepared, '--seeds', '1', '--docs', str(docs)) == 0
    # One run on images, seven of all modalities, and eight of one each.
    assert trained == ['image'] + ['align'] * (len(ARMS) - 1 + len(Modality))
    out = prepared / 'out'
    found = {path.stem: json.loads(path.read_text()) for path in (out / 'results').iterdir()}
    assert set(found) == {f'{arm.name}-seed-0' for arm in ARMS}
    for values in found.values():
        assert set(values['accuracy']) == {m.value for m in Modality}
        assert all(0 <= x <= 1 for x in values['accuracy'].values())
    curves = {name: [line['loss'] for line in lines(out / 'arms' / f'{name}-seed-0')
                     if 'loss' in line] for name in ('base', 'experts-5', 'random')}
    assert len({tuple(losses) for losses in curves.values()}) == 3
    written = docs.read_text()
    assert written.startswith('before') and written.endswith('after\n') and 'STALE' not in written
    assert (prepared / 'images' / 'study_overall.png').stat().st_size > 1000
    assert f'{fmean(found["base-seed-0"]["accuracy"].values()):.3f}' in written
    # Each begins as it says, with copies of what images trained.
    setting = single.Setting((str(prepared / 'model'),), prepared / 'worlds', out,
                             prepared / 'features', SMALL, 'float32')
    trained_on_images = read_values(single.image_folder(setting, 0) / 'state.pt')['model']
    for arm in ARMS:
        model = copied_experts(single.model_of(setting, arm, 0)[0], arm.experts)
        assert isinstance(model, FeatureModel) and len(model.upm.experts) == arm.experts
        assert model.upm.config.router == arm.router
        name = 'blocks.0.feed_forward.w1.weight'
        same = [torch.equal(expert.state_dict()[name], trained_on_images[f'upm.experts.0.{name}'])
                for expert in model.upm.experts]
        assert same == [arm.image_first] * arm.experts
    # Again, with a seed more and one arm: only what is missing is done.
    trained.clear()
    capsys.readouterr()
    assert command(prepared, '--seeds', '2', '--arms', 'experts-5') == 0
    assert trained == ['image', 'align', 'align']
    assert '95 %' in capsys.readouterr().out
    base = [json.loads((out / 'results' / f'base-seed-{seed}.json').read_text())
            for seed in (0, 1)]
    assert base[0]['held_out'] != base[1]['held_out']
    # A run is told by its seed.
    (out / 'results' / 'base-seed-0.json').unlink()
    assert command(prepared, '--seeds', '1', '--arms', 'base') == 0
    assert json.loads((out / 'results' / 'base-seed-0.json').read_text())['held_out'] \
        == base[0]['held_out']
    # Another budget is another study.
    capsys.readouterr()
    assert command(prepared, '--seeds', '1', '--batch', '2') == 2
    assert 'another --out' in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'text'), [
    (['--arms', 'bose'], "found 'bose', expected some of base, separate"),
    (['--seeds', '0'], '--seeds: found 0'), (['--steps', '12'], 'a multiple of 8'),
    (['--worlds', '25'], 'found 24 worlds, expected 25'),
    (['--report', 'nowhere'], 'found no results')])
def test_options_that_cannot_be(prepared, capsys, options, text):
    assert command(prepared, *options, out='wrong') == 2
    assert text in capsys.readouterr().err


def test_a_model_that_lacks_a_part(prepared, capsys):
    assert main(['study', 'findings', '--model', f'llm={prepared / "model"}', '--data',
                 str(prepared / 'worlds'), '--out', str(prepared / 'lacks')]) == 2
    assert 'expected a trained encoder and tokenizers' in capsys.readouterr().err


@pytest.mark.slow
def test_tasks_in_processes(tmp_path):
    names = [str(number) for number in range(3)]
    tasks = [Task(name, 1.0, partial(Path.touch, tmp_path / name)) for name in names]
    assert sorted(task.name for task in done(tasks, 2, 1)) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(FileNotFoundError):
        list(done([Task('none', 1.0, partial(Path.unlink, tmp_path / 'none'))], 2, 1))


def result(arm, seed, value, **other):
    accuracy = {m.value: value for m in Modality}
    return Result(arm, seed, {**accuracy, **other}, {m.value: 10 for m in Modality}, 1.0)


def test_the_table_of_known_runs():
    base, random, sparse = (0.50, 0.60, 0.40), (0.40, 0.51, 0.29), (0.52, 0.58, 0.41)
    results = [result(arm, seed, value)
               for arm, values in (('base', base), ('random', random), ('router-sparse', sparse))
               for seed, value in enumerate(values)]
    table = {row.arm: row for row in rows(results)}
    assert table['base'].scores[OVERALL].mean == pytest.approx(0.5)
    assert table['base'].scores['imu'].spread == pytest.approx(0.1)
    assert not table['base'].differences
    gap = table['random'].differences[OVERALL]
    each = [-0.10, -0.09, -0.11]
    assert gap.mean == pytest.approx(-0.10) and gap.spread == pytest.approx(stdev(each))
    # Student's quantile of 0.975 with two degrees of freedom is 4.3027.
    assert gap.high == pytest.approx(-0.10 + 4.3027 * 0.01 / 3 ** 0.5, abs=1e-5)
    # Beside a spread of 0.1 over the seeds, 0.1 is more than noise only seed by seed.
    assert gap.beyond_noise
    assert not table['router-sparse'].differences[OVERALL].beyond_noise
    text = markdown(results, SETTING, {m.value: 0.25 for m in Modality})
    assert f'| beginning | {WORDS["random"]} | 3 | 0.400 ± 0.110 | ' \
           '-0.100 [-0.125, -0.075] | yes | 80 |' in text
    assert 'right in 0.250' in text
    said = verdict(list(table.values()))
    assert 'Beyond the noise of the seeds: random -0.100.' in said
    assert 'Within it: router-sparse' in said


def test_one_seed_says_nothing_about_noise():
    results = [result('base', 0, 0.5), result('random', 0, 0.4)]
    assert figure([0.5]).spread is None
    assert 'nothing can be said about noise' in verdict(rows(results))
    # Only seeds that both have are compared.
    table = rows([*results, result('random', 1, 0.9)])
    assert table[1].differences[OVERALL].mean == pytest.approx(-0.1)


def test_documents_without_a_place(tmp_path):
    (tmp_path / 'd.md').write_text('nothing')
    with pytest.raises(StudyError, match='found no lines'):
        put_into(tmp_path / 'd.md', '', [])
    with pytest.raises(StudyError, match='found no results'):
        report(tmp_path, None)
    with pytest.raises(StudyError, match="'bose'"):
        chosen_arms(['bose'])
