"""Small pictures of a window for the report that a browser shows: one a modality, as bytes.

Owns their sizes and encodings. Of several topics of one modality each is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io

import numpy as np
from PIL import Image

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.html_traces import HEIGHT, WIDTH, imu_svg, sound_picture, value_grid
from onellm_ros.report.panels import (
    STRIP_HEIGHT,
    colour_wheel_normals,
    depth_colours,
    film_strip,
    scan_cloud,
    top_view,
)

MOST_BYTES = 15_000             # of one picture
_BOX = (240, 180)               # what a camera's picture fits into, pixels
_STRIP = 4                      # pictures in a row at most
_POINTS = 8_000                 # of a cloud that are drawn


def thumbnails(samples: Mapping[Modality, Sequence[Sample]]) -> dict[str, bytes]:
    """Return a small picture of each modality that has samples, by its name.

    JPEG, PNG or SVG of at most ``MOST_BYTES``; camera pictures fit into 240 x 180 pixels, the
    rest are about as large. Of cameras and lidars the newest sample of each topic is shown, of
    videos four frames, of motion and sound all (sound: the last minute).

    :param samples: of the window, canonical arrays (onellm_ros/modality.py), ordered by stamp.
        Registered modalities are drawn by their values; ``scan`` is seen from above.
    :raises ValueError: for an audio chunk without a rate.
    """
    return {modality.value: _draw(modality, list(given))
            for modality, given in samples.items() if len(given)}


def _draw(modality: Modality, samples: list[Sample]) -> bytes:
    newest = list({s.topic: s for s in samples}.values())       # of each topic
    if modality is Modality.IMAGE:
        return _jpeg(_row([_shrunk(s.data, len(newest)) for s in newest]))
    if modality is Modality.VIDEO:
        # Of one camera: a strip of several shows none of them.
        frames = [s.data for s in samples if s.topic == samples[-1].topic]
        chosen = np.unique(np.linspace(0, len(frames) - 1, _STRIP).round().astype(int))
        return _jpeg(_row([_shrunk(frames[i], 2) for i in chosen]))
    if modality is Modality.DEPTH:
        return _jpeg(_row([_depth(s.data) for s in newest]))
    if modality is Modality.NORMAL:
        return _jpeg(_row([_bytes(colour_wheel_normals(_thinned(s.data))) for s in newest]))
    if modality is Modality.POINT:
        return _cloud(np.concatenate([_few(s.data) for s in newest]),
                      'optical' in samples[-1].frame_id)
    if modality is Modality.IMU:
        return imu_svg(samples).encode()
    if modality is Modality.AUDIO:
        return _jpeg(Image.fromarray(_bytes(sound_picture(samples))), 60)
    data = np.asarray(samples[-1].data)
    if modality.value == 'scan' and data.ndim == 2 and data.shape[1] == 2:
        return _cloud(scan_cloud(data), False)
    picture = Image.fromarray(_bytes(value_grid(data)))
    return _png(picture.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))


# ---- pictures -----------------------------------------------------------------------------------

def _bytes(colours: np.ndarray) -> np.ndarray:
    """Return colours in 0..1 as uint8."""
    return np.round(colours * 255.0).astype(np.uint8)


def _thinned(data: np.ndarray) -> np.ndarray:
    """Return every so manieth pixel, so that about ``_BOX`` is left; nothing is averaged."""
    step = max(1, min(data.shape[0] // _BOX[1], data.shape[1] // _BOX[0]))
    return data[::step, ::step]


def _shrunk(data: np.ndarray, beside: int) -> np.ndarray:
    """Return a colour picture made small: into ``_BOX``, or of a strip's height among others."""
    height = _BOX[1] if beside < 2 else STRIP_HEIGHT
    scale = min(height / data.shape[0], _BOX[0] / data.shape[1], 1.0)
    size = max(1, round(data.shape[1] * scale)), max(1, round(data.shape[0] * scale))
    step = max(1, int(0.5 / scale))         # two pixels each way are averaged, at least
    picture = Image.fromarray(np.ascontiguousarray(data[::step, ::step]))
    return np.asarray(picture if scale == 1.0 else picture.resize(size, Image.Resampling.BOX))


def _row(pictures: list[np.ndarray]) -> Image.Image:
    """Return the pictures side by side, four of them at most."""
    whole = pictures[0] if len(pictures) == 1 else film_strip(pictures, _STRIP)
    return Image.fromarray(np.ascontiguousarray(whole))


def _depth(depth: np.ndarray) -> np.ndarray:
    depth = _thinned(depth)
    measured = depth[np.isfinite(depth) & (depth > 0)]
    low, high = np.percentile(measured, (0.5, 99.5)) if measured.size else (0.0, 1.0)
    return _bytes(depth_colours(depth, float(low), max(float(high), float(low) + 0.05)))


# ---- from above ---------------------------------------------------------------------------------

def _few(cloud: np.ndarray) -> np.ndarray:
    """Return at most ``_POINTS`` of a cloud, evenly chosen."""
    if len(cloud) <= _POINTS:
        return cloud
    return cloud[np.linspace(0, len(cloud) - 1, _POINTS).astype(int)]


def _cloud(cloud: np.ndarray, optical: bool) -> bytes:
    """Return a PNG of the cloud from above, the robot a red mark in it."""
    view, (back, front, right, left), _ = top_view(np.asarray(cloud, dtype=np.float64), optical)
    picture = _bytes(view)
    size = len(picture)
    row = round(front / (front - back) * (size - 1))
    column = round(left / (left - right) * (size - 1))
    for up in range(-4, 5):                                     # a triangle that looks ahead
        wide = (up + 4) // 2
        if 0 <= row + up < size:
            picture[row + up, max(0, column - wide):column + wide + 1] = (209, 20, 40)
    return _png(Image.fromarray(picture))


def _png(picture: Image.Image) -> bytes:
    """Return a PNG of few colours, or a JPEG where that is too large."""
    out = io.BytesIO()
    picture.quantize(48, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, 'PNG')
    return out.getvalue() if out.tell() <= MOST_BYTES else _jpeg(picture)


def _jpeg(picture: Image.Image, best: int = 78) -> bytes:
    """Return a JPEG as good as ``MOST_BYTES`` allow, of quality ``best`` at most."""
    picture.thumbnail((4 * _BOX[0], _BOX[1]))
    while True:
        for quality in (best, 50, 30):
            out = io.BytesIO()
            picture.save(out, 'JPEG', quality=quality)
            if out.tell() <= MOST_BYTES:
                return out.getvalue()
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))
