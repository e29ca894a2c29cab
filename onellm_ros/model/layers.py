"""Blocks shared by the UPM's experts and the language model: SwiGLU and the hidden-size rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.model.fast_linear import linear


def swiglu_hidden(width: int, multiple_of: int, hidden: int = 0, factor: float = 1) -> int:
    """Return the SwiGLU hidden size: ``hidden`` if given, else 8/3 of ``width`` rounded up.

    The rule is Meta's: int(2 * (4 * width) / 3), times ``factor``, rounded up to ``multiple_of``.
    """
    if hidden:
        return hidden
    wide = int(2 * (4 * width) / 3)
    if factor != 1:
        wide = int(factor * wide)
    return multiple_of * math.ceil(wide / multiple_of)


def mapped(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear map to [..., in]; many rows without gradients by the faster library."""
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return module(x)
    return linear(module, x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x); without biases unless they are asked for."""

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=bias)
        self.w2 = nn.Linear(hidden, width, bias=bias)
        self.w3 = nn.Linear(width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [..., width]."""
        return mapped(self.w2, F.silu(mapped(self.w1, x)) * mapped(self.w3, x))


def fan_in_std(weight: torch.Tensor) -> float:
    """Return the standard deviation that keeps the size of what a linear map is given."""
    return float(weight[0].numel()) ** -0.5


def init_linear(module: nn.Module) -> None:
    """Draw linear weights by their fan-in, embeddings with 0.02; biases are zero.

    A fixed 0.02 suits a width of 2500; at nano's 192 attention would start out blind.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)) \
                and not part.weight.is_meta:
            std = 0.02 if isinstance(part, nn.Embedding) else fan_in_std(part.weight)
            nn.init.trunc_normal_(part.weight, std=std, a=-3 * std, b=3 * std)
            bias = getattr(part, 'bias', None)
            if bias is not None:
                nn.init.zeros_(bias)


def init_residual(outputs: list[nn.Linear], layers: int) -> None:
    """Draw the linears that write to a residual stream, scaled down by its depth."""
    for output in outputs:
        if output.weight.is_meta:
            continue
        std = fan_in_std(output.weight) / math.sqrt(2 * max(layers, 1))
        nn.init.trunc_normal_(output.weight, std=std, a=-3 * std, b=3 * std)
