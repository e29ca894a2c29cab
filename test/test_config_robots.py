"""Where the robots' parameter files put what their drivers see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy')

from onellm_ros.perception.extrinsics import Transform  # noqa: E402
from onellm_ros.perception.settings import config_of  # noqa: E402
from onellm_ros.ros.up_params import read_params_file  # noqa: E402

# The frames of each driver's clouds, as its sources name them with the options in the file's end
# and in its comments.
CLOUD_FRAMES = {
    'car_lidar_camera': ['velodyne'],
    'oak_d': ['oak_rgb_camera_optical_frame'],
    # realsense2_camera: the colour camera's with align_depth, the depth camera's without
    'realsense_d435i': ['camera_color_optical_frame', 'camera_depth_optical_frame'],
    'turtlebot4': [],
}


@pytest.mark.parametrize('name', CLOUD_FRAMES)
def test_clouds_can_be_placed_without_tf2(root: Path, name: str) -> None:
    config = config_of(read_params_file(root / 'config' / 'robots' / f'{name}.yaml'))
    placed = {e.frame: Transform.from_rpy(e.xyz, e.rpy) for e in config.extrinsics}
    assert bool(CLOUD_FRAMES[name]) == any(s.modality == 'point' for s in config.sources)
    for frame in CLOUD_FRAMES[name]:
        assert frame in placed, f'{name}: a cloud in {frame} would not be placed'
    for frame, transform in placed.items():
        ahead = np.array([0.0, 0, 1] if 'optical' in frame else [1.0, 0, 0])
        np.testing.assert_allclose(transform.rotation @ ahead, [1, 0, 0], atol=1e-5,
                                   err_msg=f'{name}: {frame} does not look ahead')
