"""Writing a model as ONNX graphs, and comparing what they compute with torch before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
import json
import logging
import os
from pathlib import Path
import shutil
import time
from typing import Any
import warnings

import torch
from torch import Tensor, nn

from onellm_ros.config import to_mapping
from onellm_ros.export.decoder import Decoder
from onellm_ros.export.encoder import CloudRows, Encode, PictureRows, SignalRows
from onellm_ros.export.layout import (
    DECODER,
    ENCODE,
    INT8,
    PICTURE,
    TOKENIZER_FILES,
    ExportError,
    Manifest,
    input_shape,
    is_export,
    rows_graph,
    source_digest,
)
from onellm_ros.export.runtime import Graphs
from onellm_ros.modality import Modality, spec_of
from onellm_ros.model.files import write_atomically
from onellm_ros.model.modality_tokenizers import PICTURES
from onellm_ros.model.onellm import OneLLM

OPSET = 17
OPSETS = range(17, 21)
TOLERANCE = 1e-4
_LARGE = 1_800_000_000          # bytes of weights; a file of ONNX itself ends at 2 GB
_SEED = 20240101
Told = Callable[[str], None]


def packages() -> dict[str, str]:
    """Return the versions of what an export is made and checked with.

    :raises ExportError: if one is missing.
    """
    found = {}
    for name in ('torch', 'onnx'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise ExportError(f'an export needs the package {name}: install what '
                              'requirements/onnx.txt names') from None
    from onellm_ros.export.runtime import import_onnxruntime
    found['onnxruntime'] = str(import_onnxruntime().__version__)
    return found


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder that takes the place of ``target`` when all went well, and else vanishes.

    :raises ExportError: if something stands there that is no export.
    """
    if target.exists() and not is_export(target) and (
            not target.is_dir() or any(target.iterdir())):
        raise ExportError(f'{target}: found something else there; expected an empty or a new '
                          'folder, or an older export, which is replaced')
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}')
    temporary.mkdir()
    try:
        yield temporary
        old = target.with_name(f'.{target.name}.{os.getpid()}.old')
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(module: nn.Module, path: Path, feed: dict[str, Any], outputs: dict[str, dict[int, str]],
          dynamic: dict[str, dict[int, str]], opset: int) -> None:
    """Trace a module and write its graph; large weights go into one file beside it."""
    names = [n for key, value in feed.items() for n in (
        [f'past_{kind}_{i}' for i in range(len(value) // 2) for kind in ('key', 'value')]
        if key == 'past' else [key])]
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    place = path
    if size > _LARGE:
        place = path.with_suffix('.parts') / path.name
        place.parent.mkdir()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')     # of branches on the config, which tracing follows
        torch.onnx.export(
            module.eval(), tuple(feed.values()), str(place), dynamo=False, opset_version=opset,
            input_names=names, output_names=list(outputs), dynamic_axes={**dynamic, **outputs})
    if place != path:
        import onnx
        onnx.save_model(onnx.load(str(place)), str(path), save_as_external_data=True,
                        all_tensors_to_one_file=True, location=f'{path.name}.data',
                        size_threshold=1024)
        shutil.rmtree(place.parent)


def _write_rows(model: OneLLM, folder: Path, opset: int) -> dict[str, str]:
    """Write the small graphs; return why registered modalities have none."""
    missing = {}
    config = model.config
    size = config.encoder.image_size
    out = {'rows': {0: 'rows'}}
    _save(PictureRows(model), folder / PICTURE,
          {'pictures': torch.randn(2, 3, size, size), 'marks': torch.tensor([0, 0])}, out,
          {'pictures': {0: 'rows'}, 'marks': {0: 'rows'}}, opset)
    for modality in model.modalities:
        if modality in PICTURES:
            continue
        x = torch.randn(2, *input_shape(config, modality)[1:])
        feed, dynamic = {'x': x}, {'x': {0: 'rows'}}
        module: nn.Module = SignalRows(model, modality)
        if modality is Modality.POINT:
            tok = config.tokenizer
            module = CloudRows(model)
            feed['members'] = torch.randint(0, tok.points, (
                2, tok.point_centres, tok.point_neighbours))
            dynamic = {'x': {0: 'rows', 1: 'points'}, 'members': {0: 'rows'}}
        try:
            _save(module, folder / rows_graph(modality), feed, out, dynamic, opset)
        except Exception as error:          # whatever a tokenizer of somebody else's runs into
            if spec_of(modality) is None:
                raise
            missing[modality.value] = str(error).strip().partition('\n')[0]
            (folder / rows_graph(modality)).unlink(missing_ok=True)
    return missing


def _write_large(model: OneLLM, folder: Path, opset: int) -> None:
    """Write encoder with projection, and the language model."""
    width, llm = model.config.encoder.width, model.config.llm
    _save(Encode(model), folder / ENCODE,
          {'rows': torch.randn(3, 5, width), 'mix': torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]),
           'modality': torch.tensor([0, 1])},
          {'blocks': {0: 'samples'}, 'weights': {0: 'samples'}},
          {'rows': {0: 'rows', 1: 'tokens'}, 'mix': {0: 'samples', 1: 'rows'},
           'modality': {0: 'samples'}}, opset)
    heads = llm.kv_heads or llm.heads
    past = [torch.randn(2, heads, 7, llm.head_size) for _ in range(2 * llm.layers)]
    axes = {f'past_{kind}_{i}': {0: 'stored', 2: 'slots'}
            for i in range(llm.layers) for kind in ('key', 'value')}
    _save(Decoder(model.llm), folder / DECODER,
          {'ids': torch.ones(2, 3, dtype=torch.int64), 'embeds': torch.randn(2, 2, llm.dim),
           'lengths': torch.tensor([4, 6]), 'at': torch.tensor([3, 4]), 'past': past},
          {'logits': {0: 'batch', 1: 'wanted'}, 'new': {1: 'batch', 3: 'length'}},
          {'ids': {0: 'batch', 1: 'ids'}, 'embeds': {0: 'batch', 1: 'embeds'},
           'lengths': {0: 'batch'}, 'at': {0: 'wanted'}, **axes}, opset)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files to where ``Text.load`` finds them."""
    for part in ('', 'llm'):            # beside a language model of its own stands its config, too
        for name in (*TOKENIZER_FILES, *(['config.json'] if part else [])):
            if (source / part / name).is_file():
                (folder / part).mkdir(exist_ok=True)
                shutil.copyfile(source / part / name, folder / part / name)


def _apart(ours: Tensor, torchs: Tensor) -> float:
    """Return the largest difference, of values up to one absolute, of larger ones relative."""
    if not bool(torch.isfinite(ours).all()):
        return float('inf')
    return float((ours - torchs).abs().max() / torchs.abs().max().clamp(min=1))


@torch.inference_mode()
def compare(model: OneLLM, graphs: Graphs) -> dict[str, float]:
    """Return how far the graphs' outputs are from torch's on random inputs, see ``_apart``.

    Every modality alone and all together, several lengths and batches.
    """
    generator = torch.Generator().manual_seed(_SEED)
    inputs = {m: torch.randn(input_shape(model.config, m), generator=generator)
              for m in model.modalities if m.value not in graphs.manifest.missing}
    for modality in (Modality.DEPTH, Modality.NORMAL):      # as the preprocessor makes them
        inputs[modality][:, 0] = inputs[Modality.IMAGE]
    inputs[Modality.POINT] = inputs[Modality.POINT].abs()
    out: dict[str, float] = {}
    together = graphs.encode(inputs)
    tokens = {}
    for modality, x in inputs.items():
        tokens[modality], weights = model.project(modality, model.features(modality, x))
        block = model.block_embeds(modality, tokens[modality])
        out[modality.value] = max(
            _apart(a, b) for found in (together[modality], graphs.encode({modality: x})[modality])
            for a, b in ((found[0], block), (found[1], weights[0])))
    llm, vocab = model.llm, model.config.llm.vocab_size
    # as long a beginning as still leaves room, and a short one
    room = model.config.llm.max_positions - 12
    embeds = model.prefix_embeds(tokens)[:, 1:room]
    bos = torch.ones(1, 1, dtype=torch.int64)
    words = torch.randint(0, vocab, (3, 5), generator=generator)
    logits, caches = [], []
    for part in (embeds, embeds[:, :0]):
        ours, theirs = graphs.new_cache(part.shape[1] + 10), llm.new_cache(1, part.shape[1] + 10)
        logits.append((graphs.decode(bos, part, ours),
                       llm(torch.cat([llm.embed(bos), part], 1), cache=theirs, last_only=True)))
        rows = theirs.copy(theirs.length + 5, 3)
        logits.append((graphs.decode(words, None, ours, every=True, keep=False),
                       llm(llm.embed(words), cache=rows)))
        logits.append((graphs.decode(words[:1, :3], None, ours),
                       llm(llm.embed(words[:1, :3]), cache=theirs, last_only=True)))
        for token in words[1].tolist():
            logits.append((graphs.step(token, ours)[None, None],
                           llm(llm.embed(torch.tensor([[token]])), cache=theirs)))
        caches.append((ours, theirs))
    out[DECODER.removesuffix('.onnx')] = max(_apart(a, b) for a, b in logits)
    return out


def export_model(model: OneLLM, target: Path, *, weights_hash: str, source: Path,
                 opset: int = OPSET, told: Told = lambda text: None) -> Manifest:
    """Write a model as ONNX graphs.

    :param model: in float32 on the CPU.
    :param target: folder to write; one that holds an older export is replaced.
    :param source: the model's folder, for the tokenizer's files.
    :param told: called with what has been done.
    :raises ExportError: if it cannot be exported, or computes something else than torch by more
        than ``TOLERANCE``; then nothing is left behind.
    """
    made_with = packages()
    if opset not in OPSETS:
        raise ExportError(f'opset: expected {OPSETS[0]} to {OPSETS[-1]}, found {opset}')
    weight = model.llm.tok_embeddings.weight
    if weight.dtype != torch.float32 or weight.device.type != 'cpu':
        raise ExportError(f'expected a model in float32 on the CPU, found {weight.dtype} on '
                          f'{weight.device}')
    with new_folder(target) as folder, torch.no_grad():
        started = time.perf_counter()
        missing = _write_rows(model, folder, opset)
        _write_large(model, folder, opset)
        _copy_tokenizer(source, folder)
        config = json.dumps(to_mapping(model.config), indent=1) + '\n'
        write_atomically(folder / 'config.json', config.encode())
        manifest = Manifest(model.config.name, weights_hash, opset,
                            tuple(m.value for m in model.modalities), source=source_digest(source),
                            missing=missing, made_with=made_with)
        manifest.write(folder)
        told(f'written in {time.perf_counter() - started:.1f} s')
        differences = compare(model, Graphs(folder))
        wrong = {n: d for n, d in differences.items() if not d <= TOLERANCE}
        if wrong:
            text = ', '.join(f'{n} {d:.2g}' for n, d in wrong.items())
            raise ExportError(f'the outputs of ONNX Runtime differ from those of torch: {text}; '
                              f'expected {TOLERANCE:g} at most; nothing was written')
        manifest = replace(manifest, differences=differences)
        manifest.write(folder)
        told(f'ONNX Runtime and torch differ by {max(differences.values()):.1e} at most '
             f'({TOLERANCE:g} allowed)')
    return manifest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back that the quantizer advises a step which these graphs do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantize(source: Path, target: Path, manifest: Manifest) -> Manifest:
    """Write an int8 form of an export: linear layers' weights a channel, inputs as they come.

    :param manifest: of ``source``.
    :returns: the manifest without ``agreement``, which must be measured.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    new = replace(manifest, precision=INT8, differences={})
    with new_folder(target) as folder:
        for path in sorted(source.iterdir()):
            if path.name in (ENCODE, DECODER):
                large = (source / f'{path.name}.data').is_file()
                with _quiet():
                    quantize_dynamic(
                        path if large else onnx.load(str(path)), folder / path.name,
                        op_types_to_quantize=['MatMul'], per_channel=True,
                        weight_type=QuantType.QInt8, use_external_data_format=large)
            elif path.name == 'llm':
                shutil.copytree(path, folder / path.name)
            elif path.is_file() and path.name.removesuffix('.data') not in (ENCODE, DECODER):
                shutil.copyfile(path, folder / path.name)
        new.write(folder)
    return new
