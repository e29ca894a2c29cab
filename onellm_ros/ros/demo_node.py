"""The demonstration's own node: hears descriptions and truth, asks, and keeps sensor messages.

This module owns topics and arrival times; what is said about them is ``demo_report``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
import math
import time
from typing import Any

from onellm_msgs.msg import Description, WindowReport
from onellm_msgs.srv import Ask
from rclpy.node import Node
from std_msgs.msg import String

from onellm_ros.ros.demo_recorder import Recorder
from onellm_ros.ros.demo_report import Said
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.ros.truth_json import truth_from_json
from onellm_ros.simulation.truth import Truth

PERCEPTION = 'perception'
_KEPT = 200


class DemoNode(Node):
    """Listens to the perception node and to the simulated world.

    :param start_s: ``time.monotonic()`` at the start of the demonstration.
    :param simulated: the sensors are those of the simulated robot: their stamps are of this
        machine's clock, and their messages are kept for the picture.
    """

    def __init__(self, start_s: float, simulated: bool) -> None:
        super().__init__('onellm_demo')
        self._start_s, self._same_clock = start_s, simulated
        self.arrived: deque[Said] = deque()
        self.truths: dict[int, Truth] = {}
        self.windows = 0
        self.last_window_s = self.answered_s = -math.inf
        self._closed: dict[int, float] = {}
        self.create_subscription(Description, f'/{PERCEPTION}/description', self._described, 50)
        self.create_subscription(WindowReport, f'/{PERCEPTION}/window', self._window, 50)
        self.create_subscription(String, '/simulation/truth_json', self._true, 50)
        self._ask = self.create_client(Ask, f'/{PERCEPTION}/ask')
        self.recorder = Recorder(self) if simulated else None

    def _described(self, message: Description) -> None:
        now_s, end_ns = time.monotonic(), stamp_ns(message.window_end)
        late_s = (self.get_clock().now().nanoseconds - end_ns) / 1e9
        closed_s = self._closed.get(end_ns, math.nan)
        self.arrived.append(Said(message, now_s - self._start_s,
                                 late_s if self._same_clock else math.nan,
                                 max(0.0, now_s - closed_s)))

    def _window(self, message: WindowReport) -> None:
        self.windows += 1
        self.last_window_s = time.monotonic()
        _keep(self._closed, stamp_ns(message.window_end), self.last_window_s)

    def _true(self, message: String) -> None:
        _keep(self.truths, *truth_from_json(message.data))

    def newest_truth(self) -> Truth | None:
        """Return the truth of the newest window, if the world tells it."""
        return self.truths[max(self.truths)] if self.truths else None

    def heard_by_perception(self, inputs: Collection[str]) -> list[str]:
        """Return those inputs that the perception node has subscribed to by now."""
        return [name for name in inputs if any(
            info.node_name == PERCEPTION for info in self.get_subscriptions_info_by_topic(
                self.resolve_topic_name(name)))]

    def can_ask(self) -> bool:
        """Whether the service is there."""
        return bool(self._ask.service_is_ready())

    def ask(self, text: str) -> Any:
        """Ask about the newest window; returns the future of the response.

        ``answered_s`` is when that came (monotonic).
        """
        future = self._ask.call_async(Ask.Request(question=text))
        future.add_done_callback(lambda _: setattr(self, 'answered_s', time.monotonic()))
        return future


def _keep(store: dict[int, Any], key: int, value: Any) -> None:
    """Add to a store that forgets its oldest entries."""
    store[key] = value
    while len(store) > _KEPT:
        store.pop(next(iter(store)))
