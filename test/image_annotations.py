"""Annotation files of our own making in the public formats of the image benchmarks."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.modality import Modality


def encoded(colour: tuple[int, int, int]) -> str:
    """Return a picture of one colour as MMBench holds it."""
    data = io.BytesIO()
    Image.new('RGB', (4, 3), colour).save(data, 'PNG')
    return base64.b64encode(data.getvalue()).decode()


RED, BLUE = encoded((255, 0, 0)), encoded((0, 0, 255))
TEN = json.dumps([{'answer': text, 'answer_confidence': 'yes', 'answer_id': n} for n, text in
                  enumerate(['net'] * 4 + ['a net', 'mesh'] + ['net'] * 3 + [''], 1)])
PEOPLE = ('net',) * 4 + ('a net', 'mesh') + ('net',) * 3 + ('',)

GQA = """{
 "201307251": {"semantic": [{"operation": "select"}],
  "question": "Is it overcast?", "imageId": "n161313",
  "answer": "no", "types": {"detailed": "weatherVerify", "structural": "verify"}},
 "201640614": {"question": "Who wears a hat?", "imageId": "n235859", "answer": "the boy",
  "types": {"structural": "query"}}
}
"""
VQA_QUESTIONS = """{"info": {"year": 2017}, "task_type": "Open-Ended", "data_subtype": "val2014",
"questions": [
{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
{"image_id": 42, "question": "What is that?", "question_id": 42001}], "license": {"name": "CC"}}
"""
VQA_ANNOTATIONS = """{"info": {}, "annotations": [
{"question_type": "what is", "multiple_choice_answer": "net",
 "answers": TEN,
 "image_id": 42, "answer_type": "other", "question_id": 42001},
{"question_type": "where", "answers": [{"answer": "down", "answer_id": 1}],
 "image_id": 262148, "answer_type": "other", "question_id": 262148000}]}
""".replace('TEN', TEN)
OK_ANNOTATIONS = """{"annotations": [
{"image_id": 42, "answer_type": "other", "question_type": "four", "question_id": 42001,
 "answers": [{"answer_id": 1, "raw_answer": "nets", "answer": "net"}], "confidence": 3},
{"image_id": 262148, "question_type": "one", "question_id": 262148000,
 "answers": [{"answer_id": 1, "raw_answer": "down", "answer": "down"}]}],
"question_types": {"one": "Vehicles and Transportation", "four": "Sports and Recreation"}}
"""
TEXTVQA = """{"dataset_type": "val", "dataset_version": "0.5.1", "data": [
 {"question": "what is the brand?", "image_id": "003a8ae2ef43b901",
  "image_classes": ["Cassette deck"], "answers": ["nous les gosses", "dakota"],
  "question_tokens": ["what"], "question_id": 34602, "set_name": "val"}]}
"""
VIZWIZ = """[{"image": "VizWiz_val_00000000.jpg", "question": "Ok. There is another picture.",
  "answers": [{"answer_confidence": "yes", "answer": "unsuitable"},
              {"answer_confidence": "no", "answer": "unanswerable"}],
  "answer_type": "other", "answerable": 0},
 {"image": "VizWiz_val_00000001.jpg", "question": "Is it on?", "answers": [{"answer": "no"}],
  "answer_type": "yes/no", "answerable": 1}]
"""
PROBLEMS = """{"1": {"question": "Which is green?", "choices": ["grass", "blood"], "answer": 0,
  "hint": "", "image": null, "subject": "natural science", "split": "test"},
 "11": {"question": "Where is it cold?", "choices": ["Peru", "Norway", "Mali"], "answer": 1,
  "hint": "Look at the map.", "image": "image.png", "task": "closed choice", "grade": "grade3",
  "subject": "social science", "lecture": "Long.", "solution": "So.", "split": "test"},
 "12": {"question": "Other?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": "image.png",
  "subject": "language science", "split": "train"},
 "7": {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png",
  "subject": "natural science", "split": "test"}}
"""
PIDS = '{"train": ["12"],\n "val": [],\n "test": ["1",\n "11", "7"]}\n'
MMBENCH = '\n'.join('\t'.join(row) for row in [
    ['index', 'question', 'hint', 'A', 'B', 'C', 'D', 'answer', 'category', 'image', 'source',
     'l2-category', 'split'],
    ['241', '"Which ""side"" is it?"', '"Two lines\nof hint"', 'left', 'right', 'none', '', 'B',
     'spatial', RED, 'x', 'y', 'dev'],
    ['0', 'Big?', '', 'yes', 'no', '', '', 'A', 'size', BLUE, 'x', 'y', 'dev'],
    ['1000241', '"Which ""side"" is it?"', '"Two lines\nof hint"', 'right', 'none', 'left', '',
     'A', 'spatial', '241', 'x', 'y', 'dev']]) + '\n'
SEED = """{"questions": [
 {"answer": "C", "choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "4",
  "data_id": "1454426_2591111986", "data_type": "image", "question": "How many towels?",
  "question_id": "101669", "question_type_id": 5},
 {"answer": "A", "choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d",
  "data_id": "v.mp4", "data_type": "video", "question": "What?", "question_id": "v0",
  "question_type_id": 10, "segment": [1.0, 2.0]}],
 "question_type": {"Instances Counting": 5, "Action Recognition": 10}}
"""
NOCAPS = """{"licenses": [], "info": {},
 "images": [
  {"id": 0, "open_images_id": "0013ea2087020901", "file_name": "0013ea2087020901.jpg",
   "width": 1024, "height": 732, "coco_url": "x", "date_captured": "y", "license": 0,
   "domain": "in-domain"},
  {"id": 1, "file_name": "004.jpg", "domain": "out-domain"}],
 "annotations": [
  {"image_id": 1, "id": 10, "caption": "A crab."},
  {"image_id": 0, "id": 0, "caption": "A baby is standing in front of a house."},
  {"image_id": 0, "id": 1, "caption": "A little girl."}]}
"""
FLICKR = """{"images": [
 {"sentids": [0, 1], "imgid": 0, "split": "train", "filename": "1.jpg",
  "sentences": [{"tokens": ["a"], "raw": "A.", "imgid": 0, "sentid": 0}]},
 {"sentids": [5, 6], "imgid": 7, "split": "test", "filename": "1007129816.jpg",
  "sentences": [{"raw": "The man wears a hat.", "imgid": 7, "sentid": 5},
   {"raw": "A man in glasses.", "imgid": 7, "sentid": 6}]}], "dataset": "flickr30k"}
"""
MMVET = """{"v1_0": {"imagename": "v1_0.png", "question": "What is x in the equation?",
  "answer": "-1 <AND> -5", "imagesource": "web", "capability": ["ocr", "math"]},
 "v1_1": {"imagename": "v1_1.png", "question": "Explain this meme?", "answer": "It jokes.",
  "capability": ["rec"]}}
"""
MME_FLAT, MME_APART = 'OCR/0001.txt', 'posters/questions_answers_YN/tt0048028.txt'
SUBTASKS = ('existence count position color posters celebrity scene landmark artwork OCR '
            'commonsense_reasoning numerical_calculation text_translation code_reasoning').split()
PAIR = ('Is the word "angie\'s"? Please answer yes or no.\tYes\n'
        'Is the word "angle\'s"? Please answer yes or no.\tNo\n')


def mme_files() -> dict[str, str]:
    """Return the files of MME: five subtasks keep questions and pictures apart."""
    files: dict[str, str] = {}
    for subtask in SUBTASKS:
        apart = subtask in ('posters', 'celebrity', 'scene', 'landmark', 'artwork')
        name = 'tt0048028' if subtask == 'posters' else '0001'
        files[f'{subtask}/questions_answers_YN/{name}.txt' if apart
              else f'{subtask}/{name}.txt'] = PAIR
        files[f'{subtask}/images/{name}.jpg' if apart else f'{subtask}/{name}.png'] = ''
    return files


FILES: dict[str, dict[str, str]] = {
    'gqa': {'testdev_balanced_questions.json': GQA, 'images/n161313.jpg': ''},
    'vqav2': {'v2_OpenEnded_mscoco_val2014_questions.json': VQA_QUESTIONS,
              'v2_mscoco_val2014_annotations.json': VQA_ANNOTATIONS,
              'images/val2014/COCO_val2014_000000000042.jpg': ''},
    'okvqa': {'annotations/OpenEnded_mscoco_val2014_questions.json': VQA_QUESTIONS,
              'annotations/mscoco_val2014_annotations.json': OK_ANNOTATIONS},
    'textvqa': {'TextVQA_0.5.1_val.json': TEXTVQA},
    'vizwiz': {'Annotations/val.json': VIZWIZ},
    'scienceqa': {'problems.json': PROBLEMS, 'pid_splits.json': PIDS, 'test/7/image.png': ''},
    'mme': mme_files(),
    'mmbench': {'MMBench_DEV_EN.tsv': MMBENCH},
    'seedbench': {'SEED-Bench.json': SEED},
    'nocaps': {'nocaps_val_4500_captions.json': NOCAPS, 'images/004.jpg': ''},
    'flickr30k': {'dataset_flickr30k.json': FLICKR, 'flickr30k-images/1007129816.jpg': ''},
    'mmvet': {'mm-vet/mm-vet.json': MMVET},
}


def lay(root: Path, files: dict[str, str]) -> Path:
    """Write files below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    return root


def read(task: str, root: Path, split: str = '') -> list[Item]:
    """Return the items of a benchmark."""
    found = find_task(task)
    return list(found.read(root, split or found.splits[0]))


def told(item: Item, root: Path) -> dict[str, Any]:
    """Return what an item says that is not empty; the picture by its path below the folder."""
    path = item.signals[Modality.IMAGE].path.relative_to(root).as_posix()
    said = {'id': item.id, 'q': item.question, 'path': path, 'answers': item.answers,
            'choices': item.choices, 'right': item.right, 'group': item.group,
            'facts': dict(item.facts), 'line': int(item.source.split('line ')[1].split(',')[0])}
    return {key: value for key, value in said.items() if value not in ('', (), -1, {})}


EXPECTED: dict[str, list[dict[str, Any]]] = {
    'gqa': [{'id': '201307251', 'q': 'Is it overcast?', 'path': 'images/n161313.jpg',
             'answers': ('no',), 'group': 'verify', 'line': 2},
            {'id': '201640614', 'q': 'Who wears a hat?', 'path': 'images/n235859.jpg',
             'answers': ('the boy',), 'group': 'query', 'line': 5}],
    'vqav2': [{'id': '262148000', 'q': 'Where is he looking?', 'answers': ('down',),
               'path': 'val2014/COCO_val2014_000000262148.jpg', 'group': 'other', 'line': 3},
              {'id': '42001', 'q': 'What is that?', 'answers': PEOPLE,
               'path': 'images/val2014/COCO_val2014_000000000042.jpg', 'group': 'other',
               'line': 4}],
    'okvqa': [{'id': '262148000', 'q': 'Where is he looking?', 'answers': ('down',),
               'path': 'val2014/COCO_val2014_000000262148.jpg',
               'group': 'Vehicles and Transportation', 'line': 3},
              {'id': '42001', 'q': 'What is that?', 'answers': ('net',),
               'path': 'val2014/COCO_val2014_000000000042.jpg',
               'group': 'Sports and Recreation', 'line': 4}],
    'textvqa': [{'id': '34602', 'q': 'what is the brand?',
                 'answers': ('nous les gosses', 'dakota'), 'line': 2,
                 'path': 'train_images/003a8ae2ef43b901.jpg'}],
    'vizwiz': [{'id': 'VizWiz_val_00000000.jpg', 'q': 'Ok. There is another picture.',
                'path': 'val/VizWiz_val_00000000.jpg', 'answers': ('unsuitable', 'unanswerable'),
                'group': 'other', 'line': 1},
               {'id': 'VizWiz_val_00000001.jpg', 'q': 'Is it on?', 'answers': ('no',),
                'path': 'val/VizWiz_val_00000001.jpg', 'group': 'yes/no', 'line': 5}],
    'scienceqa': [{'id': '11', 'q': 'Context: Look at the map.\nWhere is it cold?',
                   'path': 'images/test/11/image.png', 'answers': ('Norway',), 'right': 1,
                   'choices': ('Peru', 'Norway', 'Mali'), 'group': 'social science', 'line': 3},
                  {'id': '7', 'q': 'Which?', 'path': 'test/7/image.png', 'answers': ('y',),
                   'choices': ('x', 'y'), 'right': 1, 'group': 'natural science', 'line': 8}],
    'mmbench': [{'id': '241', 'q': 'Two lines\nof hint\nWhich "side" is it?', 'right': 1,
                 'answers': ('right',), 'choices': ('left', 'right', 'none'), 'group': 'spatial',
                 'facts': {'circle': '241'}, 'line': 2},
                {'id': '0', 'q': 'Big?', 'answers': ('yes',), 'choices': ('yes', 'no'), 'right': 0,
                 'group': 'size', 'facts': {'circle': '0'}, 'line': 4},
                {'id': '1000241', 'q': 'Two lines\nof hint\nWhich "side" is it?', 'right': 0,
                 'answers': ('right',), 'choices': ('right', 'none', 'left'), 'group': 'spatial',
                 'facts': {'circle': '241'}, 'line': 5}],
    'seedbench': [{'id': '101669', 'q': 'How many towels?', 'answers': ('Three',), 'right': 2,
                   'path': 'SEED-Bench-image/1454426_2591111986', 'line': 2,
                   'choices': ('One', 'Two', 'Three', '4'), 'group': 'Instances Counting'}],
    'nocaps': [{'id': '0', 'path': 'val/0013ea2087020901.jpg', 'group': 'in-domain', 'line': 3,
                'answers': ('A baby is standing in front of a house.', 'A little girl.')},
               {'id': '1', 'path': 'images/004.jpg', 'answers': ('A crab.',),
                'group': 'out-domain', 'line': 6}],
    'flickr30k': [{'id': '7', 'path': 'flickr30k-images/1007129816.jpg', 'line': 4,
                   'answers': ('The man wears a hat.', 'A man in glasses.')}],
    'mmvet': [{'id': 'v1_0', 'q': 'What is x in the equation?', 'answers': ('-1 <AND> -5',),
               'path': 'images/v1_0.png', 'group': 'math,ocr', 'line': 1,
               'facts': {'capabilities': ('ocr', 'math')}},
              {'id': 'v1_1', 'q': 'Explain this meme?', 'answers': ('It jokes.',), 'group': 'rec',
               'path': 'images/v1_1.png', 'facts': {'capabilities': ('rec',)}, 'line': 3}],
}
