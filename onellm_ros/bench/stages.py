"""From a window's closing to words, stage by stage, with the share of Python in each.

Windows are those of the simulated world's robot: a camera of 640x480, clouds of 8192 points, two
seconds of IMU and sound. What they show does not change how long a model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import cProfile
from dataclasses import dataclass, field, replace
import statistics
import time
from typing import Any

from onellm_ros.config import MAX_TOKENS, TokenizerConfig
from onellm_ros.modality import Modality, Sample
from onellm_ros.perception.results import EngineLike

FIVE = (Modality.IMAGE, Modality.DEPTH, Modality.POINT, Modality.AUDIO, Modality.IMU)
QUESTION = 'What is the robot doing?'
# Parts of the way, in order; the last three are sums of others.
STAGES = ('preprocess', 'encode', 'first token', 'rest', 'answer',
          'close to first token', 'description', 'question to first token')
WARM_UP = 2
REPEATS = 3                 # of a call that is looked at more closely


@dataclass(frozen=True)
class SensedWindow:
    """The samples of one window, and its end."""

    chosen: Mapping[Modality, Sequence[Sample]]
    end_ns: int


@dataclass
class Stages:
    """What was measured of several windows.

    :param seconds: of each stage, one a window. :param tokens: of each description.
    :param rates: tokens a second behind the first one, one a window.
    :param used: modalities that the model was shown. :param left_out: the others, and why.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    tokens: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    used: tuple[Modality, ...] = ()
    left_out: dict[Modality, str] = field(default_factory=dict)

    def median(self, stage: str) -> float:
        """Return the median seconds of a stage."""
        return statistics.median(self.seconds[stage])


def sensed_windows(sizes: TokenizerConfig, present: Sequence[Modality], count: int,
                   first: int = 0) -> Iterator[SensedWindow]:
    """Yield windows of a simulated robot that hold these modalities, as far as it has them.

    :param first: seed of the first one.
    """
    # The renderer compiles itself; only those who measure wait for it.
    from onellm_ros.simulation.render import Camera
    from onellm_ros.simulation.world import World

    for seed in range(first, first + count):
        world = World(seed, held_out=True, camera=Camera(640, 480))
        seen = world.sample(cloud_points=8192, video=(sizes.video_frames, 320, 240),
                            parts=[m for m in Modality if m in present])
        yield SensedWindow({m: s for m, s in seen.chosen().items() if m in present},
                           seen.stamp_ns)


def fresh_copy(window: SensedWindow) -> SensedWindow:
    """Return the same window of samples never seen before: nothing that is kept is of use."""
    return SensedWindow({m: [replace(s, data=s.data.copy()) for s in samples]
                         for m, samples in window.chosen.items()}, window.end_ns)


def wait_for(device: Any) -> None:
    """Wait until a device has done what it was given; the CPU always has."""
    if device.type == 'cuda':
        import torch
        torch.cuda.synchronize(device)


def measure(engine: Any, windows: Sequence[SensedWindow], max_tokens: int = MAX_TOKENS,
            warm_up: int = WARM_UP) -> Stages:
    """Describe windows and ask a question about each.

    :param engine: an :class:`~onellm_ros.inference.engine.Engine`.
    :param windows: of samples that are all different; the first ``warm_up`` do not count.
    :param max_tokens: of a description.
    """
    out = Stages()
    for number, window in enumerate(windows):
        started = time.perf_counter()
        tensors = engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False)
        inputs = tensors.only(window.chosen)
        prepared = time.perf_counter()
        prefix = engine.encode(inputs)
        wait_for(engine.device)
        encoded = time.perf_counter()
        answer = engine.describe(prefix, max_tokens=max_tokens)
        said = time.perf_counter()
        reply = engine.ask(prefix, QUESTION, max_tokens=max_tokens)
        answered = time.perf_counter()
        out.used, out.left_out = tuple(prefix.modalities), dict(tensors.left_out)
        if number < warm_up:
            continue
        for stage, value in zip(STAGES, (
                prepared - started, encoded - prepared, answer.first_token_s,
                said - encoded - answer.first_token_s, answered - said,
                encoded - started + answer.first_token_s, said - started, reply.first_token_s),
                strict=True):
            out.seconds[stage].append(value)
        out.tokens.append(answer.tokens)
        if answer.tokens > 1 and answer.total_s > answer.first_token_s:
            # The token that ends an answer is computed, too, and not counted.
            steps = answer.tokens - (answer.finish_reason != 'stop')
            out.rates.append(steps / (answer.total_s - answer.first_token_s))
    return out


def python_share(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the share of a call's time that is spent in Python code itself, 0 to 1.

    The rest is spent inside functions of C, C++ or CUDA, as cProfile tells them apart; its own
    cost and that of operators (``a + b``) count as Python's, so this is the most that it can be.
    The lowest of the repeats.
    """
    shares = []
    for _ in range(repeats):
        profile = cProfile.Profile()
        profile.enable()
        try:
            function()
        finally:
            profile.disable()
        found = profile.getstats()
        native = sum(entry.inlinetime for entry in found if isinstance(entry.code, str))
        whole = sum(entry.inlinetime for entry in found)
        shares.append(1 - native / whole if whole else 0.0)
    return min(shares)


def python_shares(engine: Any, window: SensedWindow, max_tokens: int = MAX_TOKENS
                  ) -> dict[str, float]:
    """Return the share of Python in the stages of one window."""
    def prepared() -> Any:
        engine.forget()                         # what was made of these samples before
        return engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False).only(
            window.chosen)

    inputs = prepared()
    prefix = engine.encode(inputs)

    def encoded() -> Any:
        engine.forget()
        return engine.encode(inputs)

    def close_to_first() -> Any:
        return engine.describe(engine.encode(prepared()), max_tokens=1)

    return {'preprocess': python_share(prepared),
            'encode': python_share(encoded),
            'description': python_share(lambda: engine.describe(prefix, max_tokens=max_tokens)),
            'close to first token': python_share(close_to_first),
            'question to first token': python_share(
                lambda: engine.ask(prefix, QUESTION, max_tokens=1))}


def parameters_of(engine: EngineLike) -> int:
    """Return how many parameters a loaded model has; 0 where its backend does not say."""
    model: Any = getattr(engine, 'model', None)
    return 0 if model is None else sum(p.numel() for p in model.parameters())
