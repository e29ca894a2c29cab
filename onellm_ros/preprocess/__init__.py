"""From canonical sensor data (``modality.py``) to the tensors that the model reads.

One function a modality, used alike by live windows, files, evaluation and training, and
:class:`Preprocessor`, which applies them to what a window holds.
"""

from onellm_ros.preprocess.audio import audio_tensor, join_chunks, kaldi_fbank, resample
from onellm_ros.preprocess.depth import (
    depth_picture,
    depth_tensor,
    normal_picture,
    normal_tensor,
    normals_from_depth,
)
from onellm_ros.preprocess.errors import NoMeasurementError, PreprocessError
from onellm_ros.preprocess.image import denormalise, image_tensor, normalise, video_tensor
from onellm_ros.preprocess.imu import imu_tensor, resample_imu, standardise_imu
from onellm_ros.preprocess.points import merge_clouds, point_tensor
from onellm_ros.preprocess.preprocessor import Preprocessor, Tensors, fmri_tensor

__all__ = [
    'NoMeasurementError', 'PreprocessError', 'Preprocessor', 'Tensors', 'audio_tensor',
    'denormalise', 'depth_picture', 'depth_tensor', 'fmri_tensor', 'image_tensor', 'imu_tensor',
    'join_chunks', 'kaldi_fbank', 'merge_clouds', 'normal_picture', 'normal_tensor',
    'normalise', 'normals_from_depth', 'point_tensor', 'resample', 'resample_imu',
    'standardise_imu', 'video_tensor']
