"""Measure answers that are computed together, and guesses from earlier descriptions.

A question comes when half of a description is said. *Joined*, both go on in one pass a token; the
references are that the description waits for the answer, that the question waits for the
description, and that the description is thrown away and begun anew behind the answer. Then the
windows of a robot that drives through a room are described with guesses and without; the words
must be the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import time
from typing import Any

from _report import Report, Timing, arguments
from bench_describe import size_steps
import numpy as np
import torch

from onellm_ros.bench.models import random_engine
from onellm_ros.bench.stages import FIVE
from onellm_ros.choose import Selection
from onellm_ros.inference.engine import Engine, Prefix
from onellm_ros.inference.locate import find_device
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import DescribeConfig
from onellm_ros.perception.answering import Answerer
from onellm_ros.perception.results import Question
from onellm_ros.perception.tasks import Task, advance
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import LiveWorld, World

WAYS = ('joined', 'held', 'after', 'anew')
QUESTIONS = ('What is on the left?', 'Describe the room.')     # nano's answers: short, long


def said(answer: Any) -> tuple[str, int, str]:
    """Return what must not depend on how an answer was computed."""
    return answer.text, answer.tokens, answer.finish_reason


class Bench:
    """A window that is described, with a question in the midst of it."""

    def __init__(self, engine: Engine, question: str, max_tokens: int) -> None:
        self.engine, self.question, self.max_tokens = engine, question, max_tokens
        # what other programs do on the same machine changes the time of the processor least
        self.now = time.perf_counter if engine.device.type == 'cuda' else time.process_time
        self.answerer = Answerer(engine, frozenset(engine.modalities))
        observation = World(0).sample(parts=[Modality.IMAGE])
        self.window = Selection(0, observation.stamp_ns, 1, observation.chosen())
        self.half = max(1, self.described().result.answer.tokens // 2)

    def described(self) -> Task[Any]:
        """Describe the window; it is encoded once."""
        task = self._begun('describing', DescribeConfig(max_tokens=self.max_tokens))
        while not task.over:
            advance(self.engine, [task])
        return task

    def _begun(self, kind: str, *what: Any) -> Task[Any]:
        task: Task[Any] = Task(getattr(self.answerer, kind)(self.window, *what))
        task.go_on()
        return task

    def once(self, way: str) -> tuple[dict[str, float], Any]:
        """Return seconds (first token, answer, description), and what was said."""
        engine, settings = self.engine, DescribeConfig(max_tokens=self.max_tokens)
        describing = self._begun('describing', settings)
        begun = self.now()
        while not describing.over and describing.due[1].length < self.half + self._fed:
            advance(engine, [describing])
        asked = self.now()
        out: dict[str, float] = {}
        if way == 'after':
            while not describing.over:
                advance(engine, [describing])
            out['description'] = self.now() - begun
        answering = self._begun('answering', Question(self.question, max_tokens=self.max_tokens))
        while not answering.over:
            both = way == 'joined' and not describing.over
            advance(engine, [answering, describing] if both else [answering])
            out.setdefault('first token', self.now() - asked)
            if describing.over:
                out.setdefault('description', self.now() - begun)
        out['answer'] = self.now() - asked
        if way == 'anew':
            describing = self.described()
        while not describing.over:
            advance(engine, [describing])
        out.setdefault('description', self.now() - begun)
        return out, (said(describing.result.answer), said(answering.result.answer))

    @property
    def _fed(self) -> int:
        """Return how many positions stand before the description's first token."""
        prompt = self.engine.text.encode_prompt(self.engine.config.text.describe_prompt)
        return next(iter(self.answerer._prefixes.values())).prefix.positions + len(prompt)


def together(report: Report, engine: Engine, question: str, repeats: int, max_tokens: int) -> None:
    """Add a question in the midst of a description, in each way, in turns."""
    drafted, engine.drafts.most = engine.drafts.most, 0
    bench = Bench(engine, question, max_tokens)
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    first: Any = None
    for repeat in range(repeats + 1):
        for way in WAYS:
            seconds, words = bench.once(way)
            first = first or words
            assert words == first, f'{way}: {words}, expected {first}'
            for name, value in seconds.items():
                if repeat:
                    found[way].setdefault(name, []).append(value * 1e3)
    engine.drafts.most = drafted
    way = 'joined' if engine.shares else 'held'
    tokens = first[1][1]
    report.note(f'{engine.name}, threads: {torch.get_num_threads()}; a question ({tokens} tokens) '
                f'when half of a description ({first[0][1]} tokens) is said; the node does: {way}')
    ours = Ways(found)
    unit = 'ms' if engine.device.type == 'cuda' else 'ms CPU'
    for name in ('first token', 'answer', 'description'):
        for other in WAYS:
            if other != way:
                report.add(f'{name} ({tokens}): {way}, reference {other}', ours(way, name),
                           ours(other, name), unit=unit)


class Ways:
    """The times of each way, by name."""

    def __init__(self, found: dict[str, dict[str, list[float]]]) -> None:
        self._found = found

    def __call__(self, way: str, name: str) -> Timing:
        return Timing(tuple(self._found[way][name]))


def passes(report: Report, engine: Engine, repeats: int) -> None:
    """Add what several tokens of one sequence cost in one pass, and what one costs plainly."""
    cache = engine.encode({}).cache.copy(100)
    engine.step(range(5, 35), cache)
    begin = cache.length
    backend: Any = engine.backend
    decoder, times = backend._decoder, {}
    counts = (1, 2, 4, 7)
    for _ in range(repeats + 1):
        for count in (*counts, 0):                      # 0: one, by PyTorch's products
            backend._decoder = decoder if count else None
            started = time.process_time()
            for _ in range(8):
                cache.length = begin
                engine.steps([([9] * (count or 1), cache, count or 1)])
            times.setdefault(count, []).append((time.process_time() - started) * 125)
    backend._decoder = decoder
    ours = {count: Timing(tuple(values[1:])) for count, values in times.items()}
    report.add('a token by the loops, reference PyTorch', ours[1], ours[0], unit='ms CPU')
    for count in counts[1:]:
        report.add(f'a pass of {count} tokens, reference 1', ours[count], ours[1], unit='ms CPU')


def drive(seed: int, present: Sequence[Modality], count: int) -> Iterator[dict[Modality, Any]]:
    """Yield what the robot senses in each second of a drive."""
    world, camera = LiveWorld(seed), Camera(640, 480)
    for number in range(count):
        t_s = 3.0 + number
        end_ns = round(t_s * 1e9)
        view = world.observe_camera(t_s, camera)
        stamps, rows = world.imu_between(t_s - 2, t_s)
        sensed = {
            Modality.IMAGE: [Sample(end_ns, view.image, intrinsics=camera.intrinsics)],
            Modality.DEPTH: [Sample(end_ns, view.depth, intrinsics=camera.intrinsics)],
            Modality.POINT: [Sample(end_ns, world.cloud(t_s))],
            Modality.IMU: [Sample(round(s * 1e9), row.astype(np.float32))
                           for s, row in zip(stamps, rows, strict=True)],
            Modality.AUDIO: [Sample(end_ns - 2 * 10**9, world.audio_between(t_s - 2, t_s),
                                    rate_hz=world.audio_rate_hz)]}
        yield {m: sensed[m] for m in present}


def guesses(report: Report, engine: Engine, repeats: int, windows: int) -> None:
    """Add descriptions of consecutive windows with guesses and without."""
    drafts = engine.drafts
    most = drafts.most
    for name, present in (('image', FIVE[:1]), ('five', FIVE)):
        prefixes: list[Prefix] = []
        for sensed in drive(7, present, windows):
            end_ns = max(s.stamp_ns for samples in sensed.values() for s in samples)
            tensors = engine.preprocessor.tensors(sensed, end_ns, strict=False)
            prefixes.append(engine.encode(tensors.only(present)))
        cpu: dict[bool, list[float]] = {False: [], True: []}
        words: Any = None
        for repeat in range(repeats + 1):
            for guessing in (False, True):
                drafts.forget()
                drafts.most = most if guessing else 0
                drafts.proposed = drafts.accepted = 0
                started = time.process_time()
                answers = [engine.describe(prefix) for prefix in prefixes]
                seconds = time.process_time() - started
                found = [said(answer) for answer in answers]
                assert found == (words or found), 'guesses changed what was said'
                words = found
                if repeat:
                    cpu[guessing].append(seconds / len(prefixes) * 1e3)
        tokens = sum(answer.tokens for answer in answers) / len(answers)
        report.note(f'{windows} windows of a drive, one a second, {name}: {tokens:.1f} tokens '
                    f'each; {drafts.proposed} guessed, {drafts.accepted} of them right')
        report.add(f'words of a window with guesses, {name}', Timing(tuple(cpu[True])),
                   Timing(tuple(cpu[False])), unit='ms CPU')
        report.add(f'right guesses, {name}', 100 * drafts.accepted / max(drafts.proposed, 1),
                   unit='%')


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=15)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--random', choices=sorted(size_steps()), metavar='SIZE',
                        help=f'random weights instead: {", ".join(size_steps())}')
    parser.add_argument('--threads', type=int, default=0)
    args = parser.parse_args()
    report = Report('Answers together, and guesses', 'torch', 'numpy')
    repeats = 4 if args.quick else args.repeats
    if args.random:
        device = find_device(args.device)
        kind = torch.bfloat16 if device.type == 'cuda' else torch.float32
        engine = random_engine(size_steps()[args.random], device, kind, args.threads)
    else:
        engine = Engine.load(args.model, args.device, threads=args.threads)
    for question in QUESTIONS[:1] if args.random else QUESTIONS:
        together(report, engine, question, repeats, 48)
    if engine.drafts.most:
        passes(report, engine, repeats)
        if not args.random:
            guesses(report, engine, max(2, repeats // 3), 10 if args.quick else 40)
    report.finish(args.json)


if __name__ == '__main__':
    main()
