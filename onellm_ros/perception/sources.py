"""Sources: the topics that feed the model, by name, and how windows are cut from them.

A source is one stream of one modality. The default ones stand below; a robot with several cameras
or lidars names its own (``sources`` in the parameters). Knows neither ROS nor messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, in_order, spec_of
from onellm_ros.node_config import InputConfig, WindowConfig
from onellm_ros.windows import StreamSpec, WindowSpec

SECOND_NS = 1_000_000_000
CAMERA_INFO = 'camera_info'
# Messages held at most: (within the window, in the lookback) a second.
_RATES = {Modality.IMAGE: (120, 10), Modality.DEPTH: (120, 0), Modality.NORMAL: (120, 0),
          Modality.POINT: (50, 0), Modality.IMU: (2000, 2000), Modality.AUDIO: (200, 200),
          Modality.FMRI: (100, 0)}


@dataclass(frozen=True)
class SourceSpec:
    """One source.

    :param topics: (topic, message type) pairs that feed it; as they are named before remapping.
    :param camera_info: topic of the calibration that goes with a picture; empty: none.
    """

    name: str
    modality: Modality
    topics: tuple[tuple[str, str], ...]
    camera_info: str = ''


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


def window_spec(config: WindowConfig, sources: Sequence[SourceSpec],
                lookback_ns: Callable[[Modality], int]) -> WindowSpec:
    """Return how windows are cut from the sources.

    :param lookback_ns: how far a modality reaches back before a window's end.
    :raises ConfigError: for a required input that is not among the sources.
    """
    known = {s.modality.value for s in sources}
    strangers = set(config.required) - known
    if strangers:
        raise ConfigError(f'window.required: found {sorted(strangers)[0]!r}, expected some of '
                          f'{sorted(known)}, which the model is shown')
    specs = []
    for source in sources:
        modality = source.modality
        back_ns = lookback_ns(modality)
        inside, behind = _RATES.get(modality, (50, 0))
        held_s = config.length_s + config.period_s + config.silence_s
        capacity = int(inside * held_s + behind * back_ns / SECOND_NS) + 16
        specs.append(StreamSpec(source.name, modality, modality.value in config.required, back_ns,
                                capacity, SECOND_NS // 10 if modality is Modality.IMAGE else 0))

    def ns(seconds: float) -> int:
        return round(seconds * SECOND_NS)
    return WindowSpec(tuple(specs), ns(config.length_s), ns(config.period_s),
                      ns(config.lateness_s), ns(config.deadline_s), ns(config.silence_s))
