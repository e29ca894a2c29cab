"""The command ``onellm``: its subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    'bench': ('onellm_ros.bench.command', 'what this machine makes of a model'),
    'convert': ('onellm_ros.weights.convert_command', 'change the layout of weights'),
    'data': ('onellm_ros.data', 'look through data sets, and write simulated ones'),
    'describe': ('onellm_ros.describe', 'answer about sensor files, without ROS'),
    'eval': ('onellm_ros.evaluation.command', 'score a model'),
    'export': ('onellm_ros.export_command', 'write a model as ONNX graphs'),
    'pull': ('onellm_ros.weights.pull_command', 'fetch a model from a hub'),
    'record': ('onellm_ros.ros.record', "write a node's inputs and outputs into a bag"),
    'replay': ('onellm_ros.replay.command', 'what the node would say about recordings'),
    'study': ('onellm_ros.study.command', "the paper's findings at the size of nano"),
    'train': ('onellm_ros.training.command', 'train a model, on simulated worlds or on files'),
    'up': ('onellm_ros.ros.up', 'start the node and what feeds it, without ros2 launch'),
    'verify': ('onellm_ros.verify', 'compare with outputs of the reference implementation')}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (2: wrong use)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog='onellm', description='OneLLM for robots: words for what the sensors tell.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        if argv[:1] == [name]:
            importlib.import_module(module).add_arguments(sub)
    args = parser.parse_args(argv)
    return int(importlib.import_module(COMMANDS[args.command][0]).run(args))


if __name__ == '__main__':
    sys.exit(main())
