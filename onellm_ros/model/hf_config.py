"""The config.json of a language model in Hugging Face layout, read strictly and written.

Every key is used, known to say nothing about the model's arithmetic, or an error that names it: a
setting that were overlooked would give a model that answers and is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import Any

from onellm_ros.config import ConfigError, LlmConfig, RopeScaling, from_mapping
from onellm_ros.model.layers import swiglu_hidden

# What a family takes for granted where its file is silent.
FAMILIES: dict[str, dict[str, Any]] = {
    'llama': {'max_position_embeddings': 2048},
    'mistral': {'max_position_embeddings': 131072, 'num_key_value_heads': 8,
                'sliding_window': 4096},
    'qwen2': {'max_position_embeddings': 32768, 'num_key_value_heads': 32,
              'sliding_window': 4096, 'max_window_layers': 28},
    'qwen3': {'max_position_embeddings': 32768, 'num_key_value_heads': 32, 'head_dim': 128,
              'sliding_window': 4096, 'max_window_layers': 28},
    'smollm3': {'max_position_embeddings': 32768, 'num_key_value_heads': 4,
                'tie_word_embeddings': True, 'rope_theta': 2000000.0,
                'no_rope_layer_interval': 4},
}
_COMMON: dict[str, Any] = {
    'rms_norm_eps': 1e-6, 'rope_theta': 10000.0, 'tie_word_embeddings': False, 'head_dim': None,
    'num_key_value_heads': None, 'attention_bias': False, 'mlp_bias': False}
_SIZES = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
          'vocab_size')
# Keys that only these families know; in another family's file they are an error.
_OWN = {'attention_bias': ('llama', 'qwen3', 'smollm3'), 'mlp_bias': ('llama', 'smollm3'),
        'sliding_window': ('mistral', 'qwen2', 'qwen3', 'smollm3'),
        'use_sliding_window': ('qwen2', 'qwen3', 'smollm3'),
        'layer_types': ('qwen2', 'qwen3', 'smollm3'),
        'no_rope_layers': ('smollm3',), 'no_rope_layer_interval': ('smollm3',)}
# Keys that would change the arithmetic, and the values with which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    'hidden_act': ('silu',), 'rope_interleaved': (False,), 'partial_rotary_factor': (1, None),
    'use_mrope': (False,), 'quantization_config': (None,), 'auto_map': (None,),
    'is_encoder_decoder': (False,), 'add_cross_attention': (False,), 'is_decoder': (False, True),
    'pretraining_tp': (1, None), 'num_experts': (None,), 'num_local_experts': (None,),
    'attention_bias': (False, None), 'mlp_bias': (False, None), 'sliding_window': (None,),
    'use_sliding_window': (False, None), 'layer_types': (None,),
    'pruned_heads': ({}, None), 'cross_attention_hidden_size': (None,)}
# Keys about training, generation, storage or tools.
UNUSED = frozenset({
    '_attn_implementation_autoset', '_name_or_path', 'architectures', 'attention_dropout',
    'bad_words_ids', 'begin_suppress_tokens', 'bos_token_id', 'chunk_size_feed_forward',
    'decoder_start_token_id', 'diversity_penalty', 'do_sample', 'dtype', 'early_stopping',
    'encoder_no_repeat_ngram_size', 'eos_token_id', 'exponential_decay_length_penalty',
    'finetuning_task', 'forced_bos_token_id', 'forced_eos_token_id', 'id2label',
    'initializer_range', 'is_llama_config', 'keys_to_ignore_at_inference', 'label2id',
    'length_penalty', 'max_length', 'max_window_layers', 'min_length', 'mlp_dropout', 'model_type',
    'no_repeat_ngram_size', 'num_beam_groups', 'num_beams', 'num_return_sequences',
    'output_attentions', 'output_hidden_states', 'output_scores', 'pad_token_id', 'prefix',
    'problem_type', 'remove_invalid_values', 'repetition_penalty', 'resid_dropout', 'return_dict',
    'return_dict_in_generate', 'sep_token_id', 'suppress_tokens', 'task_specific_params',
    'temperature', 'tf_legacy_loss', 'tie_encoder_decoder', 'tokenizer_class', 'top_k', 'top_p',
    'torch_dtype', 'torchscript', 'transformers.js_config', 'transformers_version', 'typical_p',
    'unk_token_id', 'unsloth_fixed', 'unsloth_version', 'use_bfloat16', 'use_cache'})
_ROPE_KEYS: dict[str, tuple[str, ...]] = {
    'default': (), 'linear': ('factor',), 'dynamic': ('factor',),
    'llama3': ('factor', 'low_freq_factor', 'high_freq_factor',
               'original_max_position_embeddings'),
    'yarn': ('factor', 'original_max_position_embeddings', 'attention_factor', 'beta_fast',
             'beta_slow', 'mscale', 'mscale_all_dim', 'truncate')}
_NEEDED = {'linear': ('factor',), 'dynamic': ('factor',), 'yarn': (),
           'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'), 'default': ()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 \
            or not math.isfinite(value):
        raise ConfigError(f'{name}: expected a number above 0, found {value!r}')
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f'{name}: expected a whole number above 0, found {value!r}')
    return value


def _flag(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ConfigError(f'{name}: expected true or false, found {value!r}')


def _magnitude(factor: float, weight: float = 1.0) -> float:
    """Return yarn's factor of cosines and sines for a stretch."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _yarn(given: Mapping[str, Any], name: Callable[[str], str], longest: int) -> RopeScaling:
    known = _whole(name('original_max_position_embeddings'),
                   given.get('original_max_position_embeddings') or longest)
    factor = given.get('factor')
    factor = longest / known if factor is None else _number(name('factor'), factor)
    attention = given.get('attention_factor')
    if attention is None:
        scales = [given.get('mscale'), given.get('mscale_all_dim')]
        one, all_dim = (_number(name(k), v) if v else 0.0
                        for k, v in zip(('mscale', 'mscale_all_dim'), scales))
        attention = _magnitude(factor, one) / _magnitude(factor, all_dim) if one and all_dim \
            else _magnitude(factor)
    return RopeScaling(
        'yarn', factor, known, truncate=_flag(name('truncate'), given.get('truncate', True)),
        beta_fast=_number(name('beta_fast'), given.get('beta_fast') or 32.0),
        beta_slow=_number(name('beta_slow'), given.get('beta_slow') or 1.0),
        attention_factor=_number(name('attention_factor'), attention))


def _scaling(values: Mapping[str, Any], default_theta: float, longest: int
             ) -> tuple[float, RopeScaling]:
    """Read rope_theta and rope_scaling, or rope_parameters that hold both.

    :param longest: max_position_embeddings.
    """
    key = 'rope_scaling' if values.get('rope_scaling') else 'rope_parameters'
    given = values.get(key) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f'{key}: expected a mapping or null, found {given!r}')

    def name(entry: str) -> str:
        return f'{key}.{entry}'

    theta = given.get('rope_theta') or values.get('rope_theta') or default_theta
    kind = given.get('rope_type', given.get('type', 'default'))
    if kind not in _ROPE_KEYS:
        raise ConfigError(f'{name("rope_type")}: expected one of {sorted(_ROPE_KEYS)}, found '
                          f'{kind!r}: this way to stretch positions is not supported')
    if given.get('partial_rotary_factor', 1) not in (1, None):
        raise ConfigError(f'{name("partial_rotary_factor")}: expected 1, found '
                          f'{given["partial_rotary_factor"]!r}: not supported')
    known = {*_ROPE_KEYS[kind], 'rope_type', 'type', 'rope_theta', 'partial_rotary_factor'}
    for entry, value in given.items():
        if entry not in known and not (
                entry == 'original_max_position_embeddings' and kind != 'llama3'):
            raise ConfigError(f'{name(entry)}: found {value!r}, expected one of {sorted(known)} '
                              f'for {kind!r}')
    missing = [k for k in _NEEDED[kind] if given.get(k) is None]
    if missing:
        raise ConfigError(f'{name(missing[0])}: missing, needed for {kind!r}')
    theta = _number('rope_theta', theta)
    if kind == 'yarn':
        return theta, _yarn(given, name, longest)
    if kind == 'default':
        return theta, RopeScaling()
    factor = _number(name('factor'), given['factor'])
    if kind == 'linear':
        return theta, RopeScaling(kind, factor)
    if kind == 'dynamic':
        return theta, RopeScaling(kind, factor, longest)
    return theta, RopeScaling(
        kind, factor,
        _whole(name('original_max_position_embeddings'),
               given.get('original_max_position_embeddings') or longest),
        _number(name('low_freq_factor'), given['low_freq_factor']),
        _number(name('high_freq_factor'), given['high_freq_factor']))


def _windows(values: Mapping[str, Any], family: str, layers: int
             ) -> tuple[int, tuple[int, ...]]:
    """Return the sliding window (0: none) and the layers that have it (none named: all)."""
    window = values.get('sliding_window', FAMILIES[family].get('sliding_window'))
    if family == 'llama' or window is None:
        window = 0
    if family == 'mistral':
        return (_whole('sliding_window', window) if window else 0), ()
    types = values.get('layer_types')
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise ConfigError(f'layer_types: expected a list of {layers}, found {types!r}')
        odd = sorted(set(map(str, types)) - {'full_attention', 'sliding_attention'})
        if odd:
            raise ConfigError(f'layer_types: {odd[0]!r} is not supported; expected '
                              'full_attention or sliding_attention')
    if not _flag('use_sliding_window', values.get('use_sliding_window')):
        if types is not None and 'sliding_attention' in types:
            raise ConfigError('layer_types: found sliding_attention, although '
                              'use_sliding_window is not set')
        return 0, ()
    if types is not None:
        sliding = tuple(i for i, t in enumerate(types) if t == 'sliding_attention')
    elif family == 'smollm3':
        sliding = _no_rope(values, family, layers)
    else:
        first = values.get('max_window_layers', FAMILIES[family]['max_window_layers'])
        sliding = tuple(range(layers))[_whole('max_window_layers', first) if first else 0:]
    if not sliding or not window:
        return 0, ()
    return _whole('sliding_window', window), sliding if len(sliding) < layers else ()


def _no_rope(values: Mapping[str, Any], family: str, layers: int) -> tuple[int, ...]:
    """Return the layers without rotary positions."""
    if family != 'smollm3':
        return ()
    marks = values.get('no_rope_layers')
    if marks is None:
        every = _whole('no_rope_layer_interval', values.get(
            'no_rope_layer_interval', FAMILIES[family]['no_rope_layer_interval']))
        marks = [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(marks, list) or len(marks) < layers or set(marks) - {0, 1}:
        raise ConfigError(f'no_rope_layers: expected a list of {layers} times 0 or 1, found '
                          f'{marks!r}')
    return tuple(i for i, mark in enumerate(marks[:layers]) if not mark)


def _check_keys(values: Mapping[str, Any], family: str) -> None:
    """Refuse what is not known, or known and not supported."""
    used = {*_SIZES, *_COMMON, *FAMILIES[family], 'rope_scaling', 'rope_parameters'} - set(_OWN)
    used |= {key for key, families in _OWN.items() if family in families}
    for key, value in values.items():
        if key in used or key in UNUSED:
            continue
        if key not in _NEUTRAL:
            raise ConfigError(f'{key}: unknown key with value {value!r}; it may change what the '
                              f'model computes, so a {family} model with it is not read')
        if value not in _NEUTRAL[key]:
            raise ConfigError(f'{key}: found {value!r}, expected {_NEUTRAL[key][0]!r}: not '
                              f'supported for {family}')


def llm_config(values: Mapping[str, Any]) -> LlmConfig:
    """Return the sizes and switches that a Hugging Face config.json states.

    :raises ConfigError: naming the key that is missing, unknown or not supported.
    """
    family = values.get('model_type')
    if family not in FAMILIES:
        raise ConfigError(f'model_type: expected one of {sorted(FAMILIES)}, found {family!r}')
    _check_keys(values, family)
    missing = [key for key in _SIZES if values.get(key) is None]
    if missing:
        raise ConfigError(f'{missing[0]}: missing')

    def get(key: str) -> Any:
        """Return what the file says, else what the family takes for granted."""
        return values[key] if key in values else FAMILIES[family].get(key, _COMMON.get(key))

    layers = _whole('num_hidden_layers', values['num_hidden_layers'])
    heads = _whole('num_attention_heads', values['num_attention_heads'])
    width = _whole('hidden_size', values['hidden_size'])
    shared = _whole('num_key_value_heads', get('num_key_value_heads') or heads)
    head = get('head_dim')
    head = 0 if head is None else _whole('head_dim', head)
    longest = _whole('max_position_embeddings', get('max_position_embeddings'))
    theta, rope = _scaling(values, get('rope_theta'), longest)
    window, sliding = _windows(values, family, layers)
    bias = family in _OWN['attention_bias'] and _flag('attention_bias', get('attention_bias'))
    stretched = round(rope.factor * rope.original_positions)
    return from_mapping(LlmConfig, {
        'dim': width, 'layers': layers, 'heads': heads,
        'kv_heads': 0 if shared == heads else shared,
        'hidden': _whole('intermediate_size', values['intermediate_size']),
        'vocab_size': _whole('vocab_size', values['vocab_size']),
        'max_positions': max(longest, stretched),
        'norm_eps': _number('rms_norm_eps', get('rms_norm_eps')), 'rope_theta': theta,
        'tied_embeddings': _flag('tie_word_embeddings', get('tie_word_embeddings')),
        'head_dim': 0 if head * heads == width else head,
        'qkv_bias': bias or family == 'qwen2', 'out_bias': bias,
        'mlp_bias': family in _OWN['mlp_bias'] and _flag('mlp_bias', get('mlp_bias')),
        'qk_norm': family == 'qwen3', 'rope': vars(rope), 'sliding_window': window,
        'sliding_layers': sliding, 'no_rope_layers': _no_rope(values, family, layers)})


_BOTH: tuple[tuple[str, ...], ...] = ((), ('out_bias', 'qkv_bias'))
_WINDOW = {'sliding_window', 'sliding_layers'}
# What a family can have, and which biases of attention; the first that fits is taken.
_SWITCHES: dict[str, tuple[set[str], tuple[tuple[str, ...], ...]]] = {
    'llama': ({'mlp_bias'}, _BOTH), 'mistral': ({'sliding_window'}, ((),)),
    'qwen2': (_WINDOW, (('qkv_bias',),)), 'qwen3': (_WINDOW | {'qk_norm'}, _BOTH),
    'smollm3': (_WINDOW | {'mlp_bias', 'no_rope_layers'}, _BOTH)}


def _family(config: LlmConfig) -> str:
    """Return the family that has all of a model's switches.

    :raises ConfigError: if there is none.
    """
    has = {'qkv_bias': config.qkv_bias, 'out_bias': config.out_bias, 'mlp_bias': config.mlp_bias,
           'qk_norm': config.qk_norm, 'no_rope_layers': bool(config.no_rope_layers),
           'sliding_layers': config.sliding_window > 0 and bool(config.sliding_layers),
           'sliding_window': config.sliding_window > 0}
    wanted = {name for name, on in has.items() if on}
    bias = tuple(sorted(wanted & {'qkv_bias', 'out_bias'}))
    uneven = config.head_dim > 0 and config.dim % config.heads > 0
    for family, (switches, biases) in _SWITCHES.items():
        if wanted - {*bias} <= switches and bias in biases \
                and ('qk_norm' in wanted) == (family == 'qwen3') \
                and not (family == 'llama' and uneven):
            return family
    raise ConfigError(f'llm: no Hugging Face family ({", ".join(FAMILIES)}) has all of '
                      f'{sorted(wanted)}')


def _stretching(rope: RopeScaling, longest: int) -> dict[str, Any] | None:
    known = rope.original_positions or longest
    extra: dict[str, dict[str, Any]] = {
        'linear': {}, 'dynamic': {},
        'llama3': {'low_freq_factor': rope.low_freq, 'high_freq_factor': rope.high_freq,
                   'original_max_position_embeddings': known},
        'yarn': {'beta_fast': rope.beta_fast, 'beta_slow': rope.beta_slow,
                 'attention_factor': rope.attention_factor, 'truncate': rope.truncate,
                 'original_max_position_embeddings': known}}
    if rope.kind == 'default':
        return None
    return {'rope_type': rope.kind, 'factor': rope.factor, **extra[rope.kind]}


def hf_config(config: LlmConfig, *, dtype: str = 'float32', ids: Mapping[str, int] | None = None
              ) -> dict[str, Any]:
    """Return the config.json with which Hugging Face's tools read a language model.

    :param dtype: type of the stored weights.
    :param ids: ``bos``, ``eos`` and ``pad`` of the tokenizer.
    :raises ConfigError: if no family has all of the model's switches.
    """
    family = _family(config)
    longest = config.max_positions
    if config.rope.kind == 'dynamic':
        longest = config.rope.original_positions or longest
    hidden = swiglu_hidden(config.dim, config.multiple_of, config.hidden)
    known = {'bos': 1, 'eos': 2} if ids is None else ids
    out: dict[str, Any] = {
        'architectures': [{'smollm3': 'SmolLM3'}.get(family, family.title()) + 'ForCausalLM'],
        'model_type': family, 'hidden_size': config.dim, 'intermediate_size': hidden,
        'num_hidden_layers': config.layers, 'num_attention_heads': config.heads,
        'num_key_value_heads': config.kv_heads or config.heads, 'head_dim': config.head_size,
        'vocab_size': config.vocab_size, 'max_position_embeddings': longest,
        'rms_norm_eps': config.norm_eps, 'rope_theta': config.rope_theta,
        'rope_scaling': _stretching(config.rope, longest),
        'tie_word_embeddings': config.tied_embeddings, 'hidden_act': 'silu',
        'torch_dtype': dtype, **{f'{k}_token_id': v for k, v in known.items()}}
    if family in _OWN['attention_bias']:
        out['attention_bias'] = config.out_bias
    if family in _OWN['mlp_bias']:
        out['mlp_bias'] = config.mlp_bias
    if family == 'mistral':
        out['sliding_window'] = config.sliding_window or None
    elif family != 'llama':
        out |= {'use_sliding_window': config.sliding_window > 0,
                'sliding_window': config.sliding_window or None,
                'layer_types': ['sliding_attention' if config.slides(i) else 'full_attention'
                                for i in range(config.layers)]}
    if family == 'smollm3':
        out['no_rope_layers'] = [int(i not in config.no_rope_layers)
                                 for i in range(config.layers)]
    return out
