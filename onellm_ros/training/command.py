"""``onellm train``: renders worlds, trains a recipe's stages on them, writes the model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import shutil
import sys
import time
from typing import TYPE_CHECKING

from onellm_ros.config import PRESETS, ModelConfig
from onellm_ros.training.stages import RECIPES, Stage

if TYPE_CHECKING:
    from onellm_ros.model.text import Text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm train``."""
    parser.add_argument('--recipe', choices=sorted(RECIPES), default='nano',
                        help='model size and stages (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('runs/nano'),
                        help='folder of the run; a run found there is resumed')
    parser.add_argument('--data', type=Path, default=Path('cache/worlds'),
                        help='folder of rendered worlds; missing ones are rendered into it')
    parser.add_argument('--worlds', type=int, default=24576, help='worlds to train on')
    parser.add_argument('--held-out', type=int, default=512, help='worlds to evaluate on')
    parser.add_argument('--render-processes', type=int, default=2)
    parser.add_argument('--wait-for', type=int, default=None, metavar='WORLDS',
                        help='start to train when so many worlds are rendered, while the others '
                             'follow (default: all; only then a run can be repeated exactly)')
    parser.add_argument('--steps', action='append', default=[], metavar='STAGE=N',
                        help='change the number of steps of a stage (0 leaves it out)')
    parser.add_argument('--until', metavar='STAGE', help='stop after this stage')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0: all')
    parser.add_argument('--workers', type=int, default=1, help='processes that build batches')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--export', type=Path, metavar='DIR',
                        help='write the trained model there (config, tokenizer, weights as '
                             'int8 rows) when the run is done')
    parser.add_argument('--only-export', action='store_true',
                        help='write the model of the run as it stands, train nothing')


def changed_stages(recipe: tuple[Stage, ...], changes: list[str],
                   until: str | None) -> tuple[Stage, ...]:
    """Return the recipe with ``STAGE=N`` applied, up to the stage ``until``.

    :raises ValueError: for a stage that the recipe lacks or a number that is none.
    """
    names = [s.name for s in recipe]
    steps = {}
    for change in changes:
        name, _, number = change.partition('=')
        if name not in names or not number.isdigit():
            raise ValueError(f'--steps {change}: expected STAGE=N with a stage of {names}')
        steps[name] = int(number)
    if until is not None and until not in names:
        raise ValueError(f'--until {until}: expected one of {names}')
    last = names.index(until) if until else len(recipe) - 1
    stages = [replace(s, steps=steps.get(s.name, s.steps)) for s in recipe[:last + 1]]
    return tuple(stages)


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that would wait for ever or do nothing.

    :raises ValueError: naming the option.
    """
    for name, least in (('worlds', 1), ('held_out', 1), ('render_processes', 1), ('threads', 0),
                        ('workers', 0)):
        if getattr(args, name) < least:
            raise ValueError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected '
                             f'at least {least}')


def wait_for_worlds(folder: Path, wanted: int, processes: list) -> None:
    """Wait until enough worlds are rendered.

    :raises RuntimeError: when the writers ended before that.
    """
    from onellm_ros.training.shards import Shards
    shards = Shards(folder)
    while len(shards) < wanted:
        if not any(p.is_alive() for p in processes) and shards.refresh() < wanted:
            raise RuntimeError(f'rendering ended with {len(shards)} of {wanted} worlds in '
                               f'{folder}; its error stands above')
        time.sleep(1.0)
        shards.refresh()
        if sys.stderr.isatty():
            print(f'\rrendered {len(shards)} of {wanted} worlds', end='', file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit status."""
    import torch

    from onellm_ros.inference.locate import EngineError, find_device
    from onellm_ros.model.checkpoint import save_model
    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.training.trainer import Trainer

    try:
        recipe = changed_stages(RECIPES[args.recipe], args.steps, args.until)
        check_numbers(args)
        device = str(find_device(args.device))
        for folder in (args.out, args.export or args.out):
            folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, EngineError) as error:
        print(f'onellm train: {error}', file=sys.stderr)
        return 2
    config = PRESETS[args.recipe]
    if args.threads:
        torch.set_num_threads(args.threads)
    text = run_tokenizer(args.out, config)
    config = replace(config, llm=replace(config.llm, vocab_size=text.size))
    held_out = args.data / 'held_out'
    trainer = Trainer(OneLLM(config), text, args.out, args.data, held_out, seed=args.seed,
                      device=device, workers=args.workers)
    if not args.only_export:
        worlds = Worlds(args.data, held_out, config, args)
        try:
            trainer.run(recipe, worlds.prepare)
        except KeyboardInterrupt:
            print('stopped; the same command goes on from the last checkpoint', file=sys.stderr)
            return 130
    if args.export:
        save_model(trainer.model, args.export, torch.int8)
        shutil.copy(args.out / config.text.tokenizer, args.export)
        print(f'wrote {args.export}')
    return 0


def run_tokenizer(out: Path, config: ModelConfig) -> Text:
    """Return the run's tokenizer, trained at the first call."""
    from onellm_ros.model.text import Text, train_tokenizer
    from onellm_ros.simulation.language import vocabulary_texts
    path = out / config.text.tokenizer
    if not path.exists():
        # What the template adds to each turn is worth a few tokens of its own.
        turns = [' Human: What', ' Assistant: a', ' Assistant: the'] * 1000
        train_tokenizer([*vocabulary_texts(), *turns], config.llm.vocab_size).save(str(path))
    return Text.load(out, config.text)


class Worlds:
    """Renders what a recipe needs, when its first stage that needs it comes."""

    def __init__(self, data: Path, held_out: Path, config: ModelConfig, args: argparse.Namespace):
        self.data, self.held_out, self.config, self.args = data, held_out, config, args
        self.ready = False

    def prepare(self, stage: Stage) -> None:
        """Wait until the worlds of a stage are there."""
        if stage.kind == 'language' or self.ready:
            return
        from onellm_ros.training.shards import SHARD_WORLDS, start_rendering
        writers = start_rendering(self.held_out, range(1), self.config, base_seed=1,
                                  held_out=True, worlds=self.args.held_out)
        wait_for_worlds(self.held_out, self.args.held_out, writers)
        count = -(-self.args.worlds // SHARD_WORLDS)
        writers = start_rendering(self.data, range(count), self.config,
                                  processes=self.args.render_processes)
        wanted = count * SHARD_WORLDS
        wait_for_worlds(self.data, min(self.args.wait_for or wanted, wanted), writers)
        self.ready = True
