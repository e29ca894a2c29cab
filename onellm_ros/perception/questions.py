"""Requests of the service and the action -> checked questions.

This module owns what a valid question is; answering it is the business of ``worker.py``.
"""

from __future__ import annotations

import math
from typing import Any

from onellm_ros.modality import Modality, parse_modality
from onellm_ros.node_config import AskConfig
from onellm_ros.perception.results import Question

_LONGEST_NAME = 256


class AskError(ValueError):
    """A request that cannot be answered: name of the error code of Ask.srv, and text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _modalities(names: Any) -> frozenset[Modality] | None:
    if not names:
        return None
    try:
        return frozenset(parse_modality(name) for name in names)
    except ValueError as error:
        raise AskError('INVALID_MODALITY', str(error)) from error


def _choices(found: Any) -> tuple[str, ...]:
    choices = tuple(choice.strip() for choice in found)
    if choices and (len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices)):
        raise AskError('INVALID_CHOICES', f'found choices {list(choices)}, expected at least two, '
                       'none blank, none twice; or none at all for free text')
    return choices


def _sources(found: Any) -> tuple[str, ...]:
    sources = tuple(name.strip() for name in found)
    if not all(sources) or len(set(sources)) < len(sources):
        raise AskError('INVALID_SOURCE', f'found sources {list(found)}, expected names of sources '
                       '(parameter sources), none blank, none twice; or none at all')
    return sources


def question_of(request: Any, at_ns: int, limits: AskConfig) -> Question:
    """Check a request (or an action's goal) and return its question.

    :param at_ns: the time asked about; 0: now.
    :raises AskError: naming the error code.
    """
    text = request.question.strip()
    if not text:
        raise AskError('INVALID_QUESTION', 'found no question, expected text')
    temperature = float(request.temperature)
    if not math.isfinite(temperature) or temperature < 0:
        raise AskError('INVALID_OPTION', f'temperature: found {temperature}, expected 0 or more')
    if request.max_tokens > limits.max_tokens_limit:
        raise AskError('INVALID_OPTION', f'max_tokens: found {request.max_tokens}, expected at '
                       f'most ask.max_tokens_limit, {limits.max_tokens_limit}')
    conversation = request.conversation.strip()
    if len(conversation) > _LONGEST_NAME:
        raise AskError('INVALID_OPTION', f'conversation: found {len(conversation)} characters, '
                       f'expected a name of at most {_LONGEST_NAME}')
    return Question(text, _modalities(request.modalities), at_ns, _choices(request.choices),
                    int(request.max_tokens) or limits.max_tokens, temperature,
                    _sources(request.sources), conversation)
