"""One window through preprocessing, tokenizers, encoder and UPM, beside the plain path.

    .venv/bin/python benchmarks/bench_encode.py             # nano on this CPU
    .venv/bin/python benchmarks/bench_encode.py --size released --device cuda --dtype bfloat16

The plain path (`_plain_encode.py`) runs in turn with ours on the same windows of the simulation.
Cases: five and all modalities of a window that shares nothing with earlier ones, stage by stage;
windows that overlap, whose frames recur; a question about a part of a window that was described.
"Equal" is the largest difference of a modality token, which is about 1 in size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
import time

import _plain_encode as plain
from _report import Report, Timing, arguments
import numpy as np
import torch
from torch import Tensor

from onellm_ros.bench.models import SIZES, random_engine
from onellm_ros.bench.stages import FIVE, SensedWindow, sensed_windows
from onellm_ros.choose import ChoiceSpec, choose
from onellm_ros.config import LlmConfig, ModelConfig
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality, Sample
from onellm_ros.model import packing
from onellm_ros.model.onellm import OneLLM
from onellm_ros.preprocess import Preprocessor
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import LiveWorld
from onellm_ros.windows import Window

STAGES = ('preprocess', 'tokenize', 'encode', 'project')
SECOND_NS = 1_000_000_000
SIX = (*FIVE, Modality.VIDEO)


def engine_of(args: argparse.Namespace) -> Engine:
    """Return nano, or an engine whose encoder and UPM have the released size."""
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype)
    if args.size == 'nano':
        return Engine.load('nano', args.device, dtype)
    # The language model does not take part: one layer of its width.
    llm = LlmConfig(layers=1, vocab_size=1024)
    return random_engine(replace(SIZES['7b'], llm=llm), device, dtype, args.threads[-1])


def waiting(device: torch.device, clock: Callable[[], float] = time.perf_counter
            ) -> Callable[[], float]:
    """Return a clock that waits for the device."""
    def now() -> float:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return clock()

    return now


def stages_plain(engine: Engine, seen: SensedWindow, now: Callable[[], float]
                 ) -> tuple[list[float], dict[Modality, Tensor]]:
    """Return the seconds of each stage, and the modality tokens."""
    model, config = engine.model, engine.config
    marks = [now()]
    made = plain.preprocess(config.tokenizer, config.encoder.image_size, seen.chosen, seen.end_ns)
    marks.append(now())
    tokens = plain.tokenize(model, {m: x.to(engine.device) for m, x in made.items()})
    marks.append(now())
    features = plain.encode(model, tokens)
    marks.append(now())
    out = plain.project(model, features)
    marks.append(now())
    return np.diff(marks).tolist(), {m: t for m, (t, _) in out.items()}


def stages_ours(engine: Engine, seen: SensedWindow, now: Callable[[], float]
                ) -> tuple[list[float], dict[Modality, Tensor]]:
    """Return the seconds of each stage for a window that nothing is known of, and its tokens."""
    model: OneLLM = engine.model
    preprocessor = Preprocessor.from_config(engine.config, derive_normals=False)
    marks = [now()]
    made = preprocessor.tensors(seen.chosen, seen.end_ns)
    marks.append(now())
    tokens = packing.Tokenized(model, {m: x.to(engine.device) for m, x in made.items()},
                               {m: o.frames for m, o in made.origins.items()})
    marks.append(now())
    features = tokens.features(packing.encode(model.encoder, tokens.parts))
    marks.append(now())
    out = packing.project(model.upm, features)
    marks.append(now())
    return np.diff(marks).tolist(), {m: t for m, (t, _) in out.items()}


def largest(ours: Mapping[Modality, Tensor], theirs: Mapping[Modality, Tensor]) -> float:
    """Return the largest difference of any modality token."""
    assert set(ours) == set(theirs)
    return max(float((ours[m].float() - theirs[m].float()).abs().max()) for m in ours)


def fresh_windows(report: Report, engine: Engine, name: str, present: Sequence[Modality],
                  repeats: int, goal: str, cpu: bool = False) -> None:
    """Report windows that share nothing, stage by stage.

    :param cpu: measure the CPU's time, which says more than the wall's on a busy machine; then
        the sum alone is told.
    """
    now = waiting(engine.device, time.process_time if cpu else time.perf_counter)
    ours: list[list[float]] = []
    reference: list[list[float]] = []
    differences = []
    for number, seen in enumerate(sensed_windows(engine.config.tokenizer, present, repeats + 2)):
        seen = SensedWindow({m: s for m, s in seen.chosen.items() if m in present}, seen.end_ns)
        theirs, expected = stages_plain(engine, seen, now)
        mine, found = stages_ours(engine, seen, now)
        if number >= 2 or repeats == 1:             # two that do not count
            ours.append(mine)
            reference.append(theirs)
            differences.append(largest(found, expected))
    report.note(name)
    if not ours:
        raise SystemExit('the simulation has no window with these modalities')
    for i, stage in enumerate(() if cpu else STAGES):
        report.add(f'{name}: {stage}', Timing(tuple(r[i] * 1e3 for r in ours)),
                   Timing(tuple(r[i] * 1e3 for r in reference)), unit='ms')
    report.add(f'{name}: tokenizers, encoder and UPM', Timing(tuple(sum(r[1:]) * 1e3
                                                                    for r in ours)),
               Timing(tuple(sum(r[1:]) * 1e3 for r in reference)), unit='ms', goal=goal)
    equal(report, engine, name, max(differences))


def equal(report: Report, engine: Engine, name: str, difference: float) -> None:
    """Report the largest difference; the goal is for float32."""
    exact = next(engine.model.parameters()).dtype is torch.float32
    report.add(f'{name}: equal', difference, goal='<= 0.0001' if exact else '', unit='largest')


def live_windows(config: ModelConfig, length_s: float, count: int, video_s: float,
                 period_s: float = 1.0, seed: int = 5) -> Iterator[SensedWindow]:
    """Yield the overlapping windows of a robot: camera and depth at 10 Hz, cloud 2 Hz, 200 Hz IMU.

    Samples that windows share are the same objects, as the node's buffers give them.
    """
    world, camera = LiveWorld(seed), Camera(320, 240)
    until = length_s + period_s * count
    members: dict[str, list[Sample]] = {n: [] for n in ('rgb', 'depth', 'cloud', 'imu', 'sound')}
    for step in range(round(10 * until)):
        at = 0.02 + 0.1 * step
        stamp = round(at * 1e9)
        view = world.observe_camera(at, camera)
        members['rgb'].append(Sample(stamp, view.image))
        members['depth'].append(Sample(stamp, view.depth))
        if step % 5 == 0:
            members['cloud'].append(Sample(stamp, world.cloud(at)))
        members['sound'].append(Sample(round((at - 0.02) * 1e9), world.audio_between(
            at - 0.02, at + 0.08), rate_hz=world.audio_rate_hz))
    stamps, values = world.imu_between(0.0, until)
    members['imu'] = [Sample(round(t * 1e9), v) for t, v in zip(stamps, values, strict=True)]
    spec = ChoiceSpec.for_model(config.tokenizer, {
        'rgb': Modality.IMAGE, 'depth': Modality.DEPTH, 'cloud': Modality.POINT,
        'imu': Modality.IMU, 'sound': Modality.AUDIO}, SIX, video_ns=round(video_s * 1e9))
    for number in range(count):
        end_ns = round((length_s + period_s * number) * 1e9)
        begin_ns = end_ns - round(length_s * 1e9)
        held = {}
        for name, samples in members.items():
            back = spec.lookback_ns(spec.streams[name])
            held[name] = tuple(s for s in samples
                               if min(begin_ns, end_ns - back) <= s.stamp_ns < end_ns)
        chosen = choose(Window(begin_ns, end_ns, number, held), spec)
        yield SensedWindow(chosen.samples, end_ns)


def overlapping(report: Report, engine: Engine, name: str, length_s: float, count: int) -> None:
    """Report windows that overlap, and a question about a part of each, everything included."""
    now = waiting(engine.device)
    preprocessor = engine.preprocessor
    engine.forget()
    ours, reference, asked, asked_plain, differences = [], [], [], [], []
    part = (Modality.IMAGE, Modality.DEPTH)
    for number, seen in enumerate(live_windows(engine.config, length_s, count + 1, length_s)):
        start = now()
        theirs = stages_plain(engine, seen, now)[1]
        middle = now()
        made = preprocessor.tensors(seen.chosen, seen.end_ns).only(SIX)
        found = engine._windows.encode(engine.backend, made, made.origins)[0]
        stop = now()
        narrow = SensedWindow({m: seen.chosen[m] for m in part}, seen.end_ns)
        stages_plain(engine, narrow, now)
        again = now()
        made = preprocessor.tensors(narrow.chosen, seen.end_ns).only(part)
        engine._windows.encode(engine.backend, made, made.origins)
        end = now()
        if number:                                  # of the first nothing is known yet
            reference.append(middle - start)
            ours.append(stop - middle)
            asked_plain.append(again - stop)
            asked.append(end - again)
            differences.append(largest(found, theirs))
    report.note(name)
    report.add(f'{name}: preprocess to UPM', Timing(tuple(ours)).scaled(1e3),
               Timing(tuple(reference)).scaled(1e3), unit='ms')
    report.add(f'{name}: question about image and depth', Timing(tuple(asked)).scaled(1e3),
               Timing(tuple(asked_plain)).scaled(1e3), unit='ms')
    report.add(f'{name}: kept', engine._windows.kept.bytes / 2**20 + preprocessor.kept.bytes
               / 2**20, unit='MiB')
    equal(report, engine, name, max(differences))


def close_to_first_token(report: Report, engine: Engine, repeats: int) -> None:
    """Report from a window's closing to the first token of its description."""
    values, cpu = [], []
    for number, seen in enumerate(sensed_windows(engine.config.tokenizer, FIVE, repeats + 2)):
        start, begun = time.perf_counter(), time.process_time()
        made = engine.preprocessor.tensors({**seen.chosen, Modality.NORMAL: ()}, seen.end_ns,
                                           strict=False)      # as the node does for these five
        prefix = engine.encode(made.only(FIVE))
        encoded = time.perf_counter()
        answer = engine.ask(prefix, engine.config.text.describe_prompt, max_tokens=1)
        if number >= 2:
            values.append(encoded - start + answer.first_token_s)
            cpu.append(time.process_time() - begun)
    report.add('window close to first token, CPU time', Timing(tuple(cpu)).scaled(1e3), unit='ms')
    report.add('window close to first token, 5 modalities', Timing(tuple(values)).scaled(1e3),
               unit='ms', goal='<= 150' if engine.name == 'nano' else '')


@torch.inference_mode()
def main() -> None:
    """Print the cases of one size on one device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', choices=('nano', 'released'), default='nano')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--threads', type=int, nargs='+',
                        help='on the CPU (default: 1 and 2; with --quick 1)')
    parser.add_argument('--fresh', action='store_true', help='no windows that overlap')
    arguments(parser, 20)
    args = parser.parse_args()
    args.threads = args.threads or ([1] if args.quick else [1, 2])
    repeats = min(args.repeats, 10) if args.quick else args.repeats
    report = Report(f'Encoding, {args.size} on {args.device} in {args.dtype}', 'torch', 'numpy')
    engine = engine_of(args)
    on_gpu = engine.device.type == 'cuda'
    goal = '>= 3x' if on_gpu else '>= 1.8x'
    for threads in [0] if on_gpu else args.threads:
        where = 'GPU' if on_gpu else f'{threads} threads' if threads > 1 else '1 thread'
        if threads:
            torch.set_num_threads(threads)
        fresh_windows(report, engine, f'5 modalities, {where}', FIVE, repeats, goal)
        if not on_gpu and threads == 1:
            fresh_windows(report, engine, '5 modalities, CPU time', FIVE, repeats, goal, cpu=True)
        if not args.quick:
            fresh_windows(report, engine, f'all modalities, {where}', tuple(Modality), repeats, '')
    if not on_gpu:
        torch.set_num_threads(args.threads[0])
    count = 3 if args.quick else min(repeats, 8)
    for length_s in () if args.fresh else (2.0,) if args.quick else (2.0, 4.0):
        overlapping(report, engine, f'windows of {length_s:g} s each second', length_s, count)
    if args.size == 'nano' and not args.fresh:
        if not args.quick:
            # Without marks a frame has the same features at any place of a video, as released.
            config = replace(engine.config, tokenizer=replace(
                engine.config.tokenizer, video_positions=False, video_frames=15))
            other = random_engine(config, engine.device, getattr(torch, args.dtype),
                                  0 if on_gpu else args.threads[0])
            overlapping(report, other, '15 frames without marks, windows of 2 s', 2.0, count)
        close_to_first_token(report, engine, repeats)
    report.finish(args.json)


if __name__ == '__main__':
    main()
