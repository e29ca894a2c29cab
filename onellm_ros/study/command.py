"""``onellm study``: studies of the training that the paper reports, at a size for one core."""

from __future__ import annotations

import argparse
import importlib

STUDIES = {
    'findings': ('onellm_ros.study.findings',
                 'joint or separate training, how to begin, experts and routers: held-out '
                 'accuracy of each'),
    'new-modality': ('onellm_ros.study.new_modality',
                     'add a ninth modality: accuracy against pairs, and what the others keep')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the studies and their options."""
    studies = parser.add_subparsers(dest='study', required=True, metavar='STUDY')
    for name, (module, summary) in STUDIES.items():
        sub = studies.add_parser(name, help=summary, description=summary)
        importlib.import_module(module).add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Run the study that was asked for; returns the exit status."""
    return int(importlib.import_module(STUDIES[args.study][0]).run(args))
