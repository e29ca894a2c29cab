"""Two models are told apart when they differ, and not when they do not."""

from __future__ import annotations

import numpy as np
import pytest

from onellm_ros.evaluation.bootstrap import holm, mcnemar, paired_means, paired_scores, units_of

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
