"""Exported graphs compute what torch computes, whatever the model's switches, or are refused."""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path

from golden.tiny import TINY, fill, inputs, tiny
import pytest
import torch

from onellm_ros import export_command
from onellm_ros.config import RopeScaling
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import save_model, weights_hash
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import train_tokenizer

pytest.importorskip('onnx', reason='needs onnx: pip install -r requirements/onnx.txt')
runtime = pytest.importorskip('onnxruntime',
                              reason='needs onnxruntime: pip install -r requirements/onnx.txt')

from onellm_ros.export import layers, layout, write  # noqa: E402
from onellm_ros.export.runtime import Graphs, providers_for  # noqa: E402

SENTENCES = ['A red box stands 1.5 metres ahead.', 'The robot turns left.', 'yes', 'no'] * 5


def saved(folder: Path, model: OneLLM) -> Path:
    """Write a model with a tokenizer."""
    save_model(model, folder, torch.float32)
    train_tokenizer(SENTENCES, 300).save(str(folder / 'tokenizer.json'))
    return folder


def exported(model: OneLLM, target: Path, source: Path, opset: int = write.OPSET
             ) -> layout.Manifest:
    """Export a model as the command does."""
    return write.export_model(model, target, weights_hash='abc', source=source, opset=opset)


def run(*args: str | Path) -> int:
    """Run `onellm export`."""
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    return export_command.run(parser.parse_args([str(a) for a in args]))


@pytest.mark.parametrize('changes', [
    {},
    {'upm': {'router': 'softmax', 'experts': 3}, 'llm': {'tied_embeddings': True, 'kv_heads': 0},
     'encoder': {'activation': 'gelu'}, 'tokenizer': {'video_positions': True}},
    {'upm': {'router': 'sparse', 'experts': 3}, 'tokenizer': {'point_grouping_channel': 0},
     'llm': {'qk_norm': True, 'qkv_bias': True, 'out_bias': True, 'mlp_bias': True, 'head_dim': 6,
             'sliding_window': 4, 'sliding_layers': (1,), 'no_rope_layers': (0,)}},
    {'upm': {'router': 'constant'}, 'llm': {'sliding_window': 7, 'rope': RopeScaling(
        'dynamic', factor=2.0, original_positions=16)}},
    {'upm': {'layers': 1, 'experts': 1}, 'llm': {'layers': 1, 'rope': RopeScaling(
        'yarn', factor=4.0, original_positions=16, attention_factor=1.2)}},
], ids=['released', 'nano', 'many switches', 'dynamic', 'yarn'])
def test_graphs_equal_torch(changes: dict, tmp_path: Path) -> None:
    model = tiny(seed=4, **changes)
    manifest = exported(model, tmp_path / 'onnx', tmp_path)
    assert set(manifest.differences) == {*(m.value for m in Modality), 'decoder'}
    assert max(manifest.differences.values()) < 1e-5 and not manifest.missing
    assert layout.read_manifest(tmp_path / 'onnx') == manifest
    assert layout.read_config(tmp_path / 'onnx') == model.config


def test_samples_of_different_lengths_share_a_batch(tmp_path: Path) -> None:
    """As someone who batches elsewhere would: rows of one cache, each with its own length."""
    model = tiny(seed=5)
    exported(model, tmp_path / 'onnx', tmp_path)
    session = runtime.InferenceSession(str(tmp_path / 'onnx' / layout.DECODER))
    llm, config = model.llm, model.config.llm
    ids = torch.arange(3, 21)[None]
    caches = [llm.new_cache(1, 20), llm.new_cache(1, 20)]
    past = torch.full((2 * config.layers, 2, 2, 16, config.head_size), 1e3)     # rests of others
    with torch.no_grad():
        for row, (cache, length) in enumerate(zip(caches, (5, 14), strict=True)):
            llm(llm.embed(ids[:, :length]), cache=cache)
            past[0::2, row, :, :length] = cache.keys[:, 0, :, :length]
            past[1::2, row, :, :length] = cache.values[:, 0, :, :length]
        expected = torch.cat([llm(llm.embed(ids[:, :4]), cache=cache) for cache in caches])
    names = [f'past_{kind}_{i}' for i in range(config.layers) for kind in ('key', 'value')]
    logits, new = session.run(None, {
        'ids': ids[:, :2].expand(2, 2).numpy(),
        'embeds': llm.embed(ids[:, 2:4]).detach().expand(2, 2, -1).numpy(),
        'lengths': torch.tensor([5, 14]).numpy(), 'at': torch.tensor([1, 3]).numpy(),
        **{name: value.numpy() for name, value in zip(names, past, strict=True)}})
    torch.testing.assert_close(torch.from_numpy(logits), expected[:, [1, 3]], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(new)[0, 1], caches[1].keys[0, 0, :, 14:18],
                               atol=1e-5, rtol=0)


def test_a_registered_modality_goes_along(tmp_path: Path) -> None:
    scan = Modality('scan')
    model = fill(OneLLM(replace(TINY, modalities=('scan',))), 3)
    manifest = exported(model, tmp_path / 'onnx', tmp_path)
    assert manifest.differences['scan'] < 1e-5
    x = {**inputs(TINY), scan: torch.randn(layout.input_shape(model.config, scan))}
    found = Graphs(tmp_path / 'onnx').encode(x)
    assert list(found) == list(x)
    torch.testing.assert_close(found[scan][0][:, 1:-1], model.encode(scan, x[scan]).tokens,
                               atol=1e-5, rtol=0)


def test_one_that_cannot_be_exported_is_named_and_left_out(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Modality('scan')
    model = fill(OneLLM(replace(TINY, modalities=('scan',))), 3)
    part = model.tokenizers.kinds['scan']
    plain = type(part).forward
    monkeypatch.setattr(type(part), 'forward', lambda self, x: plain(self, torch.linalg.qr(x)[0]))
    manifest = exported(model, tmp_path / 'onnx', tmp_path)
    assert list(manifest.missing) == ['scan'] and 'scan' not in manifest.differences
    graphs = Graphs(tmp_path / 'onnx')
    assert graphs.encode({Modality.IMU: inputs(TINY)[Modality.IMU]})
    with pytest.raises(ValueError, match='scan: it could not be exported: .*use backend torch'):
        graphs.encode({scan: torch.randn(layout.input_shape(model.config, scan))})


def test_what_differs_is_refused_and_nothing_stays(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = layers.attend
    monkeypatch.setattr('onellm_ros.export.encoder.attend', lambda q, k, v: plain(q, k, v) * 1.01)
    with pytest.raises(layout.ExportError, match='image [0-9.e-]+, .*expected 0.0001 at most'):
        exported(tiny(), tmp_path / 'onnx', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_stand_beside_their_graph(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, '_LARGE', 10_000)
    model = tiny(seed=6)
    manifest = exported(model, tmp_path / 'onnx', tmp_path)
    files = {p.name: p.stat().st_size for p in (tmp_path / 'onnx').iterdir()}
    assert files['decoder.onnx.data'] > 4 * 30_000 > files['decoder.onnx']
    assert not [n for n in files if n.endswith('.parts')]
    assert max(manifest.differences.values()) < 1e-5
    small = write.quantize(tmp_path / 'onnx', tmp_path / 'int8', manifest)
    assert small.precision == 'int8' and not small.differences
    assert (tmp_path / 'int8' / 'decoder.onnx.data').stat().st_size < files['decoder.onnx.data']
    graphs = Graphs(tmp_path / 'int8')
    block = graphs.encode({Modality.IMU: inputs(TINY)[Modality.IMU]})[Modality.IMU][0]
    tokens = model.encode(Modality.IMU, inputs(TINY)[Modality.IMU]).tokens
    apart = (block[:, 1:-1] - tokens).abs().max()
    assert 1e-4 < apart < 0.5       # it is coarser, and the same thing


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / 'model', tiny(seed=2))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(export_command, '_WINDOWS', 1)
    monkeypatch.setattr(export_command, '_TOKENS', 8)
    assert run('--model', model, '--int8', '--opset', '18') == 0
    said = capsys.readouterr().out
    assert 'ONNX Runtime and torch differ by' in said and 'of the tokens and' in said
    folder = next((tmp_path / 'cache').rglob('onnx.json')).parent
    folder = folder.parent if folder.name == 'int8' else folder
    short = weights_hash(model)
    assert folder.name == f'{short}-{layout.source_digest(model)}'
    assert layout.read_manifest(folder).opset == 18
    small = layout.read_manifest(folder / 'int8')
    assert (small.weights_hash, small.precision) == (short, 'int8')
    assert small.agreement['prompts'] == 4 and 0 <= small.agreement['tokens'] <= 1
    assert run('--model', model) == 0           # replaces it
    assert not (folder / 'int8').exists() and layout.read_manifest(folder).opset == 17


def test_wrong_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / 'model', tiny())
    taken = tmp_path / 'taken'
    taken.mkdir()
    (taken / 'thesis.tex').write_text('mine')
    for args, text in (
            (('--model', tmp_path / 'none'), 'not found'),
            (('--model', model, '--out', taken), 'found something else there'),
            (('--model', model, '--out', tmp_path / 'x', '--opset', '9'), 'opset: expected 17')):
        assert run(*args) == 2
        assert text in capsys.readouterr().err
    assert (taken / 'thesis.tex').read_text() == 'mine' and not (tmp_path / 'x').exists()


def test_manifests_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(layout.ExportError, match='expected a folder that `onellm export` wrote'):
        layout.read_manifest(tmp_path)
    for values in ({'format': 99}, {'format': 1, 'name': 'x'}, {'format': 1, 'colour': 'red'}):
        (tmp_path / layout.MANIFEST).write_text(json.dumps(values))
        with pytest.raises(layout.ExportError, match='export the model again'):
            layout.read_manifest(tmp_path)


def test_providers_go_by_the_device(tmp_path: Path) -> None:
    cpu, gpu = torch.device('cpu'), torch.device('cuda:1')
    plain = ['CPUExecutionProvider']
    every = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', *plain]
    assert providers_for(cpu, every) == plain
    assert [p[0] if isinstance(p, tuple) else p for p in providers_for(gpu, every)] == every[1:]
    assert providers_for(gpu, every)[0][1]['device_id'] == 1
    assert providers_for(gpu, every, tmp_path)[0][1]['trt_engine_cache_path'] == str(tmp_path)
    with pytest.raises(layout.ExportError, match='install onnxruntime-gpu'):
        providers_for(gpu, plain)
    with pytest.raises(layout.ExportError, match='TensorRT: found'):
        providers_for(gpu, every[1:], tmp_path)
