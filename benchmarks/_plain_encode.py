"""One window the plain way: what bench_encode.py and the tests compare with.

One modality after another, every frame encoded anew, and the UPM for each modality with its
experts in a loop, all positions through every block and through the router, as OneLLM's reference
implementation computes it. Built from the modules as they are, with nothing that slows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812

from onellm_ros.config import TokenizerConfig
from onellm_ros.modality import Modality, Sample
from onellm_ros.model.onellm import OneLLM
from onellm_ros.preprocess import (
    audio_tensor,
    depth_tensor,
    fmri_tensor,
    image_tensor,
    imu_tensor,
    join_chunks,
    merge_clouds,
    normal_tensor,
    point_tensor,
    standardise_imu,
    video_tensor,
)


def preprocess(config: TokenizerConfig, size: int, chosen: Mapping[Modality, Sequence[Sample]],
               end_ns: int) -> dict[Modality, Tensor]:
    """Return the inputs of a window's modalities, each made from its samples alone."""
    fit = config.image_fit
    rgb = chosen[Modality.IMAGE][-1].data if Modality.IMAGE in chosen else None
    out = {}
    for modality, samples in chosen.items():
        data = samples[-1].data
        if modality is Modality.IMAGE:
            made = image_tensor(data, size, fit)
        elif modality is Modality.VIDEO:
            made = video_tensor([s.data for s in samples], config.video_frames, size, fit)
        elif modality is Modality.DEPTH:
            made = depth_tensor(data, size, fit, config.depth_encoding, rgb)
        elif modality is Modality.NORMAL:
            made = normal_tensor(data, size, fit, rgb)
        elif modality is Modality.POINT:
            made = point_tensor(merge_clouds([s.data for s in samples]), config.points,
                                config.point_frame)
        elif modality is Modality.AUDIO:
            wave, rate = join_chunks(samples, end_ns, config.audio_seconds + 1.0)
            made = audio_tensor(wave, rate, config)
        elif modality is Modality.IMU:
            made = imu_tensor([s.stamp_ns for s in samples], [s.data for s in samples], end_ns,
                              config.imu_rate_hz, config.imu_samples)
            made = standardise_imu(made) if config.imu_standardise else made
        else:
            made = fmri_tensor(data, config.fmri_voxels)
        out[modality] = made[None]
    return out


def tokenize(model: OneLLM, inputs: Mapping[Modality, Tensor]
             ) -> dict[Modality, tuple[Tensor, Tensor, int]]:
    """Return tokens, positions and frames of each modality."""
    return {m: model._tokens(m, x) for m, x in inputs.items()}


def encode(model: OneLLM, tokens: Mapping[Modality, tuple[Tensor, Tensor, int]]
           ) -> dict[Modality, Tensor]:
    """Return the features [B, N + 1, D] of each modality, one after another."""
    out = {}
    for modality, (rows, positions, frames) in tokens.items():
        found = model.encoder(rows, positions)
        out[modality] = found if frames == 1 else found.unflatten(0, (-1, frames)).mean(1)
    return out


def project(model: OneLLM, features: Mapping[Modality, Tensor]
            ) -> dict[Modality, tuple[Tensor, Tensor]]:
    """Return modality tokens and mean expert weights of each modality, one after another."""
    upm = model.upm
    keep = upm.config.modality_tokens
    out = {}
    for modality, found in features.items():
        name = modality.value
        x = upm.proj_in[name](found)
        x = torch.cat([upm.tokens[name].expand(len(x), -1, -1).to(x.dtype), x], 1)
        weights = upm.expert_weights(modality, x)
        mixed = torch.zeros_like(x)
        for k, expert in enumerate(upm.experts):
            said = x
            for block in expert.blocks:
                said = said + block.attention(block.attention_norm(said), said.shape[1])
                mlp, seen = block.feed_forward, block.ffn_norm(said)
                said = said + mlp.w2(F.silu(mlp.w1(seen)) * mlp.w3(seen))
            mixed = mixed + weights[..., k, None] * said
        out[modality] = upm.proj_out[name](mixed[:, :keep]), weights[:, :keep].mean(1)
    return out


def window(model: OneLLM, inputs: Mapping[Modality, Tensor]
           ) -> dict[Modality, tuple[Tensor, Tensor]]:
    """Return modality tokens and mean expert weights of a window."""
    return project(model, encode(model, tokenize(model, inputs)))
