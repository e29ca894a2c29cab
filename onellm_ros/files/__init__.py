"""Readers of sensor files without ROS: each gives samples in canonical form (``modality.py``)."""

from onellm_ros.files.clouds import read_points
from onellm_ros.files.errors import FileError
from onellm_ros.files.imu import ImuTable, read_imu, read_imu_table
from onellm_ros.files.pictures import read_depth, read_fmri, read_image
from onellm_ros.files.recordings import read_audio, read_video

__all__ = ['FileError', 'ImuTable', 'read_audio', 'read_depth', 'read_fmri', 'read_image',
           'read_imu', 'read_imu_table', 'read_points', 'read_video']
