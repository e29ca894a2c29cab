"""Where the videos, sounds and other files of benchmarks lie, and captions in COCO's style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import hashlib
from pathlib import Path
import re

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import Captioned, Json, coco_captions, picture
from onellm_ros.evaluation.item import Item
from onellm_ros.files import FileError
from onellm_ros.files.recordings import has_sound
from onellm_ros.modality import Modality

VIDEOS = ('.mp4', '.avi', '.mkv', '.webm', '.mov')      # or in upper case
SOUNDS = ('.wav', '.flac', '.mp3', '.ogg', '.m4a')
SOUND_FOLDERS = ('audios', 'audio')
LEAST_S = 1.0                   # of a span: some that are annotated have no length
SILENT = ('error', 'video')     # what becomes of a video without a sound track
_CLIP = re.compile(r'(?P<video>.+)_(?P<start>\d+(?:\.\d+)?)_(?P<end>\d+(?:\.\d+)?)')


def media(root: Path, folders: Sequence[str], stem: str, suffixes: Sequence[str] = VIDEOS) -> Path:
    """Return a video or sound: of several folders and kinds of files the first that exists.

    :param folders: below ``root``; empty: itself. :param stem: may hold folders.
    """
    spelt = [*suffixes, *(suffix.upper() for suffix in suffixes)]
    return picture(root, [str(Path(folder, stem + suffix))
                          for folder in folders for suffix in spelt])


def recording(root: Path, folders: Sequence[str], name: str, suffixes: Sequence[str]) -> Path:
    """Return the file of a name, or the same in another format or spelling of its suffix.

    :param name: of a file; where none exists, that of the first folder is returned.
    """
    found = picture(root, [str(Path(folder, name)) for folder in folders])
    if not found.is_file() and Path(name).suffix.lower() in suffixes:
        other = media(root, folders, str(Path(name).with_suffix('')), suffixes)
        return other if other.is_file() else found
    return found


def clip(root: Path, folders: Sequence[str], name: str, suffixes: Sequence[str] = VIDEOS
         ) -> Signal:
    """Return a clip called ``VIDEO_START_END`` (seconds): cut out, or a span of the whole video.

    :param name: one of another form is a file's.
    """
    cut = media(root, folders, name, suffixes)
    parts = _CLIP.fullmatch(name)
    if cut.is_file() or parts is None:
        return Signal(cut)
    whole = media(root, folders, parts['video'], suffixes)
    if not whole.is_file():
        return Signal(cut)
    return Signal(whole, window_s=span(float(parts['start']), float(parts['end'])))


def span(start: float, end: float) -> tuple[float, float]:
    """Return a span of at least a second from a start on."""
    return start, max(end, start + LEAST_S)


def named(root: Path, folders: Sequence[str], entry: Captioned, suffixes: Sequence[str] = VIDEOS
          ) -> Signal:
    """Return the file of an image (or video, sound ...) of a COCO-style file.

    Without ``file_name`` the id is its stem.
    """
    name = entry.name or entry.id
    if Path(name).suffix.lower() in suffixes:
        found = recording(root, folders, name, suffixes)
        if found.is_file():
            return Signal(found)
        name = str(Path(name).with_suffix(''))
    return clip(root, folders, name, suffixes)


def with_sound(root: Path, video: Signal, silent: str) -> dict[Modality, Signal]:
    """Return a video and its sound: a sound file of its name where there is one, else its track.

    :param silent: ``error``: its sound is asked for whatever the file holds; ``video``: a video
        without a sound track (looked for now) is shown alone.
    :raises ValueError: for another policy.
    """
    if silent not in SILENT:
        raise ValueError(f'silent: found {silent!r}, expected one of {", ".join(SILENT)}')
    beside = media(root, SOUND_FOLDERS, video.path.stem, SOUNDS)
    if beside.is_file():
        return {Modality.VIDEO: video,
                Modality.AUDIO: Signal(beside, window_s=video.window_s)}
    found = {Modality.VIDEO: video}
    if silent == 'error' or _sounds(video.path):
        found[Modality.AUDIO] = Signal(video.path, window_s=video.window_s)
    return found


def _sounds(path: Path) -> bool:
    try:
        return has_sound(path)
    except FileError:
        return True                     # a missing or broken file is told where it is read


def is_coco(path: Path) -> bool:
    """Return whether a file's name is that of one in COCO's style, not of the benchmark's own."""
    return path.name.startswith('captions_') or path.stem.endswith(
        ('_cococap', '_ann'))


def captioned(file: Json, signals: Callable[[Captioned], Mapping[Modality, Signal]]
              ) -> Iterator[Item]:
    """Yield the items of a caption file in COCO's style, as the authors' scripts read them.

    :param signals: gives what an entry shows.
    """
    for entry in coco_captions(file):
        yield Item(entry.id, signals=signals(entry), answers=entry.captions,
                   source=entry.row.source)


def shuffled(key: str, right: str, wrong: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Return choices in an order of their own for each key, the same everywhere, and the right
    one's index.

    For benchmarks whose files always name the right one at the same place.
    """
    choices = [right, *wrong]
    order = sorted(range(len(choices)),
                   key=lambda n: hashlib.sha256(f'{key}:{n}'.encode()).digest())
    return tuple(choices[n] for n in order), order.index(0)
