"""``make demo``: a simulated robot (or a recording) and the perception node, watched for a minute.

``python -m onellm_ros.ros.demo [--bag PATH]`` starts both as processes over DDS in a domain of
their own, prints descriptions beside the truth, asks three questions, writes one picture of what
the robot sensed, sums up, and leaves no process behind. Exit codes: 0; 1: a process failed or
nothing was described; 2: a recording or an option that cannot be used; 130: interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import re
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from onellm_ros.modality import parse_modality
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.ros.demo_bag import BagPlan, plan_bag, samples_between, topic_choices
from onellm_ros.ros.demo_node import PERCEPTION, DemoNode
from onellm_ros.ros.demo_processes import Child, Children, free_domain, started_s
from onellm_ros.ros.demo_questions import QUESTIONS, DemoQuestion
from onellm_ros.ros.demo_recorder import shown_samples, span_of
from onellm_ros.ros.demo_report import (
    Answered,
    Said,
    Summary,
    description_lines,
    true_text,
)
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.ros.transport import large_messages
from onellm_ros.simulation.facts import clear_objects

START_S = started_s()
LOOK_S = 0.05
ASKED_AT = (0.2, 0.45, 0.7)       # shares of the time between the first description and the end
TRUTH_PATIENCE_S = 1.0            # a description waits so long for the truth of its window
PICTURE_S = 3.0                   # of recorded messages before the window that is shown
ANSWER_PATIENCE_S, WAITING_S = 20.0, 10.0
QUIET_S, BAG_PATIENCE_S = 2.5, 20.0   # after a recording: silence that ends, and the longest wait
_COMPLAINT = re.compile(r'\[(?:WARN|ERROR|FATAL)\] \[[\d.]+\] \[[^]]*\]: (.*)')


class DemoError(RuntimeError):
    """The demonstration cannot go on; the text says why."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    bag: Path | None
    topics: tuple[str, ...]
    seconds: float
    out: Path
    model: str
    seed: int
    camera: tuple[int, int]
    startup_s: float


def say(*lines: str) -> None:
    """Print lines at once."""
    print('\n'.join(lines), flush=True)


class Demo:
    """One demonstration.

    :param plan: the recording to play; None: the simulated robot.
    """

    def __init__(self, options: Options, plan: BagPlan | None, children: Children) -> None:
        self.options, self.plan, self.children = options, plan, children
        self.summary = Summary()
        self.node = DemoNode(START_S, plan is None)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.player: Child | None = None
        self.shown: Said | None = None        # the description that the picture is of
        self.last: Said | None = None
        self.asked: tuple[DemoQuestion, Any, float] | None = None
        self._begin_s = time.monotonic()      # of the processes, then of the playing
        self._patient_s = self._begin_s + WAITING_S
        self._first_s: float | None = None
        self._heard_s: float | None = None
        self._played_s: float | None = None

    def run(self) -> None:
        """Go on until the time is over.

        :raises DemoError: if a process ends early or nothing is described.
        """
        while not self._over():
            until_s = time.monotonic() + LOOK_S
            while (left_s := until_s - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left_s)
            self._watch()
            self._show()
            self._question()
        self._show(patience_s=0.0)
        if self.asked is not None:
            self._note(Answered(self.asked[0], '', 'it did not come in time', '', None,
                                time.monotonic() - self.asked[2]))
        if self._first_s is None:
            raise DemoError(self._why_nothing())

    def close(self) -> None:
        """End the node."""
        self.executor.shutdown(timeout_sec=0.5)
        self.node.destroy_node()

    # -- time ---------------------------------------------------------------------------------

    def _end_s(self) -> float:
        """Return when it ends: after the given seconds, half of them at least with text."""
        seconds = self.options.seconds
        end_s = self._begin_s + seconds
        return end_s if self._first_s is None else max(end_s, self._first_s + seconds / 2)

    def _over(self) -> bool:
        now_s = time.monotonic()
        asked = len(self.summary.answers) == len(QUESTIONS) or self._first_s is None
        waiting = not asked or bool(self.node.arrived)
        if self.plan is None or self._played_s is None:
            if self._first_s is None:
                return now_s > self._begin_s + self.options.startup_s + self.options.seconds
            return now_s > self._end_s() + (ANSWER_PATIENCE_S if waiting else 0.0)
        quiet_s = now_s - max(self._played_s, self.node.last_window_s,
                              self.last.since_start_s + START_S if self.last else 0.0)
        patience_s = BAG_PATIENCE_S if self._first_s is None else QUIET_S
        return ((quiet_s > patience_s and not waiting)
                or now_s > max(self._end_s(), self._played_s + 2 * BAG_PATIENCE_S))

    # -- processes ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the player when somebody listens; notice what ended.

        :raises DemoError: for a process that ended by itself, with the end of its log.
        """
        for child in self.children.all:
            code = child.process.poll()
            if code is not None and (child is not self.player or code != 0):
                raise DemoError(f'{child.name} ended with exit code {code}; the end of '
                                f'{child.log}:\n{child.tail()}')
        now_s = time.monotonic()
        if self._first_s is None and now_s > self._patient_s:
            self._patient_s = now_s + WAITING_S
            say(f'{now_s - START_S:6.1f} s  waiting for the first description '
                '(the very first start compiles what renders)')
        if self.plan is None:
            return
        if self.player is None:
            heard = self.node.heard_by_perception(self.plan.inputs)
            if heard and self._heard_s is None:
                self._heard_s = now_s
            if self._heard_s is not None and (
                    len(heard) == len(self.plan.inputs) or now_s > self._heard_s + 2.0):
                self._play(set(self.plan.inputs) - set(heard))
            elif now_s > self._begin_s + self.options.startup_s:
                names = ', '.join(self.plan.inputs)
                raise DemoError(f'{PERCEPTION} subscribed to none of {names} within '
                                f'{self.options.startup_s:.0f} s; the model may not be '
                                f'shown them\n{self.children.all[0].tail()}')
        elif self._played_s is None and self.player.process.poll() == 0:
            self._played_s = now_s
            say(f'{now_s - START_S:6.1f} s  the recording has ended')

    def _play(self, unheard: set[str]) -> None:
        assert self.plan is not None
        for name in sorted(unheard):
            say(f'          {name}: the model is not shown it')
        self.player = self.children.start('bag_player', 'onellm_ros.ros.bag_player',
                                          self.plan.arguments)
        self._begin_s = time.monotonic()
        say(f'{self._begin_s - START_S:6.1f} s  playing the recording once, '
            f'{self.plan.seconds:.1f} s at its recorded rate')

    def _why_nothing(self) -> str:
        """Return what is known about why nothing was described."""
        windows = f'{self.node.windows} windows closed' if self.node.windows else \
            'no window closed'
        known = '\n  '.join(complaints(self.children.all))
        return f'nothing was described; {windows}' + (f':\n  {known}' if known else
                                                      f'; see the logs in {self.options.out}')

    # -- what is heard ------------------------------------------------------------------------

    def _show(self, patience_s: float = TRUTH_PATIENCE_S) -> None:
        """Print what was described, when its truth is there."""
        arrived = self.node.arrived
        while arrived:
            said = arrived[0]
            truth = self.node.truths.get(said.end_ns)
            age_s = time.monotonic() - START_S - said.since_start_s
            if self.plan is None and truth is None and age_s < patience_s:
                return
            arrived.popleft()
            if self._first_s is None:
                self._first_s = time.monotonic()
                self.summary.first_s = said.since_start_s
                say(f'first description after {said.since_start_s:.1f} s')
            self.summary.add(said, truth)
            say(*description_lines(said, truth))
            self.last = said
            self._choose_picture(said)

    def _choose_picture(self, said: Said) -> None:
        """Take the first window to show that is recorded whole and has something in view."""
        if self.shown is not None:
            return
        recorder = self.node.recorder
        if recorder is None:
            assert self.plan is not None
            if said.end_ns - self.plan.start_ns > PICTURE_S * 1e9:
                self.shown = said
            return
        recorder.release(said.end_ns)
        truth = self.node.truths.get(said.end_ns)
        hopeful = time.monotonic() < self._end_s() - self.options.seconds / 3
        whole = said.end_ns - span_of(said.message)[0] > 1.9e9      # of IMU and microphone
        if recorder.seconds_before(said.end_ns) < PICTURE_S or (
                hopeful and not (whole and truth is not None and clear_objects(truth))):
            return
        self.shown = said
        recorder.stop()

    def _question(self) -> None:
        """Take an answer; ask the next question when its time has come."""
        if self.asked is not None:
            self._answer(*self.asked)
            return
        number = len(self.summary.answers)
        if self._first_s is None or number >= len(QUESTIONS) or not self.node.can_ask():
            return
        length_s = self._end_s() - self._first_s
        if self.plan is not None:
            length_s = min(length_s, self.plan.seconds)
        now_s, due_s = time.monotonic(), self._first_s + ASKED_AT[number] * length_s
        if now_s < due_s and self._played_s is None:
            return
        question, truth = QUESTIONS[number], self.node.newest_truth()
        # a view without one largest thing has no right answer: wait a little for another
        if truth is not None and not question.has_answer(truth) and now_s < due_s + 0.1 * length_s:
            return
        self.asked = (question, self.node.ask(question.text), now_s)

    def _answer(self, question: DemoQuestion, future: Any, since_s: float) -> None:
        if not future.done():
            return
        reply, seconds = future.result(), self.node.answered_s - since_s
        truth = self.node.truths.get(stamp_ns(reply.window_end))
        told = '' if truth is None else question.truth(truth)
        right = None if truth is None or not reply.success else question.is_right(
            truth, reply.answer)
        self._note(Answered(question, reply.answer, '' if reply.success else reply.error_msg, told,
                            right, seconds))

    def _note(self, answered: Answered) -> None:
        self.summary.answers.append(answered)
        self.asked = None
        say(*answered.lines())

    # -- the end ------------------------------------------------------------------------------

    def picture(self) -> Path | None:
        """Write the picture of one described window; returns its path."""
        said = self.shown or self.last
        if said is None:
            return None
        from onellm_ros.report.picture import window_picture  # matplotlib: seconds at the start
        truth = self.node.truths.get(said.end_ns)
        message, recorder = said.message, self.node.recorder
        if recorder is not None:
            recorded = recorder.samples()
        else:
            assert self.plan is not None
            recorded = samples_between(self.plan, *span_of(message))
        picture = window_picture(
            shown_samples(message, recorded), message.text,
            truth='' if truth is None else true_text(said, truth),
            title=f'what the robot sensed in one window, and what {message.model} said in '
                  f'{message.total_s:.2f} s',
            expert_weights={parse_modality(r.modality): r.expert_weights
                            for r in message.modalities if len(r.expert_weights)})
        path = self.options.out / 'what_the_robot_sensed.png'
        picture.save(path)
        return path


def complaints(children: Sequence[Child], most: int = 5) -> list[str]:
    """Return what the children warned of, each once."""
    found = dict.fromkeys(f'{child.name}: {line}' for child in children
                          for line in _COMPLAINT.findall(child.text()))
    return list(found)[:most]


def parse(argv: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='make demo', description='A simulated robot, or a recording, tells what it senses.')
    parser.add_argument('--bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag file')
    parser.add_argument('--topics', nargs='+', default=[], metavar='TOPIC=MODALITY',
                        help='use topics of the recording as image, depth, ..., or none')
    parser.add_argument('--seconds', type=float, default=60.0, help='default 60')
    parser.add_argument('--out', type=Path, default=Path('demo_out'),
                        help='folder of logs, picture and figures (default demo_out)')
    parser.add_argument('--model', default='nano', help='name or folder (default nano)')
    parser.add_argument('--seed', type=int, default=0, help='of the simulated world (default 0)')
    parser.add_argument('--camera', default='640x480', metavar='WIDTHxHEIGHT',
                        help='of the simulated robot; smaller costs less (default 640x480)')
    parser.add_argument('--startup', type=float, default=120.0, dest='startup_s',
                        help='seconds to wait for the processes to start (default 120)')
    words = parser.parse_args(argv)
    if not words.seconds > 0:
        parser.error(f'--seconds: found {words.seconds}, expected more than 0')
    if words.topics and words.bag is None:
        parser.error('--topics: there is no --bag whose topics they could be')
    size = re.fullmatch(r'(\d+)x(\d+)', words.camera)
    if size is None:
        parser.error(f'--camera: found {words.camera!r}, expected WIDTHxHEIGHT such as 320x240')
    return Options(words.bag, tuple(words.topics), words.seconds, words.out, words.model,
                   words.seed, (int(size[1]), int(size[2])), words.startup_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return its exit code."""
    options = parse(argv)
    try:
        plan = None
        if options.bag is not None:
            plan = plan_bag(options.bag, topic_choices(list(options.topics)))
            say(f'{options.bag}: {plan.seconds:.1f} s; its topics:', *plan.lines)
        options.out.mkdir(parents=True, exist_ok=True)
    except (BagError, ValueError, OSError) as error:
        print(f'demo: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(options, plan)
    except KeyboardInterrupt:
        say('interrupted; every process has been ended')
        return 130


def run(options: Options, plan: BagPlan | None) -> int:
    """Start the processes, watch them, sum up; returns the exit code."""
    domain = {'ROS_DOMAIN_ID': str(free_domain()), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    os.environ.update(domain)
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    error = ''
    with Children(options.out, {**domain, **large_messages()}) as children:
        children.start(PERCEPTION, 'onellm_ros.ros.perception_node',
                       ['--ros-args', '-p', f'model:={model}'])
        if plan is None:
            children.start('simulation', 'onellm_ros.ros.simulation_node',
                           ['--ros-args', '-p', f'seed:={options.seed}',
                            '-p', f'camera_width:={options.camera[0]}',
                            '-p', f'camera_height:={options.camera[1]}'])
        what = 'a recording' if plan else f'a simulated robot (world {options.seed})'
        say(f'starting {what} and the perception node (model {options.model}); '
            f'logs in {options.out}/')
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        demo = Demo(options, plan, children)
        try:
            demo.run()
        except DemoError as found:
            error = str(found)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)     # what follows is short
            children.stop()
            demo.close()
            rclpy.try_shutdown()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        path = demo.picture()
    if path is not None:
        say(f'picture of one window: {path}')
    if demo.summary.descriptions:
        demo.summary.write(options.out / 'summary.json')
        say('', *demo.summary.lines(), *(f'warned: {line}' for line in complaints(children.all)))
    if error:
        print(f'demo: {error}', file=sys.stderr, flush=True)
    return 1 if error else 0


if __name__ == '__main__':
    sys.exit(main())
