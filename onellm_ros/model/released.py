"""The released checkpoint layout: its names, its config file, and what may be left unused.

Everything known about ``consolidated.00-of-01.pth`` lives here: a table between its names and the
model's, the permutation between Meta's interleaved rotary layout and the half-split one, and the
reading of a config.json (or Meta's params.json) whose silent keys are taken from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onellm_ros.config import ConfigError, ModelConfig, from_mapping
from onellm_ros.modality import Modality
from onellm_ros.model.layers import swiglu_hidden
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
    """Return every tensor of a released checkpoint of these sizes, with its name in the model."""
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


# --- sizes -------------------------------------------------------------------------------------

Shapes = Mapping[str, tuple[int, ...]]
_SECTIONS: dict[str, dict[str, str]] = {
    'llm': {'dim': 'dim', 'n_layers': 'layers', 'layers': 'layers', 'n_heads': 'heads',
            'heads': 'heads', 'n_kv_heads': 'kv_heads', 'kv_heads': 'kv_heads',
            'vocab_size': 'vocab_size', 'multiple_of': 'multiple_of', 'hidden': 'hidden',
            'hidden_dim': 'hidden', 'norm_eps': 'norm_eps', 'rope_theta': 'rope_theta',
            'max_seq_len': 'max_positions', 'max_positions': 'max_positions',
            'tied_embeddings': 'tied_embeddings'},
    'encoder': {k: k for k in ('width', 'layers', 'heads', 'mlp_ratio', 'activation',
                               'image_size', 'patch_size', 'norm_eps')},
    'upm': {k: k for k in ('experts', 'layers', 'heads', 'modality_tokens', 'router',
                           'multiple_of', 'hidden', 'norm_eps')},
}
_TOP = {k: k for k in (
    'video_frames', 'points', 'point_centres', 'point_neighbours', 'point_grouping_channel',
    'audio_rate_hz', 'audio_mels', 'audio_frames', 'audio_kernel', 'audio_stride', 'imu_rate_hz',
    'imu_samples', 'imu_kernel', 'imu_stride', 'fmri_voxels', 'fmri_tokens')}
_TOP |= {'point_centers': 'point_centres', 'point_neighbors': 'point_neighbours',
         'centres': 'point_centres', 'centers': 'point_centres',
         'neighbours': 'point_neighbours', 'neighbors': 'point_neighbours'}
# Meta's files also state these; they say nothing about the shape.
_IGNORED = ('max_batch_size',)


def _renamed(values: Mapping[str, Any], names: Mapping[str, str], where: str,
             extra: tuple[str, ...] = ()) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key in extra or key in _IGNORED:
            continue
        if key not in names:
            raise ConfigError(f'config.json: unknown key {where + key!r}: expected one of '
                              f'{sorted({*names, *extra})}')
        if names[key] in out:
            raise ConfigError(f'config.json: {where + key!r} states {names[key]!r} twice')
        out[names[key]] = value
    return out


def _count(shapes: Shapes, pattern: str) -> int:
    found = {m.group(1) for name in shapes if (m := re.fullmatch(pattern, name))}
    return len(found)


def _common(shapes: Shapes, pattern: str) -> int:
    """Return the most frequent number of rows among the tensors whose name matches."""
    rows = [shape[0] for name, shape in shapes.items() if re.fullmatch(pattern, name)]
    return max(set(rows), key=rows.count) if rows else 0


def _from_weights(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Return the sizes that the weights alone tell."""
    out: dict[str, dict[str, Any]] = {'llm': {}, 'encoder': {}, 'upm': {}, 'tokenizer': {}}
    simple: list[tuple[str, str, str, Callable[[tuple[int, ...]], int]]] = [
        ('llm', 'dim', 'tok_embeddings.weight', lambda s: s[1]),
        ('llm', 'vocab_size', 'tok_embeddings.weight', lambda s: s[0]),
        ('encoder', 'width', 'clip.visual.class_embedding', lambda s: s[0]),
        ('encoder', 'patch_size', 'clip.visual.conv1.weight', lambda s: s[2]),
        ('upm', 'modality_tokens', 'resample_tokens.image', lambda s: s[1]),
        ('tokenizer', 'fmri_voxels', 'conv1.fmri.weight', lambda s: s[1]),
        ('tokenizer', 'fmri_tokens', 'positional_embedding.fmri', lambda s: s[0] - 1),
        ('tokenizer', 'point_centres', 'positional_embedding.point', lambda s: s[0] - 1),
        ('tokenizer', 'audio_kernel', 'conv1.audio.weight', lambda s: s[2]),
        ('tokenizer', 'imu_kernel', 'conv1.imu.weight', lambda s: s[2])]
    for section, key, name, read in simple:
        shape = shapes.get(PREFIX + name, ())
        try:
            out[section][key] = read(shape)
        except IndexError:
            continue
    p = re.escape(PREFIX)
    counted = {
        ('llm', 'layers'): _count(shapes, p + r'layers\.(\d+)\.attention\.wq\.weight'),
        ('encoder', 'layers'): _count(
            shapes, p + r'clip\.visual\.transformer\.resblocks\.(\d+)\.ln_1\.weight'),
        ('upm', 'experts'): _count(
            shapes, p + r'resample_layers\.(\d+)\.\d+\.attention_norm\.weight'),
        ('upm', 'layers'): _count(
            shapes, p + r'resample_layers\.\d+\.(\d+)\.attention_norm\.weight'),
        ('llm', 'hidden'): _common(shapes, p + r'layers\.\d+\.feed_forward\.w[13]\.weight'),
        ('upm', 'hidden'): _common(
            shapes, p + r'resample_layers\.\d+\.\d+\.feed_forward\.w[13]\.weight')}
    out_of = {key: value for key, value in counted.items() if value}
    for (section, key), value in out_of.items():
        out[section][key] = value
    rows = shapes.get(PREFIX + 'clip.visual.positional_embedding', (0,))[0]
    if rows > 1 and 'patch_size' in out['encoder']:
        out['encoder']['image_size'] = round((rows - 1) ** 0.5) * out['encoder']['patch_size']
    width, fc = out['encoder'].get('width', 0), _common(
        shapes, p + r'clip\.visual\.transformer\.resblocks\.\d+\.mlp\.c_fc\.weight')
    if width and fc and fc % width == 0:
        out['encoder']['mlp_ratio'] = fc // width
    return out


def released_config(values: Mapping[str, Any], shapes: Shapes,
                    inputs: Mapping[str, tuple[int, ...]] | None = None) -> ModelConfig:
    """Turn the config.json of a released-layout directory into a :class:`ModelConfig`.

    What the file states is binding; where it is silent the size is read from the weights, or from
    the released model's defaults.

    :param values: the file's mapping: ``llm``, ``encoder``, ``upm`` and sizes of inputs; or
        Meta's params.json (then ``dim``, ``n_layers``... stand at the top).
    :param shapes: shapes of the checkpoint's tensors.
    :param inputs: shapes of example inputs by released modality name, for sizes of audio and IMU.
    :raises ConfigError: for an unknown key or a value of the wrong type.
    """
    if 'dim' in values and 'llm' not in values:
        values = {'llm': values}
    top = {k: v for k, v in values.items() if k not in (*_SECTIONS, 'name', 'text', 'tokenizer')}
    for section in (*_SECTIONS, 'tokenizer', 'text'):
        if not isinstance(values.get(section, {}), Mapping):
            raise ConfigError(f'config.json: {section}: expected a mapping, found '
                              f'{values[section]!r}')
    sizes = _from_weights(shapes)
    shape = (inputs or {}).get('audio', ())
    if len(shape) == 4:
        sizes['tokenizer'] |= {'audio_mels': shape[2], 'audio_frames': shape[3]}
    shape = (inputs or {}).get('imu', ())
    if len(shape) == 3:
        sizes['tokenizer']['imu_samples'] = shape[2]
    stated = {s: _renamed(values.get(s, {}), names, s + '.',
                          ('ffn_dim_multiplier',) if s == 'llm' else ())
              for s, names in _SECTIONS.items()}
    stated['tokenizer'] = {**values.get('tokenizer', {}), **_renamed(top, _TOP, '')}
    llm, upm = stated['llm'], stated['upm']
    if llm.get('vocab_size') == -1:
        del llm['vocab_size']
    for key in ('multiple_of', 'norm_eps'):
        if key in llm:
            upm.setdefault(key, llm[key])
    multiplier = values.get('llm', {}).get('ffn_dim_multiplier')
    merged = {s: {**sizes[s], **stated[s]} for s in sizes}
    for part, width in (('llm', merged['llm'].get('dim')), ('upm', merged['encoder'].get('width'))):
        if 'hidden' not in stated[part] and 'multiple_of' in stated[part] and width:
            step = stated[part]['multiple_of']
            wide = int(2 * 4 * width / 3)
            if part == 'llm' and multiplier is not None:
                wide = int(multiplier * wide)
            merged[part]['hidden'] = step * -(-wide // step)
    text = {'tokenizer': 'tokenizer.model', **values.get('text', {})}
    return from_mapping(ModelConfig, {
        'name': values.get('name', 'onellm'), **merged, 'text': text})


def released_state(model: torch.nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """Return a model's weights under the released names and in their layout."""
    own = model.state_dict()
    return {e.released: e.to_released(own[e.own]).contiguous() for e in entries(config)}


def default_hidden(config: ModelConfig) -> tuple[int, int]:
    """Return the SwiGLU hidden sizes of the language model and of the UPM."""
    return (swiglu_hidden(config.llm.dim, config.llm.multiple_of, config.llm.hidden),
            swiglu_hidden(config.encoder.width, config.upm.multiple_of, config.upm.hidden))
