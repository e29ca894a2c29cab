"""What the picture node holds of the sensors: the newest message of each topic, and short traces.

This module owns which topics are listened to (those that the perception node reports, with the
type that their publishers send), turning messages into samples, and forgetting them. It listens
only between ``open`` and ``close``. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import time
from typing import Any

import cv2
from rclpy.node import Node

from onellm_ros.modality import Modality, Sample, parse_modality, spec_of
from onellm_ros.perception.sources import unfit
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ConversionError,
    ImuMerger,
    depth_sample,
    fmri_sample,
    image_sample,
    imu_parts,
    modality_of_message,
    normal_sample,
    point_sample,
)
from onellm_ros.ros.inputs import QUEUE
from onellm_ros.ros.message_copy import message_class
from onellm_ros.ros.once import Once
from onellm_ros.ros.picture_cameras import Cameras
from onellm_ros.ros.picture_normals import DerivedNormals
from onellm_ros.ros.subscriptions import FollowingSubscription

SECOND_NS = 1_000_000_000
# Whatever a malformed message does to a converter besides its own error, the node lives on.
MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError,
             cv2.error)
_MOST_TOPICS = 16
_FORGET_S = 30.0            # a topic that reports have not named for so long is left
_MOST_HELD = 20_000         # messages of a trace
_MOST_SOUND = 4_000_000     # samples of a trace
_LEAD_S = 1.0
_CONVERT = {Modality.IMAGE: image_sample, Modality.DEPTH: depth_sample,
            Modality.NORMAL: normal_sample, Modality.POINT: point_sample,
            Modality.FMRI: fmri_sample}
_COPIES = ('/compressed', '/compressedDepth')


class Trace:
    """Samples of the last seconds, oldest first; time that jumps back starts it anew."""

    def __init__(self) -> None:
        self.held: deque[Sample] = deque(maxlen=_MOST_HELD)
        self._numbers = 0

    def add(self, sample: Sample, seconds: float) -> None:
        """Take a sample and let go of what is more than ``seconds`` older than it."""
        held = self.held
        if held and sample.stamp_ns < held[-1].stamp_ns - SECOND_NS:
            self.clear()
        if len(held) == held.maxlen:
            self._drop()
        held.append(sample)
        self._numbers += sample.data.size
        oldest_ns = sample.stamp_ns - round(seconds * SECOND_NS)
        while len(held) > 1 and (self._end_ns(held[0]) < oldest_ns
                                 or self._numbers > _MOST_SOUND):
            self._drop()

    @staticmethod
    def _end_ns(sample: Sample) -> int:
        lasts_s = sample.data.size / sample.rate_hz if sample.rate_hz > 0 else 0.0
        return sample.stamp_ns + round(lasts_s * SECOND_NS)

    def _drop(self) -> None:
        self._numbers -= self.held.popleft().data.size

    def clear(self) -> None:
        """Forget everything."""
        self.held.clear()
        self._numbers = 0


@dataclass(eq=False)
class Feed:
    """One topic that is listened to.

    :param message: the newest one, until it is looked at; ``sample`` is what became of the newest
        usable one.
    :param heard_ns: when the newest message came, on the node's clock; None: none has come.
    """

    topic: str
    modality: Modality
    type_name: str
    subscription: FollowingSubscription | None = None
    decoder: AudioDecoder | None = None
    normals: DerivedNormals | None = None
    message: Any = None
    sample: Sample | None = None
    heard_ns: int | None = None


class PictureInputs:
    """Listens to the inputs of the perception node while it is open.

    :param audio: what audio bytes mean that do not say it.
    :param warn: says once what is wrong with a topic.
    :param trace_s: how long traces are, seconds; may change.
    :param cameras: which CameraInfo goes with depth that normals are made of.
    """

    def __init__(self, node: Node, audio: AudioFormat, warn: Once, trace_s: float,
                 cameras: Cameras) -> None:
        self._node, self._audio, self._warn, self.trace_s = node, audio, warn, trace_s
        self._cameras = cameras
        self._known: dict[str, tuple[Modality, float]] = {}
        self._with_normals: set[str] = set()    # depth topics that normals are made of
        self._reported_s = 0.0
        self._feeds: dict[str, Feed] = {}
        self._merger = ImuMerger()
        self._imu = Trace()
        self._sounds: dict[str, Trace] = {}
        self._lead, self._lead_s = '', 0.0
        self.is_open = False
        self.errors = 0
        self.last_error = ''

    @property
    def topics(self) -> list[str]:
        """Topics that are subscribed now."""
        return [f.topic for f in self._feeds.values() if f.subscription is not None]

    # -- what is listened to ------------------------------------------------------------------

    def expect(self, reports: Iterable[Any]) -> None:
        """Learn from a message's ModalityReports which topics there are.

        Normals that are computed from depth name the depth's topic: depth it stays.
        """
        now_s = self._reported_s = time.monotonic()
        for report in reports:
            try:
                modality = parse_modality(report.modality)
            except ValueError as error:
                self._warn(report.modality, f'{error}; it is not shown')
                continue
            if modality is Modality.VIDEO:
                modality = Modality.IMAGE
            for topic in report.topics:
                before = self._known.get(topic)
                if before is None and len(self._known) >= _MOST_TOPICS:
                    self._warn(topic, f'not shown: {_MOST_TOPICS} topics are shown at most')
                elif before is not None and before[0] is Modality.DEPTH:
                    self._known[topic] = (Modality.DEPTH, now_s)
                    if modality is Modality.NORMAL:
                        self._with_normals.add(topic)
                else:
                    self._known[topic] = (modality, now_s)

    def open(self) -> None:
        """Begin to listen."""
        self.is_open = True
        self.follow()

    def close(self) -> None:
        """End the subscriptions and forget the messages; the topics stay known."""
        self.is_open = False
        for topic in list(self._feeds):
            self._leave(topic)
        self._cameras.close()
        self.clear()

    def clear(self) -> None:
        """Forget all messages, as after a jump of time."""
        for feed in self._feeds.values():
            feed.message = feed.sample = feed.heard_ns = None
            if feed.decoder is not None:
                feed.decoder = AudioDecoder(self._audio)
        self._merger.clear()
        self._imu.clear()
        self._sounds.clear()
        self._lead = ''

    def follow(self) -> None:
        """Subscribe to what is known and not subscribed yet, and leave what is gone; if open."""
        if not self.is_open:
            return
        for topic, (modality, seen_s) in list(self._known.items()):
            if self._reported_s - seen_s > _FORGET_S:
                del self._known[topic]
        for topic, feed in list(self._feeds.items()):
            if self._known.get(topic, (None,))[0] is not feed.modality:
                self._leave(topic)
        for topic, (modality, _) in self._known.items():
            if topic not in self._feeds and not self._is_copy(topic, modality):
                self._listen(topic, modality)
        made_of = [feed for topic, feed in self._feeds.items()
                   if topic in self._with_normals and feed.modality is Modality.DEPTH]
        if made_of:
            self._cameras.poll()
        for feed in made_of:
            camera = self._cameras.of(feed.topic)
            if feed.normals is not None and feed.normals.topic != camera:
                feed.normals.close()
                feed.normals = None
            if feed.normals is None:
                feed.normals = DerivedNormals(self._node, camera, self._warn)

    def _is_copy(self, topic: str, modality: Modality) -> bool:
        """Tell whether a topic is the compressed copy of another one that is shown."""
        return any(topic.endswith(c) and self._known.get(topic.removesuffix(c), (None,))[0]
                   is modality for c in _COPIES)

    def _leave(self, topic: str) -> None:
        feed = self._feeds.pop(topic)
        self._sounds.pop(topic, None)
        if feed.subscription is not None:
            feed.subscription.close()
            feed.subscription = None
        if feed.normals is not None:
            feed.normals.close()
            feed.normals = None

    def _listen(self, topic: str, modality: Modality) -> None:
        """Subscribe to a topic if somebody publishes something usable on it."""
        found = sorted({p.topic_type for p in self._node.get_publishers_info_by_topic(topic)})
        for name in found:
            try:
                kind = message_class(name)
            except ImportError as error:
                self._warn(topic, f'found the type {name}, which is not installed here ({error}); '
                           'install its package to see it')
                continue
            if unfit(modality, name, kind.get_fields_and_field_types()):
                continue
            feed = Feed(topic, modality, name,
                        decoder=AudioDecoder(self._audio) if modality is Modality.AUDIO else None)
            self._feeds[topic] = feed
            feed.subscription = FollowingSubscription(
                self._node, kind, topic, lambda message: self._take(feed, message), self._warn,
                depth=QUEUE.get(modality, 1))
            return
        if found:
            self._warn(topic, f'found {", ".join(found)}, expected messages of {modality}; it is '
                       'not shown')

    def poll(self) -> None:
        """Follow publishers that come and go; call some 20 times a second."""
        for feed in list(self._feeds.values()):
            if feed.subscription is not None:
                feed.subscription.poll()
            if feed.normals is not None:
                feed.normals.poll()

    # -- messages -----------------------------------------------------------------------------

    def _refuse(self, topic: str, error: BaseException) -> None:
        """Count a message that cannot be used, and say it once."""
        text = str(error) if isinstance(error, ConversionError) else \
            f'malformed message: {type(error).__name__}: {error}'
        self.errors += 1
        self.last_error = f'{topic}: {text}'
        self._warn(topic, text)

    def _take(self, feed: Feed, message: Any) -> None:
        """Hold a message; those of traces are converted at once, the others when looked at."""
        now_ns = self._node.get_clock().now().nanoseconds
        feed.heard_ns = now_ns
        if feed.modality not in (Modality.IMU, Modality.AUDIO):
            feed.message = message
            return
        try:
            samples = self._imu_samples(feed, message) if feed.modality is Modality.IMU \
                else self._audio_samples(feed, message, now_ns)
        except MALFORMED as error:
            self._refuse(feed.topic, error)
            return
        trace = self._imu if feed.modality is Modality.IMU else \
            self._sounds.setdefault(feed.topic, Trace())
        for sample in samples:
            trace.add(sample if sample.stamp_ns else replace(sample, stamp_ns=now_ns),
                      self.trace_s)

    def _imu_samples(self, feed: Feed, message: Any) -> Sequence[Sample]:
        """Return what an Imu message completes.

        Of several whole IMUs the first one is shown; parts on topics of their own are merged.
        """
        parts, now_s = imu_parts(message), time.monotonic()
        whole = parts.accelerometer is not None and parts.gyroscope is not None \
            and not parts.gyroscope_zero
        led = bool(self._lead) and now_s - self._lead_s < _LEAD_S
        if led and feed.topic != self._lead:
            return ()
        if whole:
            self._lead, self._lead_s = feed.topic, now_s
        return self._merger.add(message, feed.topic)

    def _audio_samples(self, feed: Feed, message: Any, now_ns: int) -> Sequence[Sample]:
        assert feed.decoder is not None
        sample = feed.decoder.add(message, now_ns, feed.topic)
        return () if sample is None else (sample,)

    def _looked_at(self, feed: Feed) -> Sample | None:
        """Return the newest usable sample of a topic."""
        message, feed.message = feed.message, None
        if message is None:
            return feed.sample
        modality = feed.modality
        try:
            if modality is Modality.NORMAL and modality_of_message(
                    feed.type_name, feed.topic, message) is Modality.DEPTH:
                modality = feed.modality = Modality.DEPTH   # the normals are made of it
                self._with_normals.add(feed.topic)
                self._known[feed.topic] = (modality, self._reported_s)
            spec = spec_of(modality)
            convert = _CONVERT[modality] if spec is None else spec.converter()
            feed.sample = convert(message, topic=feed.topic)
        except MALFORMED as error:
            self._refuse(feed.topic, error)
        return feed.sample

    # -- what is shown ------------------------------------------------------------------------

    def samples(self, camera: str = '') -> dict[Modality, list[Sample]]:
        """Return what is to be shown, by modality.

        :param camera: topic whose picture comes first; empty: the first reported.
        """
        out: dict[Modality, list[Sample]] = {}
        order = [t for t in self._known if t in self._feeds]
        if camera:
            order.sort(key=lambda topic: topic != camera)
        for topic in order:
            feed = self._feeds[topic]
            sample = self._looked_at(feed)
            if sample is not None:
                out.setdefault(feed.modality, []).append(sample)
                normals = feed.normals.of(sample) if feed.normals is not None else None
                if normals is not None:
                    out.setdefault(Modality.NORMAL, []).append(normals)
        if self._imu.held:
            out[Modality.IMU] = list(self._imu.held)
        sounds = [sample for topic in order if topic in self._sounds
                  for sample in self._sounds[topic].held]
        if sounds:
            out[Modality.AUDIO] = sounds
        return out

    def silent_s(self, longer_than_s: float) -> dict[str, float]:
        """Return for how long the topics have been silent that stopped, on the node's clock."""
        now_ns = self._node.get_clock().now().nanoseconds
        ages = {f.topic: (now_ns - f.heard_ns) / SECOND_NS for f in self._feeds.values()
                if f.heard_ns is not None}
        return {topic: age for topic, age in ages.items() if age > longer_than_s}
