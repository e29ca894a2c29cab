"""Sound and video from files, whole or a span of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from onellm_ros.files.errors import FileError, first_line, read_bytes
from onellm_ros.modality import Sample

_SEEK_S = 3.0               # frames farther apart than this are reached by seeking
_EARLY_S = 1.0              # before a span's start, where its decoding begins: codecs warm up
_LOST_S = 0.5               # sound that ends this much before the file says is cut short
_MICRO = 1e-6               # seconds of a container's unit of time
_RATE = 25.0                # frames a second of a video that does not say
_CUT_S, _CUT = 1.0, 0.05    # a video that ends so many seconds, and so much of it, early is cut
_LATE_S = 0.5               # a span that begins this little behind the end shows the last frame


class SilentError(FileError):
    """A video that holds no sound track, or none in the span that was asked for."""


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


def has_sound(path: str | Path) -> bool:
    """Return whether a video or sound file holds a sound track; nothing is decoded.

    :raises FileError: if it cannot be read.
    """
    import av

    check_file(path)
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.audio)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _not_understood(path, error) from None


def read_track(path: str | Path, window_s: tuple[float, float] | None = None,
               seconds: float | None = None) -> Sample:
    """Read the sound track of a video file (mp4, mkv, webm, avi ...), channels mixed to one.

    Times count from the file's start, as those of :func:`read_video` with a span do, so that
    sound and pictures of one span belong together. Where the track starts later it is silent.

    :param window_s: (start, end) seconds; None: the whole file.
    :param seconds: read at most so much from the start on.
    :returns: an audio sample, float32 [n] in -1..1 at ``rate_hz``; the stamp is the start.
    :raises SilentError: if there is no sound track, or it ends before the span.
    :raises FileError: if it cannot be read or is cut short.
    """
    import av

    check_file(path)
    start, end = window_s if window_s is not None else (0.0, np.inf)
    end = min(end, np.inf if seconds is None else start + seconds)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise SilentError(f'{path}: the file holds no sound track; is it a silent video?')
            pieces, rate, length = _decode_sound(av, container, start, end)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        if isinstance(error, FileError):
            raise
        raise _not_understood(path, error) from None
    if not pieces:
        raise SilentError(f'{path}: found no sound from {start:g} s on, expected some; the file '
                          f'lasts {length:.3f} s')
    wave = _placed(pieces, start, rate)[:None if end == np.inf else round((end - start) * rate)]
    lost = min(end, length) - start - len(wave) / rate
    if lost > _LOST_S:
        raise FileError(f'{path}: found {len(wave) / rate:.3f} s of sound, expected {lost:.3f} s '
                        'more as the file says; it is cut short or damaged')
    return Sample(round(start * 1e9), np.clip(np.nan_to_num(wave), -1.0, 1.0), rate_hz=rate)


def _decode_sound(av: Any, container: Any, start: float, end: float
                  ) -> tuple[list[tuple[float, np.ndarray]], float, float]:
    """Return (time, float32 [n]) pieces of a file's first sound track, its rate and length."""
    stream = container.streams.audio[0]
    unit, rate = float(stream.time_base), float(stream.rate)
    first = (container.start_time or 0) * _MICRO
    length = stream.duration * unit if stream.duration else (container.duration or 0) * _MICRO
    if start > _EARLY_S:
        container.seek(round((start - _EARLY_S + first) / unit), stream=stream)
    resampler = av.AudioResampler(format='fltp')    # values of any type to float; rate as it is
    pieces: list[tuple[float, np.ndarray]] = []
    at = 0.0
    try:
        for decoded in container.decode(stream):
            if decoded.pts is not None:
                at = decoded.pts * unit - first
            if at >= end:
                break
            for frame in resampler.resample(decoded):
                wave = frame.to_ndarray().astype(np.float32).mean(axis=0)
                if at + len(wave) / rate > start:
                    pieces.append((at, wave))
                at += len(wave) / rate
    except av.error.InvalidDataError:
        pass                    # what is missing shows in the length
    return pieces, rate, length


def _placed(pieces: list[tuple[float, np.ndarray]], start: float, rate: float) -> np.ndarray:
    """Return sound whose pieces lie where their times say, from a start on; gaps are silent."""
    places = [round((at - start) * rate) for at, _ in pieces]
    out = np.zeros(max(0, max(at + len(wave) for at, (_, wave) in zip(places, pieces))),
                   np.float32)
    for at, (_, wave) in zip(places, pieces):
        kept = wave[max(0, -at):]
        out[max(0, at):max(0, at) + len(kept)] = kept
    return out


def read_video(path: str | Path, frames: int, window_s: tuple[float, float] | None = None
               ) -> list[Sample]:
    """Read frames that are evenly spread over a video file (mp4, mkv, webm, avi, gif ...).

    They are turned upright where the file says how it was held, as telephones note it.

    :param frames: how many; a shorter video gives fewer.
    :param window_s: (start, end): only a span, seconds from the file's start. One between two
        frames, or up to half a second behind the end, shows the frame before it.
    :returns: video samples in time order, uint8 [H, W, 3] RGB; stamps count from the file's start.
    :raises FileError: if it cannot be read or holds no picture (in the span).
    """
    import av

    if frames < 1:
        raise FileError(f'{path}: found a request for {frames} frames, expected at least 1')
    check_file(path)
    try:
        times, first, timed = _frame_times(av, path, window_s)
        found = _decode(av, path, times, frames, timed, first)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        if isinstance(error, FileError):
            raise
        raise _not_understood(path, error) from None
    if not found:
        raise FileError(f'{path}: none of the frames can be decoded; is the file cut short?')
    return found


def _not_understood(path: str | Path, error: BaseException) -> FileError:
    return FileError(f'{path}: found no video that is understood, expected mp4, mkv, webm, avi or '
                     f'gif ({first_line(error)})')


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


def check_length(path: str | Path, end_s: float = np.inf) -> None:
    """Compare how long a video says that it is with where its packets end; nothing is decoded.

    A container lasts as long as its longest track, so those of sound count as well. AVI tells its
    length by what is there, and beside it how many frames there should be.

    :param end_s: what lies behind it does not matter, seconds from the file's start.
    :raises FileError: if it cannot be read, or more is missing than whole files leave out.
    """
    import av

    check_file(path)
    try:
        with av.open(str(path)) as container:
            said, found = _lengths(container, path, end_s)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        if isinstance(error, FileError):
            raise
        raise _not_understood(path, error) from None
    if said - found > max(_CUT_S, _CUT * said):
        raise FileError(f'{path}: found nothing behind {max(found, said - _SEEK_S):.3f} s, '
                        f'expected pictures or sound until {said:.3f} s as the file says; it is '
                        'cut short or damaged')


def _lengths(container: Any, path: str | Path, end: float) -> tuple[float, float]:
    """Return how long an open video says that it is, at most ``end``, and where it ends.

    Some containers count their length from their first packet, some from zero: the end is told on
    their own clock, so that neither is taken for cut.
    """
    stream = _video_stream(container, path)
    said = (container.duration or 0) * _MICRO
    if container.format.name == 'avi' and stream.average_rate:
        said = max(said, stream.frames / float(stream.average_rate))
    said, found = min(said, end), 0.0
    if said > _SEEK_S:                      # near the end is enough
        container.seek(round((said - _SEEK_S) / _MICRO))
    for packet in container.demux([stream, *container.streams.audio]):
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None and packet.size > 0:
            found = max(found, float((at + (packet.duration or 0)) * packet.time_base))
        if found >= said:
            break
    return said, found


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


def _frame_times(av: Any, path: str | Path, window_s: tuple[float, float] | None
                 ) -> tuple[list[int], int, bool]:
    """Return the presentation times of frames (in stream units), without decoding them.

    Without times in the file (raw streams) the frames are decoded once and counted: their numbers
    and False.

    :param window_s: of a span only, and read no further than that.
    :returns: times, the time that stamps count from, and whether they are times.
    :raises FileError: if no frame is in the span.
    """
    start, end = window_s if window_s is not None else (0.0, np.inf)
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        unit = float(stream.time_base or 0.0)
        zero = (container.start_time or 0) * _MICRO if window_s is not None else 0.0
        if start > _SEEK_S:
            container.seek(round((start + zero) / unit), stream=stream)
        length = 0.0                                    # of what the file really holds
        times: list[int | None] = []
        for packet in container.demux(stream):
            if packet.dts is not None and packet.dts * unit - zero >= end:
                length = end                            # at least: it goes on behind the span
                break                                   # a frame is shown after it is decoded
            if packet.size > 0:
                times.append(packet.pts)
                shown = (packet.pts or 0) + (packet.duration or 0)
                length = max(length, shown * unit - zero)
    known = sorted(time for time in times if time is not None)
    if known and len(known) == len(times):
        if window_s is None:
            return known, known[0], True
        first, timed, seconds = round(zero / unit), True, [t * unit - zero for t in known]
    else:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            rate = float(stream.average_rate or stream.guessed_rate or _RATE)
            known = list(range(sum(1 for _ in container.decode(stream))))
        first, timed, seconds = 0, False, [number / rate for number in known]
        length = len(known) / rate
    kept = [time for time, at in zip(known, seconds) if start - _MICRO <= at < end]
    before = [time for time, at in zip(known, seconds) if at < start]
    if not kept and before and start <= length + _LATE_S:
        kept = before[-1:]                              # still to be seen when the span begins
    if not kept and window_s is not None:
        told = f'the file lasts {length:.3f} s' if known else 'it holds none'
        raise FileError(f'{path}: found no frame from {start:g} to {end:g} s, expected some; '
                        f'{told}')
    return kept, first, timed


def _decode(av: Any, path: str | Path, times: list[int], count: int, timed: bool, first: int
            ) -> list[Sample]:
    """Decode ``count`` frames, evenly spread over the given times (or numbers).

    :param first: the time that stamps count from.
    """
    out: list[Sample] = []
    targets = [times[index] for index in _evenly(len(times), count)]
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        stream.thread_type = 'AUTO'
        frames = container.decode(stream)
        if not timed:
            wanted = set(targets)
            return [Sample(number, _upright(frame))
                    for number, frame in enumerate(frames) if number in wanted]
        unit, position = float(stream.time_base or 0.0), first
        for target in targets:
            if (target - position) * unit > _SEEK_S:
                container.seek(target, stream=stream)
                frames = container.decode(stream)
            frame = _next_from(av, frames, target)
            if frame is None:
                break
            position = frame.pts
            stamp = round((frame.pts - first) * unit * 1e9)
            out.append(Sample(stamp, _upright(frame)))
    return out


def _upright(frame: Any) -> np.ndarray:
    """Return a decoded frame as uint8 [H, W, 3] RGB, turned as its file says."""
    rgb: np.ndarray = frame.to_ndarray(format='rgb24')
    turns = round(getattr(frame, 'rotation', 0) / 90) % 4       # PyAV before 13 does not tell
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _next_from(av: Any, frames: Any, target: int) -> Any:
    """Return the first decoded frame at or after a time; None where the file ends or breaks."""
    try:
        return next((f for f in frames if f.pts is not None and f.pts >= target), None)
    except av.error.InvalidDataError:
        return None
