"""Videos: NExT-QA and How2QA (choices), MSVD-QA (short answers), VATEX (captions)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
import re

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    find_file,
    identity,
    new_id,
    read_json,
    read_jsonl,
    read_lines,
    read_table,
    shown,
    texts,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.evaluation.tasks.media import (
    captioned,
    clip,
    is_coco,
    media,
    named,
    shuffled,
    span,
)
from onellm_ros.modality import Modality

_NEXTQA = ('video', 'question', 'answer', 'qid', 'type', 'a0', 'a1', 'a2', 'a3', 'a4')
_NEXTQA_GROUPS = {'C': 'causal', 'T': 'temporal', 'D': 'descriptive'}
_HOW2QA = ('vid_id', 'timestamps', 'a1', 'a2', 'a3', 'question', 'a0')      # a0: the right one
_SPAN = re.compile(r'\[?\s*(\d+(?:\.\d+)?)\s*[:,-]\s*(\d+(?:\.\d+)?)\s*\]?')
_FOLDERS = ('videos', '')
_MSVD_GROUPS = ('what', 'who', 'how', 'when', 'where')


def _index(row: Row, key: str, count: int) -> int:
    """Return the index of the right choice, a number or its text.

    :raises AnnotationError: if it is none of the choices'.
    """
    value = row.value.get(key)
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= count:
        raise row.error(f'{key}: found {shown(value)}, expected a number from 0 to {count - 1}')
    return int(text)


def _paths_of_videos(root: Path) -> dict[str, str]:
    """Return where NExT-QA's videos lie in VidOR by their names; empty without the file."""
    for name in ('map_vid_vidorID.json', 'nextqa/map_vid_vidorID.json'):
        if (root / name).is_file():
            rows = list(read_json(root / name, 'nextqa').rows())
            for row in rows:
                if not isinstance(row.value, str) or not row.value:
                    raise row.error(f'found {shown(row.value)}, expected a path of VidOR such as '
                                    '"1164/3238737531"')
            return {row.key: row.value for row in rows}
    return {}


def _nextqa(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, (f'{split}.csv', f'nextqa/{split}.csv'), 'nextqa')
    paths, seen = _paths_of_videos(root), dict[str, int]()
    for row in read_table(file, ',', _NEXTQA, task='nextqa'):
        video = wanted(row, 'video', str)
        choices = tuple(wanted(row, f'a{n}', str) for n in range(5))
        kind = wanted(row, 'type', str)
        if kind[0] not in _NEXTQA_GROUPS:
            raise row.error(f'type: found {shown(kind)}, expected one such as CW, TN or DO')
        folders = ('NExTVideo', *_FOLDERS)
        path = media(root, folders, paths.get(video, video))
        if not path.is_file():
            path = media(root, folders, video)
        yield Item(new_id(seen, row, f'{video}_{wanted(row, "qid", str)}'),
                   wanted(row, 'question', str), {Modality.VIDEO: Signal(path)}, choices=choices,
                   right=_index(row, 'answer', 5), group=_NEXTQA_GROUPS[kind[0]],
                   facts={'type': kind}, source=row.source)


def _seconds(row: Row, key: str) -> tuple[float, float]:
    """Return a span of seconds: ``[7.2:18.0]``, ``7.2-18.0`` or a list of two.

    :raises AnnotationError: for something else, or an end before the start.
    """
    value = row.value.get(key)
    text = f'{value[0]}:{value[1]}' if isinstance(value, list) and len(value) == 2 else str(value)
    found = _SPAN.fullmatch(text.strip())
    if found is None or float(found[2]) < float(found[1]):
        raise row.error(f'{key}: found {shown(value)}, expected seconds such as [7.2:18.0], the '
                        'first below the second')
    return float(found[1]), float(found[2])


def _how2qa(root: Path, split: str) -> Iterator[Item]:
    table, lines = f'how2QA_{split}_release.csv', f'how2qa_{split}.jsonl'
    file = find_file(root, (table, f'how2QA/{table}', lines), 'how2qa')
    asked: Counter[str] = Counter()
    seen: dict[str, int] = {}
    if file.suffix == '.csv':                       # no header; the last column is the right one
        for row in read_table(file, ',', _HOW2QA, header=False, task='how2qa'):
            video = wanted(row, 'vid_id', str)
            key = f'{video}_{asked[video]}'
            asked[video] += 1
            choices, right = shuffled(key, wanted(row, 'a0', str),
                                      [wanted(row, f'a{n}', str) for n in (1, 2, 3)])
            yield _how2(root, row, key, video, _seconds(row, 'timestamps'), 'question', choices,
                        right)
        return
    for row in read_jsonl(file, 'how2qa'):
        choices = tuple(wanted(row, f'a{n}', str) for n in range(4))
        yield _how2(root, row, new_id(seen, row, identity(row, 'qid')),
                    wanted(row, 'vid_name', str), _seconds(row, 'ts'), 'q', choices,
                    _index(row, 'answer_idx', 4))


def _how2(root: Path, row: Row, key: str, video: str, seconds: tuple[float, float],
          question: str, choices: tuple[str, ...], right: int) -> Item:
    path = media(root, _FOLDERS, video)
    return Item(key, wanted(row, question, str),
                {Modality.VIDEO: Signal(path, window_s=span(*seconds))}, choices=choices,
                right=right, source=row.source)


def _msvd_names(root: Path) -> dict[str, str]:
    """Return the names of MSVD's videos by their numbers, ``vid1`` and so on.

    :raises AnnotationError: for a line of another form.
    """
    path = find_file(root, ('youtube_mapping.txt', 'MSVD-QA/youtube_mapping.txt'), 'msvd-qa')
    found = {}
    for row in read_lines(path, 'msvd-qa'):
        fields = row.value.split()
        if len(fields) != 2:
            raise row.error(f'found {row.value[:60]!r}, expected the name of a video and its '
                            'number, such as -4wsuPCjDBc_5_15 vid1')
        found[fields[1]] = fields[0]
    return found


def _msvd(root: Path, split: str) -> Iterator[Item]:
    name = f'{split}_qa.json'
    file = find_file(root, (name, f'MSVD-QA/{name}'), 'msvd-qa')
    names, seen = _msvd_names(root), dict[str, int]()
    for row in read_json(file, 'msvd-qa').rows():
        number = f'vid{wanted(row, "video_id", int)}'
        if number not in names:
            raise row.error(f'video_id: found {number}, expected one of the {len(names)} of '
                            'youtube_mapping.txt')
        path = media(root, ('YouTubeClips', *_FOLDERS), names[number], ('.avi', '.mp4'))
        question = wanted(row, 'question', str)
        first = question.split()[0].lower()
        yield Item(new_id(seen, row, identity(row, 'id')), question,
                   {Modality.VIDEO: Signal(path)}, (wanted(row, 'answer', str),),
                   group=first if first in _MSVD_GROUPS else 'other', source=row.source)


_VATEX_FILES = {'test': 'vatex_public_test_english_v1.1.json',
                'val': 'vatex_validation_v1.0.json'}


def _vatex(root: Path, split: str) -> Iterator[Item]:
    name = _VATEX_FILES[split]
    authors = ('vatex_cococap.json',) if split == 'test' else ()
    file = read_json(find_file(root, (name, f'annotations/{name}', *authors,
                                      f'captions_{split}.json'), 'vatex'), 'vatex')
    folders = (split, f'videos/{split}', *_FOLDERS)
    if is_coco(file.path):
        yield from captioned(file, lambda e: {Modality.VIDEO: named(root, folders, e)})
        return
    seen: dict[str, int] = {}
    for row in file.rows():
        video = new_id(seen, row, wanted(row, 'videoID', str))
        yield Item(video, '', {Modality.VIDEO: clip(root, folders, video)}, texts(row, 'enCap'),
                   source=row.source)


_VIDEO = (Modality.VIDEO,)
_CHOICE = ('choice_letter', 'choice_likelihood')
TASKS: tuple[Task, ...] = (
    Task('nextqa', 'NExT-QA (multiple choice)', _VIDEO, 'B', _CHOICE,
         _nextqa, ('test', 'val'), """\
github.com/doc-doc/NExT-QA: dataset/nextqa/test.csv, val.csv and map_vid_vidorID.json into the
folder. The videos are VidOR's (the repository's README links them):
  test.csv  val.csv  map_vid_vidorID.json
  NExTVideo/1164/3238737531.mp4 ...   as the map says, or NExTVideo/3238737531.mp4""",
         Paper(13, {'choice_letter': 57.3}, 'SeViLA', {'choice_letter': 73.8}, True),
         letters=True, max_tokens=16,
         facts={'split': 'the paper does not say which split it reports'}),
    Task('how2qa', 'How2QA', _VIDEO, 'B', _CHOICE,
         _how2qa, ('val',), """\
github.com/ych133/How2R-and-How2QA: how2QA/how2QA_val_release.csv (or how2qa_val.jsonl of the
VALUE benchmark). The videos are YouTube's, whole, by their ids; a question is about a span:
  how2QA_val_release.csv
  videos/NOuQuofjk44.mp4 ...""",
         Paper(14, {'choice_letter': 65.7}, 'JustAsk', {'choice_letter': 84.4}, True),
         letters=True, max_tokens=16,
         facts={'order': "the table always names the right choice last: choices are put in an "
                         "order that each question's id fixes",
                'spans': 'a span without a length is shown for a second'}),
    Task('msvd-qa', 'MSVD-QA', _VIDEO, 'A', ('answer_accuracy',), _msvd, ('test', 'val'), """\
github.com/xudejing/video-question-answering: MSVD-QA's test_qa.json (and val_qa.json) and
youtube_mapping.txt. The videos are YouTubeClips.tar of
cs.utexas.edu/users/ml/clamp/videoDescription:
  test_qa.json  youtube_mapping.txt
  YouTubeClips/-4wsuPCjDBc_5_15.avi ...""",
         Paper(15, {'answer_accuracy': 56.5}, 'VALOR', {'answer_accuracy': 60.0}, True),
         max_tokens=16,
         facts={'rule': "the authors' script takes an answer for right that contains the true one "
                        'or is part of it, even an empty one; here it must be the same word'}),
    Task('vatex', 'VATEX (English)', _VIDEO, 'D', ('cider', 'bleu_4', 'rouge_l'),
         _vatex, ('test', 'val'), """\
eric-xw.github.io/vatex-website: vatex_public_test_english_v1.1.json (vatex_validation_v1.0.json),
or the authors' vatex_cococap.json. The videos are YouTube's, cut by the names of the clips
(VIDEO_START_END) or whole, which are then cut when they are read:
  vatex_public_test_english_v1.1.json
  videos/G9zN5TTuGO4_000179_000189.mp4 ...   or videos/G9zN5TTuGO4.mp4""",
         Paper(16, {'cider': 43.8}, 'VALOR', {'cider': 95.1}, True), max_tokens=64),
)
