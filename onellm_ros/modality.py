"""The eight modalities of OneLLM and the samples that carry them.

This module owns the names (the user's, and those in the released weights) and the canonical form
in which one measurement travels through windows and preprocessing. It knows neither ROS nor torch.

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
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Modality(str, Enum):
    """A modality; the value is the name that users, topics and messages see."""

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

    def __str__(self) -> str:
        return self.value


def parse_modality(name: str) -> Modality:
    """Return the modality that a user calls ``name`` (any case, surrounding blanks ignored).

    :raises ValueError: for an unknown name; the text lists the known ones.
    """
    try:
        return Modality(name.strip().lower())
    except ValueError:
        known = ', '.join(m.value for m in Modality)
        raise ValueError(f'unknown modality {name!r}: expected one of {known}') from None


# Order of the blocks in a prompt that holds several modalities (the paper: video before audio).
PROMPT_ORDER: tuple[Modality, ...] = (
    Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL, Modality.POINT,
    Modality.AUDIO, Modality.IMU, Modality.FMRI)


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
