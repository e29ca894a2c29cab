"""Depth maps and surface normals to pictures and encoder inputs.

A pixel without a measurement (NaN, infinite, zero or negative) never mixes with measured ones: a
resized pixel is the antialiased mean of the *measured* pixels under it, and counts as measured
when they cover at least half of it. Pixels without a measurement are 0 in a depth picture and 0.5
(no direction) in a normal picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from onellm_ros.preprocess.errors import (
    NoMeasurementError,
    PreprocessError,
    as_tensor,
    shape_text,
)
from onellm_ros.preprocess.image import fit_picture, image_tensor, normalise

ENCODINGS = ('relative', 'metric')
METRIC_RANGE_M = 10.0
EDGE_JUMP = 0.05            # relative depth difference of neighbours that counts as an edge


def _depth_map(depth_m: Any) -> torch.Tensor:
    """Return depth as float32 [..., H, W] with 0 where there is no measurement."""
    depth = as_tensor(depth_m, 'depth')
    if depth.ndim not in (2, 3) or not depth.is_floating_point() or 0 in depth.shape:
        raise PreprocessError(
            f'depth: found {depth.dtype} of shape {shape_text(depth.shape)}, expected floating '
            'point metres [H, W]; convert millimetres by 0.001 first')
    depth = depth.float()
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)


def _encode(depth: torch.Tensor, encoding: str) -> torch.Tensor:
    """Encode valid-or-zero depth [B, H, W] into [B, C, H, W] in 0..1 (C = 1 or 2), no mask."""
    valid = depth > 0
    if encoding == 'metric':
        near = torch.where(valid, 1.0 / (1.0 + depth), 0.0)
        return torch.stack([(depth / METRIC_RANGE_M).clamp(max=1.0), near], dim=1)
    if encoding != 'relative':
        raise PreprocessError(
            f'depth encoding: found {encoding!r}, expected one of {list(ENCODINGS)}')
    inverse = torch.where(valid, 1.0 / depth.clamp(min=1e-6), 0.0)
    flat = inverse.flatten(1)
    low = torch.where(valid.flatten(1), flat, torch.inf).amin(1).view(-1, 1, 1)
    high = flat.amax(1).view(-1, 1, 1)
    spread = high - low
    flat_scene = spread <= 1e-6 * high              # one distance everywhere: shown as near
    scaled = torch.where(flat_scene, 1.0, (inverse - low) / torch.where(flat_scene, 1.0, spread))
    return torch.where(valid, scaled.clamp(0.0, 1.0), 0.0)[:, None]


def _three_channels(encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Complete [B, C, H, W] to three channels; C = 1 is repeated, C = 2 gets the mask."""
    if encoded.shape[1] == 1:
        return encoded.expand(-1, 3, -1, -1)
    return torch.cat([encoded, mask.to(encoded.dtype)], dim=1)


def depth_picture(depth_m: Any, encoding: str = 'relative') -> torch.Tensor:
    """Render depth as a picture at its own resolution.

    ``relative``: inverse depth, scaled so that the farthest measured pixel is 0 and the nearest 1,
    in three equal channels. ``metric``: metres / 10 (cut at 1), 1 / (1 + metres), measured or not.

    :param depth_m: float metres [H, W] (or a batch [B, H, W]); NaN, inf, <= 0: no measurement.
    :returns: float32 [H, W, 3] (or [B, H, W, 3]) in 0..1.
    :raises PreprocessError: for another type or shape, or an unknown encoding.
    """
    depth = _depth_map(depth_m)
    batch = depth if depth.ndim == 3 else depth[None]
    picture = _three_channels(_encode(batch, encoding), (batch > 0)[:, None]).permute(0, 2, 3, 1)
    return picture if depth.ndim == 3 else picture[0]


def _fit_masked(values: torch.Tensor, mask: torch.Tensor, size: int, fit: str
                ) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize values [B, C, H, W] (0 outside the mask [B, 1, H, W]) over measured pixels only."""
    stacked = fit_picture(torch.cat([values, mask.float()], dim=1), size, fit, 'bilinear')
    cover = stacked[:, -1:]
    return stacked[:, :-1] / cover.clamp(min=1e-6), cover >= 0.5 - 1e-4


def _with_rgb(picture: torch.Tensor, rgb: Any, size: int, fit: str) -> torch.Tensor:
    """Stack normalised [B, 3, S, S] behind the colour picture: [B, F, 3, S, S]."""
    if rgb is None:
        return picture[:, None]
    colour = image_tensor(rgb, size, fit)
    colour = colour if colour.ndim == 4 else colour[None]
    if len(colour) != len(picture):
        raise PreprocessError(f'found {len(colour)} colour pictures for {len(picture)} depth or '
                              'normal pictures, expected as many')
    return torch.stack([colour.to(picture.device), picture], dim=1)


def depth_tensor(depth_m: Any, size: int, fit: str = 'crop', encoding: str = 'relative',
                 rgb: Any = None) -> torch.Tensor:
    """Turn depth (and the colour picture beside it) into the depth input.

    :param depth_m: float metres [H, W] or [B, H, W].
    :param rgb: uint8 [H', W', 3] (or a batch) of the same view, or None.
    :returns: float32 [F, 3, size, size] (or [B, F, ...]); F = 2 with ``rgb`` first, else 1.
    :raises NoMeasurementError: if no pixel of a picture holds a measurement.
    :raises PreprocessError: for another type or shape.
    """
    depth = _depth_map(depth_m)
    batch = depth if depth.ndim == 3 else depth[None]
    if not bool((batch > 0).flatten(1).any(1).all()):
        raise NoMeasurementError(
            f'depth: none of {batch[0].numel()} pixels holds a measurement (NaN, inf or <= 0)')
    values, mask = _fit_masked(_encode(batch, encoding), (batch > 0)[:, None], size, fit)
    picture = _three_channels(torch.where(mask, values.clamp(0.0, 1.0), 0.0), mask)
    out = _with_rgb(normalise(picture), rgb, size, fit)
    return out if depth.ndim == 3 else out[0]


def _normal_map(normals: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit normals [B, 3, H, W] (0 without a measurement) and their mask [B, 1, H, W]."""
    if isinstance(normals, np.ndarray) and normals.ndim == 3 \
            and normals.transpose(2, 0, 1).flags.c_contiguous:     # planes: they stay as they are
        data = as_tensor(normals.transpose(2, 0, 1), 'normal').permute(1, 2, 0)
    else:
        data = as_tensor(normals, 'normal')
    if data.ndim not in (3, 4) or data.shape[-1] != 3 or not data.is_floating_point() \
            or 0 in data.shape:
        raise PreprocessError(
            f'normal: found {data.dtype} of shape {shape_text(data.shape)}, expected floating '
            'point unit vectors [H, W, 3]')
    batch = (data if data.ndim == 4 else data[None]).float().permute(0, 3, 1, 2)
    length = batch.square().sum(1, keepdim=True).sqrt_()
    mask = torch.isfinite(length) & (length > 1e-6)
    scale = torch.where(mask, 1.0 / length.clamp(min=1e-6), 0.0)
    return torch.nan_to_num(batch, nan=0.0, posinf=0.0, neginf=0.0).mul_(scale), mask


def normal_picture(normals: Any) -> torch.Tensor:
    """Render normals as a picture: (n + 1) / 2; 0.5 (no direction) without a measurement.

    :param normals: float [H, W, 3] or [B, H, W, 3], camera optical frame.
    :returns: float32 of the same shape in 0..1.
    :raises PreprocessError: for another type or shape.
    """
    unit, _ = _normal_map(normals)
    picture = ((unit + 1.0) / 2.0).permute(0, 2, 3, 1)
    return picture if np.ndim(normals) == 4 else picture[0]


def normal_tensor(normals: Any, size: int, fit: str = 'crop', rgb: Any = None) -> torch.Tensor:
    """Turn surface normals (and the colour picture beside them) into the normal input.

    :param normals: float [H, W, 3] or [B, H, W, 3].
    :param rgb: uint8 [H', W', 3] (or a batch) of the same view, or None.
    :returns: float32 [F, 3, size, size] (or [B, F, ...]); F = 2 with ``rgb`` first, else 1.
    :raises NoMeasurementError: if no pixel of a picture holds a normal.
    :raises PreprocessError: for another type or shape.
    """
    unit, mask = _normal_map(normals)
    if not bool(mask.flatten(1).any(1).all()):
        raise NoMeasurementError(f'normal: none of {mask[0].numel()} pixels holds a normal')
    mean, valid = _fit_masked(unit, mask, size, fit)
    mean = mean / mean.square().sum(1, keepdim=True).sqrt_().clamp(min=1e-6)
    picture = torch.where(valid, (mean + 1.0) / 2.0, 0.5)
    out = _with_rgb(normalise(picture), rgb, size, fit)
    return out if np.ndim(normals) == 4 else out[0]


def _tangent(points: np.ndarray, axis: int, step: int, jump: float) -> np.ndarray:
    """Return the surface tangents [3, H, W] along a picture axis, 0 without a linked neighbour.

    :param points: [3, H, W]; the depth (the last of the three) is 0 without a measurement.
    """
    tangent = np.zeros_like(points)
    count = points.shape[1 + axis]
    if count <= step:
        return tangent

    def cut(array: np.ndarray, start: int, stop: int) -> np.ndarray:
        return array[..., start:stop, :] if axis == 0 else array[..., start:stop]

    first, second = cut(points, 0, count - step), cut(points, step, count)
    difference = second - first
    nearer = np.minimum(first[2], second[2])
    linked = (np.abs(difference[2]) <= (jump * step) * nearer) & (nearer > 0)
    difference *= linked
    cut(tangent, 0, count - step)[...] = difference         # forward, then backward
    cut(tangent, step, count)[...] += difference
    return tangent


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross products of vectors [3, ...]."""
    out = np.empty_like(a)
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        np.multiply(a[j], b[k], out=out[i])
        out[i] -= a[k] * b[j]
    return out


def normals_from_depth(depth_m: np.ndarray, intrinsics: tuple[float, float, float, float],
                       step: int = 1, edge_jump: float = EDGE_JUMP) -> np.ndarray:
    """Compute surface normals of a depth picture in the camera's optical frame.

    The normal is the cross product of the tangents along the rows and the columns between
    back-projected neighbours. A tangent uses the neighbours on both sides; where one is missing
    (no measurement, border) or lies across a depth edge, the other alone; where both are, the
    normal is NaN.

    :param depth_m: float metres [H, W]; NaN, inf, <= 0: no measurement.
    :param intrinsics: fx, fy, cx, cy in pixels of this picture.
    :param step: distance of the neighbours in pixels; more smooths a noisy sensor.
    :param edge_jump: relative depth difference per pixel that counts as an edge.
    :returns: float32 [H, W, 3] (strides of planes), unit length, facing the camera; NaN without a
        normal.
    :raises PreprocessError: for another shape or intrinsics that cannot be.
    """
    if np.ndim(depth_m) != 2 or 0 in np.shape(depth_m):
        raise PreprocessError(
            f'depth: found shape {shape_text(np.shape(depth_m))}, expected [H, W] in metres')
    if len(intrinsics) != 4 or not np.all(np.isfinite(intrinsics)) or min(intrinsics[:2]) <= 0:
        raise PreprocessError(f'intrinsics: found {tuple(intrinsics)}, expected (fx, fy, cx, cy) '
                              'in pixels with fx, fy above 0; check the CameraInfo')
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    depth = np.asarray(depth_m, dtype=np.float32)
    rows, columns = (np.arange(n, dtype=np.float32) for n in depth.shape)
    points = np.empty((3, *depth.shape), np.float32)        # a plane a coordinate: fewer sweeps
    points[2] = np.where(np.isfinite(depth) & (depth > 0), depth, 0.0)
    np.multiply(((columns - np.float32(cx)) / np.float32(fx))[None, :], points[2], out=points[0])
    np.multiply(((rows - np.float32(cy)) / np.float32(fy))[:, None], points[2], out=points[1])
    normals = _cross(_tangent(points, 0, step, edge_jump), _tangent(points, 1, step, edge_jump))
    length = np.sqrt(np.einsum('chw,chw->hw', normals, normals))
    # Towards the camera: against the ray to the point.
    sign = np.where(np.einsum('chw,chw->hw', normals, points) > 0, np.float32(-1), np.float32(1))
    with np.errstate(invalid='ignore', divide='ignore'):
        normals *= np.where(length > 0, sign / length, np.float32('nan'))
    return normals.transpose(1, 2, 0)
