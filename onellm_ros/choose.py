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

Where several streams have one modality, the first in rank that has something in the window is
taken: a second camera stands in while the first is silent. With ``merge_points`` the clouds of all
of them are joined. What each of the others would give is kept beside it, a few samples a stream,
for a question that names it (``Selection.of_sources``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    :param further_frames: frames of a video of a stream that was not taken.
    :param place: brings a cloud or a map of normals that is taken into the robot's base frame.
    """

    streams: Mapping[str, Modality]
    modalities: frozenset[Modality] = frozenset(Modality)
    video_frames: int = 8
    video_ns: int = 2 * SECOND_NS
    imu_ns: int = 2 * SECOND_NS + IMU_MARGIN_NS
    audio_ns: int = 10_240_000_000 + AUDIO_MARGIN_NS
    merge_points: bool = False
    further_frames: int = 4
    place: Callable[[Modality, Sample], Sample] | None = field(default=None, compare=False)

    @classmethod
    def for_model(cls, config: TokenizerConfig, streams: Mapping[str, Modality],
                  modalities: Collection[Modality] = tuple(Modality), *,
                  video_ns: int = 2 * SECOND_NS, merge_points: bool = False,
                  place: Callable[[Modality, Sample], Sample] | None = None) -> ChoiceSpec:
        """Return the rules for a model's input sizes."""
        return cls(streams, frozenset(modalities), config.video_frames, video_ns,
                   round(config.imu_seconds * SECOND_NS) + IMU_MARGIN_NS,
                   round(config.audio_seconds * SECOND_NS) + AUDIO_MARGIN_NS, merge_points,
                   place=place)

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
    :param sources: names of the streams that the samples are of.
    """

    modality: Modality
    topics: tuple[str, ...]
    count: int
    first_ns: int
    last_ns: int
    max_skew_ns: int
    late: int = 0
    dropped: int = 0
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Offer:
    """What one stream gives of one modality in a window."""

    source: str
    samples: tuple[Sample, ...]
    report: Report


@dataclass(frozen=True, eq=False)
class Selection:
    """A window as the model sees it; far smaller than the window, so it can be kept.

    :param samples: by modality in the order of a prompt, oldest first; absent is absent.
    :param reports: one for each modality of ``samples``, in the same order.
    :param sources: names of all streams, in order of rank, whether they have anything or not.
    :param offers: what each stream that has something gives by itself; of a modality in order of
        rank, those with nothing newer than the window's start behind the others.
    :param joined: clouds of several streams that are in one frame are joined.
    """

    start_ns: int
    end_ns: int
    index: int
    samples: Chosen
    reports: tuple[Report, ...] = ()
    closed_by: str = 'watermark'
    silent: tuple[str, ...] = field(default=())
    sources: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    joined: bool = False

    def restricted(self, modalities: Collection[Modality]) -> Selection:
        """Return the same window with only these modalities."""
        return replace(
            self, samples={m: s for m, s in self.samples.items() if m in modalities},
            reports=tuple(r for r in self.reports if r.modality in modalities),
            offers=tuple(o for o in self.offers if o.report.modality in modalities))

    def of_sources(self, names: Collection[str]) -> Selection:
        """Return the same window with only what these sources give.

        Of several that share a modality the first in rank that has something is taken; clouds of
        a window that joins them are joined. A source that is silent gives nothing.

        :raises ValueError: for a name that is no source; the text lists the known ones.
        """
        unknown = sorted(set(names) - set(self.sources))
        if unknown:
            raise ValueError(f'sources: found {unknown[0]!r}, expected some of '
                             f'{", ".join(self.sources) or "none: no source is known yet"}')
        samples: dict[Modality, tuple[Sample, ...]] = {}
        reports = []
        camera = ''
        for modality in prompt_order({o.report.modality for o in self.offers}):
            found = [o for o in self.offers
                     if o.report.modality is modality and o.source in names]
            if modality is Modality.VIDEO and camera:  # of the camera whose image is taken
                found = [o for o in found if o.source == camera]
            if modality is Modality.POINT and self.joined:
                found = [o for o in found
                         if o.samples[-1].frame_id == found[0].samples[-1].frame_id]
            else:
                found = found[:1]
            if not found:
                continue
            if modality is Modality.IMAGE:
                camera = found[0].source
            samples[modality] = _by_stamp(s for o in found for s in o.samples)
            reports.append(_joined_report([o.report for o in found]))
        return replace(self, samples=samples, reports=tuple(reports))


def choose(window: Window, spec: ChoiceSpec) -> Selection:
    """Take out of a window what the model sees of it.

    :param spec: streams that it does not name are ignored.
    :returns: the samples of each allowed modality that the window has, with reports.
    """
    camera = next(iter(_streams(window, spec, Modality.IMAGE)), '')
    image = _newest(window, window.members.get(camera, ()))
    lead_ns = image[-1].stamp_ns if image else None
    taken = []
    for modality in prompt_order(spec.modalities):
        for name in _streams(window, spec, modality):
            frames = spec.video_frames if name == camera else spec.further_frames
            samples = _taken(window, spec, modality, window.members[name], lead_ns, frames)
            if samples:
                taken.append((name, modality, samples))
    if lead_ns is None and taken:
        lead_ns = taken[0][2][-1].stamp_ns
    offers = tuple(Offer(name, samples, _report(window, modality, name, samples, lead_ns or 0))
                   for name, modality, samples in taken)
    whole = Selection(window.start_ns, window.end_ns, window.index, {}, (), window.closed_by,
                      window.silent, tuple(spec.streams), offers, spec.merge_points
                      ).of_sources(spec.streams)
    return replace(whole, reports=tuple(_with_losses(window, spec, r) for r in whole.reports))


def _streams(window: Window, spec: ChoiceSpec, modality: Modality) -> list[str]:
    """Return the streams of a modality that the window has, those that fell silent behind."""
    kind = Modality.IMAGE if modality is Modality.VIDEO else modality
    names = [name for name, found in spec.streams.items()
             if found is kind and name in window.members]
    return sorted(names, key=lambda n: _end_ns(window.members[n][-1]) < window.start_ns)


def _taken(window: Window, spec: ChoiceSpec, modality: Modality, members: tuple[Sample, ...],
           lead_ns: int | None, frames: int) -> tuple[Sample, ...]:
    """Return what one stream gives of a modality.

    :param lead_ns: stamp of the image that goes with it. :param frames: of a video.
    """
    if modality is Modality.AUDIO:
        return _since(members, window.end_ns - spec.audio_ns)
    if modality is Modality.IMU:
        return _since(members, window.end_ns - spec.imu_ns)
    if modality is Modality.VIDEO:
        begin_ns = window.end_ns - spec.video_ns
        return _video([s for s in members if s.stamp_ns >= begin_ns], frames) \
            if _newest(window, members) else ()
    if modality is Modality.POINT and spec.merge_points:
        clouds = [_placed(spec, modality, s) for s in members if s.stamp_ns >= window.start_ns]
        return tuple(s for s in clouds if s.frame_id == clouds[-1].frame_id)
    if modality in (Modality.DEPTH, Modality.NORMAL) and lead_ns is not None:
        lead = lead_ns
        inside = [s for s in members if s.stamp_ns >= window.start_ns]
        found: tuple[Sample, ...] = tuple(
            sorted(inside, key=lambda s: abs(s.stamp_ns - lead))[:1])
    else:
        found = tuple(_newest(window, members))
    return tuple(_placed(spec, modality, s) for s in found)


def _placed(spec: ChoiceSpec, modality: Modality, sample: Sample) -> Sample:
    if spec.place is None or modality not in (Modality.POINT, Modality.NORMAL):
        return sample
    return spec.place(modality, sample)


def _newest(window: Window, members: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the newest sample, if it is of the window itself (no lookback)."""
    return tuple(s for s in members[-1:] if s.stamp_ns >= window.start_ns)


def _video(frames: Sequence[Sample], wanted_frames: int) -> tuple[Sample, ...]:
    """Spread frames evenly over those of one stream; at least two, or none."""
    if len(frames) < 2 or wanted_frames < 2:
        return ()
    if len(frames) <= wanted_frames:
        return tuple(frames)
    first, last = frames[0].stamp_ns, frames[-1].stamp_ns
    out: list[Sample] = []
    at = 0
    for i in range(wanted_frames):
        wanted = first + (last - first) * i // (wanted_frames - 1)
        # each frame once: leave enough of them for the places that follow
        limit = len(frames) - (wanted_frames - i)
        while at < limit and (abs(frames[at + 1].stamp_ns - wanted)
                              <= abs(frames[at].stamp_ns - wanted)):
            at += 1
        out.append(frames[at])
        at += 1
    return tuple(out)


def _since(members: Sequence[Sample], begin_ns: int) -> tuple[Sample, ...]:
    """Return the samples of a stream that reach beyond ``begin_ns``."""
    return tuple(s for s in members if _end_ns(s) > begin_ns)


def _by_stamp(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda s: s.stamp_ns))


def _end_ns(sample: Sample) -> int:
    """Return when a sample ends: its stamp, or for audio the end of the chunk."""
    if sample.rate_hz <= 0:
        return sample.stamp_ns
    return sample.stamp_ns + round(len(sample.data) / sample.rate_hz * SECOND_NS)


def _distance(sample: Sample, at_ns: int) -> int:
    return max(0, sample.stamp_ns - at_ns, at_ns - _end_ns(sample))


def _report(window: Window, modality: Modality, name: str, taken: Sequence[Sample], lead_ns: int
            ) -> Report:
    return Report(
        modality, tuple(dict.fromkeys(s.topic for s in taken if s.topic)), len(taken),
        taken[0].stamp_ns, taken[-1].stamp_ns, min(_distance(s, lead_ns) for s in taken),
        window.late.get(name, 0), window.dropped.get(name, 0) + window.duplicates.get(name, 0),
        (name,))


def _joined_report(reports: Sequence[Report]) -> Report:
    """Return one report of what several streams gave together."""
    first = reports[0]
    if len(reports) == 1:
        return first
    return replace(
        first, topics=tuple(dict.fromkeys(t for r in reports for t in r.topics)),
        count=sum(r.count for r in reports), first_ns=min(r.first_ns for r in reports),
        last_ns=max(r.last_ns for r in reports), max_skew_ns=min(r.max_skew_ns for r in reports),
        late=sum(r.late for r in reports), dropped=sum(r.dropped for r in reports),
        sources=tuple(s for r in reports for s in r.sources))


def _with_losses(window: Window, spec: ChoiceSpec, report: Report) -> Report:
    """Return a report with what all streams of its modality lost, also those not taken."""
    kind = Modality.IMAGE if report.modality is Modality.VIDEO else report.modality
    names = [name for name, found in spec.streams.items() if found is kind]
    return replace(
        report, late=sum(window.late.get(n, 0) for n in names),
        dropped=sum(window.dropped.get(n, 0) + window.duplicates.get(n, 0) for n in names))
