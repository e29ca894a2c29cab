"""Single steps: parts of a batch, recomputed activations, adapters, and what stops a run."""

from __future__ import annotations

from dataclasses import replace
import json
import sys

import pytest
import torch
from training_worlds import CHAIN, ONE_EXPERT, TINY, killed, lines, render, sets, trainer

from onellm_ros.modality import Modality
from onellm_ros.model.points import farthest_points
from onellm_ros.preprocess.points import METRIC_SCALE_M
from onellm_ros.simulation.render import Camera
from onellm_ros.training.batches import Split
from onellm_ros.training.checkpoint import RunState, save_state
from onellm_ros.training.counts import on_groups
from onellm_ros.training.data import WorldBatches
from onellm_ros.training.distributed import Ranks
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.heads import cells_at
from onellm_ros.training.plots import curves, plot_run
from onellm_ros.training.stage_run import StageRun
from onellm_ros.training.stages import Stage

ALIGN = Stage('align', 'align', sets((Modality.IMAGE, Modality.IMU)), ('tokenizers', 'upm', 'llm'),
              steps=4, batch=8, warmup=1, questions=2, facts=0.3, told=0.5)
TUNE = replace(ALIGN, sets=sets((Modality.IMU,)), trains=('llm',), facts=0.0, told=0.0)
ENCODER = replace(CHAIN[0], batch=8)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    return render(tmp_path_factory.mktemp('steps'), shards=1)


def gradients(prepared, out, stage):
    """Return the gradients of a stage's first step, by parameter, and the figures of it."""
    run = trainer(prepared, out, (stage,))
    split = Split(accumulate=stage.accumulate)
    batches = run.sources.training(stage, run.config, run.text, 0, split)
    steps = StageRun(stage, run.model, run.heads, run.text.bos, out, ranks=Ranks(), seed=0,
                     precision='float32')
    sums = steps.update(0, [batches[i] for i in range(stage.accumulate)])
    return {n: p.grad for n, p in steps.losses.named_parameters() if p.grad is not None}, sums


def assert_same(one, other):
    assert one.keys() == other.keys() and one
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=2e-4, atol=1e-6,
                                   msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('stage', [
    ALIGN, *(replace(ENCODER, sets=sets((m,)))
             for m in (Modality.IMAGE, Modality.VIDEO, Modality.POINT))],
    ids=['align', 'encoder image', 'encoder video', 'encoder point'])
def test_parts_of_a_batch_add_up_to_the_whole(prepared, tmp_path, stage):
    whole, sums = gradients(prepared, tmp_path / 'a', stage)
    parts, of_parts = gradients(prepared, tmp_path / 'b', replace(stage, accumulate=4))
    assert_same(whole, parts)
    assert sums.keys() == of_parts.keys() and len(sums) > 5
    for name, (value, count) in sums.items():
        assert of_parts[name] == pytest.approx([value, count], rel=1e-4, abs=1e-4), name


def test_recomputed_activations_give_the_same_gradients(prepared, tmp_path):
    plain, _ = gradients(prepared, tmp_path / 'a', ALIGN)
    again, _ = gradients(prepared, tmp_path / 'b', replace(ALIGN, checkpointing=True))
    assert_same(plain, again)


def test_a_batch_that_cannot_be_shared_is_refused(prepared, tmp_path):
    with pytest.raises(TrainingError, match='batch of 8 for 1 ranks with 9 parts each'):
        trainer(prepared, tmp_path, (replace(ALIGN, accumulate=9),)).run()


def test_groups_of_a_cloud_are_labelled_where_the_tokenizer_puts_them(prepared):
    stage = replace(ENCODER, sets=sets((Modality.POINT,)))
    batches = WorldBatches(prepared / 'worlds', stage, TINY, None, as_rendered=True)
    cells, cloud = batches._cells([0, 1, 2], [batches.shards.truth(w) for w in range(3)], False), \
        torch.from_numpy(batches.shards.rows([0, 1, 2], 'point')).float()
    grouped = on_groups(cells, cloud, TINY)
    chosen = farthest_points(cloud[..., :3].contiguous(), TINY.tokenizer.point_centres)
    centres = METRIC_SCALE_M * cloud[..., :3].gather(1, chosen[..., None].expand(-1, -1, 3))
    assert torch.equal(grouped.dense, cells_at(cells, centres, Camera()).dense)
    known = grouped.dense[..., 0] != 255
    assert 0.3 < float(known.float().mean()) < 1.0
    far = centres.norm(dim=-1)                          # along the axis is never farther
    assert (grouped.distance[known] < far[known] + 0.5).all()


def spoil(monkeypatch, step, world, modality):
    """Put a NaN into the input of one world of a step's batch."""
    original = WorldBatches.__getitem__

    def item(self, index):
        batch = original(self, index)
        if index == step and not self.as_rendered:
            batch.inputs[modality][world][0, 3] = torch.nan
        return batch

    monkeypatch.setattr(WorldBatches, '__getitem__', item)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(
        prepared, tmp_path, monkeypatch):
    spoil(monkeypatch, 2, 5, Modality.IMU)
    run = trainer(prepared, tmp_path, (TUNE,), save_every=1)
    bad = WorldBatches(prepared / 'worlds', TUNE, run.config, run.text)[2].names[5]
    with pytest.raises(TrainingError) as caught:
        run.run()
    text = str(caught.value)
    assert 'stage align, step 2: the loss is nan on a batch of imu' in text
    assert f'the input not finite: {bad} (all in' in text and 'seed' in bad
    told = json.loads((tmp_path / 'stopped.json').read_text())
    assert told['inputs not finite'] == [bad] and len(told['batch']) == 8
    monkeypatch.undo()                              # the checkpoint before it is sound
    again = trainer(prepared, tmp_path, (TUNE,))
    assert again.step == 2
    again.run()
    assert all(p.isfinite().all() for p in again.model.parameters())


def test_a_gradient_that_is_no_number_changes_no_weight(prepared, tmp_path, monkeypatch):
    run = trainer(prepared, tmp_path, (TUNE,))
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_',
                        lambda *_, **__: torch.tensor(torch.inf))
    with pytest.raises(TrainingError, match='step 0: the norm of the gradient is inf on a batch '
                                            'of imu: world'):
        run.run()
    assert all(torch.equal(before[n], v) for n, v in run.model.state_dict().items())


def test_adapters_learn_alone_go_on_and_end_as_weights(prepared, tmp_path):
    pytest.importorskip('peft', reason='--lora needs peft (requirements/train.txt)')
    options = {'lora': 2, 'precision': 'float32', 'save_every': 2}
    whole = trainer(prepared, tmp_path / 'whole', (TUNE,), **options)
    before = {n: v.clone() for n, v in whole.model.state_dict().items()}
    whole.run()
    after = whole.model.state_dict()
    assert after.keys() == before.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if n.startswith('llm.layers.') and n.endswith('.weight')
                       and 'norm' not in n}
    difference = (after['llm.layers.0.attention.wq.weight']
                  - before['llm.layers.0.attention.wq.weight'])
    assert int(torch.linalg.matrix_rank(difference, rtol=1e-3)) == 2
    killed(trainer(prepared, tmp_path / 'cut', (TUNE,), **options), 3)
    with pytest.raises(TrainingError, match='begun with --lora 2, found --lora 0'):
        trainer(prepared, tmp_path / 'cut', (TUNE,))
    second = trainer(prepared, tmp_path / 'cut', (TUNE,), **options)
    assert second.step == 2
    second.run()
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, after[name]), name


def test_missing_packages_are_named(prepared, tmp_path, monkeypatch):
    for module in ('peft', 'torch.utils.tensorboard'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TrainingError, match=r'--lora needs the package peft .*requirements/train'):
        trainer(prepared, tmp_path / 'a', (TUNE,), lora=2).run()
    with pytest.raises(TrainingError, match='--tensorboard needs the package tensorboard'):
        trainer(prepared, tmp_path / 'b', (TUNE,), tensorboard=True)


def test_a_run_is_told_in_plots_and_to_tensorboard(prepared, tmp_path):
    pytest.importorskip('tensorboard', reason='--tensorboard needs tensorboard '
                                              '(requirements/train.txt)')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stages = (replace(TUNE, name='one', steps=2), replace(ALIGN, name='two', steps=2))
    trainer(prepared, tmp_path, stages, log_every=1, tensorboard=True).run()
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    told = events.Scalars('train/loss')
    assert [point.step for point in told] == [1, 2, 3, 4]
    logged = [line for line in lines(tmp_path) if 'loss' in line]
    assert [point.value for point in told] == pytest.approx([x['loss'] for x in logged])
    assert len(events.Scalars('held_out/loss')) == 2

    found = curves(lines(tmp_path))
    assert found.stages == [(0, 'one'), (2, 'two')]
    assert found.loss['imu']['loss'] == [(1, logged[0]['loss']), (2, logged[1]['loss'])]
    assert [at for at, _ in found.loss['several']['loss, held out']] == [4]
    assert 'exact' in found.accuracy['imu'] and 'kind' in found.heads['image']
    files = plot_run(tmp_path)
    assert [f.name for f in files] == ['loss.png', 'accuracy.png', 'heads.png']
    assert all(f.read_bytes()[:4] == b'\x89PNG' for f in files)
    with pytest.raises(TrainingError, match='expected the log of a training run'):
        plot_run(tmp_path / 'nowhere')


def test_a_state_of_another_run_is_not_gone_on_with(prepared, tmp_path):
    trainer(prepared, tmp_path, CHAIN[:2], ONE_EXPERT, eval_batches=1).run()
    assert trainer(prepared, tmp_path, CHAIN, ONE_EXPERT).stage_index == 2
    for stages in (CHAIN[:1], (CHAIN[1], CHAIN[0], CHAIN[2])):
        with pytest.raises(TrainingError, match='the run stands at the end of encoder, one'):
            trainer(prepared, tmp_path, stages, ONE_EXPERT)
    (tmp_path / 'state.pt').write_bytes(b'torn')
    with pytest.raises(TrainingError, match='not readable as the state of a run'):
        trainer(prepared, tmp_path, CHAIN, ONE_EXPERT)


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    state = RunState(0, 'language', [], 3, TINY, {'a': torch.ones(2)}, {})
    save_state(tmp_path, state)
    before = (tmp_path / 'state.pt').read_bytes()

    def full(values, file):
        file.write(b'half')
        raise RuntimeError('enforce fail: unexpected pos 31027968')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(TrainingError, match='could not be written .*MB are free.*make room'):
        save_state(tmp_path, replace(state, step=4))
    assert [p.name for p in tmp_path.iterdir()] == ['state.pt']
    assert (tmp_path / 'state.pt').read_bytes() == before
