"""What a node's parameters are at the begin of a recording, and how they change while it lasts.

They are asked for when the node is found, and again whenever it was restarted; in between the
node's own events on ``/parameter_events`` tell of each change. Runs on the recorder's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import time
from typing import Any

from rcl_interfaces.msg import ParameterEvent
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

from onellm_ros.ros.subscriptions import node_of

EVENTS = '/parameter_events'
ASK_S = 5.0                     # parameters that have not come by then are asked for again


class ParameterTrail:
    """Follows one node's parameters; call :meth:`poll` some times a second.

    Attributes: ``first`` (name -> value at the begin; empty: they have not come), ``values`` (as
    they are now), ``changes`` (of what came after, each a mapping of ``stamp_ns``, ``name``,
    ``from`` and ``to``; None: there was, or is, no such parameter), ``restarts`` (when the node
    was found anew).

    :param client: asks the node for its parameters.
    :param lives: returns what tells one life of the node from the next; empty: it is not there.
    """

    def __init__(self, client: Any, lives: Callable[[], frozenset[bytes]]) -> None:
        self._client, self._lives = client, lives
        self.first: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.changes: list[dict[str, Any]] = []
        self.restarts: list[int] = []
        self._life: frozenset[bytes] = frozenset()      # whose parameters are known, or asked for
        self._number = 0                # of the newest time of asking; answers to others are late
        self._waiting = True            # for an answer
        self._ask_s = 0.0
        self._found: dict[str, Any] = {}
        self._open = 0                  # requests that are not answered
        self._early: list[tuple[int, dict[str, Any]]] = []      # changes before the first answer

    @classmethod
    def of(cls, node: Node, target: str) -> ParameterTrail:
        """Return the trail of the node with this full name."""
        return cls(AsyncParameterClient(node, target), lambda: frozenset(
            bytes(p.endpoint_gid) for p in node.get_publishers_info_by_topic(EVENTS)
            if node_of(p) == target))

    # -- asking -------------------------------------------------------------------------------

    def poll(self) -> None:
        """Ask for the parameters, until they have come, and again when the node was restarted."""
        lives = self._lives()
        if self._life and lives - self._life:       # not when it is found only now
            self._waiting, self._ask_s = True, 0.0
        self._life = lives or self._life
        now_s = time.monotonic()
        if not self._waiting or now_s < self._ask_s or not self._client.services_are_ready():
            return
        self._ask_s = now_s + ASK_S         # a node that ended meanwhile does not answer
        self._number += 1
        self._found, self._open = {}, 0
        number = self._number
        self._client.list_parameters().add_done_callback(
            lambda future: self._listed(number, future))

    def _listed(self, number: int, future: Any) -> None:
        answer = _answer(future)
        if answer is not None and number == self._number:
            self._get(number, list(answer.result.names))

    def _get(self, number: int, names: Sequence[str]) -> None:
        if names:
            self._open += 1
            self._client.get_parameters(list(names)).add_done_callback(
                lambda future: self._got(number, names, future))

    def _got(self, number: int, names: Sequence[str], future: Any) -> None:
        answer = _answer(future)
        if answer is None or number != self._number:
            return                          # the node ended meanwhile: it is asked again
        self._open -= 1
        if len(answer.values) == len(names):
            self._found |= {name: plain(parameter_value_to_python(value))
                            for name, value in zip(names, answer.values, strict=True)}
        elif len(names) > 1:                # one that has no value spoils the answer for all
            half = len(names) // 2
            self._get(number, names[:half])
            self._get(number, names[half:])
        if not self._open and self._found:
            self._know()

    def _know(self) -> None:
        """Take over what the node has answered."""
        self._waiting = False
        early, self._early = self._early, []
        if self.first:                      # it was restarted
            now_ns = time.time_ns()
            self.restarts.append(now_ns)
            gone = dict.fromkeys(self.values.keys() - self._found.keys())
            self._change(now_ns, {**self._found, **gone})
            return
        self.first, self.values = dict(self._found), dict(self._found)
        last = {name: value for _, changes in early for name, value in changes.items()}
        for stamp_ns, changes in early:     # those that the answer does not hold came after it
            self._change(stamp_ns, {n: v for n, v in changes.items()
                                    if last[n] != self.first.get(n)})

    # -- changes ------------------------------------------------------------------------------

    def take(self, event: ParameterEvent, stamp_ns: int) -> None:
        """Take over what the node tells of its parameters.

        :param stamp_ns: when that was received.
        """
        changes = {p.name: plain(parameter_value_to_python(p.value))
                   for p in (*event.new_parameters, *event.changed_parameters)}
        changes |= dict.fromkeys(p.name for p in event.deleted_parameters)
        if self.first:
            self._change(stamp_ns, changes)
        else:
            self._early.append((stamp_ns, changes))

    def _change(self, stamp_ns: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            before = self.values.get(name)
            if value == before and type(value) is type(before):
                continue
            self.changes.append({'stamp_ns': stamp_ns, 'name': name, 'from': before, 'to': value})
            self.values[name] = value
            if value is None:
                del self.values[name]


def _answer(future: Any) -> Any:
    """Return a service's answer; None: there is none."""
    try:
        return future.result()
    except Exception:  # noqa: BLE001 (whatever it is, the node is asked again)
        return None


def plain(value: Any) -> Any:
    """Return a parameter's value as YAML takes it."""
    if isinstance(value, (str, bytes)) or value is None:
        return value
    return list(value) if isinstance(value, Iterable) else value
