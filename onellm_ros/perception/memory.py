"""What a model will take before any of it is loaded, what a machine has free, and giving it back.

The need is read from the headers of the weights' files and from the model's sizes. It is an
estimate: what torch itself and messages on their way take is in none of the figures.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields
import gc
import json
import math
from pathlib import Path
import re
import sys
from typing import TYPE_CHECKING, Any
import zipfile

from onellm_ros.machine import host_free
from onellm_ros.modality import Modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.answering import PREFIXES_KEPT
from onellm_ros.perception.results import EngineLike
from onellm_ros.perception.ring import MIB

if TYPE_CHECKING:
    from onellm_ros.config import ModelConfig

_LONGEST_HEADER = 100_000_000    # bytes; as the library has it
_PREFIXES = PREFIXES_KEPT + 1       # encoded windows: one is made while the others are kept
_TURNED = re.compile(r'.*\.attention\.w[qk]\.weight')       # copied when a release is read
_Shapes = dict[str, tuple[tuple[int, ...], int]]


class BudgetError(RuntimeError):
    """A model that does not fit; the text has the figures."""


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes.

    :param weights: in the type that is computed with.
    :param cache: keys and values of the windows kept encoded, and of a description and an answer
        of full length.
    :param activations: the largest intermediate values.
    :param windows: the samples of the windows kept for questions; always in the host's memory.
    :param loading: more than the weights while they are read, in the host's memory.
    """

    weights: int
    cache: int
    activations: int
    windows: int
    loading: int

    def parts(self, *names: str) -> tuple[int, str]:
        """Return sum and text of some parts (without names: of all), in MB."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)
                 if (not names or f.name in names) and getattr(self, f.name)}
        text = ', '.join(f'{name} {megabytes(size)}' for name, size in shown.items())
        return sum(shown.values()), text


def megabytes(size: float) -> str:
    """Return bytes as MB (MiB), rounded up."""
    return str(math.ceil(size / MIB))


# -- what a model needs -----------------------------------------------------------------------

def _header(path: Path) -> dict[str, Any]:
    """Read what a safetensors file says of its tensors.

    Not by its library, which maps the whole file: that fails where a file exceeds the memory.

    :raises CheckpointError: if the file is no such file.
    """
    from onellm_ros.model.files import CheckpointError

    try:
        with path.open('rb') as stream:
            length = int.from_bytes(stream.read(8), 'little')
            if length > _LONGEST_HEADER:
                raise ValueError(f'a header of {length} bytes')
            table = json.loads(stream.read(length))
        return {name: (tuple(map(int, part['shape'])), str(part['dtype']))
                for name, part in table.items() if name != '__metadata__'}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f'{path}: not readable as safetensors: {error}') from error


def _own_shapes(folder: Path) -> _Shapes:
    """Return shape and bytes a value of every tensor, from the headers alone."""
    from onellm_ros.model.checkpoint import weights_files

    sizes = {'I8': 1, 'U8': 1, 'BOOL': 1, 'F16': 2, 'BF16': 2, 'I16': 2, 'F64': 8, 'I64': 8}
    return {f'{path.name}:{name}': (shape, sizes.get(kind, 4))
            for path in weights_files(folder) for name, (shape, kind) in _header(path).items()}


def _model_of(folder: Path) -> tuple[ModelConfig | None, _Shapes]:
    """Return sizes of a model and the shapes of its stored tensors; nothing is loaded.

    Torch's older format can only be read whole, and a file larger than the memory not be mapped:
    then the sizes are unknown (None), and the file is taken for values in half precision.

    :raises CheckpointError: if the files do not say.
    """
    from onellm_ros.export.layout import is_export, read_config
    from onellm_ros.model.checkpoint import (
        consolidated_file,
        own_model,
        read_consolidated,
        released_model,
    )
    from onellm_ros.model.files import CheckpointError
    from onellm_ros.model.released import PREFIX, UNUSED

    if is_export(folder):
        graphs: _Shapes = {p.name: ((p.stat().st_size // 4,), 4) for p in folder.glob('*.onnx*')}
        return read_config(folder), graphs
    released = None if (folder / 'model.safetensors').is_file() else consolidated_file(folder)
    if released is None:
        shapes = _own_shapes(folder)
        return own_model(folder).config, shapes
    unknown: tuple[None, _Shapes] = None, {'all': ((released.stat().st_size // 2,), 2)}
    if not zipfile.is_zipfile(released):
        return unknown
    try:
        values = read_consolidated(released)        # mapped, not read
    except CheckpointError as error:
        if 'mmap' not in str(error):
            raise
        return unknown
    shapes = {name: (tuple(v.shape), v.element_size()) for name, v in values.items()
              if not UNUSED.fullmatch(name.removeprefix(PREFIX))}
    return released_model(folder, released, {n: tuple(v.shape) for n, v in values.items()}
                          ).config, shapes


def _quantized(config: ModelConfig | None, kind: str, on_cpu: bool) -> tuple[int, int]:
    """Return bytes that quantized weights take less than in half precision, and work on a layer.

    Both are 0 where the sizes are not known.
    """
    if kind == 'none' or config is None:
        return 0, 0
    import torch

    from onellm_ros.inference.quantize import saved_bytes, work_bytes
    from onellm_ros.model.llm import Llama

    with torch.device('meta'):
        llm = Llama(config.llm)
    return saved_bytes(llm, kind, on_cpu), work_bytes(llm, kind, on_cpu)


def _cache_bytes(config: ModelConfig, value: int, slots: bool) -> int:
    llm = config.llm
    position = 2 * llm.layers * (llm.kv_heads or llm.heads) * llm.head_size * value
    modalities = len(Modality) + len(config.modalities)
    prefix = min(llm.max_positions, 1 + modalities * (config.upm.modality_tokens + 2))
    fixed = 0
    if slots:                   # answers are decoded in buffers that stay where they are
        from onellm_ros.inference.graphs import LONGEST, SLOTS
        fixed = SLOTS * min(llm.max_positions, LONGEST)
    return position * (_PREFIXES * prefix + 2 * llm.max_positions + fixed)


def _activation_bytes(config: ModelConfig, value: int) -> int:
    from onellm_ros.model.layers import swiglu_hidden

    encoder, llm, sizes = config.encoder, config.llm, config.tokenizer
    tokens = (encoder.image_size // encoder.patch_size) ** 2 + 1
    seen = sizes.video_frames * tokens * encoder.width * (6 + 2 * encoder.mlp_ratio) * value
    hidden = swiglu_hidden(llm.dim, llm.multiple_of, llm.hidden)
    said = llm.max_positions * (8 * llm.dim + 3 * hidden) * value + 8 * llm.vocab_size * 4
    return max(seen, said)


def need_of(folder: Path, value: int, kept_mb: int, quantize: str = 'none',
            on_cpu: bool = True) -> Need:
    """Return what a model directory needs.

    :param value: bytes of a value in the type that is computed with.
    :param kept_mb: memory of the windows kept for questions, MiB.
    :param quantize: type of the language model's weights; all are read before they are quantized.
    :raises CheckpointError: if the files do not say.
    """
    from onellm_ros.model.storage import SCALE

    config, shapes = _model_of(folder)
    counts = {name: (math.prod(shape), size) for name, (shape, size) in shapes.items()
              if not name.endswith(SCALE)}
    # int8 is expanded to float32 first, whatever it becomes then
    expanded = sum(4 * count for count, size in counts.values() if size == 1 and value != 4)
    turned = sum(count * size for name, (count, size) in counts.items()
                 if _TURNED.fullmatch(name) and not name.startswith('model.safetensors'))
    saved, largest = _quantized(config, quantize, on_cpu)
    slots = value == 2 and quantize == 'none'
    return Need(value * sum(count for count, _ in counts.values()) - saved,
                _cache_bytes(config, value, slots) if config else 0,
                _activation_bytes(config, value) if config else 0,
                kept_mb * MIB, max(expanded, turned, largest) + saved)


# -- what a machine has -----------------------------------------------------------------------

def cuda_bytes() -> int:
    """Return what torch has reserved on all CUDA devices; 0 without torch or CUDA in use."""
    torch: Any = sys.modules.get('torch')
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(i) for i in range(torch.cuda.device_count()))


def give_back() -> None:
    """Return to the system what is no longer used: cycles, torch's CUDA blocks, malloc's heap."""
    gc.collect()
    if cuda_bytes():
        sys.modules['torch'].cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)                # glibc alone has it, and needs it
    except (OSError, AttributeError):
        pass


# -- both together ----------------------------------------------------------------------------

def _compare(model: str, found: tuple[int, str], place: str, free: int | None, budget_mb: int
             ) -> None:
    need, text = found
    room = budget_mb * MIB if budget_mb else free
    if room is None or need <= room:
        return
    has = f'memory_mb allows {budget_mb} MB' if budget_mb else f'found {room // MIB} MB free'
    raise BudgetError(
        f'model {model} needs about {megabytes(need)} MB ({text}), {has} on {place}; nothing '
        'was loaded. Choose a smaller model or another device, end what else runs there, lower '
        'window.kept_mb, or set memory_mb to what you know it may take')


def _less(folder: Path, kept_mb: int, on_cpu: bool) -> str:
    """Return what a model would need in int8, in words; empty where it cannot be quantized."""
    from onellm_ros.export.layout import is_export

    if is_export(folder):
        return ''
    plain, need = need_of(folder, 2, kept_mb), need_of(folder, 2, kept_mb, 'int8', on_cpu)
    if need.weights == plain.weights:
        return ''
    least = need.parts('weights', 'cache', 'activations', *(['windows'] if on_cpu else []))[0]
    return (f". With quantize int8 it would need {megabytes(least)} MB, and the host's memory "
            f'{megabytes(need.weights + need.loading)} MB while it is read')


def check_memory(config: NodeConfig) -> Need:
    """Compute what a node's model needs, and compare it with what there is; loads nothing.

    :raises EngineError: if there is no such model or device, it cannot be quantized there, or its
        files do not say their sizes.
    :raises BudgetError: if it does not fit.
    """
    from onellm_ros.export.layout import is_export
    from onellm_ros.inference import quantize
    from onellm_ros.inference.locate import EngineError, find_device, find_model
    from onellm_ros.model.files import CheckpointError

    folder, device = find_model(config.model), find_device(config.device)
    quantize.check(config.quantize, device,
                   backend='onnx' if is_export(folder) else config.backend)
    on_cpu, whole = device.type != 'cuda', config.quantize == 'none'
    try:
        need = need_of(folder, 4 if on_cpu and whole else 2, config.window.kept_mb,
                       config.quantize, on_cpu)
    except CheckpointError as error:
        raise EngineError(f'model {config.model!r}: {error}') from error
    try:
        _check(config, need, device, on_cpu, whole)
    except BudgetError as error:
        if not whole:
            raise
        raise BudgetError(f'{error}{_less(folder, config.window.kept_mb, on_cpu)}') from None
    return need


def _check(config: NodeConfig, need: Need, device: Any, on_cpu: bool, whole: bool) -> None:
    """Compare a need with what the device and the host have.

    :raises BudgetError: if it does not fit.
    """
    name = repr(config.model) + ('' if whole else f' in {config.quantize}')
    if on_cpu and whole:
        _compare(name, need.parts(), 'cpu', host_free(), config.memory_mb)
        return
    if on_cpu:
        _compare(name, need.parts('weights', 'cache', 'activations', 'windows'), 'cpu',
                 host_free(), config.memory_mb)
    else:
        import torch
        _compare(name, need.parts('weights', 'cache', 'activations'), str(device),
                 torch.cuda.mem_get_info(device)[0], config.memory_mb)
    # Of what is quantized all is read in half precision first.
    reading, text = need.parts('weights', *([] if on_cpu else ['windows']), 'loading')
    _compare(name, (reading, f'while it is read: {text}'), 'the host', host_free(),
             config.memory_mb if on_cpu else 0)


def load_engine(config: NodeConfig) -> EngineLike:
    """Load the model of a node's settings, if it fits.

    :raises RuntimeError: saying what was found, expected and can be done.
    """
    check_memory(config)
    from onellm_ros.inference.engine import Engine  # torch takes seconds: only when needed
    return Engine.load(config.model, config.device, threads=config.threads,
                       backend=config.backend, quantize=config.quantize)
