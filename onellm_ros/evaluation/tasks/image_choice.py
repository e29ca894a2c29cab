"""Questions about pictures with given choices: ScienceQA, MME (yes or no), MMBench, SEED-Bench."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    explain,
    find_file,
    identity,
    new_id,
    optional,
    picture,
    read_json,
    read_lines,
    read_table,
    shown,
    texts,
    wanted,
)
from onellm_ros.evaluation.encoded import decoded_picture
from onellm_ros.evaluation.item import AnnotationError, Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.modality import Modality

_IMAGE = (Modality.IMAGE,)
_METRICS = ('choice_letter', 'choice_likelihood')
# MME's subtasks in its order: ten of perception, whose sum papers report, and four of cognition.
_MME = ('existence', 'count', 'position', 'color', 'posters', 'celebrity', 'scene', 'landmark',
        'artwork', 'OCR', 'commonsense_reasoning', 'numerical_calculation', 'text_translation',
        'code_reasoning')
_PICTURES = ('.jpg', '.png', '.jpeg')
_ROUND = 1_000_000              # MMBench: indices of a question's copies differ by multiples of it


def _seen(path: Path) -> dict[Modality, Signal]:
    return {Modality.IMAGE: Signal(path)}


def _scienceqa(root: Path, split: str) -> Iterator[Item]:
    places = ('', 'data/scienceqa/', 'scienceqa/')
    chosen: dict[str, int] = {}
    splits = find_file(root, [f'{place}pid_splits.json' for place in places], 'scienceqa')
    for row in read_json(splits, 'scienceqa').rows(split):
        if not isinstance(row.value, str):
            raise row.error(f'found {shown(row.value)}, expected the id of a problem, a text')
        new_id(chosen, row, row.value)
    problems: dict[str, Row] = {}
    file = find_file(root, [f'{place}problems.json' for place in places], 'scienceqa')
    for row in read_json(file, 'scienceqa').rows():
        if row.key in chosen:
            problems[row.key] = row
    for problem, line in chosen.items():
        if problem not in problems:
            raise AnnotationError(splits, line, f'found the id {problem!r}, expected that of a '
                                                f'problem in {file}')
        row = problems[problem]
        if optional(row, 'image', str, None) is not None:       # without: a question of text
            yield _problem(root, problem, row)


def _problem(root: Path, problem: str, row: Row) -> Item:
    """Return a problem of ScienceQA that shows a picture; its hint precedes the question."""
    choices, right = texts(row, 'choices'), wanted(row, 'answer', int)
    if not 0 <= right < len(choices):
        raise row.error(f'answer: found {right}, expected the index of one of {len(choices)} '
                        'choices, from 0')
    hint, question = optional(row, 'hint', str, ''), wanted(row, 'question', str)
    name = f'{wanted(row, "split", str)}/{problem}/{row.value["image"]}'
    path = picture(root, (f'images/{name}', name, f'data/scienceqa/images/{name}'))
    return Item(problem, f'Context: {hint}\n{question}' if hint else question, _seen(path),
                (choices[right],), choices, right, optional(row, 'subject', str, ''),
                source=row.source)


def _mme(root: Path, split: str) -> Iterator[Item]:
    base = next((root / part for part in ('', 'MME_Benchmark', 'MME_Benchmark_release_version',
                                          'MME_Benchmark_release_version/MME_Benchmark')
                 if (root / part / _MME[0]).is_dir()), None)
    if base is None:
        raise AnnotationError(root, 0, f'found no folder {_MME[0]}, expected one for each of the '
                                       f'{len(_MME)} subtasks; {explain("mme")}')
    for subtask in _MME:
        folder = base / subtask
        apart = (folder / 'questions_answers_YN').is_dir()
        asked, shows = ((folder / 'questions_answers_YN', folder / 'images') if apart
                        else (folder, folder))
        files = sorted(asked.glob('[!.]*.txt'))
        if not files:
            raise AnnotationError(asked, 0, 'found no .txt file, expected one for each picture; '
                                  f'{explain("mme")}')
        for file in files:
            yield from _pair(file, picture(shows, [file.stem + end for end in _PICTURES]), subtask)


def _pair(file: Path, path: Path, subtask: str) -> Iterator[Item]:
    """Yield the two questions that MME asks about a picture."""
    rows = list(read_lines(file, 'mme'))
    if len(rows) != 2:
        raise AnnotationError(file, 0, f'found {len(rows)} lines, expected two: a question, a tab '
                                       'and Yes, another one and No')
    name = f'{subtask}/{file.stem}'
    for number, row in enumerate(rows):
        question, _, answer = row.value.partition('\t')
        if answer.strip().lower() not in ('yes', 'no') or not question.strip():
            raise row.error(f'found {row.value[:80]!r}, expected a question, a tab, Yes or No')
        yield Item(f'{name}/{number + 1}', question.strip(), _seen(path),
                   (answer.strip().capitalize(),), group=subtask, facts={'picture': name},
                   source=row.source)


def _mmbench(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, (f'MMBench_{split.upper()}_EN.tsv', f'mmbench_{split}_20230712.tsv',
                            f'mmbench_{split}_en_20231003.tsv'), 'mmbench')
    folder = f'{file.stem}_pictures'
    home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    places = file.parent / folder, home / 'onellm_ros' / 'evaluation' / folder
    seen: dict[str, int] = {}
    paths: dict[str, Path] = {}
    columns = ['index', 'question', 'A', 'B', 'image'] + ['answer'] * (split == 'dev')
    for row in read_table(file, '\t', columns, task='mmbench'):
        index = new_id(seen, row, _index(row))
        encoded = row.value['image'].strip()
        if encoded in paths:                    # the picture of another row
            paths[index] = paths[encoded]
        elif encoded.isdecimal():
            raise row.error(f'image: found the index {encoded}, expected that of a row above, or '
                            'a picture in base64')
        else:
            paths[index] = decoded_picture(row, encoded, *places)
        yield _asked(row, index, paths[index], split)


def _index(row: Row) -> str:
    """Return the index of a row of MMBench; tables that pandas wrote may have 7.0."""
    text = row.value['index'].strip().removesuffix('.0')
    if not text.isdecimal():
        raise row.error(f'index: found {row.value["index"]!r}, expected a whole number')
    return str(int(text))


def _asked(row: Row, index: str, path: Path, split: str) -> Item:
    """Return a question of MMBench; its hint precedes it."""
    def cell(column: str) -> str:
        text = row.value.get(column, '').strip()
        return '' if text == 'nan' else text        # so pandas writes an empty one

    letters = [letter for letter in 'ABCD' if cell(letter)]
    choices = tuple(cell(letter) for letter in letters)
    answer, question = cell('answer'), cell('question')
    if ''.join(letters) != 'ABCD'[:len(letters)] or len(letters) < 2 or not question:
        raise row.error(f'found the question {question[:40]!r} with the options '
                        f'{", ".join(letters) or "none"}, expected a question with A, B and so on')
    if answer not in letters and (answer or split == 'dev'):
        raise row.error(f'answer: found {answer!r}, expected one of {", ".join(letters)}')
    right = letters.index(answer) if answer else -1
    hint = cell('hint')
    return Item(index, f'{hint}\n{question}' if hint else question, _seen(path),
                (choices[right],) if answer else (), choices, right, cell('category'),
                {'circle': str(int(index) % _ROUND)}, source=row.source)


def _seedbench(root: Path, split: str) -> Iterator[Item]:
    file = read_json(find_file(root, ('SEED-Bench.json',), 'seedbench'), 'seedbench')
    names = {}
    if 'question_type' in file.heads():
        names = {str(row.value): row.key for row in file.rows('question_type')}
    seen: dict[str, int] = {}
    for row in file.rows('questions'):
        if wanted(row, 'data_type', str) != 'image':
            continue
        question = new_id(seen, row, identity(row, 'question_id'))
        choices = tuple(identity(row, f'choice_{letter}') for letter in 'abcd')
        answer = wanted(row, 'answer', str)
        if answer not in ('A', 'B', 'C', 'D'):
            raise row.error(f'answer: found {answer!r}, expected A, B, C or D')
        kind, data = identity(row, 'question_type_id'), identity(row, 'data_id')
        path = picture(root, (f'SEED-Bench-image/{data}', f'images/{data}', data))
        right = 'ABCD'.index(answer)
        yield Item(question, wanted(row, 'question', str), _seen(path), (choices[right],), choices,
                   right, names.get(kind, kind), source=row.source)


TASKS: tuple[Task, ...] = (
    Task('scienceqa', 'ScienceQA', _IMAGE, 'B', _METRICS, _scienceqa, ('test', 'val', 'minitest'),
         """\
From scienceqa.github.io, Download (or its repository's data/scienceqa/ and tools/download.sh):
  problems.json, pid_splits.json
  test.zip (pictures)
Layout:
  problems.json                       or below data/scienceqa/
  pid_splits.json                     or below data/scienceqa/
  images/test/11/image.png            or test/11/image.png
Of the 4,241 questions of test the 2,017 that show a picture are asked; a hint goes before the
question as "Context: ...".""",
         Paper(5, {'choice_letter': 63.4}, 'AnyMAL-70B', {'choice_letter': 70.8}), letters=True,
         max_tokens=16),
    Task('mme', 'MME', _IMAGE, 'A', ('mme',), _mme, ('test',), """\
From the authors (repository BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation;
they send a link on request):
  MME_Benchmark_release_version.zip
Layout, of each of the 14 subtasks one of the two (both occur in the release):
  existence/000000006040.jpg, existence/000000006040.txt
  posters/images/tt0048028.jpg, posters/questions_answers_YN/tt0048028.txt
also below MME_Benchmark/ or MME_Benchmark_release_version/.
2,374 questions, two a picture, each with "Please answer yes or no." as published.""",
         Paper(9, {'mme': 1392.0}, 'LLaVA-1.5', {'mme': 1510.7}), max_tokens=16,
         facts={'score': 'the sum of the ten subtasks of perception, 2000 at most'}),
    Task('mmbench', 'MMBench', _IMAGE, 'B', ('choice_circular', *_METRICS), _mmbench,
         ('dev', 'test'), """\
From mmbench.opencompass.org.cn (or repository open-compass/MMBench), English:
  MMBench_DEV_EN.tsv, or mmbench_dev_20230712.tsv, which papers of 2023 used
Layout:
  MMBench_DEV_EN.tsv
The table holds the pictures; they are written to MMBench_DEV_EN_pictures/ beside it, or, where
that cannot be written, below ~/.cache/onellm_ros/evaluation/. test (MMBench_TEST_EN.tsv) has no
public answers.""",
         Paper(10, {'choice_circular': 60.0}, 'LLaVA-1.5', {'choice_circular': 64.3}),
         letters=True, max_tokens=16,
         facts={'circular': "the benchmark's own figure is circular: a question counts if it is "
                            'answered rightly with its choices in each turn; the file holds '
                            'these copies, with indices that differ by multiples of 1,000,000'}),
    Task('seedbench', 'SEED-Bench', _IMAGE, 'B', _METRICS, _seedbench, ('image',), """\
From the data set AILab-CVC/SEED-Bench on Hugging Face (first version):
  SEED-Bench.json
  SEED-Bench-image.zip (pictures of CC3M, named without a suffix)
Layout:
  SEED-Bench.json
  SEED-Bench-image/1454426_2591111986
The 14,233 questions of data_type "image" (nine of the twelve dimensions) are asked.""",
         Paper(12, {'choice_letter': 61.2}, 'LLaVA-1.5', {'choice_letter': 58.6}), letters=True,
         max_tokens=16,
         facts={'split': "LLaVA-1.5's 58.6 is of pictures and videos together; of pictures alone "
                         'its authors report 66.1'}),
)
