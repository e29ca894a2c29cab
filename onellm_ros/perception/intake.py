"""The intake: messages of the sources are converted, stamped and cut into windows.

The node's subscriptions and the messages of a recording take the same way in, so that both make
the same windows. A running node converts pictures and clouds only when a window takes them
(``pending.py``). This module owns counting and naming what is wrong with messages, and which
calibration goes with which picture; what their stamps mean stands in ``stamping.py``. Messages are
read by their fields; no ROS is imported. What becomes of windows is the business of its caller;
one thread calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import time
from typing import Any

from onellm_ros.choose import ChoiceSpec, Selection
from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, ModalityError, Sample, spec_of
from onellm_ros.node_config import InputConfig
from onellm_ros.perception.answering import FAILURES
from onellm_ros.perception.pending import LATER, Pending, choose_made, look_of, pending
from onellm_ros.perception.sources import SourceSpec
from onellm_ros.perception.stamping import Stamping
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
    intrinsics_at,
    normal_sample,
    point_sample,
    stamp_ns,
)
from onellm_ros.synchronizer import Synchronizer
from onellm_ros.windows import Event, Window, WindowSpec

Converter = Callable[[Any, int], list[Sample]]


def converter(source: SourceSpec, topic: str, kind: str, config: InputConfig,
              merger: ImuMerger | None = None) -> Converter:
    """Return how the messages of a topic become samples: (message, time of receipt) -> samples.

    :param topic: fully resolved, kept in the samples. :param kind: its message type.
    :param merger: of the source's IMU topics.
    :raises ConfigError: for settings, or a registered modality, that cannot be used.
    """
    modality = source.modality

    def one(function: Callable[..., Sample]) -> Converter:
        return lambda message, _: [function(message, topic=topic)]

    if modality is Modality.IMU:
        joined = merger or ImuMerger()
        return lambda message, _: joined.add(message, topic)
    if modality is Modality.AUDIO:
        try:
            decoder = AudioDecoder(AudioFormat(config.audio_rate_hz, config.audio_channels,
                                               config.audio_format))
        except ConversionError as error:
            raise ConfigError(f'inputs.audio_*: {error}') from error

        def decoded(message: Any, receive_ns: int) -> list[Sample]:
            sample = decoder.add(message, receive_ns, topic)
            return [] if sample is None else [sample]
        return decoded
    if modality is Modality.IMAGE and kind.endswith('CompressedImage'):
        return one(compressed_image_sample)
    known = {Modality.IMAGE: image_sample, Modality.DEPTH: depth_sample,
             Modality.NORMAL: normal_sample, Modality.POINT: point_sample,
             Modality.FMRI: fmri_sample}
    if modality in known:
        return one(known[modality])
    spec = spec_of(modality)
    try:
        return one(spec.converter() if spec else image_sample)
    except ModalityError as error:
        raise ConfigError(str(error)) from error


@dataclass(eq=False)
class Feed:
    """One topic of a source: how its messages become samples, and how it does.

    :param topic: fully resolved. :param type: its messages' type.
    :param errors: messages that could not be used; ``last_error`` says why the last one could not.
    :param arrival_s: monotonic time of the newest message, ``error_s`` of the newest unusable one.
    :param unsettled: messages not used because their clock was not known yet.
    :param look: of the newest message that was converted; None: the next one is at once, too.
    """

    source: SourceSpec
    topic: str
    type: str
    convert: Converter
    received: int = 0
    errors: int = 0
    last_error: str = ''
    error_s: float = 0.0
    arrival_s: float = 0.0
    unsettled: int = 0
    look: tuple[Any, ...] | None = None


class Intake:
    """Takes messages, gives windows; call :meth:`poll` some 20 times a second.

    :param resolve: name of a topic -> its fully resolved name.
    :param on_window: called with each window that closes.
    :param on_jump: called when time jumped back.
    :param on_event: called with what happens to time.
    :param on_wrong: (topic, text) for a message that cannot be used, each time.
    :param later: convert pictures and clouds when :meth:`choose` takes them; windows are for it
        alone then. Messages unlike the one before, and those after one that could not be used,
        are converted at once, so that what is wrong with them is told at once.
    :raises ConfigError: for settings that do not fit.
    """

    def __init__(self, sources: Sequence[SourceSpec], config: InputConfig, spec: WindowSpec, *,
                 on_window: Callable[[Window], None], on_jump: Callable[[], None],
                 on_event: Callable[[Event], None], on_wrong: Callable[[str, str], None],
                 resolve: Callable[[str], str] = lambda name: name, later: bool = False) -> None:
        self._later = later
        self.sources: tuple[SourceSpec, ...] = ()
        self.synchronizer = Synchronizer(spec)
        self.stamping = Stamping(config, on_event)
        self._config, self._resolve = config, resolve
        self._on_window, self._on_jump = on_window, on_jump
        self._on_event, self._on_wrong = on_event, on_wrong
        self._now_ns = self._fresh_ns = 0
        self._closed_ns: int | None = None      # end of the newest window
        self._cameras: dict[str, tuple[tuple[int, int], tuple[float, float, float, float]]] = {}
        self._mergers: dict[str, ImuMerger] = {}
        self._camera_of: dict[str, str] = {}
        self.feeds: list[Feed] = []
        self.camera_feeds: list[Feed] = []
        self.use(sources, spec)

    def use(self, sources: Sequence[SourceSpec], spec: WindowSpec) -> None:
        """Take these sources from now on; feeds and windows of those that stay are kept.

        A topic without a type has no feed until a source comes that knows it.

        :param spec: with a stream for each source, and the same times as before.
        :raises ConfigError: if two sources have one topic and modality, or for settings.
        """
        before, self.sources = self.feeds, tuple(sources)
        kept = [f for f in before if f.source in self.sources]
        self.feeds = [f for s in self.sources for f in
                      ([f for f in kept if f.source == s] or self._feeds_for(s))]
        cameras = {self._camera_of[s.name] for s in self.sources if s.camera_info}
        self.camera_feeds = [f for f in self.camera_feeds if f.topic in cameras]
        seen: dict[tuple[str, Modality], str] = {}
        for feed in self.feeds:
            name = seen.setdefault((feed.topic, feed.source.modality), feed.source.name)
            if name != feed.source.name:
                raise ConfigError(f'sources: found {feed.topic} as {feed.source.modality} for '
                                  f'{name} and {feed.source.name}, expected each topic once')
        self.synchronizer.extend(spec)

    def _feeds_for(self, source: SourceSpec) -> list[Feed]:
        if source.modality is Modality.IMU:
            self._mergers.setdefault(source.name, ImuMerger())
        if source.camera_info:
            camera = self._camera_of[source.name] = self._resolve(source.camera_info)
            if camera not in [f.topic for f in self.camera_feeds]:
                self.camera_feeds.append(self._camera_feed(source, camera))
        out = []
        for name, kind in source.topics:
            if kind:
                topic = self._resolve(name)
                out.append(Feed(source, topic, kind, converter(
                    source, topic, kind, self._config, self._mergers.get(source.name))))
        return out

    def _camera_feed(self, source: SourceSpec, topic: str) -> Feed:
        def convert(message: Any, _: int) -> list[Sample]:
            self._cameras[topic] = ((int(message.height), int(message.width)),
                                    intrinsics(message))
            return []
        return Feed(source, topic, 'sensor_msgs/msg/CameraInfo', convert)

    def restart(self) -> None:
        """Forget what is held (after a pause)."""
        self.synchronizer = Synchronizer(self.synchronizer.spec)
        self._closed_ns = None
        self.stamping.clear()
        for merger in self._mergers.values():
            merger.clear()

    # -- messages -----------------------------------------------------------------------------

    def receive(self, feed: Feed, message: Any, receive_ns: int, now_ns: int) -> None:
        """Convert a message, hand its samples to the synchronizer and pass windows on.

        :param receive_ns: time of receipt on the clock of the stamps.
        :param now_ns: the same on a clock that never jumps, for deadlines.
        """
        self._now_ns = now_ns
        feed.received += 1
        feed.arrival_s = time.monotonic()
        try:
            samples = self._samples(feed, message, receive_ns)
        except FAILURES as error:   # of a registered modality's converter, too
            self._unusable(feed, error)
            return
        if feed in self.camera_feeds:
            return
        merger = self._mergers.get(feed.source.name)
        if merger is not None and merger.missing and samples:
            self._on_wrong(feed.topic, (
                f'found no {merger.missing}, expected it on this topic or another one of the '
                f'source within {merger.patience_ns / 1e9:g} s; zeros are taken instead: publish '
                'it, or name the topics of both halves of the IMU as sources'))
        headed = hasattr(message, 'header')
        wrong = self.stamping.hear(feed.source, stamp_ns(message) if headed else None, receive_ns)
        if wrong.refused:
            self._refuse(feed, wrong.refused)
            return
        if wrong.told:
            self._on_wrong(feed.topic, wrong.told)
        if wrong.waiting:
            feed.unsettled += 1
            return
        for sample in samples:
            if feed.source.frame:
                sample = replace(sample, frame_id=feed.source.frame)
            self._add(feed.source, self.stamping.stamped(feed.source, sample), now_ns)

    def _samples(self, feed: Feed, message: Any, receive_ns: int) -> list[Sample]:
        """Return the samples of a message, those that can wait not made yet."""
        if not self._later or feed.source.modality not in LATER:
            return feed.convert(message, receive_ns)
        look = look_of(message)
        if look is None or look != feed.look:
            samples, feed.look = feed.convert(message, receive_ns), look
            return samples
        camera = self._cameras.get(self._camera_of.get(feed.source.name, ''))

        def convert(message: Any) -> Sample:
            made = feed.convert(message, receive_ns)[0]
            if camera is None or made.intrinsics is not None:
                return made
            return replace(made, intrinsics=intrinsics_at(*camera, made.data.shape[:2]))
        return [pending(message, feed.topic, convert, feed)]

    def choose(self, window: Window, spec: ChoiceSpec) -> Selection:
        """Take out of a window what the model sees of it, all of it converted.

        What cannot be converted is counted and told as if it came now; another sample is taken in
        its place.
        """
        return choose_made(window, spec, self._unusable)

    def _add(self, source: SourceSpec, sample: Sample, now_ns: int) -> None:
        if sample.intrinsics is None and source.name in self._camera_of and not isinstance(
                sample, Pending):
            found = self._intrinsics_for(source, sample.data.shape[:2])
            if found is not None:
                sample = replace(sample, intrinsics=found)
        self._follow_back(source, sample, now_ns)
        restarts = self.synchronizer.restarts
        windows = self.synchronizer.add(source.name, sample, now_ns)
        if self.synchronizer.restarts != restarts:
            self._closed_ns = None
            self._on_jump()
        self._deliver(windows)

    def _follow_back(self, source: SourceSpec, sample: Sample, now_ns: int) -> None:
        """Begin anew where all that comes is from long before the windows that have closed.

        Such as a recording of other inputs than those before: none of its streams jumps back by
        itself, and all of it would be late for ever.
        """
        spec, closed_ns = self.synchronizer.spec, self._closed_ns
        if closed_ns is None or sample.stamp_ns > (
                closed_ns - spec.length_ns - max(spec.backward_ns, spec.silence_ns)):
            self._fresh_ns = now_ns
        elif now_ns - self._fresh_ns > spec.silence_ns + spec.deadline_ns:
            back_s = (closed_ns - sample.stamp_ns) / 1e9
            self._on_event(Event('backward', source.name, sample.stamp_ns, (
                f'time is {back_s:.3f} s back on {source.name}, and nothing comes that is newer: '
                'what was held is dropped, windows start anew')))
            self.restart()
            self._on_jump()

    def _unusable(self, feed: Feed, error: Exception) -> None:
        """Count a message that could not be converted; the ones that follow are at once."""
        feed.look = None
        self._refuse(feed, str(error) if isinstance(error, ConversionError)
                     else f'malformed message: {type(error).__name__}: {error}')

    def _refuse(self, feed: Feed, text: str) -> None:
        feed.errors += 1
        feed.error_s = time.monotonic()
        feed.last_error = text
        self._on_wrong(feed.topic, text)

    def _intrinsics_for(self, source: SourceSpec, shape: tuple[int, ...]
                        ) -> tuple[float, float, float, float] | None:
        """Return the camera's intrinsics at a picture's size, if it has the same proportions."""
        camera = self._cameras.get(self._camera_of[source.name])
        return None if camera is None else intrinsics_at(*camera, shape)

    # -- time ---------------------------------------------------------------------------------

    def poll(self, now_ns: int) -> None:
        """Close windows whose deadline has passed."""
        self._now_ns = now_ns
        self._deliver(self.synchronizer.poll(now_ns))

    def flush(self) -> None:
        """Close what is still open: no message follows (the end of a recording)."""
        for source in self.sources:
            if source.name in self._mergers:
                for sample in self._mergers[source.name].flush():
                    self._add(source, sample, self._now_ns)
        self._deliver(self.synchronizer.flush())

    def _deliver(self, windows: Sequence[Window]) -> None:
        for event in self.synchronizer.take_events():
            self._on_event(event)
        for window in windows:
            self._closed_ns = window.end_ns
            self._on_window(window)
