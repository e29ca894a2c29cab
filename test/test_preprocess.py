"""Preprocessing of pictures, depth, normals, clouds, fMRI, and of whole windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onellm_ros.config import NANO, ModelConfig, TokenizerConfig
from onellm_ros.modality import Modality, Sample
from onellm_ros.preprocess import (
    NoMeasurementError,
    PreprocessError,
    Preprocessor,
    denormalise,
    depth_picture,
    depth_tensor,
    fmri_tensor,
    image_tensor,
    merge_clouds,
    normal_picture,
    normal_tensor,
    normals_from_depth,
    point_tensor,
    video_tensor,
)
from onellm_ros.preprocess.image import spread_indices

FX = (200.0, 200.0, 80.0, 60.0)
RNG = np.random.default_rng(1)
SMOOTH = np.stack(np.meshgrid(np.linspace(0, 255, 160), np.linspace(0, 255, 120)), -1)
RGB = np.concatenate([SMOOTH, np.full((120, 160, 1), 90)], -1).astype(np.uint8)


def test_image_has_clip_statistics_and_size():
    grey = np.full((90, 120, 3), 128, np.uint8)
    out = image_tensor(grey, 56)
    assert out.shape == (3, 56, 56) and out.dtype == torch.float32
    expected = (128 / 255 - np.array([0.48145466, 0.4578275, 0.40821073])) \
        / np.array([0.26862954, 0.26130258, 0.27577711])
    assert np.allclose(out[:, 7, 9].numpy(), expected, atol=1e-5)
    assert torch.allclose(denormalise(out), torch.full_like(out, 128 / 255), atol=1e-5)


def test_image_resize_equals_pillow_bicubic():
    image = pytest.importorskip('PIL.Image', reason='Pillow is the reference here')
    noise = RNG.integers(0, 256, (168, 224, 3), dtype=np.uint8)
    for picture, size in ((noise, 112), (noise, 300), (RGB, 64)):
        expected = np.asarray(image.fromarray(picture).resize((size, size), image.BICUBIC))
        found = denormalise(image_tensor(picture, size, 'squash')).permute(1, 2, 0).numpy() * 255
        assert np.abs(found - expected.astype(float)).max() < 2.01    # of 255, on noise


def test_image_fits():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255                        # the middle third is white
    crop = denormalise(image_tensor(wide, 20, 'crop'))
    squash = denormalise(image_tensor(wide, 60, 'squash'))
    pad = denormalise(image_tensor(wide, 60, 'pad'))
    assert crop[:, :, 2:-2].min() > 0.98
    assert squash[:, :, 10].max() < 0.02 and squash[:, :, 30].min() > 0.98
    assert pad[:, :19].max() < 0.01 and pad[:, 25:35, 30].min() > 0.98
    tall = np.transpose(wide, (1, 0, 2))
    assert torch.allclose(image_tensor(tall, 20, 'crop'),
                          image_tensor(wide, 20, 'crop').transpose(1, 2))
    strip = image_tensor(np.full((2, 4000, 3), 7, np.uint8), 64, 'crop')
    assert strip.shape == (3, 64, 64)


def test_image_batch_and_tensors():
    batch = RNG.integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    out = image_tensor(torch.from_numpy(batch), 28)
    assert out.shape == (3, 3, 28, 28)
    assert torch.equal(out[1], image_tensor(batch[1], 28))
    mirrored = batch[1][:, ::-1]
    assert torch.equal(image_tensor(mirrored, 28), image_tensor(mirrored.copy(), 28))


@pytest.mark.parametrize('wrong', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)),
    np.zeros((0, 4, 3), np.uint8), np.array(['a'])])
def test_image_errors(wrong):
    with pytest.raises(PreprocessError, match='found'):
        image_tensor(wrong, 28)
    with pytest.raises(PreprocessError, match='stretch'):
        image_tensor(RGB, 28, 'stretch')


def test_video_frames_are_spread_or_repeated():
    assert spread_indices(30, 6) == [0, 6, 12, 17, 23, 29]
    assert spread_indices(3, 6) == [0, 0, 1, 1, 2, 2]
    assert spread_indices(1, 4) == [0] * 4 and spread_indices(5, 1) == [4]
    frames = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(3)]
    out = video_tensor(frames, 6, 16)
    assert out.shape == (6, 3, 16, 16)
    assert torch.equal(out[0], out[1]) and torch.equal(out[4], image_tensor(frames[2], 16))
    frames[1] = np.full((40, 30, 3), 40, np.uint8)          # sizes may differ
    assert torch.allclose(video_tensor(frames, 6, 16), out)
    with pytest.raises(PreprocessError, match='0 frames'):
        video_tensor([], 6, 16)


def test_depth_picture_relative_and_metric():
    depth = np.array([[1.0, 2.0], [4.0, np.nan]], np.float32)
    picture = depth_picture(depth).numpy()
    assert np.allclose(picture[..., 0], [[1.0, 1 / 3], [0.0, 0.0]])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    metric = depth_picture(depth, 'metric').numpy()
    assert np.allclose(metric[0, 1], [0.2, 1 / 3, 1]) and np.allclose(metric[1, 1], 0)
    assert np.allclose(depth_picture(np.full((3, 3), 12.0), 'metric')[0, 0], [1, 1 / 13, 1])
    assert np.allclose(depth_picture(np.full((3, 3), 2.0)), 1)
    for bad in (0.0, -1.0, np.inf, -np.inf):
        depth[1, 1] = bad
        assert np.array_equal(depth_picture(depth).numpy(), picture)


@pytest.mark.parametrize('size', [37, 80, 200])
def test_depth_holes_do_not_smear(size):
    depth = np.full((80, 80), 2.0, np.float32)
    depth[30:50, 20:60] = np.nan
    out = denormalise(depth_tensor(depth, size, 'squash', 'metric'))[0]
    valid = out[2] > 0.5
    assert torch.allclose(out[0][valid], torch.tensor(0.2), atol=1e-5)
    assert torch.allclose(out[1][valid], torch.tensor(1 / 3), atol=1e-5)
    assert float(out[:, ~valid].max()) < 1e-5
    assert 0.80 < float(valid.float().mean()) < 0.95


def test_depth_frames_and_alignment_with_rgb():
    depth = np.full((60, 80), 3.0)
    assert depth_tensor(depth, 28).shape == (1, 3, 28, 28)
    both = depth_tensor(depth, 28, rgb=RGB)
    assert both.shape == (2, 3, 28, 28) and torch.equal(both[0], image_tensor(RGB, 28))
    batch = depth_tensor(np.stack([depth, depth + 1]), 28, 'squash', 'metric',
                         rgb=np.stack([RGB, RGB]))
    assert batch.shape == (2, 2, 3, 28, 28)
    assert torch.equal(batch[1, 1], depth_tensor(depth + 1, 28, 'squash', 'metric')[0])
    # The picture of an edge stays where the colour picture has it, whatever the fit.
    rgb, step = np.zeros((60, 90, 3), np.uint8), np.full((60, 90), 8.0)
    rgb[:, 50:], step[:, 50:] = 255, 1.0
    for fit in ('crop', 'squash', 'pad'):
        out = denormalise(depth_tensor(step, 45, fit, 'relative', rgb))
        assert float((out[0, 0, 22] - out[1, 0, 22]).abs().max()) < 0.5


def test_depth_errors():
    with pytest.raises(NoMeasurementError, match='none of 12 pixels'):
        depth_tensor(np.full((3, 4), np.nan), 28)
    with pytest.raises(PreprocessError, match='0.001'):
        depth_tensor(np.full((3, 4), 1000, np.uint16), 28)
    with pytest.raises(PreprocessError, match='encoding'):
        depth_tensor(np.ones((3, 4)), 28, encoding='log')
    with pytest.raises(PreprocessError, match='expected floating'):
        depth_picture(np.ones((2, 3, 4, 5)))


def plane_depth(normal, distance, shape=(120, 160), intrinsics=FX):
    """Return depth of the plane n . p = distance (p in the optical frame)."""
    fx, fy, cx, cy = intrinsics
    u, v = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(shape)], -1)
    return distance / (rays @ np.asarray(normal))


@pytest.mark.parametrize('step', [1, 3])
@pytest.mark.parametrize('normal', [(0, 0, 1), (0.3, -0.2, 0.9), (-0.5, 0.5, 0.7)])
def test_normals_of_planes(normal, step):
    unit = np.asarray(normal) / np.linalg.norm(normal)
    found = normals_from_depth(plane_depth(unit, 2.0).astype(np.float32), FX, step=step)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    angle = np.degrees(np.arccos(np.clip(found @ -unit, -1, 1)))    # it faces the camera
    assert angle.max() < 0.5


def test_normals_at_edges_and_holes():
    depth = plane_depth((0, 0, 1), 2.0).astype(np.float32)
    depth[:, 80:] = 4.0
    depth[50:60, 20:30] = np.nan
    depth[100, 100] = 1.0                                    # alone: no connected neighbour
    normals = normals_from_depth(depth, FX)
    assert np.isnan(normals[50:60, 20:30]).all() and np.isnan(normals[100, 100]).all()
    good = np.isfinite(normals).all(-1)
    assert good[:, 79:81][:90].all() and good.mean() > 0.98
    assert np.allclose(normals[good], (0, 0, -1), atol=1e-3)   # nothing leans across the edge
    picture = normal_picture(normals).numpy()
    assert np.allclose(picture[100, 100], 0.5) and np.allclose(picture[0, 0], (0.5, 0.5, 0))
    assert np.isnan(normals_from_depth(np.ones((1, 5), np.float32), FX)).all()
    with pytest.raises(PreprocessError, match='CameraInfo'):
        normals_from_depth(depth, (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(PreprocessError, match='expected'):
        normals_from_depth(depth[None], FX)


def test_normal_tensor():
    normals = np.zeros((40, 60, 3), np.float32)
    normals[..., 2] = -2.0                                   # not unit: brought to length 1
    normals[:10] = np.nan
    out = denormalise(normal_tensor(normals, 20, 'squash', RGB))
    assert out.shape == (2, 3, 20, 20)
    assert np.allclose(out[1, :, 10, 10], (0.5, 0.5, 0), atol=1e-5)
    assert np.allclose(out[1, :, 2, 10], 0.5, atol=1e-5)
    with pytest.raises(NoMeasurementError):
        normal_tensor(np.full((4, 4, 3), np.nan), 20)
    with pytest.raises(PreprocessError, match='unit vectors'):
        normal_tensor(np.zeros((4, 4)), 20)


def test_points_subsample_repeat_and_frames():
    cloud = RNG.normal(size=(5000, 6)).astype(np.float32)
    cloud[:, 3:] = RNG.uniform(size=(5000, 3))
    out = point_tensor(cloud, 1024, 'metric')
    assert out.shape == (1024, 6) and torch.equal(out, point_tensor(cloud, 1024, 'metric'))
    rows = {tuple(np.round(row, 5)) for row in np.c_[cloud[:, :3] / 5, cloud[:, 3:]]}
    assert {tuple(np.round(row, 5)) for row in out.numpy()} <= rows
    unit = point_tensor(cloud, 1024)
    assert abs(float(unit[:, :3].norm(dim=1).max()) - 1) < 1e-5
    assert float(unit[:, :3].mean(0).abs().max()) < 1e-5
    assert torch.equal(unit[:, 3:], out[:, 3:])
    few = point_tensor(cloud[:3], 8, 'metric')
    assert torch.equal(few[:3], few[3:6]) and torch.equal(few[:2], few[6:])
    same = point_tensor(cloud[:1024], 1024, 'metric')
    assert np.allclose(same[:, :3] * 5, cloud[:1024, :3], atol=1e-6)


def test_points_not_finite_and_errors():
    cloud = np.ones((4, 6), np.float32)
    cloud[0, 1], cloud[1, 4], cloud[2, 0] = np.nan, np.nan, np.inf
    out = point_tensor(cloud, 4, 'metric')
    assert np.allclose(out[0].numpy(), [0.2, 0.2, 0.2, 1, 0.5, 1])
    assert np.isfinite(point_tensor(cloud[3:], 8).numpy()).all()   # one point: radius 0
    merged = merge_clouds([cloud, np.zeros((2, 6)), np.zeros((0, 6))])
    assert merged.shape == (4, 6) and np.isnan(cloud[1, 4])        # the input is not changed
    for bad in (np.full((5, 6), np.nan), np.zeros((0, 6))):
        with pytest.raises(NoMeasurementError):
            point_tensor(bad, 8)
    with pytest.raises(PreprocessError, match=r'\[N, 6\]'):
        point_tensor(np.zeros((5, 3)), 8)
    with pytest.raises(PreprocessError, match=r'\[N, 6\]'):
        merge_clouds([np.zeros((5, 3))])
    with pytest.raises(PreprocessError, match='frame'):
        point_tensor(cloud, 8, 'map')


def test_fmri():
    assert fmri_tensor(np.arange(24.0), 24).shape == (1, 24)
    with pytest.raises(PreprocessError, match=r'found shape \[23\], expected \[24\]'):
        fmri_tensor(np.zeros(23), 24)
    with pytest.raises(PreprocessError, match='found 1 voxels'):
        fmri_tensor([1.0, np.nan], 2)
    with pytest.raises(NoMeasurementError):
        fmri_tensor([np.nan, np.nan], 2)


def window(config: TokenizerConfig, end_ns: int) -> dict[Modality, list[Sample]]:
    """Return samples of every modality but normals."""
    depth = plane_depth((0, 0.2, 0.9), 2.0).astype(np.float32)
    return {
        Modality.IMAGE: [Sample(end_ns - 5, RGB)],
        Modality.VIDEO: [Sample(end_ns - 100 + i, RGB) for i in range(4)],
        Modality.DEPTH: [Sample(end_ns - 5, depth, intrinsics=FX)],
        Modality.POINT: [Sample(end_ns, RNG.normal(size=(50, 6)))] * 2,
        Modality.IMU: [Sample(end_ns - i * 5_000_000, np.ones(6)) for i in range(400, -1, -1)],
        Modality.AUDIO: [Sample(end_ns - 10**9, RNG.normal(0, .1, 44100).astype(np.float32),
                                rate_hz=44100.0)],
        Modality.FMRI: [Sample(end_ns, np.zeros(config.fmri_voxels, np.float32))]}


@pytest.mark.parametrize('config', [NANO, ModelConfig()], ids=lambda c: c.name)
def test_whole_window(config):
    end_ns = 1_700_000_000_123_456_789
    prep = Preprocessor.from_config(config)
    out = prep.tensors(window(config.tokenizer, end_ns), end_ns)
    t, s = config.tokenizer, config.encoder.image_size
    assert {m: tuple(x.shape) for m, x in out.items()} == {
        Modality.IMAGE: (1, 3, s, s), Modality.VIDEO: (1, t.video_frames, 3, s, s),
        Modality.DEPTH: (1, 2, 3, s, s), Modality.NORMAL: (1, 2, 3, s, s),
        Modality.POINT: (1, t.points, 6), Modality.IMU: (1, 6, t.imu_samples),
        Modality.AUDIO: (1, 1, t.audio_mels, t.audio_frames),
        Modality.FMRI: (1, 1, t.fmri_voxels)}
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in out.values())
    assert not out.left_out
    assert out.notes[Modality.NORMAL] == 'computed from depth'
    assert 'without data' not in out.notes.get(Modality.IMU, '')
    assert '1.00 s of' in out.notes[Modality.AUDIO]


def test_window_without_colour_and_options():
    chosen = window(NANO.tokenizer, 10**9)
    del chosen[Modality.IMAGE]
    out = Preprocessor.from_config(NANO).tensors(chosen, 10**9)
    assert out[Modality.DEPTH].shape[1] == 1 and out[Modality.NORMAL].shape[1] == 1
    out = Preprocessor.from_config(NANO, derive_normals=False).tensors(chosen, 10**9)
    assert Modality.NORMAL not in out
    chosen[Modality.DEPTH] = [Sample(0, chosen[Modality.DEPTH][0].data)]     # no intrinsics
    assert Modality.NORMAL not in Preprocessor.from_config(NANO).tensors(chosen, 10**9)


def test_window_leaves_out_with_reason():
    prep = Preprocessor.from_config(NANO)
    chosen = {
        Modality.DEPTH: [Sample(0, np.full((4, 4), np.nan, np.float32), intrinsics=FX)],
        Modality.POINT: [Sample(0, np.full((4, 6), np.nan, np.float32))],
        Modality.IMU: [Sample(0, np.full(6, np.nan))],
        Modality.AUDIO: [Sample(0, np.zeros(3, np.float32), rate_hz=8000.0)],
        Modality.VIDEO: []}
    out = prep.tensors(chosen, 10**7)
    assert not out
    assert set(out.left_out) == {Modality.DEPTH, Modality.POINT, Modality.IMU, Modality.AUDIO}
    assert 'none of 16 pixels' in out.left_out[Modality.DEPTH]
    wrong = {Modality.FMRI: [Sample(0, np.zeros(3))], Modality.IMU: [Sample(0, np.zeros(3))],
             Modality.IMAGE: [Sample(0, RGB)]}
    with pytest.raises(PreprocessError, match='imu'):
        prep.tensors({m: wrong[m] for m in (Modality.IMU,)}, 0)
    out = prep.tensors(wrong, 0, strict=False)
    assert list(out) == [Modality.IMAGE]
    assert '[256]' in out.left_out[Modality.FMRI] and '[6]' in out.left_out[Modality.IMU]
    far = {Modality.POINT: [Sample(0, np.full((4, 6), 3e38, np.float32))],
           Modality.IMAGE: [Sample(0, RGB)]}
    for frame in ('unit', 'metric'):  # where the mean of such points overflows, and where not
        prep = Preprocessor(replace(NANO.tokenizer, point_frame=frame), 32)
        out = prep.tensors(far, 0, strict=False)
        assert list(out) == [Modality.IMAGE] and 'unit' in out.left_out[Modality.POINT]
