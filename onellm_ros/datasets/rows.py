"""What rows of annotation files say: which sensor file, and which conversation or captions.

The forms are those of OneLLM's public data: conversations ``{id, image, conversations: [{from,
value}]}`` with ``depth_image`` or ``normal_image`` beside ``image``, and ``imu_path, video_uid,
window_start, window_end`` for IMU; captions as tables ``caption, url``, and for IMU as objects
``video_uid, window_start, window_end, text``. What ``image`` or ``url`` names is a file of the
set's modality, whatever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onellm_ros.datasets.config import SetConfig
from onellm_ros.datasets.errors import RowError
from onellm_ros.modality import Modality

if TYPE_CHECKING:
    from onellm_ros.datasets.examples import Turns  # imports torch

IMAGE_TOKEN = '<image>'
HUMAN, ASSISTANT = ('human',), ('gpt', 'assistant')
_WITH_COLOUR = {Modality.DEPTH: 'depth_image', Modality.NORMAL: 'normal_image'}


@dataclass(frozen=True)
class Signal:
    """Where a signal lies.

    :param path: its file. :param colour: the colour picture beside depth or normals.
    :param window_s: (start, end) seconds: of a video or sound, from the file's start; of an IMU
        recording, on the clock of the times beside it. None: the whole file.
    """

    path: Path
    colour: Path | None = None
    window_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Item:
    """What one row says.

    :param signal: None for text. :param variants: conversations to choose from; several only where
        a caption is worded in several ways.
    """

    signal: Signal | None
    variants: tuple[Turns, ...]


def _wanted(row: Mapping[str, Any], key: str) -> Any:
    """Return a value of a row."""
    if key not in row:
        raise RowError(f'found the keys {", ".join(map(str, row)) or "none"}, expected {key!r}')
    return row[key]


def _text(row: Mapping[str, Any], key: str) -> str:
    """Return a text of a row that says something."""
    value = _wanted(row, key)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f'{key}: found {str(value)[:40]!r}, expected a text')
    return value


def sensor_path(text: str, config: SetConfig, root: Path) -> Path:
    """Return the path that a row means.

    :raises RowError: for an address.
    """
    for start, replacement in config.rename:
        if text.startswith(start):
            text = replacement + text[len(start):]
            break
    if '://' in text:
        raise RowError(f'found the address {text!r}, expected the path of a file; fetch the files '
                       'and give `rename` of the data set, which turns addresses into paths')
    return root / config.files / text


def turns_of(conversations: Any) -> Turns:
    """Return the (question, answer) pairs of a conversation; ``<image>`` is dropped.

    :raises RowError: if human and assistant do not speak in turn, or an answer is empty.
    """
    if not isinstance(conversations, list) or not conversations:
        raise RowError(f'conversations: found {str(conversations)[:40]!r}, expected a list of '
                       '{from, value}')
    said: list[str] = []
    for number, turn in enumerate(conversations):
        if not isinstance(turn, dict) or not isinstance(turn.get('value'), str) \
                or not isinstance(turn.get('from'), str):
            raise RowError(f'conversations[{number}]: found {str(turn)[:60]!r}, expected '
                           '{from, value} with texts')
        expected = ASSISTANT if number % 2 else HUMAN
        if turn['from'].lower() not in expected:
            raise RowError(f'conversations[{number}]: found a turn of {turn["from"]!r}, expected '
                           f'{" or ".join(expected)}: human and gpt speak in turn')
        value = turn['value']
        if IMAGE_TOKEN in value:
            value = value.replace(IMAGE_TOKEN, '').strip()
        if number % 2 and not value.strip():
            raise RowError(f'conversations[{number}]: found an empty answer, expected a text')
        said.append(value)
    if len(said) % 2:
        raise RowError(f'conversations: found {len(said)} turns, the last without an answer')
    return tuple(zip(said[::2], said[1::2]))


def _window(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the window of an IMU row, seconds."""
    values = [_wanted(row, key) for key in ('window_start', 'window_end')]
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
               for v in values)
    if not good or not values[0] < values[1]:
        raise RowError(f'window_start, window_end: found {values[0]!r}, {values[1]!r}, expected '
                       'seconds, the first below the second')
    return float(values[0]), float(values[1])


def _recording(row: Mapping[str, Any], folder: Path) -> Signal:
    """Return the IMU window of a row that names a recording."""
    return Signal(folder / f'{_text(row, "video_uid")}.npy', window_s=_window(row))


def instruction(row: Mapping[str, Any], config: SetConfig, root: Path) -> Item:
    """Return what a row of an instruction file says.

    :raises RowError: if it has not the form of its modality.
    """
    variants = (turns_of(_wanted(row, 'conversations')),)
    sense = config.sense
    if sense is None:
        named = [key for key in ('image', 'imu_path', *_WITH_COLOUR.values()) if row.get(key)]
        if named:
            raise RowError(f'found the key {named[0]!r}, expected none: the set is one of text; '
                           'give its modality')
        return Item(None, variants)
    if sense is Modality.IMU and 'imu_path' in row:
        return Item(_recording(row, sensor_path(_text(row, 'imu_path'), config, root)), variants)
    path = sensor_path(_text(row, 'image'), config, root)
    if sense not in _WITH_COLOUR:
        return Item(Signal(path), variants)
    other = sensor_path(_text(row, _WITH_COLOUR[sense]), config, root)
    return Item(Signal(other, colour=path), variants)


def _captions(value: Any, key: str) -> tuple[Turns, ...]:
    """Return a caption, or several to choose from, as conversations without a question."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError(f'{key}: found {str(value)[:40]!r}, expected a caption')
    return tuple((('', text),) for text in texts)


def alignment(row: Mapping[str, Any], config: SetConfig, root: Path) -> Item:
    """Return what a row of an alignment file says.

    :raises RowError: if it has not the form of its modality.
    """
    sense = config.sense
    if sense is Modality.IMU and 'video_uid' in row:
        if not config.imu:
            raise RowError('found a window of a recording, expected the folder of the recordings: '
                           'give `imu` of the data set')
        return Item(_recording(row, root / config.imu), _captions(_wanted(row, 'text'), 'text'))
    variants = _captions(_wanted(row, 'caption'), 'caption')
    url = _text(row, 'url')
    path = sensor_path(url, config, root)
    if sense not in _WITH_COLOUR:
        return Item(Signal(path), variants)
    if not config.companion:
        raise RowError(f'found no `companion` of the data set, expected the [from, to] by which '
                       f'the path of a colour picture becomes that of its {sense} picture')
    before, after = config.companion
    if before not in url:
        raise RowError(f'url: found {url!r}, expected {before!r} in it, which `companion` '
                       'replaces')
    return Item(Signal(sensor_path(url.replace(before, after), config, root), colour=path),
                variants)
