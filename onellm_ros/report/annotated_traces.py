"""Traces of the IMU and the microphones over the last seconds, as small moving pictures.

Owns the time axis (the newest sample is at the right edge) and the drawing with OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from onellm_ros.modality import Modality, Sample

XYZ = ((230, 96, 104), (92, 200, 130), (104, 156, 255))
WAVE, LINE = (166, 160, 240), (58, 66, 80)
_MOST_MICROPHONES = 3
_GAP_S = 0.5                # a line over a longer gap would show what was not measured
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Trace:
    """One trace: ``draw`` writes it into uint8 [H, W, 3] in place.

    :param high: upper limit of the axis, in words; ``low``: the lower one.
    """

    title: str
    note: str
    high: str
    low: str
    draw: Callable[[np.ndarray], None]
    topic: str = ''


def traces_of(samples: Mapping[Modality, Sequence[Sample]], seconds: float) -> list[Trace]:
    """Return the traces of what has been measured: accelerometer, gyroscope, each microphone."""
    out: list[Trace] = []
    imu = samples.get(Modality.IMU, ())
    if imu:
        out += [_xyz(imu, 0, 'accelerometer', 'm/s²', 4.0, seconds),
                _xyz(imu, 3, 'gyroscope', 'rad/s', 0.5, seconds)]
    sounds: dict[str, list[Sample]] = {}
    for sample in samples.get(Modality.AUDIO, ()):
        if sample.rate_hz > 0:
            sounds.setdefault(sample.topic, []).append(sample)
    out += [_wave(chunks, seconds, topic if len(sounds) > 1 else '')
            for topic, chunks in list(sounds.items())[:_MOST_MICROPHONES]]
    return out


def _level(picture: np.ndarray, share: float) -> None:
    """Draw a level line; ``share`` of the height from the top."""
    if 0.0 <= share <= 1.0:
        row = round(share * (len(picture) - 1))
        picture[row] = LINE


def _xyz(samples: Sequence[Sample], first: int, title: str, unit: str, least: float,
         seconds: float) -> Trace:
    """Return the trace of three axes in their colours.

    :param least: span of the axis at least: noise is not to look like motion.
    """
    values = np.array([s.data[first:first + 3] for s in samples], np.float64)
    end_ns = max(s.stamp_ns for s in samples)
    back_s = np.array([(end_ns - s.stamp_ns) / _SECOND_NS for s in samples])
    finite = values[np.isfinite(values) & (back_s <= seconds)[:, None]]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    room = max(least - (high - low), 0.1 * (high - low), 1e-6 * abs(high)) / 2
    low, high = low - room, high + room

    def draw(picture: np.ndarray) -> None:
        tall, wide = picture.shape[:2]
        _level(picture, high / (high - low))
        inside = back_s <= seconds
        x = (1.0 - back_s[inside] / seconds) * (wide - 1)
        step = max(1, len(x) // (2 * wide))
        for axis, colour in enumerate(XYZ):
            y = (high - values[inside, axis]) / (high - low) * (tall - 1)
            good = np.isfinite(y)
            points = np.rint(np.stack([x[good], y[good]], axis=1) * 8).astype(np.int32)
            gaps = np.flatnonzero(np.abs(np.diff(back_s[inside][good])) > _GAP_S) + 1
            for line in np.split(points, gaps):
                if len(line) == 1:
                    line = np.concatenate([line, line + np.array([8, 0], np.int32)])
                if len(line):
                    cv2.polylines(picture, [np.ascontiguousarray(line[::step])], False, colour, 1,
                                  cv2.LINE_AA, shift=3)
    return Trace(title, f'{unit}, x red, y green, z blue', f'{high:.2f}', f'{low:.2f}', draw,
                 samples[-1].topic)


def _wave(chunks: Sequence[Sample], seconds: float, name: str) -> Trace:
    """Return the envelope of a sound; what was not heard is a gap."""
    end_ns = max(s.stamp_ns + round(len(s.data) / s.rate_hz * _SECOND_NS) for s in chunks)
    near = [s for s in chunks if s.stamp_ns >= end_ns - round((seconds + 1) * _SECOND_NS)
            or (end_ns - s.stamp_ns) / _SECOND_NS - len(s.data) / s.rate_hz <= seconds]
    back_s = np.concatenate([(end_ns - s.stamp_ns) / _SECOND_NS
                             - np.arange(len(s.data)) / s.rate_hz for s in near])
    wave = np.concatenate([np.asarray(s.data, np.float32) for s in near])
    inside = back_s <= seconds
    back_s, wave = back_s[inside], np.nan_to_num(wave[inside])
    peak = float(np.abs(wave).max(initial=0.0))
    top = max(1.1 * peak, 0.02)
    loud = 20 * np.log10(max(float(np.sqrt(np.mean(wave ** 2))) if wave.size else 0.0, 1e-6))

    def draw(picture: np.ndarray) -> None:
        tall, wide = picture.shape[:2]
        _level(picture, 0.5)
        if not wave.size:
            return
        column = np.clip((1.0 - back_s / seconds) * wide, 0, wide - 1).astype(int)
        order = np.argsort(column, kind='stable')
        places, starts = np.unique(column[order], return_index=True)
        lowest = np.minimum.reduceat(wave[order], starts)
        highest = np.maximum.reduceat(wave[order], starts)
        rows = np.arange(tall)[:, None]
        upper = np.floor((1.0 - highest / top) / 2 * (tall - 1))
        lower = np.ceil((1.0 - lowest / top) / 2 * (tall - 1))
        heard = np.zeros((tall, wide), bool)
        heard[:, places] = (rows >= upper) & (rows <= lower)
        picture[heard] = WAVE
    rate = near[-1].rate_hz / 1000
    return Trace(f'microphone  {name}' if name else 'microphone',
                 f'{rate:g} kHz, {loud:.0f} dB of full scale', f'{top:.2f}', f'{-top:.2f}', draw,
                 chunks[-1].topic)
