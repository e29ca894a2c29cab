"""Which CameraInfo goes with a depth topic: the one that the perception node takes.

This module owns finding that out. The node's parameters say it (``source.NAME.camera_info``, or
``camera_info`` for the default inputs), its subscriptions on the graph show what remapping made
of that, and where neither is to be had, the convention of ROS holds: ``camera_info`` beside the
picture. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import os
import time
from typing import Any

from rcl_interfaces.srv import GetParameters
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.parameter import parameter_value_to_python

from onellm_ros.perception.sources import CAMERA_INFO, camera_beside

ASK_S = 10.0                # between questions: the node may have started anew with other settings
_TYPE = 'sensor_msgs/msg/CameraInfo'
_KEYS = ('topic', 'camera_info')


def nearest(topic: str, cameras: Iterable[str]) -> str:
    """Return the calibration whose name shares the longest beginning with a topic's; or empty."""
    return max(sorted(cameras), key=lambda c: len(os.path.commonprefix((c, topic))), default='')


class Cameras:
    """Knows the calibrations of depth topics; call :meth:`poll` now and then while it is open.

    :param perception: name of the perception node, relative to the namespace.
    :param warn: (what, text), said once.
    """

    def __init__(self, node: Node, perception: str, warn: Callable[[str, str], None]) -> None:
        self._node, self._warn = node, warn
        full = expand_topic_name(perception, node.get_name(), node.get_namespace())
        self._space, _, self._name = full.rpartition('/')
        self._service = f'{full}/get_parameters'
        self._client: Any = None
        self._future: Any = None
        self._ask_s = 0.0
        self._told: dict[str, str] | None = None    # by topic; '': all others

    def close(self) -> None:
        """Ask no more; what is known is forgotten."""
        if self._client is not None:
            self._node.destroy_client(self._client)
        self._client = self._future = self._told = None
        self._ask_s = 0.0

    # -- what the node's parameters say -------------------------------------------------------

    def poll(self) -> None:
        """Ask the perception node for its sources, if it is time to."""
        now_s = time.monotonic()
        if now_s < self._ask_s:
            return
        try:
            if self._client is None:
                self._client = self._node.create_client(GetParameters, self._service)
        except rclpy_implementation.RCLError as error:      # forbidden by a SROS2 policy
            self._warn(self._service, f'cannot be asked which CameraInfo goes with which source '
                       f'({error}); it is guessed by the names of topics')
            self._ask_s = now_s + ASK_S
            return
        if not self._client.service_is_ready():
            return
        self._ask_s = now_s + ASK_S
        if self._future is not None:
            self._client.remove_pending_request(self._future)   # its node ended meanwhile
        self._ask(['sources'], self._on_names)

    def _ask(self, names: Sequence[str], take: Callable[[list[Any]], None]) -> None:
        def done(future: Any) -> None:
            if future is not self._future:
                return
            self._future = None
            response = None if future.cancelled() or future.exception() else future.result()
            if response is not None and len(response.values) == len(names):
                take([parameter_value_to_python(value) for value in response.values])
        self._future = self._client.call_async(GetParameters.Request(names=list(names)))
        self._future.add_done_callback(done)

    def _on_names(self, values: list[Any]) -> None:
        names = [name for name in values[0] or () if name]
        if not names:
            self._told = {'': self._resolved(CAMERA_INFO)}
            return
        asked = [f'source.{name}.{key}' for name in names for key in _KEYS]
        self._ask(asked, self._on_sources)

    def _on_sources(self, values: list[Any]) -> None:
        """Take in topic and camera_info of each source, in turn."""
        self._told = {self._resolved(topic): self._resolved(camera or camera_beside(topic))
                      for topic, camera in zip(values[::2], values[1::2], strict=True) if topic}

    def _resolved(self, topic: str) -> str:
        """Return a topic of the perception node in full; this node's remapping holds for both."""
        try:
            return self._node.resolve_topic_name(
                expand_topic_name(topic, self._name, self._space or '/'))
        except (InvalidTopicNameException, ValueError):
            return topic            # the perception node says so

    # -- what the graph shows -----------------------------------------------------------------

    def _heard(self) -> set[str]:
        """Return the CameraInfo topics that the perception node subscribes to."""
        try:
            found = self._node.get_subscriber_names_and_types_by_node(
                self._name, self._space or '/')
        except NodeNameNonExistentError:
            return set()
        return {topic for topic, kinds in found if _TYPE in kinds}

    def of(self, topic: str) -> str:
        """Return the CameraInfo topic that goes with a depth topic, both in full."""
        told = None if self._told is None else self._told.get(topic, self._told.get(''))
        heard, beside = self._heard(), camera_beside(topic)
        for likely in filter(None, (told, beside)):
            if likely in heard:
                return likely
        return nearest(topic, heard) or told or beside
