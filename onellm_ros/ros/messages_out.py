"""Arrays -> rclpy messages, for the nodes that publish what they simulate or play.

This module owns the layouts: rgb8, 32FC1 and 32FC3 images, clouds with packed colours (as cameras
publish them) or with exact ones (as the model takes them), IMU without orientation, mono 16-bit
audio, and vectors; those of the simulation say in their label that they are synthetic.
"""

from __future__ import annotations

import sys
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
from onellm_msgs.msg import AudioChunk
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2, PointField
from std_msgs.msg import Float32MultiArray, MultiArrayDimension

from onellm_ros.ros.message_copy import array_of

SECOND_NS = 1_000_000_000
BIG_ENDIAN = sys.byteorder == 'big'
SYNTHETIC_VOXELS = 'synthetic_voxels'
_PACKED = np.dtype([('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('rgb', 'u4')])
_EXACT = np.dtype([(name, 'f4') for name in 'xyzrgb'])


def set_stamp(time: Time, stamp_ns: int) -> None:
    """Write integer nanoseconds into a Time."""
    time.sec, time.nanosec = divmod(stamp_ns, SECOND_NS)


def _head(message: Any, stamp_ns: int, frame: str) -> None:
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = frame


def image_message(stamp_ns: int, frame: str, picture: np.ndarray) -> Image:
    """Return a picture as an Image.

    :param picture: uint8 [H, W, 3] RGB (rgb8), float32 [H, W] metres (32FC1) or float32 [H, W, 3]
        unit vectors (32FC3).
    :raises ValueError: for another array.
    """
    encoding = {('uint8', 3): 'rgb8', ('float32', 2): '32FC1', ('float32', 3): '32FC3'}.get(
        (picture.dtype.name, picture.ndim))
    if encoding is None:
        raise ValueError(f'picture: found {picture.dtype} {picture.shape}, expected uint8 '
                         '[H, W, 3], float32 [H, W] or float32 [H, W, 3]')
    message = Image(encoding=encoding, is_bigendian=int(BIG_ENDIAN))
    _head(message, stamp_ns, frame)
    message.height, message.width = picture.shape[:2]
    message.step = picture.nbytes // picture.shape[0]
    message.data = array_of(np.ascontiguousarray(picture).view(np.uint8), 'B')
    return message


def camera_info_message(stamp_ns: int, frame: str, size: tuple[int, int],
                        intrinsics: tuple[float, float, float, float]) -> CameraInfo:
    """Return the CameraInfo of a pinhole camera without distortion.

    :param size: width, height. :param intrinsics: (fx, fy, cx, cy) in pixels.
    """
    message = CameraInfo(distortion_model='plumb_bob', d=[0.0] * 5)
    _head(message, stamp_ns, frame)
    message.width, message.height = size
    fx, fy, cx, cy = intrinsics
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def _points_message(stamp_ns: int, frame: str, points: np.ndarray) -> PointCloud2:
    """Return an unorganised PointCloud2 of structured points whose fields take four bytes each."""
    message = PointCloud2(height=1, width=len(points), is_bigendian=BIG_ENDIAN, is_dense=True)
    _head(message, stamp_ns, frame)
    message.fields = [PointField(name=name, offset=4 * at, datatype=PointField.FLOAT32, count=1)
                      for at, name in enumerate(points.dtype.names or ())]
    message.point_step, message.row_step = points.dtype.itemsize, points.nbytes
    message.data = array_of(points.view(np.uint8), 'B')
    return message


def coloured_cloud_message(stamp_ns: int, frame: str, cloud: np.ndarray) -> PointCloud2:
    """Return a cloud with x y z and packed rgb (eight bits a colour, as viewers expect).

    :param cloud: float32 [N, 6]: x y z in metres, r g b in 0..1.
    """
    points = np.empty(len(cloud), _PACKED)
    for axis, name in enumerate('xyz'):
        points[name] = cloud[:, axis]
    red, green, blue = (np.clip(cloud[:, 3:6], 0.0, 1.0) * 255.0 + 0.5).astype(np.uint32).T
    points['rgb'] = red << 16 | green << 8 | blue
    return _points_message(stamp_ns, frame, points)


def exact_cloud_message(stamp_ns: int, frame: str, cloud: np.ndarray) -> PointCloud2:
    """Return a cloud with x y z r g b as float32: what arrives is what was given.

    :param cloud: float32 [N, 6]: x y z in metres, r g b in 0..1.
    """
    points = np.ascontiguousarray(cloud, np.float32).view(_EXACT).reshape(-1)
    return _points_message(stamp_ns, frame, points)


def empty_imu_message(frame: str) -> Imu:
    """Return an Imu message without orientation, to be filled again for each sample."""
    message = Imu()
    message.header.frame_id = frame
    message.orientation_covariance[0] = -1.0
    return message


def fill_imu(message: Imu, stamp_ns: int, values: np.ndarray) -> None:
    """Write one sample into an Imu message.

    :param values: [6] accelerometer m/s^2, gyroscope rad/s.
    """
    set_stamp(message.header.stamp, stamp_ns)
    felt, turned = message.linear_acceleration, message.angular_velocity
    felt.x, felt.y, felt.z, turned.x, turned.y, turned.z = (float(v) for v in values)


def audio_message(stamp_ns: int, frame: str, wave: np.ndarray, rate_hz: float) -> AudioChunk:
    """Return a mono AudioChunk.

    :param stamp_ns: time of the first sample. :param wave: float [n] in -1..1.
    """
    message = AudioChunk(sample_rate_hz=round(rate_hz), channels=1)
    _head(message, stamp_ns, frame)
    numbers = np.clip(np.rint(wave.astype(np.float64) * 32768.0), -32768, 32767)
    message.samples = array_of(numbers.astype(np.int16), 'h')
    return message


def vector_message(values: np.ndarray) -> Float32MultiArray:
    """Return a vector (voxel responses) without a label.

    :param values: float32 [V].
    """
    message = Float32MultiArray()
    message.data = array_of(values, 'f')
    return message


def synthetic_voxels_message(voxels: np.ndarray) -> Float32MultiArray:
    """Return an fMRI-like vector; its label says that no brain was measured.

    :param voxels: float32 [V].
    """
    message = vector_message(voxels)
    message.layout.dim = [MultiArrayDimension(label=SYNTHETIC_VOXELS, size=len(voxels),
                                              stride=len(voxels))]
    return message
