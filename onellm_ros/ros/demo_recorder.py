"""Which samples a description was made from, so that they can be shown in a picture.

This module owns the choice by the stamps that a description reports, and the recorder that keeps
the newest sensor messages as they came; they are converted only for the picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onellm_msgs.msg import AudioChunk, Description
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2
from std_msgs.msg import Float32MultiArray

from onellm_ros.modality import Modality, Sample, parse_modality
from onellm_ros.ros import conversions as convert
from onellm_ros.ros.message_fields import stamp_ns

SECOND_NS = 1_000_000_000
_RESTAMPED_NS = SECOND_NS // 2       # voxels have no stamp: theirs is the time of receipt
_MANY = (Modality.VIDEO, Modality.IMU, Modality.AUDIO)


def shown_samples(description: Description, recorded: Mapping[Modality, Sequence[Sample]]
                  ) -> dict[Modality, list[Sample]]:
    """Return the samples that a description was made from, as far as they were recorded.

    Normals that were not measured are computed from the depth picture if its camera is known.

    :param recorded: samples by modality (those of the image serve the video too), by stamp.
    """
    out: dict[Modality, list[Sample]] = {}
    for report in description.modalities:
        modality = parse_modality(report.modality)
        source = Modality.IMAGE if modality is Modality.VIDEO else modality
        slack = _RESTAMPED_NS if modality is Modality.FMRI else 0
        first, last = stamp_ns(report.first_stamp), stamp_ns(report.last_stamp)
        found = [s for s in recorded.get(source, ())
                 if first - slack <= s.stamp_ns <= last + slack]
        if modality not in _MANY:
            found = found[-max(1, report.count):]
        if found:
            out[modality] = found
    if Modality.NORMAL not in out:
        normals = _normals(out.get(Modality.DEPTH, []))
        out.update({Modality.NORMAL: normals} if normals else {})
    return out


def span_of(description: Description) -> tuple[int, int]:
    """Return the stamps of the oldest and the newest sample that a description was made from."""
    return (min(stamp_ns(r.first_stamp) for r in description.modalities),
            max(stamp_ns(r.last_stamp) for r in description.modalities))


def _normals(depth: list[Sample]) -> list[Sample]:
    """Return surface normals of the newest depth picture, if its camera is known."""
    newest = depth[-1] if depth else None
    if newest is None or newest.intrinsics is None:
        return []
    from onellm_ros.preprocess.depth import normals_from_depth  # torch: seconds at the start
    return [replace(newest, data=normals_from_depth(newest.data, newest.intrinsics, step=3))]


@dataclass(eq=False)
class _Input:
    """One recorded topic.

    :param seconds: how far before a window's end the model looks back at most.
    :param most: messages kept at most, for a model that takes long.
    :param kept: (stamp, message) pairs, oldest first.
    """

    topic: str
    kind: Any
    modality: Modality | None
    sample: Callable[[Any], Sample] | None
    seconds: float = 2.6
    most: int = 150
    kept: deque[tuple[int, Any]] = field(default_factory=deque)


def _inputs() -> list[_Input]:
    """Return the topics of the simulated robot."""
    return [
        _Input('image', Image, Modality.IMAGE, convert.image_sample),
        _Input('camera_info', CameraInfo, None, None),
        _Input('depth', Image, Modality.DEPTH, convert.depth_sample),
        _Input('normal', Image, Modality.NORMAL, convert.normal_sample),
        _Input('points', PointCloud2, Modality.POINT, convert.point_sample),
        _Input('imu', Imu, Modality.IMU, convert.imu_sample, 3.0, 8000),
        _Input('audio', AudioChunk, Modality.AUDIO, convert.audio_sample, 11.5, 3000),
        _Input('fmri', Float32MultiArray, Modality.FMRI, convert.fmri_sample, 5.0)]


class Recorder:
    """Subscribes to the sensors of the simulated robot until it is stopped."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._first_ns: int | None = None
        self._inputs = _inputs()
        # reliable: best effort loses most large pictures where the machine is busy
        qos = QoSProfile(depth=400)
        self._subscriptions = [
            node.create_subscription(i.kind, i.topic, lambda m, i=i: self._take(i, m), qos)
            for i in self._inputs]

    def _take(self, source: _Input, message: Any) -> None:
        stamp = (stamp_ns(message) if hasattr(message, 'header') else 0) \
            or self._node.get_clock().now().nanoseconds
        if self._first_ns is None:
            self._first_ns = stamp
        source.kept.append((stamp, message))
        while len(source.kept) > source.most:
            source.kept.popleft()

    def release(self, end_ns: int) -> None:
        """Forget what no window that ends at ``end_ns`` or later needs."""
        for item in self._inputs:
            oldest = end_ns - round(item.seconds * SECOND_NS)
            while item.modality is not None and item.kept and item.kept[0][0] < oldest:
                item.kept.popleft()

    def stop(self) -> None:
        """End the subscriptions; what was recorded stays."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def seconds_before(self, end_ns: int) -> float:
        """Return for how long before ``end_ns`` there are recordings."""
        return 0.0 if self._first_ns is None else (end_ns - self._first_ns) / SECOND_NS

    def samples(self) -> dict[Modality, list[Sample]]:
        """Return what was recorded, by modality and stamp; the unusable is left out."""
        camera = self._intrinsics()
        out: dict[Modality, list[Sample]] = {}
        for item in self._inputs:
            if item.modality is None or item.sample is None:
                continue
            for stamp, message in item.kept:
                try:
                    sample = item.sample(message)
                except convert.ConversionError:
                    continue             # the perception node has warned of it
                if item.modality is Modality.FMRI:
                    dims = message.layout.dim
                    sample = replace(sample, stamp_ns=stamp,
                                     frame_id=dims[0].label if dims else '')
                elif camera is not None and sample.data.shape[:2] == camera[0]:
                    sample = replace(sample, intrinsics=camera[1])
                out.setdefault(item.modality, []).append(sample)
        return out

    def _intrinsics(self) -> tuple[tuple[int, int], tuple[float, float, float, float]] | None:
        info = next(i for i in self._inputs if i.modality is None)
        if not info.kept:
            return None
        message = info.kept[-1][1]
        return (message.height, message.width), convert.intrinsics(message)
