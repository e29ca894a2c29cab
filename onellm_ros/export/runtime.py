"""Exported graphs at work: sessions of ONNX Runtime, fed with torch's memory and writing into it.

Nothing is copied on the way in or out, on the CPU and on CUDA alike: every input and output is
bound by its address. The key/value cache is torch's, stays on its device, and is only read by the
graph; what is new is written behind it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onellm_ros.export.layout import (
    DECODER,
    ENCODE,
    ExportError,
    check_input,
    graph_files,
    modalities_of,
    read_config,
    read_manifest,
    rows_graph,
)
from onellm_ros.modality import Modality, spec_of
from onellm_ros.model.modality_tokenizers import PICTURES, token_count
from onellm_ros.model.points import group

_KINDS = {torch.float32: np.float32, torch.int64: np.int64}
_BESIDE_IMAGE = (Modality.DEPTH, Modality.NORMAL)   # their first frame is the colour picture
SMALL_PARAMETERS = 100_000_000      # below it one thread is faster than waiting for a second


def import_onnxruntime() -> Any:
    """Return the package.

    :raises ExportError: if it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f'ONNX Runtime cannot be imported ({error}): install onnxruntime, or on a machine '
            'with CUDA onnxruntime-gpu, as requirements/onnx.txt pins it') from error
    return onnxruntime


def providers_for(device: torch.device, available: Sequence[str], tensorrt: Path | None = None
                  ) -> list[Any]:
    """Return the providers of a device in order of preference, as a session takes them.

    :param available: what this ONNX Runtime was built with.
    :param tensorrt: compile with TensorRT, keeping what it made in this folder; None: CUDA's own
        kernels. Compiling takes minutes the first time, so nobody gets it unasked.
    :raises ExportError: if ONNX Runtime cannot compute on that device.
    """
    if device.type == 'cpu':
        return ['CPUExecutionProvider']
    if 'CUDAExecutionProvider' not in available:
        raise ExportError(f'device {device}: found an ONNX Runtime with {", ".join(available)}; '
                          'expected CUDAExecutionProvider: install onnxruntime-gpu in place of '
                          'onnxruntime, or use device cpu')
    number = device.index or 0
    # Tensors' cores round float32 to 10 bits where they are let: then nothing is equal.
    chosen: list[Any] = [('CUDAExecutionProvider', {'device_id': number, 'use_tf32': 0}),
                         'CPUExecutionProvider']
    if tensorrt is not None:
        if 'TensorrtExecutionProvider' not in available:
            raise ExportError(f'TensorRT: found an ONNX Runtime with {", ".join(available)}; '
                              'expected TensorrtExecutionProvider')
        chosen.insert(0, ('TensorrtExecutionProvider', {
            'device_id': number, 'trt_engine_cache_enable': True,
            'trt_engine_cache_path': str(tensorrt)}))
    return chosen


def export_bytes(folder: Path) -> int:
    """Return the size of an export's files."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())


class OnnxCache:
    """Keys and values of a sequence, or of several of one length.

    :param buffer: [2 x layers, B, H, capacity, d], zeros where nothing is stored: the graph sees
        all of it, and hides what lies behind ``length``.
    """

    def __init__(self, buffer: Tensor, length: int = 0) -> None:
        self.buffer = buffer
        self.length = length
        self.step: Step | None = None       # what one more token takes, bound once

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.buffer.shape[3]

    def copy(self, capacity: int, batch: int | None = None) -> OnnxCache:
        """Return a new cache of ``capacity`` positions that starts with these.

        :param batch: repeat the one stored sequence so often; default: the same batch.
        """
        kinds, rows, heads, _, width = self.buffer.shape
        new = self.buffer.new_zeros(kinds, batch or rows, heads, capacity, width)
        new[:, :, :, :self.length] = self.buffer[:, :, :, :self.length]
        return OnnxCache(new, self.length)


class Bound:
    """One session's inputs and outputs, bound by address; may run again with what they then hold.

    :param outputs: tensors that the results are written into.
    """

    def __init__(self, session: Any, inputs: Mapping[str, Tensor],
                 outputs: Mapping[str, Tensor]) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._kept = (dict(inputs), dict(outputs))          # or their memory would be given away
        for bind, tensors in ((self._binding.bind_input, inputs),
                              (self._binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                # an empty tensor has no address, and a session takes none that is null
                address = tensor.data_ptr() or tensor.new_empty(1).data_ptr()
                bind(name, tensor.device.type, tensor.device.index or 0, _KINDS[tensor.dtype],
                     tuple(tensor.shape), address)
        first = next(iter(outputs.values()))
        self._cuda = first.device if first.device.type == 'cuda' else None

    def run(self) -> None:
        """Compute; the outputs are there when it returns."""
        if self._cuda is not None:          # torch's stream is not that of ONNX Runtime
            torch.cuda.current_stream(self._cuda).synchronize()
        self._session.run_with_iobinding(self._binding)
        if self._cuda is not None:
            self._binding.synchronize_outputs()


class Step:
    """One more token behind a cache of one sequence."""

    def __init__(self, graphs: Graphs, cache: OnnxCache) -> None:
        self.ids = torch.zeros(1, 1, dtype=torch.int64, device=graphs.device)
        self.lengths = torch.zeros(1, dtype=torch.int64, device=graphs.device)
        self.logits, self.new, self._bound = graphs.bind_decoder(
            self.ids, graphs.no_embeds, self.lengths, graphs.first, cache)

    def run(self, token: int, cache: OnnxCache) -> Tensor:
        """Return the logits [vocab] of a token; the cache grows."""
        self.ids.fill_(token)
        self.lengths.fill_(cache.length)
        self._bound.run()
        cache.buffer[:, :, :, cache.length:cache.length + 1] = self.new
        cache.length += 1
        return self.logits[0, 0].clone()


class Graphs:
    """An exported model, ready to run. Not for two threads at once.

    Attributes: ``manifest``, ``config``, ``modalities``, ``device``, ``provider`` (of ONNX
    Runtime), ``threads``.

    :param device: of inputs, cache and outputs.
    :param threads: of each session; 0: one for a small model on the CPU, else ONNX Runtime's
        own choice.
    :param tensorrt: see :func:`providers_for`.
    :param language: load the language model, too; without it only :meth:`encode` works.
    :raises ExportError: if it cannot be loaded; the text says what to do.
    """

    def __init__(self, folder: Path, device: torch.device | None = None, threads: int = 0,
                 tensorrt: Path | None = None, language: bool = True) -> None:
        runtime = import_onnxruntime()
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.config = read_config(folder)
        self.modalities = modalities_of(self.config)
        self.device = device or torch.device('cpu')
        if self.manifest.modalities != tuple(m.value for m in self.modalities):
            raise ExportError(f'{folder}: found modalities {", ".join(self.manifest.modalities)} '
                              f'in the manifest, expected {", ".join(self.modalities)}; export '
                              'the model again')
        providers = providers_for(self.device, runtime.get_available_providers(), tensorrt)
        files = [f for f in graph_files(self.modalities)
                 if not any(rows_graph(Modality(m)) == f for m in self.manifest.missing)]
        small = self.device.type == 'cpu' and export_bytes(folder) < 4 * SMALL_PARAMETERS
        files = files if language else files[:-1]
        self.threads = threads or (1 if small else 0)
        self._sessions = {f: self._session(runtime, folder / f, providers) for f in files}
        self.provider = str(self._sessions[ENCODE].get_providers()[0])
        llm = self.config.llm
        self._past = [f'past_{kind}_{i}' for i in range(llm.layers) for kind in ('key', 'value')]
        self._cache_shape = (2 * llm.layers, llm.kv_heads or llm.heads, llm.head_size)
        self.no_embeds = torch.zeros(1, 0, llm.dim, device=self.device)
        self.no_ids = torch.zeros(1, 0, dtype=torch.int64, device=self.device)
        self.first = torch.zeros(1, dtype=torch.int64, device=self.device)

    def _session(self, runtime: Any, path: Path, providers: list[Any]) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3          # it warns of what it does not run on the GPU
        try:
            return runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:              # ONNX Runtime's own kinds share no base
            text = str(error).partition('\n')[0]
            raise ExportError(f'{path}: ONNX Runtime {runtime.__version__} cannot load it: '
                              f'{text}; export the model again') from error

    # -- before the language model -----------------------------------------------------------

    def _rows(self, modality: Modality, inputs: dict[str, Tensor]) -> Tensor:
        """Run the graph that makes rows [R, N + 1, D]."""
        encoder = self.config.encoder
        spec = spec_of(modality)
        if modality in PICTURES:
            tokens = (encoder.image_size // encoder.patch_size) ** 2
        else:
            tokens = spec.tokens if spec else token_count(self.config.tokenizer, modality)
        count = next(iter(inputs.values())).shape[0]
        out = torch.empty(count, tokens + 1, encoder.width, device=self.device)
        Bound(self._sessions[rows_graph(modality)], inputs, {'rows': out}).run()
        return out

    def _encode(self, rows: Tensor, mix: list[list[float]], modalities: Sequence[Modality]
                ) -> tuple[Tensor, Tensor]:
        """Return blocks [B, M + 2, llm_dim] and expert weights [B, K]."""
        config, count = self.config, len(modalities)
        blocks = torch.empty(count, config.upm.modality_tokens + 2, config.llm.dim,
                             device=self.device)
        weights = torch.empty(count, config.upm.experts, device=self.device)
        index = torch.tensor([self.modalities.index(m) for m in modalities], device=self.device)
        Bound(self._sessions[ENCODE],
              {'rows': rows, 'mix': torch.tensor(mix, device=self.device), 'modality': index},
              {'blocks': blocks, 'weights': weights}).run()
        return blocks, weights

    def tags(self) -> tuple[Tensor, Tensor]:
        """Return start and end tags [K, 1, llm_dim] of the modalities that it knows, in order.

        They stand in every block; here in those of nothing.
        """
        count = len(self.modalities)
        rows = torch.zeros(1, 2, self.config.encoder.width, device=self.device)
        blocks, _ = self._encode(rows, [[1.0]] * count, self.modalities)
        return blocks[:, :1].clone(), blocks[:, -1:].clone()

    def _marks(self, modality: Modality, frames: int) -> list[int]:
        """Return the index of each frame's position; 0: none."""
        tok = self.config.tokenizer
        if modality is not Modality.VIDEO or not tok.video_positions:
            return [0] * frames
        return list(range(tok.video_frames - frames + 1, tok.video_frames + 1))

    def encode(self, inputs: Mapping[Modality, Tensor]
               ) -> dict[Modality, tuple[Tensor, Tensor]]:
        """Return of each modality its block [1, M + 2, llm_dim] and expert weights [K].

        All pictures go through the encoder as one batch, and the colour picture that stands
        beside depth and normals once if it is the image.

        :param inputs: of one sample each, on the device.
        :raises ValueError: for a shape that does not fit, or a modality that has no graph.
        """
        ready: dict[Modality, Tensor] = {}
        for modality, x in inputs.items():
            if modality not in self.modalities:
                raise ValueError(f'{modality}: the model does not know it, expected one of '
                                 f'{", ".join(self.modalities)}')
            if modality.value in self.manifest.missing:
                raise ValueError(f'{modality}: it could not be exported: '
                                 f'{self.manifest.missing[modality.value]}; use backend torch')
            check_input(self.config, modality, tuple(x.shape))
            ready[modality] = x.float().contiguous()
        found = self._pictures({m: x for m, x in ready.items() if m in PICTURES})
        for modality, x in ready.items():
            if modality in PICTURES:
                continue
            feed = {'x': x}
            if modality is Modality.POINT:
                tok = self.config.tokenizer
                first = tok.point_grouping_channel
                feed['members'] = group(x[..., first:first + 3].contiguous(), tok.point_centres,
                                        tok.point_neighbours).contiguous()
            blocks, weights = self._encode(self._rows(modality, feed), [[1.0]], [modality])
            found[modality] = blocks, weights[0]
        return {m: found[m] for m in inputs}

    def _pictures(self, inputs: Mapping[Modality, Tensor]
                  ) -> dict[Modality, tuple[Tensor, Tensor]]:
        """Encode all pictures of a window in one run."""
        if not inputs:
            return {}
        image = inputs.get(Modality.IMAGE)
        frames: list[Tensor] = []
        marks: list[int] = []
        shares: list[list[int]] = []            # rows of each modality
        for modality, x in inputs.items():
            x = x if modality is Modality.IMAGE else x[0]
            rows = []
            if modality in _BESIDE_IMAGE and image is not None and x.shape[0] == 2 \
                    and torch.equal(x[:1], image):
                rows, x = shares[list(inputs).index(Modality.IMAGE)].copy(), x[1:]
            rows += range(len(marks), len(marks) + x.shape[0])
            frames.append(x)
            marks += self._marks(modality, x.shape[0])
            shares.append(rows)
        mix = [[1 / len(rows) if i in rows else 0.0 for i in range(len(marks))]
               for rows in shares]
        rows_of = self._rows(Modality.IMAGE, {
            'pictures': torch.cat(frames), 'marks': torch.tensor(marks, device=self.device)})
        blocks, weights = self._encode(rows_of, mix, list(inputs))
        return {m: (blocks[i:i + 1], weights[i]) for i, m in enumerate(inputs)}

    # -- the language model ------------------------------------------------------------------

    def new_cache(self, capacity: int, batch: int = 1) -> OnnxCache:
        """Return an empty cache."""
        kinds, heads, width = self._cache_shape
        return OnnxCache(torch.zeros(kinds, batch, heads, capacity, width, device=self.device))

    def bind_decoder(self, ids: Tensor, embeds: Tensor, lengths: Tensor, at: Tensor,
                     cache: OnnxCache) -> tuple[Tensor, Tensor, Bound]:
        """Return the tensors that logits and new keys and values go to, and what makes them."""
        kinds, heads, width = self._cache_shape
        batch, length = ids.shape[0], ids.shape[1] + embeds.shape[1]
        logits = torch.empty(batch, at.shape[0], self.config.llm.vocab_size, device=self.device)
        new = torch.empty(kinds, batch, heads, length, width, device=self.device)
        past = dict(zip(self._past, cache.buffer.unbind(0), strict=True))
        feed = {'ids': ids, 'embeds': embeds, 'lengths': lengths, 'at': at, **past}
        return logits, new, Bound(self._sessions[DECODER], feed, {'logits': logits, 'new': new})

    def step(self, token: int, cache: OnnxCache) -> Tensor:
        """Run one token behind a cache of one sequence, which grows; return logits [vocab].

        :raises ValueError: if the cache is too short.
        """
        self._room(cache, 1)
        if cache.step is None:
            cache.step = Step(self, cache)
        return cache.step.run(token, cache)

    def decode(self, ids: Tensor, embeds: Tensor | None, cache: OnnxCache, *,
               every: bool = False, keep: bool = True) -> Tensor:
        """Run ids [B, I], then embeddings [B, E, D], behind a cache.

        :param every: logits of all positions; else of the last.
        :param keep: the cache grows; else it stays as it is, and one sequence serves all of B.
        :returns: logits [B, I + E or 1, vocab].
        :raises ValueError: if the cache is too short.
        """
        embeds = self.no_embeds.expand(ids.shape[0], 0, -1) if embeds is None else embeds
        length = ids.shape[1] + embeds.shape[1]
        if keep:
            self._room(cache, length)
        at = torch.arange(0 if every else length - 1, length, device=self.device)
        lengths = torch.full((ids.shape[0],), cache.length, device=self.device)
        logits, new, bound = self.bind_decoder(ids.contiguous(), embeds.contiguous(), lengths, at,
                                               cache)
        bound.run()
        if keep:
            end = cache.length + length
            cache.buffer[:, :, :, cache.length:end] = new
            cache.length = end
        return logits

    @staticmethod
    def _room(cache: OnnxCache, length: int) -> None:
        if cache.length + length > cache.capacity:
            raise ValueError(f'key/value cache: expected room for {cache.length + length} '
                             f'positions, found {cache.capacity}')
