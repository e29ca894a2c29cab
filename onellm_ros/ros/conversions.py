"""Messages -> samples: the one place to import the conversions from.

All functions work by field names, on rclpy messages and on those that `rosbags` deserialized; none
imports a message package. They raise `ConversionError`, whose text says what was found, what was
expected and what to do. The work is done in ``*_conversions.py`` beside this file.
"""

from __future__ import annotations

from onellm_ros.ros.audio_conversions import (
    AudioDecoder,
    AudioFormat,
    audio_format,
    audio_sample,
    guess_audio_format,
)
from onellm_ros.ros.cloud_conversions import cloud_array, point_sample
from onellm_ros.ros.depth_conversions import depth_sample, normal_sample
from onellm_ros.ros.image_conversions import (
    COLOUR_ENCODINGS,
    compressed_image_sample,
    compressed_rgb,
    image_sample,
    rgb_picture,
)
from onellm_ros.ros.imu_conversions import ImuMerger, ImuParts, imu_parts, imu_sample
from onellm_ros.ros.message_fields import (
    ConversionError,
    frame_id,
    intrinsics,
    intrinsics_at,
    stamp_ns,
)
from onellm_ros.ros.message_types import (
    fmri_sample,
    modality_of_message,
    modality_of_type,
    reason_unused,
)

__all__ = [
    'COLOUR_ENCODINGS', 'AudioDecoder', 'AudioFormat', 'ConversionError', 'ImuMerger', 'ImuParts',
    'audio_format', 'audio_sample', 'cloud_array', 'compressed_image_sample', 'compressed_rgb',
    'depth_sample', 'fmri_sample', 'frame_id', 'guess_audio_format', 'image_sample', 'imu_parts',
    'imu_sample', 'intrinsics', 'intrinsics_at', 'modality_of_message', 'modality_of_type',
    'normal_sample', 'point_sample', 'reason_unused', 'rgb_picture', 'stamp_ns',
]
