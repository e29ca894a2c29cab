"""Model directories: both layouts, strict in both directions."""

from __future__ import annotations

import json
import zlib

from golden.tiny import inputs, tiny
import pytest
import safetensors.torch
import torch

from onellm_ros.config import PRESETS
from onellm_ros.modality import Modality
from onellm_ros.model import storage
from onellm_ros.model.checkpoint import (
    CheckpointError,
    check_released,
    load_model,
    released_model,
    save_model,
    weights_files,
    weights_hash,
)
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import entries, released_state
from onellm_ros.weights.sources import open_source

CONFIG = {
    'llm': {'dim': 32, 'n_layers': 2, 'n_heads': 4, 'n_kv_heads': 2, 'vocab_size': 300,
            'multiple_of': 16, 'norm_eps': 1e-5, 'rope_theta': 10000.0},
    'encoder': {'width': 24, 'layers': 2, 'heads': 3, 'patch_size': 5, 'image_size': 20,
                'mlp_ratio': 3, 'activation': 'quick_gelu'},
    'upm': {'experts': 2, 'layers': 2, 'heads': 2, 'modality_tokens': 5, 'multiple_of': 8},
    'fmri_voxels': 11, 'points': 40, 'point_neighbours': 5, 'audio_mels': 20, 'audio_frames': 36,
    'audio_stride': 6, 'imu_samples': 30}
EXTRA = {'llma.clip.visual.proj': (24, 16), 'llma.clip.logit_scale': (),
         'llma.clip.ln_final.weight': (16,), 'llma.clip.token_embedding.weight': (11, 16),
         'llma.clip.transformer.resblocks.0.ln_1.weight': (16,), 'llma.rope.freqs': (4,)}


@pytest.fixture(scope='module')
def model():
    return tiny()


@pytest.fixture
def released(tmp_path, model):
    """Write a directory in the released layout; return it with a function that changes it."""
    state = released_state(model, model.config)
    state |= {k: torch.zeros(s) for k, s in EXTRA.items()}

    def write(config=CONFIG, name='consolidated.00-of-01.pth', **changed):
        values = {**state, **changed}
        torch.save({k: v for k, v in values.items() if v is not None}, tmp_path / name)
        if config is not None:
            (tmp_path / 'config.json').write_text(json.dumps(config))
        return tmp_path
    return write


def _same(a, b):
    x = inputs(a.config)
    with torch.inference_mode():
        for m in Modality:
            torch.testing.assert_close(a.encode(m, x[m]).tokens, b.encode(m, x[m]).tokens)
        words = torch.arange(9)[None]
        torch.testing.assert_close(a.llm(a.llm.embed(words)), b.llm(b.llm.embed(words)))


def test_released_layout(released, model):
    loaded = load_model(released())
    assert not loaded.training
    _same(loaded, model)


def test_released_layout_half_precision(released, model):
    half = {k: v.half() for k, v in released_state(model, model.config).items()}
    loaded = load_model(released(**half), dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_silent_keys_come_from_the_weights(released, model):
    config = {'llm': {'n_heads': 4, 'n_kv_heads': 2}, 'encoder': {'heads': 3},
              'upm': {'heads': 2}, 'point_neighbors': 5, 'audio_mels': 20, 'audio_frames': 36,
              'audio_stride': 6, 'imu_samples': 30}
    loaded = load_model(released(config))
    _same(loaded, model)


def test_sizes_of_inputs_may_come_from_example_inputs(released, model):
    config = {k: v for k, v in CONFIG.items()
              if k not in ('audio_mels', 'audio_frames', 'imu_samples')}
    shapes = {m.weight_name: tuple(x.shape) for m, x in inputs(model.config).items()}
    _same(load_model(released(config), inputs=shapes), model)


def test_params_json_of_meta(released, model):
    folder = released(None)
    meta = {'dim': 32, 'n_heads': 4, 'n_kv_heads': 2, 'n_layers': 2, 'multiple_of': 16,
            'vocab_size': -1, 'norm_eps': 1e-5, 'max_batch_size': 32}
    with pytest.raises(CheckpointError, match=r'expected config.json \(or Meta.s params.json\)'):
        load_model(folder)
    (folder / 'params.json').write_text(json.dumps(meta))
    # Meta's file has no heads of the encoder: the released 16 do not divide a width of 24.
    with pytest.raises(CheckpointError, match='encoder.heads: expected a divisor'):
        load_model(folder)


@pytest.mark.parametrize('name, value, text', [
    ('llma.extra.weight', torch.zeros(3), r'unknown tensor llma.extra.weight of shape \[3\]'),
    ('norm.weight', torch.zeros(32), 'unknown tensor norm.weight'),
    ('llma.norm.weight', None, r'missing tensor llma.norm.weight: expected shape \[32\]'),
    ('llma.routers.rgbd.fc2.bias', None, r'missing tensor llma.routers.rgbd.fc2.bias'),
    ('llma.start_tag.imu', torch.zeros(1, 32),
     r'llma.start_tag.imu: expected shape \[1, 1, 32\], found \[1, 32\]'),
    ('llma.layers.0.feed_forward.w1.weight', torch.zeros(80, 32),
     r'layers.0.feed_forward.w1.weight: expected shape \[96, 32\], found \[80, 32\]'),
    ('llma.conv1.point.conv1.weight', torch.zeros(24, 6),
     r'conv1.point.conv1.weight: expected shape \[24, 6, 1, 1\], found \[24, 6\]'),
    ('llma.tok_embeddings.weight', torch.zeros(300, 32, dtype=torch.int32),
     'expected floating-point values, found torch.int32'),
    ('llma.norm.weight', 'text', 'llma.norm.weight: expected a tensor under a name, found str'),
    ('llma.layers.2.ffn_norm.weight', torch.zeros(32), 'unknown tensor llma.layers.2.ffn_norm'),
])
def test_every_tensor_is_accounted_for(released, name, value, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(released(**{name: value}))


@pytest.mark.parametrize('change, text', [
    ({'llm': {**CONFIG['llm'], 'n_head': 4}}, r"unknown key 'llm.n_head'"),
    ({'fmri_voxel': 3}, "unknown key 'fmri_voxel'"),
    ({'encoder': 3}, 'encoder: expected a mapping'),
    ({'upm': {**CONFIG['upm'], 'heads': '2'}}, 'upm.heads: expected int, found str'),
    ({'llm': {**CONFIG['llm'], 'layers': 2}}, "states 'layers' twice"),
    ({'upm': {**CONFIG['upm'], 'experts': 3}}, 'missing tensor llma.resample_layers.2'),
    ({'fmri_voxels': 12}, r'conv1.fmri.weight: expected shape \[96, 12\], found \[96, 11\]'),
])
def test_config_of_the_released_layout(released, change, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(released({**CONFIG, **change}))


def test_the_released_names_cover_the_7b_model():
    config = PRESETS['onellm_7b']
    with torch.device('meta'):
        model = OneLLM(config)
    own = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert sorted(e.own for e in entries(config)) == sorted(own)
    assert own['llm.layers.31.feed_forward.w1.weight'] == (11008, 4096)
    assert own['upm.experts.2.blocks.7.feed_forward.w1.weight'] == (2816, 1024)
    assert own['encoder.positions'] == (257, 1024)
    assert own['tokenizers.positions.audio'] == (1213, 1024)
    assert own['tokenizers.positions.imu'] == (392, 1024)
    assert own['tokenizers.kinds.fmri.linear.weight'] == (8192, 15724)


def test_the_released_tensors_as_their_description_lists_them(root, tmp_path, monkeypatch):
    """A list written apart from the package; sizes from Meta's params.json and the weights."""
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    from bench_released import released_shapes
    shapes = {f'llma.{name}': shape for name, shape in released_shapes(2)}
    meta = {'dim': 4096, 'multiple_of': 256, 'n_heads': 32, 'n_layers': 2, 'norm_eps': 1e-5,
            'vocab_size': -1}
    (tmp_path / 'params.json').write_text(json.dumps(meta))
    path = tmp_path / 'consolidated.00-of-01.pth'
    model = released_model(tmp_path, path, shapes)
    full = PRESETS['onellm_7b']
    assert (model.config.encoder, model.config.tokenizer) == (full.encoder, full.tokenizer)
    table = check_released(shapes, model, path)
    unused = set(shapes) - {entry.released for entry in table}
    assert len(table) == len(model.state_dict()) and len(unused) == 151
    assert all('.clip.' in name for name in unused)
    for name in ('output.weight', 'conv1.imu.weight', 'start_tag.rgbd',
                 'resample_layers.2.7.feed_forward.w3.weight'):
        left = {n: shape for n, shape in shapes.items() if n != f'llma.{name}'}
        with pytest.raises(CheckpointError, match=f'missing tensor llma.{name}'):
            check_released(left, model, path)


def test_several_parts_are_refused(released):
    folder = released(name='consolidated.00-of-02.pth')
    with pytest.raises(CheckpointError, match='one part of several'):
        load_model(folder)
    released(name='consolidated.01-of-02.pth')
    with pytest.raises(CheckpointError, match='model-parallel'):
        load_model(folder)


def test_files_that_are_no_checkpoints(released, tmp_path):
    with pytest.raises(CheckpointError, match='no such directory'):
        load_model(tmp_path / 'absent')
    with pytest.raises(CheckpointError, match='found neither'):
        load_model(tmp_path)
    folder = released()
    (folder / 'config.json').write_text('{')
    with pytest.raises(CheckpointError, match='not readable as JSON'):
        load_model(folder)
    (folder / 'consolidated.00-of-01.pth').write_bytes(b'junk')
    with pytest.raises(CheckpointError, match='not readable as a torch checkpoint'):
        load_model(folder)
    torch.save([1], folder / 'consolidated.00-of-01.pth')
    with pytest.raises(CheckpointError, match='expected a dict of tensors, found list'):
        load_model(folder)


def test_a_checkpoint_that_a_trainer_wrapped(released, model):
    path = released() / 'consolidated.00-of-01.pth'
    state = torch.load(path, weights_only=True)
    torch.save({'model': state}, path)
    _same(load_model(path.parent), model)
    torch.save({'model': state, 'optimizer': {}, 'epoch': 3}, path)
    with pytest.raises(CheckpointError, match="with 'optimizer', 'epoch' beside 'model', expect"):
        load_model(path.parent)


@pytest.mark.parametrize('change, text', [
    (lambda path, state: path.write_bytes(path.read_bytes()[:-1]), 'have no end: cut short'),
    (lambda path, state: path.write_bytes(path.read_bytes()[:5000]), 'have no end: cut short'),
    (lambda path, state: path.write_bytes(b''), 'the file is empty'),
    (lambda path, state: safetensors.torch.save_file(state, path), 'something else than tensors'),
    (lambda path, state: torch.save({**state, 3: torch.zeros(1)}, path), 'Tensor under 3'),
    (lambda path, state: torch.save({f'module.{n}': v for n, v in state.items()}, path),
     r"names that begin with 'llma\.', found 'module\.llma\."),
    (lambda path, state: torch.save({n[5:]: v for n, v in state.items()}, path),
     r"names that begin with 'llma\.'")])
def test_checkpoints_that_are_not_whole_or_other(released, change, text):
    path = released() / 'consolidated.00-of-01.pth'
    change(path, torch.load(path, weights_only=True))
    with pytest.raises(CheckpointError, match=text) as error:
        load_model(path.parent)
    assert 'weights_only' not in str(error.value)       # no advice to let the file run code


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath('ran').write_text, ('x',))
    torch.save({'llma.norm.weight': Evil()}, tmp_path / 'consolidated.00-of-01.pth')
    with pytest.raises(CheckpointError, match='not readable'):
        load_model(tmp_path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_own_layout(tmp_path, dtype):
    model = tiny(upm={'router': 'constant'}, llm={'tied_embeddings': True},
                 tokenizer={'video_positions': True})
    save_model(model, tmp_path, dtype)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    for (name, a), b in zip(model.named_parameters(), loaded.parameters()):
        assert torch.equal(a.to(dtype).float(), b), name
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


def test_own_layout_is_strict(tmp_path, model):
    from safetensors.torch import load_file, save_file
    path = save_model(model, tmp_path)
    state = load_file(path)
    state['upm.more'] = state.pop('llm.norm.weight')
    state['encoder.class_embedding'] = torch.zeros(3)
    save_file(state, path)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path)
    for part in ('missing tensor llm.norm.weight', 'unknown tensor upm.more',
                 'encoder.class_embedding: expected shape [24], found [3]'):
        assert part in str(error.value)
    path.write_bytes(b'junk')
    with pytest.raises(CheckpointError, match='not readable as safetensors'):
        load_model(tmp_path)


def test_values_that_do_not_fit_are_not_written(tmp_path):
    model = tiny()
    with torch.no_grad():
        model.llm.norm.weight[0] = 1e6
    with pytest.raises(CheckpointError, match='llm.norm.weight .*not finite'):
        save_model(model, tmp_path, torch.float16)
    assert not list(tmp_path.iterdir())


def test_the_hash_follows_the_weights(tmp_path, model):
    save_model(model, tmp_path)
    first = weights_hash(tmp_path)
    assert len(first) == 12 and first == weights_hash(tmp_path)
    save_model(tiny(seed=2), tmp_path)
    assert weights_hash(tmp_path) != first


def test_int8_rows_come_back_within_half_a_step(tmp_path, model, monkeypatch):
    monkeypatch.setattr(storage, '_SMALLEST', 64)
    stored = safetensors.torch.load_file(save_model(model, tmp_path, torch.int8))
    loaded = load_model(tmp_path).state_dict()
    assert sum(name.endswith(storage.SCALE) for name in stored) > 50
    for name, value in model.state_dict().items():
        if name + storage.SCALE in stored:
            assert stored[name].dtype == torch.int8
            row = value.flatten(1) if value.shape[0] > 1 else value.flatten(0, -2)
            step = row.abs().amax(1) / 127
            off = (loaded[name].view_as(row) - row).abs().amax(1)
            assert (off <= step * 0.501 + 1e-9).all(), name
        else:
            torch.testing.assert_close(loaded[name], value.half().float())


def test_what_alignment_trains_is_coarse_and_the_rest_stands_apart(tmp_path, model, monkeypatch):
    monkeypatch.setattr(storage, '_SMALLEST', 64)
    fine = safetensors.torch.load_file(save_model(model, tmp_path, torch.int8))
    path = save_model(model, tmp_path, torch.int8, ('upm', 'llm'))
    apart = tmp_path / 'base.safetensors'
    assert weights_files(tmp_path) == [path, apart]
    coarse = safetensors.torch.load_file(path)
    assert {n.partition('.')[0] for n in coarse} == {'upm', 'llm'}
    base = safetensors.torch.load_file(apart)
    assert {n.partition('.')[0] for n in base} == {'encoder', 'tokenizers'}
    packed: dict[str, int] = {}
    for name in (n for n in fine if fine[n].dtype == torch.int8):
        assert fine[name].abs().max() == 127
        assert {**coarse, **base}[name].abs().max() == (31 if name in coarse else 127), name
        for key, found in (('fine', fine), ('coarse', coarse)):
            if name in coarse:
                packed[key] = packed.get(key, 0) + len(zlib.compress(found[name].numpy()))
    assert packed['coarse'] < 0.85 * packed['fine']
    loaded = load_model(tmp_path)
    for name, value in model.state_dict().items():
        assert (loaded.state_dict()[name] - value).abs().max() <= value.abs().max() / 60 + 1e-3
    # Trained further, the other file stays as it is; and the name of the weights tells both.
    before, name = apart.read_bytes(), weights_hash(tmp_path)
    with torch.no_grad():
        model.upm.tokens['image'].add_(1.0)
    save_model(model, tmp_path, torch.int8, ('upm', 'llm'))
    assert apart.read_bytes() == before and weights_hash(tmp_path) != name
    # A tensor in both files is an error; a model saved whole leaves no second file.
    safetensors.torch.save_file({**base, 'llm.norm.weight': coarse['llm.norm.weight']}, apart)
    with pytest.raises(CheckpointError, match='base.safetensors: found llm.norm.weight, which'):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match='found llm.norm.weight, which'):
        open_source(tmp_path)
    save_model(model, tmp_path, torch.int8)
    assert weights_files(tmp_path) == [path]


def test_int8_values_without_their_scales_are_named(tmp_path, model, monkeypatch):
    monkeypatch.setattr(storage, '_SMALLEST', 64)
    path = save_model(model, tmp_path, torch.int8)
    stored = safetensors.torch.load_file(path)
    name = next(n for n in stored if n.endswith(storage.SCALE))
    scales = stored.pop(name)
    safetensors.torch.save_file(stored, path)
    with pytest.raises(CheckpointError, match='of shape .* beside int8 values, found none'):
        load_model(tmp_path)
    lost = {'x' + storage.SCALE: scales.clone()}
    safetensors.torch.save_file({**stored, name: scales, **lost}, path)
    with pytest.raises(CheckpointError, match=r'x\.int8_scale: found scales'):
        load_model(tmp_path)
