"""Blocks shared by the UPM's experts and the language model: SwiGLU and the hidden-size rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812


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
    """w2(silu(w1 x) * w3 x), without bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [..., width]."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def init_linear(module: nn.Module, std: float = 0.02) -> None:
    """Draw all linear and embedding weights from a truncated normal; biases are zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)):
            nn.init.trunc_normal_(part.weight, std=std)
            bias = getattr(part, 'bias', None)
            if bias is not None:
                nn.init.zeros_(bias)


def init_residual(outputs: list[nn.Linear], layers: int, std: float = 0.02) -> None:
    """Draw the linears that write to a residual stream, scaled down by its depth."""
    for linear in outputs:
        nn.init.trunc_normal_(linear.weight, std=std / math.sqrt(2 * max(layers, 1)))
