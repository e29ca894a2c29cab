"""What the robot's visual sensors deliver: depth camera, laser scanner, video, fMRI-like code.

Owns the errors of the sensors and their sampling; the exact geometry comes from the renderer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
import math

import numpy as np

from onellm_ros.simulation import shading, textures
from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.render import Camera, Stage, View, base_rotation, render, trace
from onellm_ros.simulation.tracing import MISS, Primitives, Surroundings
from onellm_ros.simulation.truth import COLOURS, KINDS, PLACES, SeenObject

NEAREST_M, FARTHEST_M = 0.3, 10.0
SCAN_WIDTH_RAD = math.radians(80.0)        # what the camera sees, so that one truth serves both
SCAN_LOW_RAD, SCAN_HIGH_RAD = math.radians(-35.0), math.radians(15.0)
SCAN_NOISE_M = 0.01
VOXELS = 256
_FMRI_SEED = 20250101
_FMRI_NOISE = 0.35


def measured_depth(view: View, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Return what a depth camera measures of a view, float32 [H, W] metres.

    Noise grows with the square of the distance; surfaces seen at a grazing angle and the rims of
    things have holes (NaN), as has everything nearer than 0.3 m or farther than 10 m.
    """
    z = view.depth
    noisy = z + (0.0008 + 0.001 * z * z) * rng.standard_normal(z.shape, dtype=np.float32)
    fx, fy, cx, cy = camera.intrinsics
    u = (np.arange(camera.width, dtype=np.float32) - cx) / fx
    v = ((np.arange(camera.height, dtype=np.float32) - cy) / fy)[:, None]
    n = view.normal
    facing = -(n[..., 0] * u + n[..., 1] * v + n[..., 2]) / np.sqrt(1.0 + u * u + v * v)
    step = np.zeros(z.shape, bool)
    limit = 0.06 + 0.04 * z
    across = np.abs(np.diff(z, axis=1)) > limit[:, 1:]
    down = np.abs(np.diff(z, axis=0)) > limit[1:]
    step[:, 1:] |= across
    step[:, :-1] |= across
    step[1:] |= down
    step[:-1] |= down
    chance = np.clip((0.12 - facing) / 0.12, 0.0, 1.0) + 0.5 * step
    holes = rng.random(z.shape, dtype=np.float32) < chance
    bad = holes | ~((noisy > NEAREST_M) & (noisy < FARTHEST_M))
    noisy[bad] = np.nan
    return noisy.astype(np.float32)


def _scan_rectangles(prims: Primitives, at: np.ndarray, turn: np.ndarray, azimuth: np.ndarray,
                     elevation: np.ndarray) -> np.ndarray:
    """Return int64 [P, 4]: rows and columns of the scan that each primitive can cover.

    :param azimuth: [columns] falling; :param elevation: [rows] falling, radians.
    """
    c = (prims.centre - at) @ turn
    flat, far = np.hypot(c[:, 0], c[:, 1]), np.sqrt((c ** 2).sum(1))
    r = prims.radius
    wide = np.where(flat > r, np.arcsin(np.minimum(1.0, r / np.maximum(flat, 1e-9))), math.pi)
    tall = np.where(far > r, np.arcsin(np.minimum(1.0, r / np.maximum(far, 1e-9))), math.pi)
    az, el = np.arctan2(c[:, 1], c[:, 0]), np.arctan2(c[:, 2], flat)
    columns = [np.searchsorted(-azimuth, -(az + wide) - 1e-9),
               np.searchsorted(-azimuth, -(az - wide) + 1e-9)]
    rows = [np.searchsorted(-elevation, -(el + tall) - 1e-9),
            np.searchsorted(-elevation, -(el - tall) + 1e-9)]
    wraps = np.abs(az) + wide > 2 * math.pi - SCAN_WIDTH_RAD / 2 - 0.02
    columns[0][wraps], columns[1][wraps] = 0, len(azimuth)
    return np.stack([*rows, *columns], axis=1).astype(np.int64)


def scan(prims: Primitives, room: Surroundings, base: Pose, points: int,
         rng: np.random.Generator, mount_m: float = 0.60) -> np.ndarray:
    """Return a coloured laser scan of what is ahead, float32 [points, 6].

    A spinning scanner at ``mount_m`` above the base, 120 degrees wide, from 35 degrees down to 15
    degrees up: x y z in the base frame (x forward, y left, z up, metres, 1 cm noise along the
    ray) and r g b in 0..1. Rays without an answer within 10 m are replaced by repeating others;
    with no answer at all the scan is empty.
    """
    rows = max(1, round(math.sqrt(points * (SCAN_HIGH_RAD - SCAN_LOW_RAD) / SCAN_WIDTH_RAD)))
    columns = -(-points // rows)
    shift = rng.uniform(-0.5, 0.5, 2)
    azimuth = SCAN_WIDTH_RAD * (0.5 - (np.arange(columns) + 0.5 + 0.9 * shift[0]) / columns)
    elevation = SCAN_HIGH_RAD - (SCAN_HIGH_RAD - SCAN_LOW_RAD) * (
        np.arange(rows) + 0.5 + 0.9 * shift[1]) / rows
    dirs = np.empty((rows, columns, 3))
    flat = np.cos(elevation)[:, None]
    dirs[..., 0], dirs[..., 1] = flat * np.cos(azimuth), flat * np.sin(azimuth)
    dirs[..., 2] = np.sin(elevation)[:, None]
    turn = base_rotation(base)
    mount = np.array([0.0, 0.0, mount_m])
    at = np.array([base.x, base.y, base.z]) + turn @ mount
    world = np.ascontiguousarray(dirs @ turn.T)
    t, code = trace(prims, room, at, world, _scan_rectangles(prims, at, turn, azimuth, elevation))
    rgb = np.empty((rows, columns, 3), np.float32)
    shading.shade_rays(world.reshape(-1, 3), at, prims, room, textures.pyramid(), t.reshape(-1),
                       code.reshape(-1), False, SCAN_WIDTH_RAD / columns, rgb.reshape(-1, 3))
    far = t + SCAN_NOISE_M * rng.standard_normal(t.shape)
    good = np.flatnonzero((code != MISS) & (far > NEAREST_M) & (far < FARTHEST_M))
    if not len(good):
        return np.zeros((0, 6), np.float32)
    keep = good[np.arange(points) * len(good) // points]
    cloud = np.empty((points, 6), np.float32)
    cloud[:, :3] = dirs.reshape(-1, 3)[keep] * far.reshape(-1)[keep, None] + mount
    cloud[:, 3:] = rgb.reshape(-1, 3)[keep] / 255.0
    return cloud


def film(stage: Stage, camera: Camera, poses: Sequence[Pose], late_s: Sequence[float]
         ) -> np.ndarray:
    """Return frames of a plain camera (no shadows), uint8 [T, H, W, 3].

    :param poses: the base at each frame; :param late_s: the frames' times after the window's end.
    """
    frames = np.empty((len(poses), camera.height, camera.width, 3), np.uint8)
    for i, (base, late) in enumerate(zip(poses, late_s, strict=True)):
        frames[i] = render(stage.primitives(late), stage.room, camera, base, geometry=False,
                           shadows=False).image
    return frames


def seen_features(seen: Sequence[SeenObject]) -> np.ndarray:
    """Return the descriptor of what is seen, [kinds x places + colours x places + 2] counts."""
    places = len(PLACES)
    kinds = np.zeros((len(KINDS), places))
    colours = np.zeros((len(COLOURS), places))
    ranges = np.zeros(2)
    names = list(COLOURS)
    for item in seen:
        place = PLACES.index(item.place)
        kinds[KINDS.index(item.kind), place] += 1.0
        colours[names.index(item.colour), place] += 1.0
        ranges[0 if item.near else 1] += 1.0
    return np.concatenate([kinds.ravel(), colours.ravel(), ranges])


@lru_cache(maxsize=1)
def _fmri_code() -> np.ndarray:
    """Return the fixed code [VOXELS, features]; half of a voxel's weights are zero."""
    rng = np.random.default_rng(_FMRI_SEED)
    width = len(seen_features(()))
    code = rng.standard_normal((VOXELS, width)) * (rng.random((VOXELS, width)) < 0.5)
    code.setflags(write=False)
    return code


def fmri(seen: Sequence[SeenObject], rng: np.random.Generator) -> np.ndarray:
    """Return a SYNTHETIC stand-in for brain responses, float32 [VOXELS].

    No brain was measured: it is a fixed random linear code of :func:`seen_features`, the same in
    every world, plus Gaussian noise. It only lets the fMRI path be trained and tested.
    """
    clean = _fmri_code() @ seen_features(seen)
    return (clean + _FMRI_NOISE * rng.standard_normal(VOXELS)).astype(np.float32)


def frame_times(frames: int, seconds: float) -> np.ndarray:
    """Return the times of evenly spaced frames, seconds before (<= 0) the window's end."""
    if frames < 1:
        raise ValueError(f'{frames} video frames asked: expected at least 1')
    return np.linspace(-seconds, 0.0, frames) if frames > 1 else np.zeros(1)
