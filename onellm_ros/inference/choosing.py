"""Which backend computes: what the user asked for, or what was found faster on this machine.

ONNX Runtime takes part where it is installed and an export of the very weights exists: below the
model's folder (``onnx/``), or in the user's cache, where ``onellm export`` puts it. Nothing is
exported here. The measurement is made once for a model, machine, versions, device and threads, in
float32; an int8 export is never chosen, only taken when it is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import importlib.util
import json
import math
import os
from pathlib import Path
import time

import torch

from onellm_ros.config import ModelConfig
from onellm_ros.export.layout import (
    FLOAT,
    ExportError,
    input_shape,
    is_export,
    read_manifest,
    source_digest,
)
from onellm_ros.export.runtime import export_bytes, import_onnxruntime
from onellm_ros.inference.backend import Backend, TorchBackend
from onellm_ros.inference.locate import EngineError
from onellm_ros.inference.onnx_backend import MixedBackend, OnnxBackend
from onellm_ros.machine import host_free, processor, usable_cores
from onellm_ros.modality import Modality
from onellm_ros.model.files import CheckpointError, read_json, write_atomically

BACKENDS = ('auto', 'torch', 'onnx')
_METHOD = 1             # of the measurement; a new number measures anew
_WINDOW = (Modality.IMAGE, Modality.DEPTH, Modality.POINT, Modality.AUDIO, Modality.IMU)
_QUESTION, _TOKENS = 12, 32
_WORTH = 0.95           # of torch's time: what is not faster than this is not worth two runtimes


@dataclass(frozen=True)
class Chosen:
    """A backend and why it is this one, for diagnostics."""

    backend: Backend
    why: str


@dataclass(frozen=True)
class Seconds:
    """Time of one window: of its encoding, and of all that the language model does."""

    encode: float
    language: float

    @property
    def total(self) -> float:
        """Both."""
        return self.encode + self.language


def cache_folder() -> Path:
    """Return the user's cache folder of this package (``XDG_CACHE_HOME`` counts)."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'onellm_ros'


def export_folder(model: Path, weights_hash: str) -> Path:
    """Return where ``onellm export`` writes to by default."""
    return cache_folder() / 'onnx' / f'{weights_hash}-{source_digest(model)}'


def find_export(model: Path, weights_hash: str) -> Path | None:
    """Return the folder of an export of this very model in float32, if there is one."""
    source = source_digest(model)
    for folder in (model / 'onnx', export_folder(model, weights_hash)):
        if not is_export(folder):
            continue
        try:
            found = read_manifest(folder)
        except ExportError:
            continue
        if (found.weights_hash, found.source, found.precision) == (weights_hash, source, FLOAT):
            return folder
    return None


def onnx_backend(model: Path, weights_hash: str, device: torch.device, threads: int
                 ) -> OnnxBackend:
    """Return the backend of an export of these weights.

    :raises EngineError: if there is none, or it cannot be loaded.
    """
    try:
        import_onnxruntime()
    except ExportError as error:
        raise EngineError(f'backend onnx: {error}') from error
    folder = find_export(model, weights_hash)
    if folder is None:
        raise EngineError(f'backend onnx: found no export of the weights {weights_hash} in '
                          f'{model / "onnx"} or {export_folder(model, weights_hash)}; write one '
                          f'with `onellm export --model {model}`')
    return OnnxBackend(folder, device, threads)


def machine(device: torch.device) -> str:
    """Return what a measurement on this machine depends on: processor, cores, GPU."""
    gpu = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'no GPU'
    return f'{processor()}, {usable_cores()} cores, {gpu}'


def measure(backend: Backend, config: ModelConfig, repeats: int = 2) -> Seconds:
    """Return the shortest times of a window of five modalities with a question's answer.

    :raises EngineError, ValueError: if it cannot compute that window.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(input_shape(config, m), generator=generator).to(backend.device)
              for m in _WINDOW}

    def waited() -> float:
        if backend.device.type == 'cuda':
            torch.cuda.synchronize(backend.device)
        return time.perf_counter()

    best = [float('inf'), float('inf')]
    for turn in range(repeats + 1):
        started = waited()
        tokens, _ = backend.encode(inputs)
        encoded = waited()
        prefix = backend.prefill(tokens, 1)
        cache = prefix.copy(prefix.length + _QUESTION + _TOKENS)
        backend.step([2] * _QUESTION, cache)
        for _ in range(_TOKENS):
            backend.step([2], cache)
        done = waited()
        if turn:                            # the first one warms up
            best = [min(best[0], encoded - started), min(best[1], done - encoded)]
        elif done - started > 10:           # a model of this size is not measured over and over
            return Seconds(encoded - started, done - encoded)
    return Seconds(*best)


@torch.inference_mode()
def _in_turns(backends: dict[str, Backend], config: ModelConfig,
              measured: Callable[[Backend, ModelConfig], Seconds]) -> dict[str, Seconds]:
    """Return each one's shortest times of two rounds, so that a passing load harms none alone."""
    rounds = [{name: measured(backend, config) for name, backend in backends.items()}
              for _ in range(2)]
    return {name: Seconds(min(r[name].encode for r in rounds),
                          min(r[name].language for r in rounds)) for name in backends}


def decide(times: dict[str, Seconds]) -> str:
    """Return what is fastest: ``torch``, ``onnx``, or ``onnx + torch`` (encoder and language).

    :param times: of ``torch`` and ``onnx``.
    """
    torchs, onnx = times['torch'], times['onnx']
    totals = {'torch': torchs.total * _WORTH, 'onnx': onnx.total,
              'onnx + torch': onnx.encode + torchs.language}
    return min(totals, key=totals.__getitem__)


class _Known:
    """What was measured before, a small file a model and machine."""

    def __init__(self, key: dict[str, str]) -> None:
        self._key = key
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self._path = cache_folder() / 'backends' / f'{digest}.json'

    def read(self) -> dict[str, Seconds] | None:
        try:
            values = read_json(self._path)
            if values['key'] != self._key:
                return None
            return {n: Seconds(float(values[n]['encode']), float(values[n]['language']))
                    for n in ('torch', 'onnx')}
        except (CheckpointError, KeyError, TypeError, ValueError):
            return None

    def write(self, times: dict[str, Seconds]) -> None:
        values = {'key': self._key, **{n: vars(t) for n, t in times.items()}}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(values, indent=1).encode())
        except OSError:
            pass        # a read-only home: measured again at the next start


def _free_bytes(device: torch.device) -> float:
    """Return the memory that is left for a second copy of a model; infinite if unknown."""
    if device.type == 'cuda':
        return float(torch.cuda.mem_get_info(device)[0])
    free = host_free()
    return math.inf if free is None else float(free)


def _usable_export(model: Path, weights_hash: str, device: torch.device
                   ) -> tuple[Path | None, str]:
    """Return the export that may be measured; or None, and why ONNX Runtime takes no part."""
    if importlib.util.find_spec('onnxruntime') is None:
        return None, 'onnxruntime is not installed'
    folder = find_export(model, weights_hash)
    if folder is None:
        return None, 'no ONNX export of these weights (`onellm export` writes one)'
    if 2 * export_bytes(folder) > _free_bytes(device):
        return None, 'too little memory to measure ONNX Runtime beside it'
    return folder, ''


def choose(torch_one: TorchBackend, model: Path, weights_hash: str, threads: int = 0,
           measured: Callable[[Backend, ModelConfig], Seconds] = measure) -> Chosen:
    """Return the fastest backend of this machine, measured at the first time.

    Never fails and never says anything: where ONNX Runtime cannot be used, it is torch.

    :param torch_one: the model in torch, which is loaded already.
    :param model: its folder.
    :param threads: of each backend, as the engine has it.
    """
    config, device = torch_one.model.config, torch_one.device
    folder, reason = _usable_export(model, weights_hash, device)
    if folder is None:
        return Chosen(torch_one, reason)
    try:
        runtime = import_onnxruntime()
        known = _Known({
            'method': str(_METHOD), 'weights': weights_hash, 'machine': machine(device),
            'torch': str(torch.__version__), 'onnxruntime': str(runtime.__version__),
            'export': hashlib.sha256((folder / 'onnx.json').read_bytes()).hexdigest()[:12],
            'device': str(device), 'threads': str(threads),
            'dtype': str(torch_one.model.llm.tok_embeddings.weight.dtype)})
        times, how = known.read(), 'measured before'
        other: OnnxBackend | None = None
        if times is None:
            other = OnnxBackend(folder, device, threads)
            times = _in_turns({'torch': torch_one, 'onnx': other}, config, measured)
            known.write(times)
            how = 'measured now'
        winner = decide(times)
        why = f'{how}: ' + ', '.join(
            f'{n} {t.encode * 1e3:.0f} ms to encode and {t.language * 1e3:.0f} ms to answer'
            for n, t in times.items())
        if winner == 'torch':
            return Chosen(torch_one, why)
        whole = winner == 'onnx'
        if other is None or not whole:
            other = OnnxBackend(folder, device, threads, language=whole)
        return Chosen(other if whole else MixedBackend(other, torch_one), why)
    except (ExportError, EngineError, ValueError, OSError) as error:
        return Chosen(torch_one, f'ONNX Runtime cannot be used: {error}')
