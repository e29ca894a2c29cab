"""Windows of live simulated worlds: what was sensed some time before now.

A live world (``LiveWorld``) goes on without end, so that evidence can be older than what is true.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.simulation import sensors
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.truth import Truth
from onellm_ros.simulation.world import SENSED_S, LiveWorld

NOW_S = 12.0                    # seconds of driving before the question
CAMERA = Camera()
CLOUD_POINTS, VIDEO = 2048, (6, 112, 112)      # as ``World.sample``


@lru_cache(maxsize=2)
def _world(seed: int) -> LiveWorld:
    return LiveWorld(seed)


@lru_cache(maxsize=16)
def truth_at(seed: int, t_s: float) -> Truth:
    """Return what is true of the window that ends ``t_s`` seconds after a live world's start."""
    return _world(seed).truth(t_s, CAMERA)


@lru_cache(maxsize=4)
def window_of(seed: int, t_s: float) -> tuple[dict[Modality, list[Sample]], int]:
    """Return what the sensors gave up to ``t_s``, by modality, and the window's end in ns."""
    world, end_ns = _world(seed), round(t_s * 1e9)
    view = world.observe_camera(t_s, CAMERA, supersample=True)
    pictures = {Modality.IMAGE: view.image, Modality.DEPTH: view.depth,
                Modality.NORMAL: view.normal}
    out = {m: [Sample(end_ns, data, intrinsics=CAMERA.intrinsics)]
           for m, data in pictures.items()}
    out[Modality.POINT] = [Sample(end_ns, world.cloud(t_s, CLOUD_POINTS))]
    out[Modality.FMRI] = [Sample(end_ns, world.fmri(t_s, CAMERA), 'synthetic')]
    frames, width, height = VIDEO
    times = t_s + sensors.frame_times(frames, SENSED_S)
    film = sensors.film(world.stage, replace(CAMERA, width=width, height=height),
                        [world.pose(float(t)) for t in times], [float(t) for t in times])
    out[Modality.VIDEO] = [Sample(round(float(t) * 1e9), frame)
                           for t, frame in zip(times, film, strict=True)]
    stamps, values = world.imu_between(t_s - SENSED_S, t_s)
    out[Modality.IMU] = [Sample(round(float(t) * 1e9), row) for t, row in
                         zip(stamps, values.astype(np.float32), strict=True)]
    audio = world.audio_between(t_s - SENSED_S, t_s)
    start_ns = end_ns - round(len(audio) / world.audio_rate_hz * 1e9)
    out[Modality.AUDIO] = [Sample(start_ns, audio, rate_hz=world.audio_rate_hz)]
    return out, end_ns
