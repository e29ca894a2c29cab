"""Measure questions that come while a window is described, with and without describe.preempt.

A worker describes one window after the other; each question is asked at a random time of a
description (docs/asking.md). With preempt it joins the description at its next token, without it
waits for its end; the description's own time is told beside that of one without a question.
"""

from __future__ import annotations

import argparse
import random
import time

from _report import Report, Timing, arguments

from onellm_ros.choose import Selection
from onellm_ros.inference.engine import Engine
from onellm_ros.node_config import DescribeConfig
from onellm_ros.perception.results import Question
from onellm_ros.perception.worker import Worker
from onellm_ros.simulation.world import World

QUESTION = 'What is on the left?'


class Desk:
    """A worker, and what its descriptions took."""

    def __init__(self, engine: Engine, preempt: bool) -> None:
        self.times: list[float] = []
        self.worker = Worker(engine, frozenset(engine.modalities), kept=8, on_trouble=print,
                             on_description=lambda found: self.times.append(found.total_s))
        self.worker.describe = DescribeConfig(preempt=preempt)
        self.windows = [World(seed).sample() for seed in range(4)]
        self.worker.start()
        self.number = 0

    def describe(self) -> None:
        """Hand over a window and wait until it is being described."""
        seen = self.windows[self.number % len(self.windows)]
        self.number += 1
        self.worker.submit(Selection(0, seen.stamp_ns + self.number, self.number, seen.chosen()))
        while not self.worker.busy()[0]:
            time.sleep(0.0002)

    def done(self) -> float:
        """Wait for the description and return the seconds that it took."""
        while len(self.times) < self.number:
            time.sleep(0.0002)
        return self.times[-1]


def main() -> None:
    """Print the time of questions, and of the descriptions that they join."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=40)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    report = Report('Questions while a window is described', 'torch')
    questions = 4 if args.quick else args.repeats
    engine = Engine.load(args.model, args.device)
    desks = {preempt: Desk(engine, preempt) for preempt in (True, False)}
    draw = random.Random(0)
    asked: dict[bool, list[float]] = {True: [], False: []}
    described: dict[str, list[float]] = {'True': [], 'False': [], 'alone': []}
    for turn in range(questions + 2):
        for preempt, desk in desks.items():
            desk.describe()
            alone = desk.done()
            desk.describe()
            time.sleep(draw.uniform(0.0, 0.9) * alone)
            reply = desk.worker.ask(Question(QUESTION)).result()
            assert reply.error == 'NONE', reply
            if turn > 1:
                asked[preempt].append(reply.total_s)
                described[str(preempt)].append(desk.done())
                described['alone'].append(alone)
            desk.done()
    times = {name: Timing(tuple(values)).scaled(1e3) for name, values in described.items()}
    report.add('a question answered, preempt true, reference false',
               *(Timing(tuple(asked[preempt])).scaled(1e3) for preempt in (True, False)),
               unit='ms')
    report.add('its description, preempt true, reference no question', times['True'],
               times['alone'], unit='ms')
    report.add('its description, preempt false, reference no question', times['False'],
               times['alone'], unit='ms')
    for preempt, desk in desks.items():
        stats = desk.worker.report()
        report.note(f'preempt {preempt}: {stats.described} described, {stats.interrupted} of them '
                    f'with a question; encode {stats.encode_s:.3f} s')
        desk.worker.stop()
    report.finish(args.json)


if __name__ == '__main__':
    main()
