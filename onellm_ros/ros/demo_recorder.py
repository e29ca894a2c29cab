"""Keeps the newest sensor messages, so that one window of them can be shown in a picture.

This module owns which topics are recorded and which of the messages a description was made from:
its reports name the stamps. Messages are kept as they came and converted only for the picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from onellm_msgs.msg import AudioChunk, Description, ModalityReport
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2
from std_msgs.msg import Float32MultiArray

from onellm_ros.modality import Modality, Sample, parse_modality
from onellm_ros.ros import conversions as convert
from onellm_ros.ros.message_fields import stamp_ns

SECOND_NS = 1_000_000_000
_RESTAMPED_NS = SECOND_NS // 2       # the node stamps by its own time of receipt: not exactly ours


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
    return [
        _Input('image', Image, Modality.IMAGE, convert.image_sample),
        _Input('image/compressed', CompressedImage, Modality.IMAGE,
               convert.compressed_image_sample),
        _Input('camera_info', CameraInfo, None, None),
        _Input('depth', Image, Modality.DEPTH, convert.depth_sample),
        _Input('normal', Image, Modality.NORMAL, convert.normal_sample),
        _Input('points', PointCloud2, Modality.POINT, convert.point_sample),
        _Input('imu', Imu, Modality.IMU, None, 3.0, 8000),
        _Input('audio', AudioChunk, Modality.AUDIO, convert.audio_sample, 11.5, 3000),
        _Input('fmri', Float32MultiArray, Modality.FMRI, convert.fmri_sample, 5.0)]


class Recorder:
    """Subscribes to the inputs of the perception node until it is stopped."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.first_ns: int | None = None
        self.inputs = _inputs()
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscriptions = [
            node.create_subscription(i.kind, i.topic, lambda m, i=i: self._take(i, m), qos)
            for i in self.inputs]

    def _take(self, source: _Input, message: Any) -> None:
        stamp = (stamp_ns(message) if hasattr(message, 'header') else 0) \
            or self._node.get_clock().now().nanoseconds
        if self.first_ns is None or (source.kept and stamp < source.kept[-1][0] - SECOND_NS):
            self.first_ns = stamp
        source.kept.append((stamp, message))
        while len(source.kept) > source.most:
            source.kept.popleft()

    def release(self, end_ns: int) -> None:
        """Forget what no window that ends at ``end_ns`` or later needs."""
        for item in self.inputs:
            oldest = end_ns - round(item.seconds * SECOND_NS)
            while item.kept and item.kept[0][0] < oldest and item.modality is not None:
                item.kept.popleft()

    def stop(self) -> None:
        """End the subscriptions; what was recorded stays."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def seconds_before(self, end_ns: int) -> float:
        """Return for how long before ``end_ns`` there are recordings."""
        return 0.0 if self.first_ns is None else (end_ns - self.first_ns) / SECOND_NS

    def chosen(self, description: Description) -> dict[Modality, list[Sample]]:
        """Return the samples that a description was made from, as far as they were recorded."""
        out: dict[Modality, list[Sample]] = {}
        for report in description.modalities:
            modality = parse_modality(report.modality)
            samples = self._samples(modality, report)
            if modality is Modality.NORMAL and not samples:
                samples = _normals(out.get(Modality.DEPTH, []))
            if samples:
                out[modality] = samples
        if Modality.DEPTH in out and Modality.NORMAL not in out:
            normals = _normals(out[Modality.DEPTH])
            out.update({Modality.NORMAL: normals} if normals else {})
        return out

    def _samples(self, modality: Modality, report: ModalityReport) -> list[Sample]:
        source = Modality.IMAGE if modality is Modality.VIDEO else modality
        first, last = stamp_ns(report.first_stamp), stamp_ns(report.last_stamp)
        found: list[Sample] = []
        for item in self.inputs:
            if item.modality is source:
                found += _converted(item, first, last)
        if source in (Modality.IMAGE, Modality.DEPTH):
            camera = self._intrinsics()
            found = [s if s.intrinsics or camera is None or s.data.shape[:2] != camera[0]
                     else replace(s, intrinsics=camera[1]) for s in found]
        found.sort(key=lambda s: s.stamp_ns)
        one = modality not in (Modality.VIDEO, Modality.IMU, Modality.AUDIO)
        return found[-report.count:] if one and report.count else found

    def _intrinsics(self) -> tuple[tuple[int, int], tuple[float, float, float, float]] | None:
        info = next(i for i in self.inputs if i.modality is None)
        if not info.kept:
            return None
        message = info.kept[-1][1]
        try:
            return (message.height, message.width), convert.intrinsics(message)
        except convert.ConversionError:
            return None                  # an uncalibrated camera has no normals to show


def _converted(item: _Input, first: int, last: int) -> list[Sample]:
    """Return the samples of a topic from ``first`` to ``last``; what is unusable is left out."""
    merger = convert.ImuMerger()
    out: list[Sample] = []
    for stamp, message in list(item.kept):
        try:
            samples = merger.add(message) if item.sample is None else [item.sample(message)]
        except convert.ConversionError:
            continue                     # the node has warned of it
        for sample in samples:
            slack = 0 if sample.stamp_ns else _RESTAMPED_NS
            at = sample.stamp_ns or stamp
            if first - slack <= at <= last + slack:
                label = getattr(getattr(message, 'layout', None), 'dim', None)
                frame = sample.frame_id or (label[0].label if label else '')
                out.append(replace(sample, stamp_ns=at, frame_id=frame))
    return out


def _normals(depth: list[Sample]) -> list[Sample]:
    """Return surface normals of the newest depth picture, if its camera is known."""
    newest = depth[-1] if depth else None
    if newest is None or newest.intrinsics is None:
        return []
    from onellm_ros.preprocess.depth import normals_from_depth  # torch: seconds at the start
    return [replace(newest, data=normals_from_depth(newest.data, newest.intrinsics, step=3))]
