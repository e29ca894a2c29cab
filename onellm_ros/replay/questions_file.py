"""Questions that a replay asks of every window, from a text file or YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from onellm_ros.node_config import AskConfig
from onellm_ros.perception.questions import AskError, question_of
from onellm_ros.perception.results import Question
from onellm_ros.replay.records import ReplayError

_FIELDS: dict[str, Any] = {'question': '', 'modalities': [], 'sources': [], 'choices': [],
                           'max_tokens': 0, 'temperature': 0.0}


def one_question(entry: Any, limits: AskConfig, where: str) -> Question:
    """Return a question as the service would take it.

    :param entry: text, or a mapping with ``question`` and some of ``choices``, ``modalities``,
        ``sources``, ``max_tokens`` and ``temperature``.
    :raises ReplayError: naming ``where`` it stands.
    """
    if isinstance(entry, str):
        entry = {'question': entry}
    if not isinstance(entry, Mapping) or set(entry) - set(_FIELDS):
        raise ReplayError(f'{where}: found {entry!r:.80}, expected a text, or a mapping with some '
                          f'of {", ".join(_FIELDS)}')
    values = {**_FIELDS, **entry}
    for name, default in _FIELDS.items():
        value = values[name]
        if isinstance(default, list):
            fits = isinstance(value, list) and all(isinstance(v, str) for v in value)
        elif isinstance(default, str):
            fits = isinstance(value, str)
        else:
            fits = isinstance(value, (int, float) if isinstance(default, float) else int) \
                and not isinstance(value, bool) and value >= 0
        if not fits:
            raise ReplayError(f'{where}: {name}: found {value!r}, expected ' + (
                'a list of texts (in quotes: yes and no are no texts in YAML)'
                if isinstance(default, list)
                else 'a text' if isinstance(default, str) else 'a number from 0'))
    try:
        return question_of(SimpleNamespace(**values, conversation=''), 0, limits)
    except AskError as error:
        raise ReplayError(f'{where}: {error}') from error


def read_questions(path: str | Path, limits: AskConfig) -> tuple[Question, ...]:
    """Read questions: of a ``.yaml`` or ``.yml`` file a list, of any other one a line.

    Empty lines of a text file, and those that begin with #, are left out.

    :raises ReplayError: if the file, or one of its questions, cannot be used.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f'questions {file}: {error}; expected a text file in UTF-8') from error
    entries: Iterable[tuple[int, Any]]
    if file.suffix in ('.yaml', '.yml'):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ReplayError(f'questions {file}: {" ".join(str(error).split())}') from error
        if isinstance(found, Mapping) and set(found) == {'questions'}:
            found = found['questions']
        if not isinstance(found, list):
            raise ReplayError(f'questions {file}: expected a list of questions, found '
                              f'{found!r:.80}')
        entries, unit = enumerate(found, 1), 'question'
    else:
        entries = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1)
                   if line.strip() and not line.strip().startswith('#'))
        unit = 'line'
    out = tuple(one_question(entry, limits, f'questions {file}, {unit} {n}')
                for n, entry in entries)
    if not out:
        raise ReplayError(f'questions {file}: found none, expected one a line')
    return out
