"""Measure ONNX Runtime beside torch: the same weights, the same inputs, in this run.

Encoding, the beginning of a prompt, a question and tokens are timed in turns, so that whatever the
machine does besides falls on all of them alike; loading and memory come from a fresh process
each. The export is made here, unless ``--export`` names one. int8 stands apart: it is another
model, whose agreement with float32 is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import redirect_stdout
import io
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from _report import Report, Timing, arguments
import torch

from onellm_ros.export.layout import input_shape, read_manifest
from onellm_ros.export.write import export_model, quantize
from onellm_ros.export_command import agree
from onellm_ros.inference.backend import Backend
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import find_model
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import load_model, weights_hash

FIVE = (Modality.IMAGE, Modality.DEPTH, Modality.POINT, Modality.AUDIO, Modality.IMU)
QUESTION, TOKENS = 12, 32
# Loads a model and encodes a window of one picture; prints seconds to load, and MiB added by it.
FRESH = """
import json, sys, time
import torch
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
def mib():
    return next(int(x.split()[1]) for x in open('/proc/self/status') if x[:6] == 'VmRSS:') / 1024
model, backend, threads = sys.argv[1:]
before, start = mib(), time.perf_counter()
engine = Engine.load(model, 'cpu', backend=backend, threads=int(threads))
loaded = time.perf_counter() - start
size = engine.config.encoder.image_size
engine.ask(engine.encode({Modality.IMAGE: torch.zeros(1, 3, size, size)}), 'What?', max_tokens=8)
print(json.dumps([loaded, mib() - before]))
"""


class Bench:
    """The cases, for several backends side by side.

    :param backends: name -> backend; the first is the reference. :param clock: gives seconds.
    """

    def __init__(self, report: Report, engine: Engine, backends: dict[str, Backend],
                 repeats: int, clock: Callable[[], float]) -> None:
        self.report, self.backends, self.repeats = report, backends, repeats
        self.clock = clock
        generator = torch.Generator().manual_seed(0)
        self.inputs = {m: torch.randn(input_shape(engine.config, m), generator=generator)
                       .to(engine.device) for m in engine.modalities}

    def _turns(self, case: str, works: dict[str, Callable[[], object]], *, per: int = 1,
               rate: bool = False, goal: str = '') -> None:
        """Time each work in turns and add rows.

        :param per: things that a call does; milliseconds are for each of them.
        :param rate: how many a second instead.
        """
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(self.repeats + 1):
            for name, work in works.items():
                self._wait()
                start = self.clock()
                work()
                self._wait()
                if turn:                        # the first one warms up
                    seconds[name].append(self.clock() - start)
        values = {n: Timing(tuple(per / s if rate else s / per * 1e3 for s in found))
                  for n, found in seconds.items()}
        first, *others = values
        for name in others:
            self.report.add(f'{case}, {name}', values[name], values[first],
                            unit='a second' if rate else 'ms', more_is_better=rate, goal=goal)

    def _wait(self) -> None:
        if any(b.device.type == 'cuda' for b in self.backends.values()):
            torch.cuda.synchronize()

    def encode(self) -> None:
        """Encoder and projection, with the grouping of points."""
        self.report.note('encoding (reference: torch)')
        for title, present in (('image', (Modality.IMAGE,)), ('five modalities', FIVE),
                               ('all modalities', tuple(self.inputs))):
            window = {m: self.inputs[m] for m in present}
            self._turns(title, {n: lambda b=b, w=window: b.encode(w)    # type: ignore[misc]
                                for n, b in self.backends.items()})

    def language(self) -> None:
        """The language model: a prompt's beginning, a question, tokens one by one."""
        self.report.note('language model (reference: torch)')
        window = {m: self.inputs[m] for m in FIVE}
        tokens = {n: b.encode(window)[0] for n, b in self.backends.items()}
        self._turns('beginning of five modalities', {
            n: lambda n=n, b=b: b.prefill(tokens[n], 1)     # type: ignore[misc]
            for n, b in self.backends.items()})
        starts = {n: b.prefill(tokens[n], 1) for n, b in self.backends.items()}

        def asked(name: str, count: int) -> None:
            backend, start = self.backends[name], starts[name]
            cache = start.copy(start.length + QUESTION + TOKENS)
            backend.step([2] * QUESTION, cache)
            for _ in range(count):
                backend.step([2], cache)

        self._turns(f'question of {QUESTION} tokens', {
            n: lambda n=n: asked(n, 0) for n in self.backends})     # type: ignore[misc]
        self._turns(f'question and {TOKENS} tokens', {
            n: lambda n=n: asked(n, TOKENS) for n in self.backends}, per=TOKENS, rate=True)
        table = torch.full((8, 6), 2, device=next(iter(self.backends.values())).device)
        self._turns('8 choices of 6 tokens', {
            n: lambda n=n, b=b: b.continuations(table, starts[n])   # type: ignore[misc]
            for n, b in self.backends.items()})


def fresh(report: Report, models: dict[str, tuple[str, str]], threads: int, repeats: int) -> None:
    """Measure loading and memory in processes of their own; the first is the reference."""
    report.note('in a fresh process (reference: torch); memory beside what the imports take')
    found = {}
    for name, (model, backend) in models.items():
        lines = [json.loads(subprocess.run(
            [sys.executable, '-c', FRESH, model, backend, str(threads)], check=True,
            stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]) for _ in range(repeats)]
        found[name] = [Timing(values) for values in zip(*lines, strict=True)]
    first, *others = found
    for name in others:
        for case, unit, ours, reference in zip(
                ('loading', 'memory'), ('s', 'MiB'), found[name], found[first], strict=True):
            report.add(f'{case}, {name}', ours, reference, unit=unit)


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments(parser, repeats=15)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=0, help='default: as the engine has it')
    parser.add_argument('--cpu-time', action='store_true',
                        help="the process's CPU time in place of the wall's (but of loading), "
                             'where other work shares the machine; not for a GPU')
    parser.add_argument('--export', type=Path, metavar='DIR',
                        help='what `onellm export` wrote of the model (with --int8: both)')
    args = parser.parse_args()
    report = Report('ONNX Runtime beside torch', 'torch', 'onnxruntime', 'onnx')
    repeats = 4 if args.quick else args.repeats
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = find_model(args.model), args.export or Path(temporary) / 'onnx'
        if args.export is None:
            start = time.perf_counter()
            manifest = export_model(load_model(folder), target, source=folder,
                                    weights_hash=weights_hash(folder), told=print)
            quantize(target, target / 'int8', manifest)
            print(f'exported in {time.perf_counter() - start:.1f} s')
        models = {'torch': (str(folder), 'torch'), 'onnx': (str(target), 'onnx')}
        int8 = args.device == 'cpu' and (target / 'int8').is_dir()
        if int8:
            models['onnx int8'] = (str(target / 'int8'), 'onnx')
        if read_manifest(target).weights_hash != weights_hash(folder):
            parser.error(f'--export: {target} was made of other weights than {folder}')
        engines = {n: Engine.load(m, args.device, dtype=torch.float32, backend=b,
                                  threads=args.threads) for n, (m, b) in models.items()}
        first = engines['torch']
        print(f'model {first.name} {first.weights_hash}, float32 on {first.device}, '
              f'{torch.get_num_threads()} thread(s) of torch; '
              f'{"CPU" if args.cpu_time else "wall"} time, medians of {repeats} repeats '
              '(lowest to highest)')
        with torch.inference_mode():
            bench = Bench(report, first, {n: e.backend for n, e in engines.items()}, repeats,
                          time.process_time if args.cpu_time else time.perf_counter)
            bench.encode()
            bench.language()
        if args.device == 'cpu':
            fresh(report, models, args.threads, 1 if args.quick else 3)
        if int8:
            with redirect_stdout(io.StringIO()):
                share = agree(target, target / 'int8', 2 if args.quick else 0)
            report.note(f'int8 against float32, {share["prompts"]:.0f} prompts on simulated '
                        'windows')
            report.add('int8: equal greedy tokens', share['tokens'] * 100, unit='%')
            report.add('int8: equal answers', share['answers'] * 100, unit='%')
    report.finish(args.json)


if __name__ == '__main__':
    main()
