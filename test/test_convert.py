"""Conversion of weights between layouts: bit for bit, whole or not at all, in bounded memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile

from golden.tiny import inputs, tiny
import pytest
from safetensors.torch import load_file
import torch

from onellm_ros.cli import main as cli
from onellm_ros.config import RopeScaling
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import load_model, save_model, weights_hash
from onellm_ros.model.released import released_state
from onellm_ros.verify import verify
from onellm_ros.weights import tensors
from onellm_ros.weights.convert import to_hugging_face, to_released
from onellm_ros.weights.errors import WeightsError
from onellm_ros.weights.output import Output
from onellm_ros.weights.sources import open_source
from onellm_ros.weights.tensors import Item, write_safetensors, write_torch

CONFIG = {
    'llm': {'dim': 32, 'n_layers': 2, 'n_heads': 4, 'n_kv_heads': 2, 'vocab_size': 300,
            'multiple_of': 16, 'norm_eps': 1e-5, 'rope_theta': 10000.0, 'max_seq_len': 256},
    'encoder': {'width': 24, 'layers': 2, 'heads': 3, 'patch_size': 5, 'image_size': 20,
                'mlp_ratio': 3, 'activation': 'quick_gelu'},
    'upm': {'experts': 2, 'layers': 2, 'heads': 2, 'modality_tokens': 5, 'multiple_of': 8},
    'fmri_voxels': 11, 'points': 40, 'point_neighbours': 5, 'audio_mels': 20, 'audio_frames': 36,
    'audio_stride': 6, 'imu_samples': 30}


@pytest.fixture(scope='module')
def state():
    """Return a released checkpoint of mixed types with tensors that no model uses."""
    model = tiny(seed=5)
    values = released_state(model, model.config)
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    values = {k: v.to(torch.float16 if '.layers.' in k else kinds[i % 3])
              for i, (k, v) in enumerate(values.items())}
    return values | {
        'llma.clip.visual.proj': torch.randn(24, 16), 'llma.clip.logit_scale': torch.tensor(4.6),
        'llma.clip.token_embedding.weight': torch.randn(11, 16).half(),
        'llma.rope.freqs': torch.arange(4)}


@pytest.fixture
def released(tmp_path, state):
    folder = tmp_path / 'released'
    folder.mkdir()
    torch.save(state, folder / 'consolidated.00-of-01.pth')
    (folder / 'config.json').write_text(json.dumps(CONFIG))
    return folder


def _same_bits(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert bytes(tensors.raw(found[name])) == bytes(tensors.raw(value)), name


def _same_answers(a, b):
    """The same weights to the last bit, and the same sums (but for how memory is aligned)."""
    _same_bits(a.state_dict(), b.state_dict())
    words = torch.arange(9)[None]
    with torch.inference_mode():
        for m, x in inputs(a.config).items():
            torch.testing.assert_close(a.encode(m, x).tokens, b.encode(m, x).tokens)
        torch.testing.assert_close(a.llm(a.llm.embed(words)), b.llm(b.llm.embed(words)))


def test_there_and_back_gives_every_bit(released, state, tmp_path, capsys):
    there, back = tmp_path / 'there', tmp_path / 'back'
    assert cli(['convert', str(released), str(there), '--shard-size', '0.00002']) == 0
    said = capsys.readouterr()
    assert f'{there}: ' in said.out and 'put its tokenizer.model' in said.err
    assert len(list((there / 'llm').glob('model-*.safetensors'))) > 2
    _same_answers(load_model(there), load_model(released))
    assert cli(['convert', str(there), str(back), '--to', 'released']) == 0
    found = torch.load(back / 'consolidated.00-of-01.pth', mmap=True, weights_only=True)
    assert list(found) == list(state)
    _same_bits(found, state)
    assert (back / 'config.json').read_bytes() == (released / 'config.json').read_bytes()
    with zipfile.ZipFile(back / 'consolidated.00-of-01.pth') as archive:
        assert archive.testzip() is None
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


def test_transformers_reads_the_language_model(released, tmp_path):
    transformers = pytest.importorskip('transformers')
    to_hugging_face(open_source(released), tmp_path / 'there')
    theirs, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / 'there' / 'llm', dtype=torch.float32, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys']
    ours = load_model(tmp_path / 'there').llm
    ids = torch.arange(40)[None] * 7
    with torch.inference_mode():
        torch.testing.assert_close(ours(ours.embed(ids)), theirs.eval()(ids).logits, atol=1e-4,
                                   rtol=0)
    config = json.loads((tmp_path / 'there' / 'llm' / 'config.json').read_text())
    assert (config['torch_dtype'], config['num_key_value_heads']) == ('float16', 2)


def test_the_reference_implementation_agrees_after_both_ways(parity, tmp_path):
    there, back = tmp_path / 'there', tmp_path / 'back'
    to_hugging_face(open_source(parity / 'small'), there)
    to_released(open_source(there), back)
    for folder in (there, back):
        shutil.copy(parity / 'small' / 'expected.safetensors', folder)
        report = verify(folder)
        assert report.ok, '\n'.join(report.lines())
    name = 'consolidated.00-of-01.pth'
    _same_bits(torch.load(back / name, weights_only=True),
               torch.load(parity / 'small' / name, weights_only=True))


def test_a_checkpoint_in_the_older_format_of_torch(released, state, tmp_path):
    torch.save(state, released / 'consolidated.00-of-01.pth', _use_new_zipfile_serialization=False)
    to_hugging_face(open_source(released / 'consolidated.00-of-01.pth'), tmp_path / 'there')
    _same_answers(load_model(tmp_path / 'there'), load_model(released))


def test_a_model_of_our_own_both_ways(tmp_path):
    model = tiny(seed=3, llm={'tied_embeddings': True, 'rope_theta': 500.0})
    save_model(model, tmp_path / 'own', torch.float32)
    for steps in (('hf', 'released', 'hf'), ('released',)):
        at = tmp_path / 'own'
        for i, step in enumerate(steps):
            target = tmp_path / f'{step}-{len(steps)}-{i}'
            (to_released if step == 'released' else to_hugging_face)(open_source(at), target)
            _same_answers(load_model(target), load_model(at))
            at = target
    assert (tmp_path / 'own' / 'config.json').is_file()


def test_int8_weights_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setattr('onellm_ros.model.storage._SMALLEST', 64)
    save_model(tiny(), tmp_path / 'own', torch.int8)
    to_hugging_face(open_source(tmp_path / 'own'), tmp_path / 'there')
    _same_answers(load_model(tmp_path / 'there'), load_model(tmp_path / 'own'))
    assert {v.dtype for v in load_file(tmp_path / 'there' / 'model.safetensors').values()} == {
        torch.float16, torch.float32}


def test_unused_tensors_may_be_left_out(released, state, tmp_path):
    there, back = tmp_path / 'there', tmp_path / 'back'
    assert cli(['convert', str(released), str(there), '--drop-unused']) == 0
    assert not (there / 'released' / 'unused.safetensors').exists()
    to_released(open_source(there), back)
    found = torch.load(back / 'consolidated.00-of-01.pth', weights_only=True)
    assert set(state) - set(found) == {k for k in state if 'clip.t' in k or 'proj' in k[-5:]
                                       and 'visual.proj' in k or 'logit' in k or 'freqs' in k}


def test_tokenizers_go_along(released, tmp_path):
    sentencepiece = pytest.importorskip('sentencepiece')
    import io
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['A red box stands ahead.'] * 20), model_writer=pieces,
        vocab_size=280, model_type='bpe', byte_fallback=True, minloglevel=2)
    (released / 'tokenizer.model').write_bytes(pieces.getvalue())
    there = tmp_path / 'there'
    to_hugging_face(open_source(released), there)
    from onellm_ros.inference.engine import Engine
    engine = Engine.load(there, 'cpu')
    answer = engine.ask(engine.encode({}), 'What is ahead?', max_tokens=3)
    assert answer.tokens <= 3 and engine.weights_hash == weights_hash(there)
    assert engine.text.bos == 1
    theirs = pytest.importorskip('transformers').AutoTokenizer.from_pretrained(there / 'llm')
    ids = theirs('A red box')['input_ids']
    assert ids == [1, *engine.text.encode('A red box')]
    to_released(open_source(there), tmp_path / 'back')
    assert (tmp_path / 'back' / 'tokenizer.model').read_bytes() == pieces.getvalue()
    assert not (tmp_path / 'back' / 'tokenizer_config.json').exists()


@pytest.mark.parametrize('llm, text', [
    ({'qkv_bias': True}, 'llm.qkv_bias: found True; the released layout has no place'),
    ({'sliding_window': 4}, 'llm.sliding_window: found 4'),
    ({'head_dim': 6}, 'llm.head_dim: found 6'),
    ({'rope': RopeScaling('linear', 2.0)}, 'llm.rope: found'),
])
def test_what_the_released_layout_cannot_say(llm, text, tmp_path):
    save_model(tiny(llm=llm), tmp_path / 'own')
    with pytest.raises(WeightsError, match=text):
        to_released(open_source(tmp_path / 'own'), tmp_path / 'back')
    assert not (tmp_path / 'back').exists()


def test_tensors_that_the_released_layout_has_no_place_for(tmp_path):
    save_model(tiny(tokenizer={'video_positions': True}), tmp_path / 'own')
    with pytest.raises(WeightsError, match='tokenizers.video_positions .*no place'):
        to_released(open_source(tmp_path / 'own'), tmp_path / 'back')


@pytest.mark.parametrize('change, text', [
    (lambda f: (f / 'config.json').unlink(), 'config.json: file not found|expected config.json'),
    (lambda f: (f / 'consolidated.00-of-01.pth').write_bytes(b'x'), 'not readable as a torch'),
    (lambda f: (f / 'consolidated.00-of-01.pth').unlink(), 'found neither'),
    (shutil.rmtree, 'no such directory'),
])
def test_sources_that_cannot_be_read(released, tmp_path, change, text, capsys):
    import re
    change(released)
    assert cli(['convert', str(released), str(tmp_path / 'there')]) == 2
    said = capsys.readouterr().err
    assert re.search(text, said) and 'Traceback' not in said
    assert not (tmp_path / 'there').exists()


def test_an_existing_directory_is_kept_unless_forced(released, tmp_path, capsys):
    there = tmp_path / 'there'
    there.mkdir()
    (there / 'config.json').write_text('{}')
    assert cli(['convert', str(released), str(there)]) == 2
    assert 'exists; give another name, or --force' in capsys.readouterr().err
    assert (there / 'config.json').read_text() == '{}'
    assert cli(['convert', str(released), str(there), '--force']) == 0
    load_model(there)
    (there / 'notes.txt').write_text('mine')
    assert cli(['convert', str(released), str(there), '--force']) == 2
    assert "it holds 'notes.txt'" in capsys.readouterr().err
    assert (there / 'notes.txt').read_text() == 'mine'
    for target in (released, released / 'x', tmp_path):
        assert cli(['convert', str(released), str(target), '--force']) == 2
        assert 'beside what is read' in capsys.readouterr().err
    assert cli(['convert', str(released), str(there / 'config.json')]) == 2
    assert 'is no directory' in capsys.readouterr().err


@pytest.mark.parametrize('force', [False, True])
def test_a_full_disk_leaves_nothing_and_keeps_what_was(released, tmp_path, monkeypatch, capsys,
                                                       force):
    there = tmp_path / 'there'
    if force:
        to_hugging_face(open_source(released), there)
        before = weights_hash(there)
    written = []

    def full(path, *args):
        written.append(path)
        path.write_bytes(b'half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('onellm_ros.weights.convert.write_safetensors', full)
    assert cli(['convert', str(released), str(there), '--force']) == 2
    said = capsys.readouterr().err
    assert 'no room left while writing' in said and 'removed' in said and written
    assert sorted(p.name for p in tmp_path.iterdir()) == ['released'] + ['there'] * force
    if force:
        assert weights_hash(there) == before


def test_room_is_looked_for_first(released, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    assert cli(['convert', str(released), str(tmp_path / 'there')]) == 2
    assert 'GB are needed, 0.00 GB are free; nothing was written' in capsys.readouterr().err
    assert not (tmp_path / 'there').exists()


def test_what_a_killed_process_left_is_removed(tmp_path):
    done = subprocess.Popen([sys.executable, '-c', ''])
    done.wait()
    dead, alive = tmp_path / f'.x.part-{done.pid}', tmp_path / f'.x.part-{os.getppid()}'
    dead.mkdir()
    alive.mkdir()
    with Output(tmp_path / 'x') as folder:
        (folder / 'config.json').write_text('{}')
        assert not dead.exists() and alive.exists()
    assert (tmp_path / 'x' / 'config.json').is_file()
    with pytest.raises(KeyboardInterrupt), Output(tmp_path / 'y') as folder:
        raise KeyboardInterrupt
    assert sorted(p.name for p in tmp_path.iterdir()) == [alive.name, 'x']


def test_values_are_read_in_groups_and_let_go(tmp_path, monkeypatch):
    """A file larger than a group never has more than one group's tensors alive."""
    monkeypatch.setattr(tensors, 'GROUP', 400)
    items = [Item(f't{i}', torch.float32 if i % 2 else torch.float16, (i, 7)) for i in range(20)]
    values = {item.name: torch.randn(item.shape).to(item.dtype) for item in items}
    asked = []

    def read(names):
        size = sum(values[n].nbytes for n in names)
        assert size <= 400 or len(names) == 1
        asked.extend(names)
        return (values[n] for n in names)

    for write, load in ((write_safetensors, load_file), (
            write_torch, lambda p: torch.load(p, weights_only=True, mmap=True))):
        asked.clear()
        told = []
        write(tmp_path / 'file.pth', items, read, told.append)
        assert sum(told) == sum(item.bytes for item in items) and len(asked) == 20
        _same_bits(load(tmp_path / 'file.pth'), values)
    with pytest.raises(WeightsError, match='t0: expected torch.float16'):
        write_torch(tmp_path / 'file.pth', items, lambda names: iter(values[n].double()
                                                                     for n in names), told.append)


def test_modalities_are_all_converted(released):
    names = set(open_source(released).items)
    assert all(any(m.value in n for n in names) for m in Modality)
