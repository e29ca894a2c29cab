"""Pictures of a scene: camera model, primitive tables, RGB, depth, normals and ids.

Owns the pinhole camera, the packing of sketches into the tracer's table, the rectangles that each
primitive can cover, and the calls into the compiled kernels. Deterministic: the same scene and
pose give the same bytes, with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np

from onellm_ros.simulation import shading, textures, tracing
from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.rooms import FITTINGS_ID, fittings
from onellm_ros.simulation.scene import Scene, Thing
from onellm_ros.simulation.shapes import Look, Sketch, draw
from onellm_ros.simulation.tracing import BOX, ELLIPSOID, Primitives, Surroundings

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_NEAR_M = 0.02


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the robot, looking ahead.

    :param width, height: pixels. :param hfov_deg: horizontal field of view.
    :param mount_m: height above the base's origin. :param pitch_deg: how far it looks down.
    """

    width: int = 224
    height: int = 168
    hfov_deg: float = 80.0
    mount_m: float = 0.60
    pitch_deg: float = 8.0

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy) in pixels; the middle of the first pixel is (0, 0)."""
        f = self.width / (2.0 * math.tan(math.radians(self.hfov_deg) / 2.0))
        return f, f, (self.width - 1) / 2.0, (self.height - 1) / 2.0

    def placed(self, base: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Return (position [3], axes [3, 3]) in the world; columns: right, down, forward."""
        c, s = math.cos(math.radians(self.pitch_deg)), math.sin(math.radians(self.pitch_deg))
        forward, down = np.array([c, 0.0, -s]), np.array([-s, 0.0, -c])
        optical = np.stack([np.array([0.0, -1.0, 0.0]), down, forward], axis=1)
        turn = base_rotation(base)
        at = np.array([base.x, base.y, base.z]) + turn @ np.array([0.0, 0.0, self.mount_m])
        return at, turn @ optical


@dataclass(frozen=True, eq=False)
class View:
    """What a camera sees.

    Arrays that were not asked for are empty.

    :param image: uint8 [H, W, 3].
    :param depth: float32 [H, W] metres along the optical axis, NaN where the ray meets nothing.
    :param normal: float32 [H, W, 3] unit, camera optical frame, facing the camera.
    :param ids: int16 [H, W]: objects 1.., floor 0, ceiling -1, walls -2..-5, fittings -6,
        nothing -9.
    """

    image: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    ids: np.ndarray


def base_rotation(pose: Pose) -> np.ndarray:
    """Return the rotation [3, 3] from the base frame to the world."""
    cy, sy = math.cos(pose.yaw), math.sin(pose.yaw)
    cp, sp = math.cos(pose.pitch), math.sin(pose.pitch)
    cr, sr = math.cos(pose.roll), math.sin(pose.roll)
    return np.array([[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                     [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                     [-sp, cp * sr, cp * cr]])


# ---- the primitive table ------------------------------------------------------------------------

@dataclass(frozen=True)
class Placed:
    """A sketch that stands somewhere.

    :param owner: id in the instance picture. :param casts: whether it throws a shadow.
    :param foot: radius of the contact shade below it, 0 for none.
    """

    sketch: Sketch
    x: float
    y: float
    z: float
    yaw: float
    owner: int
    casts: bool = True
    foot: float = 0.0


def pack(bodies: Sequence[Placed]) -> Primitives:
    """Return the tracer's table of these bodies."""
    rows = [row for body in bodies for row in body.sketch.rows]
    counts = np.array([len(body.sketch.rows) for body in bodies], np.int64)
    last = np.cumsum(counts)
    which = np.repeat(np.arange(len(bodies)), counts)
    kind = np.array([r[0] for r in rows], np.int64).reshape(-1)
    half = np.array([r[2] for r in rows], float).reshape(-1, 3)
    taper = np.array([r[4] for r in rows], float)
    unit = np.eye(3)
    turn = np.array([unit if r[5] is None else r[5] for r in rows]).reshape(-1, 3, 3)
    yaw = np.array([b.yaw for b in bodies])[which]
    world = np.zeros((len(rows), 3, 3))
    world[:, 0, 0] = world[:, 1, 1] = np.cos(yaw)
    world[:, 1, 0] = np.sin(yaw)
    world[:, 0, 1] = -world[:, 1, 0]
    world[:, 2, 2] = 1.0
    centre = np.array([r[1] for r in rows], float).reshape(-1, 3)
    at = np.array([(b.x, b.y, b.z) for b in bodies]).reshape(-1, 3)[which]
    centre = np.einsum('pij,pj->pi', world, centre) + at
    inv = np.transpose(world @ turn, (0, 2, 1)) / half[:, :, None]
    across = np.maximum(half[:, 0], half[:, 1]) * np.maximum(1.0, taper)
    radius = np.where(kind == BOX, np.sqrt((half ** 2).sum(1)), np.where(
        kind == ELLIPSOID, half.max(1, initial=0.0), np.hypot(across, half[:, 2])))
    first = last - counts
    middle, reach = _bounds(centre, radius, first, last)
    casts = np.array([b.casts for b in bodies], bool)
    return Primitives(
        kind, taper, centre, np.ascontiguousarray(inv), half,
        np.square(np.array([r[3] for r in rows], float).reshape(-1, 3)),
        np.array([r[6] for r in rows], float), np.array([r[7] for r in rows], float),
        np.array([r[8] for r in rows], np.int64),
        np.array([b.owner for b in bodies], np.int64)[which], radius, first, last, middle,
        np.where(casts, reach, 0.0), np.array([b.foot for b in bodies], float))


def _bounds(centre: np.ndarray, radius: np.ndarray, first: np.ndarray, last: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return middle [G, 3] and radius [G] of spheres around each body's primitives."""
    middle, reach = np.zeros((len(first), 3)), np.zeros(len(first))
    for g, (a, b) in enumerate(zip(first, last, strict=True)):
        if b > a:
            c, r = centre[a:b], radius[a:b]
            middle[g] = 0.5 * ((c - r[:, None]).min(0) + (c + r[:, None]).max(0))
            reach[g] = (np.sqrt(((c - middle[g]) ** 2).sum(1)) + r).max()
    return middle, reach


def join(one: Primitives, two: Primitives) -> Primitives:
    """Return the table of both."""
    shift = len(one.kind)
    moved = two._replace(first=two.first + shift, last=two.last + shift)
    return Primitives(*(np.concatenate([a, b]) for a, b in zip(one, moved, strict=True)))


def place_thing(thing: Thing, late_s: float = 0.0) -> Placed:
    """Return a thing of a scene as drawn ``late_s`` seconds after the window's end."""
    x, y, yaw, way = thing.at(late_s)
    phase = 0.0
    if thing.speed > 0.0:
        phase = way / (thing.size[2] / 2) if thing.kind == 'ball' else way / 0.7 * math.pi
    elif thing.kind == 'person':
        phase = 0.25 * (thing.variant % 3)
    length, width, height = thing.size
    sketch = draw(thing.kind, Look(thing.tint, length, width, height, thing.variant, phase))
    foot = 0.5 * (length + width) / 2 + 0.08 if thing.z == 0.0 else 0.0
    return Placed(sketch, x, y, thing.z, yaw, thing.object_id, True, foot)


class Stage:
    """A scene made ready for rendering; what moves is drawn anew for each time asked."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.room: Surroundings = scene.room.surroundings()
        fixed = [Placed(s, x, y, 0.0, yaw, FITTINGS_ID, casts=False)
                 for s, x, y, yaw in fittings(scene.room)]
        fixed += [place_thing(t) for t in scene.things if t.speed == 0.0]
        self._movers = [t for t in scene.things if t.speed > 0.0]
        self._fixed = pack(fixed)

    def primitives(self, late_s: float = 0.0) -> Primitives:
        """Return the table of everything ``late_s`` seconds after the window's end."""
        if not self._movers:
            return self._fixed
        return join(self._fixed, pack([place_thing(t, late_s) for t in self._movers]))


# ---- rendering ----------------------------------------------------------------------------------

@lru_cache(maxsize=32)
def pixel_rays(width: int, height: int, fx: float, cx: float, cy: float, fine: int
                ) -> np.ndarray:
    """Return rays [H * fine, W * fine, 3] in the optical frame with z = 1."""
    u = ((np.arange(width * fine) + 0.5) / fine - 0.5 - cx) / fx
    v = ((np.arange(height * fine) + 0.5) / fine - 0.5 - cy) / fx
    rays = np.empty((height * fine, width * fine, 3))
    rays[..., 0], rays[..., 1], rays[..., 2] = u[None, :], v[:, None], 1.0
    rays.setflags(write=False)
    return rays


def camera_rectangles(prims: Primitives, at: np.ndarray, axes: np.ndarray, camera: Camera
                      ) -> np.ndarray:
    """Return int64 [P, 4]: rows from, to, columns from, to that each primitive can cover."""
    wide = np.where(prims.kind == tracing.FRUSTUM, np.maximum(1.0, prims.taper), 1.0)
    unit = np.repeat(_CORNERS[None], len(prims.kind), axis=0)
    unit[:, :, :2] *= wide[:, None, None]
    back = np.transpose(prims.inv, (0, 2, 1)) * (prims.half ** 2)[:, None, :]
    corners = unit @ np.transpose(back, (0, 2, 1)) + (prims.centre - at)[:, None, :]
    seen = corners @ axes
    z = seen[..., 2]
    fx, fy, cx, cy = camera.intrinsics
    safe = np.maximum(z, _NEAR_M)
    u, v = seen[..., 0] / safe * fx + cx, seen[..., 1] / safe * fy + cy
    big = 4.0 * max(camera.width, camera.height)
    rects = np.stack([np.floor(np.clip(v.min(1), -big, big)),
                      np.ceil(np.clip(v.max(1), -big, big)) + 1,
                      np.floor(np.clip(u.min(1), -big, big)),
                      np.ceil(np.clip(u.max(1), -big, big)) + 1], axis=1).astype(np.int64)
    straddles = (z < _NEAR_M).any(1)
    rects[straddles] = (-4 * camera.height, 5 * camera.height, -4 * camera.width,
                        5 * camera.width)
    rects[(z < _NEAR_M).all(1)] = 0
    return rects


def _bands(rows: int, threads: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` for bands of rows, in several threads if asked."""
    if threads <= 1:
        work(slice(0, rows))
        return
    edges = np.linspace(0, rows, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]))


def trace(prims: Primitives, room: Surroundings, at: np.ndarray, dirs: np.ndarray,
          rects: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return t [rows, columns] and what was met, of a grid of rays from one point."""
    t = np.empty(dirs.shape[:2])
    code = np.empty(dirs.shape[:2], np.int32)

    def work(rows: slice) -> None:
        shifted = rects - np.array([rows.start, rows.start, 0, 0])
        tracing.trace_grid(dirs[rows], at, prims, shifted, room, t[rows], code[rows])
    _bands(dirs.shape[0], threads, work)
    return t, code


def render(prims: Primitives, room: Surroundings, camera: Camera, base: Pose, *,
           colour: bool = True, geometry: bool = True, shadows: bool = True,
           supersample: bool = False, threads: int = 1) -> View:
    """Return what the camera sees from a base pose.

    :param colour: compute the image. :param geometry: compute depth, normals and ids.
    :param shadows: hard shadows of the lamp.
    :param supersample: average 2x2 rays in pixels that lie on edges.
    :param threads: bands of rows rendered side by side.
    """
    at, axes = camera.placed(base)
    fx, _, cx, cy = camera.intrinsics
    dirs = pixel_rays(camera.width, camera.height, fx, cx, cy, 1) @ axes.T
    rects = camera_rectangles(prims, at, axes, camera)
    t, code = trace(prims, room, at, dirs, rects, threads)
    shape = (camera.height, camera.width) if geometry else (0, 0)
    depth, normal = np.empty(shape, np.float32), np.empty((*shape, 3), np.float32)
    ids = np.empty(shape, np.int16)
    if geometry:
        shading.geometry_grid(dirs, at, axes, prims, t, code, depth, normal, ids)
    if not colour:
        return View(np.empty((0, 0, 3), np.uint8), depth, normal, ids)
    rgb = np.empty((camera.height, camera.width, 3), np.float32)
    _bands(camera.height, threads, lambda rows: _shade(
        dirs[rows], at, prims, room, t[rows], code[rows], shadows, 1.0 / fx, rgb[rows]))
    if supersample:
        _smooth(rgb, prims, room, camera, at, axes, rects, shadows, threads)
    return View((rgb + 0.5).astype(np.uint8), depth, normal, ids)


def _shade(dirs: np.ndarray, at: np.ndarray, prims: Primitives, room: Surroundings,
           t: np.ndarray, code: np.ndarray, shadows: bool, pixel: float, rgb: np.ndarray) -> None:
    """Fill rgb [..., 3] with the colours (0..255) of traced rays of any shape."""
    shading.shade_rays(dirs.reshape(-1, 3), at, prims, room, textures.pyramid(), t.reshape(-1),
                       code.reshape(-1), shadows, pixel, rgb.reshape(-1, 3))


def _smooth(rgb: np.ndarray, prims: Primitives, room: Surroundings, camera: Camera,
            at: np.ndarray, axes: np.ndarray, rects: np.ndarray, shadows: bool, threads: int
            ) -> None:
    """Replace the pixels of rgb on edges between primitives by the mean of 2x2 finer rays."""
    fx, _, cx, cy = camera.intrinsics
    fine = pixel_rays(camera.width, camera.height, fx, cx, cy, 2) @ axes.T
    t, code = trace(prims, room, at, fine, rects * 2 + np.array([-2, 2, -2, 2]), threads)
    found = np.empty((camera.height * camera.width, 2), np.int64)
    found = found[:shading.edge_pixels(code, found)]
    v = (2 * found[:, 0, None] + np.array([0, 0, 1, 1])).reshape(-1)
    u = (2 * found[:, 1, None] + np.array([0, 1, 0, 1])).reshape(-1)
    colours = np.empty((len(v), 3), np.float32)
    _shade(fine[v, u], at, prims, room, t[v, u], code[v, u], shadows, 1.0 / fx, colours)
    rgb[found[:, 0], found[:, 1]] = colours.reshape(-1, 4, 3).mean(1)
