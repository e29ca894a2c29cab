"""What the node says about itself: a heartbeat in every state, diagnostics while it is active.

This module owns when and where this is published; ``outputs.py`` makes the messages. Both run on
timers of the steady clock on the node's executor, so that a watchdog hears when that hangs, and
that simulated time may stand still or jump.
"""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from onellm_ros.machine import rss_bytes
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception import memory
from onellm_ros.perception.worker import Worker
from onellm_ros.ros import outputs
from onellm_ros.ros.inputs import Inputs


class Reporting:
    """Publishes ``~/heartbeat`` while it exists, and ``/diagnostics`` when it is told.

    :param state: what the heartbeat calls the node's state.
    """

    def __init__(self, node: LifecycleNode, state: Any) -> None:
        self._node = node
        self._state = state
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._heartbeat = node.create_publisher(Header, '~/heartbeat', 10)
        self._timer: Any = None
        self._hz = 0.0

    def beat_at(self, hz: float) -> None:
        """Publish so many heartbeats a second from now on; 0: none."""
        if hz == self._hz:
            return
        self._hz = hz
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        if hz > 0:
            self._timer = self._node.create_timer(1 / hz, self._beat, clock=self._steady)

    def _beat(self) -> None:
        self._heartbeat.publish(Header(stamp=self._node.get_clock().now().to_msg(),
                                       frame_id=self._state()))

    def diagnose(self, config: NodeConfig, inputs: Inputs, worker: Worker,
                 modality_of: dict[str, Modality], *, jumps: int, enabled: bool) -> None:
        """Publish how each input and the model do."""
        node = self._node
        message = DiagnosticArray()
        message.header.stamp = node.get_clock().now().to_msg()
        name = node.get_fully_qualified_name().strip('/')
        required = {parse_modality(m) for m in config.window.required}
        paused_s = inputs.clock.paused_s
        message.status = [
            outputs.input_status(name, health, modality_of.get(health.stream) in required,
                                 config.window.silence_s + paused_s)
            for health in inputs.health()]
        device = str(getattr(worker.engine, 'device', config.device))
        message.status.append(outputs.engine_status(
            name, worker.model, device, worker.report(), outputs.Work(
                *worker.busy(), worker.alive, config.stall_s, rss_bytes() or 0,
                memory.cuda_bytes(), paused_s, _backend(worker.engine)), jumps, enabled))
        self._diagnostics.publish(message)


def _backend(engine: Any) -> str:
    """Return what computes an engine's model, and why; empty where it does not say."""
    backend = getattr(engine, 'backend', None)
    parts = (getattr(backend, 'name', ''), getattr(backend, 'detail', ''),
             getattr(engine, 'backend_why', ''))
    return '; '.join(part for part in parts if part)
