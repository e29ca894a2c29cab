"""Samples -> rclpy messages, for the nodes that publish what they read or simulate."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, PointCloud2, PointField

from onellm_ros.modality import Sample
from onellm_ros.ros.message_copy import array_of, message_class


def _header(message: Any, sample: Sample) -> None:
    """Write stamp and frame of a sample into a message."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(sample.stamp_ns, 10**9)
    message.header.frame_id = sample.frame_id


def float_image(sample: Sample) -> Image:
    """Return a depth (32FC1) or normal (32FC3) sample as an Image message."""
    message = Image()
    _header(message, sample)
    message.height, message.width = sample.data.shape[:2]
    channels = 1 if sample.data.ndim == 2 else sample.data.shape[2]
    message.encoding = f'32FC{channels}'
    message.is_bigendian = int(sys.byteorder == 'big')
    message.step = message.width * 4 * channels
    message.data = array_of(np.ascontiguousarray(sample.data, np.float32).view(np.uint8), 'B')
    return message


def cloud_message(sample: Sample) -> PointCloud2:
    """Return a point sample as a PointCloud2 with x y z r g b as float32."""
    message = PointCloud2()
    _header(message, sample)
    message.height, message.width = 1, len(sample.data)
    message.fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                      for i, name in enumerate('xyzrgb')]
    message.point_step, message.row_step = 24, 24 * len(sample.data)
    message.is_bigendian, message.is_dense = sys.byteorder == 'big', True
    message.data = array_of(np.ascontiguousarray(sample.data, np.float32).view(np.uint8), 'B')
    return message


def audio_chunk(sample: Sample) -> Any:
    """Return an audio sample as an onellm_msgs/AudioChunk (mono).

    :raises ImportError: if onellm_msgs is not built.
    """
    message = message_class('onellm_msgs/msg/AudioChunk')()
    _header(message, sample)
    message.sample_rate_hz, message.channels = round(sample.rate_hz), 1
    numbers = np.clip(np.rint(sample.data.astype(np.float64) * 32768), -32768, 32767)
    message.samples = array_of(numbers.astype(np.int16), 'h')
    return message


def fmri_message(sample: Sample) -> Any:
    """Return an fMRI sample as a Float32MultiArray."""
    message = message_class('std_msgs/msg/Float32MultiArray')()
    message.data = array_of(sample.data, 'f')
    return message
