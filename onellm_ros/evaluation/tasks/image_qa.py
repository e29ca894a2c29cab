"""Questions about pictures that are answered in a word or two: GQA, VQAv2, OKVQA, TextVQA, VizWiz.

The annotation files are read as the benchmarks publish them. Splits without public answers are
read as well; their items have no answers, which the metrics say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import sys

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    find_file,
    identity,
    new_id,
    optional,
    picture,
    read_json,
    shown,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.modality import Modality

_IMAGE = (Modality.IMAGE,)


def _seen(path: Path) -> dict[Modality, Signal]:
    return {Modality.IMAGE: Signal(path)}


def _answers(row: Row, known: bool) -> tuple[str, ...]:
    """Return the answers of several people, ``[{answer}]`` or texts; each may be empty.

    :param known: whether there must be some.
    """
    if not known and optional(row, 'answers', list, None) is None:
        return ()
    found = []
    for number, value in enumerate(wanted(row, 'answers', list)):       # VQAv2: two million
        answer = value.get('answer') if isinstance(value, dict) else value
        if not isinstance(answer, str):
            raise row.error(f'answers[{number}]: found {shown(value)}, expected an answer')
        found.append(sys.intern(answer))
    if not found:
        raise row.error('answers: found an empty list, expected the answers of ten people')
    return tuple(found)


def _gqa(root: Path, split: str) -> Iterator[Item]:
    name = f'{split}_questions.json'
    file = find_file(root, (name, f'questions1.2/{name}', f'questions/{name}'), 'gqa')
    for row in read_json(file, 'gqa').rows():
        image = identity(row, 'imageId')
        known = split != 'test_balanced'
        answer = wanted(row, 'answer', str) if known else optional(row, 'answer', str, '')
        types = row.part(optional(row, 'types', dict, {}), '.types')
        path = picture(root, (f'images/{image}.jpg', f'{image}.jpg'))
        yield Item(row.key, wanted(row, 'question', str), _seen(path),
                   answers=(answer,) if answer else (),
                   group=optional(types, 'structural', str, ''), source=row.source)


def _annotated(path: Path, task: str, groups: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return answers and group by the id of the question, from a VQA file of annotations.

    :param groups: key of the group; ``question_type`` (OKVQA) stands for a name that the file
        may tell in ``question_types``.
    """
    file, names = read_json(path, task), {}
    if groups == 'question_type' and 'question_types' in file.heads():
        names = {row.key: str(row.value) for row in file.rows('question_types')}
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    seen: dict[str, int] = {}
    for row in file.rows('annotations'):
        question = new_id(seen, row, identity(row, 'question_id'))
        group = optional(row, groups, str, '')
        found[question] = (_answers(row, known=True), names.get(group, group))
    return found


def _vqa(root: Path, task: str, questions: str, annotations: str, pictures: str,
         groups: str) -> Iterator[Item]:
    """Read a VQA file of questions, and the file of annotations to it.

    :param annotations: empty: the split has none. :param pictures: COCO's name of their folder.
    """
    file = find_file(root, (questions, f'annotations/{questions}'), task)
    answered = None
    if annotations:
        beside = find_file(root, (annotations, f'annotations/{annotations}'), task)
        answered = _annotated(beside, task, groups)
    seen: dict[str, int] = {}
    for row in read_json(file, task).rows('questions'):
        question = new_id(seen, row, identity(row, 'question_id'))
        number = identity(row, 'image_id')      # of COCO; converted files may hold it as text
        if not number.isdecimal():
            raise row.error(f'image_id: found {shown(row.value["image_id"])}, expected a whole '
                            'number')
        image = f'COCO_{pictures}_{int(number):012d}.jpg'
        if answered is not None and question not in answered:
            raise row.error(f'found no annotation of the question {question} in {beside}, '
                            'expected one for each question; the two files are of one split')
        answers, group = answered[question] if answered is not None else ((), '')
        path = picture(root, (f'{pictures}/{image}', f'images/{pictures}/{image}',
                              f'images/{image}', image))
        yield Item(question, wanted(row, 'question', str), _seen(path), answers, group=group,
                   source=row.source)


def _vqav2(root: Path, split: str) -> Iterator[Item]:
    known = split == 'val2014'
    return _vqa(root, 'vqav2', f'v2_OpenEnded_mscoco_{split}_questions.json',
                f'v2_mscoco_{split}_annotations.json' if known else '',
                split if known else 'test2015', 'answer_type')


def _okvqa(root: Path, split: str) -> Iterator[Item]:
    return _vqa(root, 'okvqa', f'OpenEnded_mscoco_{split}_questions.json',
                f'mscoco_{split}_annotations.json', split, 'question_type')


def _textvqa(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, (f'TextVQA_0.5.1_{split}.json',), 'textvqa')
    seen: dict[str, int] = {}
    for row in read_json(file, 'textvqa').rows('data'):
        question = new_id(seen, row, identity(row, 'question_id'))
        image = identity(row, 'image_id') + '.jpg'
        folder = 'test_images' if split == 'test' else 'train_images'
        path = picture(root, (f'{folder}/{image}', f'train_val_images/{folder}/{image}',
                              f'images/{image}', image))
        yield Item(question, wanted(row, 'question', str), _seen(path),
                   _answers(row, known=split != 'test'), source=row.source)


def _vizwiz(root: Path, split: str) -> Iterator[Item]:
    name = f'{split}.json'
    file = find_file(root, (f'Annotations/{name}', f'annotations/{name}', name), 'vizwiz')
    seen: dict[str, int] = {}
    for row in read_json(file, 'vizwiz').rows():
        image = new_id(seen, row, wanted(row, 'image', str))
        path = picture(root, (f'{split}/{image}', f'images/{image}', image))
        yield Item(image, wanted(row, 'question', str), _seen(path),
                   _answers(row, known=split != 'test'),
                   group=optional(row, 'answer_type', str, ''), source=row.source)


TASKS: tuple[Task, ...] = (
    Task('gqa', 'GQA', _IMAGE, 'A', ('exact_match',), _gqa,
         ('testdev_balanced', 'val_balanced', 'test_balanced'), """\
From the download page of GQA (Stanford, "Visual Reasoning in the Real World"):
  questions1.2.zip (1.4 GB): testdev_balanced_questions.json is enough
  images.zip (20 GB): the 398 pictures of that split are enough
Layout:
  testdev_balanced_questions.json     or below questions1.2/
  images/n161313.jpg
12,578 questions. test_balanced has no public answers.""",
         Paper(1, {'exact_match': 59.5}, 'LLaVA-1.5', {'exact_match': 62.0}), max_tokens=16),
    Task('vqav2', 'VQAv2', _IMAGE, 'A', ('vqa_accuracy',), _vqav2,
         ('val2014', 'test-dev2015', 'test2015'), """\
From visualqa.org, Download, VQA v2:
  v2_Questions_Val_mscoco.zip, v2_Annotations_Val_mscoco.zip (some 10 MB)
From cocodataset.org:
  val2014.zip (6 GB)
Layout:
  v2_OpenEnded_mscoco_val2014_questions.json      or below annotations/
  v2_mscoco_val2014_annotations.json              or below annotations/
  val2014/COCO_val2014_000000000042.jpg
214,354 questions on 40,504 pictures. test-dev2015 and test2015 (v2_Questions_Test_mscoco.zip,
pictures in test2015/) have no public answers: their predictions go to the benchmark's server.""",
         Paper(2, {'vqa_accuracy': 71.6}, 'LLaVA-1.5', {'vqa_accuracy': 78.5}), max_tokens=16,
         facts={'split': "LLaVA-1.5's figure is of test-dev; what is scored here is val2014"}),
    Task('okvqa', 'OKVQA', _IMAGE, 'A', ('vqa_accuracy',), _okvqa, ('val2014',), """\
From okvqa.allenai.org, Download, version 1.1:
  OpenEnded_mscoco_val2014_questions.json.zip, mscoco_val2014_annotations.json.zip
From cocodataset.org:
  val2014.zip (6 GB)
Layout:
  OpenEnded_mscoco_val2014_questions.json         or below annotations/
  mscoco_val2014_annotations.json                 or below annotations/
  val2014/COCO_val2014_000000297147.jpg
5,046 questions.""",
         Paper(3, {'vqa_accuracy': 58.9}, 'Qwen-VL', {'vqa_accuracy': 56.6}), max_tokens=16),
    Task('textvqa', 'TextVQA', _IMAGE, 'A', ('vqa_accuracy',), _textvqa, ('val', 'test'), """\
From textvqa.org, Dataset, version 0.5.1:
  TextVQA_0.5.1_val.json
  train_val_images.zip (6.6 GB), which unpacks to train_images/
Layout:
  TextVQA_0.5.1_val.json
  train_images/003a8ae2ef43b901.jpg
5,000 questions. test (TextVQA_0.5.1_test.json, test_images/) has no public answers.""",
         Paper(4, {'vqa_accuracy': 34.0}, 'Qwen-VL', {'vqa_accuracy': 61.5}), max_tokens=16,
         facts={'ocr': 'no words read by another program are part of the prompt'}),
    Task('vizwiz', 'VizWiz', _IMAGE, 'C', ('vqa_accuracy',), _vizwiz, ('val', 'test'), """\
From vizwiz.org, Tasks and Datasets, Visual Question Answering:
  Annotations.zip, val.zip (pictures)
Layout:
  Annotations/val.json                or val.json
  val/VizWiz_val_00000000.jpg
4,319 questions. test (8,000 questions, pictures in test/) has no public answers.""",
         Paper(6, {'vqa_accuracy': 45.9}, 'LLaVA-1.5', {'vqa_accuracy': 50.0}), max_tokens=16,
         facts={'split': "LLaVA-1.5's figure is of test-dev; what is scored here is val"}),
)
