"""The small pictures of the annotated one: cameras, depth, normals, clouds from above, vectors.

Owns how each becomes a small picture and what is said above it; ``annotated.py`` owns where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
import math

import cv2
import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.annotated_text import INK, NO_DATA, PANEL
from onellm_ros.report.panels import colour_wheel_normals, depth_colours, scan_cloud, top_view

_CLOUD_POINTS = 30_000      # more are thinned evenly: the picture has fewer pixels
_MOST_INSETS = 6
_BEHIND_S = 0.25            # of a picture's stamp behind the newest one's; less is not told
_SAME_CLOCK_S = 3600.0      # stamps that differ more are of different clocks


@dataclass(frozen=True, eq=False)
class Inset:
    """A picture: ``draw`` gets width and height and returns uint8 of about that size."""

    title: str
    note: str
    shape: tuple[int, int]
    draw: Callable[[int, int], np.ndarray]
    topic: str = ''
    stamp_ns: int = 0


def insets_of(samples: Mapping[Modality, Sequence[Sample]]
              ) -> tuple[Inset | None, list[Inset]]:
    """Return the large picture, if there is a camera, and the small ones."""
    insets: list[Inset] = []
    cameras = [_camera(s) for s in samples.get(Modality.IMAGE, ())]
    for modality, make in ((Modality.DEPTH, _depth), (Modality.NORMAL, _normal)):
        insets += [make(s) for s in samples.get(modality, ())]
    insets += [_cloud(s, 'cloud from above') for s in samples.get(Modality.POINT, ())]
    insets += cameras[1:]
    for modality, found in samples.items():
        if modality.value == 'scan':
            insets += [_cloud(_scan_cloud(s), 'scan from above') for s in found]
    insets += [_vector(s) for s in samples.get(Modality.FMRI, ())]
    kept = _with_lags([*cameras[:1], *insets[:_MOST_INSETS]])
    return (kept[0], kept[1:]) if cameras else (None, kept)


def _with_lags(insets: Sequence[Inset]) -> list[Inset]:
    """Say of pictures that are from before the newest one by how much."""
    newest_ns = max((inset.stamp_ns for inset in insets), default=0)

    def told(inset: Inset) -> Inset:
        lag_s = (newest_ns - inset.stamp_ns) / 1e9
        if not inset.stamp_ns or not _BEHIND_S < lag_s < _SAME_CLOCK_S:
            return inset
        return replace(inset, note=f'{lag_s:.1f} s behind, {inset.note}')
    return [told(inset) for inset in insets]


def _thinned(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return pixels [H, W, ...], those nearest to a grid if there are more than it has.

    Depths and normals are not averaged: a mean over an edge would be measured by nobody.
    """
    high, wide = values.shape[:2]
    rows = (np.arange(min(height, high)) + 0.5) * high / min(height, high)
    columns = (np.arange(min(width, wide)) + 0.5) * wide / min(width, wide)
    return values[rows.astype(int)[:, None], columns.astype(int)[None, :]]


def _bytes(colours: np.ndarray) -> np.ndarray:
    """Return colours of 0..1 as uint8."""
    return np.clip(colours * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _name(what: str, sample: Sample) -> str:
    return f'{what}  {sample.topic}' if sample.topic else what


def _camera(sample: Sample) -> Inset:
    shape = sample.data.shape
    return Inset(_name('image', sample), f'{shape[1]} x {shape[0]}', shape[:2],
                 lambda w, h: sample.data, sample.topic, sample.stamp_ns)


def _depth(sample: Sample) -> Inset:
    small = _thinned(sample.data, 640, 480)
    measured = small[np.isfinite(small) & (small > 0)]
    if not measured.size:
        return Inset('depth', 'nothing measured', sample.data.shape[:2],
                     lambda w, h: np.full((h, w, 3), NO_DATA, np.uint8), sample.topic,
                     sample.stamp_ns)
    low, high = (float(v) for v in np.percentile(measured[::3] if measured.size > 9 else measured,
                                                 (0.5, 99.5)))
    high = max(high, low + 0.05)
    return Inset('depth', f'{low:.1f} to {high:.1f} m, near is red', sample.data.shape[:2],
                 lambda w, h: _bytes(depth_colours(_thinned(small, w, h), low, high)),
                 sample.topic, sample.stamp_ns)


def _normal(sample: Sample) -> Inset:
    return Inset('normals', 'red right, green up', sample.data.shape[:2],
                 lambda w, h: _bytes(colour_wheel_normals(_thinned(sample.data, w, h))),
                 sample.topic, sample.stamp_ns)


def _scan_cloud(sample: Sample) -> Sample:
    """Return a planar scan as a cloud without colours."""
    cloud = scan_cloud(np.asarray(sample.data, np.float32).reshape(-1, 2))
    return Sample(sample.stamp_ns, cloud, sample.frame_id, topic=sample.topic)


def _cloud(sample: Sample, title: str) -> Inset:
    cloud = sample.data
    count = len(cloud)
    if count > _CLOUD_POINTS:
        cloud = cloud[::-(-count // _CLOUD_POINTS)]
    cloud = np.concatenate([cloud[:, :3], np.minimum(cloud[:, 3:6], 0.99)], axis=1)
    view, (back, front, right, most_left), coloured = top_view(
        cloud, 'optical' in sample.frame_id)
    picture = _bytes(view)
    picture[(view == 1.0).all(axis=2)] = PANEL          # nothing there: paper white so far
    row = (front / (front - back)) * len(picture)
    column = (most_left / (most_left - right)) * picture.shape[1]
    arrow = np.array([(column, row - 6), (column - 4, row + 4), (column + 4, row + 4)])
    cv2.fillConvexPoly(picture, np.rint(arrow).astype(np.int32), INK, cv2.LINE_AA)
    note = f'{count} points, {front - back:.1f} m wide'
    return Inset(title, note if coloured or title.startswith('scan') else
                 f'{note}, high is yellow', picture.shape[:2], lambda w, h: picture,
                 sample.topic, sample.stamp_ns)


def _vector(sample: Sample) -> Inset:
    values = np.asarray(sample.data, dtype=np.float32).ravel()
    rows = max(1, math.isqrt(max(1, values.size * 3 // 4)))
    columns = max(1, math.ceil(values.size / rows))
    grid = np.zeros(rows * columns, np.float32)
    size = float(np.abs(values).max(initial=0.0)) or 1.0
    grid[:values.size] = values / size
    grid = grid.reshape(rows, columns)[..., None]
    warm, cold = np.array((224, 96, 80)), np.array((84, 140, 230))
    picture = np.where(grid > 0, grid * warm, -grid * cold) + (1 - np.abs(grid)) * PANEL
    kind = ', synthetic' if 'synthetic' in sample.frame_id + sample.topic else ''
    return Inset('fMRI', f'{values.size} voxels{kind}', (3, 4),
                 lambda w, h: _enlarged(picture.astype(np.uint8), w, h), sample.topic,
                 sample.stamp_ns)


def _enlarged(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
