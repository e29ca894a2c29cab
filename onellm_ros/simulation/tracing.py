"""Compiled ray tracing of the simulated world: what each ray of a grid meets, and its colour.

Owns the primitive table and the numba kernels. Every primitive is a unit body in its own affine
frame (``inv`` maps world offsets to it; a ray's parameter t is the same in both):

0 box |x|,|y|,|z| <= 1; 1 ellipsoid |p| <= 1; 2 frustum |z| <= 1 with radius 1 below, ``taper`` on
top (a cylinder at 1, a cone at 0). Codes of what a ray met: primitive index >= 0, or FLOOR,
CEILING, WALLS - 0..3, MISS. All kernels take ray grids, dirs [rows, columns, 3].
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import njit
import numpy as np

from onellm_ros.simulation.textures import LEVELS, SIZE, SPAN_M

BOX, ELLIPSOID, FRUSTUM = 0, 1, 2
FLOOR, CEILING, WALLS, MISS = -1, -2, -3, -9
PLAIN, GRAIN, FABRIC, SEAMS, ART, SKY = 0, 1, 2, 3, 4, 5
FAR = 1e30
_GRAIN_TEXTURE, _FABRIC_TEXTURE = 4, 5

# No nnan / ninf: misses are NaN and FAR. The numpy error model: no exceptions inside kernels.
KERNEL = {'cache': True, 'nogil': True, 'error_model': 'numpy',
          'fastmath': {'contract', 'reassoc', 'nsz', 'arcp'}}
# Helpers must melt into the kernels: a call would pass every array of the tables one by one.
HELPER = {**KERNEL, 'forceinline': True}


Triple = tuple[float, float, float]


class Primitives(NamedTuple):
    """P primitives of G bodies; a body's primitives are consecutive."""

    kind: np.ndarray             # int64 [P]
    taper: np.ndarray            # [P]
    centre: np.ndarray           # [P, 3] metres
    inv: np.ndarray              # [P, 3, 3]
    half: np.ndarray             # [P, 3] half sizes, metres
    colour: np.ndarray           # [P, 3] linear albedo
    gloss: np.ndarray            # [P] 0..1
    glow: np.ndarray             # [P] emission as a share of the colour
    pattern: np.ndarray          # int64 [P]
    owner: np.ndarray            # int64 [P] object id
    radius: np.ndarray           # [P] bounding sphere
    first: np.ndarray            # int64 [G]
    last: np.ndarray             # int64 [G] one past the end
    body_centre: np.ndarray      # [G, 3]
    body_radius: np.ndarray      # [G]; 0: casts no shadow
    foot: np.ndarray             # [G] radius of its contact shade on the floor; 0: none


class Surroundings(NamedTuple):
    """Room box, its colours (linear) and its light."""

    low: Triple
    high: Triple
    wall: Triple
    floor: Triple
    texture: int                 # index in textures.NAMES
    turn: tuple[float, float]            # [2] cos, sin of the floor pattern's direction
    light: Triple                # position of the lamp
    power: Triple                # [3] its colour
    ambient: Triple
    fill: Triple                 # [3] direction towards the weak second light, unit


@njit(**HELPER)
def hit_unit(kind, taper, ox, oy, oz, dx, dy, dz):
    """Return the smallest t > 1e-6 at which the ray meets the unit body, or FAR."""
    if kind == BOX:
        near, far = -FAR, FAR
        for o, d in ((ox, dx), (oy, dy), (oz, dz)):
            if abs(d) < 1e-12:
                if abs(o) > 1.0:
                    return FAR
            else:
                inverse = 1.0 / d
                a, b = (-1.0 - o) * inverse, (1.0 - o) * inverse
                near, far = max(near, min(a, b)), min(far, max(a, b))
        if near > far or far <= 1e-6:
            return FAR
        return near if near > 1e-6 else far
    if kind == ELLIPSOID:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
        if disc < 0.0:
            return FAR
        root = math.sqrt(disc)
        t = (-b - root) / a
        if t <= 1e-6:
            t = (-b + root) / a
        return t if t > 1e-6 else FAR
    best = FAR
    half, slope = 0.5 * (1.0 + taper), 0.5 * (taper - 1.0)
    r = half + slope * oz
    a = dx * dx + dy * dy - slope * slope * dz * dz
    b = ox * dx + oy * dy - slope * dz * r
    disc = b * b - a * (ox * ox + oy * oy - r * r)
    if disc >= 0.0 and abs(a) > 1e-14:
        root = math.sqrt(disc)
        for t in ((-b - root) / a, (-b + root) / a):
            if 1e-6 < t < best and abs(oz + t * dz) <= 1.0:
                best = t
    if abs(dz) > 1e-12:
        for side in (-1.0, 1.0):
            t = (side - oz) / dz
            if 1e-6 < t < best:
                x, y = ox + t * dx, oy + t * dy
                limit = 1.0 if side < 0.0 else taper
                if x * x + y * y <= limit * limit:
                    best = t
    return best


@njit(**HELPER)
def _room_exit(origin, dx, dy, dz, low, high):
    """Return (t, code) where a ray leaves the room box, (FAR, MISS) if it never is inside."""
    near, far, code, axis = 0.0, FAR, MISS, -1
    for d in (dx, dy, dz):
        axis += 1
        o = origin[axis]
        if abs(d) < 1e-12:
            if o < low[axis] or o > high[axis]:
                return FAR, MISS
            continue
        a, b = (low[axis] - o) / d, (high[axis] - o) / d
        near = max(near, min(a, b))
        if max(a, b) < far:
            far = max(a, b)
            up = b > a
            code = (CEILING if up else FLOOR) if axis == 2 else WALLS - 2 * axis - int(up)
    if not (near < far and far > 1e-6):
        return FAR, MISS
    return far, code


@njit(**KERNEL)
def trace_grid(dirs, origin, prims, rects, room, t_out, code_out):
    """Fill t_out and code_out [rows, columns] with what every ray meets first.

    :param rects: int [P, 4], rows and columns (from, to) outside which a primitive is not tested.
    """
    rows, columns = t_out.shape
    for v in range(rows):
        for u in range(columns):
            t, code = _room_exit(origin, dirs[v, u, 0], dirs[v, u, 1], dirs[v, u, 2],
                                 room.low, room.high)
            t_out[v, u] = t
            code_out[v, u] = code
    for p in range(prims.kind.shape[0]):
        v0, v1 = max(rects[p, 0], 0), min(rects[p, 1], rows)
        u0, u1 = max(rects[p, 2], 0), min(rects[p, 3], columns)
        if v0 >= v1 or u0 >= u1:
            continue
        kind, taper = prims.kind[p], prims.taper[p]
        m = prims.inv[p]
        a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
        g, h, i = m[2, 0], m[2, 1], m[2, 2]
        x, y, z = origin[0] - prims.centre[p, 0], origin[1] - prims.centre[p, 1], \
            origin[2] - prims.centre[p, 2]
        ox, oy, oz = a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z
        for v in range(v0, v1):
            for u in range(u0, u1):
                x, y, z = dirs[v, u, 0], dirs[v, u, 1], dirs[v, u, 2]
                t = hit_unit(kind, taper, ox, oy, oz, a * x + b * y + c * z,
                             d * x + e * y + f * z, g * x + h * y + i * z)
                if t < t_out[v, u]:
                    t_out[v, u] = t
                    code_out[v, u] = p


@njit(**KERNEL)
def outline_counts(dirs, origin, prims, rects, counts):
    """Fill counts [G] with how many rays meet each body if nothing else were there."""
    rows, columns = dirs.shape[0], dirs.shape[1]
    stamp = np.full((rows, columns), -1, np.int32)
    o, d = np.empty(3), np.empty(3)
    for body in range(prims.first.shape[0]):
        for p in range(prims.first[body], prims.last[body]):
            m = prims.inv[p]
            for k in range(3):
                o[k] = 0.0
                for j in range(3):
                    o[k] += m[k, j] * (origin[j] - prims.centre[p, j])
            for v in range(max(rects[p, 0], 0), min(rects[p, 1], rows)):
                for u in range(max(rects[p, 2], 0), min(rects[p, 3], columns)):
                    if stamp[v, u] == body:
                        continue
                    x, y, z = dirs[v, u, 0], dirs[v, u, 1], dirs[v, u, 2]
                    for k in range(3):
                        d[k] = m[k, 0] * x + m[k, 1] * y + m[k, 2] * z
                    if hit_unit(prims.kind[p], prims.taper[p], o[0], o[1], o[2],
                                d[0], d[1], d[2]) < FAR:
                        stamp[v, u] = body
                        counts[body] += 1


@njit(**HELPER)
def tone_at(pyramid, texture, u, v, footprint):
    """Bilinear tone of a texture at metres (u, v), blurred to the footprint (metres)."""
    level, size, offset = 0, SIZE, 0
    texel = SPAN_M / SIZE
    while level < LEVELS - 1 and texel < footprint:
        offset += size * size
        size //= 2
        texel *= 2.0
        level += 1
    x, y = u / texel, v / texel
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    mask = size - 1
    xa, ya = int(x0) & mask, int(y0) & mask
    xb, yb = (xa + 1) & mask, (ya + 1) & mask
    ya, yb = offset + ya * size, offset + yb * size
    top = pyramid[texture, ya + xa] * (1.0 - fx) + pyramid[texture, ya + xb] * fx
    low = pyramid[texture, yb + xa] * (1.0 - fx) + pyramid[texture, yb + xb] * fx
    return (top * (1.0 - fy) + low * fy) * (1.1 / 255.0)


@njit(**HELPER)
def _touches(ox, oy, oz, dx, dy, dz, length, radius):
    """Whether the ray from 0 along d (squared length given) comes near the sphere at o."""
    along = ox * dx + oy * dy + oz * dz
    if along <= 0.0:
        return False
    return (ox * ox + oy * oy + oz * oz - radius * radius) * length <= along * along


@njit(**HELPER)
def shadowed(prims, lamp, local, x, y, z, skip):
    """Whether a primitive other than ``skip`` stands between the lamp and (x, y, z).

    :param local: the lamp in every primitive's own frame, [P, 3].
    """
    dx, dy, dz = x - lamp[0], y - lamp[1], z - lamp[2]
    length = dx * dx + dy * dy + dz * dz
    limit = 1.0 - 0.002 / math.sqrt(length)
    m = prims.inv
    for body in range(prims.first.shape[0]):
        r = prims.body_radius[body]
        if r == 0.0 or not _touches(
                prims.body_centre[body, 0] - lamp[0], prims.body_centre[body, 1] - lamp[1],
                prims.body_centre[body, 2] - lamp[2], dx, dy, dz, length, r):
            continue
        for p in range(prims.first[body], prims.last[body]):
            if p == skip or not _touches(
                    prims.centre[p, 0] - lamp[0], prims.centre[p, 1] - lamp[1],
                    prims.centre[p, 2] - lamp[2], dx, dy, dz, length, prims.radius[p]):
                continue
            t = hit_unit(prims.kind[p], prims.taper[p], local[p, 0], local[p, 1], local[p, 2],
                         m[p, 0, 0] * dx + m[p, 0, 1] * dy + m[p, 0, 2] * dz,
                         m[p, 1, 0] * dx + m[p, 1, 1] * dy + m[p, 1, 2] * dz,
                         m[p, 2, 0] * dx + m[p, 2, 1] * dy + m[p, 2, 2] * dz)
            if t < limit:
                return True
    return False


@njit(**HELPER)
def local_of(prims, p, x, y, z):
    """Return the point in the primitive's own frame."""
    m = prims.inv
    x, y, z = x - prims.centre[p, 0], y - prims.centre[p, 1], z - prims.centre[p, 2]
    return (m[p, 0, 0] * x + m[p, 0, 1] * y + m[p, 0, 2] * z,
            m[p, 1, 0] * x + m[p, 1, 1] * y + m[p, 1, 2] * z,
            m[p, 2, 0] * x + m[p, 2, 1] * y + m[p, 2, 2] * z)


@njit(**HELPER)
def normal_at(prims, p, x, y, z):
    """Return the outward unit normal (world frame) at local point (x, y, z) of primitive p."""
    kind, taper = prims.kind[p], prims.taper[p]
    if kind == BOX:
        ax, ay, az = abs(x), abs(y), abs(z)
        if ax >= ay and ax >= az:
            x, y, z = math.copysign(1.0, x), 0.0, 0.0
        elif ay >= az:
            x, y, z = 0.0, math.copysign(1.0, y), 0.0
        else:
            x, y, z = 0.0, 0.0, math.copysign(1.0, z)
    elif kind == FRUSTUM:
        slope = 0.5 * (taper - 1.0)
        side = 0.5 * (1.0 + taper) + slope * z
        if abs(z) > 1.0 - 1e-6 and x * x + y * y < (side - 1e-6) ** 2:
            x, y, z = 0.0, 0.0, math.copysign(1.0, z)
        else:
            z = -slope * side
    m = prims.inv
    nx = m[p, 0, 0] * x + m[p, 1, 0] * y + m[p, 2, 0] * z
    ny = m[p, 0, 1] * x + m[p, 1, 1] * y + m[p, 2, 1] * z
    nz = m[p, 0, 2] * x + m[p, 1, 2] * y + m[p, 2, 2] * z
    norm = 1.0 / math.sqrt(max(nx * nx + ny * ny + nz * nz, 1e-300))
    return nx * norm, ny * norm, nz * norm


@njit(**HELPER)
def _face_metres(prims, p, x, y, z):
    """Return two surface coordinates in metres of local point (x, y, z)."""
    hx, hy, hz = prims.half[p, 0], prims.half[p, 1], prims.half[p, 2]
    if prims.kind[p] == BOX:
        ax, ay, az = abs(x), abs(y), abs(z)
        if az >= ax and az >= ay:
            return x * hx, y * hy
        if ax >= ay:
            return z * hz, y * hy
        return z * hz, x * hx
    return math.atan2(y, x) * hx, z * hz


@njit(**HELPER)
def _art(x, y, k):
    """Colour of a painted canvas or of the sky in a window at (x, y) in -1..1."""
    if k == SKY:
        s = 0.5 + 0.5 * y
        if y < -0.35 + 0.12 * math.sin(5.0 * x):
            return 0.20, 0.42, 0.16
        return 0.55 - 0.2 * s, 0.72 - 0.1 * s, 0.95
    hill = 0.25 * math.sin(3.0 * x + 1.0)
    if (x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06:
        return 1.0, 0.85, 0.55
    if y < hill - 0.3:
        return 0.38, 0.34, 0.22
    if y < hill:
        return 0.48, 0.50, 0.34
    return 0.80, 0.78, 0.66


@njit(**HELPER)
def primitive_colour(prims, p, x, y, z, footprint, pyramid):
    """Return the linear albedo at local point (x, y, z) of primitive p."""
    pattern = prims.pattern[p]
    if pattern == ART or pattern == SKY:
        return _art(y, z, pattern)
    tone = 1.0
    if pattern == GRAIN or pattern == FABRIC:
        u, v = _face_metres(prims, p, x, y, z)
        shift = 0.37 * p
        if pattern == GRAIN:
            tone = tone_at(pyramid, _GRAIN_TEXTURE, u + shift, 2.0 * v + shift, footprint)
        else:
            tone = tone_at(pyramid, _FABRIC_TEXTURE, u, v, footprint)
    elif pattern == SEAMS:
        w = 0.045
        if abs(x) < w or abs(z) < w or abs(x * x + z * z - 0.45 - 0.4 * y * y) < 2.0 * w * w:
            tone = 0.35
    return prims.colour[p, 0] * tone, prims.colour[p, 1] * tone, prims.colour[p, 2] * tone
