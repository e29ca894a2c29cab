"""Weights in a quarter of the room: int8 rows with a scale each, expanded when they are loaded.

Only how weights lie on disk; the model computes with what ``expand`` returns. Tables and matrices
of some size are stored so, everything else as float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SCALE = '.int8_scale'           # suffix of a tensor's scales
_SMALLEST = 4096                # values below which int8 saves nothing worth having
_STEPS, _COARSE_STEPS = 127, 31     # either side of zero


def compress(values: Mapping[str, Tensor], coarse: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return tensors for a file: large ones as int8 [R, ...] with float32 scales [R].

    The error of a value is at most half its row's scale, 1/254 of the row's largest value.

    :param coarse: parts (first words of names) whose rows take 31 steps instead of 127: an error
        of 1/62 at most, in bytes that an archive, or git, packs to 0.7 of the room.
    """
    out: dict[str, Tensor] = {}
    for name, value in values.items():
        rows = value.detach().to('cpu', torch.float32).contiguous()
        if rows.ndim < 2 or rows.numel() < _SMALLEST:
            out[name] = rows.half()
            continue
        flat = rows.flatten(1) if rows.shape[0] > 1 else rows.flatten(0, -2)
        steps = _COARSE_STEPS if name.partition('.')[0] in coarse else _STEPS
        scale = flat.abs().amax(1).clamp(min=1e-12) / steps
        out[name] = (flat / scale[:, None]).round().to(torch.int8).view(rows.shape)
        out[name + SCALE] = scale
    return out


def expand(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the floating-point tensors of a file; the inverse of :func:`compress`.

    :raises ValueError: naming an int8 tensor without fitting scales, or scales without a tensor.
    """
    out: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in stored:
                raise ValueError(f'{name}: found scales, expected the tensor that they belong to')
            continue
        if value.dtype != torch.int8:
            out[name] = value
            continue
        scale = stored.get(name + SCALE)
        flat = value.flatten(1) if value.shape[0] > 1 else value.flatten(0, -2)
        if scale is None or scale.shape != flat.shape[:1]:
            found = 'none' if scale is None else list(scale.shape)
            raise ValueError(f'{name}: expected {name}{SCALE} of shape [{len(flat)}] beside int8 '
                             f'values, found {found}')
        out[name] = (flat.float() * scale.float()[:, None]).view(value.shape)
    return out
