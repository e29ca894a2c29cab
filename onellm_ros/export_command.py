"""The command ``onellm export``: a model as ONNX graphs, kept if they compute what torch does."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onellm_ros.inference.engine import Engine, Prefix

INT8 = 'int8'           # folder of the int8 form, below that of the export
_WINDOWS = 8            # of the simulated robot, for the comparison of int8
_TOKENS = 48
_QUESTIONS = ('What is the robot doing?', 'What can be seen?', 'What can be heard?')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm export``."""
    parser.add_argument('--model', default='nano', metavar='M',
                        help='name or directory of a model, or hub:OWNER/NAME after `onellm pull` '
                             '(default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help="folder to write (default: in the user's cache, where the engine "
                             'looks for it); an older export there is replaced')
    parser.add_argument('--opset', type=int, default=17, metavar='N',
                        help='ONNX operator set, 17 to 20 (default: %(default)s)')
    parser.add_argument('--int8', action='store_true',
                        help=f'write DIR/{INT8}, too: linear layers in int8 for the CPU; how far '
                             'its answers are from those of float32 is measured and printed')


def run(args: argparse.Namespace) -> int:
    """Export; return 0, or 2 with the reason on stderr."""
    import torch

    from onellm_ros.export.layout import ExportError
    from onellm_ros.export.write import export_model, packages, quantize
    from onellm_ros.inference.choosing import export_folder
    from onellm_ros.inference.locate import EngineError, find_model
    from onellm_ros.model.checkpoint import CheckpointError, load_model, weights_hash

    torch.set_num_threads(1)
    try:
        packages()
        folder = find_model(args.model)
        model = load_model(folder)
        short = weights_hash(folder)
        target: Path = args.out or export_folder(folder, short)
        manifest = export_model(model, target, weights_hash=short, source=folder,
                                opset=args.opset, told=print)
        for modality, reason in manifest.missing.items():
            print(f'{modality} was left out: {reason}', file=sys.stderr)
        del model
        print(_size(target))
        if args.int8:
            print('int8:')
            small = target / INT8
            measured = quantize(target, small, manifest)
            agreement = agree(target, small)
            replace(measured, agreement=agreement).write(small)
            _tell(agreement)
            print(_size(small))
    except (ExportError, EngineError, CheckpointError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f'{error.filename or args.out}: {error.strerror or error}')
    except KeyboardInterrupt:
        return _fail('interrupted; nothing was left behind')
    return 0


def agree(exact: Path, other: Path, windows: int = 0) -> dict[str, float]:
    """Return how often two exports say the same at temperature 0, on simulated windows.

    :param windows: how many; default: eight, four prompts each.
    :returns: ``tokens``: share of equal tokens, each after the same beginning (that of the first
        export); ``answers``: share of answers that are equal as a whole; ``prompts``: of how many.
    """
    from onellm_ros.inference.engine import Engine
    one, two = Engine.load(exact, 'cpu'), Engine.load(other, 'cpu')
    equal = total = whole = prompts = 0
    encoded = [_prefixes(engine, windows or _WINDOWS) for engine in (one, two)]
    for first, second in zip(*encoded, strict=True):
        for question in (one.config.text.describe_prompt, *_QUESTIONS):
            ids = _tokens(one, first, question)
            same = _same(two, second, question, ids)
            equal, total = equal + same, total + len(ids)
            whole, prompts = whole + (same == len(ids)), prompts + 1
    return {'tokens': equal / total, 'answers': whole / prompts, 'prompts': prompts}


def _prefixes(engine: Engine, windows: int) -> list[Prefix]:
    """Encode windows of the simulated robot."""
    from onellm_ros.simulation.render import Camera
    from onellm_ros.simulation.world import World
    out = []
    for seed in range(windows):
        world = World(seed, held_out=True, camera=Camera(320, 240))
        seen = world.sample(cloud_points=engine.config.tokenizer.points,
                            video=(engine.config.tokenizer.video_frames, 160, 120))
        samples = seen.chosen()
        out.append(engine.encode(
            engine.preprocessor.tensors(samples, seen.stamp_ns, strict=False)))
    return out


def _tokens(engine: Engine, prefix: Prefix, question: str) -> list[int]:
    """Return the greedy tokens of an answer, with the one that ends it."""
    pending = engine.text.encode_prompt(question)
    cache = prefix.cache.copy(prefix.positions + len(pending) + _TOKENS)
    out: list[int] = []
    while len(out) < _TOKENS and not (out and out[-1] in engine.text.stop_ids):
        out.append(int(engine.step(pending, cache).argmax()))
        pending = out[-1:]
    return out


def _same(engine: Engine, prefix: Prefix, question: str, ids: list[int]) -> int:
    """Return how many of these tokens an engine chooses, each after those before it."""
    pending = engine.text.encode_prompt(question)
    cache = prefix.cache.copy(prefix.positions + len(pending) + len(ids))
    same = 0
    for token in ids:
        same += int(engine.step(pending, cache).argmax()) == token
        pending = [token]
    return same


def _tell(agreement: dict[str, float]) -> None:
    print(f'{agreement["tokens"]:.2%} of the tokens and {agreement["answers"]:.0%} of '
          f'{agreement["prompts"]:.0f} answers as in float32. It is used only where its folder '
          'is named as the model.')


def _size(folder: Path) -> str:
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    return f'{folder}: {size / 1e6:.1f} MB'


def _fail(text: str) -> int:
    print(f'onellm export: {text}', file=sys.stderr)
    return 2
