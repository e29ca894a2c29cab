"""Planar laser scans: sensor_msgs LaserScan -> samples of the modality ``scan``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.message_fields import (
    ConversionError,
    frame_id,
    number_array,
    require,
    stamp_ns,
)


def scan_sample(message: Any, topic: str = '') -> Sample:
    """Convert a LaserScan message.

    Azimuths are those of the message, so its frame must look ahead along x: turn the scans of a
    scanner that is mounted otherwise first. What is out of the stated limits says nothing (as
    sensor_msgs asks), -inf is an obstacle at ``range_min``, +inf nothing within reach (REP 117).

    :param topic: name to keep in the sample.
    :returns: a scan sample, float32 [N, 2]: azimuth in radians, range in metres.
    :raises ConversionError: for messages that are not understood or hold no measurement.
    """
    require(message, 'a sensor_msgs LaserScan', 'angle_min', 'angle_increment', 'range_min',
            'range_max', 'ranges')
    ranges = number_array(message.ranges, np.float32).astype(np.float64)
    start, step = float(message.angle_min), float(message.angle_increment)
    low, high = float(message.range_min), float(message.range_max)
    if not (math.isfinite(start) and math.isfinite(step)) or (step == 0 and len(ranges) > 1):
        raise ConversionError(f'found angle_min {start:g} and angle_increment {step:g} in a '
                              'LaserScan; expected radians, the second not 0; correct the driver'
                              )
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ConversionError(f'found range_min {low:g} and range_max {high:g} in a LaserScan; '
                              'expected metres, the first below the second; correct the driver')
    ranges[np.isneginf(ranges)] = max(low, 1e-3)
    outside = np.isfinite(ranges) & ((ranges < low) | (ranges > high) | (ranges <= 0))
    ranges[outside] = np.nan
    if np.isnan(ranges).all():
        raise ConversionError(f'found no usable range among the {len(ranges)} of a LaserScan '
                              f'(NaN, or outside of {low:g} to {high:g} m); expected some; is the '
                              'scanner covered?')
    angles = start + step * np.arange(len(ranges))
    return Sample(stamp_ns(message), np.stack([angles, ranges], 1).astype(np.float32),
                  frame_id(message), topic=topic)
