"""Measure quantized weights: tokens a second, prompts, memory, and what they do to answers.

Each form stands beside float32 of the same model, in turns, in one process: nano, and language
models of other sizes with random weights. With one thread (the default) the process' own CPU time
counts, so that other work on the machine disturbs little; with more it is the wall's. Then nano
answers questions about worlds of the simulated robot in every form. ``torchao`` names its own
products, without this package's use of torch's kernel: what they cost without a compiler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
import gc
import time

from _report import Report, Timing, arguments
import torch

from onellm_ros.bench.models import SIZES, random_engine
from onellm_ros.config import NANO, LlmConfig, ModelConfig
from onellm_ros.evaluation.robot_world import engine_answerer, evaluate
from onellm_ros.inference import quantize
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError

CPU = torch.device('cpu')
# Only the language model is of the size: encoder and projection are nano's.
MODELS: dict[str, ModelConfig] = {
    '300m': replace(NANO, name='300m', llm=LlmConfig(
        dim=1024, layers=24, heads=16, hidden=2816, vocab_size=32000, max_positions=1024)),
    '1b': replace(NANO, name='1b', llm=SIZES['1b'].llm)}
FORMS = ('bfloat16', 'int8', 'int4')
TORCHAO = ('torchao int8', 'torchao int8, dynamic activations')
POSITIONS, QUESTION = 100, 12


def loaded(size: str, form: str) -> Engine:
    """Return an engine of a size in a form."""
    kind = form if form in quantize.KINDS else 'none'
    dtype = torch.float32 if form == 'float32' else torch.bfloat16
    if size == 'nano':
        engine = Engine.load('nano', 'cpu', dtype, backend='torch', quantize=kind)
    else:
        engine = random_engine(MODELS[size], CPU, dtype, quantize=kind)
    if form in TORCHAO:
        from torchao.quantization import (
            Int8DynamicActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            quantize_,
        )
        assert engine.model is not None
        quantize_(engine.model.llm, Int8DynamicActivationInt8WeightConfig()
                  if 'dynamic' in form else Int8WeightOnlyConfig())
        engine = Engine(engine.model, engine.text)
    return engine


class Runs:
    """What one engine is measured by; each call gives seconds."""

    def __init__(self, engine: Engine, tokens: int, clock: Callable[[], float]) -> None:
        assert engine.model is not None
        self.llm, self.engine, self.tokens, self.clock = engine.model.llm, engine, tokens, clock
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(4, 900, (1, POSITIONS), generator=generator)
        self.bytes = quantize.model_bytes(self.llm)

    def _prefix(self) -> tuple[object, float]:
        begin = self.clock()
        cache = self.llm.new_cache(1, POSITIONS)
        self.llm(self.llm.embed(self.ids), cache=cache, return_hidden=True, last_only=True)
        return cache, self.clock() - begin

    def once(self) -> dict[str, float]:
        """Return the seconds of a prompt's beginning, a question and a token."""
        prefix, beginning = self._prefix()
        cache = prefix.copy(POSITIONS + QUESTION + self.tokens)  # type: ignore[attr-defined]
        begin = self.clock()
        logits = self.engine.step(list(range(5, 5 + QUESTION)), cache)
        asked = self.clock()
        for _ in range(self.tokens):
            logits = self.engine.step([int(logits.argmax())], cache)
        return {'prompt': beginning, 'question': asked - begin,
                'token': (self.clock() - asked) / self.tokens}


def compare(report: Report, size: str, forms: tuple[str, ...], repeats: int, tokens: int,
            clock: Callable[[], float]) -> None:
    """Add a size's rows: every form beside float32."""
    exact = Runs(loaded(size, 'float32'), tokens, clock)
    parameters = sum(p.numel() for p in exact.llm.parameters())
    report.note(f'{size}: a language model of {parameters / 1e6:.0f} million parameters')
    for form in forms:
        begun = time.perf_counter()
        ours = Runs(loaded(size, form), tokens, clock)
        took = time.perf_counter() - begun
        ours.once(), exact.once()
        mine, other = zip(*((ours.once(), exact.once()) for _ in range(repeats)), strict=True)

        def timing(found: tuple[dict[str, float], ...], name: str) -> Timing:
            return Timing(tuple(f[name] for f in found))

        report.add(f'{size}, {form}: tokens a second',
                   *(Timing(tuple(1 / v for v in timing(f, 'token').values))
                     for f in (mine, other)), unit='tokens/s', more_is_better=True)
        for name, what in (('prompt', f'prompt of {POSITIONS}'),
                           ('question', f'question of {QUESTION}')):
            report.add(f'{size}, {form}: {what}',
                       *(timing(f, name).scaled(1e3) for f in (mine, other)), unit='ms')
        report.add(f'{size}, {form}: weights', ours.bytes / 2**20, exact.bytes / 2**20,
                   unit='MiB')
        print(f'    made in {took:.1f} s', flush=True)
        del ours
        gc.collect()


def agreement(report: Report, forms: tuple[str, ...], worlds: int) -> None:
    """Add what the forms do to nano's answers about the robot's worlds."""
    def run(form: str) -> tuple[list[str], float]:
        said: list[str] = []
        right: list[bool] = []

        def note(_evidence: object, _question: object, text: str, correct: bool) -> None:
            said.append(text)
            right.append(correct)

        evaluate(engine_answerer(loaded('nano', form)), seed=11, worlds=worlds, caption_worlds=0,
                 guesser_worlds=1, on_answer=note, progress=False)
        return said, 100 * sum(right) / len(right)

    exact, accuracy = run('float32')
    report.note(f'nano on {worlds} worlds: {len(exact)} questions; float32 is right in '
                f'{accuracy:.1f} %')
    for form in forms:
        said, found = run(form)
        same = sum(a == b for a, b in zip(said, exact, strict=True))
        report.add(f'nano, {form}: answers as in float32', 100 * same / len(exact), unit='%',
                   more_is_better=True)
        report.add(f'nano, {form}: right', found, accuracy, unit='%', more_is_better=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    arguments(parser, repeats=5)
    parser.add_argument('--sizes', default='', help='some of nano, 300m, 1b (default: all; quick: '
                        'nano, 300m)')
    parser.add_argument('--threads', type=int, default=1, help='default %(default)s')
    parser.add_argument('--tokens', type=int, default=16, help='default %(default)s')
    parser.add_argument('--worlds', type=int, default=20, help='0: none; default %(default)s')
    args = parser.parse_args()
    sizes = (args.sizes or ('nano,300m' if args.quick else 'nano,300m,1b')).split(',')
    clock = time.process_time if args.threads == 1 else time.perf_counter
    try:
        quantize.check('int8', CPU)
    except EngineError as error:
        raise SystemExit(f'bench_quantize: {error}') from None
    report = Report(f'Quantized weights, {args.threads} threads, '
                    f'{"CPU" if args.threads == 1 else "wall"} time', 'torch', 'torchao')
    forms = FORMS[1:] if args.quick else FORMS + TORCHAO
    with torch.inference_mode():
        for size in sizes:
            torch.set_num_threads(args.threads)
            compare(report, size, forms, 1 if args.quick else args.repeats,
                    8 if args.quick else args.tokens, clock)
            gc.collect()
    if args.worlds:
        agreement(report, FORMS[1:] if args.quick else FORMS, 1 if args.quick else args.worlds)
    report.finish(args.json)


if __name__ == '__main__':
    main()
