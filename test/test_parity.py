"""Agreement with the authors' implementation, and the command that checks it."""

from __future__ import annotations

import json

from golden.numpy_reference import Reference
from golden.tiny import inputs, tiny
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch

from onellm_ros.cli import main as cli
from onellm_ros.model.checkpoint import CheckpointError
from onellm_ros.model.released import released_state
from onellm_ros.verify import VerifyError, main, verify

SIZES = {
    'a': {},
    'b': {'upm': {'experts': 4, 'layers': 1, 'modality_tokens': 3, 'heads': 4, 'multiple_of': 64},
          'llm': {'dim': 48, 'heads': 6, 'kv_heads': 0, 'layers': 1, 'vocab_size': 61,
                  'multiple_of': 64, 'rope_theta': 500000.0, 'norm_eps': 1e-6},
          'encoder': {'width': 40, 'heads': 5, 'layers': 3, 'patch_size': 7, 'image_size': 28,
                      'mlp_ratio': 2, 'activation': 'gelu'},
          'tokenizer': {'fmri_voxels': 5, 'points': 30, 'point_centres': 9, 'video_frames': 5}}}


def _config_json(model, silent):
    c = model.config
    out = {'llm': {'dim': c.llm.dim, 'n_layers': c.llm.layers, 'n_heads': c.llm.heads,
                   'vocab_size': c.llm.vocab_size, 'multiple_of': c.llm.multiple_of,
                   'norm_eps': c.llm.norm_eps, 'rope_theta': c.llm.rope_theta},
           'encoder': {k: getattr(c.encoder, k) for k in (
               'width', 'layers', 'heads', 'patch_size', 'image_size', 'mlp_ratio', 'activation')},
           'upm': {k: getattr(c.upm, k) for k in (
               'experts', 'layers', 'heads', 'modality_tokens', 'multiple_of', 'norm_eps')},
           'fmri_voxels': c.tokenizer.fmri_voxels, 'points': c.tokenizer.points,
           'video_frames': c.tokenizer.video_frames, 'audio_stride': c.tokenizer.audio_stride,
           'point_neighbours': c.tokenizer.point_neighbours}
    if c.llm.kv_heads:
        out['llm']['n_kv_heads'] = c.llm.kv_heads
    if not silent:
        out |= {k: getattr(c.tokenizer, k) for k in ('audio_mels', 'audio_frames', 'imu_samples')}
    return out


def _write(folder, size, silent=False, steps=4, batch=1):
    """Write a fixture whose expected numbers come from the NumPy reference."""
    model = tiny(seed=4, **SIZES[size])
    state = released_state(model, model.config)
    reference = Reference({k: v.numpy() for k, v in state.items()}, model.config)
    prompt = [[1, *(7 * np.arange(1, 6 + i * 0) + i)] for i in range(batch)]
    out = {'prompt_tokens': torch.tensor(prompt, dtype=torch.int32)}
    rows: dict[str, list[np.ndarray]] = {}
    for modality, x in inputs(model.config, batch=batch, seed=8).items():
        name = modality.weight_name
        out[f'input.{name}'] = x.half()
        for b in range(batch):
            tokens, _ = reference.project(name, reference.encode(name, x[b].numpy()))
            embeds = reference.prompt(prompt[b], {name: tokens})
            rows.setdefault(f'modality_tokens.{name}', []).append(tokens)
            rows.setdefault(f'logits.{name}', []).append(reference.logits(embeds)[-6:])
            rows.setdefault(f'greedy.{name}', []).append(
                np.array(reference.greedy(embeds, steps)))
    for b in range(batch):
        blocks = {n: rows[f'modality_tokens.{n}'][b] for n in ('video', 'audio')}
        rows.setdefault('logits.video+audio', []).append(
            reference.logits(reference.prompt(prompt[b], blocks))[-6:])
        rows.setdefault('logits.text', []).append(
            reference.logits(reference.prompt(prompt[b], {})))
    for name, values in rows.items():
        value = torch.from_numpy(np.stack(values))
        out[name] = value.int() if name.startswith('greedy') else value.float()
    torch.save(state, folder / 'consolidated.00-of-01.pth')
    (folder / 'config.json').write_text(json.dumps(_config_json(model, silent)))
    save_file(out, folder / 'expected.safetensors')
    return out


def test_the_reference_implementation(parity, capsys):
    folder = parity / 'small'
    report = verify(folder)
    assert report.ok, '\n'.join(report.lines())
    rows = {row.name: row for row in report.rows}
    assert set(rows) == {'image', 'video', 'audio', 'point', 'rgbd', 'rgbn', 'imu', 'fmri', 'text',
                         'video+audio'}
    for name, row in rows.items():
        assert row.logits_error is not None and row.logits_error < 1e-5
        if name not in ('text', 'video+audio'):
            assert row.tokens_error is not None and row.tokens_error < 1e-5
            assert (row.greedy_agree, row.greedy_total) == (24, 24)
    assert main(folder) == 0
    assert 'agrees within 0.0001' in capsys.readouterr().out


@pytest.mark.parametrize('size, silent, batch', [('a', False, 2), ('b', True, 1)])
def test_other_sizes(tmp_path, size, silent, batch):
    _write(tmp_path, size, silent, batch=batch)
    report = verify(tmp_path)
    assert report.ok, '\n'.join(report.lines())
    assert len(report.rows) == 10 and not report.absent and not report.ignored
    assert all(row.greedy_plain == row.greedy_total for row in report.rows)


def test_differences_are_told(tmp_path, capsys):
    values = _write(tmp_path, 'a')
    values['logits.imu'] = values['logits.imu'] + 2e-4
    values['modality_tokens.audio'][0, 2, 1] = float('nan')
    values['greedy.point'][0, 2] += 1
    save_file(values, tmp_path / 'expected.safetensors')
    report = verify(tmp_path)
    assert not report.ok
    bad = {row.name: row for row in report.rows if not row.passes(report.tolerance)}
    assert set(bad) == {'imu', 'audio', 'point'}
    assert bad['imu'].logits_error == pytest.approx(2e-4, rel=0.1)
    assert bad['point'].greedy_agree == 3 and 'step 2' in bad['point'].note
    assert main(tmp_path) == 1
    said = capsys.readouterr().out
    assert 'does NOT agree within 0.0001: audio, point, imu' in said
    assert verify(tmp_path, tolerance=1e-3).rows[-1].passes(1e-3)


def test_a_file_with_few_modalities(tmp_path):
    values = _write(tmp_path, 'a')
    keep = {k: v for k, v in values.items() if k.endswith(('.imu', '_tokens'))}
    more = {'more.imu': torch.zeros(1), 'modality_tokens.text': torch.zeros(1)}
    save_file({**keep, **more}, tmp_path / 'expected.safetensors')
    report = verify(tmp_path)
    assert [row.name for row in report.rows] == ['imu'] and report.ok
    assert 'fmri' in report.absent
    assert report.ignored == ('modality_tokens.text', 'more.imu')
    save_file({'prompt_tokens': keep['prompt_tokens']}, tmp_path / 'expected.safetensors')
    report = verify(tmp_path)
    assert not report.ok and 'nothing to compare' in report.lines()[-1]


@pytest.mark.parametrize('change, text', [
    ({'input.imu': None}, 'input.imu is missing, needed for imu'),
    ({'prompt_tokens': None}, 'expected prompt_tokens of shape .* found none'),
    ({'input.image': torch.zeros(1, 3, 5, 5)}, 'input.image: image: expected an input of shape'),
    ({'input.fmri': torch.zeros(2, 1, 11)}, 'fmri: inputs have batch size 2, prompt_tokens 1'),
    ({'logits.imu': torch.zeros(1, 6, 5)}, r'logits.imu: expected shape \[1, 6, 5\], found'),
    ({'logits.imu': torch.zeros(5)}, r'expected shape \[batch, positions, vocabulary\], found'),
    ({'greedy.imu': torch.zeros(4)}, r'greedy.imu: expected shape \[batch, steps\], found \[4\]'),
    ({'greedy.imu': torch.zeros(3, 1)}, 'greedy.imu: expected batch size 1 .* found 3'),
    ({'prompt_tokens': torch.tensor([[1, 300]])}, 'expected ids 0 to 299 .* found 1 to 300'),
    ({'prompt_tokens': torch.tensor([[1, -1]])}, 'expected ids 0 to 299 .* found -1 to 1'),
    ({'input.video': torch.zeros(1, 0, 3, 28, 28)}, 'input.video: video: expected an input of'),
    ({'logits.smell': torch.zeros(1, 6, 5)}, "smell: unknown modality 'smell'"),
])
def test_files_that_do_not_fit(tmp_path, change, text, capsys):
    values = {**_write(tmp_path, 'a', steps=1), **change}
    save_file({k: v for k, v in values.items() if v is not None},
              tmp_path / 'expected.safetensors')
    with pytest.raises(VerifyError, match=text):
        verify(tmp_path)
    assert main(tmp_path) == 2
    assert capsys.readouterr().err.startswith('onellm verify: ')


def test_missing_files(tmp_path):
    with pytest.raises(VerifyError, match='no such directory'):
        verify(tmp_path / 'absent')
    with pytest.raises(VerifyError, match='expected.safetensors: file not found'):
        verify(tmp_path)
    values = _write(tmp_path, 'a', steps=1)
    (tmp_path / 'consolidated.00-of-01.pth').unlink()
    with pytest.raises(CheckpointError, match='found neither'):
        verify(tmp_path)
    assert main(tmp_path) == 2
    assert load_file(tmp_path / 'expected.safetensors').keys() == values.keys()
    (tmp_path / 'expected.safetensors').write_bytes(b'junk')
    with pytest.raises(VerifyError, match='not readable as safetensors'):
        verify(tmp_path)


@pytest.mark.parametrize('section, key, value, text', [
    ('llm', 'n_heads', 0, 'llm.heads: expected 1 to 1000000000, found 0'),
    ('llm', 'n_heads', -4, 'llm.heads: expected 1 to'),
    ('llm', 'n_layers', 10**9, 'llm.layers: expected 1 to 1000, found'),
    ('llm', 'rope_theta', 0, 'llm.rope_theta: expected a number above 0'),
    ('encoder', 'patch_size', 0, 'encoder.patch_size: expected 1 to'),
    ('llm', 'multiple_of', 0, 'llm.multiple_of: expected 1 to'),
    ('llm', 'ffn_dim_multiplier', 'x', 'llm.ffn_dim_multiplier: expected a number'),
    ('upm', 'experts', 0, 'upm.experts: expected 1 to 1000, found 0')])
def test_sizes_that_cannot_be(tmp_path, section, key, value, text, capsys):
    _write(tmp_path, 'a', steps=1)
    path = tmp_path / 'config.json'
    values = json.loads(path.read_text())
    values[section][key] = value
    path.write_text(json.dumps(values))
    assert cli(['verify', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert text in said and said.count('\n') == 1


@pytest.mark.parametrize('tolerance', ['-1', 'nan'])
def test_a_tolerance_that_cannot_be(tmp_path, tolerance, capsys):
    assert cli(['verify', str(tmp_path), '--tolerance', tolerance]) == 2
    assert 'expected 0 or more' in capsys.readouterr().err
