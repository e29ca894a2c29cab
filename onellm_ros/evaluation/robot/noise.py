"""Disturbed sensors: seeded noise on raw samples, before any preprocessing; truth stays as it is.

Each disturbance has three levels: one that a good sensor shows on a bad day, one of a bad sensor,
and one of a broken sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from onellm_ros.modality import Modality, Sample

LEVELS = (1, 2, 3)
Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_SALT = 0x0153


def blurred(picture: np.ndarray, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (uint8 [H, W, 3]) out of focus."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma_px)))


def darkened(picture: np.ndarray, light: float, rng: np.random.Generator) -> np.ndarray:
    """Return a picture taken with a share of the light, with the sensor's noise.

    A pixel of value v has the variance 4 + v (two levels of read noise, and shot noise).
    """
    value = picture.astype(np.float32) * light
    noise = rng.standard_normal(value.shape, dtype=np.float32) * np.sqrt(4.0 + value)
    return np.clip(np.rint(value + noise), 0, 255).astype(np.uint8)


def holed(depth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a depth picture (float [H, W] metres) without measurement on a share of it.

    The holes are patches of some 16 pixels, as of shining, dark or transparent surfaces.
    """
    height, width = depth.shape
    coarse = rng.random((height // 8 + 2, width // 8 + 2))
    rows = np.linspace(0, coarse.shape[0] - 1.001, height)
    columns = np.linspace(0, coarse.shape[1] - 1.001, width)
    r, c = rows.astype(int)[:, None], columns.astype(int)
    fr, fc = rows[:, None] - r, columns - c
    smooth = ((1 - fr) * (1 - fc) * coarse[r, c] + fr * (1 - fc) * coarse[r + 1, c]
              + (1 - fr) * fc * coarse[r, c + 1] + fr * fc * coarse[r + 1, c + 1])
    out = depth.copy()
    out[smooth < np.quantile(smooth, share)] = np.nan
    return out


def _rough_depth(depth: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of ``factor`` times the square of the distance, as of stereo."""
    noise = rng.standard_normal(depth.shape, dtype=np.float32)
    return np.maximum(depth + factor * depth * depth * noise, 0.05).astype(np.float32)


def _rough_normals(normal: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(normal.shape, dtype=np.float32)
    turned = normal + np.float32(np.tan(np.radians(degrees))) * noise
    return (turned / np.linalg.norm(turned, axis=-1, keepdims=True)).astype(np.float32)


def thinned(cloud: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a share of a cloud's points, in their order."""
    kept = rng.permutation(len(cloud))[:max(1, round(share * len(cloud)))]
    return cloud[np.sort(kept)]


def _scattered(cloud: np.ndarray, metres: float, rng: np.random.Generator) -> np.ndarray:
    out = cloud.copy()
    out[:, :3] += (metres * rng.standard_normal((len(cloud), 3))).astype(cloud.dtype)
    return out


def hissing(wave: np.ndarray, rms: float, rng: np.random.Generator) -> np.ndarray:
    """Return a sound with white noise of this RMS (full scale is 1)."""
    noise = rng.standard_normal(len(wave), dtype=np.float32)
    return np.clip(wave + np.float32(rms) * noise, -1.0, 1.0).astype(np.float32)


_IMU_UNIT = np.repeat((1.0, 0.1), 3)        # of m/s^2 and of rad/s


def _shaking(rows: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return rows + size * _IMU_UNIT * rng.standard_normal(rows.shape)


def _biased(rows: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return rows + size * _IMU_UNIT * rng.choice((-1.0, 1.0), 6)


def _voxels(voxels: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return (voxels + size * rng.standard_normal(voxels.shape)).astype(np.float32)


# name -> (what changes, its three levels, what a level is)
KINDS: dict[str, tuple[Change, tuple[float, float, float], str]] = {
    'image.blur': (blurred, (1.0, 2.0, 4.0), 'sigma, pixels of 224'),
    'image.dark': (darkened, (0.6, 0.3, 0.1), 'share of the light'),
    'video.blur': (blurred, (0.5, 1.0, 2.0), 'sigma, pixels of 112'),
    'video.dark': (darkened, (0.6, 0.3, 0.1), 'share of the light'),
    'depth.holes': (holed, (0.2, 0.5, 0.8), 'share without measurement'),
    'depth.noise': (_rough_depth, (0.01, 0.05, 0.25), 'm at 1 m, growing with its square'),
    'normal.noise': (_rough_normals, (10.0, 30.0, 60.0), 'degrees'),
    'point.sparse': (thinned, (0.25, 0.0625, 0.015625), 'share of the points'),
    'point.noise': (_scattered, (0.02, 0.05, 0.15), 'm'),
    'audio.noise': (hissing, (0.003, 0.01, 0.03), 'RMS, full scale 1'),
    'imu.noise': (_shaking, (0.2, 0.6, 2.0), 'm/s^2, and a tenth in rad/s'),
    'imu.bias': (_biased, (0.2, 0.6, 2.0), 'm/s^2, and a tenth in rad/s'),
    'fmri.noise': (_voxels, (0.35, 0.7, 1.4), 'beside its own noise of 0.35')}


def modality_of(kind: str) -> Modality:
    """Return the modality that a disturbance disturbs."""
    return Modality(kind.split('.')[0])


def noisy(samples: Sequence[Sample], kind: str, level: int, seed: int) -> list[Sample]:
    """Return samples of a disturbed sensor; those given stay as they are.

    :param kind: a key of KINDS. :param level: 1 to 3. :param seed: of the world; the same one
        always gives the same noise.
    :raises ValueError: for another kind or level.
    """
    if kind not in KINDS or level not in LEVELS:
        raise ValueError(f'found the disturbance {kind!r} at level {level}, expected one of '
                         f'{", ".join(KINDS)} at 1, 2 or 3')
    change, sizes, _ = KINDS[kind]
    rng = np.random.default_rng([_SALT, seed, list(KINDS).index(kind), level])
    if modality_of(kind) is Modality.IMU:           # a bias is that of all rows
        rows = change(np.stack([sample.data for sample in samples]).astype(np.float64),
                      sizes[level - 1], rng)
        return [replace(s, data=row) for s, row in zip(samples, rows, strict=True)]
    return [replace(s, data=change(s.data, sizes[level - 1], rng)) for s in samples]
