"""Recipes as files: a model's sizes and its stages in YAML, read strictly and written again.

``load_recipe`` reads what ``recipe_text`` writes; what both say of a stage are the fields of
:class:`Stage`, ``sets`` under the name ``modalities``. docs/training.md describes the form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
import math
from pathlib import Path
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import yaml

from onellm_ros.config import PRESETS, ConfigError, ModelConfig, from_mapping, to_mapping
from onellm_ros.datasets.config import TEXT
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.model.onellm import PARTS, OneLLM
from onellm_ros.training.recipes import RECIPES, Recipe
from onellm_ros.training.stages import Set, Stage

SUFFIXES = ('.yaml', '.yml')
MODALITIES, LIKE = 'modalities', 'like'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')
_STAGE_TYPES = get_type_hints(Stage)
_RECIPE_TYPES = get_type_hints(Recipe)
_FIELDS = {MODALITIES if f.name == 'sets' else f.name: f.name for f in fields(Stage)}
_NEEDED = ('kind', MODALITIES, 'trains', 'steps')
# What is written of every stage, even where it is as the defaults have it.
_SHOWN = (*_NEEDED, 'data', 'batch', 'learning_rate', 'warmup')


class RecipeError(ValueError):
    """A file that is no recipe: says file, line, stage and key, what was found and expected."""


class _Lined(dict[Any, Any]):
    """A mapping of a YAML file that knows where it stands.

    Attributes: ``line``, its first; ``lines`` by key.
    """

    line = 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Any, int] = {}

    def at(self, *keys: str) -> int:
        """Return the line of a key, or of a key of the mapping below it, as deep as known."""
        line = self.lines.get(keys[0], self.line) if keys else self.line
        below = self.get(keys[0]) if keys else None
        return below.at(*keys[1:]) if keys[1:] and isinstance(below, _Lined) else line


class _Loader(yaml.SafeLoader):
    """Reads mappings with their lines, and 1e-3 as the number that it is."""

    def lined(self, node: yaml.MappingNode) -> Any:
        """Build a mapping; a key that stands twice in it is an error."""
        out = _Lined()
        yield out
        out.line = node.start_mark.line + 1
        own: set[str] = set()
        for key, _ in node.value:
            if key.tag != 'tag:yaml.org,2002:merge' and isinstance(key.value, str):
                if key.value in own:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'the key {key.value!r} stands twice', key.start_mark)
                own.add(key.value)
        out.update(self.construct_mapping(node))
        out.lines = {key.value: key.start_mark.line + 1 for key, _ in node.value
                     if isinstance(key.value, str)}


_Loader.add_constructor('tag:yaml.org,2002:map', _Loader.lined)
_Loader.add_implicit_resolver('tag:yaml.org,2002:float',
                              re.compile(r'[-+]?[0-9]+[eE][-+]?[0-9]+$'), list('-+0123456789'))


def _read(path: Path) -> _Lined:
    """Return the mapping that a file holds.

    :raises RecipeError: if it holds none, or cannot be read.
    """
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), _Loader)  # noqa: S506 (safe)
    except FileNotFoundError:
        raise RecipeError(f'{path}: no such file; expected a recipe (onellm train --show writes '
                          'one)') from None
    except yaml.MarkedYAMLError as error:
        line = f':{error.problem_mark.line + 1}' if error.problem_mark else ''
        raise RecipeError(f'{path}{line}: found no readable YAML: {error.problem}') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f'{path}: found no readable YAML: '
                          f'{" ".join(str(error).split())}') from None
    if not isinstance(values, _Lined):
        raise RecipeError(f'{path}: found {"nothing" if values is None else type(values).__name__}'
                          ', expected a mapping with model and stages')
    return values


def _typed(hint: Any, value: Any) -> Any:
    """Return a value of YAML as the type that a field has.

    :raises ValueError: saying what was expected.
    """
    options = [o for o in get_args(hint) if o is not type(None)]
    if get_origin(hint) in (Union, UnionType):
        return None if value is None else _typed(options[0], value)
    if get_origin(hint) is tuple:
        return _typed_list(options, value)
    if hint is Modality:
        if not isinstance(value, str):
            raise ValueError('expected the name of a modality')
        return parse_modality(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wrong = not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    if wrong or (hint is float and not math.isfinite(value)):
        expected = {int: 'a whole number', float: 'a number', bool: 'true or false',
                    str: 'a text'}[hint]
        raise ValueError(f'expected {expected}')
    return value


def _typed_list(hints: Sequence[Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError('expected a list')
    if hints[1:] == [...]:
        return tuple(_typed(hints[0], one) for one in value)
    if len(value) != len(hints):
        raise ValueError(f'expected a list of {len(hints)}')
    return tuple(_typed(hint, one) for hint, one in zip(hints, value, strict=True))


def _sets(value: Any) -> tuple[Set, ...]:
    """Return the sets that batches hold: a list of names, or a mapping with their frequencies.

    :raises ValueError: saying what was found and expected.
    """
    if isinstance(value, list):
        value = [(one, 1) for one in value]
    elif isinstance(value, Mapping):
        value = list(value.items())
    else:
        raise ValueError(f'found {value!r}, expected a list of modalities, or a mapping of '
                         f'modalities to their frequencies; image+imu: both in a batch; {TEXT}: '
                         'none')
    out: list[Set] = []
    for name, share in value:
        if not isinstance(name, str):
            raise ValueError(f'found {name!r}, expected the name of a modality')
        present = () if name.strip() == TEXT else tuple(
            parse_modality(part) for part in name.split('+'))
        if len(set(present)) < len(present) or any(set(present) == set(p) for p, _ in out):
            raise ValueError(f'found {name!r} twice, expected each once')
        try:
            out.append((present, _typed(float, share)))
        except ValueError as error:
            raise ValueError(f'{name}: found {share!r}, {error}') from None
    return tuple(out)


def _stage(path: Path, number: int, entry: Any, before: Mapping[str, Stage]) -> Stage:
    """Return one stage of a file.

    :raises RecipeError: naming line, stage and key.
    """
    if not isinstance(entry, _Lined):
        raise RecipeError(f'{path}: stages[{number}]: found {entry!r}, expected a mapping with '
                          f'name, and {", ".join(_NEEDED)} or {LIKE}')
    name = entry.get('name')

    def fail(key: str, text: str) -> RecipeError:
        title = f'stage {name}' if isinstance(name, str) else f'stages[{number}]'
        return RecipeError(f'{path}:{entry.at(key)}: {title}: {key}: {text}')

    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fail('name', f'found {name!r}, expected letters, digits, _ and -')
    if name in before:
        raise fail('name', 'found it at two stages, expected all of them different')
    values: dict[str, Any] = {}
    if LIKE in entry:
        like = entry[LIKE]
        known = {**{f'{r.name}.{s.name}': s for r in RECIPES.values() for s in r.stages}, **before}
        if not isinstance(like, str) or like not in known:
            raise fail(LIKE, f'found {like!r}, expected a stage above this one '
                       f'({", ".join(before) or "there is none"}) or one of a preset '
                       f'({", ".join(k for k in known if "." in k)})')
        values = vars(known[like]) | {}
    for key, value in entry.items():
        if key in ('name', LIKE):
            continue
        if key not in _FIELDS:
            raise fail(key, f'unknown key, expected one of {", ".join((*_FIELDS, LIKE))}')
        field = _FIELDS[key]
        try:
            values[field] = _sets(value) if key == MODALITIES else _typed(
                _STAGE_TYPES[field], value)
        except ValueError as error:
            found = '' if 'found' in str(error) else f'found {value!r}, '
            raise fail(key, f'{found}{error}') from None
    if values.get('data') == 'manifest':
        values.setdefault('sets', ())                   # as often as the manifest says
    missing = [key for key in _NEEDED if _FIELDS[key] not in values]
    if missing:
        raise fail(missing[0], f'found none, expected it (or {LIKE}: another stage)')
    try:
        return Stage(**{**values, 'name': name})
    except ValueError as error:
        text = str(error).removeprefix(f'stage {name}: ')
        named = re.match(r'(?:found|unknown) (data|kind|parts)|(\w+): ', text)
        key = (named.group(1) or named.group(2)) if named else MODALITIES
        line = entry.at('trains' if key == 'parts' else key)
        raise RecipeError(f'{path}:{line}: stage {name}: {text}') from None


def _model(path: Path, values: _Lined) -> ModelConfig:
    """Return the sizes of a file's model: a preset's, changed or not, or all spelled out.

    :raises RecipeError: naming line and key.
    """
    found = values.get('model')
    at = f'{path}:{values.at("model")}'
    changes = found if isinstance(found, _Lined) else _Lined()
    base = changes.get('preset') if isinstance(found, _Lined) else found
    if not isinstance(found, (str, _Lined)):
        raise RecipeError(f'{at}: model: found {found!r}, expected one of {", ".join(PRESETS)}, '
                          'or a mapping (preset: one of them; encoder, tokenizer, upm, llm, text: '
                          'what differs from it)')
    if base is not None and base not in PRESETS:
        raise RecipeError(f'{at}: model: found the preset {base!r}, expected one of '
                          f'{", ".join(PRESETS)}')
    merged = {} if base is None else to_mapping(PRESETS[base])
    for key, value in changes.items():
        if key != 'preset':
            merged[key] = {**merged[key], **value} if isinstance(value, Mapping) and isinstance(
                merged.get(key), dict) else value
    try:
        config = from_mapping(ModelConfig, merged)
        with torch.device('meta'):
            OneLLM(config)
    except (ConfigError, RuntimeError) as error:
        where = re.search(r"unknown key '([^']+)'|^([\w.]+): ", str(error))
        keys = (where.group(1) or where.group(2)).split('.') if where else []
        raise RecipeError(f'{path}:{values.at("model", *keys)}: model: {error}') from None
    return config


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    :raises RecipeError: naming file, line, stage and key, what was found and what was expected.
    """
    path = Path(path)
    values = _read(path)
    for key in values:
        if key not in _RECIPE_TYPES:
            raise RecipeError(f'{path}:{values.at(key)}: unknown key {key!r}, expected '
                              f'{", ".join(_RECIPE_TYPES)}')
    out: dict[str, Any] = {'name': path.stem}
    for key, hint in _RECIPE_TYPES.items():
        if key in values and key not in ('model', 'stages'):
            try:
                out[key] = _typed(hint, values[key])
            except ValueError as error:
                raise RecipeError(f'{path}:{values.at(key)}: {key}: found {values[key]!r}, '
                                  f'{error}') from None
    for key, good, expected in (
            ('name', _NAME.fullmatch(out['name']), 'letters, digits, _ and -'),
            *((name, set(out.get(name, ())) <= set(PARTS), f'some of {", ".join(PARTS)}')
              for name in ('needs', 'coarse')),
            ('save_every', out.get('save_every', 1) > 0, 'at least 1')):
        if not good:
            raise RecipeError(f'{path}:{values.at(key)}: {key}: found {out[key]!r}, expected '
                              f'{expected}')
    entries = values.get('stages')
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f'{path}:{values.at("stages")}: stages: found {entries!r}, expected a '
                          'list of stages')
    stages: dict[str, Stage] = {}
    for number, entry in enumerate(entries):
        stage = _stage(path, number, entry, stages)
        stages[stage.name] = stage
    return Recipe(**{**out, 'model': _model(path, values), 'stages': tuple(stages.values())})


def _plain(value: Any) -> Any:
    """Return a field's value as YAML has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, Modality) else value


def _sets_text(sets: Sequence[Set]) -> Any:
    named = {'+'.join(m.value for m in present) or TEXT: share for present, share in sets}
    if all(share == 1 for share in named.values()):
        return list(named)
    return {name: int(share) if share == int(share) else share for name, share in named.items()}


def _stage_values(stage: Stage) -> dict[str, Any]:
    out: dict[str, Any] = {'name': stage.name}
    for key, field in _FIELDS.items():
        value = getattr(stage, field)
        default = next(f.default for f in fields(Stage) if f.name == field)
        if key in _SHOWN or (key != 'name' and value != default):
            out[key] = _sets_text(value) if key == MODALITIES else _plain(value)
    return out


def _model_values(config: ModelConfig) -> Any:
    """Return what differs from the preset of its name, or all of it."""
    values = to_mapping(config)
    if config.name not in PRESETS:
        return values
    base, out = to_mapping(PRESETS[config.name]), {'preset': config.name}
    for key, value in values.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v != base[key][k]}
        if value and value != base[key]:
            out[key] = value
    return out if len(out) > 1 else config.name


def _lines(values: Mapping[str, Any], flow: bool | None = None) -> list[str]:
    """Return YAML lines: a key each, what stands below it within a line where that is short."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=flow, width=78,
                               allow_unicode=True)
    return text.splitlines()


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML that :func:`load_recipe` reads as the same."""
    rest = {f.name: _plain(f.default) for f in fields(Stage)
            if f.default is not MISSING and f.name not in _SHOWN}
    head = {f.name: _model_values(recipe.model) if f.name == 'model'
            else _plain(getattr(recipe, f.name)) for f in fields(Recipe) if f.name != 'stages'}
    out = ['# Save, edit, run:  onellm train --preset FILE.yaml',
           '# What a stage does not name is:', *(f'#   {line}' for line in _lines(rest, True)),
           *_lines(head), 'stages:']
    for stage in recipe.stages:
        first, *more = _lines(_stage_values(stage))
        out += [f'- {first}', *(f'  {line}' for line in more)]
    return '\n'.join(out) + '\n'
