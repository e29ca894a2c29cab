"""Captions' metrics against the values of COCO's official evaluation (test/golden)."""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
import json
from pathlib import Path
import shutil
import time
from typing import Any

import pytest

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics import java, metric
from onellm_ros.evaluation.metrics.captions import bleu_score, rouge_score, words_of
from onellm_ros.evaluation.metrics.ptb import tokenize
from onellm_ros.evaluation.task import Score, Tools

GOLDEN = Path(__file__).parent / 'golden'
CAPTIONS = json.loads((GOLDEN / 'metrics_captions.json').read_text(encoding='utf-8'))
SETS = tuple(CAPTIONS['sets'])
HAS_JAVA = shutil.which('java') and importlib.util.find_spec('pycocoevalcap')


def cases(name: str) -> tuple[list[Item], list[Prediction]]:
    rows = CAPTIONS['sets'][name]
    return ([Item(str(index), answers=tuple(row['answers'])) for index, row in enumerate(rows)],
            [Prediction(str(index), row['said']) for index, row in enumerate(rows)])


def score(name: str, items: Sequence[Item], said: Sequence[Any], tools: Tools = Tools()) -> Score:
    predictions = [each if isinstance(each, Prediction) else Prediction(item.id, each)
                   for item, each in zip(items, said)]
    return metric(name)(items, predictions, tools)


def test_golden_cases_are_many() -> None:
    assert sum(len(rows) for rows in CAPTIONS['sets'].values()) >= 60


@pytest.mark.parametrize('name', SETS)
def test_words_are_the_official_ones(name: str) -> None:
    said, references = words_of(*cases(name))
    assert said == CAPTIONS['values'][name]['said']
    assert references == CAPTIONS['values'][name]['answers']


def test_words_of_hard_captions_are_the_official_ones() -> None:
    rows = json.loads((GOLDEN / 'metrics_words.json').read_text(encoding='utf-8'))['cases']
    found = tokenize([text for text, _ in rows])
    assert [(text, words) for (text, words), mine in zip(rows, found) if mine != words] == []
    assert len(rows) > 300


@pytest.mark.parametrize('name', SETS)
def test_scores_are_the_official_ones(name: str) -> None:
    items, predictions = cases(name)
    values = CAPTIONS['values'][name]
    cider, rouge = (metric(each)(items, predictions, Tools()) for each in ('cider', 'rouge_l'))
    assert cider.value == pytest.approx(100 * values['cider'], rel=1e-9, abs=1e-9)
    assert cider.items == pytest.approx([100 * each for each in values['cider_items']],
                                        rel=1e-9, abs=1e-9)
    assert rouge.value == pytest.approx(100 * values['rouge'], rel=1e-9, abs=1e-9)
    assert rouge.items == pytest.approx([100 * each for each in values['rouge_items']],
                                        rel=1e-9, abs=1e-9)
    for size in (1, 2, 3, 4):
        assert bleu_score(*words_of(items, predictions), size) == pytest.approx(
            values['bleu'][size - 1], rel=1e-9, abs=1e-15)
    assert metric('bleu_1')(items, predictions, Tools()).value == pytest.approx(
        100 * values['bleu'][0], rel=1e-9, abs=1e-12)
    assert metric('bleu_4')(items, predictions, Tools()).value == pytest.approx(
        100 * values['bleu'][3], rel=1e-9, abs=1e-12)


def test_an_abbreviation_looks_at_the_next_caption() -> None:
    assert tokenize(['plan B.', 'The end']) == ['plan b', 'the end']
    assert tokenize(['plan B.', 'an end']) == ['plan b.', 'an end']
    assert tokenize(['room no.', '5 chairs']) == ['room no.', '5 chairs']
    assert tokenize(['room no.', 'chairs']) == ['room no', 'chairs']


def test_other_line_ends_are_blanks() -> None:
    assert tokenize(['one\r\ntwo\u2028three\x85four', 'five']) == ['one two three four', 'five']


def test_long_replies_take_no_time() -> None:
    began = time.perf_counter()
    for text in ('a' * 3000, 'a.' * 1500, 'a-' * 1500, '<a ' * 1000, '-' * 3000, "a'" * 1500,
                 '1 ' * 1500, '1/' * 1500, '&' * 3000, 'a@' * 1500, '.' * 3000):
        assert len(tokenize([text])) == 1
    assert time.perf_counter() - began < 20


def test_empty_and_broken_captions_score_zero() -> None:
    items = [Item('a', answers=('a red bus',)), Item('b', answers=('!',)),
             Item('c', answers=('two dogs',))]
    said = ['', '.', Prediction('c', 'two dogs', finish_reason='broken', error='no file')]
    for name in ('cider', 'rouge_l'):
        found = score(name, items, said)
        assert (found.value, found.items) == (0, (0, 0, 0))
    assert score('bleu_1', items, said).value == pytest.approx(0, abs=1e-9)


def test_rouge_takes_the_best_of_precision_and_recall() -> None:
    # P 2/2 of the first, R 2/3 of the first; the second is worse in both.
    assert rouge_score('red bus', ['a red bus', 'one bus']) == pytest.approx(
        (1 + 1.44) * 1 * (2 / 3) / (2 / 3 + 1.44))


def test_bleu_is_of_all_together_and_by_group() -> None:
    items = [Item('a', answers=('a b c d',), group='x'), Item('b', answers=('e f',), group='y')]
    found = score('bleu_1', items, ['a b c d', 'g h'])
    assert found.value == pytest.approx(100 * 4 / 6) and not found.items
    assert found.parts == {'x': pytest.approx(100), 'y': pytest.approx(0, abs=1e-9)}


def test_cider_of_groups_is_the_mean_of_their_items() -> None:
    items = [Item(name, answers=(f'a {name} thing',), group=name[0])
             for name in ('p1', 'p2', 'q1')]
    found = score('cider', items, ['a p1 thing', 'nothing', 'a q1 thing'])
    assert found.parts == {'p': pytest.approx((found.items[0] + found.items[1]) / 2),
                           'q': pytest.approx(found.items[2])}
    assert found.items[0] > 0 == found.items[1]


def test_captions_without_references_are_not_scored() -> None:
    found = score('cider', [Item('a', answers=('x',)), Item('b')], ['x', 'y'])
    assert found.value is None and '1 of 2' in found.why and 'b' in found.why


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    items, predictions = cases('one reference')
    for name in ('meteor', 'spice', 'spider'):
        found = metric(name)(items, predictions, Tools(java='/no/such/java'))
        assert found.value is None and '/no/such/java' in found.why and 'install' in found.why
    monkeypatch.setattr(java.shutil, 'which', lambda name: '/usr/bin/java')
    monkeypatch.setattr(java.importlib.util, 'find_spec', lambda name: None)
    found = metric('meteor')(items, predictions, Tools())
    assert found.value is None and 'requirements/eval.txt' in found.why


@pytest.mark.skipif(not HAS_JAVA, reason='needs Java and pycocoevalcap (requirements/eval.txt)')
@pytest.mark.slow
@pytest.mark.parametrize('name', ['odd', 'one reference', 'nothing alike'])
def test_meteor_is_the_official_one(name: str) -> None:
    found = metric('meteor')(*cases(name), Tools())
    assert found.value == pytest.approx(100 * CAPTIONS['values'][name]['meteor'], abs=1e-9)


@pytest.mark.skipif(not HAS_JAVA, reason='needs Java and pycocoevalcap (requirements/eval.txt)')
def test_spice_without_its_models_says_what_to_fetch() -> None:
    found = metric('spice')(*cases('everyday'), Tools())
    if found.value is None:
        assert 'stanford-corenlp-3.6.0.jar' in found.why or 'Java' in found.why
    else:
        assert 0 < found.value < 100


@pytest.mark.skipif(not HAS_JAVA, reason='needs Java and pycocoevalcap (requirements/eval.txt)')
def test_java_that_fails_is_named(tmp_path: Path) -> None:
    broken = tmp_path / 'java'
    broken.write_text('#!/bin/sh\nexit 3\n')
    broken.chmod(0o755)
    found = metric('meteor')(*cases('everyday'), Tools(java=str(broken)))
    assert found.value is None and 'METEOR failed' in found.why
