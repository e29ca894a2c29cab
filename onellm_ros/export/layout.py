"""An exported model on disk: its files, its manifest, and what its graphs take.

Beside the graphs stand the model's ``config.json`` and its tokenizer. ``onnx.json``, written last,
says which weights the graphs were made of, and how far they were from torch when they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
import hashlib
import json
from pathlib import Path
from typing import Any

from onellm_ros.config import ConfigError, ModelConfig, from_mapping
from onellm_ros.modality import Modality, spec_of
from onellm_ros.model.files import CheckpointError, read_json, write_atomically
from onellm_ros.model.modality_tokenizers import PICTURES, extra_modalities, steps, token_count

MANIFEST = 'onnx.json'
FORMAT = 1
ENCODE, DECODER, PICTURE = 'encode.onnx', 'decoder.onnx', 'rows_picture.onnx'
FLOAT, INT8 = 'float32', 'int8'
# Files that a tokenizer may consist of, taken along with a model.
TOKENIZER_FILES = ('tokenizer.json', 'tokenizer.model', 'tokenizer_config.json',
                   'special_tokens_map.json', 'generation_config.json')


class ExportError(RuntimeError):
    """A model that cannot be exported, or an export that cannot be used; says what to do."""


@dataclass(frozen=True)
class Manifest:
    """What onnx.json holds.

    :param weights_hash: ``model.checkpoint.weights_hash`` of the weights that were exported.
    :param source: ``source_digest`` of the model's folder.
    :param precision: ``float32`` or ``int8`` (weights of linear layers).
    :param modalities: all that the model knows, in the order of the graphs' ``modality``.
    :param missing: modality -> why it has no graph.
    :param differences: graph -> largest absolute difference of its outputs from torch's.
    :param agreement: int8: ``tokens`` (share of greedy tokens equal to float32's, each after the
        same beginning), ``answers`` (share of whole answers that are equal), ``prompts``.
    :param made_with: versions of torch, onnx and onnxruntime.
    """

    name: str
    weights_hash: str
    opset: int
    modalities: tuple[str, ...]
    source: str = ''
    precision: str = FLOAT
    missing: dict[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a folder; from then on the folder is an exported model."""
        text = json.dumps({'format': FORMAT, **asdict(self)}, indent=1) + '\n'
        write_atomically(folder / MANIFEST, text.encode())


def source_digest(model: Path) -> str:
    """Return 12 hex digits of what a model's folder says beside its weights: config, tokenizer.

    An export carries copies of these, so that it is stale when they change.
    """
    digest = hashlib.sha256()
    for folder in (model, model / 'llm'):
        for name in ('config.json', 'params.json', *TOKENIZER_FILES):
            if (folder / name).is_file():
                digest.update(f'{folder.name if folder != model else ""}/{name}\n'.encode())
                digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]


def is_export(folder: Path) -> bool:
    """Say whether a folder holds an exported model."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    :raises ExportError: if there is none, or it is of another format.
    """
    path = folder / MANIFEST
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise ExportError(f'{error}; expected a folder that `onellm export` wrote') from error
    if values.pop('format', None) != FORMAT or set(values) - {f.name for f in fields(Manifest)}:
        raise ExportError(f'{path}: expected format {FORMAT}; export the model again with '
                          '`onellm export`')
    try:
        values['modalities'] = tuple(values['modalities'])
        return Manifest(**values)
    except (KeyError, TypeError) as error:
        raise ExportError(f'{path}: {error}; export the model again') from error


def read_config(folder: Path) -> ModelConfig:
    """Read the model's config beside the graphs.

    :raises ExportError: if it cannot be used.
    """
    try:
        return from_mapping(ModelConfig, read_json(folder / 'config.json'))
    except (CheckpointError, ConfigError) as error:
        raise ExportError(f'{folder}: {error}') from error


def modalities_of(config: ModelConfig) -> tuple[Modality, ...]:
    """Return the modalities that a model knows, as ``OneLLM.modalities``.

    :raises ExportError: for one that is not registered.
    """
    try:
        return (*Modality, *extra_modalities(config.modalities))
    except ConfigError as error:
        raise ExportError(str(error)) from error


def rows_graph(modality: Modality) -> str:
    """Return the file of the graph that makes rows of a modality's inputs."""
    return PICTURE if modality in PICTURES else f'rows_{modality}.onnx'


def graph_files(modalities: tuple[Modality, ...]) -> Iterator[str]:
    """Yield the files of all graphs, the large ones last."""
    yield from dict.fromkeys(rows_graph(m) for m in modalities)
    yield ENCODE
    yield DECODER


def input_shape(config: ModelConfig, modality: Modality) -> tuple[int, ...]:
    """Return the shape of an input of one sample as the preprocessor makes it, [1, ...]."""
    tok, size = config.tokenizer, config.encoder.image_size
    spec = spec_of(modality)
    if spec is not None:
        return (1, *spec.shape)
    frames = {Modality.VIDEO: tok.video_frames, Modality.DEPTH: 2, Modality.NORMAL: 2}
    shapes: Mapping[Modality, tuple[int, ...]] = {
        Modality.IMAGE: (1, 3, size, size), Modality.POINT: (1, tok.points, 6),
        Modality.AUDIO: (1, 1, tok.audio_mels, tok.audio_frames),
        Modality.IMU: (1, 6, tok.imu_samples), Modality.FMRI: (1, 1, tok.fmri_voxels)}
    return shapes.get(modality) or (1, frames[modality], 3, size, size)


def check_input(config: ModelConfig, modality: Modality, shape: tuple[int, ...]) -> None:
    """Refuse what the model would: an input of a shape that cannot be this modality's.

    :raises ValueError: saying what was found and expected.
    """
    usual = input_shape(config, modality)
    loose = {Modality.VIDEO: (1,), Modality.DEPTH: (1,), Modality.NORMAL: (1,),
             Modality.POINT: (1,), Modality.AUDIO: (2, 3), Modality.IMU: (2,)}.get(modality, ())
    want: list[Any] = [None if i in (0, *loose) else w for i, w in enumerate(usual)]
    if len(shape) != len(want) or 0 in shape or any(
            w is not None and w != f for w, f in zip(want, shape, strict=True)):
        text = ', '.join('any' if w is None else str(w) for w in want)
        raise ValueError(f'{modality}: expected an input of shape [{text}], found {list(shape)}')
    tok = config.tokenizer
    if modality is Modality.VIDEO and tok.video_positions and shape[1] > tok.video_frames:
        raise ValueError(f'video: expected at most {tok.video_frames} frames, found {shape[1]}')
    if modality is Modality.POINT and shape[1] < tok.point_neighbours:
        raise ValueError(f'point: expected at least {tok.point_neighbours} points, found '
                         f'{shape[1]}')
    if modality is Modality.AUDIO:
        found = (max(steps(shape[2], tok.audio_kernel, tok.audio_stride), 0)
                 * max(steps(shape[3], tok.audio_kernel, tok.audio_stride), 0))
    elif modality is Modality.IMU:
        found = max(steps(shape[2], tok.imu_kernel, tok.imu_stride), 0)
    else:
        return
    if found != (expected := token_count(tok, modality)):
        raise ValueError(f'{modality}: expected an input of {expected} tokens, found {found} '
                         f'(input shape {list(shape)})')
