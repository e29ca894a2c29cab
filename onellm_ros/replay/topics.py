"""Which topics of a recording feed which source of the node, as its remappings would have it.

Told by a recording's report, by the user, or found by ``matching.py``. The sources keep the names
and ranks that the node gives them, so that the windows are the node's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.node_config import InputConfig, NodeConfig
from onellm_ros.perception.sources import (
    PICTURES,
    SourceSpec,
    default_sources,
    modality_of,
    source_table,
    spec_for,
)
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.bags import Bag
from onellm_ros.replay.matching import TopicMatch, match_topics
from onellm_ros.replay.params import NodeParams
from onellm_ros.ros.conversions import AudioFormat, modality_of_message
from onellm_ros.ros.message_types import short_type

CLOCK = '/clock'
FRAMES = ('/tf_static', '/tf')


@dataclass(frozen=True)
class TopicPlan:
    """How a recording is read; it can be pickled.

    :param sources: with the topics and types of the recording; several may be without.
    :param inputs: what the conversions are told.
    :param clock: topic that is the node's clock; empty: the time of recording is.
    :param frames: topics of transforms, where clouds are to be brought into the base frame.
    :param whole: topics that must be read from the begin of the recording, wherever one starts:
        sound without stamps, whose times are joined from the first chunk on, and transforms.
    :param lines: what feeds what, for people.
    """

    sources: tuple[SourceSpec, ...]
    inputs: InputConfig = field(default_factory=InputConfig)
    clock: str = ''
    frames: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def topics(self) -> list[str]:
        """Return every topic to read, each once."""
        found = [topic for source in self.sources for topic, _ in source.topics]
        found += [source.camera_info for source in self.sources if source.camera_info]
        found += [*self.frames, *([self.clock] if self.clock else [])]
        return list(dict.fromkeys(found))


def plan_topics(bag: Bag, config: NodeConfig, modalities: Collection[Modality], *,
                overrides: Mapping[str, str] | None = None, params: NodeParams | None = None,
                audio: AudioFormat | None = None) -> TopicPlan:
    """Decide what of a recording feeds the model.

    :param modalities: what the model is shown.
    :param overrides: topic -> modality or ``none``, as a user tells it; it beats a report.
    :param params: what is known of the node; the table of a report decides, if it has one.
    :param audio: what bare bytes of sound mean, if a user tells.
    :raises BagError: if nothing of the recording can be used, or an override names no topic or
        one whose messages do not fit.
    :raises ConfigError: for a source that cannot be.
    """
    inputs = config.inputs
    if audio is not None:
        inputs = replace(inputs, audio_rate_hz=audio.rate_hz, audio_channels=audio.channels,
                         audio_format=audio.sample_format)
    if params is not None and params.sources and not overrides:
        sources = _of_table(bag, params.sources)
        lines = [f'  {topic}  -> {source.name} ({source.modality.value})'
                 for source in sources for topic, _ in source.topics]
    elif config.sources and not overrides:
        sources, lines = _of_settings(bag, config, modalities)
    else:
        match = match_topics(bag, overrides, audio)
        for topic in match.refused:
            raise BagError(f'--topics {topic}: {match.unused[topic]}; it is a '
                           f'{match.types[topic]}; give it another modality, or leave it out')
        if match.audio is not None:
            inputs = replace(inputs, audio_rate_hz=match.audio.rate_hz,
                             audio_channels=match.audio.channels,
                             audio_format=match.audio.sample_format)
        sources = _of_match(match, default_sources(config.inputs, modalities), overrides or {})
        further = [(topic, source) for source in sources for topic, _ in source.topics
                   if match.unused.pop(topic, None) is not None]
        lines = match.lines() + [f'  {topic}  -> {source.name} ({source.modality.value})'
                                 for topic, source in further]
    if not any(source.topics for source in sources):
        raise BagError(f'{bag.path}: found no topic that the model could use; ' + '; '.join(
            line.strip() for line in lines) + '; give --topics TOPIC=MODALITY to insist')
    clock = CLOCK if params is not None and params.use_sim_time and CLOCK in {
        t.name for t in bag.topics()} else ''
    placed = {Modality.POINT} | ({Modality.NORMAL} if inputs.normals_frame == 'base' else set())
    frames = tuple(t.name for t in bag.topics() if t.name in FRAMES) if any(
        s.topics and s.modality in placed for s in sources) else ()
    return TopicPlan(sources, inputs, clock, frames, (*_whole(bag, sources), *frames),
                     tuple(lines))


def _of_match(match: TopicMatch, sources: Iterable[SourceSpec], overrides: Mapping[str, str]
              ) -> tuple[SourceSpec, ...]:
    """Return the node's sources with the topics that were found for them.

    Further topics that a user names for one modality are sources of their own, behind it.
    """
    out = []
    asked: dict[Modality, list[str]] = {}
    for topic, value in overrides.items():
        name = topic if topic in match.types else '/' + topic
        if value.strip().lower() not in ('', 'none', 'off', 'no') and name not in match.used:
            asked.setdefault(parse_modality({'points': 'point'}.get(value, value)),
                             []).append(name)
    for source in sources:
        topics = tuple((t, match.types[t]) for t in match.topics(source.modality))
        camera = match.camera_info if source.camera_info else ''
        out.append(replace(source, topics=topics, camera_info=camera))
        for number, topic in enumerate(asked.get(source.modality, ()), 2):
            out.append(SourceSpec(f'{source.name}_{number}', source.modality,
                                  ((topic, match.types[topic]),)))
    return tuple(out)


def _of_table(bag: Bag, table: Iterable[Mapping[str, Any]]) -> tuple[SourceSpec, ...]:
    """Return the sources that a report lists, with those of their topics that were recorded.

    :raises ConfigError: for an entry that cannot be.
    """
    types = {info.name: info.type for info in bag.topics()}
    known = {item.name for item in fields(SourceSpec)}
    out = []
    for entry in table:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v
                                  for k, v in entry.items() if k in known}
        try:
            values['modality'] = parse_modality(str(entry['modality']))
        except ValueError as error:
            raise ConfigError(f'source {entry["name"]}: {error}') from error
        names = [pair[0] if isinstance(pair, (list, tuple)) else pair for pair in entry['topics']]
        values['topics'] = tuple((t, types[t]) for t in names if t in types)
        if values.get('camera_info') not in types:
            values['camera_info'] = ''
        out.append(SourceSpec(**values))
    return tuple(out)


def _of_settings(bag: Bag, config: NodeConfig, modalities: Collection[Modality]
                 ) -> tuple[tuple[SourceSpec, ...], list[str]]:
    """Return the sources that the node's settings name, and what feeds them, for people.

    What they leave open is told by the recording, as publishers tell it to the node.
    """
    types = {info.name: info.type for info in bag.topics()}
    table = source_table(config, modalities)
    lines = [f'  note: source {text}' for text in table.left_out]
    for source in table.open:
        topic = _recorded(source.topic, types)
        if topic is None:
            lines.append(f'  note: source {source.name}: {source.topic} is not in the recording')
            continue
        kind = types[topic]
        first = next(iter(bag.messages([topic])), None)
        modality = modality_of_message(kind, topic, first.message) if first is not None and \
            short_type(kind) in PICTURES else modality_of(
                kind, topic, modalities, tuple(vars(first.message)) if first is not None else ())
        if modality is None:
            lines.append(f'  note: source {source.name}: {topic} ({kind}) is of no use')
        else:
            table = table.with_spec(spec_for(source, kind, modality))
    out = []
    for spec in table.specs:
        found = {_recorded(name, types): name for name, _ in spec.topics}
        topics = tuple((topic, types[topic]) for topic in found if topic is not None)
        lines += [f'  {topic}  -> {spec.name} ({spec.modality.value})' for topic, _ in topics]
        if None in found:
            lines.append(f'  note: source {spec.name}: {found[None]} is not in the recording')
        out.append(replace(spec, topics=topics,
                           camera_info=_recorded(spec.camera_info, types) or ''))
    return tuple(out), lines


def _recorded(name: str, types: Mapping[str, str]) -> str | None:
    """Return the recorded topic that a name, relative to some namespace, means."""
    if not name or name in types or '/' + name in types:
        return name if name in types else '/' + name if name else None
    found = [topic for topic in types if topic.endswith('/' + name)]
    return found[0] if len(found) == 1 and not name.startswith('/') else None


def _whole(bag: Bag, sources: Iterable[SourceSpec]) -> Iterable[str]:
    """Yield the topics of sound that have no stamps, or a codec's state."""
    for source in sources:
        if source.modality is not Modality.AUDIO:
            continue
        for topic, _ in source.topics:
            first = next((m.message for m in bag.messages([topic])), None)
            bare = getattr(getattr(first, 'audio', first), 'data', None)
            if first is not None and (bare is not None or not hasattr(first, 'header')):
                yield topic
