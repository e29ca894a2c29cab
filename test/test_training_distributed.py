"""Training in several processes is as in one; either goes on where the other stopped."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch
from training_worlds import CHAIN, ONE_EXPERT, killed, lines, render, trainer

OPTIONS = {'precision': 'float32', 'log_every': 1, 'save_every': 2, 'eval_batches': 2}


def two_ranks(*arguments: object) -> None:
    """Run two processes of ``training_worlds``, as torchrun starts them."""
    script = Path(__file__).with_name('training_worlds.py')
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone',
         str(script), *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=800, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)          # (seconds on an idle machine, minutes on a busy one)
def test_two_ranks_train_as_one_and_each_goes_on_with_the_others_run(tmp_path):
    prepared = render(tmp_path, shards=1)
    whole = trainer(prepared, tmp_path / 'whole', CHAIN, ONE_EXPERT, **OPTIONS)
    whole.run()
    # One process up to the midst of the first stage, two from there over the second into the
    # third, where the UPM has become three experts; one again to the end.
    out = tmp_path / 'changed'
    killed(trainer(prepared, out, CHAIN, ONE_EXPERT, **OPTIONS), 2)
    two_ranks(prepared, out, 1 + 3 + 3)
    last = trainer(prepared, out, CHAIN, ONE_EXPERT, **OPTIONS)
    assert (last.stage_index, last.step) == (2, 2)
    last.run()
    one, other = lines(tmp_path / 'whole', untimed=True), lines(out, untimed=True)
    assert [(x['stage'], x['step']) for x in one] == [(x['stage'], x['step']) for x in other]
    assert [x['stage'] for x in one if 'loss' in x] == 3 * ['encoder'] + 3 * ['one'] + 4 * [
        'three']
    for a, b in zip(one, other, strict=True):
        for name, value in {**a, **a.get('held_out', {})}.items():
            if isinstance(value, float):
                found = {**b, **b.get('held_out', {})}[name]
                assert found == pytest.approx(value, rel=2e-3, abs=2e-3), (a, b, name)
        if 'loss' in a:
            assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)
    a, b = (torch.cat([p.flatten() for p in run.model.state_dict().values()])
            for run in (whole, last))
    assert (a - b).norm() < 1e-5 * a.norm()
