"""Frames of a running robot: transforms to the base frame out of tf2, where tf2_ros is installed.

tf2 is asked only when a cloud in another frame comes; until then nothing is imported and nothing
is subscribed. What is done with a transform, and without one, stands in
``perception/extrinsics.py``. All of it runs on the thread of the node's executor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.extrinsics import Placer, Transform, bare

FRESH_NS = 1_000_000_000    # a moving transform further from the stamp than this is not used
GRACE_S = 3.0               # static transforms come so long after the listener is made, at most


@dataclass(frozen=True)
class Tf:
    """What of tf2 is used.

    :param buffer: a ``tf2_ros.Buffer``, or what has its ``lookup_transform`` and ``clear``.
    :param errors: what a failing lookup raises; an unusable transform is a ValueError.
    :param close: ends the listener.
    """

    buffer: Any
    errors: tuple[type[Exception], ...]
    close: Callable[[], None]


def listen(node: Node) -> Tf | None:
    """Subscribe to the robot's transforms; None where tf2_ros is not installed."""
    try:
        import tf2_ros
    except ImportError:
        return None
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, node, spin_thread=False)
    return Tf(buffer, (tf2_ros.TransformException,), listener.unregister)


class Frames:
    """Brings clouds (and normals) of a running robot into the base frame; call it with a sample.

    :param warn: (kind, text), said once by whoever gets it.
    :param listen: makes the listener, at the first cloud that needs one; None: there is no tf2.
    """

    def __init__(self, node: Node, config: NodeConfig, warn: Callable[[str, str], None],
                 listen: Callable[[Node], Tf | None] = listen) -> None:
        self._node, self._listen = node, listen
        self._base = bare(config.base_frame)
        self._tf: Tf | None = None
        self._asked_s: float | None = None      # when the listener was made, or found missing
        self.placer = Placer(config, warn, self._lookup)

    def __call__(self, modality: Modality, sample: Sample) -> Sample:
        """Return a sample in the base frame, as far as that is known; others as they are."""
        return self.placer(modality, sample)

    def _lookup(self, frame: str, stamp_ns: int) -> tuple[Transform | None, str]:
        """Return the transform from a frame at a time, or None and why (empty: not yet)."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._tf = self._listen(self._node)
        if self._tf is None:
            return None, 'tf2_ros is not installed'
        try:
            return self._transform(self._tf, frame, Time(nanoseconds=stamp_ns)), ''
        except ValueError as error:
            return None, f'tf2: {error}'
        except self._tf.errors as error:
            why = str(error)
        try:    # newer than what tf2 holds, as a rule: the newest will do if it is near, or static
            found = self._tf.buffer.lookup_transform(self._base, frame, Time())
            newest = Transform.from_message(found.transform)
        except ValueError as error:
            return None, f'tf2: {error}'
        except self._tf.errors as error:
            waiting = time.monotonic() - self._asked_s < GRACE_S
            return None, '' if waiting else f'tf2: {error}'
        stamp = found.header.stamp
        newest_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if newest_ns and abs(newest_ns - stamp_ns) > FRESH_NS:
            off_s = (newest_ns - stamp_ns) / 1e9
            return None, f'tf2: the newest one is {off_s:+.1f} s from the stamp: {why}'
        return newest, ''

    def _transform(self, tf: Tf, frame: str, at: Time) -> Transform:
        return Transform.from_message(
            tf.buffer.lookup_transform(self._base, frame, at).transform)

    def clear(self) -> None:
        """Forget moving transforms (time jumped back); static ones stay in the buffer."""
        if self._tf is not None:
            self._tf.buffer.clear()

    def close(self) -> None:
        """End the listener."""
        if self._tf is not None:
            self._tf.close()
        self._tf, self._asked_s = None, None
