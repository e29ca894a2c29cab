"""``onellm eval``: scores models on benchmarks, and tells about runs without a model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import importlib
import importlib.util
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from onellm_ros.evaluation.task import Task, Tools
from onellm_ros.evaluation.tasks import find_task

if TYPE_CHECKING:
    from onellm_ros.evaluation.harness import Request

# The authors' scripts: model.generate(..., temperature=0.1, top_p=0.75) after manual_seed(1).
PAPER_SAMPLING = {'temperature': 0.1, 'top_p': 0.75, 'seed': 1}
JUDGE_KEYS = ('ONELLM_JUDGE_KEY', 'OPENAI_API_KEY')
# What tells about runs that are there already: module (add_arguments, run) by option.
_OTHERS = {'compare': 'onellm_ros.evaluation.compare',
           'report': 'onellm_ros.evaluation.report_command'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm eval``."""
    parser.add_argument('named', nargs='?', help=argparse.SUPPRESS)     # an older form's task
    what = parser.add_argument_group('what to do (one of these)')
    what.add_argument('--task', metavar='NAME[,NAME...]',
                      help='ask a model these benchmarks, or go on with it')
    what.add_argument('--list', action='store_true',
                      help='print name, number in the paper, modalities and metrics of each')
    what.add_argument('--explain', metavar='TASK',
                      help='print what to fetch, how is asked and scored, what the paper reports')
    what.add_argument('--rescore', type=Path, metavar='OUT',
                      help='score the predictions of runs anew, without a model')
    what.add_argument('--compare', type=Path, nargs=2, metavar=('A', 'B'),
                      help='tell whether two runs differ beyond the noise')
    what.add_argument('--report', type=Path, nargs='+', metavar='OUT',
                      help='set the scores of runs beside the paper')
    asked = parser.add_argument_group('what is asked of which model')
    asked.add_argument('--model', default='nano', help='name or folder (default: nano)')
    asked.add_argument('--data', type=Path, metavar='DIR',
                       help="the benchmark's folder, or one that holds it under the task's name")
    asked.add_argument('--out', type=Path, metavar='DIR',
                       help='a folder for each task goes there (default: eval_out/MODEL)')
    asked.add_argument('--split', default='', help="default: each task's first")
    asked.add_argument('--limit', type=int, default=0, metavar='N',
                       help='only the first N items of each task')
    asked.add_argument('--set', action='append', default=[], metavar='OPTION=VALUE',
                       help='an option of a task (--explain shows them); may be repeated')
    asked.add_argument('--skip-broken', action='store_true',
                       help='count items whose files cannot be used as wrong, and go on')
    how = parser.add_argument_group('how it answers')
    how.add_argument('--device', default='auto', help='auto, cpu, cuda (torchrun: one each)')
    how.add_argument('--backend', default='auto', choices=('auto', 'torch', 'onnx'),
                     help='what computes; auto: torch, where there is more than an export')
    how.add_argument('--quantize', default='none', metavar='KIND',
                     help="type of the language model's weights: none, int8, int4, fp8")
    how.add_argument('--batch', type=int, default=0, metavar='N',
                     help='questions at once (default: 16 on a GPU, 1 on the CPU)')
    how.add_argument('--prompt', default='', metavar='FORM',
                     help="another prompt: a letter of the paper's, or a text with {question}")
    how.add_argument('--max-tokens', type=int, default=0, metavar='N',
                     help="of a reply (default: each task's)")
    how.add_argument('--sampling', choices=('greedy', 'paper'), default='greedy',
                     help='greedy: the likeliest token each time; paper: as the authors draw')
    how.add_argument('--temperature', type=float, help='draw tokens (default: 0, greedy)')
    how.add_argument('--top-p', type=float, help='draw from the likeliest with this probability')
    how.add_argument('--seed', type=int, help='of drawing (default: 0; of the paper: 1)')
    score = parser.add_argument_group('what some metrics need')
    score.add_argument('--judge', default='', metavar='URL',
                       help='OpenAI-compatible endpoint, http://host:8000/v1; its key is read '
                            f'from {" or ".join(JUDGE_KEYS)}')
    score.add_argument('--judge-model', default='', metavar='NAME', help='a model there')
    score.add_argument('--java', default='', metavar='FILE',
                       help='the java command, for METEOR and SPICE (default: that of PATH)')
    for name, module in _OTHERS.items():
        if importlib.util.find_spec(module) is not None:
            group = parser.add_argument_group(f'for --{name}')
            importlib.import_module(module).add_arguments(group)


def tools_of(args: argparse.Namespace) -> Tools:
    """Return what metrics may use.

    :raises ValueError: for a judge without a model, or what is no address.
    """
    if bool(args.judge) != bool(args.judge_model):
        raise ValueError(f'found --judge {args.judge!r} and --judge-model {args.judge_model!r}, '
                         'expected both or neither')
    if args.judge and not args.judge.startswith(('http://', 'https://')):
        raise ValueError(f'--judge: found {args.judge!r}, expected an address such as '
                         'http://host:8000/v1')
    key = next((os.environ[k] for k in JUDGE_KEYS if os.environ.get(k)), '')
    return Tools(args.judge, args.judge_model, key, None, args.java)


def _options(texts: list[str], tasks: list[Task]) -> Mapping[str, int | float | str]:
    """Return the options of tasks that were set, in the type of their defaults.

    :raises ValueError: for one that none of the tasks has, or that has another type.
    """
    known = {name: value for task in tasks for name, value in task.options.items()}
    found: dict[str, int | float | str] = {}
    for text in texts:
        name, equals, value = text.partition('=')
        if not equals or name not in known:
            raise ValueError(f'--set: found {text!r}, expected OPTION=VALUE with one of '
                             f'{", ".join(known) or "no option: these tasks have none"}')
        try:
            found[name] = type(known[name])(value)
        except ValueError:
            raise ValueError(f'--set {name}: found {value!r}, expected a value like '
                             f'{known[name]!r}') from None
    return found


def _sampling(args: argparse.Namespace) -> dict[str, float]:
    """Return temperature, top-p and seed.

    :raises ValueError: for values that mean nothing, or two ways of drawing at once.
    """
    given = {name: value for name in ('temperature', 'top_p', 'seed')
             if (value := getattr(args, name)) is not None}
    if args.sampling == 'paper' and {'temperature', 'top_p'} & set(given):
        raise ValueError('found --sampling paper and --temperature or --top-p, expected one way '
                         'of drawing')
    found = {'temperature': 0.0, 'top_p': 1.0, 'seed': 0,
             **(PAPER_SAMPLING if args.sampling == 'paper' else {}), **given}
    if not found['temperature'] and given:
        raise ValueError(f'found --{next(iter(given)).replace("_", "-")} without a temperature, '
                         'expected --temperature above 0: greedy decoding draws nothing')
    if not 0 <= found['temperature'] < float('inf') or not 0 < found['top_p'] <= 1 \
            or found['seed'] < 0:
        raise ValueError(f'found --temperature {found["temperature"]} --top-p {found["top_p"]} '
                         f'--seed {found["seed"]}, expected 0 or more, above 0 and at most 1, '
                         'and 0 or more')
    return found


def request_of(args: argparse.Namespace) -> Request:
    """Return what the options ask for.

    :raises ValueError: for options that mean nothing, or do not go together.
    """
    from onellm_ros.evaluation.harness import Request

    names = [name.strip() for name in args.task.split(',') if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f'--task: found {args.task!r}, expected names, each once')
    tasks = [find_task(name) for name in names]
    for name in ('batch', 'limit', 'max_tokens'):
        if getattr(args, name) < 0:
            raise ValueError(f'--{name.replace("_", "-")}: found {getattr(args, name)}, expected '
                             '1 or more')
    drawn = _sampling(args)
    folder = args.model.removeprefix('hub:').strip('/').replace('/', '-')
    name = Path(args.model).resolve().name if Path(args.model).is_dir() else folder
    return Request(
        tasks, args.model, args.out or Path('eval_out') / name, args.data, args.split,
        args.device, args.backend, args.quantize, args.batch, args.limit, args.prompt,
        float(drawn['temperature']), float(drawn['top_p']), int(drawn['seed']), args.max_tokens,
        args.skip_broken, _options(args.set, tasks), tools_of(args))


def _evaluate(args: argparse.Namespace) -> int:
    """Ask a model; returns the exit status."""
    import torch

    from onellm_ros.evaluation.harness import harness
    from onellm_ros.evaluation.runs import folder_of
    from onellm_ros.evaluation.scoring import told
    from onellm_ros.inference.locate import EngineError
    from onellm_ros.model.files import CheckpointError

    request = request_of(args)
    runner = None
    try:
        with harness(request) as runner:
            for result in runner.run():
                print(told(result))
                task = find_task(result['task']['name'])
                print(f'wrote {folder_of(request.out, task, result["task"]["split"])}', flush=True)
    except KeyboardInterrupt:
        done = f' after {runner.done} of {runner.asked} items' if runner and runner.asked else ''
        print(f'\nstopped{done}; the same command goes on from there', file=sys.stderr)
        return 130
    except (EngineError, CheckpointError) as error:
        return _fail(error)
    except torch.OutOfMemoryError as error:
        return _fail(f'{str(error).splitlines()[0]}; what was answered is kept, but another '
                     '--batch is another run: give a smaller one, and another --out')
    return 0


def _rescore(args: argparse.Namespace) -> int:
    """Score kept predictions; returns the exit status. A run that cannot be stops no other."""
    from onellm_ros.evaluation.runs import find_runs, read_run
    from onellm_ros.evaluation.scoring import told, write_scores

    tools, status = tools_of(args), 0
    for folder in find_runs(args.rescore):
        try:
            print(told(write_scores(read_run(folder, args.data), tools)), flush=True)
        except ValueError as error:
            status = _fail(error)
    return status


def _tell(args: argparse.Namespace) -> int:
    """Do what needs no model; returns the exit status."""
    from onellm_ros.evaluation.listing import explanation, listing

    print(listing() if args.list else explanation(find_task(args.explain)))
    return 0


def _fail(message: object) -> int:
    """Print an error on one line; returns the exit status."""
    rank, size = os.environ.get('RANK', '0'), os.environ.get('WORLD_SIZE', '1')
    which = f' (process {rank} of {size})' if size != '1' else ''
    print(f'onellm eval{which}: error:', ' '.join(str(message).split()), file=sys.stderr)
    return 2


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status (2: wrong use, or a broken file)."""
    if args.named:
        return _fail(f'found {args.named!r}, expected an option: `onellm eval --task '
                     f'{args.named}` asks a benchmark')
    wanted = [name for name in ('task', 'list', 'explain', 'rescore', *_OTHERS)
              if getattr(args, name)]
    if len(wanted) != 1:
        found = ' and '.join(f'--{name}' for name in wanted) or 'none'
        return _fail(f'found {found}, expected one of --task, --list, --explain, --rescore, '
                     '--compare, --report (`onellm eval --list` prints the tasks)')
    try:
        if wanted[0] in _OTHERS:
            if importlib.util.find_spec(_OTHERS[wanted[0]]) is None:
                return _fail(f'--{wanted[0]}: this installation has no {_OTHERS[wanted[0]]}')
            return int(importlib.import_module(_OTHERS[wanted[0]]).run(args))
        does = {'task': _evaluate, 'rescore': _rescore}.get(wanted[0], _tell)
        return does(args)
    except BrokenPipeError:             # of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        return _fail(error)
