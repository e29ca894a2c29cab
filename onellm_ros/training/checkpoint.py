"""A run's ``state.pt``: everything needed to go on, whole, whatever number of ranks wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import os
from pathlib import Path
import pickle
import shutil
from typing import Any
import zipfile

import torch
from torch import Tensor

from onellm_ros.config import ConfigError, ModelConfig, from_mapping, to_mapping
from onellm_ros.training.errors import TrainingError

STATE = 'state.pt'
FORMAT = 2
Moments = dict[str, dict[str, Tensor]]


@dataclass
class RunState:
    """Where a run stands.

    :param stage: index of the stage in the recipe; ``name``: its name, empty behind the last.
    :param done: names of the stages before it. :param step: optimizer steps of it that are done.
    :param config: sizes of the model, with the experts and the template of this stage.
    :param model: its tensors; :param heads: those of the heads, empty without any.
    :param optimizer: AdamW's moments by parameter; empty between stages.
    :param window: [sum, count] of the figures since the last line of the log.
    :param lora: rank of the adapters among the model's tensors; 0: none.
    """

    stage: int
    name: str
    done: list[str]
    step: int
    config: ModelConfig
    model: dict[str, Tensor]
    heads: dict[str, Tensor]
    optimizer: Moments = field(default_factory=dict)
    window: dict[str, list[float]] = field(default_factory=dict)
    lora: int = 0


def save_state(folder: Path, state: RunState) -> None:
    """Write ``state.pt`` at once or not at all.

    :raises TrainingError: if it cannot be written; what stood there still does.
    """
    values = {**vars(state), 'format': FORMAT, 'config': to_mapping(state.config)}
    temporary = folder / f'state-{os.getpid()}.partial'
    for left in folder.glob('state-*.partial'):         # by a run that was killed as it wrote
        left.unlink(missing_ok=True)
    try:
        with temporary.open('wb') as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / STATE)
    except (OSError, RuntimeError) as error:            # torch tells of a full disk by the latter
        room = shutil.disk_usage(folder).free
        raise TrainingError(f'{folder / STATE} could not be written ({room / 1e6:.0f} MB are free '
                            f'there): {error}; the checkpoint before it, if any, is unharmed: '
                            'make room and give the same command again') from error
    finally:
        temporary.unlink(missing_ok=True)


def read_values(path: Path) -> dict[str, Any]:
    """Read a ``state.pt`` of any version, mapped from disk.

    :raises TrainingError: if it is missing or damaged.
    """
    try:
        values = torch.load(path, map_location='cpu', weights_only=True,
                            mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise TrainingError(f'{path}: no such file') from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, LookupError, ValueError
            ) as error:
        raise TrainingError(f'{path}: not readable as the state of a run ({error}); remove it to '
                            'begin anew, or put a copy of it in its place') from error
    if not isinstance(values, dict) or not {'model', 'heads', 'stage', 'step'} <= set(values):
        raise TrainingError(f'{path}: expected the state of a run, found something else')
    return values


def load_state(folder: Path, names: list[str]) -> RunState | None:
    """Return where a run stands; None for a new one.

    :param names: of the stages that the run is to go through.
    :raises TrainingError: for a state that cannot be gone on from.
    """
    path = folder / STATE
    if not path.exists():
        return None
    values = read_values(path)
    if values.pop('format', 1) != FORMAT:
        raise TrainingError(f'{path}: written by another version of the trainer; begin a run in '
                            f'another folder with --init {folder}')
    try:
        state = RunState(**{**values, 'config': from_mapping(ModelConfig, values['config'])})
    except (ConfigError, TypeError) as error:
        raise TrainingError(f'{path}: {error}') from None
    here = names[state.stage] if state.stage < len(names) else ''
    if names[:state.stage] != state.done or state.name not in ('', here):
        stands = f'at stage {state.name!r} after' if state.name else 'at the end of'
        raise TrainingError(f'{path}: the run stands {stands} {", ".join(state.done) or "none"}, '
                            f'expected to go through {", ".join(names)}; give another --out, or '
                            'the preset and stage that go on from there')
    return state


def misfit(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Return what keeps tensors from being those of a module, the first of it; empty: nothing."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if not wrong:
        return ''
    name = wrong[0]
    return (f'{name}: expected {own.get(name, "nothing")}, found {found.get(name, "nothing")} '
            f'(and {len(wrong) - 1} more)')


def restore(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Give a module on the meta device its tensors.

    :raises TrainingError: if they do not fit, naming the first that does not.
    """
    wrong = misfit(module, tensors)
    if wrong:
        raise TrainingError(f'{path}: {wrong}')
    module.load_state_dict({n: v.clone() for n, v in tensors.items()}, assign=True)
