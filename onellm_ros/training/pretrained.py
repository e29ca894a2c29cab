"""What a run begins with: parts of other models and runs, and fresh ones for the rest.

A directory may be a model (own or released layout), the folder of a training run, a language model
in Hugging Face layout, or a CLIP in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from onellm_ros.config import ConfigError, ModelConfig, from_mapping
from onellm_ros.model.checkpoint import load_model
from onellm_ros.model.encoder import Encoder
from onellm_ros.model.files import CheckpointError, read_json
from onellm_ros.model.hf_llm import read_hf_llm
from onellm_ros.model.llm import Llama
from onellm_ros.model.modality_tokenizers import ModalityTokenizers
from onellm_ros.model.onellm import PARTS, OneLLM
from onellm_ros.model.projection import UniversalProjection
from onellm_ros.training.checkpoint import STATE, misfit, read_values
from onellm_ros.training.clip import TYPES, read_clip
from onellm_ros.training.errors import TrainingError

# Which of the heads were trained with which part.
_HEADS = {'encoder': ('dense.', 'pooled.', 'cloud.', 'way.'), 'llm': ('scene.',),
          'upm': ('slots.',)}
TOKENIZER_FILES = ('tokenizer.json', 'tokenizer.model', 'tokenizer_config.json',
                   'special_tokens_map.json', 'generation_config.json')


@dataclass
class Found:
    """What a directory offers.

    :param config: with the sizes of its parts; of others it says nothing.
    :param parts: tensors of each part. :param heads: of a run's heads.
    """

    config: ModelConfig
    parts: dict[str, dict[str, Tensor]]
    heads: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Init:
    """One ``--init``: a directory and which parts are taken from it, none for all."""

    folder: Path
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Init:
        """Read ``DIR`` or ``PART,PART=DIR``.

        :raises TrainingError: for an unknown part.
        """
        names, equals, folder = text.partition('=')
        if not equals:
            return cls(Path(text))
        parts = tuple(name.strip() for name in names.split(','))
        unknown = [name for name in parts if name not in PARTS]
        if unknown:
            raise TrainingError(f'--init {text}: unknown part {unknown[0]!r}, expected some of '
                                f'{", ".join(PARTS)}')
        return cls(Path(folder), parts)


def _by_part(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    out: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition('.')
        out.setdefault(part, {})[rest] = value
    return out


def _of_run(folder: Path, like: ModelConfig) -> Found:
    """Return what a training run holds.

    :raises TrainingError: in the midst of a stage with adapters.
    """
    values = read_values(folder / STATE)
    if values.get('lora'):
        raise TrainingError(f'{folder}: a run in the midst of a stage with adapters; let it end, '
                            'or export its model first')
    parts = _by_part(values['model'])
    if 'config' in values:
        config = from_mapping(ModelConfig, values['config'])
    else:                                               # of the first version: sizes as preset
        vocabulary = len(parts['llm']['tok_embeddings.weight'])
        experts = {name.split('.')[1] for name in parts['upm'] if name.startswith('experts.')}
        config = replace(like, llm=replace(like.llm, vocab_size=vocabulary),
                         upm=replace(like.upm, experts=len(experts)))
    return Found(config, parts, dict(values['heads']))


def look_into(folder: Path, like: ModelConfig) -> Found:
    """Return what a directory offers.

    :param like: the preset's sizes, for what the directory says nothing of.
    :raises TrainingError: if nothing in it can be begun with.
    """
    try:
        if (folder / STATE).is_file():
            return _of_run(folder, like)
        values: dict[str, Any] = {}
        if (folder / 'config.json').is_file():
            values = read_json(folder / 'config.json')
        kind = values.get('model_type')
        if kind in TYPES:
            encoder, tensors = read_clip(folder)
            return Found(replace(like, encoder=encoder), {'encoder': tensors})
        if kind:
            llm, tensors = read_hf_llm(folder)
            return Found(replace(like, llm=llm), {'llm': tensors})
        model = load_model(folder)
        return Found(model.config, _by_part(dict(model.state_dict())))
    except (CheckpointError, ConfigError) as error:
        raise TrainingError(f'--init: {error}') from error


def fresh_part(name: str, config: ModelConfig) -> nn.Module:
    """Return a part with initial values."""
    width = config.encoder.width
    if name == 'encoder':
        return Encoder(config.encoder)
    if name == 'tokenizers':
        return ModalityTokenizers(config.tokenizer, width)
    return UniversalProjection(config.upm, width, config.llm.dim) if name == 'upm' \
        else Llama(config.llm)


def _taken(part: str, config: ModelConfig, other: ModelConfig) -> ModelConfig:
    """Return the sizes with those of one part from another model."""
    if part == 'encoder':
        return replace(config, encoder=other.encoder)
    if part == 'tokenizers':
        return replace(config, tokenizer=other.tokenizer)
    if part == 'upm':
        return replace(config, upm=other.upm)
    return replace(config, llm=other.llm, text=other.text)


class Beginning:
    """The parts that a run begins with; they are looked at before anything large is made.

    :param config: sizes of the preset. :param inits: directories, later ones before earlier.
    :raises TrainingError: for a directory that cannot be used, or lacks a part that it is to give.
    """

    def __init__(self, config: ModelConfig, inits: Sequence[Init]):
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.heads: dict[str, Tensor] = {}
        self.text_folder: Path | None = None
        for init in inits:
            found = look_into(init.folder, config)
            lacking = [part for part in init.parts if part not in found.parts]
            if lacking:
                raise TrainingError(f'--init {init.folder}: found {", ".join(found.parts)}, '
                                    f'expected {lacking[0]}, too')
            for part in init.parts or found.parts:
                self.parts[part] = found.parts[part]
                config = _taken(part, config, found.config)
                self.heads.update({name: value for name, value in found.heads.items()
                                   if name.startswith(_HEADS.get(part, ()))})
                if part == 'llm':
                    self.text_folder = init.folder
        self.config = config

    def model(self, config: ModelConfig) -> OneLLM:
        """Return the model: the given parts, and fresh ones from torch's generator.

        :param config: ``self.config``, with the vocabulary and the experts that are wanted.
        :raises TrainingError: if parts do not fit each other.
        """
        with torch.device('meta'):
            model = OneLLM(config)
        for name in PARTS:
            if name not in self.parts:
                setattr(model, name, fresh_part(name, config))
                continue
            wrong = misfit(model.part(name), self.parts[name])
            if wrong:
                raise TrainingError(
                    f'--init: {name}.{wrong}; its part does not fit the others')
            model.part(name).load_state_dict(
                {n: v.to(torch.float32, copy=True) for n, v in self.parts[name].items()},
                assign=True)
        if 'upm' not in self.parts:
            model.match_llm_scale()
        return model

    def copy_tokenizer(self, out: Path) -> bool:
        """Copy the tokenizer that belongs to the language model; whether there was one."""
        if self.text_folder is None:
            return False
        inside = self.text_folder / 'llm'
        copied = False
        for name in TOKENIZER_FILES:
            path = next((at / name for at in (self.text_folder, inside)
                         if (at / name).is_file()), None)
            if path is not None:
                shutil.copy(path, out / name)
                copied = copied or name in TOKENIZER_FILES[:2]
        return copied
