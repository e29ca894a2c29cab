"""Videos with their sound: MUSIC-AVQA, VALOR-32K captions and AVSD dialogs."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import re
from typing import Any

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    coco_captions,
    find_file,
    identity,
    new_id,
    optional,
    parts,
    read_json,
    shown,
    texts,
    wanted,
)
from onellm_ros.evaluation.item import AnnotationError, Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.evaluation.tasks.media import (
    captioned,
    clip,
    is_coco,
    media,
    named,
    with_sound,
)
from onellm_ros.modality import Modality

_BOTH = (Modality.VIDEO, Modality.AUDIO)
_BLANK = re.compile(r'<[^<>]+>')            # of a templated question
_CONTEXTS = ('dialog', 'dialog+caption', 'question')
_SYNTHETIC = ('MUCIS-AVQA-videos-Synthetic', 'MUSIC-AVQA-videos-Synthetic')     # as it is spelled
_SILENT = ('silent=error asks for the sound of every video, silent=video shows a video without a '
           'sound track alone; the files must be there when annotations are read')


def _inner_list(row: Row, key: str) -> list[Any]:
    """Return a list that is written as a JSON text inside the row, as MUSIC-AVQA has them.

    :raises AnnotationError: for something else.
    """
    value = row.value.get(key, '[]')
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise row.error(f'{key}: found {shown(row.value[key])}, expected a list of texts as a '
                        'JSON text, such as "[\\"ukulele\\"]"')
    return value


def _filled(row: Row) -> str:
    """Return a templated question with its blanks filled.

    :raises AnnotationError: if there are more blanks than values.
    """
    question, values = wanted(row, 'question_content', str), _inner_list(row, 'templ_values')
    blanks = _BLANK.findall(question)
    if len(blanks) > len(values):
        raise row.error(f'templ_values: found {len(values)}, expected {len(blanks)} for '
                        f'{", ".join(blanks)} in {shown(question)}')
    following = iter(values)
    return _BLANK.sub(lambda _: next(following), question).strip()


def _music(root: Path, split: str, silent: str = 'error') -> Iterator[Item]:
    name = f'avqa-{split}.json'
    file = find_file(root, (name, f'json_update/{name}', f'json/{name}', f'data/json/{name}'),
                     'music-avqa')
    folders = ('MUSIC-AVQA-videos-Real', *_SYNTHETIC, 'videos', '')
    seen: dict[str, int] = {}
    for row in read_json(file, 'music-avqa').rows():
        key = new_id(seen, row, identity(row, 'question_id'))
        video = Signal(media(root, folders, wanted(row, 'video_id', str)))
        question, kind = _filled(row), _inner_list(row, 'type')
        answer = wanted(row, 'anser', str)                  # so spelled in the files
        yield Item(key, question, with_sound(root, video, silent), (answer,),
                   group=' '.join(kind).lower(), source=row.source)


def _valor(root: Path, split: str, silent: str = 'error') -> Iterator[Item]:
    name = f'desc_{split}.json'
    file = read_json(find_file(root, (name, f'valor-32k-annotations/{name}',
                                      f'{split}_ann_cococap.json', f'captions_{split}.json'),
                           'valor-32k'), 'valor-32k')
    folders = ('videos', 'clips', split, '')
    if is_coco(file.path):
        yield from captioned(file, lambda e: with_sound(root, named(root, folders, e), silent))
        return
    seen: dict[str, int] = {}
    for row in file.rows():
        video = new_id(seen, row, wanted(row, 'video_id', str))
        many = isinstance(row.value.get('desc'), list)
        yield Item(video, signals=with_sound(root, clip(root, folders, video), silent),
                   answers=texts(row, 'desc') if many else (wanted(row, 'desc', str),),
                   source=row.source)


def _references(path: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return of each dialog, by its number from 1, the name in the reference and its answers."""
    return {entry.id: (optional(entry.row, 'name', str, entry.name), entry.captions)
            for entry in coco_captions(read_json(path, 'avsd'))}


def _asked(row: Row, context: str) -> str:
    """Return the last question of a dialog, behind what was said before as far as wanted."""
    turns = list(parts(row, 'dialog'))
    if not turns:
        raise row.error('dialog: found no turn, expected questions and answers')
    question = wanted(turns[-1], 'question', str).strip()
    if context == 'question':
        return question
    said = [f'{letter}: {wanted(turn, key, str)}' for turn in turns[:-1]
            for letter, key in (('Q', 'question'), ('A', 'answer'))]
    if context == 'dialog+caption':
        said.insert(0, f'C: {wanted(row, "caption", str)}')
    return '\n'.join([*said, f'Q: {question}']) if said else question


def _avsd(root: Path, split: str, silent: str = 'error', context: str = 'dialog'
          ) -> Iterator[Item]:
    if context not in _CONTEXTS:
        raise ValueError(f'context: found {context!r}, expected one of {", ".join(_CONTEXTS)}')
    start = f'test_set4{split.upper()}-AVSD'
    folders = ('videos', 'Charades_vu17_test_480', 'Charades_v1_480', '')
    file = find_file(root, (f'{start}.json', f'{start}_cococap.json'), 'avsd')
    if file.name.endswith('_cococap.json'):
        for entry in coco_captions(read_json(file, 'avsd')):
            video = named(root, folders, entry)
            yield Item(entry.id, wanted(entry.row, 'question', str),
                       with_sound(root, video, silent), entry.captions, source=entry.row.source)
        return
    beside = find_file(root, (f'{start}_multiref.json',), 'avsd')
    references, seen = _references(beside), dict[str, int]()
    for number, row in enumerate(read_json(file, 'avsd').rows('dialogs'), 1):
        image = new_id(seen, row, wanted(row, 'image_id', str))
        name, answers = references.get(str(number), ('', ()))
        if not answers or (name and not name.startswith(image)):
            found = f'{name!r} as' if name else 'no'
            raise row.error(f'found {found} dialog {number} of {beside.name}, expected answers to '
                            f'{image!r}; are the two files of one release?')
        video = Signal(media(root, folders, image))
        yield Item(image, _asked(row, context), with_sound(root, video, silent), answers,
                   source=row.source)
    if len(seen) != len(references):
        raise AnnotationError(file, 0, f'found {len(seen)} dialogs, expected the '
                              f'{len(references)} of {beside.name}; is it cut short?')


TASKS: tuple[Task, ...] = (
    Task('music-avqa', 'MUSIC-AVQA', _BOTH, 'A', ('answer_accuracy',), _music,
         ('test', 'val'), """\
github.com/GeWu-Lab/MUSIC-AVQA: data/json_update/avqa-test.json (or data/json/avqa-test.json, the
first release) and the videos, whose sound tracks are read as well:
  avqa-test.json
  MUSIC-AVQA-videos-Real/00000238.mp4 ...
  MUCIS-AVQA-videos-Synthetic/sa00007434.mp4 ...   (so spelled) or all of them in videos/
A sound file of the same name in audio/ is read instead of the track.""",
         Paper(19, {'answer_accuracy': 47.6}, 'VAST', {'answer_accuracy': 80.7}, True),
         max_tokens=16, options={'silent': 'error'},
         facts={'silent': _SILENT, 'length': 'of the sound its first 10.24 s are heard',
                'asked': "all questions, as the benchmark's own loader asks them, whatever their "
                         'question_deleted says'}),
    Task('valor-32k', 'VALOR-32K', _BOTH, 'D', ('cider', 'bleu_4', 'rouge_l'), _valor,
         ('test', 'val'), """\
casia-iva-group.github.io/projects/VALOR: desc_test.json of the annotations of VALOR-32K, or the
authors' test_ann_cococap.json. The videos are AudioSet's on YouTube, cut by the names of the clips
(VIDEO_START_END) or whole, which are then cut when they are read:
  desc_test.json
  videos/x-2Abohj8VY_30.000_40.000.mp4 ...   or videos/x-2Abohj8VY.mp4
A sound file of the same name in audio/ is read instead of the sound track.""",
         Paper(20, {'cider': 29.2}, 'VAST', {'cider': 62.2}, True), max_tokens=64,
         options={'silent': 'error'}, facts={'silent': _SILENT}),
    Task('avsd', 'AVSD (audio-visual scene-aware dialog)', _BOTH, 'E',
         ('cider', 'bleu_4', 'rouge_l'), _avsd, ('dstc7', 'dstc8'), """\
github.com/hudaAlamri/DSTC7-Audio-Visual-Scene-Aware-Dialog-AVSD-Challenge: the test set and its
six answers to each last question; or the authors' test_set4DSTC7-AVSD_cococap.json, whose images
must have a question. The videos are Charades' (prior.allenai.org/projects/charades):
  test_set4DSTC7-AVSD.json  test_set4DSTC7-AVSD_multiref.json
  videos/A5JTC.mp4 ...   or Charades_vu17_test_480/, Charades_v1_480/""",
         Paper(21, {'cider': 74.5}, 'COST', {'cider': 108.5}, True), max_tokens=64,
         options={'silent': 'error', 'context': 'dialog'},
         facts={'silent': _SILENT,
                'context': 'dialog shows the questions and answers before the last question, as '
                           'the benchmark has it; dialog+caption its caption as well; question '
                           'the last one alone. The paper does not say which it took',
                'words': "the challenge's script leaves out or replaces some words of replies, by "
                         "a list that comes with it, before it scores; the authors' script and "
                         'this one take them as they are'}),
)
