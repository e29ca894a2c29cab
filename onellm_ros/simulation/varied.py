"""Questions in many words: patterns filled, things called by other names, forms of address.

Spellings vary and small mistakes are made, as people do. Training hears these; held-out wordings
are never made. The patterns stand in ``patterns``.
"""

from __future__ import annotations

from collections.abc import Mapping
import re

import numpy as np

from onellm_ros.simulation.patterns import DOING_NAMES, KIND_NAMES, PROMPTS, SOUND_NAMES, VARIED
from onellm_ros.simulation.wording import (
    CAPTION_PROMPTS_HELD_OUT,
    WORDINGS,
    plural,
    sentence_case,
)

_ADDRESS = ('Robot, ', 'Hey robot, ', 'Hello, ', 'Hi, ', 'Please, ', 'Okay, ', 'So, ', 'Now, ',
            'Tell me: ', 'Question: ', 'Quick question: ', 'Please tell me: ', 'Say, ', 'Well, ',
            'Could you answer this: ', 'I wonder: ', 'Excuse me, ', 'For the log: ')
_ENDS = (', please', ' right now', ' now', ' at the moment', ' in your opinion', ', robot',
         ' just now', ' currently', ' do you think', ', can you tell')
ADDRESSED, ENDED, LOWER, UNMARKED, MISTYPED, RENAMED = 0.2, 0.1, 0.12, 0.12, 0.06, 0.15
_CHOICE = re.compile(r'\[([^\[\]]*)\]')
_TRIES = 20


def expand(pattern: str, rng: np.random.Generator) -> str:
    """Return a pattern with one of the alternatives of each bracket, the innermost first."""
    while found := _CHOICE.search(pattern):
        options = found.group(1).split('|')
        chosen = options[int(rng.integers(len(options)))]
        pattern = pattern[:found.start()] + chosen + pattern[found.end():]
    return re.sub(r' +([?.,:])', r'\1', re.sub(r'  +', ' ', pattern)).strip()


def _one(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _mistyped(text: str, rng: np.random.Generator) -> str:
    """Drop, double or exchange a letter of a word outside the slots."""
    places = [m.start() for m in re.finditer(r'(?<=[a-z])[a-z](?=[a-z])', text)
              if text.rfind('{', 0, m.start()) <= text.rfind('}', 0, m.start())]
    if not places:
        return text
    at, kind = places[int(rng.integers(len(places)))], int(rng.integers(3))
    middle = ('', text[at] * 2, text[at + 1] + text[at])[kind]
    return text[:at] + middle + text[at + (2 if kind == 2 else 1):]


def renamed(slots: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """Return slots with some things, motions and sounds called by another name."""
    out = dict(slots)
    for slot, names in (('doing', DOING_NAMES), ('sound', SOUND_NAMES)):
        if slot in out and rng.random() < 2 * RENAMED:
            out[slot] = _one((out[slot], *names.get(out[slot], ())), rng)
    for slot in ('the', 'other', 'np', 'plural'):
        if slot not in out or rng.random() >= RENAMED:
            continue
        kind = next((k for k in KIND_NAMES if out[slot] == plural(k)
                     or re.search(rf'\b{k}\b', out[slot])), None)
        if kind is None:
            continue
        one, several = KIND_NAMES[kind][int(rng.integers(len(KIND_NAMES[kind])))]
        out[slot] = several if slot == 'plural' else re.sub(rf'\b{kind}\b', one, out[slot])
    if 'the' in out:
        out['The'] = sentence_case(out['the'])
    return out


def varied_question(family: str, slots: Mapping[str, str], rng: np.random.Generator) -> str:
    """Put a question into words that need not stand in any list."""
    training, held_out = WORDINGS[family]
    patterns = VARIED[family] + training
    for _ in range(_TRIES):
        text = expand(_one(patterns, rng), rng)
        if sentence_case(text) not in held_out:
            break
    if text[-1] not in '?.':
        text += '?'
    body, mark = text[:-1], text[-1]
    if rng.random() < ENDED:
        body += _one(_ENDS, rng)
    if rng.random() < ADDRESSED:
        first = body if body.startswith(('{', 'I ')) else body[:1].lower() + body[1:]
        body = _one(_ADDRESS, rng) + first
    if rng.random() < MISTYPED:
        body = _mistyped(body, rng)
    said = sentence_case(body.format(**renamed(slots, rng)))
    said += '' if rng.random() < UNMARKED else mark
    return said.lower() if rng.random() < LOWER else said


def varied_prompt(rng: np.random.Generator) -> str:
    """Ask for a description in words that need not stand in any list."""
    while True:
        text = expand(_one(PROMPTS, rng), rng)
        if text not in CAPTION_PROMPTS_HELD_OUT:
            return text
