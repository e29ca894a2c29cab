"""Files of tensors, written a tensor at a time: safetensors, and torch's zip format.

Both libraries write from tensors that all stand in memory. Here the plan of a file (names, types,
shapes) is known first, and values come in groups of bounded size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import io
import json
import math
import os
from pathlib import Path
import pickle
import struct
import sys
from typing import Any, BinaryIO
import zipfile

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2  # named in every file of torch.save

from onellm_ros.weights.errors import WeightsError

GROUP = 1 << 28                 # bytes that are mapped or copied at a time
_ALIGNED = 64                   # as torch.save does, so that files can be mapped
_NAMES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8',
    torch.uint8: 'U8', torch.bool: 'BOOL', torch.float8_e4m3fn: 'F8_E4M3',
    torch.float8_e5m2: 'F8_E5M2'}
_STORAGES = {
    torch.float64: 'DoubleStorage', torch.float32: 'FloatStorage', torch.float16: 'HalfStorage',
    torch.bfloat16: 'BFloat16Storage', torch.int64: 'LongStorage', torch.int32: 'IntStorage',
    torch.int16: 'ShortStorage', torch.int8: 'CharStorage', torch.uint8: 'ByteStorage',
    torch.bool: 'BoolStorage'}


@dataclass(frozen=True)
class Item:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the values in a file."""
        return self.count * self.dtype.itemsize


# Gives the tensors of some names, in that order; what it maps may be freed after the iteration.
Read = Callable[[Sequence[str]], Iterable[Tensor]]
Told = Callable[[int], Any]


def groups(items: Sequence[Item], limit: int) -> Iterator[list[Item]]:
    """Yield items in groups of at most ``limit`` bytes, or of one larger item."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and size + item.bytes > limit:
            yield group
            group, size = [], 0
        group.append(item)
        size += item.bytes
    if group:
        yield group


def raw(value: Tensor) -> memoryview:
    """Return the bytes of a tensor, as they lie in a file."""
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def _values(items: Sequence[Item], read: Read, told: Told) -> Iterator[tuple[Item, memoryview]]:
    """Yield each item with its bytes, a group at a time."""
    for group in groups(items, GROUP):
        values = iter(read([item.name for item in group]))
        for item in group:
            value = next(values)
            if value.dtype != item.dtype or tuple(value.shape) != item.shape:
                raise WeightsError(f'{item.name}: expected {item.dtype} {list(item.shape)}, found '
                                   f'{value.dtype} {list(value.shape)}')
            yield item, raw(value)
            told(item.bytes)


def _finish(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def write_safetensors(path: Path, items: Sequence[Item], read: Read, told: Told,
                      metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    :param read: gives tensors by name.
    :param told: called with the bytes of each tensor that was written.
    :raises WeightsError: for a type that the format does not know.
    """
    ordered = sorted(items, key=lambda item: -item.dtype.itemsize)      # keeps values aligned
    header: dict[str, Any] = {'__metadata__': {'format': 'pt', **(metadata or {})}}
    start = 0
    for item in ordered:
        if item.dtype not in _NAMES:
            raise WeightsError(f'{item.name}: {item.dtype} cannot be stored as safetensors')
        header[item.name] = {'dtype': _NAMES[item.dtype], 'shape': list(item.shape),
                             'data_offsets': [start, start + item.bytes]}
        start += item.bytes
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as stream:
        stream.write(struct.pack('<Q', len(text)) + text)
        for _, data in _values(ordered, read, told):
            stream.write(data)
        _finish(stream)


@dataclass(frozen=True)
class _Storage:
    """The place of one tensor's values in a file of torch."""

    kind: str
    key: str
    count: int


class _Planned:
    """A tensor of which only the place of its values is pickled."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = [math.prod(self.shape[i + 1:]) for i in range(len(self.shape))]
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, tuple(strides), False,
                                    OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return 'storage', getattr(torch, obj.kind), obj.key, 'cpu', obj.count
        return None


def _entry(archive: zipfile.ZipFile, name: str, size: int, aligned: bool) -> zipfile.ZipInfo:
    """Return the description of a record; padding in its header aligns the data."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    if aligned:
        assert archive.fp is not None
        # local header of 30 bytes, name, and zipfile's own field for sizes above 4 GiB
        start = archive.fp.tell() + 30 + len(name.encode()) + 20 + 4
        pad = -start % _ALIGNED
        info.extra = struct.pack('<HH', 0x4246, pad) + b'Z' * pad
    return info


def write_torch(path: Path, items: Sequence[Item], read: Read, told: Told) -> None:
    """Write a file that ``torch.load`` reads as a dict of tensors, mapped if wanted.

    :param read: gives tensors by name.
    :param told: called with the bytes of each tensor that was written.
    :raises WeightsError: for a type that the format does not know.
    """
    planned = {}
    for number, item in enumerate(items):
        if item.dtype not in _STORAGES:
            raise WeightsError(f'{item.name}: {item.dtype} cannot be stored in a .pth file')
        planned[item.name] = _Planned(
            _Storage(_STORAGES[item.dtype], str(number), item.count), item.shape)
    table = io.BytesIO()
    _Pickler(table, protocol=2).dump(planned)
    top = path.name.removesuffix('.pth')
    with path.open('wb') as stream:
        with zipfile.ZipFile(stream, 'w', zipfile.ZIP_STORED) as archive:
            small = {'data.pkl': table.getvalue(), 'byteorder': sys.byteorder.encode(),
                     'version': b'3\n'}
            for name, text in small.items():
                archive.writestr(_entry(archive, f'{top}/{name}', len(text), False), text)
            for number, (item, data) in enumerate(_values(items, read, told)):
                info = _entry(archive, f'{top}/data/{number}', item.bytes, True)
                with archive.open(info, 'w', force_zip64=True) as record:
                    record.write(data)
        _finish(stream)
