"""The twelve image benchmarks: public annotation formats, read right and refused with a line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
import re

from image_annotations import (
    BLUE,
    EXPECTED,
    FILES,
    GQA,
    MMBENCH,
    MME_APART,
    MME_FLAT,
    PAIR,
    RED,
    SUBTASKS,
    TEXTVQA,
    VQA_QUESTIONS,
    lay,
    mme_files,
    read,
    told,
)
from PIL import Image
import pytest

from onellm_ros.evaluation.item import AnnotationError
from onellm_ros.evaluation.metrics import names
from onellm_ros.evaluation.prompts import prompt
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.modality import Modality


@pytest.mark.parametrize('task', EXPECTED)
def test_public_format(task: str, tmp_path: Path) -> None:
    root = lay(tmp_path, FILES[task])
    items = read(task, root)
    found = [told(item, root) for item in items]
    if task == 'mmbench':
        paths = [found[i].pop('path') for i in range(3)]
        assert paths[0] == paths[2] != paths[1]         # a copy shows the same picture
        assert (root / paths[0]).read_bytes() == base64.b64decode(RED)
        assert Image.open(root / paths[1]).getpixel((0, 0)) == (0, 0, 255)
    assert found == EXPECTED[task]
    assert [told(item, root) for item in read(task, root)] \
        == [told(item, root) for item in items]         # the same in every run


def test_mme_asks_two_questions_a_picture_in_both_layouts(tmp_path: Path) -> None:
    root = lay(tmp_path, {f'MME_Benchmark_release_version/MME_Benchmark/{name}': text
                          for name, text in mme_files().items()})
    items = read('mme', root)
    assert [item.group for item in items] == [name for name in SUBTASKS for _ in range(2)]
    base = root / 'MME_Benchmark_release_version' / 'MME_Benchmark'
    flat = [item for item in items if item.group == 'OCR']
    assert told(flat[0], base) == {
        'id': 'OCR/0001/1', 'q': 'Is the word "angie\'s"? Please answer yes or no.',
        'path': 'OCR/0001.png', 'answers': ('Yes',), 'group': 'OCR', 'line': 1,
        'facts': {'picture': 'OCR/0001'}}
    assert (flat[1].id, flat[1].answers, flat[1].facts) == ('OCR/0001/2', ('No',), flat[0].facts)
    apart = next(item for item in items if item.group == 'posters')
    assert told(apart, base)['path'] == 'posters/images/tt0048028.jpg'


# task, file, what is replaced by what, line of the error, words in it
BROKEN = [
    ('gqa', 0, '"imageId": "n235859", ', '', 5, "expected 'imageId'"),
    ('gqa', 0, '"Is it overcast?"', '17', 2, 'question: found a whole number 17, expected a text'),
    ('gqa', 0, '201640614', '201307251', 5, "found the key '201307251' again, first in line 2"),
    ('gqa', 0, '"answer": "no", "types"', '"types"', 2, "expected 'answer'"),
    ('vqav2', 0, '"image_id": 42,', '"image_id": "x",', 4,
     'questions[1]: image_id: found the text "x", expected a whole number'),
    ('vqav2', 0, '42001', '262148000', 4, "found the id '262148000' again, first in line 3"),
    ('vqav2', 0, '42001', '42002', 4, 'found no annotation of the question 42002 in'),
    ('vqav2', 0, '"questions": [', '"asked": [', 1, 'found the keys info, task_type'),
    ('vqav2', 1, '[{"answer": "down", "answer_id": 1}]', '[]', 5,
     'annotations[1]: answers: found an empty list'),
    ('vqav2', 1, '"answer": "down"', '"answer": 3', 5,
     'annotations[1]: answers[0]: found an object'),
    ('okvqa', 1, '"answers": [{"answer_id": 1, "raw_answer": "nets", "answer": "net"}], ', '', 2,
     "expected 'answers'"),
    ('textvqa', 0, '"question_id": 34602', '"question_id": [1]', 2, 'question_id: found a list'),
    ('textvqa', 0, '["nous les gosses", "dakota"]', '"dakota"', 2, 'answers: found the text'),
    ('vizwiz', 0, '00000001', '00000000', 5, 'again, first in line 1'),
    ('scienceqa', 0, '"answer": 1,\n  "hint": "Look', '"answer": 3,\n  "hint": "Look', 3,
     'answer: found 3, expected the index of one of 3 choices'),
    ('scienceqa', 1, '"7"]', '"8"]', 4, "found the id '8', expected that of a problem in"),
    ('scienceqa', 1, '"11"', '"1"', 4, "found the id '1' again, first in line 3"),
    ('scienceqa', 1, '"test"', '"text"', 1, "expected 'test'"),
    ('mme', MME_FLAT, '\tNo', ' No', 2, 'expected a question, a tab, Yes or No'),
    ('mme', MME_APART, PAIR, PAIR + PAIR, 0, 'found 4 lines, expected two'),
    ('mmbench', 0, RED, RED[:40] + '?' + RED[41:], 2, 'expected a picture in base64'),
    ('mmbench', 0, BLUE, base64.b64encode(b'no picture').decode(), 4,
     'found 10 bytes that are no picture'),
    ('mmbench', 0, '\t241\t', '\t77\t', 5, 'image: found the index 77'),
    ('mmbench', 0, '\nof hint"\tright', '\tright', 5, 'found a row that is no table'),
    ('mmbench', 0, 'right\tnone\tleft\t\tA', 'right\tnone\tleft\t\tD', 5, "answer: found 'D'"),
    ('mmbench', 0, '\t\tyes\tno', '\tyes\tno', 4, 'found 12 fields, expected 13'),
    ('mmbench', 0, '\n0\t', '\n241\t', 4, "found the id '241' again, first in line 2"),
    ('seedbench', 0, '"answer": "C"', '"answer": "E"', 2, "answer: found 'E', expected A, B, C"),
    ('seedbench', 0, '"choice_d": "4",\n', '\n', 2, "expected 'choice_d'"),
    ('nocaps', 0, '"image_id": 1,', '"image_id": 5,', 8, "image_id: found '5', expected the id"),
    ('nocaps', 0, '{"image_id": 1, "id": 10, "caption": "A crab."},\n', '\n', 6,
     "found no annotation of the image '1'"),
    ('nocaps', 0, '{"id": 1, "file', '{"id": 0, "file', 6,
     "found the id '0' again, first in line 3"),
    ('flickr30k', 0, '{"raw": "A man in glasses.", ', '{', 4,
     'sentences[1]: found the keys imgid'),
    ('mmvet', 0, '["rec"]', '"rec"', 3, 'capability: found the text "rec", expected a list'),
]


@pytest.mark.parametrize(('task', 'file', 'old', 'new', 'line', 'words'), BROKEN)
def test_a_broken_line_is_named(task: str, file: int | str, old: str, new: str, line: int,
                                words: str, tmp_path: Path) -> None:
    name = file if isinstance(file, str) else list(FILES[task])[file]
    assert FILES[task][name].count(old) == 1 or task == 'mmbench'
    root = lay(tmp_path, FILES[task])
    (root / name).write_text(new.join(FILES[task][name].rsplit(old, 1)))
    with pytest.raises(AnnotationError) as error:
        read(task, root)
    assert (error.value.file, error.value.line) == (root / name, line), str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize('task', [task for task in FILES if task not in ('mme', 'mmbench')])
def test_a_cut_file_is_named_with_its_last_line(task: str, tmp_path: Path) -> None:
    root = lay(tmp_path, FILES[task])
    name = list(FILES[task])[0]
    for left in (0.3, 0.6, 0.9):
        text = FILES[task][name][:int(len(FILES[task][name]) * left)].rstrip()
        (root / name).write_text(text)
        with pytest.raises(AnnotationError) as error:
            read(task, root)
        last = text.count('\n') + 1
        assert error.value.file == root / name and error.value.line in (last - 1, last)
        assert 'cut short' in str(error.value)


@pytest.mark.parametrize('task', FILES)
def test_what_is_missing_is_told_with_the_way_to_fetch_it(task: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=f'onellm eval --explain {task}`'):
        read(task, tmp_path)
    with pytest.raises(AnnotationError, match=f'onellm eval --explain {task}`'):
        read(task, tmp_path / 'nothing')


def test_vqa_numbers_may_be_texts(tmp_path: Path) -> None:
    root = lay(tmp_path, FILES['vqav2'])
    before = read('vqav2', root)
    path = root / list(FILES['vqav2'])[0]
    path.write_text(re.sub(r'(_id": )(\d+)', r'\1"\2"', path.read_text()))
    assert '"image_id": "42"' in path.read_text()
    assert [(item.id, item.signals) for item in read('vqav2', root)] == [
        (item.id, item.signals) for item in before]


def test_a_file_of_one_line_names_the_element(tmp_path: Path) -> None:
    root = lay(tmp_path, FILES['vqav2'])
    questions = json.loads(VQA_QUESTIONS)
    questions['questions'][1]['question'] = None
    (root / 'v2_OpenEnded_mscoco_val2014_questions.json').write_text(json.dumps(questions))
    with pytest.raises(AnnotationError,
                       match=r'line 1: questions\[1\]: question: found null, expected a text'):
        read('vqav2', root)


@pytest.mark.parametrize(('task', 'split', 'files'), [
    ('gqa', 'test_balanced', {'test_balanced_questions.json': GQA.replace('"answer": "no", ', '')
                              .replace('"answer": "the boy",', '')}),
    ('vqav2', 'test-dev2015', {'v2_OpenEnded_mscoco_test-dev2015_questions.json': VQA_QUESTIONS}),
    ('textvqa', 'test', {'TextVQA_0.5.1_test.json': TEXTVQA.replace(
        '"answers": ["nous les gosses", "dakota"],', '')}),
    ('vizwiz', 'test', {'test.json': '[{"image": "VizWiz_test_00000000.jpg", "question": "What?"}]'
                        }),
    ('mmbench', 'test', {'MMBench_TEST_EN.tsv': MMBENCH.replace('\tB\tspatial', '\t\tspatial')
                         .replace('\tA\tspatial', '\t\tspatial')
                         .replace('\tA\tsize', '\t\tsize')}),
    ('nocaps', 'test', {'nocaps_test_image_info.json':
                        '{"images": [{"id": 4, "file_name": "a.jpg", "domain": "near-domain"}]}'}),
])
def test_splits_without_public_answers_are_read(task: str, split: str, files: dict[str, str],
                                                tmp_path: Path) -> None:
    items = read(task, lay(tmp_path, files), split)
    assert items and all(item.answers == () and item.right == -1 for item in items)
    if task == 'vqav2':
        assert items[0].signals[Modality.IMAGE].path \
            == tmp_path / 'test2015/COCO_test2015_000000262148.jpg'


@pytest.mark.parametrize('task', ['nocaps', 'flickr30k'])
def test_caption_tasks_read_coco_style_files_of_anyone(task: str, tmp_path: Path) -> None:
    split = find_task(task).splits[0]
    coco = {'images': [{'id': 'b'}, {'id': 3, 'file_name': 'x/3.png'}],
            'annotations': [{'image_id': 3, 'caption': 'A dog.'},
                            {'image_id': 'b', 'caption': 'A cat.'}]}
    root = lay(tmp_path, {f'captions_{split}.json': json.dumps(coco), 'x/3.png': ''})
    assert [(item.id, item.signals[Modality.IMAGE].path.name, item.answers)
            for item in read(task, root)] == [('b', 'b.jpg', ('A cat.',)),
                                              ('3', '3.png', ('A dog.',))]
    listed = [{'image': 'x/3.png', 'caption': ['A dog.', 'One dog.']},
              {'image': 'y/4.png', 'caption': 'Four.'}]
    (root / f'captions_{split}.json').write_text(json.dumps(listed))
    found = read(task, root)
    assert [(item.id, item.answers) for item in found] \
        == [('3', ('A dog.', 'One dog.')), ('4', ('Four.',))]
    assert found[0].signals[Modality.IMAGE].path == root / 'x/3.png'


def test_pictures_of_mmbench_go_elsewhere_where_the_data_cannot_be_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(tmp_path / 'data', {'MMBench_DEV_EN.tsv': MMBENCH,
                                   'MMBench_DEV_EN_pictures': 'a file in the way'})
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    paths = [item.signals[Modality.IMAGE].path for item in read('mmbench', root)]
    assert all(path.is_relative_to(tmp_path / 'cache' / 'onellm_ros') for path in paths)
    before = [path.stat().st_mtime_ns for path in paths]
    assert [item.signals[Modality.IMAGE].path for item in read('mmbench', root)] == paths
    assert [path.stat().st_mtime_ns for path in paths] == before        # written once
    (tmp_path / 'cache2').write_text('another one')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache2'))
    with pytest.raises(AnnotationError, match='line 2: image: found no place for the picture'):
        read('mmbench', root)


TABLE_11 = {
    'gqa': 'Is it overcast? Answer the question using a single word or phase.',
    'vqav2': 'Where is he looking? Answer the question using a single word or phase.',
    'okvqa': 'Where is he looking? Answer the question using a single word or phase.',
    'textvqa': 'what is the brand? Answer the question using a single word or phase.',
    'vizwiz': 'Ok. There is another picture. When the provided information is insufficient, '
              "respond with 'Unanswerable'. Answer the question using a single word or phase.",
    'scienceqa': 'Context: Look at the map.\nWhere is it cold?\nA. Peru\nB. Norway\nC. Mali\n'
                 "Answer with the option's letter from the given choices directly",
    'mme': 'Is the word "angie\'s"? Please answer yes or no. Answer the question using a single '
           'word or phase.',
    'mmbench': 'Two lines\nof hint\nWhich "side" is it?\nA. left\nB. right\nC. none\n'
               "Answer with the option's letter from the given choices directly",
    'seedbench': 'How many towels?\nA. One\nB. Two\nC. Three\nD. 4\n'
                 "Answer with the option's letter from the given choices directly",
    'nocaps': 'Provide a one-sentence caption for the provided image.',
    'flickr30k': 'Provide a one-sentence caption for the provided image.',
    'mmvet': 'What is x in the equation?',
}


@pytest.mark.parametrize('task', TABLE_11)
def test_prompts_are_the_papers(task: str, tmp_path: Path) -> None:
    item = read(task, lay(tmp_path, FILES[task]))[0]
    assert prompt(find_task(task).form, item.question, item.choices, 'image') == TABLE_11[task]


def test_rows_hold_the_papers_numbers() -> None:
    rows = {}
    for name in FILES:
        task = find_task(name)
        assert task.paper is not None and task.modalities == (Modality.IMAGE,)
        first = task.metrics[0]
        assert set(task.metrics) <= set(names()) and set(task.paper.scores) == {first}
        assert task.version == 1 and not task.paper.fine_tuned
        assert task.letters == (task.form == 'B') and task.fetch.startswith('From ')
        rows[task.paper.number] = (name, task.paper.scores[first], task.paper.best,
                                   task.paper.best_scores[first])
    assert [rows[number] for number in range(1, 13)] == [
        ('gqa', 59.5, 'LLaVA-1.5', 62.0), ('vqav2', 71.6, 'LLaVA-1.5', 78.5),
        ('okvqa', 58.9, 'Qwen-VL', 56.6), ('textvqa', 34.0, 'Qwen-VL', 61.5),
        ('scienceqa', 63.4, 'AnyMAL-70B', 70.8), ('vizwiz', 45.9, 'LLaVA-1.5', 50.0),
        ('nocaps', 115.9, 'InstructBLIP-7B', 123.1),
        ('flickr30k', 78.6, 'InstructBLIP-13B', 82.8), ('mme', 1392.0, 'LLaVA-1.5', 1510.7),
        ('mmbench', 60.0, 'LLaVA-1.5', 64.3), ('mmvet', 29.1, 'LLaMA-Adapter v2', 31.4),
        ('seedbench', 61.2, 'LLaVA-1.5', 58.6)]


@pytest.mark.parametrize('task', FILES)
def test_the_page_and_the_row_tell_the_same_files(task: str, root: Path) -> None:
    page = (root / 'docs' / 'evaluation_data.md').read_text()
    line = next(line for line in page.splitlines() if line.startswith(f'| `{task}` |'))
    splits = [part.strip().rstrip('*') for part in line.split('|')[2].split(',')]
    assert splits == list(find_task(task).splits)
    first = next(iter(FILES[task])).split('/')[-1] if task != 'mme' else 'existence/'
    assert first in line and first in find_task(task).fetch
