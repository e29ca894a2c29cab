"""Transitions of a lifecycle node that are asked for at the wrong time."""

from __future__ import annotations

from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode


def refuse_impossible(node: LifecycleNode) -> None:
    """Have ~/change_state answer false where rclpy's own callback would end the process."""
    service = node._service_change_state
    change = service.callback

    def refuse_or_change(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except rclpy_implementation.RCLError as error:
            node.get_logger().error(
                f'no such transition from {node._state_machine.current_state[1]}: {error}')
            response.success = False
            return response
    service.callback = refuse_or_change
