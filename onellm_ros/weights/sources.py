"""Checkpoints to read from: a tensor at a time, under the names of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
import zipfile

import torch
from torch import Tensor

from onellm_ros.model.checkpoint import (
    LLM,
    CheckpointError,
    check_released,
    consolidated_file,
    own_files,
    own_model,
    read_consolidated,
    released_model,
)
from onellm_ros.model.files import read_json
from onellm_ros.model.hf_llm import locate_tensors, open_safetensors
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import Entry
from onellm_ros.model.storage import SCALE, expand
from onellm_ros.weights.errors import WeightsError
from onellm_ros.weights.output import TOKENIZERS
from onellm_ros.weights.tensors import Item

EXTRAS = 'released'             # folder of what only the released layout knows
UNUSED = 'unused.safetensors'
ORDER = 'names.json'

_DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16,
           'BF16': torch.bfloat16, 'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16,
           'I8': torch.int8, 'U8': torch.uint8, 'BOOL': torch.bool,
           'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2}


class Source:
    """A checkpoint whose tensors are read on demand.

    Attributes: ``folder``; ``model`` (on the meta device); ``items`` by the model's names;
    ``unused`` by released names: tensors that the model has no use for.
    """

    folder: Path
    model: OneLLM
    items: dict[str, Item]
    unused: dict[str, Item]

    def read(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yield tensors in this order; what is mapped from disk is freed afterwards."""
        raise NotImplementedError

    def tokenizer_files(self) -> list[Path]:
        """Return the files of the tokenizer."""
        return [at / name for at in (self.folder, self.folder / LLM) for name in TOKENIZERS
                if (at / name).is_file()]


class ReleasedSource(Source):
    """A directory in the released layout.

    Attribute ``order``: all names as they stand in the file.

    :raises CheckpointError: naming the tensor or key that does not fit.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path
        found = read_consolidated(path)
        # Only zip files can be mapped; the older format is in memory, and stays there.
        self._whole = None if zipfile.is_zipfile(path) else found
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        self.model = released_model(folder, path, shapes)
        table = check_released(shapes, self.model, path)
        self.order = list(found)
        self._entries: dict[str, Entry] = {}
        self.items, self.unused = {}, {}
        used = {entry.released: entry for entry in table}
        own = self.model.state_dict()
        for name, value in found.items():
            if name not in used:
                self.unused[name] = Item(name, value.dtype, tuple(value.shape))
                continue
            if not value.is_floating_point():
                raise CheckpointError(f'{path}: {name}: expected floating-point values, found '
                                      f'{value.dtype}')
            target = used[name].own
            self._entries[target] = used[name]
            self.items[target] = Item(target, value.dtype, tuple(own[target].shape))

    def read(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yield tensors in this order; unused ones go by their released names."""
        found = self._whole or read_consolidated(self.path)
        for name in names:
            entry = self._entries.get(name)
            yield found[name] if entry is None else entry.to_own(found[entry.released])


class OwnSource(Source):
    """A directory in the own layout, with the language model in a folder of its own or not.

    Values that are stored as int8 are read as float32.

    :raises CheckpointError: naming the tensor or key that does not fit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = own_model(folder)
        own = self.model.state_dict()
        self.items, self.unused = {}, {}
        self._place: dict[str, tuple[Path, str]] = {}
        self._scaled: set[str] = set()
        for main in own_files(folder):
            with ExitStack() as stack:
                stored = set(open_safetensors(stack, main).keys())
            for name in sorted(stored):
                tensor = name.removesuffix(SCALE)
                if tensor not in own or tensor not in stored:
                    raise CheckpointError(f'{main}: unknown tensor {name}')
                if tensor != name:
                    self._scaled.add(tensor)
                elif name in self._place:
                    raise CheckpointError(f'{main}: found {name}, which {self._place[name][0]} '
                                          'holds, too')
                else:
                    self._place[name] = main, name
        if (folder / LLM).is_dir():
            places = locate_tensors(folder / LLM, self.model.config.llm)
            self._place |= {f'llm.{name}': place for name, place in places.items()}
        self._describe(self.items, list(self._place))
        problems = [f'missing tensor {name}' for name in own if name not in self.items]
        problems += [f'{name}: expected floating-point values, found {item.dtype}'
                     for name, item in self.items.items() if not item.dtype.is_floating_point]
        problems += [f'{name}: expected shape {list(own[name].shape)}, found {list(item.shape)}'
                     for name, item in self.items.items() if tuple(own[name].shape) != item.shape]
        if problems:
            raise CheckpointError(f'{folder}: {len(problems)} tensors do not fit its config.json: '
                                  f'{"; ".join(problems[:8])}')
        extras = folder / EXTRAS / UNUSED
        if extras.is_file():
            with ExitStack() as stack:
                names = list(open_safetensors(stack, extras).keys())
            self._place |= {name: (extras, name) for name in names}
            self._describe(self.unused, names)

    def _describe(self, items: dict[str, Item], names: Sequence[str]) -> None:
        """Note type and shape of tensors without reading their values."""
        with ExitStack() as stack:
            streams = {path: open_safetensors(stack, path)
                       for path in dict.fromkeys(path for path, _ in self._place.values())}
            for name in names:
                path, stored = self._place[name]
                part = streams[path].get_slice(stored)
                kind = _DTYPES.get(part.get_dtype())
                if kind is None:
                    raise CheckpointError(f'{path}: {stored}: values of type {part.get_dtype()} '
                                          'are not read')
                items[name] = Item(name, torch.float32 if name in self._scaled else kind,
                                   tuple(part.get_shape()))

    def read(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yield tensors in this order; unused ones go by their released names."""
        with ExitStack() as stack:
            streams: dict[Path, Any] = {}
            for name in names:
                path, stored = self._place[name]
                if path not in streams:
                    streams[path] = open_safetensors(stack, path)
                value: Tensor = streams[path].get_tensor(stored)
                if name in self._scaled:
                    pair = {stored: value,
                            stored + SCALE: streams[path].get_tensor(stored + SCALE)}
                    value = expand(pair)[stored]
                yield value


def open_source(path: Path) -> Source:
    """Return the checkpoint of a directory, or of a consolidated file in one.

    :raises WeightsError: if there is none.
    :raises CheckpointError: naming the tensor or key that does not fit.
    """
    folder = path.parent if path.suffix == '.pth' and path.is_file() else path
    if not folder.is_dir():
        raise WeightsError(f'{path}: no such directory; expected one with config.json and '
                           'model.safetensors or consolidated.00-of-01.pth')
    if folder is path and (folder / 'model.safetensors').is_file():
        if not (folder / LLM).is_dir() and _is_plain_llm(folder):
            raise WeightsError(f'{folder}: a language model in Hugging Face layout alone, '
                               'expected a whole model')
        return OwnSource(folder)
    released = consolidated_file(folder)
    if released is None:
        raise WeightsError(f'{folder}: expected model.safetensors or consolidated.00-of-01.pth, '
                           'found neither')
    return ReleasedSource(folder, released)


def _is_plain_llm(folder: Path) -> bool:
    return 'model_type' in read_json(folder / 'config.json')
