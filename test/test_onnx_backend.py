"""The engine says the same on ONNX Runtime and on torch; which one computes is measured once."""

from __future__ import annotations

from dataclasses import replace
import importlib.util
from pathlib import Path

from golden.tiny import inputs, tiny
import pytest
import torch

from onellm_ros.inference import choosing
from onellm_ros.inference.backend import TorchBackend
from onellm_ros.inference.choosing import Seconds, decide, find_export
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError, find_model
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import load_model, save_model, weights_hash
from onellm_ros.model.text import train_tokenizer
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import World

pytest.importorskip('onnx', reason='needs onnx: pip install -r requirements/onnx.txt')
pytest.importorskip('onnxruntime',
                    reason='needs onnxruntime: pip install -r requirements/onnx.txt')

from onellm_ros.export.layout import MANIFEST, Manifest, read_manifest  # noqa: E402
from onellm_ros.export.write import export_model  # noqa: E402
from onellm_ros.inference.onnx_backend import MixedBackend, OnnxBackend  # noqa: E402

SENTENCES = ['A red box stands 1.5 metres ahead.', 'The robot turns left.', 'yes', 'no'] * 5
QUESTION = 'What is there?'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's cache out of the tests."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def export(folder: Path, target: Path) -> Manifest:
    """Export a model directory."""
    return export_model(load_model(folder), target, weights_hash=weights_hash(folder),
                        source=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a tiny model."""
    path = tmp_path / 'model'
    save_model(tiny(seed=2), path, torch.float32)
    train_tokenizer(SENTENCES, 300).save(str(path / 'tokenizer.json'))
    return path


@pytest.fixture(scope='module')
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Engine]:
    """Return nano on torch and, loaded from its export alone, on ONNX Runtime."""
    target = tmp_path_factory.mktemp('nano') / 'onnx'
    export(find_model('nano'), target)
    return Engine.load('nano', 'cpu', backend='torch'), Engine.load(target, 'cpu')


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Seconds], list[str]]:
    """Let measurements find what the test says; returns that and what was measured."""
    times: dict[str, Seconds] = {}
    asked: list[str] = []

    def measured(backend, config):
        asked.append(backend.name)
        return times[backend.name]

    plain = choosing.choose
    monkeypatch.setattr('onellm_ros.inference.engine.choose',
                        lambda *args: plain(*args, measured=measured))
    return times, asked


# -- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize('seed', [11, 12])
def test_nano_says_the_same(nano: tuple[Engine, Engine], seed: int) -> None:
    torchs, onnx = nano
    assert (onnx.backend.name, onnx.model, onnx.weights_hash) == (
        'onnx', None, torchs.weights_hash)
    assert onnx.config == torchs.config and onnx.modalities == torchs.modalities
    world = World(seed, held_out=True, camera=Camera(320, 240))
    seen = world.sample(cloud_points=4096, video=(4, 160, 120))
    samples = seen.chosen()
    tensors = torchs.preprocessor.tensors(samples, seen.stamp_ns, strict=False)
    assert set(tensors) == set(Modality)
    some = {m: tensors[m] for m in (Modality.DEPTH, Modality.AUDIO)}
    for window in (tensors, some, {}):
        one, two = torchs.encode(window), onnx.encode(window)
        assert (one.positions, one.modalities) == (two.positions, two.modalities)
        for modality, weights in one.expert_weights.items():
            assert two.expert_weights[modality] == pytest.approx(weights, abs=1e-4)
        said, same = torchs.describe(one), onnx.describe(two)
        assert (said.text, said.tokens, said.finish_reason) == (
            same.text, same.tokens, same.finish_reason)
        assert same.confidence == pytest.approx(said.confidence, abs=1e-3)
        history = [(torchs.config.text.describe_prompt, said.text)]
        asked = [e.ask(p, 'What is the robot doing?', history=history).text
                 for e, p in ((torchs, one), (onnx, two))]
        assert asked[0] == asked[1]
        choices = ['yes', 'no', 'it turns left on the spot']
        one, two = (e.ask(p, 'Does the robot move?', choices=choices)
                    for e, p in ((torchs, one), (onnx, two)))
        assert one.choice_index == two.choice_index
        assert two.choice_probabilities == pytest.approx(one.choice_probabilities, abs=1e-3)


def test_a_prefix_serves_many_answers_and_drawing_follows_the_seed(
        nano: tuple[Engine, Engine]) -> None:
    torchs, onnx = nano
    x = inputs(torchs.config)
    pictures = {m: x[m] for m in (Modality.IMAGE, Modality.IMU)}
    prefix = onnx.encode(pictures)
    stored = prefix.cache.buffer.clone()
    first = onnx.ask(prefix, QUESTION, temperature=0.8, seed=3, max_tokens=12)
    assert onnx.ask(prefix, QUESTION, temperature=0.8, seed=3, max_tokens=12).text == first.text
    assert torch.equal(prefix.cache.buffer, stored)
    expected = torchs.ask(torchs.encode(pictures), QUESTION, temperature=0.8, seed=3,
                          max_tokens=12)
    assert expected.text == first.text


def test_wrong_inputs_are_told_as_torch_tells_them(nano: tuple[Engine, Engine]) -> None:
    torchs, onnx = nano
    for modality, shape in (
            (Modality.IMAGE, (1, 3, 100, 112)), (Modality.IMAGE, (1, 4)),
            (Modality.VIDEO, (1, 9, 3, 112, 112)), (Modality.AUDIO, (1, 1, 128, 100)),
            (Modality.POINT, (1, 2048, 5)), (Modality.POINT, (1, 3, 6)),
            (Modality.IMU, (1, 6, 390)), (Modality.FMRI, (1, 1, 11)),
            (Modality.DEPTH, (1, 2, 1, 112, 112))):
        texts = []
        for engine in (torchs, onnx):
            with pytest.raises(EngineError) as error:
                engine.encode({modality: torch.randn(shape)})
            texts.append(str(error.value))
        if modality is Modality.POINT and shape[1] == 3:    # torch's is of the search
            assert 'expected at least 16 points, found 3' in texts[1]
        else:
            assert texts[0] == texts[1]
    with pytest.raises(EngineError, match='text, found none'):
        onnx.ask(onnx.encode({}), ' ')


def test_shorter_videos_and_other_first_frames(nano: tuple[Engine, Engine]) -> None:
    torchs, onnx = nano
    x = inputs(torchs.config)
    own = {**x, Modality.VIDEO: x[Modality.VIDEO][:, :2], Modality.NORMAL: torch.cat(
        [x[Modality.IMAGE][:, None], x[Modality.NORMAL][:, 1:]], 1)}
    with torch.inference_mode():
        one, two = torchs.backend.encode(own), onnx.backend.encode(own)
    for modality, tokens in one[0].items():
        torch.testing.assert_close(two[0][modality], tokens, atol=1e-4, rtol=0)


def test_caches_of_the_backend(nano: tuple[Engine, Engine]) -> None:
    backend = nano[1].backend
    cache = backend.prefill({}, 1).copy(4)
    backend.step([5, 6], cache)
    again = cache.copy(5)
    assert torch.equal(backend.step([7], cache), backend.step([7], again)) and cache.length == 4
    with pytest.raises(ValueError, match='expected room for 5 positions, found 4'):
        backend.step([7], cache)
    with pytest.raises(ValueError, match='expected room for 6 positions, found 5'):
        backend.step([7, 8], again)
    table = torch.tensor([[5, 6], [7, 8], [9, 9]])
    rows = backend.continuations(table, again)
    assert rows.shape[:2] == (3, 2) and again.length == 4
    alone = again.copy(6)
    torch.testing.assert_close(backend.step([9, 9], alone), rows[2, 1], atol=1e-4, rtol=0)


# -- which backend --------------------------------------------------------------------------------


def test_without_an_export_it_is_torch_at_once(
        folder: Path, fake_times: tuple[dict[str, Seconds], list[str]]) -> None:
    engine = Engine.load(folder, 'cpu')
    assert engine.backend.name == 'torch'
    assert engine.backend_why == 'no ONNX export of these weights (`onellm export` writes one)'
    assert not fake_times[1]
    with pytest.raises(EngineError, match='found no export of the weights .*onellm export'):
        Engine.load(folder, 'cpu', backend='onnx')
    with pytest.raises(EngineError, match="backend: expected one of auto, torch, onnx, found 'x'"):
        Engine.load(folder, 'cpu', backend='x')


def test_what_is_faster_is_measured_once_and_taken(
        folder: Path, home: Path, fake_times: tuple[dict[str, Seconds], list[str]]) -> None:
    times, asked = fake_times
    export(folder, folder / 'onnx')
    times |= {'torch': Seconds(0.03, 0.02), 'onnx': Seconds(0.01, 0.03)}
    engine = Engine.load(folder, 'cpu')
    assert engine.backend.name == 'onnx + torch' and asked == ['torch', 'onnx'] * 2
    assert engine.backend_why == ('measured now: torch 30 ms to encode and 20 ms to answer, '
                                  'onnx 10 ms to encode and 30 ms to answer')
    again = Engine.load(folder, 'cpu')
    assert again.backend.name == 'onnx + torch' and len(asked) == 4
    assert again.backend_why.startswith('measured before: ')
    assert Engine.load(folder, 'cpu', backend='torch').backend.name == 'torch'
    assert Engine.load(folder, 'cpu', threads=2).backend.name == 'onnx + torch'
    assert len(asked) == 8      # other threads, other times
    # both of its parts give what torch alone gives
    x = {m: v for m, v in inputs(engine.config).items() if m is not Modality.FMRI}
    plain = Engine.load(folder, 'cpu', backend='torch')
    assert engine.describe(engine.encode(x)).text == plain.describe(plain.encode(x)).text
    # a record that was cut short is measured anew
    for record in home.rglob('backends/*.json'):
        record.write_text('{')
    times['onnx'] = Seconds(0.01, 0.01)
    whole = Engine.load(folder, 'cpu')
    assert whole.backend.name == 'onnx' and len(asked) == 12


def test_an_export_of_other_weights_or_another_config_is_not_taken(folder: Path) -> None:
    export(folder, folder / 'onnx')
    short = weights_hash(folder)
    assert find_export(folder, short) == folder / 'onnx'
    assert Engine.load(folder, 'cpu', backend='onnx').backend.name == 'onnx'
    assert find_export(folder, 'other') is None
    path = folder / 'config.json'
    path.write_text(path.read_text().replace('Describe what you sense.', 'Say it.'))
    assert find_export(folder, short) is None
    export(folder, folder / 'onnx')
    assert find_export(folder, short) is not None
    replace(read_manifest(folder / 'onnx'), precision='int8').write(folder / 'onnx')
    assert find_export(folder, short) is None       # never taken as equal
    assert Engine.load(folder / 'onnx', 'cpu').backend.name == 'onnx int8'


def test_what_cannot_be_used_leaves_torch(
        folder: Path, monkeypatch: pytest.MonkeyPatch,
        fake_times: tuple[dict[str, Seconds], list[str]]) -> None:
    export(folder, folder / 'onnx')
    (folder / 'onnx' / 'decoder.onnx').write_bytes(b'cut')
    engine = Engine.load(folder, 'cpu')
    assert engine.backend.name == 'torch'
    assert engine.backend_why.startswith('ONNX Runtime cannot be used: ')
    with pytest.raises(EngineError, match='decoder.onnx: ONNX Runtime .* cannot load it'):
        Engine.load(folder / 'onnx', 'cpu')
    with pytest.raises(EngineError, match='holds ONNX graphs alone'):
        Engine.load(folder / 'onnx', 'cpu', backend='torch')
    (folder / 'onnx' / MANIFEST).write_text('{}')
    assert 'no ONNX export' in Engine.load(folder, 'cpu').backend_why
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: (
        None if name == 'onnxruntime' else found(name, *args)))
    assert Engine.load(folder, 'cpu').backend_why == 'onnxruntime is not installed'


@pytest.mark.parametrize(('torchs', 'onnx', 'expected'), [
    ((3, 2), (1, 1), 'onnx'), ((3, 2), (1, 3), 'onnx + torch'), ((1, 1), (2, 2), 'torch'),
    ((1, 1), (0.99, 0.99), 'torch')])
def test_deciding(torchs: tuple[float, float], onnx: tuple[float, float], expected: str) -> None:
    assert decide({'torch': Seconds(*torchs), 'onnx': Seconds(*onnx)}) == expected


def test_the_measurement_measures(nano: tuple[Engine, Engine]) -> None:
    torchs, onnx = nano
    assert isinstance(torchs.backend, TorchBackend) and isinstance(onnx.backend, OnnxBackend)
    mixed = MixedBackend(onnx.backend, torchs.backend)
    with torch.inference_mode():
        for backend in (torchs.backend, onnx.backend, mixed):
            found = choosing.measure(backend, torchs.config, repeats=1)
            assert 0 < found.encode < 5 and 0 < found.language < 5
