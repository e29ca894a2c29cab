"""Which model a run is of: what tells it apart, known before its weights are loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onellm_ros.export.layout import is_export, read_manifest
from onellm_ros.inference.locate import find_device, find_model
from onellm_ros.machine import processor, usable_cores
from onellm_ros.model.checkpoint import weights_hash

if TYPE_CHECKING:
    from onellm_ros.inference.engine import Engine

NOT_QUANTIZED = 'none'
GPU_BATCH = 16          # questions at once where the user says nothing


@dataclass(frozen=True)
class Which:
    """A model and what computes it.

    :param name: as the user calls it: a name, or that of its folder.
    :param weights: hash of its weights. :param quantize: type of the language model's weights.
    :param dtype: of its numbers. :param backend: ``torch`` or ``onnx``. :param device: its kind.
    """

    name: str
    weights: str
    quantize: str
    dtype: str
    backend: str
    device: str

    def about(self) -> dict[str, Any]:
        """Return what ``run.json`` holds of it."""
        return asdict(self)

    def batch(self, asked: int) -> int:
        """Return how many questions are answered at once; 0: the user does not say."""
        if self.backend != 'torch':
            return 1
        return asked or (GPU_BATCH if self.device == 'cuda' else 1)


def which(model: str, device: str = 'auto', backend: str = 'auto', quantize: str = NOT_QUANTIZED
          ) -> Which:
    """Return which model a name means.

    ``auto`` is torch here, where there is more than ONNX graphs: what is measured to be faster
    may change from run to run, and with it the last digits.

    :raises EngineError: if it is not found; :raises CheckpointError: if it cannot be read.
    """
    folder = find_model(model)
    name = model if Path(model).name == model or model.startswith('hub:') else folder.name
    kind = find_device(device).type
    if is_export(folder):
        manifest = read_manifest(folder)
        return Which(name, manifest.weights_hash, NOT_QUANTIZED, manifest.precision, 'onnx', kind)
    if backend == 'onnx':
        return Which(name, weights_hash(folder), NOT_QUANTIZED, 'float32', 'onnx', kind)
    less = quantize != NOT_QUANTIZED
    return Which(name, weights_hash(folder) + (f'+{quantize}' if less else ''), quantize,
                 'bfloat16' if less or kind == 'cuda' else 'float32', 'torch', kind)


def load(model: str, wanted: Which, device: str) -> Engine:
    """Load a model.

    :param device: of this process. :raises EngineError: if it cannot be loaded.
    """
    from onellm_ros.inference.engine import Engine
    from onellm_ros.inference.locate import EngineError

    more: dict[str, Any] = {}
    if wanted.quantize != NOT_QUANTIZED:
        more['quantize'] = wanted.quantize
    engine = Engine.load(model, device, backend=wanted.backend, **more)
    if engine.weights_hash != wanted.weights:
        raise EngineError(f'model {model!r}: found the weights {engine.weights_hash}, expected '
                          f'{wanted.weights} as a moment before; they are being written')
    return engine


def machine(device: str) -> dict[str, Any]:
    """Return what a run computed on."""
    found: dict[str, Any] = {'processor': processor(), 'cores': usable_cores()}
    if device == 'cuda':
        import torch
        found['gpu'] = torch.cuda.get_device_name()
    return found
