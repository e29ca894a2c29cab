"""From a window's closing to words, stage by stage, with the share of Python in each.

Windows are those of the simulated world's robot: a camera of 640x480, clouds of 8192 points, two
seconds of IMU and sound. What they show does not change how long a model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import cProfile
from dataclasses import dataclass, field, replace
import statistics
import sys
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
CPU_STAGES = ('preprocess', 'encode', 'description')
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
    :param cpu: seconds of CPU of the stages in ``CPU_STAGES``: what other programs do on the same
        machine changes them least.
    :param rates: tokens a second behind the first one, one a window.
    :param used: modalities that the model was shown. :param left_out: the others, and why.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in CPU_STAGES})
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
        begun = time.process_time()
        started = time.perf_counter()
        tensors = engine.preprocessor.tensors(window.chosen, window.end_ns, strict=False)
        inputs = tensors.only(window.chosen)
        prepared, prepared_cpu = time.perf_counter(), time.process_time()
        prefix = engine.encode(inputs)
        wait_for(engine.device)
        encoded, encoded_cpu = time.perf_counter(), time.process_time()
        answer = engine.describe(prefix, max_tokens=max_tokens)
        said, said_cpu = time.perf_counter(), time.process_time()
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
        for stage, value in zip(CPU_STAGES, (prepared_cpu - begun, encoded_cpu - prepared_cpu,
                                             said_cpu - begun), strict=True):
            out.cpu[stage].append(value)
        out.tokens.append(answer.tokens)
        if answer.tokens > 1 and answer.total_s > answer.first_token_s:
            # The token that ends an answer is computed, too, and not counted.
            steps = answer.tokens - (answer.finish_reason != 'stop')
            out.rates.append(steps / (answer.total_s - answer.first_token_s))
    return out


def _compiled_codes() -> set[Any]:
    """Return the code of the functions that numba has compiled: profilers show it, as Python."""
    return {value.py_func.__code__ for name, module in list(sys.modules.items())
            if name.partition('.')[0] == 'onellm_ros' for value in list(vars(module).values())
            if hasattr(value, 'py_func') and hasattr(value, 'signatures')}


def profiled(function: Callable[[], object]) -> tuple[float, float]:
    """Return the shares of a call's time spent in Python code itself, and in numba's, 0 to 1.

    The rest is spent inside functions of C, C++ or CUDA, as cProfile tells them apart; its own
    cost and that of operators (``a + b``) count as Python's, so that share is the most that it can
    be.
    """
    profile = cProfile.Profile()
    profile.enable()
    try:
        function()
    finally:
        profile.disable()
    codes, native, compiled, whole = _compiled_codes(), 0.0, 0.0, 0.0
    for entry in profile.getstats():
        whole += entry.inlinetime
        if isinstance(entry.code, str):
            native += entry.inlinetime
        elif entry.code in codes:
            compiled += entry.inlinetime
    return (1 - (native + compiled) / whole, compiled / whole) if whole else (0.0, 0.0)


def python_share(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the share of a call's time spent in Python code, see :func:`profiled`; the lowest."""
    return min(profiled(function)[0] for _ in range(repeats))


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
