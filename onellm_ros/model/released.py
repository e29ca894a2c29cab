"""The released checkpoint layout: its names, their layout, and what may be left unused.

Here lives the table between the names of ``consolidated.00-of-01.pth`` and the model's, and the
permutation between Meta's interleaved rotary layout and the half-split one. The sizes that such a
directory states or implies are read in ``released_config.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import re

import torch
from torch import Tensor

from onellm_ros.config import ConfigError, ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.modality_tokenizers import SIGNALS

PREFIX = 'llma.'
# CLIP's text side and its image projection, and tables that older Llama files carry.
UNUSED = re.compile(
    r'clip\.(visual\.proj|positional_embedding|text_projection|logit_scale|attn_mask'
    r'|token_embedding\.weight|ln_final\.(weight|bias)|transformer\.resblocks\..+)'
    r'|rope\.freqs|layers\.\d+\.attention\.inner_attention\.rope\.freqs')


@dataclass(frozen=True)
class Entry:
    """One tensor: its released name, the model's, and how its values are laid out.

    :param heads: for a rotary projection its number of heads, else 0.
    """

    released: str
    own: str
    heads: int = 0

    def to_own(self, value: Tensor) -> Tensor:
        """Convert a released tensor to the model's layout."""
        if self.heads:
            return split_halves(value, self.heads)
        return value.flatten(1) if self.released == _POINT else value

    def to_released(self, value: Tensor) -> Tensor:
        """Convert a tensor of the model to the released layout."""
        if self.heads:
            return interleave(value, self.heads)
        return value[:, :, None, None] if self.released == _POINT else value


_POINT = PREFIX + 'conv1.point.conv1.weight'


def split_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a rotary projection from pairs (2i, 2i+1) to halves (i, i + d/2)."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(
        rows, columns)


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Undo :func:`split_halves`."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(
        rows, columns)


def _llm_entries(config: ModelConfig) -> Iterator[Entry]:
    heads = config.llm.heads
    yield Entry('tok_embeddings.weight', 'llm.tok_embeddings.weight')
    for i in range(config.llm.layers):
        for name in ('attention.wq', 'attention.wk', 'attention.wv', 'attention.wo',
                     'feed_forward.w1', 'feed_forward.w2', 'feed_forward.w3', 'attention_norm',
                     'ffn_norm'):
            turned = {'attention.wq': heads,
                      'attention.wk': config.llm.kv_heads or heads}.get(name, 0)
            yield Entry(f'layers.{i}.{name}.weight', f'llm.layers.{i}.{name}.weight', turned)
    yield Entry('norm.weight', 'llm.norm.weight')
    if not config.llm.tied_embeddings:
        yield Entry('output.weight', 'llm.output.weight')


def _encoder_entries(config: ModelConfig) -> Iterator[Entry]:
    visual = 'clip.visual.'
    yield Entry(visual + 'class_embedding', 'encoder.class_embedding')
    yield Entry(visual + 'positional_embedding', 'encoder.positions')
    yield Entry(visual + 'conv1.weight', 'encoder.patch.weight')
    for norm in ('ln_pre', 'ln_post'):
        for kind in ('weight', 'bias'):
            yield Entry(f'{visual}{norm}.{kind}', f'encoder.{norm}.{kind}')
    names = {'ln_1.': 'ln_1.', 'ln_2.': 'ln_2.', 'attn.in_proj_': 'qkv.',
             'attn.out_proj.': 'out.', 'mlp.c_fc.': 'fc.', 'mlp.c_proj.': 'proj.'}
    for i in range(config.encoder.layers):
        for theirs, ours in names.items():
            for kind in ('weight', 'bias'):
                yield Entry(f'{visual}transformer.resblocks.{i}.{theirs}{kind}',
                            f'encoder.blocks.{i}.{ours}{kind}')


def _projection_entries(config: ModelConfig) -> Iterator[Entry]:
    for k in range(config.upm.experts):
        for i in range(config.upm.layers):
            for name in ('attention.wq', 'attention.wk', 'attention.wv', 'attention.wo',
                         'feed_forward.w1', 'feed_forward.w2', 'feed_forward.w3',
                         'attention_norm', 'ffn_norm'):
                yield Entry(f'resample_layers.{k}.{i}.{name}.weight',
                            f'upm.experts.{k}.blocks.{i}.{name}.weight')
    for theirs, ours in {'audio': 'audio.conv', 'point.conv1': 'point.linear',
                         'fmri': 'fmri.linear', 'imu': 'imu.conv'}.items():
        for kind in ('weight',) if theirs == 'imu' else ('weight', 'bias'):
            yield Entry(f'conv1.{theirs}.{kind}', f'tokenizers.kinds.{ours}.{kind}')
    for m in SIGNALS:
        yield Entry(f'positional_embedding.{m.weight_name}', f'tokenizers.positions.{m.value}')
    for m in Modality:
        theirs, ours = m.weight_name, m.value
        yield Entry(f'resample_tokens.{theirs}', f'upm.tokens.{ours}')
        for tag in ('start_tag', 'end_tag'):
            yield Entry(f'{tag}.{theirs}', f'upm.{tag}.{ours}')
        for kind in ('weight', 'bias'):
            for j in (0, 1):
                yield Entry(f'clip_proj1.{theirs}.{j}.{kind}', f'upm.proj_in.{ours}.{j}.{kind}')
                yield Entry(f'clip_proj2.{theirs}.{j}.{kind}', f'upm.proj_out.{ours}.{j}.{kind}')
            for fc in ('fc1', 'fc2'):
                if config.upm.router != 'constant':
                    yield Entry(f'routers.{theirs}.{fc}.{kind}',
                                f'upm.routers.{ours}.{fc}.{kind}')


def entries(config: ModelConfig) -> list[Entry]:
    """Return every tensor of a released checkpoint of these sizes, with its name in the model.

    :raises ConfigError: for a model with further modalities, which the layout has no place for.
    """
    if config.modalities:
        raise ConfigError(f'modalities: found {", ".join(config.modalities)}; the released layout '
                          'has a place for the eight of OneLLM alone')
    return [Entry(PREFIX + e.released, e.own, e.heads)
            for source in (_llm_entries, _encoder_entries, _projection_entries)
            for e in source(config)]


def is_unused(name: str, config: ModelConfig) -> bool:
    """Say whether a released name is known and has no use in the model."""
    if not name.startswith(PREFIX):
        return False
    short = name[len(PREFIX):]
    if config.upm.router == 'constant' and short.startswith('routers.'):
        return True
    return UNUSED.fullmatch(short) is not None


def released_state(model: torch.nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """Return a model's weights under the released names and in their layout."""
    own = model.state_dict()
    return {e.released: e.to_released(own[e.own]).contiguous() for e in entries(config)}
