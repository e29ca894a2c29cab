"""Stages and presets as data: what they say, what they refuse, what the command makes of them."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import torch
from training_worlds import ONE_EXPERT, sets

from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.training.command import (
    add_arguments,
    check_beginning,
    check_numbers,
    chosen_stages,
    stage_files,
)
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.experts import copied_experts
from onellm_ros.training.manifests import weights_of
from onellm_ros.training.recipes import NANO_RECIPE, ONELLM_7B, RECIPES
from onellm_ros.training.schedule import share_of_peak
from onellm_ros.training.stages import Stage, changed, from_manifest

IMG, VID, AUD, PTS, DEP, NRM, IMU, FMR = (
    Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.POINT, Modality.DEPTH,
    Modality.NORMAL, Modality.IMU, Modality.FMRI)


def test_the_papers_stages_have_the_papers_values():
    one, two, three, tuning = ONELLM_7B.stages
    assert ONELLM_7B.needs == ('encoder', 'llm')
    assert [(s.batch, s.learning_rate, s.steps) for s in (one, two, three)] == [
        (5120, 5e-5, 200_000), (1080, 1e-5, 200_000), (1080, 1e-5, 100_000)]
    assert (tuning.batch, tuning.learning_rate) == (512, 2e-5)
    assert tuning.steps * tuning.batch == pytest.approx(2_006_000, rel=1e-3)      # one epoch
    for stage in ONELLM_7B.stages:
        assert (stage.betas, stage.weight_decay, stage.clip) == ((0.9, 0.95), 0.1, 2.0)
        assert stage.data == 'manifest' and stage.checkpointing and stage.floor == 0.0
        assert not (stage.facts or stage.told or stage.dense)
    assert [s.warmup for s in (one, two, three)] == [2000] * 3
    assert [s.max_tokens for s in ONELLM_7B.stages] == [96, 96, 96, 0]
    assert [s.experts for s in ONELLM_7B.stages] == [1, 3, 3, 3]
    assert [s.trains for s in ONELLM_7B.stages] == [
        ('upm',), ('tokenizers', 'upm'), ('tokenizers', 'upm'), ('llm',)]
    assert one.modalities == (IMG,)
    assert set(two.modalities) == {IMG, VID, AUD, PTS}
    assert set(three.modalities) == set(tuning.modalities) == set(Modality)
    for stage in (two, three):                                  # balanced replay
        assert len({share for _, share in stage.sets}) == 1
    assert weights_of(tuning) == {
        'image': 1216, 'video': 461, 'audio': 60, 'point': 70, 'depth': 50, 'normal': 50,
        'imu': 50, 'fmri': 9, 'text': 40}
    assert tuning.template == 'training' and ONELLM_7B.model.text.system.startswith('A chat')


def test_nano_trains_encoder_and_llm_before_the_same_chain():
    assert [s.name for s in NANO_RECIPE.stages] == [
        'language', 'encoder', *(s.name for s in ONELLM_7B.stages), 'replay', 'tune']
    chain = (*ONELLM_7B.stages, *ONELLM_7B.stages[-2:])         # the last two once more
    for own, paper in zip(NANO_RECIPE.stages[2:], chain, strict=True):
        assert own.modalities == paper.modalities and own.experts == paper.experts
        assert set(own.trains) <= set(paper.trains)
    # What the LLM was told of comes before its own loss.
    assert [s.answers for s in NANO_RECIPE.stages[2:]] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    begin = [m for s in NANO_RECIPE.stages for m in {*s.fresh, *s.copied}]
    assert sorted(begin) == sorted(Modality)                     # each begins once
    assert all(len({s.name for s in r.stages}) == len(r.stages) for r in RECIPES.values())


@pytest.mark.parametrize(('change', 'text'), [
    ({'kind': 'aling'}, "unknown kind 'aling'"),
    ({'trains': ('upm', 'lm')}, r"unknown parts \['lm'\]"),
    ({'data': 'told'}, "found data 'told' for kind align"),
    ({'sets': ()}, 'found no modalities'),
    ({'sets': sets(())}, 'only with a manifest'),
    ({'data': 'manifest', 'facts': 0.3}, 'only rendered worlds have such labels'),
    ({'data': 'manifest', 'sets': sets((IMG, IMU))}, 'one signal'),
    ({'answers': 0.0}, 'found no loss'),
    ({'template': 'chatml'}, "found 'chatml'"),
    ({'accumulate': 0}, 'accumulate: found 0'),
    ({'learning_rate': 0.0}, 'learning_rate: found 0.0')])
def test_a_stage_refuses_what_would_break_it(change, text):
    good = Stage('a', 'align', sets((IMG,)), ('upm',), steps=1)
    with pytest.raises(ValueError, match=f'stage a: .*{text}'):
        replace(good, **change)


def test_numbers_of_a_stage_are_changed_by_name():
    stage = NANO_RECIPE.stage('stage_2')
    other = changed(stage, {'batch': '8', 'learning_rate': '1e-5', 'checkpointing': 'true'})
    assert (other.batch, other.learning_rate, other.checkpointing) == (8, 1e-5, True)
    for changes, text in (({'btach': '8'}, 'expected one of steps, batch'),
                          ({'batch': 'x'}, "batch: found 'x', expected a whole number"),
                          ({'checkpointing': 'yes'}, 'expected true or false')):
        with pytest.raises(ValueError, match=text):
            changed(stage, changes)
    disk = from_manifest(stage)
    assert (disk.data, disk.sets, disk.facts, disk.told) == ('manifest', (), 0.0, 0.0)
    with pytest.raises(ValueError, match='only stages of kind align'):
        from_manifest(NANO_RECIPE.stage('encoder'))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor():
    rates = [share_of_peak(step, 100, 10, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55, abs=1e-6)
    assert all(a > b for a, b in zip(rates[10:], rates[11:])) and 0.1 < rates[-1] < 0.101
    assert share_of_peak(100, 100, 10, 0.0) == 0.0


@pytest.mark.parametrize('router', ['sigmoid', 'softmax', 'constant'])
def test_copies_of_an_expert_do_what_it_did(router):
    torch.manual_seed(1)
    config = replace(ONE_EXPERT, upm=replace(ONE_EXPERT.upm, router=router))
    one = OneLLM(config)
    features = torch.randn(3, 9, config.encoder.width)
    before, _ = one.project(AUD, features)
    three = copied_experts(one, 3)
    after, weights = three.project(AUD, features)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert weights.shape == (3, 3) and three.config.upm.experts == 3
    if router != 'constant':
        assert weights.std(1).min() > 1e-4          # the router tells them apart: they may part
    assert copied_experts(three, 3) is three
    ids = {p.data_ptr() for e in three.upm.experts for p in e.parameters()}
    assert len(ids) == 3 * len(list(three.upm.experts[0].parameters()))     # not one thrice
    with pytest.raises(TrainingError, match='the UPM has 3 experts, expected 5, or 1 to copy'):
        copied_experts(three, 5)


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_options_choose_and_change_stages():
    stages = chosen_stages(NANO_RECIPE, arguments(
        '--stage', 'stage_1', '--steps', 'language=0', '--set', 'batch=8', '--set',
        'stage_1.batch=4'))
    assert [s.name for s in stages] == ['language', 'encoder', 'stage_1']
    assert [s.batch for s in stages] == [8, 8, 4] and stages[0].steps == 0
    stages = chosen_stages(NANO_RECIPE, arguments('--manifest', 'tune=a.yaml'))
    assert [s.data for s in stages[-2:]] == ['worlds', 'manifest']
    assert stage_files('--manifest', ['a.yaml', 'instruct=b.yaml'], ONELLM_7B, None)[
        'instruct'].name == 'b.yaml'
    for words, text in ((('--steps', 'encode=3'), 'expected STAGE=N'),
                        (('--set', 'batch'), 'KEY=VALUE'),
                        (('--until', 'nowhere'), '--until nowhere: expected one of'),
                        (('--manifest', 'a.yaml'), 'for which stage')):
        with pytest.raises(ValueError, match=text):
            chosen_stages(NANO_RECIPE, arguments(*words))
    with pytest.raises(ValueError, match='--workers: found -1'):
        check_numbers(arguments('--workers', '-1'))


def test_a_stage_does_not_begin_with_parts_that_nobody_trained():
    nano, large = NANO_RECIPE.stages, ONELLM_7B.stages
    check_beginning(NANO_RECIPE, nano, 0, set())
    check_beginning(NANO_RECIPE, nano[:2], 1, set())                # the encoder needs nothing
    check_beginning(NANO_RECIPE, nano[:3], 2, {'encoder', 'tokenizers', 'llm'})
    check_beginning(ONELLM_7B, large, 0, {'encoder', 'llm'})
    for recipe, stages, start, given, missing in (
            (NANO_RECIPE, nano[:3], 2, {'encoder', 'tokenizers'}, 'llm'),
            (NANO_RECIPE, nano[:4], 3, {'encoder', 'tokenizers', 'llm'}, 'upm'),
            (ONELLM_7B, large, 0, {'llm'}, 'encoder')):
        with pytest.raises(TrainingError, match=f'needs {missing} trained before it'):
            check_beginning(recipe, stages, start, given)


def test_a_copied_modality_begins_as_image():
    torch.manual_seed(0)
    upm = OneLLM(ONE_EXPERT).upm
    upm.begin_as(Modality.DEPTH, Modality.IMAGE, inputs=True)
    upm.begin_as(Modality.AUDIO, Modality.IMAGE, inputs=False)
    features = torch.randn(2, 5, ONE_EXPERT.encoder.width)
    routers = upm.routers
    routers['depth'].load_state_dict(routers['image'].state_dict())
    image, _ = upm(Modality.IMAGE, features)
    assert torch.equal(upm(Modality.DEPTH, features)[0], image)
    assert torch.equal(upm.tokens['audio'], upm.tokens['image'])
    assert not torch.equal(upm(Modality.AUDIO, features)[0], image)
    assert upm.tokens['depth'] is not upm.tokens['image']
