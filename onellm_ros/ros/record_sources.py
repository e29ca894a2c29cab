"""Which sources a recorded node has, and the topics that they heard, by its own diagnostics.

So a replay need not find out again what the node knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray

from onellm_ros.config import ConfigError
from onellm_ros.modality import SHIPPED, Modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.sources import CAMERA_INFO, source_table
from onellm_ros.replay.params import config_of


class HeardSources:
    """What the diagnostics of one node have told. Attribute ``model``: its model, or empty.

    :param target: full name of the node.
    """

    def __init__(self, target: str) -> None:
        self._begin = target.strip('/') + ': '
        self._streams: dict[str, list[str]] = {}
        self.model = ''

    def take(self, message: DiagnosticArray) -> None:
        """Take over what a message tells of the node; others' are ignored."""
        streams: dict[str, list[str]] = {}
        for status in message.status:
            if not status.name.startswith(self._begin):
                continue
            stream = status.name[len(self._begin):]
            values = {v.key: v.value for v in status.values}
            if 'model' in values:
                self.model = values['model']
            elif 'topics' in values:        # just restarted, it may not have found them yet
                streams[stream] = [t for t in values['topics'].split(', ') if t] \
                    or self._streams.get(stream, [])
        self._streams = streams or self._streams

    def table(self, values: Mapping[str, Any],
              shown: Callable[[Sequence[str]], Modality | None]
              ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the sources in order of rank, and those of which that is not known, with why.

        :param values: the node's parameters.
        :param shown: returns the modality of what came on some topics; None: nothing came.
        """
        if not values or not self._streams:
            return [], {}
        try:
            config, _ = config_of(values)
            specs = {s.name: s for s in source_table(config, _modalities(config)).specs}
        except ConfigError as error:
            return [], {'sources': str(error)}
        named = {s.name: s for s in config.sources}
        cameras = self._streams.get(CAMERA_INFO, [])
        out, unsure = [], {}
        for stream, topics in self._streams.items():
            if stream == CAMERA_INFO:
                continue
            spec = specs.get(stream)
            modality = spec.modality if spec is not None else shown(topics)
            if modality is None:
                unsure[f'source {stream}'] = 'no message has shown what it is'
                continue
            entry: dict[str, Any] = {'name': stream, 'modality': modality.value, 'topics': topics}
            pictures = modality in (Modality.IMAGE, Modality.DEPTH)
            beside = _nearest(topics[0], cameras) if topics and cameras and pictures else ''
            if beside and (spec is None or spec.camera_info):
                entry['camera_info'] = beside
            if stream in named:
                entry |= {k: getattr(named[stream], k) for k in ('frame', 'stamps')
                          if getattr(named[stream], k)}
            out.append(entry)
        return out, unsure


def _modalities(config: NodeConfig) -> tuple[Modality, ...]:
    return tuple(Modality(m) for m in config.modalities) or (
        *Modality, *(Modality(name) for name in SHIPPED))


def _nearest(topic: str, cameras: Sequence[str]) -> str:
    """Return the calibration whose name shares the longest begin with a topic's."""
    return max(cameras, key=lambda c: len(os.path.commonprefix((c, topic))))
