"""The language model's weights in int8, int4 or fp8, through torchao: less memory to read.

Quantized are the linear layers of the language model, and its table of words where that is its
output layer, too; encoder and projection stay as they are. What computes is bfloat16. It is not
exact: docs/performance.md says what it gives and what it costs.

- ``int8``: a scale for each row. On a CPU by torch's kernel (``int8_rows.py``).
- ``int4``: a scale and an offset for each 64 values of a row; layers whose sizes do not fit, and
  on a CPU the output layer, in int8.
- ``fp8``: values and what they are multiplied with, a scale for each row; on GPUs that have it.

On a GPU torchao's own products compute, and the table of words stays as it is. There only the
conversions and the product of fp8 have been checked, on a CPU.

torchao is optional and is imported only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
import ctypes
import importlib
import logging
import math
from typing import Any
import warnings

import torch
from torch import Tensor, nn

from onellm_ros.inference.locate import EngineError
from onellm_ros.model.llm import Llama
from onellm_ros.model.onellm import OneLLM

KINDS = ('none', 'int8', 'int4', 'fp8')
INSTALL = 'pip install -r requirements/quantize.txt -c requirements/constraints.txt'
GROUP = 64                  # values of a row that share a scale in int4
BLOCK = 1 << 23             # values that are quantized to int8 at once
_WORK = {'int8': 16, 'int4': 16, 'fp8': 16}     # bytes of intermediate values for each
_ROWS = 16                  # a multiple of these is what the kernels take
_PADDED = 1024              # a row of int4 on a GPU is filled up to a multiple of these
_CAPABILITY = {'int8': (8, 0), 'int4': (8, 0), 'fp8': (8, 9)}     # of a GPU: bfloat16, fp8


def _import(name: str) -> Any:
    """Import a module of torchao, which says much while it is imported.

    :raises EngineError: if it is not installed, or does not fit this torch.
    """
    logger, before = logging.getLogger('torchao'), logging.root.manager.disable
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)       # kernels for GPUs that this torch cannot load
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise EngineError(f'quantize needs torchao: {error}; install it with `{INSTALL}`, or '
                          'leave quantize at none') from error
    finally:
        logging.disable(before)
        logger.setLevel(level)


def check(kind: str, device: torch.device, dtype: torch.dtype | None = None,
          backend: str = 'auto') -> None:
    """Say whether weights can be quantized here; nothing is loaded but torchao.

    :param dtype: that the user asked for, if any. :param backend: that, too; ``onnx`` for a
        folder of graphs.
    :raises EngineError: saying what is missing and what to do.
    """
    if kind not in KINDS:
        raise EngineError(f'quantize: expected one of {", ".join(KINDS)}, found {kind!r}')
    if kind == 'none':
        return
    if backend == 'onnx':
        raise EngineError(f'quantize {kind}: it is done to the model in torch, and ONNX graphs '
                          'were asked for (backend onnx, or the folder of an export); give the '
                          'model itself and backend auto, or take an export that `onellm export '
                          '--int8` wrote')
    if dtype not in (None, torch.bfloat16):
        raise EngineError(f'quantize {kind}: it computes in bfloat16, found {dtype}; leave the '
                          'dtype out')
    if device.type == 'cuda':
        found, wanted = torch.cuda.get_device_capability(device), _CAPABILITY[kind]
        if found < wanted:
            raise EngineError(
                f'quantize {kind}: expected a GPU of compute capability {wanted[0]}.{wanted[1]} '
                f'or later, found {found[0]}.{found[1]} ({torch.cuda.get_device_name(device)}); '
                f'{"take int8 or int4" if kind == "fp8" else "leave quantize at none"}')
    elif kind == 'fp8':
        raise EngineError('quantize fp8: expected a CUDA GPU of compute capability 8.9 or later '
                          '(Ada, Hopper and what came after), found the device cpu; take int8 or '
                          'int4')
    _import('torchao.quantization')


def _forms(llm: Llama, kind: str, on_cpu: bool) -> Iterator[tuple[nn.Module, str]]:
    """Yield the layers to be quantized, each with the form that its weight takes."""
    # The table of words can only be looked up in by int8_rows.py, which is for the CPU.
    last: nn.Module | None = llm.output
    if last is None and on_cpu:
        last = llm.tok_embeddings
    for module in llm.modules():
        if module is last and on_cpu:
            yield module, 'int8'
        elif isinstance(module, nn.Linear):
            rows, columns = module.weight.shape
            fits = rows % _ROWS == 0 and columns % (GROUP if kind == 'int4' else _ROWS) == 0
            if fits or on_cpu:
                yield module, kind if fits else 'int8'


def _bytes(weight: Tensor, form: str, on_cpu: bool) -> int:
    rows, columns = weight.shape
    if form == 'int4':
        columns = columns if on_cpu else _PADDED * math.ceil(columns / _PADDED)
        return rows * columns // 2 + 4 * rows * (columns // GROUP)
    return rows * columns + (4 if form == 'fp8' else 2 if on_cpu else 5) * rows


def saved_bytes(llm: Llama, kind: str, on_cpu: bool) -> int:
    """Return how many bytes fewer the weights of a model in bfloat16 take quantized.

    :param llm: only its shapes are looked at: it may be on the meta device.
    """
    if kind == 'none':
        return 0
    return sum(2 * module.weight.numel() - _bytes(module.weight, form, on_cpu)
               for module, form in _forms(llm, kind, on_cpu))


def work_bytes(llm: Llama, kind: str, on_cpu: bool) -> int:
    """Return the bytes that quantizing takes at most beside the weights, one layer at a time."""
    if kind == 'none':
        return 0
    return max(_WORK[form] * (min(module.weight.numel(), BLOCK) if form == 'int8' and on_cpu
                              else module.weight.numel())
               for module, form in _forms(llm, kind, on_cpu))


def tensor_bytes(value: Tensor) -> int:
    """Return the bytes that a tensor takes, quantized or not."""
    inner = getattr(value, '__tensor_flatten__', None)
    if inner is None:
        return value.nbytes
    return sum(tensor_bytes(getattr(value, name)) for name in inner()[0])


def model_bytes(model: nn.Module) -> int:
    """Return the bytes that a model's parameters take, quantized or not."""
    return sum(tensor_bytes(p) for p in model.parameters())


def _on_cpu(weight: Tensor, form: str) -> Tensor:
    if form == 'int8':
        rows: Any = _import('onellm_ros.inference.int8_rows').Int8Rows
        return rows.of(weight, BLOCK)
    opaque: Any = _import('torchao.prototype.quantization.int4.int4_opaque_tensor')
    return opaque.Int4OpaqueTensor.from_hp(weight, [1, GROUP])


def _on_gpu(module: nn.Module, form: str) -> None:
    api: Any = _import('torchao.quantization')
    config = {
        'int8': lambda: api.Int8WeightOnlyConfig(),
        'int4': lambda: api.Int4WeightOnlyConfig(
            group_size=GROUP, int4_packing_format='tile_packed_to_4d'),
        'fp8': lambda: api.Float8DynamicActivationFloat8WeightConfig(granularity=api.PerRow()),
    }[form]()
    api.quantize_(module, config)


def _trim() -> None:
    """Give back what the last layer's weights took; else malloc keeps more than it is given."""
    try:
        ctypes.CDLL(None).malloc_trim(0)                # glibc alone has it, and needs it
    except (OSError, AttributeError):
        pass


@torch.no_grad()
def quantize(model: OneLLM, kind: str, device: torch.device) -> OneLLM:
    """Quantize a model's language model in place and bring all of it to a device.

    Layer by layer, each on the device: it holds one layer more than the quantized model at most.

    :param model: in bfloat16, where it was loaded to. :param kind: checked, see :func:`check`.
    :returns: the same model.
    :raises EngineError: if torchao fails; the model is of no use then.
    """
    try:
        for module, form in list(_forms(model.llm, kind, device.type == 'cpu')):
            _trim()
            if device.type == 'cpu':
                module.weight = nn.Parameter(_on_cpu(module.weight.detach(), form),
                                             requires_grad=False)
            else:
                _on_gpu(module.to(device), form)
        _trim()
        return model.to(device)
    except (AssertionError, RuntimeError, NotImplementedError, ValueError, ImportError,
            AttributeError) as error:
        if isinstance(error, (EngineError, torch.OutOfMemoryError)):
            raise
        raise EngineError(f'quantize {kind}: torchao failed on {device}: '
                          f'{str(error).partition(chr(10))[0] or type(error).__name__}; leave '
                          'quantize at none') from error
