"""A tiny model with weights and inputs drawn by NumPy's frozen legacy generator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from onellm_ros.config import (
    EncoderConfig,
    LlmConfig,
    ModelConfig,
    TextConfig,
    TokenizerConfig,
    UpmConfig,
)
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM

TINY = ModelConfig(
    name='tiny',
    encoder=EncoderConfig(width=24, layers=2, heads=3, mlp_ratio=3, image_size=20, patch_size=5),
    tokenizer=TokenizerConfig(
        video_frames=3, points=40, point_centres=7, point_neighbours=5, audio_mels=20,
        audio_frames=36, audio_kernel=8, audio_stride=6, imu_samples=30, imu_kernel=5,
        imu_stride=1, fmri_voxels=11, fmri_tokens=4),
    upm=UpmConfig(experts=2, layers=2, heads=2, modality_tokens=5, multiple_of=8),
    llm=LlmConfig(dim=32, layers=2, heads=4, kv_heads=2, multiple_of=16, vocab_size=300,
                  max_positions=256),
    text=TextConfig(template='plain', describe_prompt='Describe what you sense.'))


def fill(model: OneLLM, seed: int = 0) -> OneLLM:
    """Give every parameter values that depend on its name's rank and the seed alone."""
    with torch.no_grad():
        for i, (name, value) in enumerate(sorted(model.named_parameters())):
            draw = np.random.RandomState(1000 * seed + i).standard_normal(tuple(value.shape))
            gain = any(k in name for k in ('norm.weight', 'ln_')) and name.endswith('weight')
            draw = 1 + 0.1 * draw if gain else draw * max(value.shape[-1], 8) ** -0.5
            value.copy_(torch.from_numpy(draw))
    return model.eval()


def tiny(seed: int = 0, **parts: dict[str, Any]) -> OneLLM:
    """Return the tiny model, parts of its configuration changed: ``tiny(upm={'experts': 3})``."""
    changed = {k: replace(getattr(TINY, k), **v) for k, v in parts.items()}
    return fill(OneLLM(replace(TINY, **changed)), seed)


def shapes(config: ModelConfig, pictures: int = 2) -> dict[Modality, tuple[int, ...]]:
    """Return the shape of one sample's input of each modality, without the batch."""
    t, size = config.tokenizer, config.encoder.image_size
    picture = (3, size, size)
    return {
        Modality.IMAGE: picture, Modality.VIDEO: (t.video_frames, *picture),
        Modality.DEPTH: (pictures, *picture), Modality.NORMAL: (pictures, *picture),
        Modality.AUDIO: (1, t.audio_mels, t.audio_frames), Modality.POINT: (t.points, 6),
        Modality.IMU: (6, t.imu_samples), Modality.FMRI: (1, t.fmri_voxels)}


def inputs(config: ModelConfig, batch: int = 1, seed: int = 5) -> dict[Modality, torch.Tensor]:
    """Return random float32 inputs of every modality."""
    rng = np.random.RandomState(seed)
    return {m: torch.from_numpy(rng.standard_normal((batch, *s)).astype(np.float16)).float()
            for m, s in shapes(config).items()}
