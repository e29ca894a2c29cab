"""Surface normals that the perception node computes from depth, computed again for the picture.

This module owns listening to the depth camera's CameraInfo (``picture_cameras.py`` finds it) and
a fast, coarse computation; the model's own is ``preprocess/depth.py``, which needs torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from onellm_ros.modality import Sample
from onellm_ros.ros.conversions import ConversionError, intrinsics, intrinsics_at
from onellm_ros.ros.once import Once
from onellm_ros.ros.subscriptions import FollowingSubscription

_ROWS = 160                 # of the picture that normals are computed for, about
EDGE_JUMP = 0.05            # relative depth difference of neighbours that counts as an edge


def normals_of(depth: np.ndarray, camera: tuple[float, float, float, float]) -> np.ndarray:
    """Return the surface normals of a depth picture, coarsely.

    :param depth: [H, W] metres along the optical axis, NaN = no measurement.
    :param camera: (fx, fy, cx, cy) in pixels of this picture.
    :returns: float32 [h, w, 3] unit vectors towards the camera in its optical frame, of about 160
        rows; NaN where nothing was measured and at edges.
    """
    step = max(1, depth.shape[0] // _ROWS)
    fx, fy, cx, cy = camera
    z = depth[::step, ::step].astype(np.float32)
    v, u = (np.arange(n, dtype=np.float32) * step for n in z.shape)
    points = np.stack([(u[None, :] - cx) / fx * z, (v[:, None] - cy) / fy * z, z], axis=-1)
    out = np.full(points.shape, np.nan, np.float32)
    if min(z.shape) < 3:
        return out
    inner = points[1:-1, 1:-1]
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(across, down)
    with np.errstate(invalid='ignore', divide='ignore'):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        away = (normal * inner).sum(axis=-1) > 0
        normal[away] *= -1
        jump = np.maximum(np.abs(across[..., 2]), np.abs(down[..., 2]))
        normal[~(jump <= 2 * step * EDGE_JUMP * inner[..., 2])] = np.nan
    out[1:-1, 1:-1] = normal
    return out


class DerivedNormals:
    """Normals of the pictures of one depth topic, once its CameraInfo has come.

    :param topic: of the CameraInfo. :param warn: says once what is wrong.
    """

    def __init__(self, node: Node, topic: str, warn: Once) -> None:
        self.topic = topic
        self._warn = warn
        self._camera: tuple[tuple[int, int], tuple[float, float, float, float]] | None = None
        self._made: tuple[Sample, Sample] | None = None
        self._subscription = FollowingSubscription(
            node, CameraInfo, topic, self._take, warn, may_latch=True, depth=1)

    def _take(self, message: Any) -> None:
        try:
            camera = (int(message.height), int(message.width)), intrinsics(message)
        except ConversionError as error:
            self._warn(self.topic, str(error))
            return
        if camera != self._camera:
            self._camera, self._made = camera, None

    def of(self, depth: Sample) -> Sample | None:
        """Return the normals of a depth sample; None while the camera is not known."""
        if self._camera is None:
            return None
        if self._made is not None and self._made[0] is depth:
            return self._made[1]
        camera = intrinsics_at(*self._camera, depth.data.shape)
        if camera is None:
            (height, width), (high, wide) = self._camera[0], depth.data.shape
            self._warn(self.topic, f'found a CameraInfo of {width} x {height} pixels beside '
                       f'depth of {wide} x {high}; expected the same proportions; no normals are '
                       'shown')
            return None
        made = replace(depth, data=normals_of(depth.data, camera))
        self._made = depth, made
        return made

    def poll(self) -> None:
        """Follow publishers that come and go."""
        self._subscription.poll()

    def close(self) -> None:
        """End the subscription."""
        self._subscription.close()
