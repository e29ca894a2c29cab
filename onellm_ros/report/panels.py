"""Arrays turned into pictures: depth, normals, a cloud from above, a strip of video frames.

Owns the colours that stand for metres, directions and heights. NumPy in, NumPy out.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import colormaps
import numpy as np

NOTHING = 0.6                   # grey of what was not measured
VIEW_PIXELS = 200
STRIP_HEIGHT = 96


def depth_colours(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return [H, W, 3] in 0..1: near warm, far cold between two distances, grey where unmeasured.

    :param depth: [H, W] metres; NaN, infinite and below or at 0 mean no measurement.
    """
    good = np.isfinite(depth) & (depth > 0)
    place = np.clip((np.where(good, depth, low) - low) / (high - low), 0.0, 1.0)
    colours = colormaps['turbo'](0.95 - 0.9 * place)[..., :3]
    colours[~good] = NOTHING
    return colours


def colour_wheel_normals(normal: np.ndarray) -> np.ndarray:
    """Return [H, W, 3] in 0..1 from normals in the optical frame: red right, green up, blue near.

    :param normal: [H, W, 3] unit vectors, NaN where unmeasured.
    """
    colours = 0.5 + 0.5 * normal * np.array([1.0, -1.0, -1.0])
    return np.where(np.isfinite(colours).all(axis=-1, keepdims=True),
                    np.clip(colours, 0.0, 1.0), NOTHING)


def scan_cloud(beams: np.ndarray) -> np.ndarray:
    """Return where the beams of a planar scan ended, as a cloud [M, 6] without colours.

    :param beams: [N, 2] azimuth in radians, range in metres; infinite, NaN and below or at 0 mean
        that nothing was met.
    """
    azimuth, reach = beams[np.isfinite(beams).all(axis=1) & (beams[:, 1] > 0)].T
    out = np.full((len(azimuth), 6), 0.5, np.float32)
    out[:, 0], out[:, 1], out[:, 2] = reach * np.cos(azimuth), reach * np.sin(azimuth), 0.0
    return out


def top_view(cloud: np.ndarray, optical: bool) -> tuple[
        np.ndarray, tuple[float, float, float, float], bool]:
    """Return a cloud seen from above, forward up, left to the left.

    :param cloud: [N, 6] x y z metres, r g b in 0..1.
    :param optical: the frame is a camera's (z forward, x right) and not REP-103's.
    :returns: picture [S, S, 3], its borders (back, front, right, left) in metres, and whether the
        points have colours of their own (else their height is shown).
    """
    cloud = cloud[np.isfinite(cloud[:, :3]).all(axis=1)]
    if optical:
        ahead, left, up = cloud[:, 2], -cloud[:, 0], -cloud[:, 1]
    else:
        ahead, left, up = cloud[:, 0], cloud[:, 1], cloud[:, 2]
    picture = np.ones((VIEW_PIXELS, VIEW_PIXELS, 3))
    if not len(cloud):
        return picture, (-1.0, 1.0, -1.0, 1.0), False
    back, front = (float(v) for v in np.percentile(ahead, (1, 99)))
    right, most_left = (float(v) for v in np.percentile(left, (1, 99)))
    back, front = min(back, 0.0), max(front, 0.0)
    side = 1.08 * max(front - back, max(most_left, 0.0) - min(right, 0.0), 1.0) / 2
    middle_x, middle_y = (back + front) / 2, (min(right, 0) + max(most_left, 0)) / 2
    borders = (middle_x - side, middle_x + side, middle_y - side, middle_y + side)
    coloured = bool(np.ptp(cloud[:, 3:6], axis=0).max() > 0.02)
    if coloured:
        colours = np.clip(cloud[:, 3:6], 0.0, 1.0)
    else:
        low, high = np.percentile(up, (2, 98))
        colours = colormaps['viridis'](np.clip((up - low) / max(high - low, 0.1), 0, 1))[:, :3]
    step = 2 * side / VIEW_PIXELS
    row = ((borders[1] - ahead) / step).astype(int)
    column = ((borders[3] - left) / step).astype(int)
    order = np.argsort(up, kind='stable')           # the highest is drawn last
    reach = (0,) if len(cloud) > 20000 else (0, 1) if len(cloud) > 4000 else (-1, 0, 1)
    for dr in reach:
        for dc in reach:
            r, c = row[order] + dr, column[order] + dc
            inside = (r >= 0) & (r < VIEW_PIXELS) & (c >= 0) & (c < VIEW_PIXELS)
            picture[r[inside], c[inside]] = colours[order][inside]
    return picture, borders, coloured


def film_strip(frames: Sequence[np.ndarray], most: int = 4) -> np.ndarray:
    """Return up to ``most`` evenly chosen frames side by side, uint8, the oldest at the left."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int))
    height = STRIP_HEIGHT
    parts = []
    for number in chosen:
        frame = frames[number]
        width = max(1, round(frame.shape[1] * height / frame.shape[0]))
        rows = (np.arange(height) + 0.5) * frame.shape[0] / height
        columns = (np.arange(width) + 0.5) * frame.shape[1] / width
        parts.append(frame[rows.astype(int)[:, None], columns.astype(int)[None, :]])
        parts.append(np.full((height, 3, 3), 255, np.uint8))
    return np.concatenate(parts[:-1], axis=1)
