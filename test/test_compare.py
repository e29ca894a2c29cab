"""Two models are told apart when they differ, and not when they do not."""

from __future__ import annotations

import json
from pathlib import Path
import random

from eval_runs import write_gqa, write_run, wrong_on
import numpy as np
import pytest

from onellm_ros.cli import main
from onellm_ros.evaluation.bootstrap import holm, mcnemar, paired_means, paired_scores, units_of
from onellm_ros.evaluation.comparing import BETTER, SAME, WORSE, compare
from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.task import Task

SINGLE = 400            # items of a drawn run


def _draw(rng: np.random.Generator, first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw right and wrong of two models that agree on most items, as percent."""
    hard = rng.random(SINGLE)
    noise = 0.15 * rng.standard_normal((2, SINGLE))
    return 100.0 * (hard + noise[0] < first), 100.0 * (hard + noise[1] < second)


def test_the_interval_is_that_of_the_normal_law() -> None:
    rng = np.random.default_rng(0)
    a, b = 50 + 10 * rng.standard_normal((2, 2000))
    found = paired_means(a, b, np.arange(2000), 20_000, 1)
    error = (b - a).std(ddof=1) / np.sqrt(2000)
    assert found.value == pytest.approx((b - a).mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.05 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.05 * error)
    from scipy.stats import norm
    assert found.p == pytest.approx(2 * norm.sf(abs(found.value) / error), abs=0.01)


def test_counting_alike_units_draws_from_the_same_law() -> None:
    rng = np.random.default_rng(3)
    gain = rng.choice([-100.0, 0.0, 100.0], 300, p=[.1, .7, .2])
    exact = paired_means(np.zeros(300), gain, np.arange(300), 20_000, 5)
    # each value its own: the other way of drawing
    loose = paired_means(np.zeros(300), gain + 1e-6 * rng.random(300), np.arange(300), 20_000, 5)
    assert (exact.low, exact.high) == pytest.approx((loose.low, loose.high), abs=0.7)


@pytest.mark.parametrize(('first', 'second', 'least', 'most'), [
    (0.6, 0.6, 0.0, 0.10),              # equal models: called different in about 5 %
    (0.6, 0.5, 0.95, 1.0)])             # ten points lower: found
def test_how_often_models_are_called_different(first: float, second: float, least: float,
                                               most: float) -> None:
    rng = np.random.default_rng(11)
    units = np.arange(SINGLE)
    found = [paired_means(*_draw(rng, first, second), units, 999, seed).differs
             for seed in range(300)]
    assert least <= np.mean(found) <= most
    if first == second:
        assert np.mean(found) > 0.01                # and the test is not blind


def test_items_of_one_evidence_are_one_unit() -> None:
    """Ten questions about each picture, all right or all wrong: ten times fewer units."""
    rng = np.random.default_rng(5)
    calls = {'units': 0, 'items': 0}
    for seed in range(200):
        right = rng.random((2, 40)) < 0.6
        a, b = np.repeat(100.0 * right, 10, axis=1)
        keys = [f'picture {n // 10}' for n in range(400)]
        calls['units'] += paired_means(a, b, units_of(keys), 999, seed).differs
        calls['items'] += paired_means(a, b, np.arange(400), 999, seed).differs
    assert calls['units'] <= 24                     # 5 % of 200, and its noise
    assert calls['items'] >= 60                     # the mistake that this avoids


def test_a_few_items_prove_nothing() -> None:
    a, b = np.zeros(100), np.zeros(100)
    b[:5] = 100.0
    assert not paired_means(a, b, np.arange(100), 2000, 0).differs
    assert paired_means(a, a, np.arange(100), 2000, 0).p == 1.0


def test_it_is_the_same_every_time() -> None:
    a, b = np.random.default_rng(1).random((2, 50))
    one, two, three = (paired_means(a, b, np.arange(50), 500, seed) for seed in (4, 4, 5))
    assert one == two != three


def test_scoring_anew_gives_the_interval_of_the_mean() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 60))
    units = np.repeat(np.arange(30), 2)

    def score(places, copies):
        assert len(places) == len(copies) == 60
        return a[places].mean(), b[places].mean()

    slow = paired_scores(score, units, 30, 4000, 7)
    fast = paired_means(a, b, units, 20_000, 8)
    assert slow.value == pytest.approx(fast.value)
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=0.012)


def test_mcnemar_and_holm_against_published_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(0.03857, abs=1e-5)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


# ---- metrics ------------------------------------------------------------------------------------

WORDS = 'a man rides the red bike on a street with one dog near some house'.split()


def _task(*names: str) -> Task:
    return Task('captions', 'Captions', (), 'D', names, lambda *_: iter(()), ('val',), '')


def _captions(count: int) -> tuple[list[Item], list[Prediction]]:
    """Return items, and as replies captions that lack a word or two of a reference."""
    rng = random.Random(0)
    items, replies = [], []
    for number in range(count):
        caption = rng.sample(WORDS, 9)
        items.append(Item(str(number), answers=(' '.join(caption),), group='ab'[number % 2]))
        cut = rng.sample(range(9), rng.randint(1, 2))
        replies.append(Prediction(str(number), ' '.join(
            word for place, word in enumerate(caption) if place not in cut)))
    return items, replies


def _shortened(replies: list[Prediction], share: float) -> list[Prediction]:
    rng = random.Random(1)
    return [Prediction(p.id, p.text.rpartition(' ')[0] if rng.random() < share else p.text)
            for p in replies]


@pytest.mark.parametrize('name', ['bleu_1', 'cider'])
def test_a_worse_captioner_is_found(name: str) -> None:
    """BLEU is a score of the whole set, and CIDEr a mean of the items'."""
    items, good = _captions(60)
    bad = _shortened(good, 0.6)
    found = compare(_task(name), items, good, bad, resamples=60)
    assert found.judged.verdict == WORSE
    assert found.judged.interval is not None and found.judged.interval.high < 0
    assert found.judged.rights is None and 20 < found.replies < 50
    assert compare(_task(name), items, bad, good, resamples=60).judged.verdict == BETTER
    assert compare(_task(name), items, good, good, resamples=60).judged.verdict == SAME
    # replies worded otherwise that score the same
    worded = [Prediction(p.id, p.text.upper() + '!') for p in good]
    same = compare(_task(name), items, good, worded, resamples=60)
    assert same.judged.verdict == SAME and same.replies == 60
    assert [row.group for row in same.rows] == ['', 'a', 'b']


def test_mme_keeps_the_two_questions_of_a_picture_together() -> None:
    """A picture drawn twice is two pictures; without that its score could not be computed."""
    rng = random.Random(0)
    items = [Item(f'{n}-{k}', f'Is it {k}?', answers=(('yes', 'no')[k],), group='color',
                  evidence=f'picture {n}') for n in range(80) for k in range(2)]
    good = [Prediction(item.id, item.answers[0]) for item in items]
    bad = [Prediction(p.id, 'no' if rng.random() < 0.4 else p.text) for p in good]
    found = compare(_task('mme'), items, good, bad, resamples=60).judged
    assert found.a == 200.0 and found.verdict == WORSE
    assert found.interval is not None and found.interval.units == 80
    share = sum(p.text == 'no' and item.answers[0] == 'yes'
                for item, p in zip(items, bad, strict=True)) / 80
    error = 150 * (share * (1 - share) / 80) ** 0.5         # accuracy loses half of it, pairs all
    assert found.interval.value == pytest.approx(-150 * share)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (-150 * share - 1.96 * error, -150 * share + 1.96 * error), abs=0.5 * error)


def test_what_is_not_computed_is_not_compared() -> None:
    items, good = _captions(10)
    found = compare(_task('judge_class', 'meteor'), items, good, good)
    assert all(row.interval is None and row.why for row in found.rows)
    with pytest.raises(ValueError, match="found 'x', expected one of judge_class, meteor"):
        compare(_task('judge_class', 'meteor'), items, good, good, name='x')
    with pytest.raises(ValueError, match='predictions of B: expected one to each of the 10'):
        compare(_task('bleu_1'), items, good, good[::-1])


# ---- the command --------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gqa(tmp_path_factory.mktemp('data') / 'gqa')


def _compare(*arguments: object) -> int:
    return main(['eval', '--compare', *map(str, arguments)])


def test_the_exit_status_says_whether_b_is_worse(data: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / 'a', data, wrong_on(1, 2))
    b = write_run(tmp_path / 'b', data, wrong_on(1, 2, 3, *range(10, 21)), weights='bbbb')
    c = write_run(tmp_path / 'c', data, wrong_on(2, 4), decoding={'max_tokens': 4})
    out = tmp_path / 'deep' / 'found.json'
    assert _compare(a, b, '--json', out) == 3
    told = capsys.readouterr().out
    assert 'B is worse than A by 40.00, beyond the noise' in told
    assert 'right: both 32, A alone 24, B alone 0, neither 4' in told
    assert '  A nano aaaa00000000' in told and '  B nano bbbb' in told
    found = json.loads(out.read_text())['tasks'][0]
    assert found['verdict'] == 'worse' and found['b']['model']['weights'] == 'bbbb'
    rows = {row['group']: row for row in found['rows']}
    assert set(rows) == {'', 'query', 'verify'} and rows['']['interval']['units'] == 30
    assert rows['']['a'] == pytest.approx(100 * 56 / 60)
    assert rows['']['interval']['value'] == pytest.approx(-40)
    assert _compare(b, a) == 0
    assert 'B is better than A' in capsys.readouterr().out
    assert _compare(a, c) == 0
    told = capsys.readouterr().out
    assert 'no difference beyond the noise' in told and 'note: decoding' in told
    _compare(a, b, '--json', out, '--seed', 7)
    assert json.loads(out.read_text())['seed'] == 7
    _compare(a, b, '--json', out)
    assert json.loads(out.read_text())['tasks'][0] == found


def test_what_was_asked_otherwise_is_refused(data: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / 'a', data, wrong_on())
    other = write_run(tmp_path / 'other', write_gqa(tmp_path / 'few', 12), wrong_on())
    older = write_run(tmp_path / 'older', data, wrong_on(), task={'version': 7})
    cut = write_run(tmp_path / 'cut', data, wrong_on())
    whole = (cut / 'predictions.jsonl').read_text().splitlines(keepends=True)
    (cut / 'predictions.jsonl').write_text(''.join(whole[:-2]))
    for b, said in ((other, f'items.count 60 in {a}, 24 in {other}'),
                    (older, f'task.version 1 in {a}, 7 in {older}'),
                    (cut, 'found no prediction for 2 of 60 items (0290)'),
                    (tmp_path / 'none', 'found no run.json')):
        assert _compare(a, b) == 2
        assert said in capsys.readouterr().err
    assert _compare(a, a, '--metric', 'cider') == 2
    assert "--metric: found 'cider', expected one of exact_match" in capsys.readouterr().err


def test_folders_of_several_tasks_are_compared_task_by_task(
        data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / 'other_questions.json').write_text(
        (data / 'val_balanced_questions.json').read_text())
    for name, replies in (('a', wrong_on()), ('b', wrong_on(*range(8)))):
        write_run(tmp_path / name / 'gqa', data, replies)
        write_run(tmp_path / name / 'again', data, wrong_on(), task={'split': 'other'})
    try:
        assert _compare(tmp_path / 'a', tmp_path / 'b') == 3
        told = capsys.readouterr().out
        assert told.count('gqa version 1') == 2 and told.count('no difference') == 1
        (tmp_path / 'b' / 'again' / 'run.json').unlink()
        write_run(tmp_path / 'a' / 'third', data, wrong_on(), task={'split': 'third'},
                  score=False)
        assert _compare(tmp_path / 'a', tmp_path / 'b') == 2
        assert 'found gqa other, gqa third in' in capsys.readouterr().err
    finally:
        (data / 'other_questions.json').unlink()
