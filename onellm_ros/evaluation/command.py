"""``onellm eval``: scores a model on one benchmark."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = {
    'robot-world': ('onellm_ros.evaluation.robot_world',
                    'questions and captions about fresh worlds of the simulated robot')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks and their options."""
    benchmarks = parser.add_subparsers(dest='benchmark', required=True, metavar='BENCHMARK')
    for name, (module, summary) in BENCHMARKS.items():
        sub = benchmarks.add_parser(name, help=summary, description=summary)
        importlib.import_module(module).add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark that was asked for; returns the exit status."""
    return int(importlib.import_module(BENCHMARKS[args.benchmark][0]).run(args))
