"""The lifecycle node ``perception``: sensor topics in, descriptions and answers out.

This module owns the node's states and interfaces. Converting and collecting messages is done by
``inputs.py``, computing by the thread of ``worker.py``, making messages by ``outputs.py``;
callbacks here convert, delegate and publish, so that parameters and services answer at once.

configure loads the model, activate subscribes and starts the thread, deactivate ends both, cleanup
frees the model. ``main`` brings the node to the state active by itself (parameter ``autostart``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import gc
import sys
import threading
from typing import Any

from onellm_msgs.msg import Description, WindowReport
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool

from onellm_ros.choose import ChoiceSpec, Selection
from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, in_order, parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception import memory
from onellm_ros.perception.answering import allowed_modalities
from onellm_ros.perception.questions import AskError
from onellm_ros.perception.results import Described, EngineLike, model_text
from onellm_ros.perception.settings import SETTINGS
from onellm_ros.perception.sources import Plan, SourceTable, source_table
from onellm_ros.perception.worker import Worker
from onellm_ros.ros import outputs, parameters
from onellm_ros.ros.asking import Asking
from onellm_ros.ros.clock_jumps import ClockJumps
from onellm_ros.ros.ending import Ending
from onellm_ros.ros.frames import Frames
from onellm_ros.ros.inputs import Inputs, check_types
from onellm_ros.ros.once import Once
from onellm_ros.ros.reporting import Reporting
from onellm_ros.ros.transitions import refuse_impossible
from onellm_ros.windows import Window, WindowSpec

POLL_S = 0.05
Loader = Callable[[str, str], EngineLike]


class PerceptionNode(LifecycleNode):
    """Describes what the robot senses and answers questions about it.

    :param loader: (model, device) -> engine; default: the model, if it fits the memory.
    """

    def __init__(self, name: str = 'perception', *, loader: Loader | None = None,
                 **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._loader = loader
        parameters.declare(self)
        self.declare_parameter('autostart', True)
        self._config = NodeConfig()
        self._engine: EngineLike | None = None
        self._choice = ChoiceSpec({})
        self._table = SourceTable(())
        self._frames: Frames | None = None
        self._modality_of: dict[str, Modality] = {}
        self._inputs: Inputs | None = None
        self._worker: Worker | None = None
        self._busy: threading.Thread | None = None      # of the worker before: still computes
        self._timers_active: list[Any] = []
        self._enabled = True
        self._jumps = 0
        self._warn = Once(self.get_logger().warning)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._descriptions = self.create_lifecycle_publisher(Description, '~/description', 10)
        self._windows = self.create_lifecycle_publisher(WindowReport, '~/window', 10)
        self._reporting = Reporting(self, lambda: self._state_machine.current_state[1])
        self._reporting.beat_at(self.get_parameter('heartbeat_hz').value)
        # what is kept is from the time before, whether messages have said so yet or not
        self._clock_jumps = ClockJumps(self, self._forget)
        self._asking = Asking(self, self._asked, lambda: self._config)
        self._enable_service = self.create_service(SetBool, '~/enable', self._on_enable)
        refuse_impossible(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._on_parameters_set)

    # -- states -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and load the model."""
        try:
            self._config = parameters.read(self)
            self._engine = (
                memory.load_engine(self._config) if self._loader is None else
                self._loader(self._config.model, self._config.device))
            modalities = allowed_modalities(self._engine, self._config.modalities)
            self._table = source_table(self._config, modalities)
            check_types(self._table.specs)
            self._frames = Frames(self, self._config, lambda kind, text: self._warn(kind, text))
            self._use(self._table, modalities)
        except (ConfigError, RuntimeError, OSError, ValueError, ImportError) as error:
            self.get_logger().error(f'cannot be configured: {error}')
            self._free()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(
            f'model {model_text(self._engine)} sees '
            f'{", ".join(in_order(modalities))}')
        for text in self._table.left_out:
            self.get_logger().info(f'source {text}')
        for text in parameters.without_effect(self):
            self.get_logger().warning(text)
        return super().on_configure(state)

    def _use(self, table: SourceTable, modalities: frozenset[Modality]) -> WindowSpec:
        """Take these sources from now on, and return how windows are cut from them.

        :raises ConfigError: for a required input that is not among them.
        """
        assert self._engine is not None
        plan = Plan.of(table, self._config, self._engine.config.tokenizer, modalities,
                       self._frames)
        self._modality_of = dict(plan.choice.streams)
        self._choice = plan.choice
        return plan.windows

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the thread that computes and subscribe to the inputs."""
        assert self._engine is not None
        self._warn = Once(self.get_logger().warning)
        self._jumps = 0
        config = self._config
        worker = Worker(self._engine, allowed_modalities(self._engine, config.modalities),
                        kept=config.window.kept, kept_mb=config.window.kept_mb,
                        on_description=self._publish_description, on_trouble=self._on_trouble,
                        why_silent=self._why_silent, after=self._busy)
        worker.describe, worker.asking = config.describe, config.ask
        try:
            shown = self._choice.modalities
            self._inputs = Inputs(
                self, self._config, self._table.specs, self._use(self._table, shown),
                self._on_window, self._on_jump, table=self._table, modalities=shown,
                on_table=lambda table: self._use(table, shown), frames=self._frames)
        except ConfigError as error:
            self.get_logger().error(f'cannot be activated: {error}')
            return TransitionCallbackReturn.FAILURE
        self._inputs.enabled = self._enabled
        worker.start()
        self._worker, self._busy = worker, None
        self._timers_active = [
            self.create_timer(POLL_S, self._inputs.poll, clock=self._steady),
            self.create_timer(POLL_S, worker.poll, clock=self._steady),
            self.create_timer(self._config.diagnostics_period_s, self._publish_diagnostics,
                              clock=self._steady)]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the subscriptions and the thread; questions that wait are cancelled."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._stop()
        self._free()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End everything."""
        self._stop()
        self._free()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        self._stop()
        self._free()
        return super().on_error(state)

    def _stop(self) -> None:
        for timer in self._timers_active:
            self.destroy_timer(timer)
        self._timers_active = []
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            if not self._worker.stop():
                self._busy = self._worker.thread
                self.get_logger().warning('the model is still busy; it ends that before it is '
                                          'used again, and only then its memory can be freed')
            self._worker = None

    def _free(self) -> None:
        self._engine = None
        memory.give_back()  # free now, not some time later

    @property
    def owed(self) -> int:
        """Questions that have no reply yet."""
        return self._asking.open

    def close(self) -> None:
        """End inputs and the thread that computes; the replies to questions are made."""
        self._stop()

    def destroy_node(self) -> None:
        """Destroy the node; nothing may spin it any more."""
        self.close()
        self._clock_jumps.close()
        self._asking.close()
        super().destroy_node()
        # rclpy keeps it, and with it the node's services, for others to find until Python's
        # garbage collector comes by.
        self._state_machine.destroy_when_not_in_use()

    # -- windows and descriptions -------------------------------------------------------------

    def _on_window(self, window: Window) -> None:
        """Report a window and hand it to the worker."""
        worker, inputs = self._worker, self._inputs
        if worker is None or inputs is None:
            return
        selection = inputs.intake.choose(window, self._choice)
        for name in selection.silent:
            if self._modality_of[name].value in self._config.window.required:
                self._warn(name, 'required, but silent: windows wait for their deadline, and come '
                           f'without it ({inputs.silence(name) or "it has stopped or lags"})')
        stats = inputs.intake.synchronizer.stats().values()
        self._windows.publish(outputs.window_message(
            selection, self._config.base_frame, self._expected(selection),
            skipped=worker.stats.skipped, late=sum(s.late for s in stats),
            dropped=sum(s.dropped + s.duplicates for s in stats)
            + sum(f.errors for f in inputs.intake.feeds),
            jumps=self._jumps, now_ns=self.get_clock().now().nanoseconds))
        if selection.samples and not self._clock_jumps.is_stale(selection.end_ns):
            worker.submit(selection)

    def _expected(self, selection: Selection) -> list[Modality]:
        """Return the modalities of the inputs that have spoken, and those that must."""
        assert self._inputs is not None
        stats = self._inputs.intake.synchronizer.stats()
        spoken = {self._modality_of[n] for n, s in stats.items() if s.received}
        required = {parse_modality(m) for m in self._config.window.required}
        return in_order(spoken | required)

    def _on_jump(self) -> None:
        self._jumps += 1
        self._forget()

    def _forget(self) -> None:
        """Forget windows and conversations: time jumped back, or the node was disabled."""
        if self._worker is not None:
            self._worker.forget()

    def _publish_description(self, result: Described) -> None:
        """Publish a description; called by the worker's thread."""
        if not self.context.ok():
            return
        try:
            self._descriptions.publish(
                outputs.description_message(result, self._config.base_frame))
        except rclpy_implementation.RCLError:
            if self.context.ok():
                raise

    def _on_trouble(self, kind: str, text: str) -> None:
        """Say what went wrong while computing, once a kind; called by the worker's thread."""
        self._warn(kind, text)

    def _why_silent(self) -> str:
        inputs = self._inputs
        return '' if inputs is None else inputs.silence()

    # -- services -----------------------------------------------------------------------------

    def _asked(self) -> Worker:
        """Return the worker that answers questions.

        :raises AskError: while the node is not active or disabled.
        """
        if self._worker is None:
            raise AskError('NOT_ACTIVE', f'the node is {self._state_machine.current_state[1]}; '
                           'configure and activate it')
        if not self._enabled:
            raise AskError('NOT_ACTIVE', 'the node is disabled; call ~/enable')
        return self._worker

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response
                   ) -> SetBool.Response:
        """Switch describing and answering on or off; while off, messages are ignored."""
        if request.data and not self._enabled and self._inputs is not None:
            self._inputs.restart()
        self._enabled = request.data
        if self._inputs is not None:
            self._inputs.enabled = request.data
        if not request.data:
            self._forget()
        response.success = True
        response.message = 'enabled' if request.data else 'disabled'
        return response

    # -- parameters ---------------------------------------------------------------------------

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> Any:
        result = parameters.check(self, changes, self._engine is not None)
        for change in changes:
            if change.name == 'modalities' and result.successful and self._engine is not None:
                return self._may_show(self._engine, change)
        return result

    def _may_show(self, engine: EngineLike, change: Parameter) -> SetParametersResult:
        """Allow what the inputs were made for: others are not subscribed."""
        words = SETTINGS[change.name].value(change.value)
        try:
            wanted = allowed_modalities(engine, words)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        more = in_order(wanted - self._choice.modalities)
        return SetParametersResult(successful=not more, reason=(
            f'modalities: found {more[0]}, expected some of those that the node was configured '
            f'with, whose inputs are subscribed: {", ".join(in_order(self._choice.modalities))}; '
            'clean the node up, set the parameter and configure it' if more else ''))

    def _on_parameters_set(self, changes: Sequence[Parameter]) -> None:
        """Take over what can change while running."""
        if any(p.name == 'heartbeat_hz' for p in changes):
            self._reporting.beat_at(self.get_parameter('heartbeat_hz').value)
        if self._engine is None or not any(p.name in SETTINGS for p in changes):
            return
        self._config = parameters.read(self)
        if self._worker is not None:
            self._worker.describe = self._config.describe
            self._worker.asking = self._config.ask
            self._worker.modalities = allowed_modalities(self._engine, self._config.modalities)

    # -- diagnostics --------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        if self._inputs is not None and self._worker is not None:
            self._reporting.diagnose(self._config, self._inputs, self._worker, self._modality_of,
                                     jumps=self._jumps, enabled=self._enabled)


def run(node: PerceptionNode, ending: Ending) -> int:
    """Activate the node if it starts by itself, and spin until it shall end.

    :returns: exit code: 0, or 1 if the node could not be activated.
    """
    if node.get_parameter('autostart').value:
        for trigger in (node.trigger_configure, node.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                return 1
    ending.spin()
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the node ``perception`` until SIGINT or SIGTERM.

    :returns: exit code.
    """
    code = 0
    with Ending() as ending:
        try:
            rclpy.init(args=list(args) if args is not None else None,
                       signal_handler_options=SignalHandlerOptions.NO)
            node = ending.node = PerceptionNode()
            ending.executor = SingleThreadedExecutor()
            ending.executor.add_node(node)
            code = run(node, ending)
            ending.farewell()
        except ExternalShutdownException:
            pass
        except ParameterException as error:
            print(f'perception: {error}', file=sys.stderr)
            code = 2
        finally:
            ending.leave()
    # The process ends: a search for cycles among all that torch brought would take a second more.
    gc.freeze()
    return code


if __name__ == '__main__':
    sys.exit(main())
