"""Sensor files of training sets and benchmarks to the tensors that the model's tokenizers take.

Files are read with ``onellm_ros.files`` and go through ``onellm_ros.preprocess``, as live data do.
What differs: of long sound and long IMU windows the start counts, as in the released model's
training, and depth may be an 8-bit picture that somebody rendered. Sound may be the track of a
video. A file that is cut short is an error even where its reader could make something of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.datasets.depths import DepthSignal, is_rendered, read_depth_signal
from onellm_ros.datasets.rows import Signal
from onellm_ros.files import (
    FileError,
    read_audio,
    read_depth,
    read_fmri,
    read_image,
    read_imu_table,
    read_points,
    read_video,
)
from onellm_ros.files.errors import is_npy, load_npy, read_bytes
from onellm_ros.files.recordings import check_file, check_length, read_track
from onellm_ros.modality import Modality, Sample
from onellm_ros.preprocess import (
    PreprocessError,
    audio_tensor,
    depth_tensor,
    fmri_tensor,
    image_tensor,
    normal_tensor,
    normals_from_depth,
    point_tensor,
    resample_imu,
    standardise_imu,
    video_tensor,
)

_LARGEST = 1e6                  # of an input: it would drown all else that the model sees
_LEAST_IMU = 10                 # samples of a window
_NO_NORMAL = 0.1                # a picture's vector shorter than this is no direction
_WHOLE = ('WAV', 'WAVEX', 'FLAC', 'AIFF', 'W64', 'RF64')    # sound files that know their length
# Of files that hold nothing but sound; others that libsndfile cannot read may be videos.
_SOUNDS = ('.wav', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff', '.w64', '.au')
_SOUND_MARGIN_S = 1.0           # read beyond the model's, for the resampling filter
_NORMAL_WIDTH = 224             # wider depth pictures take normals from farther neighbours


def read_signal(modality: Modality, signal: Signal, config: ModelConfig) -> Tensor:
    """Read one signal and preprocess it for a model.

    :returns: as :class:`Example` says, float32.
    :raises FileError: for a file that cannot be read.
    :raises PreprocessError: for data that cannot become an input.
    """
    try:
        tensor = _READERS[modality](signal, config)
    except PreprocessError as error:                        # knows no files
        raise type(error)(f'{signal.path}: {error}') from None
    if not bool((tensor.abs() < _LARGEST).all()):           # NaN is not, either
        raise PreprocessError(
            f'{signal.path}: found an input of up to {float(tensor.abs().max()):g}, expected '
            f'finite values below {_LARGEST:g}; check the unit')
    return tensor


def _image(signal: Signal, config: ModelConfig) -> Tensor:
    return image_tensor(read_image(signal.path).data, config.encoder.image_size,
                        config.tokenizer.image_fit)


def _video(signal: Signal, config: ModelConfig) -> Tensor:
    wanted = config.tokenizer.video_frames
    frames = read_video(signal.path, wanted, signal.window_s)
    if len(frames) < wanted and signal.window_s is None:
        _check_frames(signal.path, len(frames))
    check_length(signal.path, np.inf if signal.window_s is None else signal.window_s[1])
    return video_tensor([frame.data for frame in frames], wanted, config.encoder.image_size,
                        config.tokenizer.image_fit)


def _check_frames(path: Path, found: int) -> None:
    """Tell a short video from one that is cut short.

    :raises FileError: for the latter.
    """
    import av

    with av.open(str(path)) as container:
        promised = container.streams.video[0].frames       # 0: the file does not say
    if promised > found:
        raise FileError(f'{path}: found {found} frames that can be decoded, expected {promised} '
                        'as the file says; it is cut short or damaged')


def _audio(signal: Signal, config: ModelConfig) -> Tensor:
    seconds = config.tokenizer.audio_seconds + _SOUND_MARGIN_S
    sound = sound_start(signal.path, seconds, signal.window_s)
    return audio_tensor(sound.data, sound.rate_hz, config.tokenizer, keep='first')


def sound_start(path: Path, seconds: float, window_s: tuple[float, float] | None = None) -> Sample:
    """Read the first seconds of a sound file, or of a video's sound track, channels mixed to one.

    :param window_s: (start, end): of that span, seconds from the file's start.
    :raises FileError: if it cannot be read, is cut short or holds values that are not finite.
    """
    import soundfile

    check_file(path)
    start, end = window_s if window_s is not None else (0.0, np.inf)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, whole = float(file.samplerate), file.format in _WHOLE
            first = min(file.frames, round(start * rate))
            wanted = min(file.frames - first, int(min(seconds, end - start) * rate) + 1)
            file.seek(first)
            wave = file.read(wanted, dtype='float32', always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError):
        if path.suffix.lower() not in _SOUNDS:
            return read_track(path, window_s, seconds)
        return read_audio(path)                             # says what is wrong
    if len(wave) == 0:
        if first == 0:
            return read_audio(path)
        raise FileError(f'{path}: found no sound from {start:g} s on, expected some; the file '
                        f'lasts {first / rate:.3f} s')
    _check_riff(path)
    if whole and len(wave) < wanted:
        raise FileError(f'{path}: found {len(wave)} samples, expected {wanted} as the file says; '
                        'it is cut short or damaged')
    bad = int((~np.isfinite(wave)).sum())
    if bad:
        raise FileError(f'{path}: found {bad} values that are not finite, expected sound in -1..1')
    mono = np.clip(wave.mean(axis=1), -1.0, 1.0)
    return Sample(round(first / rate * 1e9), mono, rate_hz=rate)


def _check_riff(path: Path) -> None:
    """Compare the length that a wav file says with its own; sound libraries forgive.

    :raises FileError: if the file is shorter.
    """
    with open(path, 'rb') as file:
        head = file.read(8)
    if head[:4] != b'RIFF':
        return
    said, found = int.from_bytes(head[4:], 'little') + 8, path.stat().st_size
    if found < said < 0xFFFFFF00:           # a stream of unknown length says the largest number
        raise FileError(f'{path}: found {found} bytes, expected {said} as its header says; the '
                        'file is cut short')


def _point(signal: Signal, config: ModelConfig) -> Tensor:
    tokenizer = config.tokenizer
    return point_tensor(read_points(signal.path).data, tokenizer.points, tokenizer.point_frame)


def _colour(signal: Signal) -> np.ndarray:
    """Return the colour picture beside depth or normals."""
    assert signal.colour is not None
    return read_image(signal.colour).data


def _depth(signal: Signal, config: ModelConfig) -> Tensor:
    size, fit = config.encoder.image_size, config.tokenizer.image_fit
    encoding, rgb = config.tokenizer.depth_encoding, _colour(signal)
    if isinstance(signal, DepthSignal):
        return depth_tensor(read_depth_signal(signal).data, size, fit, encoding, rgb)
    if not is_rendered(signal.path):
        return depth_tensor(read_depth(signal.path).data, size, fit, encoding, rgb)
    if encoding != 'relative':
        raise PreprocessError(
            f'{signal.path}: found an 8-bit picture of depth, expected 16-bit millimetres or '
            f'float metres: the model {config.name} reads depth as {encoding}')
    picture = image_tensor(read_image(signal.path).data, size, fit)
    return torch.stack([image_tensor(rgb, size, fit), picture])


def read_normals(path: Path) -> np.ndarray:
    """Read surface normals: an 8-bit picture of (n + 1) / 2, or .npy vectors [H, W, 3].

    :returns: float32 [H, W, 3] unit vectors, NaN where there is no direction.
    :raises FileError: if it cannot be read.
    """
    check_file(path)
    with open(path, 'rb') as file:
        stored = is_npy(file.read(16))
    if stored:
        vectors = load_npy(path, read_bytes(path))
        if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind != 'f':
            raise FileError(f'{path}: found {vectors.dtype} of shape {vectors.shape}, expected '
                            'float unit vectors [H, W, 3]')
        vectors = vectors.astype(np.float32)
    else:
        vectors = read_image(path).data.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(length > _NO_NORMAL, vectors / length, np.float32(np.nan))


def _normal(signal: Signal, config: ModelConfig) -> Tensor:
    normals = _normals_of_depth(signal) if isinstance(signal, DepthSignal) \
        else read_normals(signal.path)
    return normal_tensor(normals, config.encoder.image_size, config.tokenizer.image_fit,
                         _colour(signal))


def _normals_of_depth(signal: DepthSignal) -> np.ndarray:
    """Return normals computed from a depth picture, as of a live camera."""
    if signal.intrinsics is None:
        raise FileError(f'{signal.path}: found a depth picture without intrinsics, expected fx, '
                        'fy, cx, cy, from which normals are computed')
    metres = read_depth_signal(signal).data
    return normals_from_depth(metres, signal.intrinsics,
                              step=max(1, round(metres.shape[1] / _NORMAL_WIDTH)))


def _mapped(path: Path) -> np.ndarray:
    """Open a .npy file without reading all of it."""
    check_file(path)
    try:
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, KeyError, SyntaxError):
        return load_npy(path, read_bytes(path))             # says what is wrong


def imu_window(path: Path, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Read a window of a recording: ``UID.npy`` [6, n] and ``UID_timestamps.npy`` [n] in ms.

    :returns: int64 [m] nanoseconds and float64 [m, 6] m/s^2 and rad/s.
    :raises FileError: if it cannot be read, or has fewer than 10 samples in the window.
    """
    beside = path.with_name(path.stem + '_timestamps.npy')
    values, stamps = _mapped(path), _mapped(beside)
    if values.ndim != 2 or values.shape[0] != 6 or values.dtype.kind not in 'iuf':
        raise FileError(f'{path}: found {values.dtype} of shape {values.shape}, expected [6, n]: '
                        'accelerometer xyz, gyroscope xyz')
    if stamps.size != values.shape[1] or stamps.dtype.kind not in 'iuf':
        raise FileError(f'{beside}: found {stamps.dtype} of shape {stamps.shape}, expected '
                        f'{values.shape[1]} stamps in milliseconds as {path} has samples')
    flat = stamps.reshape(-1)
    first, last = np.searchsorted(flat, start_s * 1e3), np.searchsorted(flat, end_s * 1e3, 'right')
    if last - first < _LEAST_IMU:
        spans = f'{flat[0] / 1e3:.3f} to {flat[-1] / 1e3:.3f} s' if flat.size else 'nothing'
        raise FileError(
            f'{path}: found {last - first} samples from {start_s:g} to {end_s:g} s, expected at '
            f'least {_LEAST_IMU}; the recording spans {spans}')
    chosen = np.asarray(flat[first:last], np.float64)
    if not (np.diff(chosen) >= 0).all():
        raise FileError(f'{beside}: found stamps that go back, expected rising milliseconds')
    return np.round(chosen * 1e6).astype(np.int64), np.asarray(values[:, first:last].T, np.float64)


def _imu(signal: Signal, config: ModelConfig) -> Tensor:
    tokenizer = config.tokenizer
    if signal.window_s is None:
        table = read_imu_table(signal.path)
        stamps, values = table.stamps_ns, table.values
        start_ns = int(stamps.min())
    else:
        stamps, values = imu_window(signal.path, *signal.window_s)
        start_ns = round(signal.window_s[0] * 1e9)
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise FileError(f'{signal.path}: found {bad} of {len(values)} samples that are not finite')
    end_ns = start_ns + round((tokenizer.imu_samples - 1) / tokenizer.imu_rate_hz * 1e9)
    series = resample_imu(stamps, values, end_ns, tokenizer.imu_rate_hz, tokenizer.imu_samples)
    tensor = torch.from_numpy(np.ascontiguousarray(series.values.T))
    return standardise_imu(tensor) if tokenizer.imu_standardise else tensor


def _fmri(signal: Signal, config: ModelConfig) -> Tensor:
    return fmri_tensor(read_fmri(signal.path).data, config.tokenizer.fmri_voxels)


_READERS: dict[Modality, Callable[[Signal, ModelConfig], Tensor]] = {
    Modality.IMAGE: _image, Modality.VIDEO: _video, Modality.AUDIO: _audio,
    Modality.POINT: _point, Modality.DEPTH: _depth, Modality.NORMAL: _normal, Modality.IMU: _imu,
    Modality.FMRI: _fmri}
