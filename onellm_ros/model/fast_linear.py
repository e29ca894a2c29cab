"""Linear maps without gradients on the CPU, through the faster of torch's two libraries.

torch multiplies float32 matrices with MKL, which keeps to AVX2 on processors that are not Intel's;
oneDNN, which torch carries too, uses AVX-512 there and is about twice as fast. The choice depends
on the processor and the shape alone, so that a machine gives the same numbers every time.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

_FEWEST_ROWS = 32       # below, MKL is as fast: the weights' reordering has too few rows to pay


@lru_cache(maxsize=1)
def _onednn_is_faster() -> bool:
    """Say whether oneDNN can be asked, and uses wider registers than MKL on this processor."""
    if torch.backends.cpu.get_cpu_capability() != 'AVX512' \
            or not torch.backends.mkldnn.is_available():
        return False
    try:
        torch.ops.mkldnn._linear_pointwise.default  # noqa: B018  (missing in some builds)
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            return not any('GenuineIntel' in line for line in lines)
    except (AttributeError, OSError):
        return False


def _pays(x: Tensor, weight: Tensor, rows: int) -> bool:
    """Say whether oneDNN is to multiply: float32 on the CPU, enough rows, nobody watches."""
    return x.device.type == 'cpu' and rows >= _FEWEST_ROWS \
        and x.dtype is weight.dtype is torch.float32 and type(weight) is nn.Parameter \
        and unwatched() and _onednn_is_faster()


def untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Say whether a module computes what its class does: no adapter, no hook."""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear map to the rows of ``x`` [T, in] -> [T, out].

    Anything but a plain float32 ``nn.Linear`` on the CPU (quantised, wrapped, with hooks, on a
    GPU, under autocast or with gradients) is called as it is.
    """
    if untouched(module, nn.Linear) and _pays(x, module.weight, len(x)):
        return torch.ops.mkldnn._linear_pointwise(
            x.contiguous(), module.weight, module.bias, 'none', [], '')
    return module(x)


def patches(module: nn.Module, pictures: Tensor) -> Tensor:
    """Apply a convolution whose kernel is its stride, [B, C, S, S] -> [B, (S // kernel)^2, out].

    As one matrix product where :func:`linear` would take oneDNN, too; else as it is.
    """
    if untouched(module, nn.Conv2d) and module.bias is None \
            and module.kernel_size == module.stride and module.groups == 1 \
            and module.padding == (0, 0) and module.dilation == (1, 1):
        (high, wide), (batch, channels) = module.stride, pictures.shape[:2]
        down, along = pictures.shape[-2] // high, pictures.shape[-1] // wide
        if _pays(pictures, module.weight, batch * down * along):
            cut = pictures[..., :down * high, :along * wide]
            rows = cut.unflatten(-2, (down, high)).unflatten(-1, (along, wide)) \
                .permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * high * wide)
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, module.weight.flatten(1), None, 'none', [], '')
            return out.unflatten(0, (batch, down * along))
    found: Tensor = module(pictures)
    return found.flatten(2).transpose(1, 2)


def unwatched(device: str = 'cpu') -> bool:
    """Say whether nobody watches what is computed: no gradients, no autocast, no tracing.

    :param device: its type.
    """
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(device)
                or torch.jit.is_tracing() or torch.compiler.is_compiling())


def quick_gelu_(x: Tensor) -> Tensor:
    """Apply x * sigmoid(1.702 x) in place and return it; as silu, with one sweep less."""
    return F.silu(x.mul_(1.702), inplace=True).mul_(1 / 1.702)
