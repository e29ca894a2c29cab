"""The service ``~/ask`` and the action ``~/ask_stream``: questions in, answers out.

This module owns these two interfaces, and ``~/answer``, where each answer is told to all. They
hand checked questions to the worker and wait for the reply without holding a thread, so that
parameters, messages and other questions go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
import time
from typing import Any

from onellm_msgs.action import AskStream
from onellm_msgs.msg import Answer
from onellm_msgs.srv import Ask
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future as RosFuture

from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.questions import AskError, question_of
from onellm_ros.perception.results import Reply
from onellm_ros.perception.worker import Worker
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.ros.outputs import answer_message, fill_answer

# Of the usual ten requests that are held, those of a burst before would get no answer at all.
_QOS = QoSProfile(depth=100)
_FEEDBACK = QoSProfile(depth=1000)         # tokens come faster than a busy client reads them


class Asking:
    """Serves questions from the node's birth to its end; refuses them where it must.

    :param worker: returns the worker, or raises AskError where none can be asked.
    :param config: returns the node's settings as they are now.
    """

    def __init__(self, node: Node, worker: Callable[[], Worker],
                 config: Callable[[], NodeConfig]) -> None:
        self._node = node
        self._worker = worker
        self._config = config
        self._answers = node.create_publisher(Answer, '~/answer', 10)
        self._goals: dict[bytes, tuple[Worker, Future[Reply]]] = {}
        self.open = 0               # questions that have no reply yet
        # questions wait for the model: they must not exclude each other or anything else
        group = ReentrantCallbackGroup()
        self._service = node.create_service(
            Ask, '~/ask', self._on_ask, callback_group=group, qos_profile=_QOS)
        self._action = ActionServer(
            node, AskStream, '~/ask_stream', self._on_goal, callback_group=group,
            cancel_callback=self._on_cancel, goal_service_qos_profile=_QOS,
            result_service_qos_profile=_QOS, feedback_pub_qos_profile=_FEEDBACK)

    def close(self) -> None:
        """End the action server (the service ends with the node)."""
        self._action.destroy()

    async def _reply(self, request: Any, on_delta: Callable[[str, int], None] | None = None,
                     goal: bytes = b'', cancelled: Callable[[], bool] = lambda: False) -> Reply:
        """Have a request answered; a refusal is a reply, too. Onlookers hear of it."""
        self.open += 1
        try:
            reply = await self._replied(request, on_delta, goal, cancelled)
        finally:
            self.open -= 1
        self._tell(request, reply, streamed=bool(goal))
        return reply

    def _tell(self, request: Any, reply: Reply, streamed: bool) -> None:
        """Tell onlookers; who asked gets the reply, whatever becomes of that."""
        message = answer_message(request, reply, self._config().base_frame, streamed=streamed)
        try:
            self._answers.publish(message)
        except rclpy_implementation.RCLError as error:
            if self._node.context.ok():
                self._node.get_logger().warning(f'~/answer: not sent: {error}', once=True)

    async def _replied(self, request: Any, on_delta: Callable[[str, int], None] | None,
                       goal: bytes, cancelled: Callable[[], bool]) -> Reply:
        begin_s, model = time.monotonic(), ''
        try:
            worker = self._worker()
            model = worker.model
            question = question_of(request, stamp_ns(request.at), self._config().ask)
        except AskError as error:
            return Reply(error.code, str(error), model=model, total_s=time.monotonic() - begin_s)
        waiting = RosFuture(executor=self._node.executor)
        # a task of the executor once it is done: wakes it, so that this coroutine goes on at once
        waiting.add_done_callback(lambda _: None)
        future = worker.ask(replace(question, on_delta=on_delta))
        if goal:
            self._goals[goal] = worker, future
            if cancelled():                 # before there was anything to cancel
                worker.cancel(future)
        future.add_done_callback(lambda done: waiting.set_result(done.result()))
        reply: Reply = await waiting
        self._goals.pop(goal, None)
        return reply

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        reply = await self._reply(request)
        return fill_answer(response, reply, self._config().base_frame)

    async def _on_goal(self, handle: Any) -> Any:
        def on_delta(delta: str, tokens: int) -> None:
            if not self._node.context.ok():
                return
            try:
                handle.publish_feedback(AskStream.Feedback(delta=delta, tokens=tokens))
            except rclpy_implementation.RCLError as error:  # the answer goes on without
                self._node.get_logger().warning(f'~/ask_stream: no feedback: {error}', once=True)
        reply = await self._reply(handle.request, on_delta, bytes(handle.goal_id.uuid),
                                  lambda: bool(handle.is_cancel_requested))
        if reply.error == 'NONE':
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return fill_answer(AskStream.Result(), reply, self._config().base_frame)

    def _on_cancel(self, handle: Any) -> Any:
        worker, future = self._goals.get(bytes(handle.goal_id.uuid), (None, None))
        if worker is not None and future is not None:
            worker.cancel(future)
        return CancelResponse.ACCEPT
