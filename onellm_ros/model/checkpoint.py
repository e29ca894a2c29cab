"""Model directories: the released checkpoint layout and the project's own, both read strictly.

Own layout: ``config.json`` (:class:`ModelConfig`), ``model.safetensors`` and the tokenizer file.
Released layout: ``config.json`` or ``params.json`` and ``consolidated.00-of-01.pth``.
Every tensor of a file is used, known to be unused, or an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
from pathlib import Path
import pickle
import struct
from typing import Any
import zipfile

from safetensors import SafetensorError
import safetensors.torch
import torch
from torch import Tensor

from onellm_ros.config import PRESETS, ConfigError, ModelConfig, from_mapping, to_mapping
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import entries, is_unused
from onellm_ros.model.released_config import released_config
from onellm_ros.model.storage import compress, expand

_SHOWN = 8
_FULL = PRESETS['onellm_7b']


class CheckpointError(RuntimeError):
    """A model directory that cannot be loaded; the text names file and tensor."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises CheckpointError: if the file is missing or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(f'{path}: file not found') from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f'{path}: not readable as JSON: {error}') from error
    if not isinstance(values, dict):
        raise CheckpointError(f'{path}: expected a JSON object, found {type(values).__name__}')
    return values


def consolidated_file(directory: Path) -> Path | None:
    """Return the directory's consolidated checkpoint, if it has one.

    :raises CheckpointError: for a checkpoint of several parts.
    """
    found = sorted(directory.glob('consolidated*.pth'))
    if len(found) > 1:
        raise CheckpointError(
            f'{directory}: expected one consolidated checkpoint, found {len(found)} '
            f'({found[0].name} ... {found[-1].name}); parts of a model-parallel run are not '
            'merged here: consolidate them to consolidated.00-of-01.pth first')
    if found and '-of-' in found[0].name and not found[0].name.endswith('-of-01.pth'):
        raise CheckpointError(
            f'{found[0]}: one part of several; expected consolidated.00-of-01.pth')
    return found[0] if found else None


def read_consolidated(path: Path) -> dict[str, Tensor]:
    """Read a released checkpoint without running code from it, mapped from disk where possible.

    :raises CheckpointError: for a file that is no plain dict of tensors.
    """
    try:
        values = torch.load(path, map_location='cpu', weights_only=True,
                            mmap=zipfile.is_zipfile(path))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, LookupError, TypeError,
            ValueError, AttributeError, struct.error) as error:
        raise CheckpointError(f'{path}: not readable as a torch checkpoint: {error}') from error
    if not isinstance(values, Mapping):
        raise CheckpointError(f'{path}: expected a dict of tensors, found '
                              f'{type(values).__name__}')
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f'{path}: {name}: expected a tensor, found '
                                  f'{type(value).__name__}')
    return dict(values)


def _complain(path: Path, problems: list[str]) -> None:
    if problems:
        shown = '\n  '.join(problems[:_SHOWN])
        more = f'\n  and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise CheckpointError(f'{path}: does not fit the model of its config:\n  {shown}{more}')


def _assign(model: OneLLM, values: Mapping[str, Tensor], path: Path,
            dtype: torch.dtype) -> None:
    """Give a model on the meta device its tensors; both sides must match exactly."""
    own = model.state_dict()
    problems = [f'missing tensor {n}: expected shape {list(own[n].shape)}'
                for n in own if n not in values]
    problems += [f'unknown tensor {n} of shape {list(values[n].shape)}'
                 for n in values if n not in own]
    problems += [f'{n}: expected shape {list(own[n].shape)}, found {list(values[n].shape)}'
                 for n in own if n in values and own[n].shape != values[n].shape]
    problems += [f'{n}: expected floating-point values, found {values[n].dtype}'
                 for n in own if n in values and not values[n].is_floating_point()]
    _complain(path, problems)
    model.load_state_dict({n: v.to(dtype) for n, v in values.items()}, strict=True, assign=True)


def convert_released(found: Mapping[str, Tensor], config: ModelConfig, path: Path
                     ) -> dict[str, Tensor]:
    """Bring released tensors under the model's names and layout.

    :raises CheckpointError: naming each tensor that is missing, unknown or of the wrong shape.
    """
    with torch.device('meta'):
        own = OneLLM(config).state_dict()
    table = entries(config)
    wanted = {e.released: tuple(e.to_released(own[e.own]).shape) for e in table}
    problems = [f'missing tensor {n}: expected shape {list(s)}'
                for n, s in wanted.items() if n not in found]
    problems += [f'unknown tensor {n} of shape {list(v.shape)}' for n, v in found.items()
                 if n not in wanted and not is_unused(n, config)]
    problems += [f'{n}: expected shape {list(s)}, found {list(found[n].shape)}'
                 for n, s in wanted.items() if n in found and tuple(found[n].shape) != s]
    _complain(path, problems)
    return {e.own: e.to_own(found[e.released]) for e in table}


def _empty(config: ModelConfig) -> OneLLM:
    with torch.device('meta'):
        return OneLLM(config)


def _load_released(directory: Path, path: Path, dtype: torch.dtype,
                   inputs: Mapping[str, tuple[int, ...]] | None) -> OneLLM:
    found = read_consolidated(path)
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    source = next((directory / n for n in ('config.json', 'params.json')
                   if (directory / n).is_file()), None)
    try:
        if source is not None:
            config = released_config(read_json(source), shapes, inputs)
        elif shapes.get('llma.tok_embeddings.weight', ())[1:] == (_FULL.llm.dim,):
            config = released_config({'llm': {'dim': _FULL.llm.dim}}, shapes, inputs)
        else:
            raise CheckpointError(f"{directory}: expected config.json (or Meta's params.json) "
                                  f'beside {path.name}, found neither')
        model = _empty(config)
    except ConfigError as error:
        raise CheckpointError(f'{source or directory}: {error}') from error
    _assign(model, convert_released(found, config, path), path, dtype)
    return model


def _load_own(directory: Path, path: Path, dtype: torch.dtype) -> OneLLM:
    try:
        config = from_mapping(ModelConfig, read_json(directory / 'config.json'))
        model = _empty(config)
    except ConfigError as error:
        raise CheckpointError(f'{directory / "config.json"}: {error}') from error
    try:
        values = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: not readable as safetensors: {error}') from error
    try:
        values = expand(values)
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    _assign(model, values, path, dtype)
    return model


def load_model(directory: str | Path, *, dtype: torch.dtype = torch.float32,
               device: torch.device | str = 'cpu',
               inputs: Mapping[str, tuple[int, ...]] | None = None) -> OneLLM:
    """Load a model directory of either layout, strictly, in evaluation mode.

    :param dtype: type of the weights in memory, whatever the file holds.
    :param inputs: shapes of example inputs (released names), where the config states none.
    :raises CheckpointError: saying what was found and what was expected.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f'{folder}: no such directory; expected a model directory '
                              '(config.json with model.safetensors or consolidated.00-of-01.pth)')
    own = folder / 'model.safetensors'
    released = consolidated_file(folder)
    if own.is_file():
        model = _load_own(folder, own, dtype)
    elif released is not None:
        model = _load_released(folder, released, dtype, inputs)
    else:
        raise CheckpointError(f'{folder}: expected model.safetensors or '
                              'consolidated.00-of-01.pth, found neither')
    return model.to(device).eval()


def save_model(model: OneLLM, directory: str | Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write config.json and model.safetensors; each file appears whole or not at all.

    :param dtype: type of the stored weights; int8: rows with a scale each (``storage.py``).
    :returns: the weights file.
    :raises CheckpointError: if a value does not fit ``dtype`` or is not finite.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    plain = torch.float32 if dtype == torch.int8 else dtype
    values = {n: v.detach().to('cpu', plain).contiguous() for n, v in model.state_dict().items()}
    bad = [n for n, v in values.items() if not bool(torch.isfinite(v).all())]
    if bad:
        raise CheckpointError(f'{bad[0]} (and {len(bad) - 1} more): values are not finite as '
                              f'{dtype}; nothing was written')
    if dtype == torch.int8:
        values = compress(values)
    config = json.dumps(to_mapping(model.config), indent=1) + '\n'
    write_atomically(folder / 'config.json', config.encode())
    path = folder / 'model.safetensors'
    write_atomically(path, safetensors.torch.save(values))
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with temporary.open('wb') as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def weights_file(directory: str | Path) -> Path:
    """Return the file that holds a model directory's weights.

    :raises CheckpointError: if there is none.
    """
    folder = Path(directory)
    own = folder / 'model.safetensors'
    path = own if own.is_file() else consolidated_file(folder)
    if path is None:
        raise CheckpointError(f'{folder}: expected model.safetensors or '
                              'consolidated.00-of-01.pth, found neither')
    return path


def weights_hash(directory: str | Path) -> str:
    """Return the first 12 hex digits of the SHA-256 of the weights file.

    Of files above 256 MiB the size and 64 evenly spread MiB are hashed, so that loading a 7B model
    does not read it twice.
    """
    path = weights_file(directory)
    size = path.stat().st_size
    digest = hashlib.sha256()
    mib = 1 << 20
    with path.open('rb') as stream:
        if size <= 256 * mib:
            while chunk := stream.read(mib):
                digest.update(chunk)
        else:
            digest.update(str(size).encode())
            for i in range(64):
                stream.seek((size - mib) * i // 63)
                digest.update(stream.read(mib))
    return digest.hexdigest()[:12]
