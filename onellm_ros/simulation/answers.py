"""Questions as records, and when an answer counts as right.

Owns ``Question``, the names of the question types, and the normal form in which answers compare.
"""

from __future__ import annotations

from dataclasses import dataclass
import re

from onellm_ros.modality import Modality
from onellm_ros.simulation.wording import NUMBERS, UNKNOWN

QUESTION_TYPES: tuple[str, ...] = (
    'object', 'colour', 'count', 'presence', 'place', 'range', 'relation', 'floor', 'distance',
    'clear', 'motion', 'sound', 'moving', 'mixed', 'unknown')

_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {'none': '0'}
_DROPPED = {'a', 'an', 'the', 'about', 'roughly', 'around', 'approximately', 'some', 'other'}
_LEADS = re.compile(
    r'^(?:(?:it|that|this|there|he|she) (?:is|are|s)|they are|i (?:can )?(?:see|hear|feel)'
    r'|you (?:can )?(?:see|hear)|robot is|we (?:see|hear)|its?) +')
_REWRITES: tuple[tuple[str, str], ...] = (
    (r'\b(?:metres?|meters?|m)\b', 'metre'), (r'\bcolor', 'colour'),
    (r'\b(?:straight ahead|in front(?: of (?:me|you|robot))?|front)\b', 'ahead'),
    (r'\b(?:on|to|at|towards|in) (left|right)\b', r'\1'), (r'\b(left|right) side\b', r'\1'),
    (r'\b(?:nearby|close by|close)\b', 'near'), (r'\b(?:far away|far off)\b', 'far'),
    (r'\b(?:toward|closer to)\b', 'towards'),
    (r'\bmetre away\b', 'metre'),
    (r'^(?:i )?(?:cannot (?:tell|say|know)|can not (?:tell|say)|do not know|dont know'
     r'|not known|cant (?:tell|say))$', UNKNOWN),
    (r'\b(\w+) person\b', r'person in \1'))


@dataclass(frozen=True)
class Question:
    """One question with its right answer.

    :param type: one of QUESTION_TYPES.
    :param modality: the modality that holds the evidence (of an unanswerable question: the first
        of those that are present).
    :param accept: other answers that count as right.
    """

    type: str
    modality: Modality
    question: str
    answer: str
    accept: tuple[str, ...] = ()


def normalise(answer: str) -> str:
    """Return the form in which answers compare.

    Lower case without punctuation, articles, leading phrases ('it is', 'I see', 'the robot is')
    or hedges ('about'); number words become digits, metres and places get one spelling.
    """
    text = answer.lower().replace('\u2019', "'").replace("'", '')
    text = re.sub(r'(\d)\s*m\b', r'\1 metre', text)
    text = re.sub(r'(\d)\.0\b', r'\1', text)
    text = re.sub(r'[^a-z0-9. ]+', ' ', text)
    text = re.sub(r'\.(?!\d)', ' ', text)
    words = [_DIGITS.get(word, word) for word in text.split()]
    text = ' '.join(word for word in words if word not in _DROPPED)
    text = _LEADS.sub('', text)
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    return ' '.join(text.split())


def is_correct(question: Question, answer: str) -> bool:
    """Whether ``answer`` is right: equal after ``normalise`` to the answer or an accepted one.

    A yes or no question is decided by the first word of the answer.
    """
    found = normalise(answer)
    if question.answer in ('yes', 'no'):
        return found.split(' ')[0] == question.answer
    return found in {normalise(text) for text in (question.answer, *question.accept)}
