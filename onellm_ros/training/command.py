"""``onellm train``: runs the stages of a preset, or one of them, and writes the model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import shutil
import sys
from typing import TYPE_CHECKING

from onellm_ros.config import ModelConfig
from onellm_ros.training.errors import TrainingError, plain
from onellm_ros.training.recipe_files import SUFFIXES, load_recipe, recipe_text
from onellm_ros.training.recipes import RECIPES, Recipe
from onellm_ros.training.stages import Stage, changed, from_manifest

if TYPE_CHECKING:
    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.model.text import Text
    from onellm_ros.training.distributed import Ranks
    from onellm_ros.training.pretrained import Beginning
    from onellm_ros.training.trainer import Trainer

_USES = {'language': {'llm'}, 'encoder': {'encoder', 'tokenizers'},
         'align': {'encoder', 'tokenizers', 'upm', 'llm'}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm train``."""
    add = parser.add_argument
    add('--preset', '--recipe', metavar='NAME', default='nano',
        help=f'model sizes and stages: {", ".join(sorted(RECIPES))}, or a YAML file of your own '
             '(default: %(default)s)')
    add('--show', action='store_true',
        help='only print the preset, with the changes that other options make, as such a file')
    add('--stage', metavar='NAME', help='run this stage alone (default: all that are left)')
    add('--until', metavar='NAME', help='stop after this stage')
    add('--steps', action='append', default=[], metavar='STAGE=N',
        help='change the number of optimizer steps of a stage (0 leaves it out)')
    add('--set', action='append', default=[], metavar='[STAGE.]KEY=VALUE', dest='changes',
        help='change another number of a stage, or of all: batch, accumulate, learning_rate, '
             'warmup, experts, checkpointing ... (docs/training.md)')
    add('--init', action='append', default=[], metavar='[PART,..=]DIR',
        help='begin with a model directory, a run, a Hugging Face LLM or CLIP; of some parts '
             '(encoder, tokenizers, upm, llm) where named; may be given several times')
    add('--out', type=Path, help='folder of the run; a run found there is resumed (default: '
                                 'runs/PRESET)')
    data = parser.add_argument_group('data')
    add = data.add_argument
    add('--data', type=Path, default=Path('cache/worlds'),
        help='folder of rendered worlds; missing ones are rendered into it')
    add('--worlds', type=int, default=24576, help='worlds to train on')
    add('--held-out', type=int, default=512, help='worlds to evaluate on')
    add('--render-processes', type=int, default=2)
    add('--wait-for', type=int, metavar='WORLDS',
        help='start to train when so many worlds are rendered, while the others follow (default: '
             'all; only then a run can be repeated exactly)')
    add('--manifest', action='append', default=[], metavar='[STAGE=]FILE',
        help='train a stage from annotated files (docs/data.md), on answers alone')
    add('--held-out-manifest', action='append', default=[], metavar='[STAGE=]FILE',
        help='evaluate it on these')
    add('--root', type=Path, metavar='DIR', help="folder of the manifests' paths")
    add('--on-broken', choices=('error', 'skip'), default='error',
        help='what to do with a broken sample; skipped ones are counted and named in RUN')
    machine = parser.add_argument_group('machine')
    add = machine.add_argument
    add('--device', default='auto', help='auto, cpu, cuda (torchrun: one for each process)')
    add('--threads', type=int, default=0, help='CPU threads; 0: all')
    add('--workers', type=int, default=1, help='processes that build batches')
    add('--precision', choices=('bf16', 'float32'), default='bf16')
    add('--lora', type=int, default=0, metavar='RANK',
        help='tune the LLM through adapters of this rank (needs peft)')
    add('--seed', type=int, default=0)
    told = parser.add_argument_group('what it tells and writes')
    add = told.add_argument
    add('--tensorboard', action='store_true', help="write TensorBoard's files, too")
    add('--log-every', type=int, default=50, metavar='STEPS')
    add('--eval-every', type=int, default=500, metavar='STEPS')
    add('--save-every', type=int, metavar='STEPS', help='(default: as the preset says)')
    add('--export', type=Path, metavar='DIR',
        help='write the trained model there (config, tokenizer, weights) when the run is done')
    add('--only-export', action='store_true',
        help='write the model of the run as it stands, train nothing')
    add('--plot', type=Path, metavar='RUN',
        help="only draw a run's losses and accuracies (done at a run's end, too)")


def chosen_stages(recipe: Recipe, args: argparse.Namespace) -> tuple[Stage, ...]:
    """Return the stages as the options change them, up to the last one that is to run.

    :raises ValueError: for a stage that the preset lacks, or a value that is none.
    """
    names = [s.name for s in recipe.stages]
    changes: dict[str, dict[str, str]] = {name: {} for name in names}
    for text in args.steps:
        name, _, number = text.partition('=')
        if name not in names or not number.isdigit():
            raise ValueError(f'--steps {text}: expected STAGE=N with a stage of {names}')
        changes[name]['steps'] = number
    for text in args.changes:
        key, equals, value = text.partition('=')
        stage, dot, field = key.rpartition('.')
        if not equals or (dot and stage not in names):
            raise ValueError(f'--set {text}: expected [STAGE.]KEY=VALUE with a stage of {names}')
        for name in [stage] if dot else names:
            changes[name][field] = value
    last = args.stage or args.until or names[-1]
    for option, name in (('--stage', args.stage), ('--until', args.until)):
        if name and name not in names:
            raise ValueError(f'{option} {name}: expected one of {names}')
    by_manifest = stage_files('--manifest', args.manifest, recipe, args.stage)
    stages = [from_manifest(s) if s.name in by_manifest else s for s in recipe.stages]
    return tuple(changed(s, changes[s.name]) for s in stages[:names.index(last) + 1])


def chosen_recipe(name: str) -> Recipe:
    """Return a preset, or the recipe of a file.

    :raises ValueError: if there is none of this name, or the file is no recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(SUFFIXES):
        raise ValueError(f'--preset {name}: expected one of {", ".join(sorted(RECIPES))}, or a '
                         f'file *{SUFFIXES[0]}')
    return load_recipe(name)


def stage_files(option: str, texts: Sequence[str], recipe: Recipe, stage: str | None
                ) -> dict[str, Path]:
    """Return which file each stage reads; one without a stage is for all that read manifests.

    :raises ValueError: for a stage that the preset lacks, or a file for no stage.
    """
    out: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition('=')
        if equals:
            recipe.stage(name)
            out[name] = Path(path)
            continue
        meant = [stage] if stage else [s.name for s in recipe.stages if s.data == 'manifest']
        if not meant:
            raise ValueError(f'{option} {text}: for which stage? Expected STAGE=FILE')
        out.update(dict.fromkeys(meant, Path(text)))
    return out


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that would wait for ever or do nothing.

    :raises ValueError: naming the option.
    """
    for name, least in (('worlds', 1), ('held_out', 1), ('render_processes', 1), ('threads', 0),
                        ('workers', 0), ('lora', 0), ('log_every', 1), ('eval_every', 1),
                        ('save_every', 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f'--{name.replace("_", "-")}: found {value}, expected at least '
                             f'{least}')


def check_beginning(recipe: Recipe, stages: Sequence[Stage], start: int, given: set[str]) -> None:
    """Refuse to begin with a part untrained that should have been trained before.

    :param given: parts that come with ``--init``.
    :raises TrainingError: naming the part.
    """
    before = {part for stage in recipe.stages[:start] for part in stage.trains}
    for stage in stages[start:]:
        if not stage.steps:
            continue
        wanted = (before | set(recipe.needs)) & _USES[stage.kind]
        missing = sorted(wanted - given)
        if missing:
            raise TrainingError(
                f'stage {stage.name} needs {" and ".join(missing)} trained before it: give '
                '--init DIR (a model directory, a run, a Hugging Face LLM or CLIP), or run the '
                'stages before it')
        given = given | set(stage.trains)


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit status (1: failed, 2: wrong use)."""
    from onellm_ros.model.files import CheckpointError
    from onellm_ros.model.text import TextError
    from onellm_ros.training.plots import plot_run

    try:
        recipe = chosen_recipe(args.preset)
        stages = chosen_stages(recipe, args)
        check_numbers(args)
        if args.show:
            print(recipe_text(replace(recipe, stages=stages)), end='')
            return 0
        # Of a file its own name: what was edited does not go on in the folder of the preset.
        args.out = args.out or Path('runs') / Path(args.preset).stem
        for folder in () if args.plot else (args.out, args.export or args.out):
            folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f'onellm train: error: {error}', file=sys.stderr)
        return 2
    try:
        if args.plot:
            print('\n'.join(f'wrote {path}' for path in plot_run(args.plot)))
            return 0
        return _run(args, recipe, stages)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from the last checkpoint', file=sys.stderr)
        return 130
    except (TrainingError, TextError, CheckpointError) as error:
        print(f'onellm train: error: {plain(error)}', file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, recipe: Recipe, stages: tuple[Stage, ...]) -> int:
    """Train stages; returns the exit status."""
    import torch

    from onellm_ros.inference.locate import EngineError, find_device
    from onellm_ros.training.distributed import started_ranks
    from onellm_ros.training.plots import plot_run
    from onellm_ros.training.progress import LOG

    try:
        device = find_device(args.device)
    except EngineError as error:
        raise TrainingError(str(error)) from None
    if args.threads:
        torch.set_num_threads(args.threads)
    with started_ranks(device) as ranks:
        trainer = _trainer(args, recipe, stages, ranks)
        if not args.only_export:
            _train(args, trainer, ranks)
        if ranks.first and args.export:
            export(trainer, args.export, recipe)
        if ranks.first and (args.out / LOG).exists():
            plot_run(args.out)
    return 0


def _trainer(args: argparse.Namespace, recipe: Recipe, stages: tuple[Stage, ...], ranks: Ranks
             ) -> Trainer:
    """Return the trainer of a new run, or of the one that is found."""
    from onellm_ros.model.text import Text
    from onellm_ros.training.checkpoint import STATE, load_state
    from onellm_ros.training.pretrained import Beginning, Init
    from onellm_ros.training.sources import Sources
    from onellm_ros.training.trainer import Options, Trainer

    start = len(stages) - 1 if args.stage else 0
    found = (args.out / STATE).exists()
    if found and args.init and ranks.first:
        print(f'{args.out} holds a run, which is gone on with; --init is for new ones',
              file=sys.stderr)
    with ranks.first_alone() as mine:
        beginning = Beginning(recipe.model, [] if found or not mine
                              else [Init.parse(text) for text in args.init])
        if mine and not found:
            check_beginning(recipe, stages, start, set(beginning.parts))
        if mine:
            make_tokenizer(args.out, beginning)
    state = load_state(args.out, [s.name for s in stages])
    config = ranks.told(beginning.config) if state is None else state.config
    text = Text.load(args.out, config.text)
    model = _model(beginning, ranks.told(set(beginning.parts)), config, text, stages[start:],
                   ranks, args.seed, found)
    sources = Sources(
        args.data, args.data / 'held_out',
        stage_files('--manifest', args.manifest, recipe, args.stage),
        stage_files('--held-out-manifest', args.held_out_manifest, recipe, args.stage),
        args.root, args.on_broken)
    options = Options(args.seed, args.workers, args.precision, args.lora, args.tensorboard,
                      args.log_every, args.save_every or recipe.save_every, args.eval_every)
    trainer = Trainer(model, text, stages, args.out, sources, options=options, ranks=ranks,
                      heads=beginning.heads, start=start)
    if args.stage and trainer.stage_index < start:
        raise TrainingError(f'{args.out}: the run stands at stage '
                            f'{stages[trainer.stage_index].name}; run that before {args.stage}')
    return trainer


def _model(beginning: Beginning, given: set[str], config: ModelConfig, text: Text,
           stages: Sequence[Stage], ranks: Ranks, seed: int, structure: bool) -> OneLLM:
    """Return the model that a run begins with; on other ranks than the first its structure."""
    import torch

    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.training.experts import with_expert_count

    if 'llm' not in given:
        config = replace(config, llm=replace(config.llm, vocab_size=text.size))
    experts = next((s.experts for s in stages if s.experts and s.steps), 0)
    if 'upm' not in given and experts:
        config = with_expert_count(config, experts)
    if structure or not ranks.first:
        with torch.device('meta'):
            return OneLLM(config)
    torch.manual_seed(seed)
    return beginning.model(config)


def make_tokenizer(out: Path, beginning: Beginning) -> None:
    """See that the run has a tokenizer: that of its language model, or one trained for it."""
    from onellm_ros.model.text import train_tokenizer
    from onellm_ros.simulation.language import vocabulary_texts

    path = out / beginning.config.text.tokenizer
    if any((out / name).exists() for name in ('tokenizer.json', 'tokenizer.model')) \
            or beginning.copy_tokenizer(out):
        return
    if 'llm' in beginning.parts:
        raise TrainingError(f'{beginning.text_folder}: found no tokenizer.json or tokenizer.model '
                            'beside the language model, expected one')
    # What the template adds to each turn is worth a few tokens of its own.
    turns = [' Human: What', ' Assistant: a', ' Assistant: the'] * 1000
    train_tokenizer([*vocabulary_texts(), *turns],
                    beginning.config.llm.vocab_size).save(str(path))


def _train(args: argparse.Namespace, trainer: Trainer, ranks: Ranks) -> None:
    from onellm_ros.training.worlds import WorldOptions, Worlds

    worlds = Worlds(WorldOptions(args.data, args.worlds, args.held_out, args.render_processes,
                                 args.wait_for), trainer.config)

    def prepare(stage: Stage) -> None:
        with ranks.first_alone() as mine:
            if mine:
                worlds.prepare(stage)

    trainer.run(prepare)


def export(trainer: Trainer, folder: Path, recipe: Recipe) -> None:
    """Write a model directory."""
    import torch

    from onellm_ros.model.checkpoint import save_model
    from onellm_ros.training.pretrained import TOKENIZER_FILES

    save_model(trainer.finished(), folder, torch.int8 if recipe.int8 else torch.float16,
               recipe.coarse)
    for name in TOKENIZER_FILES:
        if (trainer.out / name).is_file():
            shutil.copy(trainer.out / name, folder)
    print(f'wrote {folder}')
