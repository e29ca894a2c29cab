"""The encoder from a CLIP vision tower in Hugging Face layout (``config.json``, safetensors)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
import safetensors.torch
import torch
from torch import Tensor

from onellm_ros.config import EncoderConfig
from onellm_ros.model.files import CheckpointError, read_json

TYPES = ('clip', 'clip_vision_model')
_PREFIX = 'vision_model.'
_OF_BLOCK = {'ln_1': 'layer_norm1', 'out': 'self_attn.out_proj', 'ln_2': 'layer_norm2',
             'fc': 'mlp.fc1', 'proj': 'mlp.fc2'}


def clip_config(values: Mapping[str, Any], path: Path) -> EncoderConfig:
    """Return the encoder's sizes.

    :param values: of config.json, of a whole CLIP or of its vision tower.
    :raises CheckpointError: naming what is missing or not supported.
    """
    vision = values.get('vision_config', values)
    names = {'width': 'hidden_size', 'layers': 'num_hidden_layers', 'heads': 'num_attention_heads',
             'image_size': 'image_size', 'patch_size': 'patch_size'}
    missing = [name for name in (*names.values(), 'intermediate_size') if name not in vision]
    if missing:
        raise CheckpointError(f'{path}: found no {missing[0]}, expected the sizes of a CLIP '
                              'vision tower')
    ratio, rest = divmod(vision['intermediate_size'], vision['hidden_size'])
    if rest:
        raise CheckpointError(f'{path}: intermediate_size: found {vision["intermediate_size"]}, '
                              f'expected a multiple of hidden_size {vision["hidden_size"]}')
    activation = vision.get('hidden_act', 'quick_gelu')
    if activation not in ('quick_gelu', 'gelu'):
        raise CheckpointError(f'{path}: hidden_act: found {activation!r}, expected quick_gelu or '
                              'gelu')
    return EncoderConfig(**{own: vision[name] for own, name in names.items()}, mlp_ratio=ratio,
                         activation=activation, norm_eps=vision.get('layer_norm_eps', 1e-5))


def read_clip(directory: Path) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Return sizes and state of :class:`Encoder`, float32, from a CLIP directory.

    The text tower and the output projection of a whole CLIP are left aside.

    :raises CheckpointError: naming the tensor that is missing, unknown or of the wrong shape.
    """
    config = clip_config(read_json(directory / 'config.json'), directory / 'config.json')
    path = directory / 'model.safetensors'
    try:
        found = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: not readable as safetensors: {error}') from error
    # A vision tower alone comes with the prefix or without; a whole CLIP has it.
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in found) else ''
    found = {name.removeprefix(prefix): value for name, value in found.items()
             if name.startswith(prefix) and not name.endswith('position_ids')}
    width, patch = config.width, config.patch_size

    def take(name: str, *shape: int) -> Tensor:
        value = found.pop(name, None)
        if value is None or tuple(value.shape) != shape:
            raise CheckpointError(f'{path}: {prefix}{name}: expected shape {list(shape)}, found '
                                  f'{"none" if value is None else list(value.shape)}')
        return value.float()

    out: dict[str, Tensor] = {}

    def linear(own: str, name: str, *shape: int) -> None:
        out[f'{own}.weight'] = take(f'{name}.weight', *shape)
        out[f'{own}.bias'] = take(f'{name}.bias', shape[0])

    out['patch.weight'] = take('embeddings.patch_embedding.weight', width, 3, patch, patch)
    out['class_embedding'] = take('embeddings.class_embedding', width)
    tokens = (config.image_size // patch) ** 2 + 1
    out['positions'] = take('embeddings.position_embedding.weight', tokens, width)
    linear('ln_pre', 'pre_layrnorm', width)
    linear('ln_post', 'post_layernorm', width)
    shapes = {'ln_1': (width,), 'out': (width, width), 'ln_2': (width,),
              'fc': (config.mlp_ratio * width, width), 'proj': (width, config.mlp_ratio * width)}
    for layer in range(config.layers):
        block, there = f'blocks.{layer}', f'encoder.layers.{layer}'
        for kind, shape in (('weight', (width, width)), ('bias', (width,))):
            out[f'{block}.qkv.{kind}'] = torch.cat([
                take(f'{there}.self_attn.{part}_proj.{kind}', *shape) for part in 'qkv'])
        for own, name in _OF_BLOCK.items():
            linear(f'{block}.{own}', f'{there}.{name}', *shapes[own])
    if found:
        raise CheckpointError(f'{path}: unknown tensor {prefix}{next(iter(found))}')
    return config, out
