"""A window in one packed pass gives what the plain path gives, and nothing is computed twice."""

from __future__ import annotations

from dataclasses import replace
import gc
import importlib.util
from pathlib import Path
import pickle
import threading
import weakref

from golden.tiny import inputs, tiny
import numpy as np
import pytest
import torch

from onellm_ros.choose import Selection
from onellm_ros.config import NANO
from onellm_ros.inference.encoding import WindowEncoder
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality, Sample
from onellm_ros.model import fast_linear, packing
from onellm_ros.model.modality_tokenizers import PICTURES
from onellm_ros.model.points import farthest_points
from onellm_ros.model.projection import ROUTERS
from onellm_ros.perception.answering import Answerer
from onellm_ros.preprocess import Preprocessor
from onellm_ros.preprocess.kept import Kept

IMAGE, VIDEO, DEPTH, NORMAL, POINT = (
    Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL, Modality.POINT)


def _plain():
    path = Path(__file__).resolve().parents[1] / 'benchmarks' / '_plain_encode.py'
    spec = importlib.util.spec_from_file_location('_plain_encode', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = _plain()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _same(found, expected, atol=2e-5):
    assert list(found) == list(expected)
    for modality, encoded in found.items():
        tokens, weights = expected[modality]
        torch.testing.assert_close(encoded.tokens, tokens, rtol=0, atol=atol)
        torch.testing.assert_close(encoded.expert_weights, weights, rtol=0, atol=atol)


@pytest.mark.parametrize('parts', [
    *({'upm': {'router': router}} for router in ROUTERS),
    {'encoder': {'activation': 'gelu'}, 'upm': {'experts': 1, 'layers': 1}},
    {'tokenizer': {'video_positions': True}, 'upm': {'layers': 3}}])
@pytest.mark.parametrize('batch', [1, 3])
def test_all_at_once_is_what_one_after_another_gives(parts, batch):
    model = tiny(**parts)
    given = {m: torch.cat([x * (1 - 0.2 * i) + 0.1 * i for i in range(batch)])
             for m, x in inputs(model.config).items()}
    for modality in (DEPTH, NORMAL):        # beside the colour picture that is the image
        given[modality][:, 0] = given[IMAGE]
    expected = plain.window(model, given)
    _same(model.encode_all(given), expected)
    backwards = dict(reversed(given.items()))
    _same(model.encode_all(backwards), {m: expected[m] for m in backwards})
    for modality in given:
        _same(model.encode_all({modality: given[modality]}), {modality: expected[modality]})
    assert model.encode_all({}) == {}


def test_bfloat16_comes_as_near_as_its_precision():
    model = tiny(seed=2).bfloat16()
    given = inputs(model.config)
    _same(model.encode_all(given), plain.window(model, given), atol=0.06)


def test_a_sparse_router_asks_only_experts_that_somebody_needs(monkeypatch):
    model = tiny(upm={'router': 'sparse'})
    given = inputs(model.config)
    expected = plain.window(model, given)
    asked = []
    plainly = packing._expert
    monkeypatch.setattr(packing, '_expert', lambda expert, x, *rest: (
        asked.append(len(x)), plainly(expert, x, *rest))[1])
    for modality, x in given.items():
        asked.clear()
        _same(model.encode_all({modality: x}), {modality: expected[modality]})
        assert len(asked) == int((expected[modality][1][0] > 0).sum())


def test_gradients_and_wrapped_parts_take_the_modules_themselves():
    model = tiny()
    given = inputs(model.config)
    assert packing.can_pack(model)
    with torch.enable_grad():
        assert not packing.can_pack(model)
        found = model.encode_all(given)
        sum(e.tokens.square().sum() for e in found.values()).backward()
    assert model.encoder.blocks[0].qkv.weight.grad.abs().sum() > 0
    _same(found, plain.window(model, given))
    seen = []
    hook = model.upm.experts[1].blocks[0].register_forward_hook(lambda *_: seen.append(1))
    assert not packing.can_pack(model)
    model.encode_all(given)
    assert len(seen) == len(given)
    hook.remove()
    assert packing.can_pack(model)
    with torch.autocast('cpu', torch.bfloat16):
        assert not packing.can_pack(model)


def test_a_linear_map_is_the_same_through_either_library(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip('this torch has no oneDNN')
    monkeypatch.setattr(fast_linear, '_onednn_is_faster', lambda: True)
    torch.manual_seed(0)
    for bias in (True, False):
        module = torch.nn.Linear(48, 20, bias=bias)
        x = torch.randn(100, 96)[:, ::2]                        # not contiguous
        torch.testing.assert_close(fast_linear.linear(module, x), module(x), rtol=0, atol=1e-5)
        with torch.enable_grad():
            assert fast_linear.linear(module, x).requires_grad
        with torch.autocast('cpu', torch.bfloat16):
            assert fast_linear.linear(module, x).dtype is torch.bfloat16
        half = module.bfloat16()
        assert fast_linear.linear(half, x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize('size', [28, 31])
def test_a_convolution_of_patches_is_the_same_as_a_product(monkeypatch, size):
    if not torch.backends.mkldnn.is_available():
        pytest.skip('this torch has no oneDNN')
    monkeypatch.setattr(fast_linear, '_onednn_is_faster', lambda: True)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 10, 7, 7, bias=False)
    for pictures in (torch.randn(4, 3, size, size), torch.randn(4, 2, 3, size, size)[:, 1]):
        expected = conv(pictures).flatten(2).transpose(1, 2)
        torch.testing.assert_close(fast_linear.patches(conv, pictures), expected, rtol=0,
                                   atol=1e-5)
        with torch.enable_grad():
            assert fast_linear.patches(conv, pictures).requires_grad
    marked = torch.nn.Conv2d(3, 10, 7, 5, bias=False)           # overlapping: no product of rows
    assert fast_linear.patches(marked, pictures).shape[1] == ((size - 7) // 5 + 1) ** 2


def test_farthest_points_are_those_that_torch_alone_finds(monkeypatch):
    clouds = torch.rand(2, 300, 3, generator=torch.Generator().manual_seed(1))
    clouds[1, 150:] = clouds[1, :150].clone()                   # ties
    fast = farthest_points(clouds, 80)
    monkeypatch.setattr('onellm_ros.model.points._on_host', lambda _: False)
    assert torch.equal(fast, farthest_points(clouds, 80))


# -- what is kept ---------------------------------------------------------------------------------


def _samples(seed=0, count=6):
    rng = np.random.default_rng(seed)
    rgb = [Sample(i * 10**8, rng.integers(0, 255, (48, 64, 3), np.uint8)) for i in range(count)]
    depth = [Sample(s.stamp_ns, rng.uniform(0.5, 5, (48, 64)).astype(np.float32),
                    intrinsics=(50.0, 50.0, 32.0, 24.0)) for s in rgb]
    cloud = [Sample(s.stamp_ns, rng.uniform(-2, 2, (900, 6)).astype(np.float32)) for s in rgb]
    imu = [Sample(i * 5 * 10**6, rng.normal(0, 1, 6)) for i in range(120)]
    return rgb, depth, cloud, imu


@pytest.fixture(scope='module')
def nano():
    return Engine.load('nano', 'cpu')


def _count_sequences(monkeypatch):
    """Return a list of how many sequences each packed pass has encoded."""
    passes = []
    encode = packing.encode
    monkeypatch.setattr(packing, 'encode', lambda encoder, parts: (
        passes.append(sum(len(tokens) for tokens, _ in parts)), encode(encoder, parts))[1])
    return passes


def _close(one, other):
    assert one.modalities == other.modalities
    for m, weights in one.expert_weights.items():
        np.testing.assert_allclose(weights, other.expert_weights[m], atol=1e-5)
    assert one.positions == other.positions


def test_windows_that_share_samples_encode_only_what_is_new(nano, monkeypatch):
    passes = _count_sequences(monkeypatch)
    nano.forget()
    rgb, depth, cloud, imu = _samples()
    first = {IMAGE: rgb[3:4], DEPTH: depth[3:4], POINT: cloud[:1], Modality.IMU: imu}
    made = nano.preprocessor.tensors(first, 6 * 10**8)
    assert set(made) == {IMAGE, POINT, DEPTH, NORMAL, Modality.IMU}
    prefix = nano.encode(made)
    assert passes == [5]                    # rgb once, depth, normals, cloud, IMU
    again = nano.encode(nano.preprocessor.tensors(first, 6 * 10**8))
    assert passes == [5] and again.positions == prefix.positions
    _close(again, prefix)
    part = nano.encode(nano.preprocessor.tensors(first, 6 * 10**8).only({DEPTH, POINT}))
    assert passes == [5] and set(part.modalities) == {DEPTH, POINT}

    # A new depth picture beside the same colour picture; the same cloud; the IMU moved on.
    second = {**first, DEPTH: depth[4:5]}
    made = nano.preprocessor.tensors(second, 7 * 10**8)
    kept = nano.encode(made)
    assert passes == [5, 3]                 # depth, its normals, the IMU
    fresh = Preprocessor.from_config(nano.config).tensors(second, 7 * 10**8)
    assert all(torch.equal(fresh[m], made[m]) for m in made)
    _close(kept, nano.encode(dict(fresh)))  # without origins everything is encoded anew
    assert passes[2:] == [5]


def test_frames_of_a_video_recur_only_where_they_have_no_marks(monkeypatch):
    passes = _count_sequences(monkeypatch)
    rgb = _samples(count=8)[0]
    # With marks a frame at another place is another one, and so is the image, which has none.
    for marked, expected in ((False, [5, 1]), (True, [6, 6])):
        passes.clear()
        model = tiny(tokenizer={'video_positions': marked, 'video_frames': 5})
        config = replace(model.config.tokenizer, image_fit='squash')
        preprocessor = Preprocessor(config, model.config.encoder.image_size)
        encoder = WindowEncoder()
        backend = _Backend(model)
        for at in (0, 1):       # the newest frame of the video is the image
            chosen = {IMAGE: rgb[at + 4:at + 5], VIDEO: rgb[at:at + 5]}
            made = preprocessor.tensors(chosen, 10**9)
            tokens, _ = encoder.encode(backend, made, made.origins)
            theirs = plain.window(model, dict(made))
            for m, found in tokens.items():
                torch.testing.assert_close(found, theirs[m][0], rtol=0, atol=2e-5)
        assert passes == expected


class _Backend:
    takes_frames, device = True, torch.device('cpu')

    def __init__(self, model):
        self.model = model

    def encode(self, inputs, frames=None, store=None):
        found = self.model.encode_all(inputs, frames, store)
        return ({m: e.tokens for m, e in found.items()},
                {m: tuple(e.expert_weights[0].tolist()) for m, e in found.items()})


def test_an_equal_picture_of_another_sample_is_another_one(nano, monkeypatch):
    passes = _count_sequences(monkeypatch)
    nano.forget()
    rgb = _samples()[0]
    nano.encode(nano.preprocessor.tensors({IMAGE: rgb[:1]}, 10**9))
    nano.encode(nano.preprocessor.tensors({IMAGE: [replace(rgb[0])]}, 10**9))
    assert passes == [1, 1]
    # An input that was replaced has no origin any more; so has one from another preprocessor.
    made = nano.preprocessor.tensors({IMAGE: rgb[:1]}, 10**9)
    made[IMAGE] = made[IMAGE] * 0.5
    assert IMAGE not in made.origins
    nano.encode(made)
    nano.encode(Preprocessor.from_config(nano.config).tensors({IMAGE: rgb[:1]}, 10**9))
    assert passes == [1, 1, 1, 1]


def test_what_is_kept_lives_no_longer_than_its_samples_and_is_bounded(nano):
    nano.forget()
    rgb, depth, *_ = _samples()
    alive = weakref.ref(rgb[0])
    nano.encode(nano.preprocessor.tensors({IMAGE: rgb[:1], DEPTH: depth[:1]}, 10**9))
    held = nano._windows.kept.bytes
    assert held > 0 and nano.preprocessor.kept.bytes > 0
    del rgb[0], depth[0]
    gc.collect()
    assert alive() is None                  # a key holds no sample
    nano.encode(nano.preprocessor.tensors({IMAGE: rgb[:1], DEPTH: depth[:1]}, 10**9))
    assert nano._windows.kept.bytes == held
    nano.forget()
    assert nano._windows.kept.bytes == nano.preprocessor.kept.bytes == 0

    kept = Kept(100)
    owner = Sample(0, np.zeros(1))
    for i in range(50):
        kept.put(i, i, 30, (weakref.ref(owner),))
        assert kept.get(0 if i < 3 else i) is not None          # the one used last stays
    assert kept.bytes == 90 and len(kept) == 3
    kept.put('large', 1, 101, ())
    assert kept.get('large') is None and kept.bytes == 90
    assert len(pickle.loads(pickle.dumps(kept))) == 0


def test_what_is_made_of_samples_that_have_gone_is_not_looked_up():
    kept, sample = Kept(100), Sample(1, np.zeros(3))
    key = ('picture', weakref.ref(sample))      # never looked up while it lived
    kept.put(('another',), 1, 10, ())
    del sample
    gc.collect()
    assert kept.get(key) is None
    kept.put(key, 2, 10, (key[1],))
    assert kept.get(('another',)) == 1 and len(kept) == 1


def test_inputs_can_be_sent_elsewhere_without_their_origins(nano):
    made = nano.preprocessor.tensors({IMAGE: _samples()[0][:1]}, 10**9)
    copy = pickle.loads(pickle.dumps(made))
    assert made.origins and not copy.origins
    assert torch.equal(copy[IMAGE], made[IMAGE])


def test_a_question_about_a_part_of_a_described_window_encodes_nothing(nano, monkeypatch):
    passes = _count_sequences(monkeypatch)
    rgb, depth, cloud, imu = _samples()
    window = Selection(0, 6 * 10**8, 0, {IMAGE: rgb[:1], DEPTH: depth[:1], POINT: cloud[:1],
                                         Modality.IMU: imu})
    answerer = Answerer(nano, frozenset({IMAGE, DEPTH, POINT, Modality.IMU}))
    answerer.forget()
    whole, _ = answerer._encoded(window)
    assert passes == [4] and NORMAL not in whole.prefix.modalities
    part, fresh = answerer._encoded(window, frozenset({IMAGE, Modality.IMU}))
    assert passes == [4] and fresh
    assert part.prefix.modalities == (IMAGE, Modality.IMU)
    # Depth without the picture that stood beside it is another input of a frame that is known.
    answerer._encoded(window, frozenset({DEPTH}))
    assert passes == [4]
    answerer.forget()
    answerer._encoded(window, frozenset({IMAGE}))
    assert passes == [4, 1]


def test_changing_an_input_leaves_what_is_kept_alone(nano):
    rgb, depth, cloud, _ = _samples(4)
    chosen = {IMAGE: rgb[:1], DEPTH: depth[:1], POINT: cloud[:1], VIDEO: rgb}
    before = {m: x.clone() for m, x in nano.preprocessor.tensors(chosen, 10**9).items()}
    for x in nano.preprocessor.tensors(chosen, 10**9).values():
        x.zero_()
    after = nano.preprocessor.tensors(chosen, 10**9)
    assert all(torch.equal(before[m], x) for m, x in after.items())


def test_normals_that_nobody_looks_at_are_not_computed():
    rgb, depth, *_ = _samples()
    preprocessor = Preprocessor.from_config(NANO)
    chosen = {IMAGE: rgb[:1], DEPTH: depth[:1]}
    assert NORMAL in preprocessor.tensors(chosen, 10**9)
    assert NORMAL not in preprocessor.tensors({**chosen, NORMAL: ()}, 10**9)


def test_threads_may_encode_at_once(nano):
    nano.forget()
    rgb, depth, cloud, imu = _samples(7)
    windows = [{IMAGE: rgb[i:i + 1], DEPTH: depth[i:i + 1], POINT: cloud[i:i + 1]}
               for i in range(6)]
    expected = [nano.encode(dict(nano.preprocessor.tensors(w, 10**9))) for w in windows]
    wrong = []

    def work(order):
        try:
            for i in order:
                _close(nano.encode(nano.preprocessor.tensors(windows[i], 10**9)), expected[i])
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(order,))
               for order in ((0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 0, 4, 1, 5, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pictures_are_all_that_has_frames(nano):
    rgb, depth, cloud, imu = _samples()
    made = nano.preprocessor.tensors(
        {IMAGE: rgb[:1], VIDEO: rgb, DEPTH: depth[:1], POINT: cloud[:1], Modality.IMU: imu},
        6 * 10**8)
    for modality, origin in made.origins.items():
        assert bool(origin.frames) == (modality in PICTURES)
        if origin.frames and modality is not IMAGE:
            assert len(origin.frames) == made[modality].shape[1]
    assert made.origins[DEPTH].frames[0] == made.origins[IMAGE].frames[0]
    assert made.origins[NORMAL].frames[1] != made.origins[DEPTH].frames[1]
