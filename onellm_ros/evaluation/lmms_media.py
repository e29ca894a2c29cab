"""What tasks of lmms-eval show, turned into a model's inputs.

Owns which kinds of objects are understood: they are known by what they can do, not by their class,
so that none of the libraries that make them is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
import torch

from onellm_ros.config import ModelConfig
from onellm_ros.datasets.rows import Signal
from onellm_ros.datasets.signals import read_signal
from onellm_ros.modality import Modality
from onellm_ros.preprocess import audio_tensor, image_tensor, video_tensor

_PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')
_SOUNDS = ('.wav', '.flac', '.ogg', '.mp3', '.opus')


class MediaError(ValueError):
    """Something shown that is not understood; the text says what was found and expected."""


@dataclass(frozen=True, eq=False)
class _Sound:
    wave: np.ndarray        # [n] float32, -1..1
    rate_hz: float


@dataclass(frozen=True, eq=False)
class _Part:
    """One thing shown: a file, a picture, frames or sound."""

    modality: Modality
    value: Any              # path; uint8 [H, W, 3]; a list of these; sound


def media_tensors(visuals: Sequence[Any] | None, config: ModelConfig
                  ) -> tuple[dict[Modality, torch.Tensor], str]:
    """Turn what a document shows into inputs, each with a batch of 1.

    A PIL picture is an image, several in a row are the frames of a video. Videos may be paths,
    lists or arrays [T, H, W, 3] of frames, or readers of decord or torchcodec; sound a path, a
    ``{'array', 'sampling_rate'}`` or a decoder of torchcodec. Of long sound the start counts.

    :param visuals: of ``doc_to_visual``; None or empty: text only.
    :returns: the inputs, and a key that the same things have again.
    :raises MediaError: for other things, or two of one kind.
    :raises FileError: for a file that cannot be read.
    :raises PreprocessError: for data that cannot become an input.
    """
    found: dict[Modality, torch.Tensor] = {}
    digest = hashlib.blake2b(digest_size=16)
    for part in _joined([_part(one) for one in visuals or () if one is not None]):
        if part.modality in found:
            raise MediaError(f'found two things of {part.modality}, expected one: the model has '
                             'one block for each modality')
        found[part.modality] = _tensor(part, config)[None]
        digest.update(part.modality.value.encode())
        digest.update(found[part.modality].numpy().tobytes())
    return found, digest.hexdigest()


def _joined(parts: Sequence[_Part]) -> list[_Part]:
    """Return the parts, several pictures as the frames of one video."""
    pictures = [part for part in parts if part.modality is Modality.IMAGE]
    if len(pictures) < 2:
        return list(parts)
    frames = []
    for part in pictures:
        if isinstance(part.value, Path):
            from onellm_ros.files import read_image
            frames.append(read_image(part.value).data)
        else:
            frames.append(part.value)
    rest = [part for part in parts if part.modality is not Modality.IMAGE]
    return [_Part(Modality.VIDEO, frames), *rest]


def _part(thing: Any) -> _Part:
    """Return what a thing is."""
    if isinstance(thing, Image.Image):
        return _Part(Modality.IMAGE, _rgb(thing))
    if isinstance(thing, str | os.PathLike):
        return _file(os.fspath(thing))
    if isinstance(thing, Mapping):
        return _mapping(thing)
    if isinstance(thing, np.ndarray | torch.Tensor):
        return _array(np.asarray(thing))
    if isinstance(thing, list | tuple) and thing:
        return _Part(Modality.VIDEO, [_frame(one) for one in thing])
    if hasattr(thing, 'get_all_samples'):           # AudioDecoder of torchcodec
        samples = thing.get_all_samples()
        return _Part(Modality.AUDIO, _sound(samples.data, samples.sample_rate))
    if hasattr(thing, 'get_batch') or hasattr(thing, 'get_frames_at'):
        return _Part(Modality.VIDEO, thing)         # VideoReader of decord, VideoDecoder
    raise MediaError(f'found a {type(thing).__module__}.{type(thing).__name__}, expected a PIL '
                     "picture, a path, frames, a video reader or {'array', 'sampling_rate'}")


def _file(path: str) -> _Part:
    """Return what a file is by its ending; what has no known one is a video."""
    if '://' in path:
        raise MediaError(f'found the address {path}, expected the path of a local file')
    suffix = Path(path).suffix.lower()
    modality = Modality.IMAGE if suffix in _PICTURES else Modality.AUDIO if suffix in _SOUNDS \
        else Modality.VIDEO
    return _Part(modality, Path(path))


def _mapping(thing: Mapping[str, Any]) -> _Part:
    """Return sound, or what the data sets library has not decoded."""
    rate = thing.get('sampling_rate', thing.get('sample_rate'))
    if thing.get('array') is not None and rate:
        return _Part(Modality.AUDIO, _sound(thing['array'], rate))
    if thing.get('bytes'):
        content = bytes(thing['bytes'])
        suffix = Path(str(thing.get('path') or '')).suffix.lower()
        if suffix in _PICTURES or (not suffix and _is_picture(content)):
            import io
            try:
                return _Part(Modality.IMAGE, _rgb(Image.open(io.BytesIO(content))))
            except UnidentifiedImageError as error:
                raise MediaError(f'found bytes that are no picture: {error}') from None
        return _Part(Modality.AUDIO if suffix in _SOUNDS or not suffix else Modality.VIDEO,
                     content)
    if thing.get('path'):
        return _file(str(thing['path']))
    raise MediaError(f'found a mapping with {", ".join(map(str, thing)) or "nothing"}, expected '
                     "{'array', 'sampling_rate'} of sound, or {'bytes', 'path'}")


def _is_picture(content: bytes) -> bool:
    return content.startswith((b'\xff\xd8', b'\x89PNG', b'BM', b'II*\0', b'MM\0*')) \
        or content[8:12] == b'WEBP'


def _array(data: np.ndarray) -> _Part:
    """Return a picture or frames of numbers."""
    if data.dtype == np.uint8 and data.ndim == 3 and data.shape[-1] == 3:
        return _Part(Modality.IMAGE, data)
    if data.dtype == np.uint8 and data.ndim == 4 and data.shape[-1] == 3 and len(data):
        return _Part(Modality.VIDEO, list(data))
    raise MediaError(f'found {data.dtype} of shape {list(data.shape)}, expected uint8 [H, W, 3] '
                     'of a picture or [T, H, W, 3] of a video')


def _frame(thing: Any) -> np.ndarray:
    if isinstance(thing, Image.Image):
        return _rgb(thing)
    part = _part(thing)
    if part.modality is not Modality.IMAGE or isinstance(part.value, Path):
        raise MediaError(f'found a list with {type(thing).__name__}, expected frames of a video')
    return np.asarray(part.value)


def _rgb(picture: Image.Image) -> np.ndarray:
    try:
        return np.array(picture.convert('RGB'), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:     # it is decoded only now
        raise MediaError(f'found a damaged picture: {error}') from None


def _sound(array: Any, rate: Any) -> _Sound:
    """Return sound with one channel; of several (the shorter axis) the mean."""
    wave = np.asarray(array, dtype=np.float32)
    if wave.ndim == 2:
        wave = wave.mean(axis=int(wave.shape[0] > wave.shape[1]))
    if wave.ndim != 1 or not wave.size or not float(rate) > 0:
        raise MediaError(f'sound: found shape {list(wave.shape)} at {rate} Hz, expected [n] or '
                         '[channels, n] and a rate above 0')
    return _Sound(np.clip(np.nan_to_num(wave), -1.0, 1.0), float(rate))


def _tensor(part: _Part, config: ModelConfig) -> torch.Tensor:
    """Return the model's input of one part."""
    value, tokenizer = part.value, config.tokenizer
    if isinstance(value, Path):
        return read_signal(part.modality, Signal(value), config)
    if isinstance(value, bytes):                # readers of files want a file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'media'
            path.write_bytes(value)
            return read_signal(part.modality, Signal(path), config)
    if isinstance(value, _Sound):
        return audio_tensor(value.wave, value.rate_hz, tokenizer, keep='first')
    size, fit = config.encoder.image_size, tokenizer.image_fit
    if part.modality is Modality.IMAGE:
        return image_tensor(value, size, fit)
    frames = value if isinstance(value, list) else _read(value, tokenizer.video_frames)
    return video_tensor(frames, tokenizer.video_frames, size, fit)


def _read(reader: Any, wanted: int) -> list[np.ndarray]:
    """Return at most ``wanted`` frames of a video reader, evenly spread, uint8 [H, W, 3]."""
    count = len(reader)
    if count < 1:
        raise MediaError('found a video without frames, expected one at least')
    places = np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()
    if hasattr(reader, 'get_batch'):            # decord
        batch = reader.get_batch(places)
        return list(np.asarray(batch.asnumpy() if hasattr(batch, 'asnumpy') else batch))
    frames = np.asarray(reader.get_frames_at(places).data)      # torchcodec: [T, 3, H, W]
    return list(frames.transpose(0, 2, 3, 1))
