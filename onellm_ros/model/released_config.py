"""The sizes of a model in the released layout: its config.json (or Meta's params.json).

What the file states is binding. Where it is silent the size is read from the weights, or is that
of the released model. Unknown keys are errors: a misspelt one must not fall back silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import re
from typing import Any

from onellm_ros.config import ConfigError, ModelConfig, from_mapping
from onellm_ros.model.layers import swiglu_hidden
from onellm_ros.model.released import PREFIX
from onellm_ros.model.text import RELEASED_SYSTEM

Shapes = Mapping[str, tuple[int, ...]]
_STACK = {'layers': 'layers', 'n_layers': 'layers', 'heads': 'heads', 'n_heads': 'heads',
          'norm_eps': 'norm_eps'}
_SWIGLU = {'multiple_of': 'multiple_of', 'hidden': 'hidden', 'hidden_dim': 'hidden'}
_SECTIONS: dict[str, dict[str, str]] = {
    'llm': {**_STACK, **_SWIGLU, 'dim': 'dim', 'n_kv_heads': 'kv_heads', 'kv_heads': 'kv_heads',
            'vocab_size': 'vocab_size', 'rope_theta': 'rope_theta',
            'max_seq_len': 'max_positions', 'max_positions': 'max_positions',
            'tied_embeddings': 'tied_embeddings'},
    'encoder': {**_STACK, 'width': 'width', 'mlp_ratio': 'mlp_ratio', 'activation': 'activation',
                'image_size': 'image_size', 'patch_size': 'patch_size'},
    'upm': {**_STACK, **_SWIGLU, 'experts': 'experts', 'n_experts': 'experts',
            'modality_tokens': 'modality_tokens', 'router': 'router'},
}
_TOP = {k: k for k in (
    'video_frames', 'points', 'point_centres', 'point_neighbours', 'point_grouping_channel',
    'audio_rate_hz', 'audio_mels', 'audio_frames', 'audio_kernel', 'audio_stride', 'imu_rate_hz',
    'imu_samples', 'imu_kernel', 'imu_stride', 'fmri_voxels', 'fmri_tokens')}
_TOP |= {'point_centers': 'point_centres', 'point_neighbors': 'point_neighbours',
         'centres': 'point_centres', 'centers': 'point_centres',
         'neighbours': 'point_neighbours', 'neighbors': 'point_neighbours'}
_WHOLE = ('mlp_ratio', 'dim', 'width')
# Said about a model rather than of its sizes (max_batch_size: Meta's files state it).
_IGNORED = ('max_batch_size', 'comment', 'description', 'license', 'note', 'seed', 'source',
            'version')


def _renamed(values: Mapping[str, Any], names: Mapping[str, str], where: str,
             extra: tuple[str, ...] = ()) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key in extra or key in _IGNORED:
            continue
        if key not in names:
            raise ConfigError(f'config.json: unknown key {where + key!r}: expected one of '
                              f'{sorted({*names, *extra})}')
        if isinstance(value, float) and value.is_integer() and key in _WHOLE:
            value = int(value)
        if names[key] in out:
            raise ConfigError(f'config.json: {where + key!r} states {names[key]!r} twice')
        out[names[key]] = value
    return out


def _count(shapes: Shapes, pattern: str) -> int:
    found = {m.group(1) for name in shapes if (m := re.fullmatch(pattern, name))}
    return len(found)


def _common(shapes: Shapes, pattern: str) -> int:
    """Return the most frequent number of rows among the tensors whose name matches."""
    rows = [shape[0] for name, shape in shapes.items() if shape and re.fullmatch(pattern, name)]
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
    rows = _common(shapes, p + r'clip\.visual\.positional_embedding')
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
    if multiplier is not None and (isinstance(multiplier, bool)
                                   or not isinstance(multiplier, (int, float))):
        raise ConfigError('config.json: llm.ffn_dim_multiplier: expected a number, found '
                          f'{multiplier!r}')
    merged = {s: {**sizes[s], **stated[s]} for s in sizes}
    widths = {'llm': merged['llm'].get('dim'), 'upm': merged['encoder'].get('width')}
    for part, width in widths.items():
        multiple = stated[part].get('multiple_of')
        if 'hidden' in stated[part] or not isinstance(multiple, int) \
                or not isinstance(width, int) or min(multiple, width) < 1:
            continue        # as the weights have it; what is stated wrongly is refused below
        factor = multiplier if part == 'llm' and multiplier is not None else 1
        merged[part]['hidden'] = swiglu_hidden(width, multiple, factor=factor)
    text = {'tokenizer': 'tokenizer.model', 'system': RELEASED_SYSTEM, **values.get('text', {})}
    return from_mapping(ModelConfig, {
        'name': values.get('name', 'onellm'), **merged, 'text': text})
