"""Measure a description and an answer: from a window's samples to text, stage by stage.

Prints the machine, the repeats and medians beside the goal (a description within 0.5 s on two CPU
cores) and the real-time limit of a window a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch

from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import World

GOAL_S = 0.5
STAGES = ('preprocess', 'encode', 'first token', 'rest', 'description', 'answer')
FIVE = (Modality.IMAGE, Modality.DEPTH, Modality.POINT, Modality.AUDIO, Modality.IMU)


def measure(engine: Engine, present: tuple[Modality, ...], windows: int
            ) -> dict[str, list[float]]:
    """Return the seconds of each stage over held-out windows of the simulated robot."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    tokenizer = engine.config.tokenizer
    for seed in range(windows + 2):
        world = World(seed, held_out=True, camera=Camera(640, 480))
        observation = world.sample(cloud_points=8192, video=(tokenizer.video_frames, 320, 240))
        chosen = {m: s for m, s in observation.chosen().items() if m in present}
        start = time.perf_counter()
        tensors = engine.preprocessor.tensors(chosen, observation.stamp_ns, strict=False)
        tensors = {m: x for m, x in tensors.items() if m in present}
        prepared = time.perf_counter()
        prefix = engine.encode(tensors)
        encoded = time.perf_counter()
        answer = engine.describe(prefix)
        said = time.perf_counter()
        engine.ask(prefix, 'What is the robot doing?')
        answered = time.perf_counter()
        if seed < 2:
            continue                                        # caches and allocators warm up
        for stage, value in zip(STAGES, (
                prepared - start, encoded - prepared, answer.first_token_s,
                said - encoded - answer.first_token_s, said - start, answered - said),
                strict=True):
            seconds[stage].append(value)
    return seconds


def main() -> None:
    """Print one table a set of modalities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--windows', type=int, default=20)
    args = parser.parse_args()
    engine = Engine.load(args.model, args.device)
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load '
          f'{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, torch '
          f'{torch.__version__}, {torch.get_num_threads()} threads; model {engine.name} '
          f'{engine.weights_hash} on {engine.device}; median of {args.windows} windows '
          '(lowest to highest)')
    known = tuple(Modality)
    for title, present in (('image', (Modality.IMAGE,)), ('image, depth, point, audio, imu', FIVE),
                           ('all eight modalities', known)):
        print(f'\n{title}')
        for stage, values in measure(engine, present, args.windows).items():
            median = statistics.median(values)
            goal = f'   goal {GOAL_S:g} s: ratio {median / GOAL_S:.2f}' \
                if stage == 'description' else ''
            print(f'  {stage:12} {median * 1e3:8.1f} ms  ({min(values) * 1e3:.1f} to '
                  f'{max(values) * 1e3:.1f}){goal}')


if __name__ == '__main__':
    main()
