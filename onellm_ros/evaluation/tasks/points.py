"""Point clouds: captions and classes of Objaverse's objects, PointLLM's split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    coco_captions,
    find_file,
    identity,
    new_id,
    parts,
    picture,
    read_json,
    shown,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.evaluation.tasks.media import is_coco
from onellm_ros.modality import Modality

_POINT = (Modality.POINT,)
_SPLITS = ('val_200', 'val_3000')
_FOLDERS = ('objaverse_data', '8192_npy', 'pointllm/8192_npy')


def _cloud(root: Path, thing: str) -> dict[Modality, Signal]:
    path = picture(root, [f'{folder}/{thing}_8192.npy' for folder in _FOLDERS])
    return {Modality.POINT: Signal(path)}


def _said(row: Row) -> str:
    """Return what the assistant says first in a conversation.

    :raises AnnotationError: if nobody does.
    """
    for turn in parts(row, 'conversations'):
        if wanted(turn, 'from', str) == 'gpt':
            return str(wanted(turn, 'value', str))
    raise row.error('conversations: found no turn of gpt, expected the true description')


def _objaverse(root: Path, split: str, task: str) -> Iterator[Item]:
    name = f'PointLLM_brief_description_{split}_GT.json'
    authors = ('pointllm_test.json', 'pointllm_test_cococap.json') if split == 'val_200' else ()
    path = find_file(root, (name, f'anno_data/{name}', *authors, f'captions_{split}.json'), task)
    file, seen = read_json(path, task), dict[str, int]()
    if is_coco(path):
        for entry in coco_captions(file):
            thing = Path(entry.name or entry.id).stem.removesuffix('_8192')
            yield Item(entry.id, signals=_cloud(root, thing), answers=entry.captions,
                       source=entry.row.source)
    elif path.name == 'pointllm_test.json':                 # object: its description
        for row in file.rows():
            if not isinstance(row.value, str) or not row.value.strip():
                raise row.error(f'found {shown(row.value)}, expected a description')
            yield Item(new_id(seen, row, row.key), signals=_cloud(root, row.key),
                       answers=(row.value,), source=row.source)
    else:
        for row in file.rows():
            thing = new_id(seen, row, identity(row, 'object_id'))
            yield Item(thing, signals=_cloud(root, thing), answers=(_said(row),),
                       source=row.source)


def _captions(root: Path, split: str) -> Iterator[Item]:
    return _objaverse(root, split, 'objaverse-caption')


def _classes(root: Path, split: str) -> Iterator[Item]:
    return _objaverse(root, split, 'objaverse-class')


_FETCH = """\
The data set RunsenXu/PointLLM on Hugging Face (github.com/OpenRobotLab/PointLLM tells how):
PointLLM_brief_description_val_200_GT.json and the clouds of 8192 points in colour; or the authors'
pointllm_test.json ({object: description}) or pointllm_test_cococap.json:
  PointLLM_brief_description_val_200_GT.json
  8192_npy/00f5ee4fd93448b9a1e3be70aa3fbd2d_8192.npy ...   or objaverse_data/"""

TASKS: tuple[Task, ...] = (
    Task('objaverse-caption', 'Objaverse captions (PointLLM split)', _POINT, 'D',
         ('bleu_1', 'rouge_l', 'meteor'), _captions, _SPLITS, _FETCH,
         Paper(22, {'bleu_1': 42.2, 'rouge_l': 45.3, 'meteor': 20.3}, 'InstructBLIP-13B',
               {'bleu_1': 12.6, 'rouge_l': 15.0, 'meteor': 16.0}), max_tokens=64,
         facts={'prompt': "the authors' script asks `What is this?` instead of the paper's form"}),
    Task('objaverse-class', 'Objaverse classification (PointLLM split)', _POINT, 'F',
         ('judge_class',), _classes, _SPLITS, _FETCH,
         Paper(23, {'judge_class': 44.5}, 'PointLLM-7B', {'judge_class': 47.5}), max_tokens=64),
)
