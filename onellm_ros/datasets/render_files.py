"""Simulated signals as sensor files, the same bytes for the same signals.

What the formats lose: pictures, clouds, IMU, fMRI nothing; depth is rounded to millimetres (0.5 mm
at most), normals to 8 bits a component, sound to 24 bits; video is coded without loss where the
lossless encoder (libx264rgb) exists, and as MPEG-4 otherwise.
"""

from __future__ import annotations

from fractions import Fraction
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from onellm_ros.simulation.world import Observation

MOST_MM = 65534                 # 65535 means no measurement to some readers


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_bytes(content)
    temporary.replace(path)


def png(array: np.ndarray) -> bytes:
    """Return a PNG file of uint8 [H, W, 3] or uint16 [H, W]."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, 'PNG')
    return out.getvalue()


def depth_png(metres: np.ndarray) -> bytes:
    """Return depth as a 16-bit PNG in millimetres, 0 without a measurement."""
    millimetres = np.nan_to_num(np.round(metres.astype(np.float64) * 1000), nan=0.0)
    return png(np.clip(millimetres, 0, MOST_MM).astype(np.uint16))


def normal_png(normals: np.ndarray) -> bytes:
    """Return normals as a PNG of (n + 1) / 2, middle grey without a direction."""
    scaled = np.nan_to_num((normals + 1) * 127.5, nan=127.5)
    return png(np.clip(np.round(scaled), 0, 255).astype(np.uint8))


def npy(array: np.ndarray) -> bytes:
    """Return a NumPy file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def wav(wave: np.ndarray, rate_hz: float) -> bytes:
    """Return mono sound in -1..1 as a 24-bit WAV file (float ones hold the time of writing)."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave, round(rate_hz), format='WAV', subtype='PCM_24')
    return out.getvalue()


def mp4(frames: np.ndarray, seconds: float) -> bytes:
    """Return an MP4 file of uint8 [T, H, W, 3] RGB, evenly spread over some seconds."""
    import av

    try:
        av.codec.Codec('libx264rgb', 'w')
        name, form, options = 'libx264rgb', 'rgb24', {'qp': '0', 'preset': 'veryfast'}
    except av.codec.codec.UnknownCodecError:
        name, form, options = 'mpeg4', 'yuv420p', {'qmin': '1', 'qmax': '2'}
    out = io.BytesIO()
    rate = Fraction(len(frames) - 1, 1) / Fraction(seconds).limit_denominator(1000)
    with av.open(out, 'w', format='mp4', container_options={'fflags': '+bitexact'}) as container:
        stream = container.add_stream(name, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = form
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame), format='rgb24')))
        container.mux(stream.encode())
    return out.getvalue()


def write_signals(folder: Path, stem: str, observation: Observation) -> list[float]:
    """Write all signals of a world, each a file of its own.

    :param stem: name of the files below the folder of their modality, without an ending.
    :returns: start and end of the IMU's window in its recording, seconds.
    """
    from onellm_ros.simulation.world import SENSED_S  # compiles the renderer

    o = observation
    assert o.image is not None and o.depth is not None and o.normal is not None
    assert o.cloud is not None and o.audio is not None and o.video is not None
    assert o.fmri is not None and o.imu is not None and o.imu_stamps_ns is not None
    stamps_ms = o.imu_stamps_ns / 1e6
    for name, content in (
            (f'image/{stem}.png', png(o.image)), (f'depth/{stem}.png', depth_png(o.depth)),
            (f'normal/{stem}.png', normal_png(o.normal)), (f'point/{stem}.npy', npy(o.cloud)),
            (f'audio/{stem}.wav', wav(o.audio, o.audio_rate_hz)),
            (f'video/{stem}.mp4', mp4(o.video, SENSED_S)), (f'fmri/{stem}.npy', npy(o.fmri[None])),
            (f'imu/{stem}.npy', npy(np.ascontiguousarray(o.imu.T.astype(np.float32)))),
            (f'imu/{stem}_timestamps.npy', npy(stamps_ms))):
        write_atomically(folder / name, content)
    return [float(stamps_ms[0]) / 1e3, float(stamps_ms[-1]) / 1e3]
