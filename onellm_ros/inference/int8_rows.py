"""Weights in int8, a scale for each row, that a CPU multiplies with as fast as it can read them.

torchao quantizes; its own product without a compiler first turns the whole weight back into
bfloat16, which costs more than it saves. torch has a kernel that reads the int8 values, and this
module puts the two together. Imports torchao: only where it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812
from torchao.quantization import Int8Tensor, PerRow

_aten = torch.ops.aten
_STEP = 32              # the kernel reads so many values of a row at once, behind its end, too
_FEW_ROWS = 24          # up to so many the kernel is faster than values turned back
_BLOCK = 1 << 20        # values turned back at once: they stay in the processor's cache


class Int8Rows(Int8Tensor):
    """A weight [out, in] in int8 on the CPU; takes the place of one in bfloat16.

    For ``F.linear`` and ``F.embedding``; anything else is as in torchao.
    """

    @classmethod
    def of(cls, weight: Tensor, block: int) -> Int8Rows:
        """Quantize a weight [out, in] in bfloat16.

        :param block: values taken at once; each takes several times its memory meanwhile.
        """
        rows, columns = weight.shape
        values = torch.empty(rows, columns, dtype=torch.int8)
        scale = torch.empty(rows, 1, dtype=weight.dtype)
        step = max(1, block // columns)
        for at in range(0, rows, step):
            part = Int8Tensor.from_hp(weight[at:at + step], PerRow())
            values[at:at + step], scale[at:at + step] = part.qdata, part.scale
        return cls(values, scale, [1, columns], weight.dtype)


@Int8Rows.implements([_aten.linear.default])
@Int8Rows.implements_torch_function([F.linear])
def _linear(_func: Any, _types: Any, args: Any, _kwargs: Any) -> Tensor:
    """Multiply [..., in] -> [..., out] in the type of the input."""
    x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    values, scale = weight.qdata, weight.scale.flatten()
    rows = x.reshape(-1, x.shape[-1]).to(weight.dtype).contiguous()
    if len(rows) <= _FEW_ROWS and values.shape[1] % _STEP == 0:
        out: Tensor = _aten._weight_int8pack_mm(rows, values, scale)
    else:
        out = rows.new_empty(len(rows), len(values))
        step = max(1, _BLOCK // values.shape[1])
        for at in range(0, len(values), step):
            out[:, at:at + step] = rows @ values[at:at + step].to(rows.dtype).t()
        out *= scale
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], -1).to(x.dtype)


@Int8Rows.implements([_aten.embedding.default])
@Int8Rows.implements_torch_function([F.embedding])
def _embedding(_func: Any, _types: Any, args: Any, _kwargs: Any) -> Tensor:
    """Return the rows of ids [...] as [..., in]; as F.embedding has them and as aten does."""
    weight, ids = (args[0], args[1]) if isinstance(args[0], Int8Rows) else (args[1], args[0])
    return weight.qdata[ids].to(weight.dtype) * weight.scale[ids]
