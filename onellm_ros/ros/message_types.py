"""Which modality a topic carries, by message type, topic name and the first message."""

from __future__ import annotations

from collections.abc import Collection
import re
from typing import Any

import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.ros.image_conversions import encoding_name
from onellm_ros.ros.message_fields import (
    ConversionError,
    frame_id,
    number_array,
    require,
    stamp_ns,
)

_AUDIO_TYPES = ('AudioChunk', 'AudioData', 'AudioDataStamped', 'AudioStamped', 'Audio')
_WORD = re.compile(r'[a-z]+')
# Pictures for which a colour model has no use: their pixels are labels, not brightness.
_LABEL_WORDS = frozenset({'mask', 'label', 'labels', 'segmentation', 'semantic', 'instance', 'ids',
                          'confidence'})
# Types that look usable, and why they are not.
_REASONS = {
    'LaserScan': 'a planar scan; publish it as PointCloud2 (laser_geometry) to use it',
    'DisparityImage': 'disparities; publish depth (stereo_image_proc) to use them',
    'CompressedVideo': 'a video codec; republish it with image_transport as compressed or raw',
    'FFMPEGPacket': 'a video codec; republish it with image_transport as compressed or raw',
    'Packet': 'theora packets; republish them with image_transport as compressed or raw',
    'PointCloud2Update': 'updates of a cloud; expected whole clouds',
    'CameraInfo': 'the calibration of a camera; it goes with a picture',
    'AudioInfo': 'the format of an audio topic; it goes with AudioData',
}


def short_type(type_name: str) -> str:
    """Return the last part of a type's name (``sensor_msgs/msg/Imu`` -> ``Imu``)."""
    return type_name.rsplit('/', 1)[-1]


def _words(topic: str) -> set[str]:
    """Return the lower-case words of a topic's name."""
    return set(_WORD.findall(re.sub(r'([a-z])([A-Z])', r'\1 \2', topic).lower()))


def _named(topic: str) -> Modality | None:
    """Return what the name of a picture topic says: depth, normal, image, or None for labels."""
    words = _words(topic)
    if 'depth' in words or any(word.startswith('depth') for word in words):
        return Modality.DEPTH
    if words & {'normal', 'normals'}:
        return Modality.NORMAL
    return None if words & _LABEL_WORDS else Modality.IMAGE


def modality_of_type(type_name: str, topic: str = '',
                     fields: Collection[str] = ()) -> Modality | None:
    """Guess the modality of a topic that has not been heard yet.

    :param type_name: ``sensor_msgs/msg/Image`` or, as in ROS 1, ``sensor_msgs/Image``.
    :param topic: its name; tells depth and normals from colours.
    :param fields: names of the message's fields, for types of an unknown package.
    :returns: the modality, or None if the model has no use for it.
    """
    name = short_type(type_name)
    if name in ('Image', 'CompressedImage'):
        return _named(topic)
    if name in ('PointCloud2', 'PointCloud'):
        return Modality.POINT
    if name == 'Imu':
        return Modality.IMU
    if name in _AUDIO_TYPES:
        return Modality.AUDIO
    if name in ('Float32MultiArray', 'Float64MultiArray'):
        return Modality.FMRI if _words(topic) & {'fmri', 'voxel', 'voxels', 'bold'} else None
    if {'sample_rate_hz', 'samples'} <= set(fields):
        return Modality.AUDIO
    return None


def modality_of_message(type_name: str, topic: str, message: Any) -> Modality | None:
    """Return the modality of a topic from its first message: the encoding beats the name.

    :param message: the first message of the topic.
    :returns: the modality, or None if the model has no use for it.
    """
    name = short_type(type_name)
    if name == 'Image':
        encoding = encoding_name(str(getattr(message, 'encoding', '')))
        if encoding in ('16UC1', '32FC1', '64FC1'):
            return Modality.DEPTH
        if encoding == '32FC3':
            return Modality.NORMAL
        if encoding == '32SC1':
            return None
        guess = _named(topic)
        if guess is Modality.DEPTH and encoding not in ('mono16', '16SC1'):
            return Modality.IMAGE  # a picture of the depth camera, not its distances
        return guess
    if name == 'CompressedImage':
        text = str(getattr(message, 'format', ''))
        source = encoding_name(text.split(';')[0])
        if 'compressedDepth' in text or source in ('16UC1', '32FC1'):
            return Modality.DEPTH
        guess = _named(topic)
        return Modality.IMAGE if guess is Modality.DEPTH and 'jpeg' in text else guess
    fields = [f for f in ('sample_rate_hz', 'samples') if hasattr(message, f)]
    return modality_of_type(type_name, topic, fields)


def reason_unused(type_name: str, topic: str) -> str:
    """Return why a topic is no input of the model, for people to read."""
    name = short_type(type_name)
    if name in _REASONS:
        return f'{type_name}: {_REASONS[name]}'
    if name in ('Image', 'CompressedImage'):
        return f'{type_name}: labels or confidences by its name or encoding, not a picture'
    if name in ('Float32MultiArray', 'Float64MultiArray'):
        return f'{type_name}: numbers of unknown meaning; a topic named fmri would be voxels'
    return f'{type_name} is not one of the inputs of the model'


def fmri_sample(message: Any, topic: str = '') -> Sample:
    """Convert a vector of voxel responses (a message with ``data``, header optional).

    Float32MultiArray has no header: its stamp stays 0 (the node uses the receive time) and the
    label of its first dimension stands for the frame.

    :param topic: name to keep in the sample.
    :returns: an fMRI sample, float32 [V].
    :raises ConversionError: for an empty vector, or one that is not finite.
    """
    require(message, 'a std_msgs Float32MultiArray', 'data')
    values = number_array(message.data, np.float32)
    if values.size == 0:
        raise ConversionError('found an empty fMRI vector; expected the voxel responses; check '
                              'the publisher')
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ConversionError(f'found {bad} NaN or infinite of {values.size} voxel responses; '
                              'expected finite numbers; mask such voxels before publishing')
    if hasattr(message, 'header'):
        return Sample(stamp_ns(message), values.copy(), frame_id(message), topic=topic)
    dimensions: Any = getattr(getattr(message, 'layout', None), 'dim', ())
    return Sample(0, values.copy(), dimensions[0].label if len(dimensions) else '', topic=topic)
