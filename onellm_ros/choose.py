"""What a model takes out of a window: a rule for each modality, and a report of what was taken.

This module owns the choice; closing windows is the business of ``synchronizer.py``, turning
samples into tensors that of ``preprocess``. It reads stamps, and of arrays only the length of an
audio chunk.

=========  ==================================================================================
image      the newest picture of the window
video      frames spread evenly over the last ``video_ns`` of the same stream, at least two
depth      the picture nearest in time to the image, or the newest without one
normal     as depth
point      the newest cloud, or with ``merge_points`` all of the window in the same frame
imu        everything of the last ``imu_ns``
audio      the chunks that reach into the last ``audio_ns``
fmri       the newest vector
others     of a registered modality the newest sample
=========  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onellm_ros.config import TokenizerConfig
from onellm_ros.modality import Modality, Sample, prompt_order
from onellm_ros.windows import Window

Chosen = Mapping[Modality, Sequence[Sample]]

SECOND_NS = 1_000_000_000
# The resampling of the IMU and of the microphone looks a little beyond the model's input.
IMU_MARGIN_NS = SECOND_NS // 10
AUDIO_MARGIN_NS = SECOND_NS


@dataclass(frozen=True)
class ChoiceSpec:
    """The rules' numbers. All times are integer nanoseconds before the window's end.

    :param streams: modality of each stream, in order of rank; several may share one.
    :param modalities: what may be chosen.
    :param merge_points: join all clouds of the window instead of taking the newest.
    """

    streams: Mapping[str, Modality]
    modalities: frozenset[Modality] = frozenset(Modality)
    video_frames: int = 8
    video_ns: int = 2 * SECOND_NS
    imu_ns: int = 2 * SECOND_NS + IMU_MARGIN_NS
    audio_ns: int = 10_240_000_000 + AUDIO_MARGIN_NS
    merge_points: bool = False

    @classmethod
    def for_model(cls, config: TokenizerConfig, streams: Mapping[str, Modality],
                  modalities: Collection[Modality] = tuple(Modality), *,
                  video_ns: int = 2 * SECOND_NS, merge_points: bool = False) -> ChoiceSpec:
        """Return the rules for a model's input sizes."""
        return cls(streams, frozenset(modalities), config.video_frames, video_ns,
                   round(config.imu_seconds * SECOND_NS) + IMU_MARGIN_NS,
                   round(config.audio_seconds * SECOND_NS) + AUDIO_MARGIN_NS, merge_points)

    def lookback_ns(self, modality: Modality) -> int:
        """Return how far before the window's end a stream of ``modality`` must reach back."""
        if modality is Modality.IMAGE:
            return self.video_ns if Modality.VIDEO in self.modalities else 0
        return {Modality.IMU: self.imu_ns, Modality.AUDIO: self.audio_ns}.get(modality, 0)


@dataclass(frozen=True)
class Report:
    """What was taken of one modality.

    :param topics: where the samples came from, each once.
    :param first_ns: stamps of the oldest and of the newest sample taken.
    :param max_skew_ns: distance in time to the leading sample (the image where there is one).
    :param late: samples since the previous window that came too late; ``dropped``: thrown away.
    """

    modality: Modality
    topics: tuple[str, ...]
    count: int
    first_ns: int
    last_ns: int
    max_skew_ns: int
    late: int = 0
    dropped: int = 0


@dataclass(frozen=True, eq=False)
class Selection:
    """A window as the model sees it; far smaller than the window, so it can be kept.

    :param samples: by modality in the order of a prompt, oldest first; absent is absent.
    :param reports: one for each modality of ``samples``, in the same order.
    """

    start_ns: int
    end_ns: int
    index: int
    samples: Chosen
    reports: tuple[Report, ...] = ()
    closed_by: str = 'watermark'
    silent: tuple[str, ...] = field(default=())

    def restricted(self, modalities: Collection[Modality]) -> Selection:
        """Return the same window with only these modalities."""
        return replace(
            self, samples={m: s for m, s in self.samples.items() if m in modalities},
            reports=tuple(r for r in self.reports if r.modality in modalities))


def choose(window: Window, spec: ChoiceSpec) -> Selection:
    """Take out of a window what the model sees of it.

    :param spec: streams that it does not name are ignored.
    :returns: the samples of each allowed modality that the window has, with reports.
    """
    image = _newest(window, spec, Modality.IMAGE)
    lead_ns = image[-1].stamp_ns if image else None
    rules: dict[Modality, Callable[[], tuple[Sample, ...]]] = {
        Modality.IMAGE: lambda: image,
        Modality.VIDEO: lambda: _video(window, spec, image),
        Modality.DEPTH: lambda: _nearest(window, spec, Modality.DEPTH, lead_ns),
        Modality.NORMAL: lambda: _nearest(window, spec, Modality.NORMAL, lead_ns),
        Modality.POINT: lambda: _clouds(window, spec),
        Modality.AUDIO: lambda: _since(window, spec, Modality.AUDIO, spec.audio_ns),
        Modality.IMU: lambda: _since(window, spec, Modality.IMU, spec.imu_ns),
        Modality.FMRI: lambda: _newest(window, spec, Modality.FMRI)}
    samples = {}
    for modality in prompt_order(spec.modalities):
        taken = rules[modality]() if modality in rules else _newest(window, spec, modality)
        if taken:
            samples[modality] = taken
    if lead_ns is None and samples:
        lead_ns = next(iter(samples.values()))[-1].stamp_ns
    reports = tuple(_report(window, spec, modality, taken, lead_ns or 0)
                    for modality, taken in samples.items())
    return Selection(window.start_ns, window.end_ns, window.index, samples, reports,
                     window.closed_by, window.silent)


def _streams(window: Window, spec: ChoiceSpec, modality: Modality) -> list[tuple[Sample, ...]]:
    """Return the members of each stream of a modality that has any, in order of rank."""
    return [window.members[name] for name, kind in spec.streams.items()
            if kind is modality and name in window.members]


def _inside(window: Window, spec: ChoiceSpec, modality: Modality) -> list[Sample]:
    """Return the samples of the window itself (no lookback), ordered by stamp."""
    found = [s for members in _streams(window, spec, modality) for s in members
             if s.stamp_ns >= window.start_ns]
    return sorted(found, key=lambda s: s.stamp_ns)


def _newest(window: Window, spec: ChoiceSpec, modality: Modality) -> tuple[Sample, ...]:
    return tuple(_inside(window, spec, modality)[-1:])


def _nearest(window: Window, spec: ChoiceSpec, modality: Modality, lead_ns: int | None
             ) -> tuple[Sample, ...]:
    found = _inside(window, spec, modality)
    if not found or lead_ns is None:
        return tuple(found[-1:])
    return (min(found, key=lambda s: abs(s.stamp_ns - lead_ns)),)


def _video(window: Window, spec: ChoiceSpec, image: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Spread frames evenly over the stream that the window's image is of."""
    members = next((m for m in _streams(window, spec, Modality.IMAGE) if image and
                    image[-1] is m[-1]), ())
    frames = [s for s in members if s.stamp_ns >= window.end_ns - spec.video_ns]
    if len(frames) < 2:
        return ()
    if len(frames) <= spec.video_frames:
        return tuple(frames)
    first, last = frames[0].stamp_ns, frames[-1].stamp_ns
    steps = max(1, spec.video_frames - 1)
    out: list[Sample] = []
    at = 0
    for i in range(spec.video_frames):
        wanted = first + (last - first) * i // steps
        # each frame once: leave enough of them for the places that follow
        limit = len(frames) - (spec.video_frames - i)
        while at < limit and (abs(frames[at + 1].stamp_ns - wanted)
                              <= abs(frames[at].stamp_ns - wanted)):
            at += 1
        out.append(frames[at])
        at += 1
    return tuple(out)


def _clouds(window: Window, spec: ChoiceSpec) -> tuple[Sample, ...]:
    found = _inside(window, spec, Modality.POINT)
    if not spec.merge_points:
        return tuple(found[-1:])
    return tuple(s for s in found if s.frame_id == found[-1].frame_id)


def _since(window: Window, spec: ChoiceSpec, modality: Modality, span_ns: int
           ) -> tuple[Sample, ...]:
    """Return the samples of the first stream that reach into the last ``span_ns``."""
    members = next(iter(_streams(window, spec, modality)), ())
    begin = window.end_ns - span_ns
    return tuple(s for s in members if _end_ns(s) > begin)


def _end_ns(sample: Sample) -> int:
    """Return when a sample ends: its stamp, or for audio the end of the chunk."""
    if sample.rate_hz <= 0:
        return sample.stamp_ns
    return sample.stamp_ns + round(len(sample.data) / sample.rate_hz * SECOND_NS)


def _distance(sample: Sample, at_ns: int) -> int:
    return max(0, sample.stamp_ns - at_ns, at_ns - _end_ns(sample))


def _report(window: Window, spec: ChoiceSpec, modality: Modality, taken: Sequence[Sample],
            lead_ns: int) -> Report:
    source = Modality.IMAGE if modality is Modality.VIDEO else modality
    names = [n for n, kind in spec.streams.items() if kind is source]
    lost = [window.dropped, window.duplicates]
    return Report(
        modality, tuple(dict.fromkeys(s.topic for s in taken if s.topic)), len(taken),
        taken[0].stamp_ns, taken[-1].stamp_ns, min(_distance(s, lead_ns) for s in taken),
        sum(window.late.get(n, 0) for n in names),
        sum(counts.get(n, 0) for counts in lost for n in names))
