"""A Llama-family language model in Hugging Face layout: config.json beside safetensors.

Read strictly: every tensor of the files is used, known to be of no use, or an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
import re
from typing import Any

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor

from onellm_ros.config import ConfigError, LlmConfig
from onellm_ros.model.files import CheckpointError, read_json
from onellm_ros.model.hf_config import llm_config
from onellm_ros.model.llm import Llama

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_PARTS = {
    'attention.wq': 'self_attn.q_proj', 'attention.wk': 'self_attn.k_proj',
    'attention.wv': 'self_attn.v_proj', 'attention.wo': 'self_attn.o_proj',
    'attention.q_norm': 'self_attn.q_norm', 'attention.k_norm': 'self_attn.k_norm',
    'feed_forward.w1': 'mlp.gate_proj', 'feed_forward.w2': 'mlp.down_proj',
    'feed_forward.w3': 'mlp.up_proj', 'attention_norm': 'input_layernorm',
    'ffn_norm': 'post_attention_layernorm'}
_TOP = {'tok_embeddings': 'model.embed_tokens', 'norm': 'model.norm', 'output': 'lm_head'}
# Tables that older files carry; they follow from config.json.
_UNUSED = re.compile(r'model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq')
_SHOWN = 8


def hf_name(own: str) -> str:
    """Return the Hugging Face name of a tensor of :class:`Llama`."""
    stem, _, kind = own.rpartition('.')
    if stem in _TOP:
        return f'{_TOP[stem]}.{kind}'
    layers, number, part = stem.split('.', 2)
    return f'model.{layers}.{number}.{_PARTS[part]}.{kind}'


def expected_tensors(config: LlmConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return own name -> Hugging Face name and shape of every tensor of such a model.

    :raises ConfigError: for sizes that cannot be.
    """
    with torch.device('meta'):
        state = Llama(config).state_dict()
    return {own: (hf_name(own), tuple(value.shape)) for own, value in state.items()}


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a Hugging Face directory, in order.

    :raises CheckpointError: if there are none, or one that the index names is missing.
    """
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if not (directory / INDEX).is_file():
        old = sorted(p.name for p in directory.glob('pytorch_model*.bin'))
        more = (f'; {old[0]} is the older format: load it with transformers and save it anew'
                if old else '')
        raise CheckpointError(f'{directory}: expected {SINGLE} or {INDEX}, found neither{more}')
    table = read_json(directory / INDEX).get('weight_map')
    if not isinstance(table, dict) or not table or not all(
            isinstance(v, str) for v in table.values()):
        raise CheckpointError(f'{directory / INDEX}: weight_map: expected tensor names with their '
                              'files')
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f'{directory / INDEX}: expected names of files beside it, found '
                                  f'{name!r}')
        if not (directory / name).is_file():
            raise CheckpointError(f'{directory / name}: file not found, although {INDEX} names it')
    return [directory / name for name in names]


def open_safetensors(stack: ExitStack, path: Path) -> Any:
    """Open a file, to be closed by ``stack``.

    :raises CheckpointError: if it cannot be read.
    """
    try:
        return stack.enter_context(safe_open(path, framework='pt'))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: not readable as safetensors: {error}') from error


def _shapes(directory: Path, files: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return tensor name -> file and shape, checking the index where there is one."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, stream in files.items():
        for key in stream.keys():  # noqa: SIM118 (not a mapping)
            if key in found:
                raise CheckpointError(f'{directory}: {key} stands in {found[key][0]} and in '
                                      f'{name}')
            found[key] = name, tuple(stream.get_slice(key).get_shape())
    if len(files) > 1 or SINGLE not in files:
        table = read_json(directory / INDEX)['weight_map']
        wrong = [k for k in {**table, **found} if table.get(k) != found.get(k, ('',))[0]]
        if wrong:
            key = wrong[0]
            raise CheckpointError(f'{directory / INDEX}: {key}: expected in '
                                  f'{table.get(key, "no file")}, found in '
                                  f'{found.get(key, ("none",))[0]}')
    return found


def _check(directory: Path, config: LlmConfig, found: Mapping[str, tuple[str, tuple[int, ...]]],
           wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    names = dict(wanted.values())
    tied = {'lm_head.weight'} if config.tied_embeddings else set()
    problems = [f'missing tensor {n}: expected shape {list(s)}'
                for n, s in names.items() if n not in found]
    problems += [f'unknown tensor {n} of shape {list(s)}' for n, (_, s) in found.items()
                 if n not in names and n not in tied and not _UNUSED.fullmatch(n)]
    problems += [f'{n}: expected shape {list(s)}, found {list(found[n][1])}'
                 for n, s in names.items() if n in found and found[n][1] != s]
    if problems:
        shown = '\n  '.join(problems[:_SHOWN])
        more = f'\n  and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise CheckpointError(f'{directory}: does not fit its config.json:\n  {shown}{more}')


def read_hf_config(directory: str | Path) -> LlmConfig:
    """Return the sizes of a language model in Hugging Face layout.

    :raises CheckpointError: naming the key that is missing, unknown or not supported.
    """
    path = Path(directory) / 'config.json'
    try:
        return llm_config(read_json(path))
    except ConfigError as error:
        raise CheckpointError(f'{path}: {error}') from error


def locate_tensors(directory: Path, config: LlmConfig) -> dict[str, tuple[Path, str]]:
    """Return own name -> file and stored name of a language model, having compared all shapes.

    :raises CheckpointError: naming the tensor that is missing, unknown or does not fit.
    """
    with ExitStack() as stack:
        files = {path.name: open_safetensors(stack, path) for path in weight_files(directory)}
        found = _shapes(directory, files)
    try:
        wanted = expected_tensors(config)
    except ConfigError as error:
        raise CheckpointError(f'{directory / "config.json"}: {error}') from error
    _check(directory, config, found, wanted)
    places = {own: (directory / found[name][0], name) for own, (name, _) in wanted.items()}
    if config.tied_embeddings and 'lm_head.weight' in found:
        _check_tied(directory, places['tok_embeddings.weight'],
                    (directory / found['lm_head.weight'][0], 'lm_head.weight'))
    return places


def _check_tied(directory: Path, *places: tuple[Path, str]) -> None:
    """Refuse an output table that differs from the embeddings that it is said to be."""
    with ExitStack() as stack:
        one, two = (open_safetensors(stack, path).get_tensor(name) for path, name in places)
        if not torch.equal(one, two):
            raise CheckpointError(f'{directory}: lm_head.weight differs from model.embed_tokens.'
                                  'weight, although tie_word_embeddings says that they are one')


def read_hf_llm(directory: str | Path) -> tuple[LlmConfig, dict[str, Tensor]]:
    """Read a language model in Hugging Face layout: config.json and safetensors beside it.

    :param directory: as ``save_pretrained`` of transformers writes it; one file or shards.
    :returns: sizes, and the state of :class:`Llama` with the types of the files (mapped from disk
        where the platform can).
    :raises CheckpointError: naming the key or tensor that is missing, unknown or does not fit.
    """
    folder = Path(directory)
    config = read_hf_config(folder)
    places = locate_tensors(folder, config)
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files = {path: open_safetensors(stack, path)
                 for path in dict.fromkeys(path for path, _ in places.values())}
        for own, (path, name) in places.items():
            state[own] = files[path].get_tensor(name)
            if not state[own].is_floating_point():
                raise CheckpointError(f'{path}: {name}: expected floating-point values, found '
                                      f'{state[own].dtype}')
    return config, state


def load_hf_llm(directory: str | Path, *, dtype: torch.dtype = torch.float32,
                device: torch.device | str = 'cpu') -> Llama:
    """Return a language model in Hugging Face layout, in evaluation mode.

    :raises CheckpointError: as :func:`read_hf_llm`.
    """
    config, state = read_hf_llm(directory)
    with torch.device('meta'):
        model = Llama(config)
    model.load_state_dict({k: v.to(dtype) for k, v in state.items()}, strict=True, assign=True)
    return model.to(device).eval()
