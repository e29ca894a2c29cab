"""The backend that computes on ONNX Runtime, from the graphs that ``onellm export`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from onellm_ros.config import ModelConfig
from onellm_ros.export.layout import INT8, ExportError
from onellm_ros.export.runtime import Graphs, OnnxCache, import_onnxruntime
from onellm_ros.inference.backend import Backend, Cache, Shares
from onellm_ros.inference.locate import EngineError
from onellm_ros.modality import Modality, prompt_order


class OnnxBackend:
    """An exported model on ONNX Runtime; see :class:`onellm_ros.inference.backend.Backend`.

    Attributes: ``name`` (``onnx`` or ``onnx int8``), ``device``, ``config``, ``modalities``,
    ``detail`` (version, provider and threads, for diagnostics), ``graphs``.

    :param folder: what ``onellm export`` wrote.
    :param device: of inputs, cache and outputs.
    :param threads: of ONNX Runtime; 0: one for a small model on the CPU, else its own choice.
    :param tensorrt: folder for what TensorRT compiles; None: do without it.
    :param language: load the language model, too; without it only :meth:`encode` works.
    :raises EngineError: if it cannot be loaded; the text says what to do.
    """

    def __init__(self, folder: Path, device: torch.device | None = None, threads: int = 0,
                 tensorrt: Path | None = None, language: bool = True) -> None:
        try:
            self.graphs = Graphs(folder, device, threads, tensorrt, language)
        except ExportError as error:
            raise EngineError(str(error)) from error
        self.device: torch.device = self.graphs.device
        self.config: ModelConfig = self.graphs.config
        self.modalities = self.graphs.modalities
        self.name = 'onnx int8' if self.graphs.manifest.precision == INT8 else 'onnx'
        threads = self.graphs.threads
        self.detail = (f'onnxruntime {import_onnxruntime().__version__}, {self.graphs.provider}, '
                       f'{threads or "its own choice of"} thread{"" if threads == 1 else "s"}')
        self._tags = self.graphs.tags() if language else None

    def encode(self, inputs: Mapping[Modality, Tensor]) -> tuple[dict[Modality, Tensor], Shares]:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        tokens: dict[Modality, Tensor] = {}
        shares: Shares = {}
        for modality, (block, weights) in self.graphs.encode(inputs).items():
            tokens[modality] = block[:, 1:-1]
            shares[modality] = tuple(weights.tolist())
        return tokens, shares

    def prefix_positions(self, tokens: Mapping[Modality, Tensor]) -> int:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return 1 + sum(t.shape[1] + 2 for t in tokens.values())

    def prefill(self, tokens: Mapping[Modality, Tensor], bos: int) -> OnnxCache:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        assert self._tags is not None, 'loaded without the language model'
        parts: list[Tensor] = []
        for modality in prompt_order(tokens):
            start, end = (tags[self.modalities.index(modality), None] for tags in self._tags)
            parts += [start, tokens[modality], end]
        embeds = torch.cat(parts, 1) if parts else None
        cache = self.graphs.new_cache(self.prefix_positions(tokens))
        self.graphs.decode(torch.tensor([[bos]], device=self.device), embeds, cache)
        return cache

    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        assert isinstance(cache, OnnxCache)
        if len(ids) == 1:
            return self.graphs.step(ids[0], cache)
        return self.graphs.decode(torch.tensor([ids], device=self.device), None, cache)[0, -1]

    def continuations(self, table: Tensor, cache: Cache) -> Tensor:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        assert isinstance(cache, OnnxCache)
        return self.graphs.decode(table, None, cache, every=True, keep=False)


class MixedBackend:
    """Encodes on one backend and runs the language model of another.

    Attributes: ``name``, ``device``.

    :param encoder: what encodes. :param language: what does the rest; on the same device.
    """

    def __init__(self, encoder: Backend, language: Backend) -> None:
        self.encoder, self.language = encoder, language
        self.name = f'{encoder.name} + {language.name}'
        self.device: torch.device = language.device

    def encode(self, inputs: Mapping[Modality, Tensor]) -> tuple[dict[Modality, Tensor], Shares]:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return self.encoder.encode(inputs)

    def prefix_positions(self, tokens: Mapping[Modality, Tensor]) -> int:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return self.language.prefix_positions(tokens)

    def prefill(self, tokens: Mapping[Modality, Tensor], bos: int) -> Cache:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return self.language.prefill(tokens, bos)

    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return self.language.step(ids, cache)

    def continuations(self, table: Tensor, cache: Cache) -> Tensor:
        """See :class:`onellm_ros.inference.backend.Backend`."""
        return self.language.continuations(table, cache)
