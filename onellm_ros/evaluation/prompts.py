"""The paper's forms of prompts (Table 11), in its own spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onellm_ros.modality import Modality

if TYPE_CHECKING:
    from onellm_ros.evaluation.item import Item
    from onellm_ros.evaluation.task import Task

LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
# {question}, {options} (one a line behind its letter) and {classes} (a list) are filled in.
FORMS = {
    'A': '{question} Answer the question using a single word or phase.',
    'B': "{question} {options} Answer with the option's letter from the given choices directly",
    'C': "{question} When the provided information is insufficient, respond with 'Unanswerable'. "
         'Answer the question using a single word or phase.',
    'D': 'Provide a one-sentence caption for the provided {kind}.',
    'E': '{question} Answer the question and explain the reason in one sentence.',
    'F': 'What is this?',
    'G': '{classes} What is the category of this scene? Choice one class from the class sets.',
    'motion': 'Describe the motion',
    'fmri': 'Describe the scene based on fMRI data',
    'question': '{question}',
}
KINDS = ('image', 'video', 'audio', 'point cloud')      # of D


def options_text(choices: Sequence[str]) -> str:
    """Return choices as the prompt lists them, each on a line behind its letter.

    :raises ValueError: for more than there are letters.
    """
    if len(choices) > len(LETTERS):
        raise ValueError(f'found {len(choices)} choices, expected at most {len(LETTERS)}')
    return '\n'.join(f'{letter}. {text}' for letter, text in zip(LETTERS, choices))


def prompt(form: str, question: str = '', choices: Sequence[str] = (), kind: str = 'image') -> str:
    """Return what a model is asked.

    :param form: a key of ``FORMS``, or a form of the user's own with its ``{...}``.
    :param kind: what is captioned, one of ``KINDS``.
    :raises ValueError: for a form that has other fields.
    """
    text = FORMS.get(form, form)
    options = f'\n{options_text(choices)}\n' if '{options}' in text else ''
    try:
        filled = text.format(question=question.strip(), options=options,
                             classes=', '.join(choices), kind=kind)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'prompt {form!r}: found a field that is not known ({error}), expected '
                         'some of {question}, {options}, {classes}, {kind}') from None
    return '\n'.join(' '.join(line.split()) for line in filled.splitlines()).strip()


def kind_of(task: Task) -> str:
    """Return what a task's captions are of, one of ``KINDS``: of video with sound, the video."""
    for modality, kind in ((Modality.VIDEO, 'video'), (Modality.AUDIO, 'audio'),
                           (Modality.POINT, 'point cloud')):
        if modality in task.modalities:
            return kind
    return 'image'


def item_prompt(task: Task, item: Item, form: str = '') -> str:
    """Return what a model is asked about an item.

    :param form: another one than the task's; a key of ``FORMS``, or with its own ``{...}``.
    :raises ValueError: for a form that has other fields, too many choices, or nothing to ask.
    """
    text = prompt(form or task.form, item.question, item.choices, kind_of(task))
    if not text:
        raise ValueError(f'{item.source or "item"}: {item.id}: found nothing to ask, expected a '
                         'question')
    return text
