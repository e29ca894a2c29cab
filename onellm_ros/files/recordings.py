"""Sound and video from files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from onellm_ros.files.errors import FileError, first_line, read_bytes
from onellm_ros.modality import Sample

_SEEK_S = 3.0               # frames farther apart than this are reached by seeking


def read_audio(path: str | Path, seconds: float | None = None) -> Sample:
    """Read sound (wav, flac, ogg, mp3 ...) and mix its channels to one.

    :param seconds: read only the last seconds of the file.
    :returns: an audio sample, float32 [n] in -1..1 at ``rate_hz``; the stamp is the time of its
        first value in the file.
    :raises FileError: if it cannot be read or holds no sound.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(read_bytes(path))) as file:
            rate, start = float(file.samplerate), 0
            if seconds is not None and file.frames > seconds * rate:
                start = file.frames - int(seconds * rate)
                file.seek(start)
            wave = file.read(dtype='float32', always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise FileError(f'{path}: found no sound that is understood, expected wav, flac, ogg or '
                        f'mp3 ({first_line(error)})') from None
    if len(wave) == 0:
        raise FileError(f'{path}: the file holds no sound (0 frames)')
    mono = np.nan_to_num(wave.mean(axis=1), nan=0.0, posinf=0.0, neginf=0.0)
    return Sample(round(start / rate * 1e9), np.clip(mono, -1.0, 1.0), rate_hz=rate)


def read_video(path: str | Path, frames: int) -> list[Sample]:
    """Read frames that are evenly spread over a video file (mp4, mkv, webm, avi, gif ...).

    :param frames: how many; a shorter video gives fewer.
    :returns: video samples in time order, uint8 [H, W, 3] RGB; stamps count from the file's start.
    :raises FileError: if it cannot be read or holds no picture.
    """
    import av

    if frames < 1:
        raise FileError(f'{path}: found a request for {frames} frames, expected at least 1')
    check_file(path)
    try:
        times, timed = _frame_times(av, path)
        found = _decode(av, path, times, frames, timed)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f'{path}: found no video that is understood, expected mp4, mkv, webm, avi '
                        f'or gif ({first_line(error)})') from None
    if not found:
        raise FileError(f'{path}: none of the frames can be decoded; is the file cut short?')
    return found


def check_file(path: str | Path) -> None:
    """Check that a file exists and is not empty, without reading it.

    :raises FileError: if not.
    """
    file = Path(path)
    if not file.exists():
        raise FileError(f'{path}: no such file')
    if file.is_dir():
        raise FileError(f'{path}: found a directory, expected a file')
    if file.stat().st_size == 0:
        raise FileError(f'{path}: the file is empty')


def _evenly(found: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` indices evenly spread over ``found``, both ends included."""
    if found <= wanted:
        return list(range(found))
    if wanted == 1:
        return [found - 1]
    return [round(i * (found - 1) / (wanted - 1)) for i in range(wanted)]


def _video_stream(container: Any, path: str | Path) -> Any:
    """Return the first video stream of an open file."""
    if not container.streams.video:
        raise FileError(f'{path}: the file holds no video stream')
    return container.streams.video[0]


def _frame_times(av: Any, path: str | Path) -> tuple[list[int], bool]:
    """Return the presentation times of all frames (in stream units), without decoding them.

    Without times in the file (raw streams) the frames are decoded once and counted: their numbers
    and False.
    """
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        times = [packet.pts for packet in container.demux(stream) if packet.size > 0]
    if times and all(time is not None for time in times):
        return sorted(times), True
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(_video_stream(container, path)))
    return list(range(count)), False


def _decode(av: Any, path: str | Path, times: list[int], count: int, timed: bool) -> list[Sample]:
    """Decode ``count`` frames, evenly spread over the given times (or numbers)."""
    out: list[Sample] = []
    targets = [times[index] for index in _evenly(len(times), count)]
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        stream.thread_type = 'AUTO'
        frames = container.decode(stream)
        if not timed:
            wanted = set(targets)
            return [Sample(number, frame.to_ndarray(format='rgb24'))
                    for number, frame in enumerate(frames) if number in wanted]
        unit, position = float(stream.time_base or 0.0), times[0]
        for target in targets:
            if (target - position) * unit > _SEEK_S:
                container.seek(target, stream=stream)
                frames = container.decode(stream)
            frame = _next_from(av, frames, target)
            if frame is None:
                break
            position = frame.pts
            stamp = round((frame.pts - times[0]) * unit * 1e9)
            out.append(Sample(stamp, frame.to_ndarray(format='rgb24')))
    return out


def _next_from(av: Any, frames: Any, target: int) -> Any:
    """Return the first decoded frame at or after a time; None where the file ends or breaks."""
    try:
        return next((f for f in frames if f.pts is not None and f.pts >= target), None)
    except av.error.InvalidDataError:
        return None
