"""Where a model named by the user lies, and on which device it runs."""

from __future__ import annotations

from pathlib import Path

import torch

from onellm_ros.export.layout import is_export
from onellm_ros.roots import package_roots
from onellm_ros.weights.cache import SCHEME, find_cached
from onellm_ros.weights.errors import WeightsError


class EngineError(RuntimeError):
    """A request that the engine cannot serve; the text says what was found and expected."""


def find_model(model: str | Path) -> Path:
    """Return the directory of a model: a path, or the name of one that ships with the package.

    ``hub:OWNER/NAME`` (or ``hub:OWNER/NAME@REVISION``) is one that ``onellm pull`` has fetched;
    no network is used.

    :raises EngineError: if there is none; the text lists where it was looked for.
    """
    name = str(model)
    if not name:
        raise EngineError('model: expected a name or a directory, found an empty text')
    if name.startswith(SCHEME):
        try:
            return find_cached(name)
        except WeightsError as error:
            raise EngineError(f'model {error}') from error
    path = Path(model).expanduser()
    bare = path.name == name            # a folder of that name may be there by chance
    if path.is_dir() and not (bare and _empty(path)):
        return path
    looked = [str(path)]
    if bare:
        for root in dict.fromkeys(package_roots()):
            shipped = root / 'models' / name
            looked.append(str(shipped))
            if shipped.is_dir():
                return shipped
    if path.is_dir():
        return path                     # whoever reads it says what it lacks
    if path.exists():
        raise EngineError(f'model {name!r}: expected a directory, found a file; give the folder '
                          'that holds config.json and the weights')
    raise EngineError(
        f'model {name!r} not found; looked for: {", ".join(looked)}. Give the path of a model '
        'directory (config.json with model.safetensors or consolidated.00-of-01.pth), fetch one '
        'with `onellm pull` (then it is hub:OWNER/NAME), or train one with `onellm train`')


def _empty(folder: Path) -> bool:
    """Say whether a folder holds nothing of a model."""
    return not is_export(folder) and not (folder / 'config.json').is_file()


def find_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` takes the first CUDA device, or the CPU where there is none.

    :raises EngineError: for another name, or a CUDA device that this machine does not have.
    """
    if name == 'auto':
        return torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')
    kind, _, index = name.partition(':')
    if kind not in ('cpu', 'cuda') or (index and not index.isdigit()):
        raise EngineError(f'device: expected auto, cpu, cuda or cuda:N, found {name!r}')
    if kind == 'cpu':
        return torch.device('cpu')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(index or 0)
    if number >= count:
        raise EngineError(f'device {name!r}: torch {torch.__version__} finds {count} CUDA devices '
                          'on this machine; use device auto or cpu')
    return torch.device('cuda', number)
