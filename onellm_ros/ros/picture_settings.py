"""What the picture node can be told: its ROS parameters and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
import math
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter

from onellm_ros.config import ConfigError
from onellm_ros.node_config import InputConfig
from onellm_ros.report.annotated import LEAST_SIZE, MOST_SIZE
from onellm_ros.report.annotated_text import font
from onellm_ros.ros.conversions import AudioFormat, ConversionError


def _setting(default: Any, text: str, *, low: float | None = None, high: float | None = None,
             live: bool = True, name: str = '') -> Any:
    return field(default=default, metadata={'text': text, 'low': low, 'high': high, 'live': live,
                                            'name': name})


@dataclass(frozen=True)
class PictureConfig:
    """Everything that the picture node can be told; its ROS parameters derive from this.

    The format of bare audio has the perception node's names and defaults, so that one parameter
    file serves both nodes.
    """

    perception: str = _setting(
        'perception', 'Name of the perception node, relative to the namespace: its topics '
        'description and window tell what is shown.', live=False)
    rate_hz: float = _setting(5.0, 'Pictures a second while someone subscribes.',
                              low=0.1, high=60.0)
    stale_s: float = _setting(5.0, 'A text older than this is marked as old, and so is an input '
                              'that has been silent for so long, seconds.', low=0.1, high=3600.0)
    width: int = _setting(960, 'Width of the picture, pixels.',
                          low=LEAST_SIZE[0], high=MOST_SIZE[0])
    height: int = _setting(540, 'Height of the picture, pixels.',
                           low=LEAST_SIZE[1], high=MOST_SIZE[1])
    trace_s: float = _setting(3.0, 'Length of the IMU and audio traces, seconds.',
                              low=0.5, high=30.0)
    camera: str = _setting('', 'Topic of the picture that is shown large; empty: the first one '
                           'that the perception node reports.')
    font: str = _setting('', 'TrueType file for the words; empty: DejaVu Sans, and for texts that '
                         "it lacks letters for (Chinese and others) one of the system's fonts.")
    marker_height_m: float = _setting(1.5, 'Where the marker text stands above the base frame, '
                                      'metres.', low=-100.0, high=100.0)
    marker_letter_m: float = _setting(0.15, 'Height of the letters of the marker, metres.',
                                      low=0.01, high=10.0)
    marker_lifetime_s: float = _setting(30.0, 'The marker goes when no new text has come for so '
                                        'long, seconds.', low=0.5, high=3600.0)
    audio_rate_hz: int = _setting(
        InputConfig.audio_rate_hz, 'Samples a second of audio bytes that do not say it '
        '(AudioData).', low=1000, high=384000, live=False, name='inputs.audio_rate_hz')
    audio_channels: int = _setting(
        InputConfig.audio_channels, 'Channels of audio bytes that do not say it.',
        low=1, high=64, live=False, name='inputs.audio_channels')
    audio_format: str = _setting(
        InputConfig.audio_format, 'Sample format of audio bytes that do not say it.', live=False,
        name='inputs.audio_format')

    @property
    def audio(self) -> AudioFormat:
        """What bare audio bytes mean."""
        return AudioFormat(self.audio_rate_hz, self.audio_channels, self.audio_format)


FIELDS = {f.metadata['name'] or f.name: f for f in fields(PictureConfig)}


def _checked(name: str, found: Any) -> Any:
    """Return a parameter's value as the field's.

    :raises ConfigError: saying what was found and expected.
    """
    item = FIELDS[name]
    kind: Any = type(item.default)
    low, high = item.metadata['low'], item.metadata['high']
    if kind is float and type(found) is int:
        found = float(found)
    if type(found) is not kind:
        raise ConfigError(f'{name}: found {found!r}, expected a {kind.__name__}')
    if low is not None and not (math.isfinite(found) and low <= found <= high):
        raise ConfigError(f'{name}: found {found}, expected {low:g} to {high:g}')
    return found


def _config(node: Node, values: dict[str, Any]) -> PictureConfig:
    """Return the settings that parameter values give, checked as a whole.

    :raises ConfigError: for a value that cannot be.
    """
    config = PictureConfig(**{FIELDS[n].name: _checked(n, v) for n, v in values.items()})
    if config.font:
        try:
            font(12.0, path=config.font)
        except OSError as error:
            raise ConfigError(f'font: found {config.font!r} ({error}), expected the path of a '
                              'TrueType or OpenType file') from error
    try:
        expand_topic_name(f'{config.perception}/window', node.get_name(), node.get_namespace())
    except (InvalidTopicNameException, ValueError) as error:
        raise ConfigError(f'perception: found {config.perception!r}, expected the name of a node '
                          f'such as perception or /robot/perception: {error}') from error
    try:
        config.audio.__post_init__()
    except ConversionError as error:
        raise ConfigError(f'inputs.audio_*: {error}') from error
    return config


def _descriptor(name: str) -> ParameterDescriptor:
    item = FIELDS[name]
    low, high = item.metadata['low'], item.metadata['high']
    out = ParameterDescriptor(description=item.metadata['text'], read_only=not item.metadata[
        'live'], dynamic_typing=type(item.default) is float)
    if low is not None and type(item.default) is int:
        out.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    elif low is not None:
        out.floating_point_range = [FloatingPointRange(
            from_value=float(low), to_value=float(high), step=0.0)]
    return out


def declare(node: Node) -> PictureConfig:
    """Declare every parameter and return the settings.

    :raises rclpy.exceptions.ParameterException: for an override of another type or out of range.
    :raises ConfigError: for a value that cannot be.
    """
    for name, item in FIELDS.items():
        node.declare_parameter(name, item.default, _descriptor(name))
    return read(node)


def read(node: Node) -> PictureConfig:
    """Return the settings as they are now.

    :raises ConfigError: for a value that cannot be.
    """
    return _config(node, {name: node.get_parameter(name).value for name in FIELDS})


def check(node: Node, changes: Sequence[Parameter]) -> SetParametersResult:
    """Judge a change of parameters before it is made."""
    ours = {p.name: p.value for p in changes if p.name in FIELDS}
    try:
        _config(node, {**{n: node.get_parameter(n).value for n in FIELDS}, **ours})
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
