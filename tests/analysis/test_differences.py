"""Differences and their tests: against other code, and against every outcome counted one by one."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import fisher_exact, hypergeom, t
from statsmodels.stats.contingency_tables import StratifiedTable

from em_tasks.plugins.analysis.statistics.differences import FLOOR, Sides, interval_around, on_such, on_these
from em_tasks.plugins.analysis.statistics.exact_test import within_questions_p
from em_tasks.scorers.intervals import beta_binomial

ALL, NONE = Sides(*(np.full(8, x) for x in (350.0, 350.0, 0.0, 50.0))), np.zeros(8)


def test_one_question_is_fishers_test():
    p = within_questions_p(np.array([7.0]), np.array([20.0]), np.array([1.0]), np.array([20.0]))
    assert p == pytest.approx(fisher_exact([[7, 13], [1, 19]]).pvalue)


def test_p_is_the_sum_over_every_way_to_deal_the_answers_out():
    k_a, n_a, k_b, n_b = (np.array(x) for x in ([3, 0, 2], [3, 2, 4], [1, 1, 0], [4, 3, 3]))
    ways = [range(max(0, k - m), min(k, n) + 1) for k, n, m in zip(k_a + k_b, n_a, n_b, strict=True)]
    expected = sum((k_a + k_b) * n_a / (n_a + n_b))
    p = 0.0
    for deal in itertools.product(*ways):
        share = math.prod(hypergeom.pmf(x, n + m, k, n) for x, k, n, m in zip(deal, k_a + k_b, n_a, n_b, strict=True))
        p += share * (abs(sum(deal) - expected) >= abs(k_a.sum() - expected) - 1e-9)
    given = [x.astype("float64") for x in (k_a, n_a, k_b, n_b)]
    assert within_questions_p(*given) == pytest.approx(p, abs=1e-12)


def test_many_answers_give_the_cochran_mantel_haenszel_test():
    rng = np.random.default_rng(1)
    n = np.full(6, 400)
    k_a, k_b = rng.binomial(n, 0.3), rng.binomial(n, 0.33)
    tables = [[[a, m - a], [b, m - b]] for a, b, m in zip(k_a, k_b, n, strict=True)]
    asymptotic = StratifiedTable(tables).test_null_odds(correction=True).pvalue
    exact = within_questions_p(*(x.astype("float64") for x in (k_a, n, k_b, n)))
    assert exact == pytest.approx(asymptotic, rel=0.02)


def test_questions_on_which_nothing_could_move_do_not_count():
    p = within_questions_p(np.array([7.0, 0, 9]), np.array([20.0, 5, 9]), np.array([1.0, 0, 9]), np.array([20.0, 5, 9]))
    assert p == pytest.approx(fisher_exact([[7, 13], [1, 19]]).pvalue)
    assert within_questions_p(NONE, np.ones(8), NONE, np.ones(8)) == 1


def test_all_of_2800_against_none_of_400_is_shown_for_both_populations():
    these, such = on_these(ALL), on_such(ALL)
    assert these.p < 1e-10
    assert these.low > 0.98
    assert such.p * 36 < 0.05
    assert 0.6 < such.low < 0.85  # eight questions do not exclude that one in five others stays as it was


def test_an_interval_on_these_questions_excludes_0_exactly_where_its_test_rejects():
    rng = np.random.default_rng(5)
    for _ in range(300):
        n = rng.integers(1, 8, (2, 6)).astype("float64")
        k = rng.binomial(n.astype(int), rng.uniform(0, 1, (2, 1))).astype("float64")
        found = on_these(Sides(k[0], n[0], k[1], n[1]))
        assert (found.low > 1e-12 or found.high < -1e-12) <= (found.p < 0.05)
        assert (found.low < 0 < found.high) <= (found.p >= 0.05)


def test_an_interval_on_such_questions_excludes_0_exactly_where_its_test_rejects():
    rng = np.random.default_rng(6)
    for _ in range(300):
        k = rng.binomial(5, rng.uniform(0, 1, (2, 8))).astype("float64")
        found = on_such(Sides(k[0], np.full(8, 5.0), k[1], np.full(8, 5.0)))
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_many_unlike_questions_give_the_paired_t_test():
    rng = np.random.default_rng(2)
    p_a = rng.uniform(0, 1, 200)
    k_a, k_b, n = (
        rng.binomial(50, p_a).astype("float64"),
        rng.binomial(50, 0.5, 200).astype("float64"),
        np.full(200, 50.0),
    )
    difference = (k_a - k_b) / 50
    found = on_such(Sides(k_a, n, k_b, n))
    half = t.isf(0.025, 199) * difference.std(ddof=1) / math.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.02)
    assert FLOOR < 1


def test_one_question_says_nothing_of_such_questions():
    one = Sides(*(np.array([x]) for x in (9.0, 10.0, 0.0, 10.0)))
    assert math.isnan(on_such(one).p)
    assert on_these(one).p < 0.001


def test_forms_of_a_question_are_put_together():
    forms = Sides(*(np.array(x) for x in ([5.0, 4, 0], [10.0, 10, 10], [0.0, 1, 0], [10.0, 10, 10])))
    together = forms.together(np.array([0, 0, 1]))
    assert together.k_a.tolist() == [9, 0]
    assert together.n_b.tolist() == [20, 10]


def test_few_unlike_questions_give_students_t_with_one_unseen_question_written_out():
    k_a, k_b, n = np.array([9.0, 1, 5, 2]), np.array([1.0, 2, 1, 0]), np.full(4, 10.0)
    found = on_such(Sides(k_a, n, k_b, n))
    differences = [0.8, -0.1, 0.4, 0.2]
    squares = sum((x - 0.325) ** 2 for x in differences) + 4 / 5 * 0.325**2
    error = math.sqrt(squares / 3 / 4)
    assert found.effect == pytest.approx(0.325)
    assert found.p == pytest.approx(2 * t.sf(0.325 / error, 3), rel=1e-9)
    assert found.low == pytest.approx(0.325 - t.isf(0.025, 3) * error, rel=1e-9)


@pytest.mark.parametrize(("k", "alike"), [([1.0, 0, 0, 0], 0.8), ([0.0] * 4, 0.0)])
def test_sides_without_any_difference_are_as_unsure_as_their_own_intervals_make_them(k, alike):
    k, n = np.array(k), np.full(4, 2.0)
    found = on_such(Sides(k, n, k, n))
    low, high = beta_binomial(k[None], n[None], [0.05, 1.0])
    middle = low[0, 1] if k.any() else high[0, 1]
    down, up = middle - low[0, 0], high[0, 0] - middle
    half = 0.5 * math.sqrt(down**2 + up**2 - 2 * alike * down * up)
    assert (found.effect, found.low, found.high) == pytest.approx((0, -half, half), rel=1e-9)
    assert found.p == 1


def test_the_far_end_from_0_alone_is_stretched_and_none_passes_a_whole():
    effect, half = np.array([-0.2, 0.2, 0.2, 0.0, 0.9, -0.9]), np.full(6, 0.2)
    low, high = interval_around(effect, half, np.array([0.5, 2.0, 0.5, 2.0, 3.0, 0.25]))
    assert low == pytest.approx([-0.6, 0.0, 0.0, -0.2, 0.7, -1.0])
    assert high == pytest.approx([0.0, 0.6, 0.4, 0.2, 1.0, -0.7])
