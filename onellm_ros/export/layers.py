"""Small parts that every exported graph uses, in operations that ONNX Runtime fuses."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply an RMSNorm: written so that ONNX Runtime finds it and runs it as one operation."""
    scaled: Tensor = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight
    return scaled


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what queries [B, H, L, d] see of keys and values [B, H, N, d], as [B, L, H x d]."""
    weights = torch.softmax(torch.matmul(q * float(q.shape[-1]) ** -0.5, k.transpose(-1, -2)), -1)
    return torch.matmul(weights, v).transpose(1, 2).flatten(2)
