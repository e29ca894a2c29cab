"""Items of the image benchmarks and their metrics together: right answers, and empty ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from image_annotations import FILES, lay, read
import pytest

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics import metric
from onellm_ros.evaluation.runs import Run
from onellm_ros.evaluation.scoring import told, write_scores
from onellm_ros.evaluation.task import Tools
from onellm_ros.evaluation.tasks import find_task

SCORED = [task for task in FILES if task != 'mmvet']        # which a judge scores


def right(item: Item, letters: bool) -> Prediction:
    """Return what a model replies that knows."""
    text = 'ABCD'[item.right] if letters else item.answers[0]
    sure = tuple(float(n == item.right) for n in range(len(item.choices)))
    return Prediction(item.id, text, choice=item.right, probabilities=sure)


@pytest.mark.parametrize('task', SCORED)
def test_right_answers_score_fully_and_empty_ones_nothing(task: str, tmp_path: Path) -> None:
    row, files = find_task(task), FILES[task]
    if task == 'flickr30k':     # CIDEr knows rare words only from several pictures
        files = {name: text.replace('"train"', '"test"') for name, text in files.items()}
    items = read(task, lay(tmp_path, files))
    if row.metrics == ('vqa_accuracy',):        # which takes ten people, who agree here
        items = [replace(item, answers=item.answers[:1] * 10) for item in items]
    knowing = [right(item, row.letters) for item in items]
    silent = [Prediction(item.id, '', choice=0 if item.right else 1) for item in items]
    for name in (name for name in row.metrics if name not in ('meteor', 'spice')):
        found = metric(name)(items, knowing, Tools())
        nothing = metric(name)(items, silent, Tools())
        assert nothing.value == 0, name
        if name in ('exact_match', 'choice_letter', 'choice_likelihood', 'rouge_l',
                    'vqa_accuracy'):
            assert found.value == pytest.approx(100), name
        elif name == 'mme':
            assert found.value == pytest.approx(2000)       # of perception
        else:
            assert found.value is not None and found.value > 50, name


def test_vqa_accuracy_of_ten_people(tmp_path: Path) -> None:
    """Eight say net, one of them with an article, one mesh, one nothing."""
    items = [item for item in read('vqav2', lay(tmp_path, FILES['vqav2']))
             if len(item.answers) == 10]
    score = metric('vqa_accuracy')
    assert score(items, [Prediction(items[0].id, 'Net.')], Tools()).value == pytest.approx(100)
    # mesh: nine subsets hold it (1/3 each), one does not
    assert score(items, [Prediction(items[0].id, 'mesh')], Tools()).value == pytest.approx(30)


@pytest.mark.parametrize(('replies', 'letter', 'circular'), [
    (('B', 'A', 'A'), 100, {'all': 100, 'spatial': 100, 'size': 100}),
    (('B', 'A', 'B'), 200 / 3, {'all': 50, 'spatial': 0, 'size': 100}),
    (('A', 'A', 'A'), 200 / 3, {'all': 50, 'spatial': 0, 'size': 100}),
    (('', '', ''), 0, {'all': 0, 'spatial': 0, 'size': 0}),
])
def test_mmbench_counts_a_question_if_each_turn_is_right(
        replies: tuple[str, ...], letter: float, circular: dict[str, float],
        tmp_path: Path) -> None:
    task = find_task('mmbench')
    items = read('mmbench', lay(tmp_path, FILES['mmbench']))
    predictions = [Prediction(item.id, text) for item, text in zip(items, replies)]
    assert metric('choice_letter')(items, predictions, Tools()).value == pytest.approx(letter)
    assert task.metrics[0] == 'choice_circular'
    score = metric('choice_circular')(items, predictions, Tools())
    assert {'all': score.value, **score.parts} == circular
    assert score.why.startswith('2 of 2 questions come in fewer turns')
    whole = metric('choice_circular')(
        [replace(item, choices=item.choices[:2 if item.group == 'spatial' else 1])
         for item in items], predictions, Tools())
    assert not whole.why


def test_what_a_figure_lacks_is_told_beside_it(tmp_path: Path) -> None:
    items = read('mme', lay(tmp_path, FILES['mme']))[:2]
    about = dict.fromkeys(('model', 'items', 'prompt', 'decoding', 'batch', 'versions'))
    predictions = tuple(Prediction(item.id, 'yes') for item in items)
    text = told(write_scores(
        Run(tmp_path, {**about, 'task': {'name': 'mme'}}, find_task('mme'), tuple(items),
            predictions, None), Tools()))
    assert f'{50:.2f}' in text and '(a sum without ' in text and 'artwork' in text


@pytest.mark.parametrize(('task', 'split', 'name', 'text'), [
    ('vizwiz', 'test', 'test.json', '[{"image": "VizWiz_test_0000.jpg", "question": "What?"}]'),
    ('nocaps', 'test', 'nocaps_test_image_info.json',
     '{"images": [{"id": 4, "file_name": "a.jpg", "domain": "near-domain"}]}'),
])
def test_without_answers_nothing_is_scored_and_the_reason_told(
        task: str, split: str, name: str, text: str, tmp_path: Path) -> None:
    items = read(task, lay(tmp_path, {name: text}), split)
    for which in find_task(task).metrics:
        score = metric(which)(items, [Prediction(items[0].id, 'a word')], Tools())
        assert score.value is None and score.why


def test_mmvet_is_told_by_capability_and_asks_for_a_judge(tmp_path: Path) -> None:
    items = read('mmvet', lay(tmp_path, FILES['mmvet']))
    score = metric('judge_mmvet')(items, [Prediction(item.id, 'x') for item in items], Tools())
    assert score.value is None and 'judge' in score.why
    silent = [Prediction(item.id, '') for item in items]
    judged = Tools(judge='http://127.0.0.1:9/v1', judge_model='not there')    # nor is it asked
    nothing = metric('judge_mmvet')(items, silent, judged)
    assert nothing.value == 0 and set(nothing.parts) == {'math', 'ocr', 'rec'}
