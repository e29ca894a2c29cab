"""Metrics of short answers and choices against the official evaluations' values (test/golden)."""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
from pathlib import Path
from typing import Any

import pytest

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics import metric, names
from onellm_ros.evaluation.metrics.choice import read_choice, read_class
from onellm_ros.evaluation.metrics.vqa import answer_score, exact_score, normalize, vqa_score
from onellm_ros.evaluation.task import Tools

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'metrics_answers.json').read_text(
    encoding='utf-8'))
ANIMALS = ('cat', 'dog', 'black cat', 'a horse')


def ask(name: str, items: Sequence[Item], said: Sequence[Any]) -> Any:
    predictions = [each if isinstance(each, Prediction) else Prediction(item.id, each)
                   for item, each in zip(items, said)]
    return metric(name)(items, predictions, Tools())


@pytest.mark.parametrize('row', GOLDEN['vqa'], ids=lambda row: repr(row['said'])[:30])
def test_vqa_accuracy_is_the_official_one(row: dict[str, Any]) -> None:
    assert vqa_score(row['said'], row['answers']) == pytest.approx(row['server'], abs=1e-12)
    # The public script leaves people's answers as they are, but for punctuation: the same where
    # these are in the form that the challenge's files hold them in.
    if all(normalize(answer) == answer for answer in row['answers']):
        assert vqa_score(row['said'], row['answers']) == pytest.approx(row['script'], abs=1e-12)


def test_each_person_is_left_out_in_turn() -> None:
    # Four of ten said so: without one of them three are left, which is full; 3 of 10: 2/3 and 1.
    assert vqa_score('x', ['x'] * 4 + ['y'] * 6) == 1
    assert vqa_score('x', ['x'] * 3 + ['y'] * 7) == pytest.approx(0.9)
    assert vqa_score('x', ['x'] * 1 + ['y'] * 9) == pytest.approx(0.3)


def test_one_answer_of_the_metric_is_in_percent_and_by_group() -> None:
    items = [Item('a', answers=('red',) * 10, group='other'), Item('b', answers=('2',) * 10),
             Item('c', answers=('no',) * 3 + ('yes',) * 7, group='yes/no')]
    found = ask('vqa_accuracy', items, ['Red.', 'three', 'no'])
    assert found.items == pytest.approx((100, 0, 90)) and found.value == pytest.approx(190 / 3)
    assert found.parts == {'other': 100, 'yes/no': pytest.approx(90)}


@pytest.mark.parametrize('row', GOLDEN['gqa'], ids=lambda row: repr(row['said']))
def test_exact_match_is_gqas(row: dict[str, Any]) -> None:
    if row['answer'] == row['answer'].strip('.'):
        assert exact_score(row['said'], [row['answer']]) == row['right']


@pytest.mark.parametrize(('said', 'answers', 'right'), [
    ('two', ['2'], 1), ('The dog.', ['dog'], 1), ('dogs', ['dog'], 0), ('', ['dog'], 0),
    ('do', ['dog'], 0), ('a dog runs', ['dog'], 0), ('yes', ['yes', 'no', 'yes'], 1),
    ('no', ['yes', 'no', 'yes'], 0), ('Car', ['car', 'truck', 'bus'], 1),
    ('van', ['car', 'truck', 'bus'], 0)])
def test_answers_are_compared_whole_and_with_the_majority(
        said: str, answers: list[str], right: float) -> None:
    assert answer_score(said, answers) == right


@pytest.mark.parametrize(('said', 'choice'), [
    ('B', 1), ('b', 1), ('(b)', 1), ('[B]', 1), ('B.', 1), ('B)', 1), ('B:', 1), (' B\n', 1),
    ('**B**', 1), ('\\boxed{B}', 1), ('"B"', 1), ('B</s>', 1), ('a', 0), ('A', 0),
    ('B. cat', 1), ('(B) cat', 1), ('B) dog', 1), ('B - dog', 1), ('b. dog', 1), ('B: dog', 1),
    ('The answer is B', 1), ('The answer is (b).', 1), ('Answer: B', 1), ('answer is: **B**', 1),
    ('The correct option is C because it is black.', 2), ('Option D', 3), ('I choose option B', 1),
    ('The answer is A.', 0), ('The answer is A because of the ears', 0), ('it is B, a dog', 1),
    ('cat', 0), ('Cat.', 0), ('dog', 1), ('black cat', 2), ('It is a black cat', 2), ('horse', 3),
    ('A horse', 3), ('a horse', 3), ('A cat', 0), ('A dog', 1), ('A black cat.', 2),
    ('I see A dog', 1), ('A dog and a cat', -1), ('The answer is A dog', 1),
    ('A or B', -1), ('A/B', -1), ('either (a) or (b)', -1), ('A and B', -1), ('B or C', -1),
    ('B C', -1), ('(A) (B)', -1), ('B. dog (A)', -1), ('B. vitamin C.', 1),
    ('The answer is B. The answer is C.', -1), ('the dog (B)', 1), ('the dog (C)', -1),
    ('', -1), ('E', -1), ('x', -1), ('no idea', -1), ('I do not know', -1), ('dogs', -1),
    ('Answer: b', 1), ('answer is: b.', 1), ('Answer: a cat', 0), ("The answer is 'B'", 1),
    ("'b'", 1), ('A. cat B. dog C. black cat D. horse', -1), ('B. dog\nC. black cat', -1),
    ('A. cat, not B. it is small', 0), ('B. dog, as in b. dog', 1),
    ('catalogue', -1), ('B. No wait, the answer is C', -1), ("A's", -1), ('.', -1)])
def test_choices_read_from_replies(said: str, choice: int) -> None:
    assert read_choice(said, ANIMALS) == choice


def test_letters_and_texts_that_look_alike() -> None:
    assert read_choice('C', ('vitamin A', 'vitamin B', 'vitamin C')) == 2
    assert read_choice('vitamin C', ('vitamin C', 'vitamin D')) == 0
    assert read_choice('B', ('B', 'A')) == 1                    # the letter is asked for
    assert read_choice('left', ('left', 'left', 'right')) == -1
    assert read_choice('3', ('1', '2', '3')) == 2
    assert read_choice('I', tuple('123456789')) == 8
    assert read_choice('I think so', tuple('123456789')) == -1
    assert read_choice('yes', ()) == -1


@pytest.mark.parametrize(('said', 'found'), [
    ('office', 'office'), ('home office', 'home_office'), ('It is a home_office.', 'home_office'),
    ('The category is living room', 'living_room'), ('livingroom', 'living_room'),
    ('Living-Room', 'living_room'), ('kitchen or bathroom', ''), ('an officer', ''), ('', ''),
    ('home office and office', ''), ('a room', ''), ('kitchen, the kitchen', 'kitchen')])
def test_the_longest_class_that_is_named(said: str, found: str) -> None:
    classes = ('office', 'home_office', 'living_room', 'kitchen', 'bathroom')
    index = read_class(said, classes)
    assert (classes[index] if index >= 0 else '') == found


def test_choices_are_scored_by_group() -> None:
    items = [Item(str(index), choices=ANIMALS, right=1, group=group)
             for index, group in enumerate('xxy')]
    broken = Prediction('2', 'B', finish_reason='broken')
    found = ask('choice_letter', items, ['B', 'A dog', broken])
    assert found.items == (100, 100, 0) and found.parts == {'x': 100, 'y': 0}
    assert ask('class_text', items, ['dog', 'cat', '']).items == (100, 0, 0)


def test_likelihoods_are_taken_from_the_prediction() -> None:
    items = [Item(str(index), choices=ANIMALS, right=1) for index in range(3)]
    said = [Prediction('0', 'A', choice=1), Prediction('1', 'B', choice=0),
            Prediction('2', '', choice=1, finish_reason='broken')]
    assert ask('choice_likelihood', items, said).items == (100, 0, 0)
    not_asked = ask('choice_likelihood', items, ['B', 'B', 'B'])
    assert not_asked.value is None and 'likelihood' in not_asked.why


def mme_items(rows: Sequence[dict[str, str]]) -> tuple[list[Item], list[str]]:
    return ([Item(str(index), answers=(row['answer'],), group=row['group'],
                  evidence=row['picture']) for index, row in enumerate(rows)],
            [row['said'] for row in rows])


def test_mme_is_the_official_one() -> None:
    found = ask('mme', *mme_items(GOLDEN['mme']))
    assert found.value == pytest.approx(GOLDEN['mme_points']['perception'], abs=1e-9)
    assert found.parts == pytest.approx(GOLDEN['mme_points'], abs=1e-9)
    assert not found.items and not found.why


def test_mme_counts_both_questions_of_a_picture() -> None:
    rows = [{'group': 'count', 'picture': picture, 'answer': answer, 'said': said}
            for picture, answer, said in (('a', 'Yes', 'Yes'), ('a', 'No', 'yes'),
                                          ('b', 'Yes', 'Yes'), ('b', 'No', ''))]
    found = ask('mme', *mme_items(rows))
    assert found.value == 50 and 'existence' in found.why       # 2 of 4, no picture with both
    rows[1]['said'] = 'No.'
    assert ask('mme', *mme_items(rows)).value == 75 + 50


def test_mme_without_pairs_is_not_computed() -> None:
    items, said = mme_items([row for row in GOLDEN['mme'] if row['group'] == 'OCR'])
    assert ask('mme', items[:3], said[:3]).value is None
    assert ask('mme', [items[0], items[2]], said[:2]).value is None
    items, said = mme_items([row for row in GOLDEN['mme'] if row['group'] == 'code_reasoning'])
    assert 'perception' in ask('mme', items, said).why
    with pytest.raises(ValueError, match=r"found subtasks \['Counting'\]"):
        ask('mme', *mme_items([{**GOLDEN['mme'][0], 'group': 'Counting'}] * 2))
    with pytest.raises(ValueError, match="found the answer 'maybe'"):
        ask('mme', *mme_items([{**GOLDEN['mme'][0], 'answer': 'Maybe'}] * 2))


OURS = [name for name in names() if name != 'robot_world']


@pytest.mark.parametrize('name', OURS)
def test_wrong_input_says_what_was_found(name: str) -> None:
    items = [Item('a', answers=('x',)), Item('b', answers=('x',))]
    run = metric(name)
    with pytest.raises(ValueError, match='found no items'):
        run([], [], Tools())
    with pytest.raises(ValueError, match='found 1 predictions, expected one for each of 2'):
        run(items, [Prediction('a', '')], Tools())
    with pytest.raises(ValueError, match="of item 'b', expected one of 'a'"):
        run(items, [Prediction('b', ''), Prediction('a', '')], Tools())


@pytest.mark.parametrize('name', [
    'vqa_accuracy', 'exact_match', 'answer_accuracy', 'choice_letter', 'class_text',
    'choice_likelihood', 'cider', 'rouge_l'])
def test_empty_and_broken_predictions_score_zero(name: str) -> None:
    items = [Item(each, answers=('dog', ''), choices=('dog', ''), right=0) for each in 'abc']
    found = ask(name, items, ['', ' \n', Prediction('c', 'dog', choice=0, finish_reason='broken')])
    if name == 'choice_likelihood':
        assert found.value is None
        return
    assert found.items == (0, 0, 0) and found.value == 0 and not math.isnan(found.value)


@pytest.mark.parametrize('name', ['vqa_accuracy', 'exact_match', 'answer_accuracy',
                                  'choice_letter', 'class_text', 'mme'])
def test_withheld_answers_are_not_scored(name: str) -> None:
    found = ask(name, [Item('q7', group='count')], ['yes'])
    assert found.value is None and 'q7' in found.why
