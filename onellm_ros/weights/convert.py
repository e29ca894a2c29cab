"""Between the released layout and safetensors with the language model in Hugging Face layout.

Values are copied, never computed with: queries and keys change the order of their rows between
the two rotary layouts, everything else its name only. What the model has no use for is kept aside,
so that the way back gives every tensor again, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
import json
from pathlib import Path
import shutil
from typing import Any

from torch import Tensor

from onellm_ros.config import ConfigError, LlmConfig, ModelConfig, to_mapping
from onellm_ros.model.checkpoint import LLM, own_model
from onellm_ros.model.files import read_json
from onellm_ros.model.hf_config import hf_config
from onellm_ros.model.hf_llm import INDEX, SINGLE, hf_name
from onellm_ros.model.layers import swiglu_hidden
from onellm_ros.model.released import entries
from onellm_ros.model.released_config import released_config
from onellm_ros.model.text import Text, TextError
from onellm_ros.weights.errors import WeightsError
from onellm_ros.weights.output import Output
from onellm_ros.weights.sources import EXTRAS, ORDER, UNUSED, ReleasedSource, Source
from onellm_ros.weights.tensors import Item, Told, groups, write_safetensors, write_torch

CONSOLIDATED = 'consolidated.00-of-01.pth'
SHARD = 2_000_000_000           # bytes of a file of the language model, at most
_SLACK = 1 << 20                # room for the small files
_RELEASED_LLM = ('dim', 'layers', 'heads', 'kv_heads', 'hidden', 'multiple_of', 'vocab_size',
                 'max_positions', 'norm_eps', 'rope_theta', 'tied_embeddings')


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(values, indent=1) + '\n', encoding='utf-8')


def _plain(config: ModelConfig) -> ModelConfig:
    """Return a configuration with all sizes spelled out, to compare two that mean the same."""
    llm, upm = config.llm, config.upm
    return replace(
        config, llm=replace(llm, hidden=swiglu_hidden(llm.dim, llm.multiple_of, llm.hidden),
                            multiple_of=1, kv_heads=llm.kv_heads or llm.heads,
                            head_dim=llm.head_size),
        upm=replace(upm, multiple_of=1, hidden=swiglu_hidden(
            config.encoder.width, upm.multiple_of, upm.hidden)))


def _token_ids(source: Source) -> dict[str, int] | None:
    """Return the ids that Hugging Face's tools want to know, if there is a tokenizer."""
    try:
        text = Text.load(source.folder, source.model.config.text)
    except TextError:
        return None
    return {'bos': text.bos, 'eos': text.eos}


def _write_llm(source: Source, folder: Path, shard: int, told: Told) -> None:
    """Write the language model with its tokenizer."""
    folder.mkdir()
    mine = {hf_name(name.removeprefix('llm.')): item for name, item in source.items.items()
            if name.startswith('llm.')}
    kinds = Counter[str]()
    for item in mine.values():
        kinds[str(item.dtype).removeprefix('torch.')] += item.bytes
    write_json(folder / 'config.json', hf_config(
        source.model.config.llm, dtype=kinds.most_common(1)[0][0], ids=_token_ids(source)))

    def read(names: Sequence[str]) -> Iterable[Tensor]:
        """Read tensors by their Hugging Face names."""
        return source.read([mine[name].name for name in names])

    parts = list(groups([replace(item, name=name) for name, item in mine.items()], shard))
    table: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = SINGLE if len(parts) == 1 else (
            f'model-{number:05}-of-{len(parts):05}.safetensors')
        write_safetensors(folder / name, part, read, told)
        table |= dict.fromkeys((item.name for item in part), name)
    if len(parts) > 1:
        total = sum(item.bytes for item in mine.values())
        write_json(folder / INDEX, {'metadata': {'total_size': total}, 'weight_map': table})
    copied = [shutil.copy(path, folder) for path in source.tokenizer_files()]
    if {Path(c).name for c in copied} == {'tokenizer.model'}:
        # what tools of Hugging Face need beside a SentencePiece model
        write_json(folder / 'tokenizer_config.json', {
            'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>', 'eos_token': '</s>',
            'unk_token': '<unk>', 'add_bos_token': True, 'add_eos_token': False, 'legacy': False})


def to_hugging_face(source: Source, target: Path, *, force: bool = False, shard: int = SHARD,
                    drop_unused: bool = False, told: Told = lambda _: None) -> None:
    """Write a model as safetensors, its language model in Hugging Face layout in ``llm``.

    :param shard: bytes of a file of the language model, at most.
    :param drop_unused: leave out tensors that the model has no use for; the way back then misses
        them.
    :param told: called with the bytes of each tensor that was written.
    :raises WeightsError: if the target cannot be written.
    :raises ConfigError: if no Hugging Face family fits the language model.
    """
    hf_config(source.model.config.llm)      # an error before anything is written
    unused = {} if drop_unused else source.unused
    needed = sum(item.bytes for item in (*source.items.values(), *unused.values()))
    with Output(target, force=force, needed=needed + _SLACK, sources=[source.folder]) as folder:
        values = to_mapping(source.model.config)
        del values['llm']
        write_json(folder / 'config.json', values)
        _write_llm(source, folder / LLM, shard, told)
        rest = [item for name, item in source.items.items() if not name.startswith('llm.')]
        write_safetensors(folder / 'model.safetensors', rest, source.read, told)
        extras = folder / EXTRAS
        if isinstance(source, ReleasedSource):
            extras.mkdir()
            write_json(extras / ORDER, [
                n for n in source.order if not drop_unused or n not in source.unused])
            for name in ('config.json', 'params.json'):
                if (source.folder / name).is_file():
                    shutil.copy(source.folder / name, extras)
        elif (source.folder / EXTRAS).is_dir():
            shutil.copytree(source.folder / EXTRAS, extras,
                            ignore=shutil.ignore_patterns(UNUSED))
        if unused:
            extras.mkdir(exist_ok=True)
            write_safetensors(extras / UNUSED, list(unused.values()), source.read, told)
        if _plain(own_model(folder).config) != _plain(source.model.config):
            raise WeightsError(f'{target}: what was written does not read as the same model')


def released_values(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a model in the released layout.

    :raises WeightsError: naming what the layout has no place for.
    """
    llm = config.llm
    plain = LlmConfig(**{key: getattr(llm, key) for key in _RELEASED_LLM})
    odd = [key for key, value in to_mapping(replace(llm, head_dim=0)).items()
           if to_mapping(plain)[key] != value]
    if llm.head_size != plain.head_size:
        odd.append('head_dim')
    if odd:
        raise WeightsError(f'llm.{odd[0]}: found {getattr(llm, odd[0])!r}; the released layout '
                           'has no place for it')
    values = to_mapping(config)
    return {**values, 'llm': {key: values['llm'][key] for key in _RELEASED_LLM}}


def _released_config(source: Source, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Write the config.json, or the file that the checkpoint came with if it still says this."""
    wanted = source.model.config
    for name in ('config.json', 'params.json'):
        path = source.folder / EXTRAS / name
        if path.is_file():
            try:
                same = _plain(released_config(read_json(path), shapes)) == _plain(wanted)
            except ConfigError:
                same = False
            if same:
                shutil.copy(path, folder)
                return
    values = released_values(wanted)
    if _plain(released_config(values, shapes)) != _plain(wanted):
        raise WeightsError(f'{folder / "config.json"}: the released layout cannot say all of '
                           f'{source.folder / "config.json"}')
    write_json(folder / 'config.json', values)


def to_released(source: Source, target: Path, *, force: bool = False,
                told: Told = lambda _: None) -> None:
    """Write a model in the released layout.

    :param told: called with the bytes of each tensor that was written.
    :raises WeightsError: if the layout has no place for something, or the target cannot be
        written.
    """
    config = source.model.config
    released_values(config)
    table = {entry.released: entry for entry in entries(config)}
    left = sorted(set(source.items) - {entry.own for entry in table.values()})
    if left:
        raise WeightsError(f'{left[0]} (and {len(left) - 1} more): the released layout has no '
                           'place for it')
    own = source.model.state_dict()
    items = {name: Item(name, source.items[e.own].dtype, tuple(e.to_released(own[e.own]).shape))
             for name, e in table.items()} | source.unused
    order = list(items)
    path = source.folder / EXTRAS / ORDER
    if path.is_file():
        known = json.loads(path.read_text(encoding='utf-8'))
        order = [*(n for n in known if n in items), *(n for n in items if n not in set(known))]

    def read(names: Sequence[str]) -> Iterable[Tensor]:
        """Read tensors by their released names, in the released layout."""
        own_names = [table[n].own if n in table else n for n in names]
        for name, value in zip(names, source.read(own_names)):
            yield table[name].to_released(value) if name in table else value

    needed = sum(item.bytes for item in items.values())
    with Output(target, force=force, needed=needed + _SLACK, sources=[source.folder]) as folder:
        _released_config(source, {n: i.shape for n, i in items.items()}, folder)
        write_torch(folder / CONSOLIDATED, [items[name] for name in order], read, told)
        for file in source.tokenizer_files():
            if file.name in ('tokenizer.model', 'tokenizer.json'):
                shutil.copy(file, folder)
