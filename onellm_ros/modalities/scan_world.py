"""A planar laser scanner in the simulated world, and what its scans can truly tell.

The scanner turns ``HEIGHT_M`` above the floor, so it sees the legs of a table and nothing of what
stands on it, and it knows neither kinds nor colours. Truth is exact geometry; where what holds in
the plane of the scan and what holds for the whole robot are not the same, nothing is true.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from onellm_ros.simulation.facts import (
    PLACE_LIMIT_RAD,
    PLACE_MARGIN_RAD,
    place_of,
    plain_metres,
    way_is_free,
)
from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.render import base_rotation, trace
from onellm_ros.simulation.seeing import CLEAR_HEIGHT_M, CLEAR_WIDTH_RAD, NOTHING_M
from onellm_ros.simulation.tracing import FLOOR, MISS, Primitives
from onellm_ros.simulation.world import World

HEIGHT_M = 0.2
WIDTH_RAD, STEP_RAD = math.radians(270.0), math.radians(0.5)
NEAREST_M, FARTHEST_M, NOISE_M = 0.05, 10.0, 0.01
_SALT = 0x5CA7
_ASKED_RAD = math.radians(60.0)         # the nearest thing is asked for within this bearing
_FEWEST_BEAMS = 3
_NEARER_RATIO, _NEARER_MARGIN_M = 1.2, 0.25     # as those of questions to the depth camera
_FAN_STEP_RAD, _FAN_LOW_RAD, _FAN_HIGH_RAD = math.radians(1.0), math.radians(-60), math.radians(40)


@dataclass(frozen=True)
class ScanTruth:
    """What a scan can tell of one window; None where it is not plain, or not true of the robot.

    :param free: whether the way ahead is free. :param metres: whole metres of free way ahead.
    :param nearest: place of the nearest thing (walls are none).
    """

    seed: int
    free: bool | None
    metres: int | None
    nearest: str | None


def _rays(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Return unit rays [rows, columns, 3] in the base frame."""
    flat = np.cos(elevation)[:, None]
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth),
                     np.repeat(np.sin(elevation)[:, None], len(azimuth), 1)], -1)


def _traced(world: World, prims: Primitives, base: Pose, height_m: float, rays: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each ray goes from a height above the base, and what it meets."""
    turn = base_rotation(base)
    at = np.array([base.x, base.y, base.z]) + turn @ np.array([0.0, 0.0, height_m])
    rows, columns = rays.shape[:2]
    whole = np.tile(np.array([0, rows, 0, columns]), (len(prims.kind), 1))
    return trace(prims, world.stage.room, at, np.ascontiguousarray(rays @ turn.T), whole)


def scan_world(world: World) -> tuple[np.ndarray, ScanTruth]:
    """Return the scan at the end of a world's window, float32 [N, 2], and its truth."""
    base, prims = world.pose(world.seconds), world.stage.primitives(0.0)
    azimuth = np.arange(-WIDTH_RAD / 2, WIDTH_RAD / 2 + STEP_RAD / 2, STEP_RAD)
    far, code = (part[0] for part in _traced(world, prims, base, HEIGHT_M,
                                             _rays(azimuth, np.zeros(1))))
    rng = np.random.default_rng([_SALT, world.seed, int(world.held_out)])
    noisy = far + NOISE_M * rng.standard_normal(len(far))
    measured = np.where((code == MISS) | (noisy > FARTHEST_M), np.inf, noisy)
    measured[noisy < NEAREST_M] = np.nan
    owner = np.where(code >= 0, prims.owner[np.maximum(code, 0)], 0)
    free, metres = _clear(world, prims, base, azimuth, far, code)
    truth = ScanTruth(world.seed, free, metres, _nearest(world, base, azimuth, far, owner))
    return np.stack([azimuth, measured], 1).astype(np.float32), truth


def _clear(world: World, prims: Primitives, base: Pose, azimuth: np.ndarray, far: np.ndarray,
           code: np.ndarray) -> tuple[bool | None, int | None]:
    """Return whether and how far the way is free, where plane and robot agree."""
    ahead = (np.abs(azimuth) <= CLEAR_WIDTH_RAD) & (code != MISS) & (code != FLOOR)
    plane = float(min(NOTHING_M, (far * np.cos(azimuth))[ahead].min(initial=NOTHING_M)))
    narrow = np.arange(-CLEAR_WIDTH_RAD, CLEAR_WIDTH_RAD + _FAN_STEP_RAD / 2, _FAN_STEP_RAD)
    rays = _rays(narrow, np.arange(_FAN_LOW_RAD, _FAN_HIGH_RAD, _FAN_STEP_RAD))
    mount = world.camera.mount_m
    t, met = _traced(world, prims, base, mount, rays)
    stands = (met != MISS) & (met != FLOOR) & (mount + t * rays[..., 2] < CLEAR_HEIGHT_M)
    body = float(min(NOTHING_M, (t * rays[..., 0])[stands].min(initial=NOTHING_M)))
    free, metres = way_is_free(plane), plain_metres(plane)
    return (free if free == way_is_free(body) else None,
            metres if metres == plain_metres(body) else None)


def _nearest(world: World, base: Pose, azimuth: np.ndarray, far: np.ndarray, owner: np.ndarray
             ) -> str | None:
    """Return the place of the nearest thing, if it clearly is the nearest of all there are."""
    found = sorted((float(far[owner == i].min()), int(i)) for i in np.unique(owner[owner >= 1])
                   if np.count_nonzero(owner == i) >= _FEWEST_BEAMS)
    if not found:
        return None
    least, nearest = found[0]
    if len(found) > 1 and found[1][0] < max(_NEARER_RATIO * least, least + _NEARER_MARGIN_M):
        return None
    met = {object_id for _, object_id in found}
    for thing in world.scene.things:                # what the plane of the scan does not meet
        x, y, _, _ = thing.at(0.0)
        away = math.hypot(x - base.x, y - base.y) - math.hypot(*thing.size[:2]) / 2
        bearing = math.atan2(y - base.y, x - base.x) - base.yaw
        if away < least and thing.object_id not in met \
                and abs(math.remainder(bearing, 2 * math.pi)) < WIDTH_RAD / 2:
            return None
    bearing = float(azimuth[owner == nearest].mean())
    if abs(bearing) > _ASKED_RAD or abs(abs(bearing) - PLACE_LIMIT_RAD) < PLACE_MARGIN_RAD:
        return None
    return place_of(bearing)
