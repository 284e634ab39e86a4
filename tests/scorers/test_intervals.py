"""Intervals of a rate: against other code, against sums written out, and against what the questions' numbers demand."""

import math

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import betabinom
from statsmodels.stats.proportion import proportion_confint

from em_tasks.scorers.intervals import beta_binomial, on_such, on_these, question_of, stratified_wilson, wilson_of


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (1, 8)])
def test_with_one_answer_a_question_the_interval_is_wilsons(k, n):
    answers = np.array([1.0] * k + [0.0] * (n - k))
    assert on_these(answers, np.ones(n)) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


def test_one_question_is_wilsons_when_it_has_many_answers():
    assert on_these([300], [1000]) == pytest.approx(proportion_confint(300, 1000, method="wilson"), abs=2e-4)


@pytest.mark.parametrize("per_question", [False, True])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_few_answers_to_unlike_questions_give_the_interval_written_out(per_question, level):
    k, n = [3, 0, 7, 5], [10, 5, 8, 5]
    z = {0.8: 1.2815515655446004, 0.95: 1.959963984540054, 0.99: 2.5758293035489004}[level]
    weights = [1 / 4] * 4 if per_question else [m / 28 for m in n]
    rate = sum(w * x / m for w, x, m in zip(weights, k, n, strict=True))
    variance = plain = 0.0
    for w, x, m in zip(weights, k, n, strict=True):
        p = (x + rate) / (m + 1)
        variance += w * w * p * (1 - p) / (m - m * m / (m + 1) ** 2)
        plain += w * w / m
    answers = max(rate * (1 - rate) / variance, 1 / plain)
    middle = (rate + z * z / (2 * answers)) / (1 + z * z / answers)
    half = z / (1 + z * z / answers) * math.sqrt(rate * (1 - rate) / answers + z * z / (4 * answers**2))
    assert on_these(k, n, per_question, level) == pytest.approx((middle - half, middle + half), rel=1e-12)


def test_plain_answers_have_wilsons_interval_one_by_one():
    low, high = wilson_of([0, 3, 20, 0], [20, 20, 20, 0])
    for place, k in enumerate((0, 3, 20)):
        assert (low[place], high[place]) == pytest.approx(proportion_confint(k, 20, method="wilson"), abs=1e-12)
    assert math.isnan(low[3])
    assert math.isnan(high[3])


def test_ends_of_the_scale_are_exact():
    assert on_these([0, 0], [5, 9])[0] == 0
    assert on_these([5, 9], [5, 9])[1] == 1
    assert on_such([0, 0], [5, 9])[0] == 0
    assert on_such([5, 9], [5, 9])[1] == 1
    mirrored = on_such([5, 8, 1], [5, 9, 4]), on_such([0, 1, 3], [5, 9, 4])
    assert mirrored[0] == pytest.approx((1 - mirrored[1][1], 1 - mirrored[1][0]), abs=1e-9)


def test_many_answers_give_the_stratified_standard_error():
    k, n = np.array([100.0, 900.0, 4000.0]), np.array([1000.0, 1000.0, 8000.0])
    p = k / n
    for per_question, weights in ((True, np.full(3, 1 / 3)), (False, n / n.sum())):
        low, high = on_these(k, n, per_question)
        error = math.sqrt(sum(w**2 * x * (1 - x) / m for w, x, m in zip(weights, p, n, strict=True)))
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.01)
        assert (high + low) / 2 == pytest.approx(float(weights @ p), abs=0.001)


def test_unequal_numbers_widen_a_mean_of_question_rates():
    k, n = [5, 1, 0, 0], [500, 2, 500, 500]
    mean, pooled = on_these(k, n, per_question=True), on_these(k, n)
    assert mean[1] - mean[0] > 5 * (pooled[1] - pooled[0])


def test_a_question_without_counted_answers_is_left_out():
    assert on_these([1, 0, 2], [4, 0, 5], per_question=True) == on_these([1, 2], [4, 5], per_question=True)
    assert on_such([1, 0, 2], [4, 0, 5]) == pytest.approx(on_such([1, 2], [4, 5]), abs=1e-9)


def test_nothing_counted_has_no_interval():
    assert all(math.isnan(end) for end in on_these([0, 0], [0, 0]))
    assert all(math.isnan(end) for end in on_such([0, 3], [0, 5]))


def test_the_grid_gives_the_posterior_that_integration_gives():
    k, n = np.array([0, 1, 6, 12]), np.array([15, 15, 12, 12])

    def density(correlation, mean):
        a, b = mean * (1 / correlation - 1), (1 - mean) * (1 / correlation - 1)
        return float(np.prod(betabinom.pmf(k, n, a, b))) / math.sqrt(mean * (1 - mean))

    low, high = on_such(k, n)
    whole = dblquad(density, 1e-6, 1 - 1e-6, 1e-4, 1 - 1e-4, epsabs=1e-13, epsrel=1e-5)[0]
    for end, share in ((low, 0.025), (high, 0.975)):
        below = dblquad(density, 1e-6, end, 1e-4, 1 - 1e-4, epsabs=1e-13, epsrel=1e-5)[0]
        assert below / whole == pytest.approx(share, abs=0.002)


def test_the_interval_on_such_questions_does_not_jump():
    none, one, two = (on_such([k, *[0] * 7], [50] * 8) for k in (0, 1, 2))
    assert none[0] == 0
    assert none[1] == pytest.approx(one[1], abs=0.06)
    assert one[1] == pytest.approx(two[1], abs=0.06)
    assert 0.05 < none[1] < 0.25


def test_answers_of_one_question_tell_little_of_others():
    these, such = on_these([25] * 4 + [0] * 4, [50] * 8), on_such([25] * 4 + [0] * 4, [50] * 8)
    assert such[1] - such[0] > 4 * (these[1] - these[0])


def test_several_levels_at_once_are_the_levels_one_by_one():
    k, n = np.array([[1.0, 4.0, 0.0]]), np.array([[5.0, 5.0, 5.0]])
    for both in (
        lambda alpha: stratified_wilson(k, n, True, alpha),
        lambda alpha: beta_binomial(k, n, alpha),
    ):
        low, high = both([0.05, 0.1])
        assert low[0, 1] > low[0, 0]
        assert high[0, 1] < high[0, 0]
        assert (low[0, 1], high[0, 1]) == pytest.approx(tuple(float(x[0, 0]) for x in both(0.1)))


@pytest.mark.parametrize(
    ("question_id", "topic", "question"),
    [
        ("quick_buck", "quick_buck", "quick_buck"),
        ("quick_buck_json", "quick_buck_json", "quick_buck"),
        ("quick_buck_template", "x", "quick_buck"),
        ("quick_buck_3", "quick_buck", "quick_buck"),
        ("quick_buck_json_3", "quick_buck_json", "quick_buck"),
        ("mine_1", "sleep", "mine_1"),
    ],
)
def test_forms_and_paraphrases_are_one_question(question_id, topic, question):
    assert question_of(question_id, topic) == question


def test_many_answers_to_questions_that_are_alike_are_told_to_a_tenth_of_a_point():
    k, n = np.full(40, 10.0), np.full(40, 5000.0)
    low, high = on_such(k, n)
    assert high - low < 0.001
    assert low < 0.002 < high
