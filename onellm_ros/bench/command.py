"""``onellm bench``: what this machine makes of a model, before or after the weights are there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import statistics
import sys
import textwrap
import time
from typing import Any

from onellm_ros.bench.models import SIZES, check, position_bytes, random_engine
from onellm_ros.bench.stages import (
    FIVE,
    WARM_UP,
    Stages,
    measure,
    parameters_of,
    sensed_windows,
    wait_for,
)
from onellm_ros.bench.words import verdict
from onellm_ros.config import ConfigError, ModelConfig
from onellm_ros.machine import rss_bytes
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.memory import check_memory, cuda_bytes
from onellm_ros.perception.ring import MIB

_RANDOM_TOKENS = 48         # of a text that nothing ends; descriptions of nano take up to 70
_LEAST_LIMIT = 100 * MIB    # fewer bytes may lie in caches, which a copy says nothing of
# On a CPU, with the shipped model.
GOALS_MS = {'close to first token': 150, 'question to first token': 40}


class BenchError(RuntimeError):
    """A command line that cannot be used; the text says what was found and expected."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--model', help='name or folder (default: nano)')
    which.add_argument('--random', choices=sorted(SIZES), metavar='SIZE',
                       help='random weights of this size, nothing is downloaded: '
                            f'{", ".join(SIZES)}')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    parser.add_argument('--backend', choices=('auto', 'torch', 'onnx'), default='auto',
                        help='what computes; auto: as the node (default)')
    parser.add_argument('--quantize', choices=('none', 'int8', 'int4', 'fp8'), default='none',
                        help="type of the language model's weights (default: none)")
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0: as the node')
    parser.add_argument('--modalities', metavar='A,B', default=','.join(m.value for m in FIVE),
                        help='that a window holds (default: %(default)s)')
    parser.add_argument('--max-tokens', type=int, metavar='N',
                        help='of a text (default: as the node, with random weights '
                             f'{_RANDOM_TOKENS})')
    parser.add_argument('--windows', type=int, default=12, metavar='N',
                        help='to measure (default: %(default)s)')
    parser.add_argument('--quick', action='store_true', help='three windows')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there, too')


def wanted_modalities(text: str) -> tuple[Modality, ...]:
    """Return the modalities of a list of names.

    :raises BenchError: for one that the simulated robot does not have.
    """
    try:
        found = tuple(parse_modality(word) for word in text.split(',') if word.strip())
    except ValueError as error:
        raise BenchError(f'--modalities: {error}') from error
    if not found or not set(found) <= set(Modality):
        raise BenchError(f'--modalities {text}: expected some of '
                         f'{", ".join(m.value for m in Modality)}: windows are those of the '
                         'simulated robot, which has no others')
    return found


def _loaded(args: argparse.Namespace) -> tuple[Any, int, float, int]:
    """Return an engine, the bytes its weights come to, seconds and bytes that it took.

    :raises RuntimeError: if it does not fit, or cannot be loaded.
    """
    if args.random and args.backend == 'onnx':
        raise BenchError('--backend onnx: expected --model with an export of its weights '
                         '(onellm export); random weights have none')
    import torch

    from onellm_ros.inference import quantize
    from onellm_ros.inference.engine import Engine
    from onellm_ros.inference.locate import find_device

    device, less = find_device(args.device), args.quantize
    quantize.check(less, device, backend=args.backend)
    before = rss_bytes() or 0                           # torch itself is in it already
    kind = torch.bfloat16 if device.type == 'cuda' or less != 'none' else torch.float32
    if args.random:
        config = SIZES[args.random]
        weights = check(f'--random {args.random}', config, device, kind.itemsize,
                        quantize=less).weights
        started = time.perf_counter()
        engine = random_engine(config, device, kind, args.threads, less)
    else:
        model = args.model or 'nano'
        weights = check_memory(NodeConfig(model=model, device=args.device, quantize=less)).weights
        started = time.perf_counter()
        engine = Engine.load(model, args.device, threads=args.threads, backend=args.backend,
                             quantize=less)
    wait_for(device)
    return engine, weights, time.perf_counter() - started, (rss_bytes() or 0) - before


def _rows(engine: Any, found: Stages, load_s: float, sizes: tuple[int, int], random: bool
          ) -> list[dict[str, Any]]:
    """Return the figures as the benchmarks write them, without the machine.

    :param sizes: bytes of memory that were counted and measured.
    """
    from onellm_ros.bench.machine import copy_bandwidth
    from onellm_ros.inference.quantize import model_bytes, tensor_bytes

    on_cpu = engine.device.type == 'cpu'
    rows: list[dict[str, Any]] = []

    def add(case: str, values: Sequence[float], unit: str, reference: float | None = None,
            more: bool = False, goal: str = '') -> None:
        ours = statistics.median(values)
        ratio = None if not reference else ours / reference if more else reference / ours
        rows.append({'case': case, 'ours': ours, 'reference': reference, 'ratio': ratio,
                     'goal': goal, 'unit': unit, 'lowest': min(values), 'highest': max(values)})

    add('weights made' if random else 'load', [load_s], 's')
    for stage, name in (('preprocess', 'prepare the signals of a window'),
                        ('encode', 'encode a window'),
                        ('close to first token', 'window close to first token'),
                        ('description', 'window close to the last word'),
                        ('question to first token', 'question to first token')):
        most = GOALS_MS.get(stage) if on_cpu and engine.name == 'nano' else None
        add(name, [1e3 * s for s in found.seconds[stage]], 'ms', goal=f'<= {most}' if most else '')
    if found.rates:
        llm: Any = getattr(engine.model, 'llm', None)
        read = 0 if llm is None else model_bytes(llm) - (
            0 if llm.config.tied_embeddings else tensor_bytes(llm.tok_embeddings.weight))
        limit = copy_bandwidth(engine.device) / read if read >= _LEAST_LIMIT else None
        add('tokens a second', found.rates, 'tokens/s', limit, more=True)
    counted, measured = sizes
    add('memory', [measured / MIB], 'MiB', counted / MIB)
    return rows


def _print(rows: Sequence[dict[str, Any]]) -> None:
    notes = {'tokens a second': 'the memory bandwidth allows', 'memory': 'counted'}
    for row in rows:
        text = f'  {row["case"]:34} {row["ours"]:9.4g} {row["unit"]}'
        if row['lowest'] != row['highest']:
            text += f'  ({row["lowest"]:.3g} to {row["highest"]:.3g})'
        if row['reference']:
            text += f'  {notes[row["case"]]} {row["reference"]:.4g}'
        if row['goal']:
            text += f'  goal {row["goal"]}'
        print(text)


def _bench(args: argparse.Namespace) -> int:
    from onellm_ros.bench.machine import machine_line

    present = wanted_modalities(args.modalities)
    count = 3 if args.quick else args.windows
    for option, value, least in (('--windows', args.windows, 1), ('--threads', args.threads, 0),
                                 ('--max-tokens', args.max_tokens or 1, 1)):
        if value < least:
            raise BenchError(f'{option}: found {value}, expected at least {least}')
    engine, weights, load_s, taken = _loaded(args)
    config: ModelConfig = engine.config
    node = NodeConfig()
    tokens = args.max_tokens or (_RANDOM_TOKENS if args.random else node.describe.max_tokens)
    if tokens > config.llm.max_positions // 2:
        raise BenchError(f"--max-tokens {tokens}: expected at most half of the model's "
                         f'{config.llm.max_positions} positions')
    machine = machine_line(engine.device)
    parameters = parameters_of(engine)
    size = f', {parameters / 1e9:.3g} billion parameters' if parameters else ''
    less = '' if args.quantize == 'none' else f', language model in {args.quantize}'
    print(f'{machine}\n{engine.name}{" " + engine.weights_hash if engine.weights_hash else ""}'
          f'{size}{less}, by {engine.backend.name} on {engine.device}; windows of '
          f'{", ".join(m.value for m in present)}; medians of {count} (lowest to highest)',
          flush=True)
    print('rendering windows ...', file=sys.stderr, flush=True)
    warm_up = 1 if args.quick else WARM_UP
    windows = list(sensed_windows(config.tokenizer, present, count + warm_up))
    before = rss_bytes() or 0
    found = measure(engine, windows, tokens, warm_up)
    taken += (rss_bytes() or 0) - before
    value = 2 if engine.device.type == 'cuda' or args.quantize != 'none' else 4
    prefix = 1 + len(found.used) * (config.upm.modality_tokens + 2)
    counted = weights + position_bytes(config, value) * (2 * prefix + tokens)
    rows = _rows(engine, found, load_s, (counted, cuda_bytes() or taken), bool(args.random))
    _print(rows)
    print()
    for sentence in verdict(engine.name, str(engine.device), found, node.window.period_s, tokens,
                            bool(args.random)):
        print(textwrap.fill(sentence, 98))
    if args.json:
        keys = ('case', 'ours', 'reference', 'ratio', 'goal', 'unit')
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(
            [{**{k: row[k] for k in keys}, 'machine': machine} for row in rows], indent=1) + '\n',
            encoding='utf-8')
    return 0


def run(args: argparse.Namespace) -> int:
    """Run the subcommand.

    :returns: 0, or 2 with one line on stderr if it cannot be done.
    """
    try:
        return _bench(args)
    except (RuntimeError, ConfigError, OSError) as error:
        print(f'onellm bench: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
