"""The node's inputs: what they bring is converted and handed to the synchronizer.

This module owns what is subscribed (``subscriptions.py`` owns how), what a stamp of zero means,
counting and naming what is wrong with messages, and each input's health. What becomes of
windows is the business of its caller. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2
from std_msgs.msg import Float32MultiArray

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import InputConfig, NodeConfig
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ConversionError,
    ImuMerger,
    compressed_image_sample,
    depth_sample,
    fmri_sample,
    image_sample,
    intrinsics,
    normal_sample,
    point_sample,
)
from onellm_ros.ros.once import Once
from onellm_ros.ros.registered_inputs import message_class, registered
from onellm_ros.ros.subscriptions import FollowingSubscription, type_name
from onellm_ros.synchronizer import Synchronizer
from onellm_ros.windows import StreamSpec, Window, WindowSpec

SECOND_NS = 1_000_000_000
# Whatever a malformed message does to a converter besides its own error, the node lives on.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
# Streams in order of rank: the first one that speaks is the reference for the clock. Those of
# registered modalities come behind (``registered_inputs.add_streams``).
STREAMS: dict[str, Modality] = {
    'image': Modality.IMAGE, 'depth': Modality.DEPTH, 'normal': Modality.NORMAL,
    'points': Modality.POINT, 'imu': Modality.IMU, 'audio': Modality.AUDIO,
    'fmri': Modality.FMRI}
# Messages held at most: (within the window, in the lookback) a second.
_RATES = {Modality.IMAGE: (120, 10), Modality.DEPTH: (120, 0), Modality.NORMAL: (120, 0),
          Modality.POINT: (50, 0), Modality.IMU: (2000, 2000), Modality.AUDIO: (200, 200),
          Modality.FMRI: (100, 0)}
CAMERA_INFO = 'camera_info'
_STALL_S = 0.25
_QUEUE = {Modality.IMU: 200, Modality.AUDIO: 100}


def window_spec(config: NodeConfig, streams: Collection[str],
                lookback_ns: Callable[[Modality], int]) -> WindowSpec:
    """Return how windows are cut from the node's streams.

    :param lookback_ns: how far a modality reaches back before a window's end.
    :raises ConfigError: for a required input that is not among the streams.
    """
    window = config.window
    strangers = set(window.required) - {STREAMS[s].value for s in streams}
    if strangers:
        raise ConfigError(f'window.required: found {sorted(strangers)[0]!r}, expected some of '
                          f'{sorted(STREAMS[s].value for s in streams)}, which the model is shown')
    specs = []
    for name in STREAMS:
        if name not in streams:
            continue
        modality = STREAMS[name]
        back_ns = lookback_ns(modality)
        inside, behind = _RATES.get(modality, (50, 0))
        held_s = window.length_s + window.period_s + window.silence_s
        capacity = int(inside * held_s + behind * back_ns / SECOND_NS) + 16
        specs.append(StreamSpec(name, modality, modality.value in window.required, back_ns,
                                capacity, SECOND_NS // 10 if modality is Modality.IMAGE else 0))

    def ns(seconds: float) -> int:
        return round(seconds * SECOND_NS)
    return WindowSpec(tuple(specs), ns(window.length_s), ns(window.period_s),
                      ns(window.lateness_s), ns(window.deadline_s), ns(window.silence_s))


@dataclass(eq=False)
class Source:
    """One subscribed topic: how its messages become samples, and how it does.

    :param convert: (message, time of receipt) -> samples.
    :param errors: messages that could not be used; ``last_error`` says why the last one could not.
    """

    stream: str
    topic: str
    type: Any
    convert: Callable[[Any, int], list[Sample]]
    received: int = 0
    errors: int = 0
    last_error: str = ''
    error_s: float = 0.0
    arrival_s: float = 0.0
    counted: int = 0
    subscription: FollowingSubscription | None = None


@dataclass(frozen=True)
class Health:
    """How one input does.

    :param rate_hz: messages a second since the last look; ``age_s``: since the newest one, None if
        there was none.
    :param lost: samples that were late, duplicates or too many.
    :param error_age_s: since the newest message that could not be used; None if there was none.
    :param mistyped: publishers are there, and all of them send another type: which and expected.
    :param qos: how the topics are subscribed.
    """

    stream: str
    topics: tuple[str, ...]
    publishers: int
    received: int
    rate_hz: float
    age_s: float | None
    late: int
    lost: int
    errors: int
    last_error: str
    offset_s: float = 0.0
    foreign: bool = False
    error_age_s: float | None = None
    mistyped: str = ''
    qos: str = ''


class Inputs:
    """Subscribes while it exists; call :meth:`poll` some 20 times a second, :meth:`close` to end.

    :param streams: names of ``STREAMS`` to subscribe to.
    :param on_window: called with each window that closes.
    :param on_jump: called when time jumped back.
    :raises ConfigError: for settings that do not fit.
    """

    def __init__(self, node: Node, config: NodeConfig, spec: WindowSpec,
                 on_window: Callable[[Window], None], on_jump: Callable[[], None]) -> None:
        self._node = node
        self._config: InputConfig = config.inputs
        self._on_window = on_window
        self._on_jump = on_jump
        self.synchronizer = Synchronizer(spec)
        self.enabled = True
        self.warn = Once(node.get_logger().warning)
        self._camera: tuple[tuple[int, int], tuple[float, float, float, float]] | None = None
        self._imu = ImuMerger()
        self._polled_s, self._stalled = time.monotonic(), False
        self._looked_s = time.monotonic()
        names = [s.name for s in spec.streams]
        self.sources = [s for s in self._make_sources() if s.stream in names]
        self._camera_source: Source | None = None
        if {'image', 'depth'} & set(names):
            self._camera_source = Source(CAMERA_INFO, node.resolve_topic_name('camera_info'),
                                         CameraInfo, self._camera_info)
        self._subscriptions = [self._subscribe(s) for s in self._all_sources()]

    def _all_sources(self) -> list[Source]:
        return [*self.sources, *([self._camera_source] if self._camera_source else [])]

    def _make_sources(self) -> list[Source]:
        try:
            audio = AudioDecoder(AudioFormat(self._config.audio_rate_hz,
                                             self._config.audio_channels,
                                             self._config.audio_format))
        except ConversionError as error:
            raise ConfigError(f'inputs.audio_*: {error}') from error

        def one(function: Callable[..., Sample], topic: str) -> Callable[[Any, int], list[Sample]]:
            return lambda message, _: [function(message, topic=topic)]

        def decoded(topic: str) -> Callable[[Any, int], list[Sample]]:
            def convert(message: Any, receive_ns: int) -> list[Sample]:
                sample = audio.add(message, receive_ns, topic)
                return [] if sample is None else [sample]
            return convert

        table: list[tuple[str, str, Any, Callable[[str], Callable[[Any, int], list[Sample]]]]] = [
            ('image', 'image', Image, lambda t: one(image_sample, t)),
            ('image', 'image/compressed', CompressedImage,
             lambda t: one(compressed_image_sample, t)),
            ('depth', 'depth', Image, lambda t: one(depth_sample, t)),
            ('depth', 'depth/compressedDepth', CompressedImage, lambda t: one(depth_sample, t)),
            ('normal', 'normal', Image, lambda t: one(normal_sample, t)),
            ('points', 'points', PointCloud2, lambda t: one(point_sample, t)),
            ('imu', 'imu', Imu, lambda t: lambda message, _: self._imu.add(message, t)),
            ('audio', 'audio', message_class(self._config.audio_type), decoded),
            ('fmri', 'fmri', Float32MultiArray, lambda t: one(fmri_sample, t)),
            *((name, name, kind, partial(one, function))
              for name, kind, function in registered(STREAMS))]
        out = []
        for stream, name, kind, make in table:
            topic = self._node.resolve_topic_name(name)
            out.append(Source(stream, topic, kind, make(topic)))
        return out

    def _subscribe(self, source: Source) -> FollowingSubscription:
        modality = STREAMS.get(source.stream, Modality.IMAGE)
        source.subscription = FollowingSubscription(
            self._node, source.type, source.topic,
            lambda message: self._receive(source, message),
            lambda topic, text: self.warn(topic, text), choice=self._config.reliability,
            may_latch=source.stream == CAMERA_INFO, depth=_QUEUE.get(modality, 10))
        return source.subscription

    def close(self) -> None:
        """End the subscriptions and forget the samples."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()
        self.synchronizer = Synchronizer(self.synchronizer.spec)

    def restart(self) -> None:
        """Forget what is held (after a pause)."""
        self.synchronizer = Synchronizer(self.synchronizer.spec)
        self._imu.clear()

    # -- messages -----------------------------------------------------------------------------

    def _receive(self, source: Source, message: Any) -> None:
        """Convert a message, hand its samples to the synchronizer and pass windows on."""
        if not self.enabled:
            return
        source.received += 1
        source.arrival_s = time.monotonic()
        receive_ns = self._node.get_clock().now().nanoseconds
        try:
            samples = source.convert(message, receive_ns)
        except ConversionError as error:
            self._refuse(source, str(error))
            return
        except _MALFORMED as error:
            self._refuse(source, f'malformed message: {type(error).__name__}: {error}')
            return
        for sample in samples:
            stamped = self._stamped(source, message, sample, receive_ns)
            if stamped is not None:
                self._add(source.stream, stamped)

    def _add(self, stream: str, sample: Sample) -> None:
        if sample.intrinsics is None and stream in ('image', 'depth') and self._camera is not None:
            found = self._intrinsics_for(sample.data.shape[:2])
            if found is not None:
                sample = replace(sample, intrinsics=found)
        restarts = self.synchronizer.restarts
        windows = self.synchronizer.add(stream, sample, time.monotonic_ns())
        if self.synchronizer.restarts != restarts:
            self._on_jump()
        self._deliver(windows)

    def _refuse(self, source: Source, text: str) -> None:
        source.errors += 1
        source.error_s = time.monotonic()
        source.last_error = text
        self.warn(source.topic, text)

    def _stamped(self, source: Source, message: Any, sample: Sample, receive_ns: int
                 ) -> Sample | None:
        """Return the sample with a usable stamp, or None if it is refused."""
        if sample.stamp_ns != 0:
            return sample
        if hasattr(message, 'header'):
            if self._config.stamp_policy == 'refuse':
                self._refuse(source, 'found a stamp of zero, expected the time of measurement; '
                             'mend the driver, or set inputs.stamp_policy to receive')
                return None
            self.warn(source.topic, 'found a stamp of zero, expected the time of measurement; the '
                      'time of receipt is taken instead')
        return replace(sample, stamp_ns=receive_ns)

    def _camera_info(self, message: Any, _: int) -> list[Sample]:
        self._camera = ((int(message.height), int(message.width)), intrinsics(message))
        return []

    def _intrinsics_for(self, shape: tuple[int, ...]) -> tuple[float, float, float, float] | None:
        """Return the camera's intrinsics at a picture's size, if it has the same proportions."""
        assert self._camera is not None
        (height, width), (fx, fy, cx, cy) = self._camera
        if (height, width) == tuple(shape):
            return fx, fy, cx, cy
        if not height or not width or abs(shape[0] * width - shape[1] * height) > width + height:
            return None
        x, y = shape[1] / width, shape[0] / height
        return fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5

    # -- time ---------------------------------------------------------------------------------

    def poll(self) -> None:
        """Follow the publishers, and close windows whose deadline has passed.

        After a stall of this thread the messages that wait are taken first: one turn is skipped.
        """
        for subscription in self._subscriptions:
            subscription.poll()
        now_s = time.monotonic()
        stalled, self._polled_s = now_s - self._polled_s > _STALL_S, now_s
        self._stalled = stalled and not self._stalled
        if not self._stalled:
            self._deliver(self.synchronizer.poll(time.monotonic_ns()))

    def _deliver(self, windows: list[Window]) -> None:
        for event in self.synchronizer.take_events():
            if event.kind in ('gap', 'agrees'):
                self._node.get_logger().info(f'time: {event.text}')
            elif event.kind == 'backward':
                self._node.get_logger().warning(f'time: {event.text}', throttle_duration_sec=5.0)
            else:
                self.warn(f'time ({event.kind})', event.text)
        for window in windows:
            self._on_window(window)

    # -- health -------------------------------------------------------------------------------

    def health(self) -> list[Health]:
        """Return how each input does; rates are since the call before."""
        now_s = time.monotonic()
        span_s, self._looked_s = max(now_s - self._looked_s, 1e-3), now_s
        out = []
        for stream, counts in self.synchronizer.stats().items():
            sources = [s for s in self.sources if s.stream == stream]
            out.append(replace(
                self._health(stream, sources, now_s, span_s), late=counts.late,
                lost=counts.dropped + counts.duplicates, offset_s=counts.offset_ns / SECOND_NS,
                foreign=counts.foreign))
        if self._camera_source is not None:
            out.append(self._health(CAMERA_INFO, [self._camera_source], now_s, span_s))
        return out

    def _health(self, stream: str, sources: list[Source], now_s: float, span_s: float) -> Health:
        """Return what the topics of one stream say about it."""
        received = sum(s.received for s in sources)
        fresh = received - sum(s.counted for s in sources)
        for source in sources:
            source.counted = source.received
        heard = [s.arrival_s for s in sources if s.received]
        last = max(sources, key=lambda s: s.error_s)
        return Health(
            stream, tuple(s.topic for s in sources if s.received),
            sum(self._node.count_publishers(s.topic) for s in sources), received, fresh / span_s,
            now_s - max(heard) if heard else None, 0, 0, sum(s.errors for s in sources),
            last.last_error, error_age_s=now_s - last.error_s if last.errors else None,
            mistyped='' if received else self._mistyped(sources),
            qos='; '.join(dict.fromkeys(str(s.subscription.policy) for s in sources
                                        if s.subscription and (s.received or len(sources) == 1))))

    def _mistyped(self, sources: list[Source]) -> str:
        """Return which wrong types the publishers of a stream send, if there are no others."""
        wrong = ''
        for source in sources:
            found = {i.topic_type for i in self._node.get_publishers_info_by_topic(source.topic)}
            expected = type_name(source.type)
            if expected in found:
                return ''
            if found:
                wrong = f'found {", ".join(sorted(found))} on {source.topic}, expected {expected}'
                self.warn(source.topic, f'{wrong}: nothing is received; remap the topic')
        return wrong

    def silence(self, only: str = '') -> str:
        """Return in words which inputs have brought nothing usable, and why if that is known."""
        parts = []
        for stream, counts in self.synchronizer.stats().items():
            sources = [s for s in self.sources if s.stream == stream]
            errors = [s for s in sources if s.errors]
            if counts.received or only not in ('', stream):
                continue
            if errors:
                parts.append(f'{stream}: {errors[0].errors} unusable messages '
                             f'({errors[0].last_error})')
            elif any(self._node.count_publishers(s.topic) for s in sources):
                parts.append(f'{stream}: {self._mistyped(sources) or "no message yet"}')
            else:
                parts.append(f'{stream}: no publisher on {sources[0].topic}')
        return '; '.join(parts)
