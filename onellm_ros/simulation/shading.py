"""Compiled shading of the simulated world: colours, normals and ids of traced rays.

Owns the light model: one lamp under the ceiling with hard shadows, ambient light that fades in
corners and under things, a weak second light, highlights. Linear light, gamma 2 at the end.
"""

from __future__ import annotations

import math

from numba import njit
import numpy as np

from onellm_ros.simulation.tracing import (
    CEILING,
    FLOOR,
    HELPER,
    KERNEL,
    MISS,
    WALLS,
    local_of,
    normal_at,
    primitive_colour,
    shadowed,
    tone_at,
)

SKY_BYTES = (140.0, 178.0, 230.0)


@njit(**HELPER)
def _room_normal(code):
    if code == FLOOR:
        return 0.0, 0.0, 1.0
    if code == CEILING:
        return 0.0, 0.0, -1.0
    side = WALLS - code
    sign = -1.0 if side % 2 else 1.0
    return (sign, 0.0, 0.0) if side < 2 else (0.0, sign, 0.0)


@njit(**HELPER)
def _room_colour(room, code, x, y, z, footprint, pyramid):
    if code == FLOOR:
        c = room.floor
        u = room.turn[0] * x - room.turn[1] * y
        v = room.turn[1] * x + room.turn[0] * y
        tone = tone_at(pyramid, room.texture, u, v, footprint)
        return c[0] * tone, c[1] * tone, c[2] * tone
    if code == CEILING:
        return 0.86, 0.86, 0.84
    c = room.wall
    side = WALLS - code
    tone = 0.97 + 0.03 * tone_at(pyramid, 3, 0.5 * (x if side >= 2 else y), 0.5 * z, footprint)
    return c[0] * tone, c[1] * tone, c[2] * tone


@njit(**HELPER)
def _corner_shade(room, code, x, y, z):
    """Return the share of ambient light (0..1) on a room surface near the room's edges."""
    shade = 1.0
    side = (WALLS - code) // 2 if code <= WALLS else 2
    axis = -1
    for at in (x, y, z):
        axis += 1
        if axis != side:
            gap = max(min(at - room.low[axis], room.high[axis] - at), 0.0)
            shade *= 1.0 - 0.07 / (0.2 + gap)
    return shade


@njit(**HELPER)
def _contact_shade(prims, x, y):
    """Return the share of ambient light on the floor at (x, y) near what stands there."""
    shade = 1.0
    for body in range(prims.foot.shape[0]):
        r = prims.foot[body]
        if r > 0.0:
            dx, dy = x - prims.body_centre[body, 0], y - prims.body_centre[body, 1]
            q = (dx * dx + dy * dy) / (r * r)
            if q < 2.25:
                w = 1.0 - q / 2.25
                shade *= 1.0 - 0.55 * w * w
    return shade


@njit(**HELPER)
def _highlight(lx, ly, lz, dx, dy, dz, nx, ny, nz):
    """Return the highlight (0..1) of light from unit l, seen along unit d, on unit normal n."""
    hx, hy, hz = lx - dx, ly - dy, lz - dz
    s = max(0.0, (hx * nx + hy * ny + hz * nz)
            / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9))
    if s < 0.7:
        return 0.0
    s *= s
    s *= s
    s *= s
    s *= s
    return s * s


@njit(**HELPER)
def _byte(value):
    """Gamma 2 with a soft shoulder, 0..255."""
    value = math.sqrt(max(value, 0.0))
    if value > 0.8:
        value = 0.8 + 0.2 * (1.0 - math.exp(-(value - 0.8) / 0.2))
    return value * 255.0


@njit(**KERNEL)
def _lamp_in_frames(prims, lamp):
    local = np.empty((prims.kind.shape[0], 3))
    for p in range(local.shape[0]):
        local[p, 0], local[p, 1], local[p, 2] = local_of(prims, p, lamp[0], lamp[1], lamp[2])
    return local


@njit(**HELPER)
def surface_normal(prims, code, x, y, z, dx, dy, dz):
    """Return the unit normal (world frame) of the hit, turned to face the ray's origin."""
    if code < 0:
        nx, ny, nz = _room_normal(code)
    else:
        px, py, pz = local_of(prims, code, x, y, z)
        nx, ny, nz = normal_at(prims, code, px, py, pz)
    if nx * dx + ny * dy + nz * dz > 0.0:
        return -nx, -ny, -nz
    return nx, ny, nz


@njit(**KERNEL)
def geometry_grid(dirs, origin, axes, prims, t_in, code_in, depth, normal, ids):
    """Fill depth, normals (in the frame whose axes are the columns of ``axes``) and ids.

    Ids: objects 1 and up, floor 0, ceiling -1, walls -2..-5, what hangs on walls -6, miss -9.
    """
    rows, columns = t_in.shape
    for v in range(rows):
        for u in range(columns):
            code, t = code_in[v, u], t_in[v, u]
            if code == MISS:
                depth[v, u] = np.nan
                normal[v, u, :] = np.nan
                ids[v, u] = MISS
                continue
            dx, dy, dz = dirs[v, u, 0], dirs[v, u, 1], dirs[v, u, 2]
            n = surface_normal(prims, code, origin[0] + t * dx, origin[1] + t * dy,
                               origin[2] + t * dz, dx, dy, dz)
            depth[v, u] = t
            for k in range(3):
                normal[v, u, k] = n[0] * axes[0, k] + n[1] * axes[1, k] + n[2] * axes[2, k]
            ids[v, u] = prims.owner[code] if code >= 0 else code + 1


# Helpers that take ``prims`` are called from here only: handed on from call to call, its arrays
# would be counted as references for every ray, which costs more than the shading itself.
@njit(**KERNEL)
def shade_rays(dirs, origin, prims, room, pyramid, t_in, code_in, shadows, pixel, rgb):
    """Fill rgb [n, 3] (0..255) with the colours of n traced rays from one origin.

    :param dirs: [n, 3]; :param t_in: and :param code_in: [n] what they met.
    :param pixel: width of a ray's footprint at 1 m, metres.
    """
    local = _lamp_in_frames(prims, room.light)
    for i in range(t_in.shape[0]):
        code, t = code_in[i], t_in[i]
        if code == MISS:
            rgb[i, 0], rgb[i, 1], rgb[i, 2] = SKY_BYTES
            continue
        dx, dy, dz = dirs[i, 0], dirs[i, 1], dirs[i, 2]
        x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
        nx, ny, nz = surface_normal(prims, code, x, y, z, dx, dy, dz)
        norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
        facing = max(-(dx * nx + dy * ny + dz * nz) * norm, 0.08)
        footprint = pixel * t / (0.35 + 0.65 * facing) * (0.6 + 0.4 / facing)
        lx, ly, lz = room.light[0] - x, room.light[1] - y, room.light[2] - z
        distance = math.sqrt(lx * lx + ly * ly + lz * lz) + 1e-9
        lx, ly, lz = lx / distance, ly / distance, lz / distance
        key = max(nx * lx + ny * ly + nz * lz, 0.0) / (0.55 + 0.075 * distance * distance)
        if key > 0.0 and shadows and shadowed(prims, room.light, local, x, y, z, code):
            key *= 0.12
        around = 0.72 + 0.28 * nz
        gloss, glow = 0.0, 0.0
        if code < 0:
            r, g, b = _room_colour(room, code, x, y, z, footprint, pyramid)
            around = (0.95 if code == CEILING else around) * _corner_shade(room, code, x, y, z)
            if code == FLOOR:
                around *= _contact_shade(prims, x, y)
                gloss = 0.15 if room.texture < 2 else 0.0
        else:
            px, py, pz = local_of(prims, code, x, y, z)
            r, g, b = primitive_colour(prims, code, px, py, pz, footprint, pyramid)
            gloss, glow = prims.gloss[code], prims.glow[code]
            around *= 0.75 + 0.25 * min(1.0, max(0.0, z / 0.3))
        shine = 0.0
        if gloss > 0.0 and key > 0.0:
            shine = 0.8 * gloss * key * _highlight(lx, ly, lz, dx * norm, dy * norm, dz * norm,
                                                   nx, ny, nz)
        base = glow + 0.16 * max(0.0, nx * room.fill[0] + ny * room.fill[1] + nz * room.fill[2])
        rgb[i, 0] = _byte(r * (key * room.power[0] + around * room.ambient[0] + base) + shine)
        rgb[i, 1] = _byte(g * (key * room.power[1] + around * room.ambient[1] + base) + shine)
        rgb[i, 2] = _byte(b * (key * room.power[2] + around * room.ambient[2] + base) + shine)


@njit(**KERNEL)
def edge_pixels(code, found):
    """Write the pixels whose 2x2 finer rays (code [2 rows, 2 columns]) differ to found [n, 2].

    :returns: how many there are.
    """
    count = 0
    for v in range(code.shape[0] // 2):
        for u in range(code.shape[1] // 2):
            first = code[2 * v, 2 * u]
            if (code[2 * v, 2 * u + 1] != first or code[2 * v + 1, 2 * u] != first
                    or code[2 * v + 1, 2 * u + 1] != first):
                found[count, 0], found[count, 1] = v, u
                count += 1
    return count
