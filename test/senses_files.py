"""Small videos with sound, for tests of spans and of benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE, FRAMES_A_S = 16000, 10


def clip(path: Path, seconds: float = 2.0, sound: str = 'aac', video: str = 'mpeg4',
         late_s: float = 0.0) -> Path:
    """Write a video whose brightness tells the time, with sound whose loudness does.

    Frame n has grey 5 n (below 250). The left channel is a tone of 440 Hz, of amplitude 0.1 in
    the first second, 0.2 in the second ...; the right one is silent.

    :param sound: codec of the sound track; empty: none. :param late_s: when the track starts.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        pictures = container.add_stream(video, rate=FRAMES_A_S)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, 'yuv420p'
        track = container.add_stream(sound, rate=RATE, layout='stereo') if sound else None
        for number in range(round(seconds * FRAMES_A_S)):
            grey = np.full((48, 64, 3), 5 * number % 250, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, format='rgb24')))
        container.mux(pictures.encode())
        if track is None:
            return path
        wave = tone(seconds)[round(late_s * RATE):]
        planes = np.stack([wave, np.zeros_like(wave)])
        form = 'fltp' if sound == 'aac' else 's16'
        for start in range(0, len(wave), 1024):
            piece = planes[:, start:start + 1024]
            if form == 's16':
                piece = np.ascontiguousarray(
                    np.round(piece.T * 32767).astype(np.int16).reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), form, 'stereo')
            frame.rate, frame.pts = RATE, start + round(late_s * RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def tone(seconds: float) -> np.ndarray:
    """Return the left channel's sound, float32 [n]."""
    at = np.arange(round(seconds * RATE)) / RATE
    loud = 0.1 * (np.floor(at) + 1)
    return (loud * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
