"""Model directories: the released checkpoint layout and the project's own, both read strictly.

Own layout: ``config.json`` (:class:`ModelConfig`), ``model.safetensors`` and the tokenizer file;
parts that alignment leaves as they are may stand apart, in ``base.safetensors``; where there is
a folder ``llm``, it holds the language model in Hugging Face layout (and the
tokenizer), and the other two files hold the rest.
Released layout: ``config.json`` or ``params.json`` and ``consolidated.00-of-01.pth``.
Every tensor of a file is used, known to be unused, or an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
import hashlib
import json
from pathlib import Path
import pickle
import struct
import zipfile

from safetensors import SafetensorError
import safetensors.torch
import torch
from torch import Tensor

from onellm_ros.config import (
    PRESETS,
    ConfigError,
    LlmConfig,
    ModelConfig,
    from_mapping,
    to_mapping,
)
from onellm_ros.model.files import CheckpointError, read_json, write_atomically
from onellm_ros.model.hf_llm import read_hf_config, read_hf_llm, weight_files
from onellm_ros.model.llm import Llama
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import PREFIX, Entry, entries, is_unused
from onellm_ros.model.released_config import released_config
from onellm_ros.model.storage import compress, expand

LLM = 'llm'                     # folder of the language model in Hugging Face layout
OWN, APART = 'model.safetensors', 'base.safetensors'
_SHOWN = 8
_FULL = PRESETS['onellm_7b']


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

    The tensors may stand below the key ``model``, as trainers save them, if nothing else does.

    :raises CheckpointError: for a file that is no plain dict of tensors.
    """
    try:
        values = torch.load(path, map_location='cpu', weights_only=True,
                            mmap=zipfile.is_zipfile(path))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, LookupError, TypeError,
            ValueError, AttributeError, struct.error) as error:
        raise CheckpointError(f'{path}: not readable as a torch checkpoint: '
                              f'{_unreadable(path, error)}') from error
    if isinstance(values, Mapping) and isinstance(values.get('model'), Mapping):
        if len(values) > 1:
            beside = ', '.join(repr(key) for key in values if key != 'model')
            raise CheckpointError(f"{path}: found a trainer's checkpoint with {beside} beside "
                                  "'model', expected tensors alone; save what stands under "
                                  "'model' as this file")
        values = values['model']
    if not isinstance(values, Mapping):
        raise CheckpointError(f'{path}: expected a dict of tensors, found '
                              f'{type(values).__name__}')
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f'{path}: {name}: expected a tensor under a name, found '
                                  f'{type(value).__name__} under {name!r}')
    return dict(values)


def _unreadable(path: Path, error: Exception) -> str:
    """Return why torch cannot read a file; its own texts advise to let the file run code."""
    size = path.stat().st_size if path.is_file() else -1
    if size == 0:
        return 'the file is empty'
    if size > 0:
        with path.open('rb') as stream:
            begins = stream.read(2) == b'PK'
        if begins and not zipfile.is_zipfile(path):
            return f'its {size} bytes begin as one and have no end: cut short? Copy it again'
    if isinstance(error, pickle.UnpicklingError):
        return (f'{size} bytes that hold something else than tensors, or nothing of torch; '
                'expected what torch.save makes of a dict of tensors')
    return str(error).partition('\n')[0] or type(error).__name__


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


def check_released(shapes: Mapping[str, tuple[int, ...]], model: OneLLM, path: Path
                   ) -> list[Entry]:
    """Return how released tensors and the model's go together, having compared all shapes.

    :raises CheckpointError: naming each tensor that is missing, unknown or of the wrong shape.
    """
    own, config = model.state_dict(), model.config
    table = entries(config)
    wanted = {e.released: tuple(e.to_released(own[e.own]).shape) for e in table}
    problems = [f'expected names that begin with {PREFIX!r}, found '
                f'{next(iter(shapes), "no tensor")!r}'] if not wanted.keys() & shapes else []
    problems += [f'missing tensor {n}: expected shape {list(s)}'
                 for n, s in wanted.items() if n not in shapes]
    problems += [f'unknown tensor {n} of shape {list(s)}' for n, s in shapes.items()
                 if n not in wanted and not is_unused(n, config)]
    problems += [f'{n}: expected shape {list(s)}, found {list(shapes[n])}'
                 for n, s in wanted.items() if n in shapes and shapes[n] != s]
    _complain(path, problems)
    return table


def _empty(config: ModelConfig) -> OneLLM:
    with torch.device('meta'):
        return OneLLM(config)


def released_model(directory: Path, path: Path, shapes: Mapping[str, tuple[int, ...]],
                   inputs: Mapping[str, tuple[int, ...]] | None = None) -> OneLLM:
    """Return the model of a directory in the released layout, on the meta device.

    :param path: the checkpoint, with tensors of ``shapes``.
    :param inputs: shapes of example inputs (released names), where the config states none.
    :raises CheckpointError: if config.json is missing or does not say what a model needs.
    """
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
        return _empty(config)
    except ConfigError as error:
        raise CheckpointError(f'{source or directory}: {error}') from error


def _load_released(directory: Path, path: Path, dtype: torch.dtype,
                   inputs: Mapping[str, tuple[int, ...]] | None) -> OneLLM:
    found = read_consolidated(path)
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    model = released_model(directory, path, shapes, inputs)
    table = check_released(shapes, model, path)
    _assign(model, {e.own: e.to_own(found[e.released]) for e in table}, path, dtype)
    return model


def own_model(directory: Path) -> OneLLM:
    """Return the model of a directory in the own layout, on the meta device.

    :raises CheckpointError: if its config.json (or the language model's) cannot be used.
    """
    path, llm = directory / 'config.json', directory / LLM
    values = read_json(path)
    if llm.is_dir():
        if 'llm' in values:
            raise CheckpointError(f"{path}: found the key 'llm', although {llm} holds the "
                                  'language model with its own config.json; remove one of them')
        values = {**values, 'llm': to_mapping(read_hf_config(llm))}
    try:
        return _empty(from_mapping(ModelConfig, values))
    except ConfigError as error:
        raise CheckpointError(f'{path}: {error}') from error


def own_files(directory: Path) -> list[Path]:
    """Return the files of the own layout beside the language model's folder."""
    return [directory / OWN, *([directory / APART] if (directory / APART).is_file() else [])]


def _load_own(directory: Path, path: Path, dtype: torch.dtype) -> OneLLM:
    model = own_model(directory)
    values: dict[str, Tensor] = {}
    for file in own_files(directory):
        try:
            found = safetensors.torch.load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f'{file}: not readable as safetensors: {error}') from error
        double = sorted(set(found) & set(values))
        if double:
            raise CheckpointError(f'{file}: found {double[0]}, which {path} holds, too; remove '
                                  'one of the files, or save the model again')
        values |= found
    try:
        values = expand(values)
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    if (directory / LLM).is_dir():
        double = [name for name in values if name.startswith('llm.')]
        if double:
            raise CheckpointError(f'{path}: found {double[0]}, although {directory / LLM} holds '
                                  'the language model; remove one of them')
        values |= {f'llm.{name}': v for name, v in read_hf_llm(directory / LLM)[1].items()}
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
    own = folder / OWN
    released = consolidated_file(folder)
    if own.is_file():
        model = _load_own(folder, own, dtype)
    elif released is not None:
        model = _load_released(folder, released, dtype, inputs)
    else:
        raise CheckpointError(f'{folder}: expected model.safetensors or '
                              'consolidated.00-of-01.pth, found neither')
    return model.to(device).eval()


def model_around_llm(config: ModelConfig, directory: str | Path, *,
                     dtype: torch.dtype = torch.float32) -> OneLLM:
    """Return a new model around a language model in Hugging Face layout, for an alignment.

    Encoder, tokenizers and projections are drawn at random, modality tokens at the size of the
    language model's words. Its tokenizer is ``Text.load(directory, config.text)``.

    :param config: sizes of the rest; ``config.llm`` is replaced.
    :param directory: config.json and safetensors of any family that ``hf_config.py`` knows.
    :raises CheckpointError: naming the key or tensor that does not fit.
    """
    llm, state = read_hf_llm(directory)
    stand_in = LlmConfig(dim=llm.dim, layers=1, heads=1, hidden=1, vocab_size=1)
    model = OneLLM(replace(config, llm=stand_in))       # nothing large is drawn and thrown away
    model.config = replace(config, llm=llm)
    with torch.device('meta'):
        model.llm = Llama(llm)
    model.llm.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)
    model = model.to(dtype)
    model.match_llm_scale()
    return model


def save_model(model: OneLLM, directory: str | Path, dtype: torch.dtype = torch.float16,
               coarse: Sequence[str] = ()) -> Path:
    """Write config.json and model.safetensors; each file appears whole or not at all.

    :param dtype: type of the stored weights; int8: rows with a scale each (``storage.py``).
    :param coarse: of int8: parts that alignment trains. Their rows have fewer steps, and the
        others stand apart, in a file that stays the same when these are trained further.
    :returns: the weights file.
    :raises CheckpointError: if a value does not fit ``dtype`` or is not finite, or if the
        directory holds a language model of its own.
    """
    folder = Path(directory)
    if (folder / LLM).is_dir():
        raise CheckpointError(f'{folder}: holds a folder {LLM!r} with another language model; '
                              'save to another directory')
    folder.mkdir(parents=True, exist_ok=True)
    plain = torch.float32 if dtype == torch.int8 else dtype
    values = {n: v.detach().to('cpu', plain).contiguous() for n, v in model.state_dict().items()}
    bad = [n for n, v in values.items() if not bool(torch.isfinite(v).all())]
    if bad:
        raise CheckpointError(f'{bad[0]} (and {len(bad) - 1} more): values are not finite as '
                              f'{dtype}; nothing was written')
    apart: dict[str, Tensor] = {}
    if dtype == torch.int8:
        values = compress(values, coarse)
        if coarse:
            apart = {n: v for n, v in values.items() if n.partition('.')[0] not in coarse}
            values = {n: v for n, v in values.items() if n not in apart}
    config = json.dumps(to_mapping(model.config), indent=1) + '\n'
    write_atomically(folder / 'config.json', config.encode())
    path = folder / OWN
    if apart:
        write_atomically(folder / APART, safetensors.torch.save(apart))
    else:
        (folder / APART).unlink(missing_ok=True)
    write_atomically(path, safetensors.torch.save(values))
    return path


def weights_files(directory: str | Path) -> list[Path]:
    """Return the files that hold a model directory's weights.

    :raises CheckpointError: if there are none.
    """
    folder = Path(directory)
    if (folder / OWN).is_file():
        llm = weight_files(folder / LLM) if (folder / LLM).is_dir() else []
        return [*own_files(folder), *llm]
    released = consolidated_file(folder)
    if released is None:
        raise CheckpointError(f'{folder}: expected model.safetensors or '
                              'consolidated.00-of-01.pth, found neither')
    return [released]


def _digest(path: Path) -> str:
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
    return digest.hexdigest()


def weights_hash(directory: str | Path) -> str:
    """Return the first 12 hex digits of the SHA-256 of the weights file.

    Of files above 256 MiB the size and 64 evenly spread MiB are hashed, so that loading a 7B model
    does not read it twice; of several files, their hashes are.
    """
    digests = [_digest(path) for path in weights_files(directory)]
    if len(digests) > 1:
        digests = [hashlib.sha256(''.join(digests).encode()).hexdigest()]
    return digests[0][:12]
