"""``onellm bench``: sizes are counted, what does not fit is refused, figures become words."""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
import re
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

from numba import njit
import numpy as np
import pytest
import torch

from onellm_ros.bench import command, models
from onellm_ros.bench.models import SIZES, check, count, position_bytes, random_engine
from onellm_ros.bench.stages import FIVE, SensedWindow, Stages, fresh_copy, measure, python_share
from onellm_ros.bench.words import verdict
from onellm_ros.config import NANO
from onellm_ros.modality import Modality, Sample
from onellm_ros.model.onellm import OneLLM
from onellm_ros.perception.memory import BudgetError
from onellm_ros.preprocess.preprocessor import Tensors

CPU = torch.device('cpu')
GB = 10**9
TINY = replace(
    NANO, name='tiny', encoder=replace(NANO.encoder, width=32, layers=1, heads=2),
    tokenizer=replace(NANO.tokenizer, video_frames=2, points=256, point_centres=16,
                      point_neighbours=8),
    upm=replace(NANO.upm, layers=1, heads=2, modality_tokens=4),
    llm=replace(NANO.llm, dim=32, layers=1, heads=2))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_sizes_are_those_of_the_models() -> None:
    found = count(TINY, 4)
    assert found.parameters == sum(p.numel() for p in OneLLM(TINY).parameters())
    assert found.weights == 4 * found.parameters
    assert 7.4e9 < count(SIZES['7b'], 2).parameters < 7.7e9        # of it 6.74e9 Llama 2 7B
    assert position_bytes(SIZES['7b'], 2) == 2 * 32 * 4096 * 2
    assert position_bytes(SIZES['1b'], 2) == 2 * 16 * 8 * 64 * 2   # 8 of 32 heads have keys


def test_what_does_not_fit_is_refused_before_it_is_made(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BudgetError) as error:
        check('7b', SIZES['7b'], CPU, 4, free=20 * GB)
    text = str(error.value)
    need, free = (int(found) for found in re.findall(r'(\d+) MB (?:in|free)', text))
    assert need > 28_000 and free == 19074 and 'would fit: --random 1b, --random nano' in text
    assert check('7b', SIZES['7b'], CPU, 2, free=20 * GB).weights < 16 * GB
    monkeypatch.setattr(models, 'host_free', lambda: 20 * GB)
    monkeypatch.setattr(command, 'random_engine', lambda *_: pytest.fail('it was made'))
    assert command.run(arguments('--random', '7b', '--device', 'cpu')) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and '19074 MB free on cpu' in said


def test_a_random_model_has_finite_weights_and_never_ends() -> None:
    engine, again = (random_engine(TINY, CPU, torch.float32) for _ in range(2))
    for (name, value), other in zip(engine.model.state_dict().items(),
                                    again.model.state_dict().values(), strict=True):
        assert bool(torch.isfinite(value).all()) and torch.equal(value, other), name
        assert value.ndim < 2 or float(value.std()) > 0, name
    answer = engine.describe(engine.encode({}), max_tokens=40)
    assert (answer.tokens, answer.finish_reason) == (40, 'length')


class SlowEngine:
    """Takes known times for each stage."""

    device = CPU

    def __init__(self) -> None:
        self.preprocessor = self
        self.asked: list[str] = []

    def tensors(self, chosen: Any, end_ns: int, strict: bool) -> Tensors:
        time.sleep(0.01)
        out = Tensors()
        out.update({m: torch.zeros(1) for m in chosen})
        out.left_out[Modality.FMRI] = 'fmri: too few voxels'
        return out

    def encode(self, inputs: Tensors) -> Any:
        time.sleep(0.02)
        return SimpleNamespace(modalities=tuple(inputs))

    def describe(self, prefix: Any, max_tokens: int) -> Any:
        time.sleep(0.05)
        return SimpleNamespace(tokens=9, finish_reason='stop', first_token_s=0.02, total_s=0.05)

    def ask(self, prefix: Any, question: str, max_tokens: int) -> Any:
        self.asked.append(question)
        return SimpleNamespace(first_token_s=0.015)


def test_stages_are_taken_apart() -> None:
    engine = SlowEngine()
    window = SensedWindow({Modality.IMU: [Sample(0, np.zeros(6))]}, 0)
    found = measure(engine, [fresh_copy(window)] * 5, warm_up=2)
    assert {len(values) for values in found.seconds.values()} == {3} and len(engine.asked) == 5
    assert min(found.seconds['preprocess']) >= 0.01 and min(found.seconds['encode']) >= 0.02
    for parts, whole in zip(zip(found.seconds['preprocess'], found.seconds['encode']),
                            found.seconds['close to first token'], strict=True):
        assert whole == pytest.approx(sum(parts) + 0.02)
    assert found.seconds['question to first token'] == [0.015] * 3
    assert found.rates == pytest.approx([9 / 0.03] * 3)         # the end of the text is a token
    assert found.used == (Modality.IMU,) and list(found.left_out) == [Modality.FMRI]


def test_python_and_native_code_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(1_000_000)

    def loop(count: int) -> int:
        total = 0
        for i in range(count):
            total += i * i % 7
        return total

    assert python_share(lambda: loop(50_000)) > 0.8
    assert python_share(lambda: np.sort(values)) < 0.1
    # What numba compiled is not Python either, where a module of the package holds it.
    module = ModuleType('onellm_ros.of_a_test')
    vars(module)['loop'] = compiled = njit(loop)
    compiled(10)
    assert python_share(lambda: compiled(5_000_000)) > 0.8      # as profilers show it
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert python_share(lambda: compiled(5_000_000)) < 0.1


def test_figures_become_words() -> None:
    found = Stages(tokens=[10], used=(Modality.IMAGE, Modality.DEPTH))
    for stage, value in (('preprocess', 0.1), ('encode', 0.4), ('answer', 1.0), ('description',
                         2.5), ('close to first token', 0.7), ('question to first token', 0.2)):
        found.seconds[stage] = [value]
    found.left_out = {Modality.FMRI: 'fmri: too few voxels'}
    slow = ' '.join(verdict('m', 'cpu', found, 1.0, 48, random=True))
    assert '0.4 windows a second of image + depth with m on cpu' in slow
    assert 'describes one in 3' in slow and 'The weights are random' in slow
    assert '700 ms after its window' in slow and 'Left out: fmri: too few voxels' in slow
    found.seconds['description'] = [0.25]
    fast = ' '.join(verdict('m', 'cpu', found, 1.0, 48, random=False))
    assert 'keeps up and computes 25 % of the time' in fast and 'random' not in fast


@pytest.mark.parametrize(('words', 'said'), [
    (('--modalities', 'image,smell'), "unknown modality 'smell'"),
    (('--modalities', 'scan'), 'the simulated robot'),
    (('--modalities', ''), 'expected some of'),
    (('--windows', '0'), '--windows: found 0'),
    (('--device', 'tpu'), "found 'tpu'"),
    (('--model', '/no/such/model'), 'not found'),
    (('--random', 'nano', '--backend', 'onnx'), 'random weights have none'),
    (('--random', 'nano', '--max-tokens', '2000'), 'expected at most half')])
def test_wrong_use_is_one_line(words: tuple[str, ...], said: str,
                               capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments('--device', 'cpu', *words)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


def test_the_command_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SIZES, 'nano', TINY)
    out = tmp_path / 'new' / 'bench.json'
    assert command.run(arguments('--random', 'nano', '--device', 'cpu', '--quick', '--max-tokens',
                                 '5', '--json', str(out))) == 0
    rows = {row['case']: row for row in json.loads(out.read_text(encoding='utf-8'))}
    assert all(set(row) == {'case', 'ours', 'reference', 'ratio', 'goal', 'unit', 'machine'}
               and row['ours'] > 0 for row in rows.values())
    to_first, whole = (rows[f'window close to {end}']['ours']
                       for end in ('first token', 'the last word'))
    assert rows['encode a window']['ours'] < to_first < whole
    assert rows['memory']['reference'] >= count(TINY, 4).weights / 2**20
    said = ' '.join(capsys.readouterr().out.split())
    assert f'windows a second of {" + ".join(m.value for m in FIVE)} with random tiny' in said
    assert 'for 5 tokens' in said
