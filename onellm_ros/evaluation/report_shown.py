"""Small pictures of what items show: files, spans of videos and sounds, or simulated worlds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onellm_ros.datasets.depths import DepthSignal, read_depth_signal
from onellm_ros.datasets.rows import Signal
from onellm_ros.datasets.signals import imu_window, read_normals, sound_start
from onellm_ros.evaluation.item import Item
from onellm_ros.files import (
    FileError,
    read_depth,
    read_fmri,
    read_image,
    read_imu_table,
    read_points,
    read_video,
)
from onellm_ros.modality import Modality, Sample
from onellm_ros.preprocess import PreprocessError, normals_from_depth
from onellm_ros.report.html_thumbnails import thumbnails

_FRAMES = 4                 # of a video
_SOUND_S = 60.0
_NORMAL_WIDTH = 224


def pictures_of(item: Item) -> tuple[dict[str, bytes], str]:
    """Return small pictures of what an item shows, and why some are lacking.

    :returns: JPEG, PNG or SVG by the name of the modality; a colour picture that goes with depth
        or normals as ``colour``.
    """
    if item.tensors is not None:
        return _of_world(item)
    found: dict[str, bytes] = {}
    lacking: list[str] = []
    for modality, signal in item.signals.items():
        try:
            found |= _of_signal(modality, signal)
        except (FileError, PreprocessError, OSError, ValueError) as error:
            lacking.append(f'{modality}: {error}')
    return found, '; '.join(lacking)


def _of_world(item: Item) -> tuple[dict[str, bytes], str]:
    """Draw what an item of robot-world shows; its world is rendered again."""
    from onellm_ros.evaluation.robot.worlds import shown_by
    try:
        shown = shown_by(item.tensors)
    except ValueError:
        return {}, 'it shows no files'
    return thumbnails(shown.evidence().chosen), ''


def _of_signal(modality: Modality, signal: Signal) -> dict[str, bytes]:
    """Draw one signal.

    :raises FileError: for a file that cannot be read.
    """
    if modality in (Modality.DEPTH, Modality.NORMAL):
        colour = {} if signal.colour is None else {
            'colour': thumbnails({Modality.IMAGE: [read_image(signal.colour)]})['image']}
        return {**colour, modality.value: _of_geometry(modality, signal)}
    return thumbnails({modality: _samples(modality, signal)})


def _of_geometry(modality: Modality, signal: Signal) -> bytes:
    """Draw depth or normals; depth may be a picture that somebody rendered."""
    if isinstance(signal, DepthSignal):
        sample = read_depth_signal(signal)
        if modality is Modality.NORMAL:
            sample = Sample(0, _normals(sample))
    elif modality is Modality.NORMAL:
        sample = Sample(0, read_normals(signal.path))
    else:
        try:
            sample = read_depth(signal.path)
        except FileError:
            return thumbnails({Modality.IMAGE: [read_image(signal.path)]})['image']
    return thumbnails({modality: [sample]})[modality.value]


def _normals(depth: Sample) -> np.ndarray:
    """Return normals of a depth picture, as a model is given them.

    :raises FileError: without intrinsics.
    """
    if depth.intrinsics is None:
        raise FileError('found a depth picture without intrinsics, expected fx, fy, cx, cy, from '
                        'which normals are computed')
    return np.asarray(normals_from_depth(
        depth.data, depth.intrinsics, step=max(1, round(depth.data.shape[1] / _NORMAL_WIDTH))))


def _samples(modality: Modality, signal: Signal) -> Sequence[Sample]:
    """Read the file of a signal as samples of a window."""
    path = signal.path
    if modality is Modality.IMAGE:
        return [read_image(path)]
    if modality is Modality.VIDEO:
        return read_video(path, _FRAMES, signal.window_s)
    if modality is Modality.AUDIO:
        return [sound_start(path, _SOUND_S, signal.window_s)]
    if modality is Modality.POINT:
        return [read_points(path)]
    if modality is Modality.FMRI:
        return [read_fmri(path)]
    if modality is Modality.IMU:
        if signal.window_s is not None:
            stamps, values = imu_window(path, *signal.window_s)
        else:
            table = read_imu_table(path)
            stamps, values = table.stamps_ns, table.values
        return [Sample(int(stamp), row) for stamp, row in zip(stamps, values, strict=True)]
    raise FileError(f'{path}: a {modality} cannot be drawn')
