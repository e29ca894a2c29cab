"""The eight modalities of OneLLM, further ones by registration, and the samples that carry them.

This module owns the names (the user's, and those in the released weights) and the canonical form
in which one measurement travels through windows and preprocessing. It knows neither ROS nor torch.

Iterating over :class:`Modality` gives the eight. A further one is a :class:`ModalitySpec` that is
registered; ``Modality('scan')`` finds those that ship with the package (``SHIPPED``) and those of
other packages (entry points of the group ``onellm_ros.modalities``, each the name of a module that
registers it) by itself. docs/new_modality.md walks through it.

Canonical arrays (``Sample.data``), what every reader and converter must produce:

=============  =========  ====================================================================
modality       dtype      shape, unit, frame
=============  =========  ====================================================================
image          uint8      [H, W, 3] RGB
video          uint8      [H, W, 3] RGB, one frame a sample (the window gathers several)
depth          float32    [H, W] metres along the optical axis, NaN = no measurement
normal         float32    [H, W, 3] unit vectors, camera optical frame, NaN = no measurement
point          float32    [N, 6] x y z (metres, the sensor's frame), r g b 0..1 (0.5 = no colour)
imu            float64    [6] accelerometer xyz (m/s^2, gravity included), gyroscope xyz (rad/s)
audio          float32    [n] mono, -1..1, at ``Sample.rate_hz``; the stamp is the first sample's
fmri           float32    [V] voxel responses
=============  =========  ====================================================================

Of a registered modality its spec says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
import importlib
import importlib.metadata
import re
from typing import Any

import numpy as np

# Registered modalities that ship with the package, and the modules that register them.
SHIPPED: dict[str, str] = {'scan': 'onellm_ros.modalities.scan'}
ENTRY_POINTS = 'onellm_ros.modalities'
_NAME = re.compile(r'[a-z][a-z0-9_]{0,30}')


class Modality(str, Enum):
    """A modality; the value is the name that users, topics and messages see.

    The members are the eight of OneLLM; ``Modality(name)`` gives registered ones, too.
    """

    IMAGE = 'image'
    VIDEO = 'video'
    AUDIO = 'audio'
    POINT = 'point'
    DEPTH = 'depth'
    NORMAL = 'normal'
    IMU = 'imu'
    FMRI = 'fmri'

    @property
    def weight_name(self) -> str:
        """Name of the modality in the released weights (depth is ``rgbd``, normal ``rgbn``)."""
        return {'depth': 'rgbd', 'normal': 'rgbn'}.get(self.value, self.value)

    @classmethod
    def from_weight_name(cls, name: str) -> Modality:
        """Return the modality called ``name`` in the released weights.

        :raises ValueError: for a name that is no modality.
        """
        return parse_modality({'rgbd': 'depth', 'rgbn': 'normal'}.get(name, name))

    @classmethod
    def _missing_(cls, value: object) -> Modality | None:
        return _registered(value) if isinstance(value, str) else None

    def __str__(self) -> str:
        return self.value


def parse_modality(name: str) -> Modality:
    """Return the modality that a user calls ``name`` (any case, surrounding blanks ignored).

    :raises ValueError: for an unknown name; the text lists the known ones.
    """
    try:
        return Modality(name.strip().lower())
    except ModalityError:
        raise                       # it is known, and its module cannot be used
    except ValueError:
        known = ', '.join((*Modality, *sorted({*SHIPPED, *_SPECS})))
        raise ValueError(f'unknown modality {name!r}: expected one of {known}; one of your own '
                         'must be registered first (docs/new_modality.md)') from None


# Order of the blocks in a prompt that holds several modalities (the paper: video before audio).
PROMPT_ORDER: tuple[Modality, ...] = (
    Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL, Modality.POINT,
    Modality.AUDIO, Modality.IMU, Modality.FMRI)


def prompt_order(modalities: Iterable[Modality]) -> list[Modality]:
    """Return modalities in the order of a prompt: registered ones at the end, by name."""
    found = set(modalities)
    return [*(m for m in PROMPT_ORDER if m in found), *sorted(found - set(PROMPT_ORDER))]


def in_order(modalities: Iterable[Modality]) -> list[Modality]:
    """Return modalities in the order of :class:`Modality`, registered ones behind, by name."""
    found = set(modalities)
    return [*(m for m in Modality if m in found), *sorted(found - set(Modality))]


@dataclass(frozen=True, eq=False)
class Sample:
    """One measurement of one source.

    :param stamp_ns: time of the measurement (audio: of its first sample), integer nanoseconds.
    :param frame_id: frame of the data; empty if unknown.
    :param data: canonical array of the modality (the module's table).
    :param rate_hz: samples a second; only audio sets it.
    :param topic: where it came from; empty for files.
    :param intrinsics: (fx, fy, cx, cy) in pixels of a depth or colour picture, if known.
    """

    stamp_ns: int
    data: np.ndarray
    frame_id: str = ''
    rate_hz: float = 0.0
    topic: str = ''
    intrinsics: tuple[float, float, float, float] | None = None


class ModalityError(ValueError):
    """A modality that cannot be registered or used; the text says what to do."""


@dataclass(frozen=True)
class ModalitySpec:
    """All that the package must know of a modality that is not one of the eight.

    The module that registers it is imported where names of modalities are read, with ROS or torch
    or without either: import torch inside of ``tokenizer`` and ``prepare``, not above them.

    :param name: lower-case letters, digits and ``_``.
    :param array: type, shape and unit of the canonical array (``Sample.data``), in words.
    :param shape: of the tokenizer's input for one sample.
    :param tokens: that the tokenizer makes of it.
    :param tokenizer: width -> ``torch.nn.Module`` that turns a batch [B, ...] into
        [B, tokens, width].
    :param prepare: (samples of a window, its end in ns) -> float32 array or tensor of ``shape``;
        raises ``preprocess.PreprocessError``. The window gives the newest sample.
    :param read: reader of files: path -> samples; None: there are no files of it.
    :param message: type of the messages of its topic (``sensor_msgs/msg/LaserScan``); empty: none.
    :param conversion: ``module:function`` of (message, topic) -> sample, imported with ROS alone.
    """

    name: str
    array: str
    shape: tuple[int, ...]
    tokens: int
    tokenizer: Callable[[int], Any]
    prepare: Callable[[Sequence[Sample], int], Any]
    read: Callable[[str], list[Sample]] | None = None
    message: str = ''
    conversion: str = ''

    def __post_init__(self) -> None:
        """Check what would fail later, and far from here."""
        if not _NAME.fullmatch(self.name):
            raise ModalityError(f'modality {self.name!r}: expected at most 31 lower-case letters, '
                                'digits and _, the first a letter')
        if self.tokens < 1 or not self.shape or min(self.shape) < 1:
            raise ModalityError(f'modality {self.name}: found shape {self.shape} and '
                                f'{self.tokens} tokens, expected whole numbers above 0')
        if bool(self.message) != bool(self.conversion):
            raise ModalityError(f'modality {self.name}: found message {self.message!r} and '
                                f'conversion {self.conversion!r}, expected both or neither')

    def converter(self) -> Callable[..., Sample]:
        """Return the function of (message, topic) that ``conversion`` names.

        :raises ModalityError: if there is none of this name.
        """
        module, _, name = self.conversion.partition(':')
        try:
            found: Callable[..., Sample] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModalityError(f'modality {self.name}: conversion {self.conversion!r}: expected '
                                f'module:function: {error}') from error
        return found


_SPECS: dict[str, ModalitySpec] = {}
_EXTRA: dict[str, Modality] = {}


def register(spec: ModalitySpec) -> Modality:
    """Make a modality known; the same spec may come again.

    :returns: what ``Modality(spec.name)`` is from now on.
    :raises ModalityError: if the name is taken.
    """
    if spec.name in Modality._value2member_map_ or {spec.name} & {'rgbd', 'rgbn', 'text'}:
        raise ModalityError(f'modality {spec.name!r}: the name is taken by OneLLM; choose another')
    if _SPECS.setdefault(spec.name, spec) != spec:
        raise ModalityError(f'modality {spec.name!r}: another one of this name is registered '
                            f'({_SPECS[spec.name].array}); choose another name')
    if spec.name not in _EXTRA:
        extra = str.__new__(Modality, spec.name)
        extra._name_, extra._value_ = spec.name.upper(), spec.name
        _EXTRA[spec.name] = extra
    return _EXTRA[spec.name]


def spec_of(modality: Modality) -> ModalitySpec | None:
    """Return the spec of a registered modality; None for the eight."""
    return _SPECS.get(modality.value)


def _registered(name: str) -> Modality | None:
    """Return a registered modality, its module imported if need be; None where nobody knows it.

    :raises ModalityError: if the module that is to register it cannot be used.
    """
    if name in _EXTRA:
        return _EXTRA[name]
    module = SHIPPED.get(name)
    if module is None:
        found = importlib.metadata.entry_points(group=ENTRY_POINTS)
        module = next((entry.value for entry in found if entry.name == name), None)
    if module is None:
        return None
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ModalityError(f'modality {name!r}: its module {module} cannot be imported: {error}'
                            ) from error
    if name not in _EXTRA:
        raise ModalityError(f'modality {name!r}: its module {module} does not register it; call '
                            'onellm_ros.modality.register there')
    return _EXTRA[name]
