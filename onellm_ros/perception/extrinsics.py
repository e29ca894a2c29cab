"""Poses of the sensors: clouds and normals are brought into the robot's base frame.

A transform maps coordinates of a sensor's frame to the base frame: ``p_base = R p_sensor + t``,
metres, right-handed, axes as in REP-103 (base: x forward, y left, z up; optical: x right, y down,
z forward). This module owns the arithmetic, the tree of frames that a recording holds, and what
is done where no transform is known. It is NumPy alone: tf2 is asked in ``ros/frames.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import NodeConfig

OPTICAL = '_optical_frame'
OTHERS = '(other frames)'
_MOST_FRAMES = 32           # without a transform, that are counted by name
# (frame, stamp in ns) -> (transform to the base frame or None, why there is none; empty: not yet)
Lookup = Callable[[str, int], 'tuple[Transform | None, str]']


@dataclass(frozen=True, eq=False)
class Transform:
    """A rigid motion from one frame's coordinates to another's.

    :param rotation: float64 [3, 3], orthonormal. :param translation: float64 [3], metres.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def from_rpy(cls, xyz: Sequence[float], rpy: Sequence[float]) -> Transform:
        """Return the pose that URDF and static_transform_publisher write so.

        :param xyz: metres. :param rpy: radians about the fixed axes x, y, z, in this order.
        """
        return cls(Rotation.from_euler('xyz', rpy).as_matrix(), np.asarray(xyz, np.float64))

    @classmethod
    def from_message(cls, message: Any) -> Transform:
        """Return a geometry_msgs Transform (fields ``translation`` and ``rotation``).

        :raises ValueError: for a quaternion of length zero, or numbers that are not finite.
        """
        t, q = message.translation, message.rotation
        numbers = np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w], np.float64)
        if not np.isfinite(numbers).all() or not np.any(numbers[3:]):
            raise ValueError(f'found the transform {numbers.tolist()}, expected finite numbers '
                             'and a quaternion of length 1')
        return cls(Rotation.from_quat(numbers[3:]).as_matrix(), numbers[:3])

    def after(self, first: Transform) -> Transform:
        """Return the motion that does ``first`` and then this one."""
        return Transform(self.rotation @ first.rotation,
                         self.rotation @ first.translation + self.translation)

    def inverse(self) -> Transform:
        """Return the motion back."""
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)


IDENTITY = Transform(np.eye(3), np.zeros(3))
# REP-103: what an optical frame sees, in a frame at the same place with x forward and z up.
FROM_OPTICAL = Transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))


def moved(sample: Sample, modality: Modality, transform: Transform, frame: str) -> Sample:
    """Return a cloud or a map of normals in another frame; normals are only rotated.

    :param sample: of modality point (its columns from the fourth on stay) or normal.
    :param frame: name of the new frame.
    """
    data = sample.data
    rotation = transform.rotation.astype(data.dtype)
    if modality is Modality.POINT:
        out = data.copy()
        out[:, :3] = data[:, :3] @ rotation.T + transform.translation.astype(data.dtype)
    else:
        out = data @ rotation.T
    return replace(sample, data=out, frame_id=frame)


def bare(frame: str) -> str:
    """Return a frame's name without the slash that ROS 1 put before it."""
    return frame.lstrip('/')


class FrameTree:
    """The frames of a recording: the newest transform between each frame and its parent.

    For replays; on a running robot tf2 knows more (its past, and interpolation).
    """

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Transform]] = {}

    def add_message(self, message: Any) -> None:
        """Take a tf2_msgs TFMessage, of ``/tf_static`` or ``/tf``; unusable entries are left out.

        The fields are read by name, so messages of any origin will do.
        """
        for entry in message.transforms:
            try:
                pose = Transform.from_message(entry.transform)
            except ValueError:
                continue
            self.add(str(entry.header.frame_id), str(entry.child_frame_id), pose)

    def add(self, parent: str, child: str, pose: Transform) -> None:
        """Take the pose of a frame in its parent."""
        self._parents[bare(child)] = (bare(parent), pose)

    def _up(self, frame: str) -> dict[str, Transform]:
        """Return the transforms from a frame to all that are above it, itself included."""
        out = {frame: IDENTITY}
        while frame in self._parents:
            parent, pose = self._parents[frame]
            if parent in out:
                break  # a loop, which no robot has
            out[parent] = pose.after(out[frame])
            frame = parent
        return out

    def find(self, target: str, source: str) -> Transform | None:
        """Return how ``source``'s coordinates become ``target``'s; None: not connected."""
        up, own = self._up(bare(target)), self._up(bare(source))
        meeting = next((frame for frame in own if frame in up), None)
        return None if meeting is None else up[meeting].inverse().after(own[meeting])


class Placer:
    """Brings clouds, and normals where that is wanted, into the base frame.

    A transform is looked up first (tf2, or a recording's frames), then in the table of the
    settings. A cloud in an optical frame without either is turned as REP-103 says, so that up is
    up; any other comes as it is. Each of these is told, and counted by frame in ``missing`` (a
    driver that numbers its frames: all after the first 32 as one).

    :param warn: (kind, text), called each time; the caller says it once.
    :param lookup: see ``Lookup``; None: there is only the table.
    """

    def __init__(self, config: NodeConfig, warn: Callable[[str, str], None],
                 lookup: Lookup | None = None) -> None:
        self.base_frame = bare(config.base_frame)
        self.missing: Counter[str] = Counter()
        self._warn, self._lookup = warn, lookup
        self._normals = config.inputs.normals_frame == 'base'
        self._table = {bare(e.frame or e.name): Transform.from_rpy(e.xyz, e.rpy)
                       for e in config.extrinsics}

    def __call__(self, modality: Modality, sample: Sample) -> Sample:
        """Return a sample in the base frame, as far as that is known; others as they are."""
        frame = bare(sample.frame_id)
        if frame in ('', self.base_frame) or not (
                modality is Modality.POINT or (modality is Modality.NORMAL and self._normals)):
            return sample
        transform, why = self._find(frame, sample.stamp_ns)
        if transform is not None:
            return moved(sample, modality, transform, self.base_frame)
        kind = frame if frame in self.missing or len(self.missing) < _MOST_FRAMES else OTHERS
        self.missing[kind] += 1
        optical = modality is Modality.POINT and frame.endswith(OPTICAL)
        if why:
            done = 'turned from the optical axes (z forward) to x forward, z up, at the ' \
                   "sensor's place" if optical else 'used as it comes'
            self._warn(kind, f'no transform from {frame!r} to {self.base_frame!r} ({why}): '
                       f'{modality} is {done}; publish it on /tf_static, or name the frame in '
                       'the parameter extrinsics')
        if not optical:
            return sample
        return moved(sample, modality, FROM_OPTICAL, frame[:-len(OPTICAL)] + '_frame')

    def _find(self, frame: str, stamp_ns: int) -> tuple[Transform | None, str]:
        why = 'extrinsics do not name it'
        if self._lookup is not None:
            found, said = self._lookup(frame, stamp_ns)
            if found is not None:
                return found, ''
            why = f'{said}; {why}' if said else ''
        found = self._table.get(frame)
        return (found, '') if found is not None else (None, why)
