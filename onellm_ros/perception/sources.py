"""Sources: the topics that feed the model, by name, and how windows are cut from them.

A source is one stream of one modality. The default ones stand below; a robot with several cameras
or lidars names its own (``sources`` in the parameters). What a source sends may not be known
before its publisher is there: such sources are open, and join the windows once that is known.
Knows neither ROS nor messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
import re

from onellm_ros.choose import ChoiceSpec
from onellm_ros.config import ConfigError, TokenizerConfig
from onellm_ros.modality import Modality, Sample, in_order, spec_of
from onellm_ros.node_config import InputConfig, NodeConfig, SourceConfig, WindowConfig
from onellm_ros.ros.message_types import modality_of_type, short_type
from onellm_ros.windows import StreamSpec, WindowSpec

SECOND_NS = 1_000_000_000
CAMERA_INFO = 'camera_info'
# Messages held at most: (within the window, in the lookback) a second.
_RATES = {Modality.IMAGE: (120, 10), Modality.DEPTH: (120, 0), Modality.NORMAL: (120, 0),
          Modality.POINT: (50, 0), Modality.IMU: (2000, 2000), Modality.AUDIO: (200, 200),
          Modality.FMRI: (100, 0)}
PICTURES = ('Image', 'CompressedImage')     # which modality one is, its first message tells
# Types that the conversions of a modality take; those of sound and voxels go by their fields.
_TYPES = {Modality.IMAGE: PICTURES, Modality.DEPTH: PICTURES, Modality.NORMAL: PICTURES,
          Modality.POINT: ('PointCloud2', 'PointCloud'), Modality.IMU: ('Imu',)}
_FIELDS = {Modality.AUDIO: {'samples', 'audio', 'audio_data', 'data'}, Modality.FMRI: {'data'}}
_TRANSPORTS = ('compressed', 'compressedDepth', 'zstd', 'raw')
_HALF = re.compile(r'(?i)(gyro(scope)?|accel(erometer)?)')


@dataclass(frozen=True)
class SourceSpec:
    """One source.

    :param topics: (topic, message type) pairs that feed it; as they are named before remapping.
        An empty type: whatever usable one its publisher has.
    :param camera_info: topic of the calibration that goes with a picture; empty: none.
    :param frame: frame of its data; empty: the messages' own.
    :param reliability: of its subscriptions; empty: as for all inputs. ``stamps``: likewise.
    """

    name: str
    modality: Modality
    topics: tuple[tuple[str, str], ...]
    camera_info: str = ''
    frame: str = ''
    reliability: str = ''
    stamps: str = ''


@dataclass(frozen=True)
class SourceTable:
    """The sources of a node, in order of rank.

    :param specs: those whose modality is known.
    :param open: those whose modality their publisher will show.
    :param left_out: names and reasons of those that the model is not shown.
    :param rank: names of all, in order.
    """

    specs: tuple[SourceSpec, ...]
    open: tuple[SourceConfig, ...] = ()
    left_out: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()

    def with_spec(self, spec: SourceSpec) -> SourceTable:
        """Return the table with what is known of one source now."""
        specs = [s for s in self.specs if s.name != spec.name] + [spec]
        return replace(self, specs=tuple(sorted(specs, key=lambda s: self.rank.index(s.name))),
                       open=tuple(s for s in self.open if s.name != spec.name))


def default_sources(config: InputConfig, modalities: Iterable[Modality] = tuple(Modality)
                    ) -> tuple[SourceSpec, ...]:
    """Return the sources of a node that was told none, in order of rank.

    The first one that speaks is the reference for the clock.

    :param modalities: what the model is shown; the video is made of the image.
    """
    wanted = set(modalities)
    if Modality.VIDEO in wanted:
        wanted.add(Modality.IMAGE)
    image, compressed = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
    table = [
        SourceSpec('image', Modality.IMAGE, (('image', image), ('image/compressed', compressed)),
                   CAMERA_INFO),
        SourceSpec('depth', Modality.DEPTH,
                   (('depth', image), ('depth/compressedDepth', compressed)), CAMERA_INFO),
        SourceSpec('normal', Modality.NORMAL, (('normal', image),)),
        SourceSpec('points', Modality.POINT, (('points', 'sensor_msgs/msg/PointCloud2'),)),
        SourceSpec('imu', Modality.IMU, (('imu', 'sensor_msgs/msg/Imu'),)),
        SourceSpec('audio', Modality.AUDIO, (('audio', config.audio_type),)),
        SourceSpec('fmri', Modality.FMRI, (('fmri', 'std_msgs/msg/Float32MultiArray'),))]
    for modality in in_order(wanted):
        spec = spec_of(modality)
        if spec is not None and spec.message:
            table.append(SourceSpec(modality.value, modality, ((modality.value, spec.message),)))
    return tuple(source for source in table if source.modality in wanted)


def source_table(config: NodeConfig, modalities: Collection[Modality]) -> SourceTable:
    """Return the sources that the settings name; without any, the default ones.

    Two IMU topics that are the halves of one sensor (``gyro`` and ``accel`` in their names) are
    one source.

    :param modalities: what the model is shown.
    :raises ConfigError: for a type that its modality cannot use, or if no source remains.
    """
    if not config.sources:
        specs = default_sources(config.inputs, modalities)
        return SourceTable(specs, rank=tuple(s.name for s in specs))
    wanted = set(modalities) | ({Modality.IMAGE} if Modality.VIDEO in modalities else set())
    named: tuple[SourceSpec, ...] = ()
    unknown, left_out = [], []
    for source in config.sources:
        modality = _modality(source, wanted)
        if modality is None:
            unknown.append(source)
        elif modality not in wanted:
            left_out.append(f'{source.name}: the model is not shown {modality}')
        else:
            named = (*named, spec_for(source, source.type, modality))
    if not named and not unknown:
        raise ConfigError(f'sources: found {"; ".join(left_out)}; expected some of '
                          f'{", ".join(in_order(wanted))}')
    joined = _with_halves(named)
    gone = {s.name for s in named} - {s.name for s in joined}
    return SourceTable(joined, tuple(unknown), tuple(left_out),
                       tuple(s.name for s in config.sources if s.name not in gone))


def _modality(source: SourceConfig, modalities: Collection[Modality]) -> Modality | None:
    """Return what a source is of by its settings; None: its publisher will show."""
    modality = Modality(source.modality) if source.modality else None
    if modality is Modality.VIDEO:
        raise ConfigError(f'source.{source.name}.modality: found video, which is made of an '
                          'image source; expected image')
    if not source.type:
        return modality
    if modality is None:
        if short_type(source.type) in PICTURES:
            return None
        modality = modality_of(source.type, source.topic, modalities)
        if modality is None:
            raise ConfigError(f'source.{source.name}.type: found {source.type}, which is not the '
                              'type of one modality; expected its modality, too')
    why = unfit(modality, source.type)
    if why:
        raise ConfigError(f'source.{source.name}.type: {why}')
    return modality


def modality_of(kind: str, topic: str, modalities: Collection[Modality],
                fields: Collection[str] = ()) -> Modality | None:
    """Return the modality of a message type, a registered one of the model before the eight.

    :param fields: of the message, if they are known; sound is found by them.
    """
    for modality in in_order(modalities):
        spec = spec_of(modality)
        if spec is not None and spec.message == kind:
            return modality
    return modality_of_type(kind, topic, fields)


def unfit(modality: Modality, kind: str, fields: Collection[str] = ()) -> str:
    """Return why messages of a type cannot feed a modality; empty: they can, or may."""
    spec = spec_of(modality)
    types = _TYPES.get(modality, ()) if spec is None else (short_type(spec.message),)
    if fields and modality in _FIELDS and not _FIELDS[modality] & set(fields):
        return (f'found {kind}, expected a message with a field '
                f'{" or ".join(sorted(_FIELDS[modality]))} for the modality {modality}')
    if not types or short_type(kind) in types:
        return ''
    return f'found {kind}, expected {" or ".join(types)} for the modality {modality}'


def spec_for(source: SourceConfig, kind: str, modality: Modality) -> SourceSpec:
    """Return a named source of which type (may be empty) and modality are known."""
    camera = ''
    if modality in (Modality.IMAGE, Modality.DEPTH):
        camera = source.camera_info or camera_beside(source.topic)
    return SourceSpec(source.name, modality, ((source.topic, kind),), camera, source.frame,
                      source.reliability, source.stamps)


def camera_beside(topic: str) -> str:
    """Return the topic of the calibration that goes with a picture topic.

    ``/front/image_raw`` and ``/front/image_raw/compressed`` have ``/front/camera_info``.
    """
    base, _, last = topic.rpartition('/')
    if last in _TRANSPORTS and base:
        base = base.rpartition('/')[0]
    elif last in _TRANSPORTS:
        return CAMERA_INFO
    return f'{base}/{CAMERA_INFO}' if base or topic.startswith('/') else CAMERA_INFO


def _with_halves(specs: Sequence[SourceSpec]) -> tuple[SourceSpec, ...]:
    """Join IMU sources whose topics differ only in ``gyro`` and ``accel``: halves of one."""
    out: list[SourceSpec] = []
    for spec in specs:
        key = _HALF.sub('*', spec.topics[0][0])
        twin = next((i for i, other in enumerate(out) if spec.modality is Modality.IMU
                     and other.modality is Modality.IMU and '*' in key
                     and _HALF.sub('*', other.topics[0][0]) == key), None)
        if twin is None:
            out.append(spec)
        else:
            out[twin] = replace(out[twin], topics=out[twin].topics + spec.topics)
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Plan:
    """What follows from the sources: how windows are cut, and what is taken out of them."""

    table: SourceTable
    choice: ChoiceSpec
    windows: WindowSpec

    @classmethod
    def of(cls, table: SourceTable, config: NodeConfig, tokenizer: TokenizerConfig,
           modalities: Collection[Modality],
           place: Callable[[Modality, Sample], Sample] | None = None) -> Plan:
        """Return the plan of a model.

        :param modalities: what it is shown. :param place: see ``ChoiceSpec``.
        :raises ConfigError: for a required input that is not among the sources.
        """
        choice = ChoiceSpec.for_model(
            tokenizer, {s.name: s.modality for s in table.specs}, modalities,
            video_ns=round(config.window.video_s * SECOND_NS),
            merge_points=config.window.merge_points, place=place)
        return cls(table, choice, window_spec(config.window, table.specs, choice.lookback_ns,
                                              more=bool(table.open)))


def window_spec(config: WindowConfig, sources: Sequence[SourceSpec],
                lookback_ns: Callable[[Modality], int], more: bool = False) -> WindowSpec:
    """Return how windows are cut from the sources.

    Of a required modality, the first source is required.

    :param lookback_ns: how far a modality reaches back before a window's end.
    :param more: further sources will join.
    :raises ConfigError: for a required input that is not among the sources.
    """
    known = {s.modality.value for s in sources}
    strangers = set(config.required) - known
    if strangers and not more:
        raise ConfigError(f'window.required: found {sorted(strangers)[0]!r}, expected some of '
                          f'{sorted(known)}, which the model is shown')
    specs = []
    first: dict[Modality, str] = {}
    for source in sources:
        modality = source.modality
        required = (modality.value in config.required
                    and first.setdefault(modality, source.name) == source.name)
        back_ns = lookback_ns(modality)
        inside, behind = _RATES.get(modality, (50, 0))
        held_s = config.length_s + config.period_s + config.silence_s
        capacity = int(inside * held_s + behind * back_ns / SECOND_NS) + 16
        specs.append(StreamSpec(source.name, modality, required, back_ns, capacity,
                                SECOND_NS // 10 if modality is Modality.IMAGE else 0))

    def ns(seconds: float) -> int:
        return round(seconds * SECOND_NS)
    return WindowSpec(tuple(specs), ns(config.length_s), ns(config.period_s),
                      ns(config.lateness_s), ns(config.deadline_s), ns(config.silence_s))
