"""What a data set and a mix of several are, as a manifest (YAML) says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import glob
import math
from pathlib import Path
from typing import Any

import yaml

from onellm_ros.config import ConfigError, from_mapping
from onellm_ros.datasets.errors import DataError
from onellm_ros.modality import Modality, parse_modality

KINDS = ('instruction', 'alignment')
TEXT = 'text'                   # the "modality" of conversations without any signal
ON_BROKEN = ('error', 'skip')


@dataclass(frozen=True)
class SetConfig:
    """One data set of a mix.

    :param file: annotation file, relative to the root; ``*`` stands for several.
    :param modality: name of a modality, or ``text``.
    :param kind: ``instruction`` (conversations) or ``alignment`` (captions).
    :param name: in messages and counts; the file's stem (or pattern) if not given.
    :param files: folder below the root that the sensor files' paths are relative to.
    :param rename: (from, to) pairs: a sensor file's path that begins with ``from`` begins with
        ``to`` instead; the first that fits counts.
    :param companion: (from, to): put in the path of a colour picture, they make that of its depth
        or normal picture, in alignment tables.
    :param imu: folder of the IMU recordings of an alignment list.
    :param weight: relative frequency in the mix; 0: as often as its size and ``repeats`` make it.
    :param repeats: how often an epoch goes through it (without ``weight``).
    """

    file: str
    modality: str
    kind: str = 'instruction'
    name: str = ''
    files: str = ''
    rename: tuple = ()
    companion: tuple = ()
    imu: str = ''
    weight: float = 0.0
    repeats: float = 1.0

    def __post_init__(self) -> None:
        """Check what stands in it, and bring lists of a YAML file into its form.

        :raises DataError: naming the key, what was found and what was expected.
        """
        where = f'data set {self.title!r}'
        if not self.file:
            raise DataError(f'{where}: found no file, expected the path of an annotation file')
        if self.kind not in KINDS:
            raise DataError(f'{where}: kind: found {self.kind!r}, expected one of {KINDS}')
        if self.modality != TEXT:
            try:
                object.__setattr__(self, 'modality', parse_modality(self.modality).value)
            except ValueError as error:
                raise DataError(f'{where}: {error}, or {TEXT}') from None
        if self.modality == TEXT and self.kind != 'instruction':
            raise DataError(f'{where}: found text with kind {self.kind!r}, expected instruction: '
                            'alignment pairs a signal with its caption')
        for pair in self.rename:
            _check_pair(where, 'rename', pair)
        if self.companion:
            _check_pair(where, 'companion', self.companion)
        for key in ('weight', 'repeats'):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise DataError(f'{where}: {key}: found {value}, expected a number above 0')
        if self.repeats == 0:
            raise DataError(f'{where}: repeats: found 0, expected a number above 0; leave the '
                            'data set out')

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name or (self.file if self.many else Path(self.file).stem)

    @property
    def many(self) -> bool:
        """Whether ``file`` stands for several."""
        return any(mark in self.file for mark in '*?[')

    @property
    def sense(self) -> Modality | None:
        """Its modality; None for text."""
        return None if self.modality == TEXT else Modality(self.modality)


def _check_pair(where: str, key: str, value: Any) -> None:
    """Check that a value is two texts, the first not empty.

    :raises DataError: if not.
    """
    good = isinstance(value, tuple) and len(value) == 2 \
        and all(isinstance(text, str) for text in value) and value[0]
    if not good:
        raise DataError(f'{where}: {key}: found {value!r}, expected two texts [from, to]'
                        f'{" in a list" if key == "rename" else ""}')


@dataclass(frozen=True)
class MixConfig:
    """Several data sets.

    :param root: folder that all paths are relative to.
    :param expected: examples by modality that the sets should hold together, as far as known.
    """

    sets: tuple[SetConfig, ...]
    root: Path
    name: str = ''
    expected: Mapping[str, int] | None = None


def annotation_files(config: SetConfig, root: Path) -> list[Path]:
    """Return the annotation files of a data set that exist; the list may be empty."""
    path = root / Path(config.file).expanduser()
    if config.many:
        return sorted(Path(found) for found in glob.glob(str(path), recursive=True))
    return [path] if path.is_file() else []


def load_manifest(path: str | Path, root: str | Path | None = None) -> MixConfig:
    """Read a manifest and look that its annotation files are there.

    :param root: folder that its paths are relative to; None: as the manifest says, or its folder.
    :raises DataError: for a manifest that is not understood, and for missing annotation files,
        naming all of them.
    """
    path = Path(path)
    values = _read_yaml(path)
    unknown = sorted(set(values) - {'name', 'root', 'expected', 'sets'})
    if unknown:
        raise DataError(f'{path}: unknown key {unknown[0]!r}: expected name, root, expected, sets')
    entries = values.get('sets')
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{path}: sets: found {entries!r}, expected a list of data sets with file '
                        'and modality each')
    sets = tuple(_set(path, number, entry) for number, entry in enumerate(entries))
    folder = Path(root).expanduser() if root is not None \
        else path.parent / Path(_text(path, values, 'root') or '.').expanduser()
    mix = MixConfig(sets, folder, _text(path, values, 'name') or path.stem,
                    _expected(path, values.get('expected')))
    check_mix(mix, str(path))
    return mix


def check_mix(mix: MixConfig, where: str) -> None:
    """Check that names differ, that all sets or none have a weight, and that the files exist.

    :raises DataError: if not.
    """
    titles = [config.title for config in mix.sets]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise DataError(f'{where}: several data sets are called {twice}; give each a name')
    weighted = [config.title for config in mix.sets if config.weight > 0]
    if weighted and len(weighted) < len(mix.sets):
        without = [title for title in titles if title not in weighted]
        raise DataError(f'{where}: found a weight for {weighted}, but none for {without}; '
                        'expected weights for all data sets or for none')
    missing = [str(Path(config.file)) for config in mix.sets
               if not annotation_files(config, mix.root)]
    if missing:
        listed = '\n'.join(f'  {name}' for name in missing)
        raise DataError(f'{where}: {len(missing)} of {len(mix.sets)} annotation files are missing '
                        f'below {mix.root} (is the root right?):\n{listed}')


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise DataError(f'{path}: no such manifest') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = ' '.join(str(error).split())
        raise DataError(f'{path}: found no readable YAML: {text}') from None
    if not isinstance(values, dict):
        raise DataError(f'{path}: found {type(values).__name__}, expected a mapping with sets')
    return values


def _text(path: Path, values: Mapping[str, Any], key: str) -> str:
    value = values.get(key) or ''
    if not isinstance(value, str):
        raise DataError(f'{path}: {key}: found {value!r}, expected a text')
    return value


def _expected(path: Path, value: Any) -> dict[str, int] | None:
    if value is None:
        return None
    known = {TEXT, *(m.value for m in Modality)}
    if not isinstance(value, dict) or not set(value) <= known \
            or not all(isinstance(n, int) for n in value.values()):
        raise DataError(f'{path}: expected: found {value!r}, expected numbers of examples by '
                        f'modality ({", ".join(sorted(known))})')
    return value


def _set(path: Path, number: int, entry: Any) -> SetConfig:
    where = f'{path}: sets[{number}]'
    if not isinstance(entry, dict) or not {'file', 'modality'} <= set(entry):
        raise DataError(f'{where}: found {entry!r}, expected at least file and modality')
    values = {key: _as_tuples(value) for key, value in entry.items()}
    try:
        return from_mapping(SetConfig, values)
    except (ConfigError, DataError) as error:
        raise DataError(f'{where}: {error}') from None


def _as_tuples(value: Any) -> Any:
    """Return lists as tuples, all the way down."""
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list) else value
