"""A planar laser scan (sensor_msgs/LaserScan) as the ninth modality.

Canonical array: float32 [N, 2], one row a beam in any order: azimuth in radians (0 ahead, positive
to the left, in a frame whose x looks ahead) and range in metres. A range of NaN (or not above 0)
says nothing; ``inf`` says that nothing stood within the scanner's reach.

The tokenizer's input has ``BEAMS`` directions around the robot, the first one behind it, going
round by the right. Of all beams in a direction the nearest counts. Three channels: range / 10 m
(1: nothing as far as that), 1 / (1 + range), and whether a beam looked there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onellm_ros.modality import ModalitySpec, Sample, register

if TYPE_CHECKING:
    from onellm_ros.modalities.scan_tokenizer import ScanTokenizer

BEAMS, CHANNELS = 180, 3
KERNEL = 4                      # directions a token
REACH_M = 10.0


def scan_input(scan: Any) -> np.ndarray:
    """Turn one scan into the tokenizer's input.

    :param scan: canonical array.
    :returns: float32 [CHANNELS, BEAMS].
    :raises NoMeasurementError: if no beam says anything.
    :raises PreprocessError: for an array of another form.
    """
    from onellm_ros.preprocess import NoMeasurementError, PreprocessError

    beams = np.asarray(scan)
    if beams.ndim != 2 or beams.shape[1] != 2 or beams.dtype.kind != 'f':
        raise PreprocessError(
            f'scan: found {beams.dtype} of shape {list(beams.shape)}, expected floating point '
            '[N, 2]: azimuth in radians, range in metres')
    azimuth, ranges = beams.T.astype(np.float64)
    said = np.isfinite(azimuth) & (ranges > 0)          # NaN is not above 0
    if not said.any():
        raise NoMeasurementError(f'scan: none of {len(beams)} beams has a range')
    at = np.floor((azimuth[said] + math.pi) / (2 * math.pi) * BEAMS).astype(np.int64) % BEAMS
    nearest = np.full(BEAMS, np.nan)
    np.fmin.at(nearest, at, ranges[said])
    seen = ~np.isnan(nearest)
    far = np.where(seen, nearest, 0.0)
    return np.stack([np.minimum(far / REACH_M, 1.0), np.where(seen, 1.0 / (1.0 + far), 0.0),
                     seen]).astype(np.float32)


def _prepare(samples: Sequence[Sample], end_ns: int) -> np.ndarray:
    return scan_input(samples[-1].data)


def _tokenizer(width: int) -> ScanTokenizer:
    from onellm_ros.modalities.scan_tokenizer import ScanTokenizer

    return ScanTokenizer(width)


def _read(path: str) -> list[Sample]:
    from onellm_ros.modalities.scan_files import read_scan

    return [read_scan(path)]


SCAN = register(ModalitySpec(
    name='scan', array='float32 [N, 2]: azimuth (radians, 0 ahead, left positive), range (metres)',
    shape=(CHANNELS, BEAMS), tokens=BEAMS // KERNEL, tokenizer=_tokenizer, prepare=_prepare,
    read=_read, message='sensor_msgs/msg/LaserScan',
    conversion='onellm_ros.ros.scan_conversions:scan_sample'))
