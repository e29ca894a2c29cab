"""Measure how long questions wait with and without describe.preempt (docs/asking.md).

A worker describes one window after the other without a pause; questions come at random times.
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


def main() -> None:
    """Print the wait of questions, and what became of the descriptions."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=20)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    report = Report('How long questions wait', 'torch')
    questions = 3 if args.quick else args.repeats
    engine = Engine.load(args.model, args.device)
    observations = [World(seed).sample() for seed in range(4)]
    for preempt in (False, True):
        worker = Worker(engine, frozenset(engine.modalities), kept=8, on_trouble=print,
                        on_description=lambda found: None)
        worker.describe = DescribeConfig(preempt=preempt)
        worker.start()
        draw, waits, windows, begun_s = random.Random(0), [], 0, time.monotonic()
        while len(waits) < questions:
            ask_s = time.monotonic() + draw.uniform(1.0, 4.0)
            while time.monotonic() < ask_s:
                seen = observations[windows % len(observations)]
                windows += 1
                worker.submit(Selection(0, seen.stamp_ns + windows, windows, seen.chosen()))
                time.sleep(0.2)
            reply = worker.ask(Question('What is the floor made of?')).result()
            assert reply.error == 'NONE', reply
            waits.append(reply.queue_s)
        stats, spent_s = worker.report(), time.monotonic() - begun_s
        report.add(f'wait of a question, preempt {preempt}', Timing(tuple(waits)).scaled(1e3),
                   unit='ms')
        report.note(f'{stats.described} descriptions and {stats.interrupted} interrupted in '
                    f'{spent_s:.0f} s (encode {stats.encode_s:.2f} s, decode '
                    f'{stats.decode_s:.2f} s)')
        worker.stop()
    report.finish(args.json)


if __name__ == '__main__':
    main()
