"""What is true of a view: the things it shows, how well, where, and how far the way is clear.

Owns the filling of ``truth.Truth`` from exact ids and depths.
"""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np

from onellm_ros.simulation import tracing
from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.render import (
    Camera,
    View,
    camera_rectangles,
    pixel_rays,
)
from onellm_ros.simulation.scene import Scene, Thing
from onellm_ros.simulation.tracing import Primitives
from onellm_ros.simulation.truth import DIRECTIONS, PLACE_LIMIT_RAD, PLACES, SeenObject

LEAST_SHARE = 0.002
CLEAR_WIDTH_RAD = math.radians(10.0)
CLEAR_HEIGHT_M = 1.2
NOTHING_M = 10.0                 # clear_m when nothing stands ahead
MOVING_M = 0.35                  # a mover's way across the window that counts as clear
VIEW_LIMIT_RAD = 0.70


def outlines(prims: Primitives, camera: Camera, base: Pose) -> dict[int, float]:
    """Return for every object id how many pixels it would fill alone in an unbounded picture.

    Estimated with every second row and column, up to twice the picture's width and height.
    """
    wide = 2.0 * math.tan(math.radians(camera.hfov_deg) / 2.0)
    coarse = replace(camera, hfov_deg=math.degrees(2.0 * math.atan(wide)))
    at, axes = coarse.placed(base)
    fx, _, cx, cy = coarse.intrinsics
    dirs = pixel_rays(coarse.width, coarse.height, fx, cx, cy, 1) @ axes.T
    counts = np.zeros(len(prims.first), np.int64)
    rects = camera_rectangles(prims, at, axes, coarse)
    rects[prims.owner < 1] = 0
    tracing.outline_counts(dirs, at, prims, rects, counts)
    owners = prims.owner[np.minimum(prims.first, len(prims.owner) - 1)]
    return {int(o): 4.0 * float(n) for o, n in zip(owners, counts, strict=True) if o >= 1}


def place_of(bearing_rad: float) -> str:
    """Return the one of PLACES at this bearing (positive to the left)."""
    if abs(bearing_rad) < PLACE_LIMIT_RAD:
        return PLACES[1]
    return PLACES[0] if bearing_rad > 0 else PLACES[2]


def bearing_of(camera: Camera, u: float, v: float) -> float:
    """Return the bearing from the base of pixel (u, v), positive to the left."""
    fx, fy, cx, cy = camera.intrinsics
    _, axes = camera.placed(Pose(0.0, 0.0))
    ray = axes @ np.array([(u - cx) / fx, (v - cy) / fy, 1.0])
    return math.atan2(ray[1], ray[0])


def clear_way(view: View, camera: Camera, base: Pose) -> float:
    """Return metres to the nearest thing straight ahead (floor excluded, below 1.2 m)."""
    at, axes = camera.placed(base)
    fx, _, cx, cy = camera.intrinsics
    world = pixel_rays(camera.width, camera.height, fx, cx, cy, 1) @ axes.T
    depth = view.depth.astype(np.float64)
    c, s = math.cos(base.yaw), math.sin(base.yaw)
    ahead, left = world[..., 0] * c + world[..., 1] * s, world[..., 1] * c - world[..., 0] * s
    height = at[2] - base.z + depth * world[..., 2]
    stands = ((np.abs(left) <= math.tan(CLEAR_WIDTH_RAD) * ahead) & (view.ids != 0)
              & (height < CLEAR_HEIGHT_M) & np.isfinite(depth))
    if not stands.any():
        return NOTHING_M
    return float(min(NOTHING_M, (depth * ahead)[stands].min()))


def direction_of(thing: Thing, base: Pose, late_s: float, window_s: float, halfway: Pose) -> str:
    """Return the one of DIRECTIONS in which a thing went in the window, or empty.

    Empty for one at rest, for one that turned or hardly moved, and for one that was out of sight
    in the middle of the window. Left and right are those of the robot at the end.

    :param base: the robot's pose at the end; :param halfway: in the middle of the window.
    """
    if thing.speed == 0.0:
        return ''
    now, mid, then = (thing.at(late_s - ago) for ago in (0.0, window_s / 2, window_s))
    dx, dy = now[0] - then[0], now[1] - then[1]
    if math.hypot(dx, dy) < max(MOVING_M, 0.9 * thing.speed * window_s):
        return ''
    before = math.atan2(mid[1] - halfway.y, mid[0] - halfway.x) - halfway.yaw
    if math.cos(before) < math.cos(VIEW_LIMIT_RAD):
        return ''
    c, s = math.cos(base.yaw), math.sin(base.yaw)
    ahead, left = c * dx + s * dy, c * dy - s * dx
    if abs(left) > 1.5 * abs(ahead):
        return DIRECTIONS[0] if left > 0 else DIRECTIONS[1]
    if abs(ahead) > 1.5 * abs(left):
        return DIRECTIONS[3] if ahead > 0 else DIRECTIONS[2]
    return ''


def seen_things(scene: Scene, prims: Primitives, view: View, camera: Camera, base: Pose,
                directions: dict[int, str]) -> tuple[SeenObject, ...]:
    """Return what the view shows of at least 0.2 % of the picture, the largest first.

    :param directions: of the movers, by object id.
    """
    total = view.ids.size
    counts = np.bincount(np.maximum(view.ids, 0).ravel())
    found = [int(i) for i in np.flatnonzero(counts >= LEAST_SHARE * total) if i >= 1]
    if not found:
        return ()
    whole = outlines(prims, camera, base)
    out = []
    for object_id in sorted(found, key=lambda i: (-counts[i], i)):
        v, u = np.nonzero(view.ids == object_id)
        thing = scene.thing(object_id)
        bearing = bearing_of(camera, float(u.mean()), float(v.mean()))
        out.append(SeenObject(
            object_id, thing.kind, thing.colour, place_of(bearing),
            float(np.median(view.depth[v, u])), bearing, float(counts[object_id]) / total,
            float(min(1.0, counts[object_id] / max(whole[object_id], 1.0))),
            directions.get(object_id, ''), moves=thing.speed > 0))
    return tuple(out)
