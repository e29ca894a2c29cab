r"""A change of nano's weights or of numerics that loses more than the noise fails here.

What nano answered when it was shipped stands in ``golden/nano``: a run as ``onellm eval`` writes
it. After a change that is meant, ask anew, look at ``onellm eval --compare`` of both, and commit
``run.json`` and ``predictions.jsonl``:

    rm -r test/golden/nano/robot-world-mini
    onellm eval --task robot-world --split mini --set conditions=alone,caption --device cpu \
        --out test/golden/nano
"""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path

import pytest
import torch

from onellm_ros.evaluation.answering import Answering, Decoding
from onellm_ros.evaluation.chunks import chunks
from onellm_ros.evaluation.comparing import SAME, WORSE, Comparison, compare
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.predictions import read_predictions
from onellm_ros.evaluation.runs import items_of
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import find_model
from onellm_ros.model.checkpoint import load_model
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text

GOLDEN = Path(__file__).parent / 'golden' / 'nano' / 'robot-world-mini'
LOST = ('nano lost more than the noise against the answers it was shipped with; if the change is '
        'meant, renew them as this file says')


@pytest.fixture(scope='module')
def items() -> list[Item]:
    """Return what was asked; others than then are an error."""
    return list(items_of(json.loads((GOLDEN / 'run.json').read_text()))[1])


def _against_shipped(items: list[Item], engine: Engine) -> Comparison:
    task, known = find_task('robot-world'), read_predictions(GOLDEN)
    found = {p.id: p for part in Answering(engine, task, task.form, Decoding(task.max_tokens))
             .answer(chunks(items, 1), ()) for p in part}
    return compare(task, items, [known[item.id] for item in items],
                   [found[item.id] for item in items])


@pytest.mark.slow
def test_nano_lost_nothing(items: list[Item]) -> None:
    found = _against_shipped(items, Engine.load('nano', 'cpu', backend='torch'))
    assert found.judged.verdict != WORSE, f'{LOST}: {found}'
    assert found.judged.items > 500
    assert found.judged.b is not None and found.judged.b > 85.0     # nothing renewed by mistake


def _noise(model: OneLLM, of: float) -> None:
    """Add noise to one matrix of the encoder, as a share of its own spread."""
    weight = model.encoder.blocks[3].fc.weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight += of * weight.std() * drawn


def _coarse(model: OneLLM) -> None:
    """Round what the encoder sees to few values, as a wrong scale of integers would."""
    model.encoder.ln_post.register_forward_hook(lambda layer, given, out: (out / 5).round() * 5)


@pytest.mark.parametrize(('change', 'verdict'), [
    (lambda model: _noise(model, 2.0), WORSE), (_coarse, WORSE),
    (lambda model: _noise(model, 0.001), SAME)], ids=['weights', 'numerics', 'last digits'])
def test_what_it_finds(items: list[Item], change: Callable[[OneLLM], object],
                       verdict: str) -> None:
    """A quarter of the items is enough to see one damaged matrix of 200."""
    few = [item for item in items if item.group in ('image', 'audio')]
    folder = find_model('nano')
    model = load_model(folder)
    change(model)
    found = _against_shipped(few, Engine(model, Text.load(folder, model.config.text)))
    assert found.judged.verdict == verdict, found
