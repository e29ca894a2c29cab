"""Point clouds to the model's fixed number of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onellm_ros.preprocess.errors import (
    NoMeasurementError,
    PreprocessError,
    as_tensor,
    shape_text,
)

FRAMES = ('unit', 'metric')
METRIC_SCALE_M = 5.0
_SEED = 20240617            # of the permutation that thins a cloud: the same on every call


def merge_clouds(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """Join clouds of one frame and drop points without finite coordinates.

    A colour that is not finite becomes 0.5 (no colour).

    :param clouds: float arrays [N, 6] (x y z in metres, r g b in 0..1).
    :returns: float32 [M, 6]; M may be 0.
    :raises PreprocessError: for a cloud of another shape.
    """
    kept = []
    for cloud in clouds:
        array = np.asarray(cloud, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != 6:
            raise PreprocessError(
                f'point: found a cloud of shape {shape_text(array.shape)}, expected [N, 6]: x y z '
                'in metres, r g b in 0..1 (0.5 without colour)')
        kept.append(array[np.isfinite(array[:, :3]).all(axis=1)])
    merged = np.concatenate(kept) if kept else np.zeros((0, 6), np.float32)
    colours = merged[:, 3:]
    colours[~np.isfinite(colours)] = 0.5
    return merged


def subsample_indices(found: int, wanted: int) -> np.ndarray:
    """Choose ``wanted`` of ``found`` points, the same on every call.

    As many as wanted: all, in order. More: the first ones of a permutation of fixed seed, so that
    no row or column of an organised cloud is preferred. Fewer: all in order, then again.
    """
    if found <= wanted:
        return np.arange(wanted) % found
    return np.random.default_rng(_SEED).permutation(found)[:wanted]


def point_tensor(cloud: Any, points: int, frame: str = 'unit') -> torch.Tensor:
    """Turn one cloud into the point input.

    ``unit``: centred on the mean, divided by the largest radius (after thinning, as the released
    model was trained). ``metric``: coordinates / 5 m in the cloud's frame. Colours are kept.

    :param cloud: float [N, 6]; array or tensor. Rows without finite coordinates are dropped.
    :param points: number of points of the result.
    :returns: float32 [points, 6] on the input's device.
    :raises NoMeasurementError: without a single finite point.
    :raises PreprocessError: for another shape or an unknown frame.
    """
    if frame not in FRAMES:
        raise PreprocessError(f'point frame: found {frame!r}, expected one of {list(FRAMES)}')
    data = as_tensor(cloud, 'point')
    if data.ndim != 2 or data.shape[1] != 6:
        raise PreprocessError(f'point: found a cloud of shape {shape_text(data.shape)}, expected '
                              '[N, 6]: x y z in metres, r g b in 0..1')
    finite = torch.isfinite(data[:, :3]).all(dim=1)
    if not bool(finite.all()):
        data = data[finite]
    if len(data) == 0:
        raise NoMeasurementError(f'point: none of {len(finite)} points has finite coordinates')
    index = torch.from_numpy(subsample_indices(len(data), points)).to(data.device)
    chosen = data[index].float()
    xyz, colours = chosen[:, :3], torch.nan_to_num(chosen[:, 3:], nan=0.5, posinf=0.5, neginf=0.5)
    if frame == 'unit':
        xyz = xyz - xyz.mean(dim=0)
        radius = xyz.norm(dim=1).max()
        xyz = xyz / radius if float(radius) > 0 else xyz
    else:
        xyz = xyz / METRIC_SCALE_M
    return torch.cat([xyz, colours], dim=1)
