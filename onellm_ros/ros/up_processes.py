"""What ``onellm up`` starts and watches: processes that write to its terminal, and the graph."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import signal
import subprocess
import sys

from rclpy._rclpy_pybind11 import NodeNameNonExistentError
from rclpy.context import Context
from rclpy.node import Node

from onellm_ros.ros.demo_processes import Child, Children
from onellm_ros.ros.transport import large_messages

_NOT_INPUTS = ('/clock', '/parameter_events', '/tf', '/tf_static')


class Processes(Children):
    """Children that share this process's terminal, each in a session of its own.

    Ctrl-C reaches this process alone, which ends them in order; none outlives it, however it dies.
    """

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), large_messages())

    def start(self, name: str, module: str, arguments: Sequence[str] = ()) -> Child:
        """Start a module of Python."""
        process = subprocess.Popen(
            [sys.executable, '-m', 'onellm_ros.ros.up_child', str(os.getpid()), module,
             *arguments],
            stdin=subprocess.DEVNULL, env=self._environment, start_new_session=True)
        self.all.append(Child(name, process, Path(os.devnull)))
        return self.all[-1]

    def forget(self, child: Child) -> None:
        """Leave out a child that has ended."""
        self.all.remove(child)

    def kill(self) -> None:
        """End all at once, without asking."""
        for child in self.all:
            try:
                os.killpg(child.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def status_of(code: int) -> int:
    """Return a process's exit status as shells tell it: 128 + N for signal N."""
    return 128 - code if code < 0 else code


def how_it_ended(code: int) -> str:
    """Return how a process ended, in words.

    :param code: as ``Popen.returncode`` has it.
    """
    if code >= 0:
        return f'ended with status {code}'
    try:
        return f'ended by signal {-code} ({signal.Signals(-code).name})'
    except ValueError:
        return f'ended by signal {-code}'


class Watch:
    """Looks at the ROS graph with a node of its own; :meth:`close` ends it.

    :param namespace: of the node that is watched; empty: none. :param name: its name.
    """

    def __init__(self, namespace: str, name: str) -> None:
        self._name, self._namespace = name, '/' + namespace.strip('/')
        self._context = Context()
        self._context.init(args=[], initialize_logging=False)
        self._node = Node(f'onellm_up_{os.getpid()}', context=self._context, enable_rosout=False,
                          start_parameter_services=False)

    def inputs(self) -> dict[str, str]:
        """Return the topics that the node subscribes, and their types."""
        try:
            found = self._node.get_subscriber_names_and_types_by_node(self._name, self._namespace)
        except NodeNameNonExistentError:
            return {}
        return {topic: ' or '.join(types) for topic, types in found if topic not in _NOT_INPUTS}

    def count(self) -> int:
        """Return how many nodes have the name."""
        return self._node.get_node_names_and_namespaces().count((self._name, self._namespace))

    def close(self) -> None:
        """End the node."""
        self._node.destroy_node()
        self._context.try_shutdown()
