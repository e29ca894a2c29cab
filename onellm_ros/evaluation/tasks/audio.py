"""Sounds: Clotho Caption v2 and Clotho AQA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    find_file,
    new_id,
    optional,
    read_json,
    read_table,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.evaluation.tasks.media import SOUNDS, captioned, named, recording
from onellm_ros.modality import Modality

_AUDIO = (Modality.AUDIO,)
_CAPTIONS = tuple(f'caption_{n}' for n in range(1, 6))
_AGREEMENT = ('majority', 'unanimous')
_SPLITS = {'evaluation': 'eval', 'validation': 'val', 'development': 'dev'}


def _clotho(root: Path, split: str) -> Iterator[Item]:
    name = f'clotho_captions_{split}.csv'
    authors = (f'{_SPLITS[split]}_clothocap_ann.json', f'{_SPLITS[split]}_cococap_ann.json')
    file = find_file(root, (name, *authors, f'captions_{split}.json'), 'clotho-caption')
    folders = (split, f'clotho_audio_files/{split}', f'clotho_audio_{split}/{split}')
    if file.suffix == '.json':
        yield from captioned(read_json(file, 'clotho-caption'),
                             lambda e: {Modality.AUDIO: named(root, folders, e, SOUNDS)})
        return
    seen: dict[str, int] = {}
    for row in read_table(file, ',', ('file_name', *_CAPTIONS), task='clotho-caption'):
        sound = new_id(seen, row, wanted(row, 'file_name', str))
        path = recording(root, folders, sound, SOUNDS)
        yield Item(sound, signals={Modality.AUDIO: Signal(path)},
                   answers=tuple(wanted(row, key, str) for key in _CAPTIONS), source=row.source)


def _asked(file: Path) -> dict[tuple[str, str], tuple[Row, list[str], list[str]]]:
    """Return questions by sound and text: the first row, the answers of all, how sure they are."""
    found: dict[tuple[str, str], tuple[Row, list[str], list[str]]] = {}
    for row in read_table(file, ',', ('file_name', 'QuestionText', 'answer'), task='clotho-aqa'):
        key = wanted(row, 'file_name', str), wanted(row, 'QuestionText', str).strip()
        _, answers, sure = found.setdefault(key, (row, [], []))
        answers.append(wanted(row, 'answer', str).strip().lower())
        sure.append(optional(row, 'confidence', str, ''))
    return found


def _clotho_aqa(root: Path, split: str, agreement: str = 'majority') -> Iterator[Item]:
    if agreement not in _AGREEMENT:
        raise ValueError(f'agreement: found {agreement!r}, expected one of '
                         f'{", ".join(_AGREEMENT)}')
    file = find_file(root, (f'clotho_aqa_{split}.csv',), 'clotho-aqa')
    numbers: Counter[str] = Counter()
    for (sound, question), (row, given, sure) in _asked(file).items():
        number = numbers[sound]
        numbers[sound] += 1
        if agreement == 'unanimous' and len(set(given)) > 1:
            continue
        path = recording(root, ('audio_files', 'audio', ''), sound, SOUNDS)
        yield Item(f'{sound}_{number}', question, {Modality.AUDIO: Signal(path)},
                   tuple(given),
                   group='yes or no' if set(given) <= {'yes', 'no'} else 'a word',
                   facts={'confidence': tuple(sure)}, source=row.source)


TASKS: tuple[Task, ...] = (
    Task('clotho-caption', 'Clotho Caption v2', _AUDIO, 'D', ('cider', 'spider', 'spice'),
         _clotho, ('evaluation', 'validation', 'development'), """\
zenodo.org/records/4783391 (Clotho 2.1): clotho_captions_evaluation.csv and
clotho_audio_evaluation.7z, unpacked; or the authors' eval_clothocap_ann.json:
  clotho_captions_evaluation.csv
  evaluation/Santa Motor.wav ...""",
         Paper(17, {'cider': 29.1, 'spider': 19.5}, 'WavCaps', {'cider': 48.8, 'spider': 31.0},
               True), max_tokens=64,
         facts={'length': 'of a sound of 15 to 30 s the model hears its first 10.24 s, as the '
                          "authors' script has it"}),
    Task('clotho-aqa', 'Clotho AQA', _AUDIO, 'A', ('answer_accuracy',), _clotho_aqa,
         ('test', 'val', 'train'), """\
zenodo.org/records/6473207: clotho_aqa_test.csv and audio_files.zip, unpacked:
  clotho_aqa_test.csv
  audio_files/FlyingOverTheSea.wav ...""",
         Paper(18, {'answer_accuracy': 57.9}, 'Pengi', {'answer_accuracy': 64.5}, True),
         max_tokens=16, options={'agreement': 'majority'},
         facts={'agreement': 'three people answered each question: majority takes what most said '
                             '(all three where each said something else), unanimous asks only '
                             'questions on which they agree; the paper does not say which it is'}),
)
