"""Which topics of a recording feed the model, by type and content, and why others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onellm_ros.modality import Modality, Sample, parse_modality, spec_of
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.bags import Bag, TopicInfo
from onellm_ros.ros.audio_conversions import mp3_frames_fill
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ConversionError,
    ImuMerger,
    audio_format,
    audio_sample,
    depth_sample,
    fmri_sample,
    guess_audio_format,
    image_sample,
    imu_parts,
    imu_sample,
    intrinsics,
    modality_of_message,
    normal_sample,
    point_sample,
    reason_unused,
)
from onellm_ros.ros.message_fields import byte_view

_TRIED = 5  # messages of a topic that are tried before it is given up
_NOT_USED = ('', 'none', 'off', 'no')


@dataclass
class TopicMatch:
    """What each topic of a recording is used for.

    :param used: topic -> modality; two topics of one modality only for a split IMU.
    :param unused: topic -> reason.
    :param refused: of those, what a user asked for and cannot be used so.
    :param types: topic -> message type, of all topics.
    :param camera_info: topic of the CameraInfo that goes with the depth (else the colour) picture.
    :param audio: what bare audio bytes of the recording mean, if it has such.
    :param notes: choices and assumptions, for people.
    """

    used: dict[str, Modality] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    camera_info: str = ''
    audio: AudioFormat | None = None
    notes: list[str] = field(default_factory=list)

    def topics(self, modality: Modality) -> list[str]:
        """Return the topics used for a modality."""
        return [topic for topic, used in self.used.items() if used is modality]

    def lines(self) -> list[str]:
        """Return the match as lines for people."""
        width = max((len(t) for t in (*self.used, *self.unused)), default=0)
        used = [f'  {topic:<{width}}  -> {modality}' for topic, modality in self.used.items()]
        if self.camera_info:
            used.append(f'  {self.camera_info:<{width}}  -> camera_info')
        return used + [f'  {topic:<{width}}  not used: {reason}'
                       for topic, reason in self.unused.items() if topic != self.camera_info] + [
                           f'  note: {note}' for note in self.notes]


@dataclass
class _Candidate:
    """A topic that could feed a modality."""

    info: TopicInfo
    modality: Modality
    order: int
    first: Any
    imu_part: str = ''

    @property
    def rank(self) -> tuple[bool, bool, int, bool, int]:
        """Sort key: the best candidate of a modality has the greatest."""
        encoding = str(getattr(self.first, 'encoding', getattr(self.first, 'format', '')))
        grey = encoding.startswith(('mono', '8UC1'))
        return ('aligned' in self.info.name, not grey, self.info.count,
                hasattr(self.first, 'encoding'), -self.order)


def convert(modality: Modality, message: Any, topic: str = '',
            audio: AudioFormat | None = None) -> Sample:
    """Convert one message of a known modality by itself (no state between messages).

    :raises ConversionError: for a message that is not understood.
    """
    if modality is Modality.DEPTH:
        return depth_sample(message, topic)
    if modality is Modality.NORMAL:
        return normal_sample(message, topic)
    if modality is Modality.POINT:
        return point_sample(message, topic)
    if modality is Modality.AUDIO:
        return audio_sample(message, audio, topic=topic)
    if modality is Modality.FMRI:
        return fmri_sample(message, topic)
    if modality is Modality.IMU:
        return imu_sample(message, topic)
    spec = spec_of(modality)
    if spec is not None:
        if not spec.conversion:
            raise ConversionError(f'found a topic of {modality}, which has no messages; expected '
                                  'message and conversion in its spec')
        return spec.converter()(message, topic)
    return image_sample(message, topic)


def _first_usable(bag: Bag, info: TopicInfo, modality: Modality | None
                  ) -> tuple[Modality | None, Any, str]:
    """Try the first messages of a topic.

    :param modality: what a user says the topic is; None: decide by the message.
    :returns: (modality, the first message that converts, '') or (None, None, reason).
    """
    reason = 'it has no readable message'
    for number, (_, _, message) in enumerate(bag.messages([info.name])):
        kind = modality or modality_of_message(info.type, info.name, message)
        if kind is None:
            return None, None, reason_unused(info.type, info.name)
        try:
            _check(kind, message)
        except ConversionError as error:
            reason = str(error)
        else:
            return kind, message, ''
        if number + 1 >= _TRIED:
            break
    return None, None, reason


def _check(kind: Modality, message: Any) -> None:
    """Try to convert a message.

    :raises ConversionError: if it cannot be used.
    """
    if kind is Modality.IMU:
        imu_parts(message)
    elif kind is Modality.AUDIO and _bare_audio(message) is not None:
        if not byte_view(_bare_audio(message)).size:
            raise ConversionError('found an audio message without bytes; expected some')
    else:
        convert(kind, message)


def _bare_audio(message: Any) -> Any:
    """Return the bytes of an audio message that does not say its format; None for others."""
    return getattr(getattr(message, 'audio', message), 'data', None)


def match_topics(bag: Bag, overrides: Mapping[str, Modality | str] | None = None,
                 audio: AudioFormat | None = None) -> TopicMatch:
    """Decide which topics of a recording feed the model.

    By type and first message; of several topics of one modality the one with colour and the most
    messages is used (both topics of an IMU that is split into gyroscope and accelerometer).

    :param overrides: topic -> modality (or its name, or ``none``) that a user asks for.
    :param audio: what bare audio bytes mean, if a user tells.
    :returns: the match, with a reason for every topic that is not used.
    :raises BagError: for an override that names no topic of the bag, or no modality.
    """
    infos = {info.name: info for info in bag.topics()}
    wanted = _overrides(infos, overrides or {})
    match = TopicMatch(types={name: info.type for name, info in infos.items()})
    candidates: dict[Modality, list[_Candidate]] = {}
    for order, info in enumerate(infos.values()):
        if info.name in wanted and wanted[info.name] is None:
            match.unused[info.name] = 'switched off by the user'
            continue
        kind, message, reason = _first_usable(bag, info, wanted.get(info.name))
        if kind is None:
            match.unused[info.name] = reason
            if wanted.get(info.name) is not None:
                match.refused.append(info.name)
        else:
            part = _imu_part(bag, info) if kind is Modality.IMU else ''
            candidates.setdefault(kind, []).append(_Candidate(info, kind, order, message, part))
    for kind, found in candidates.items():
        _choose(match, kind, found, {t for t, m in wanted.items() if m is kind})
    match.camera_info = _camera_info(bag, match)
    _audio_format(bag, match, audio, candidates.get(Modality.AUDIO, []))
    return match


def _overrides(infos: Mapping[str, TopicInfo], overrides: Mapping[str, Modality | str]
               ) -> dict[str, Modality | None]:
    """Return what a user asks for, checked."""
    wanted: dict[str, Modality | None] = {}
    for topic, value in overrides.items():
        name = topic if topic in infos else '/' + topic
        if name not in infos:
            raise BagError(f'found no topic {topic!r} in the bag; expected one of '
                           f'{", ".join(infos)}; correct the name')
        text = str(value).strip().lower()
        if text == 'video':
            text = 'image'
        try:
            wanted[name] = None if text in _NOT_USED else parse_modality(
                {'points': 'point', 'normals': 'normal'}.get(text, text))
        except ValueError as error:
            raise BagError(f'topic {name}: {error}, or none') from error
    return wanted


def _choose(match: TopicMatch, kind: Modality, found: list[_Candidate], asked: set[str]) -> None:
    """Choose among the topics of one modality, and say so."""
    pool = [c for c in found if c.info.name in asked] or found
    best = max(pool, key=lambda c: c.rank)
    chosen = [best]
    if kind is Modality.IMU:
        chosen = _choose_imu(pool, best)
        if len(chosen) == 2:
            match.notes.append('the IMU is split: gyroscope from {}, accelerometer from {}; both '
                               'are merged into one'.format(*(c.info.name for c in chosen)))
    for candidate in found:
        name = candidate.info.name
        if candidate in chosen:
            match.used[name] = kind
        else:
            match.unused[name] = (f'another topic of the modality {kind} was chosen '
                                  f'({best.info.name}, {best.info.count} messages); '
                                  f'give {name}={kind} to use this one')


def _choose_imu(pool: list[_Candidate], best: _Candidate) -> list[_Candidate]:
    """Return the IMU topics to use: a complete one, else a gyroscope and an accelerometer."""
    complete = [c for c in pool if c.imu_part == 'both']
    if complete:
        return [max(complete, key=lambda c: c.rank)]
    parts = [max((c for c in pool if c.imu_part == part), key=lambda c: c.rank, default=None)
             for part in ('gyroscope', 'accelerometer')]
    return [c for c in parts if c is not None] or [best]


def _imu_part(bag: Bag, info: TopicInfo) -> str:
    """Tell what an IMU topic measures, from its first messages."""
    part = ''
    for number, (_, _, message) in enumerate(bag.messages([info.name])):
        try:
            parts = imu_parts(message)
        except ConversionError:
            continue
        if parts.accelerometer is None:
            part = 'gyroscope'
        elif parts.gyroscope is None or parts.gyroscope_zero:
            part = 'accelerometer'
        else:
            return 'both'
        if number + 1 >= _TRIED:
            break
    return part


def _camera_info(bag: Bag, match: TopicMatch) -> str:
    """Return the CameraInfo topic that shares the longest begin with the picture it goes with."""
    infos = [t for t, kind in match.types.items() if kind.endswith('/CameraInfo')]
    pictures = match.topics(Modality.DEPTH) or match.topics(Modality.IMAGE)
    if not infos or not pictures:
        return ''
    folder = pictures[0].rsplit('/', 1)[0]

    def shared(topic: str) -> int:
        pairs = zip(topic.split('/')[:-1], folder.split('/'), strict=False)
        return sum(1 for a, b in pairs if a == b) - 10 * (topic.rsplit('/', 1)[0] != folder)
    best = max(infos, key=shared)
    for _, _, message in bag.messages([best]):
        try:
            intrinsics(message)
        except ConversionError as error:
            match.notes.append(f'{best}: {error}')
            return ''
        return best
    return ''


def _audio_format(bag: Bag, match: TopicMatch, given: AudioFormat | None,
                  candidates: list[_Candidate]) -> None:
    """Find out what bare audio bytes mean, from the user, an AudioInfo, or their number."""
    topics = match.topics(Modality.AUDIO)
    chosen = next((c for c in candidates if c.info.name in topics), None)
    if chosen is None or (data := _bare_audio(chosen.first)) is None:
        return
    topic = chosen.info.name
    if given is not None:
        match.audio = given
        return
    if mp3_frames_fill(byte_view(data)):
        match.audio = AudioFormat(sample_format='mp3')
        match.notes.append(f'{topic}: mp3')
        return
    try:
        for info_topic in (t for t, kind in match.types.items() if kind.endswith('/AudioInfo')):
            for _, _, message in bag.messages([info_topic]):
                match.audio = audio_format(message)
                match.notes.append(f'{topic}: {match.audio}, as {info_topic} says')
                return
        sizes = [(m.stamp_ns, len(_bare_audio(m.message))) for m in bag.messages([topic])]
        seconds = (sizes[-1][0] - sizes[0][0]) * 1e-9
        match.audio = guess_audio_format(sum(size for _, size in sizes[:-1]), seconds)
    except ConversionError as error:
        match.unused[topic] = str(error)
        del match.used[topic]
        return
    match.notes.append(f'{topic}: taken as {match.audio}, from the number of bytes a second; '
                       'the bag does not say; give the audio format if that is wrong')


def samples(bag: Bag, match: TopicMatch, problems: dict[str, str] | None = None
            ) -> Iterator[tuple[Modality, Sample]]:
    """Yield the samples of all used topics in the order of the recording.

    A stamp of zero is replaced by the time of recording. Messages that cannot be converted are
    left out.

    :param problems: filled with topic -> text of its first message that could not be converted.
    """
    merger = ImuMerger()
    decoder = AudioDecoder(match.audio)
    cameras: dict[str, tuple[float, float, float, float]] = {}
    wanted = [*match.used, *([match.camera_info] if match.camera_info else [])]
    for topic, recorded_ns, message in bag.messages(wanted):
        try:
            if topic == match.camera_info:
                cameras[''] = intrinsics(message)
                continue
            kind = match.used[topic]
            if kind is Modality.IMU:
                found: list[Sample | None] = [*merger.add(message, topic)]
            elif kind is Modality.AUDIO:
                found = [decoder.add(message, recorded_ns, topic)]
            elif kind is Modality.DEPTH:
                found = [depth_sample(message, topic, cameras.get(''))]
            else:
                found = [convert(kind, message, topic)]
        except ConversionError as error:
            if problems is not None:
                problems.setdefault(topic, str(error))
            continue
        for sample in found:
            if sample is not None:
                yield kind, sample if sample.stamp_ns else _restamped(sample, recorded_ns)
    for sample in merger.flush():
        yield Modality.IMU, sample


def _restamped(sample: Sample, stamp_ns: int) -> Sample:
    """Return the sample with another stamp."""
    return Sample(stamp_ns, sample.data, sample.frame_id, sample.rate_hz, sample.topic,
                  sample.intrinsics)
