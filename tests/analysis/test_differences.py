"""Differences and their tests: against other code, and against every outcome counted one by one."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact, hypergeom, t, ttest_1samp
from statsmodels.stats.contingency_tables import StratifiedTable

from em_tasks.plugins.analysis.statistics.differences import (
    Sides,
    interval_around,
    joined_on_these,
    no_surer_than,
    on_such,
    on_these,
)
from em_tasks.plugins.analysis.statistics.exact_test import within_questions_many, within_questions_p
from em_tasks.scorers.intervals import beta_binomial

ALL, NONE = Sides(*(np.full(8, x) for x in (350.0, 350.0, 0.0, 50.0))), np.zeros(8)


MID_P = fisher_exact([[7, 13], [1, 19]]).pvalue - sum(hypergeom.pmf([1, 7], 40, 8, 20)) / 2
"""Fisher's test of 7 and 1 of 20 answers, whose outcomes that are as unlikely as this one count half."""


def test_one_question_is_fishers_test_with_ties_counted_half():
    p = within_questions_p(np.array([7.0]), np.array([20.0]), np.array([1.0]), np.array([20.0]))
    assert p == pytest.approx(MID_P)


def test_p_is_the_sum_over_every_way_to_deal_the_answers_out():
    k_a, n_a, k_b, n_b = (np.array(x) for x in ([3, 0, 2], [3, 2, 4], [1, 1, 0], [4, 3, 3]))
    ways = [range(max(0, k - m), min(k, n) + 1) for k, n, m in zip(k_a + k_b, n_a, n_b, strict=True)]
    expected = sum((k_a + k_b) * n_a / (n_a + n_b))
    p = 0.0
    for deal in itertools.product(*ways):
        share = math.prod(hypergeom.pmf(x, n + m, k, n) for x, k, n, m in zip(deal, k_a + k_b, n_a, n_b, strict=True))
        farther = abs(sum(deal) - expected) - abs(k_a.sum() - expected)
        p += share * (0.5 if abs(farther) < 1e-9 else farther > 0)
    given = [x.astype("float64") for x in (k_a, n_a, k_b, n_b)]
    assert within_questions_p(*given) == pytest.approx(p, abs=1e-12)


def test_many_answers_give_the_cochran_mantel_haenszel_test():
    rng = np.random.default_rng(1)
    n = np.full(6, 400)
    k_a, k_b = rng.binomial(n, 0.3), rng.binomial(n, 0.33)
    tables = [[[a, m - a], [b, m - b]] for a, b, m in zip(k_a, k_b, n, strict=True)]
    asymptotic = StratifiedTable(tables).test_null_odds(correction=False).pvalue
    exact = within_questions_p(*(x.astype("float64") for x in (k_a, n, k_b, n)))
    assert exact == pytest.approx(asymptotic, rel=0.02)


def test_questions_on_which_nothing_could_move_do_not_count():
    p = within_questions_p(np.array([7.0, 0, 9]), np.array([20.0, 5, 9]), np.array([1.0, 0, 9]), np.array([20.0, 5, 9]))
    assert p == pytest.approx(MID_P)
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


def test_an_interval_on_such_questions_contains_that_on_these_and_goes_with_its_p():
    rng = np.random.default_rng(7)
    moved = 0
    for _ in range(300):
        n = rng.integers(1, 9, (2, 8)).astype("float64")
        k = rng.binomial(n.astype(int), rng.uniform(0, 1, (2, 1)) * [[1.0], [0.6]]).astype("float64")
        sides = Sides(k[0], n[0], k[1], n[1])
        these, alone = on_these(sides), on_such(sides.together(np.arange(8) // 2))
        such = no_surer_than(alone, these)
        assert such.low <= these.low <= these.high <= such.high
        assert such.p >= max(these.p, alone.p)
        assert (such.low > 1e-12 or such.high < -1e-12) <= (such.p < 0.05)
        assert (such.low < 0 < such.high) <= (such.p >= 0.05)
        moved += (such.low, such.high) != (alone.low, alone.high)
    assert moved > 30


def test_where_the_two_differences_point_apart_nothing_is_shown_of_such_questions():
    # A question in three forms that got better weighs three times on these questions, and once on such.
    k_a, k_b = np.array([0.0, 0, 0, 50, 50]), np.array([50.0, 50, 50, 0, 0])
    sides = Sides(k_a, np.full(5, 50.0), k_b, np.full(5, 50.0))
    these, alone = on_these(sides), on_such(sides.together(np.array([0, 0, 0, 1, 2])))
    assert these.effect < 0 < alone.effect
    such = no_surer_than(alone, these)
    assert (such.effect, such.p) == (alone.effect, 1)
    assert such.low < 0 < such.high


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
    assert found.effect < 0
    assert found.high - found.effect == pytest.approx(half)


def test_one_question_says_nothing_of_such_questions():
    one = Sides(*(np.array([x]) for x in (9.0, 10.0, 0.0, 10.0)))
    assert math.isnan(on_such(one).p)
    assert on_these(one).p < 0.001


def test_forms_of_a_question_are_put_together():
    forms = Sides(*(np.array(x) for x in ([5.0, 4, 0], [10.0, 10, 10], [0.0, 1, 0], [10.0, 10, 10])))
    together = forms.together(np.array([0, 0, 1]))
    assert together.k_a.tolist() == [9, 0]
    assert together.n_b.tolist() == [20, 10]


def test_few_unlike_questions_give_students_t_towards_0_written_out():
    k_a, k_b, n = np.array([9.0, 1, 5, 2]), np.array([1.0, 2, 1, 0]), np.full(4, 10.0)
    found = on_such(Sides(k_a, n, k_b, n))
    differences = [0.8, -0.1, 0.4, 0.2]
    error = math.sqrt(sum((x - 0.325) ** 2 for x in differences) / 3 / 4)
    assert found.effect == pytest.approx(0.325)
    assert found.p == pytest.approx(2 * t.sf(0.325 / error, 3), rel=1e-9)
    assert found.low == pytest.approx(0.325 - t.isf(0.025, 3) * error, rel=1e-9)
    turned = on_such(Sides(k_b, n, k_a, n))
    assert (turned.effect, turned.low, turned.high, turned.p) == pytest.approx(
        (-found.effect, -found.high, -found.low, found.p)
    )


def test_questions_that_all_changed_as_one_are_as_unsure_as_if_one_had_not():
    k_a, k_b, n = np.full(8, 30.0), np.full(8, 5.0), np.full(8, 50.0)
    found = on_such(Sides(k_a, n, k_b, n))
    assert ttest_1samp([0.5] * 8 + [0.0], 0).statistic == pytest.approx(8)
    assert found.p == pytest.approx(2 * t.sf(8, 7))
    assert found.low == pytest.approx(0.5 - t.isf(0.025, 7) * 0.5 / 8)


@pytest.mark.parametrize(("k", "alike"), [([60.0, 0, 0, 0], 0.8), ([30.0] * 4, 0.0)])
def test_sides_without_any_difference_are_as_unsure_as_most_of_their_own_intervals(k, alike):
    k, n = np.array(k), np.full(4, 200.0)
    found = on_such(Sides(k, n, k, n))
    low, high = beta_binomial(k[None], n[None], [0.05, 1.0])
    down, up = low[0, 1] - low[0, 0], high[0, 0] - low[0, 1]
    reach = 0.8 * math.sqrt(down**2 + up**2 - 2 * alike * down * up)
    assert (found.effect, found.low, found.high) == pytest.approx((0, -reach, reach), rel=1e-9)
    assert found.p == 1


def test_away_from_0_it_reaches_no_less_far_than_on_these_questions():
    two_each = Sides(np.tile([1.0, 0.0], 10), np.full(20, 2.0), np.zeros(20), np.full(20, 2.0))
    these, such = on_these(two_each), on_such(two_each)
    assert these.high <= such.high < these.high + 0.05
    wider = on_such(two_each, 0.01)
    assert wider.high >= on_these(two_each, 0.01).high > these.high
    assert wider.low < such.low
    assert wider.p == such.p


def test_ends_reach_towards_0_and_away_from_it_and_none_passes_a_whole():
    effect, towards, away = np.array([-0.2, 0.2, 0.0, 0.9, -0.9]), np.full(5, 0.1), np.full(5, 0.3)
    low, high = interval_around(effect, towards, away)
    assert low == pytest.approx([-0.5, 0.1, -0.3, 0.8, -1.0])
    assert high == pytest.approx([-0.1, 0.5, 0.3, 1.0, -0.8])


def test_false_alarms_of_the_test_within_questions_are_five_in_a_hundred_and_not_far_fewer():
    # Every outcome of two questions with 12 answers a side that are the same on both sides, weighted by its chance.
    n, rates = 12, (0.2, 0.5)
    outcomes = np.array(list(itertools.product(range(n + 1), repeat=4)), dtype="float64")
    k_a, k_b = outcomes[:, :2], outcomes[:, 2:]
    chance = np.prod([binom.pmf(outcomes[:, at], n, rates[at % 2]) for at in range(4)], axis=0)
    full = np.full(k_a.shape, float(n))
    p = within_questions_many(k_a, full, k_b, full)
    assert 0.035 < chance[p < 0.05].sum() < 0.055
    assert p[5000] == pytest.approx(within_questions_p(k_a[5000], full[0], k_b[5000], full[0]))


def test_where_few_answers_weigh_as_many_ones_the_mean_of_the_rates_has_to_show_the_difference_too():
    # Four questions of six answers without a difference, and four of 150 with one of 16 points.
    sides = Sides(
        *(np.repeat([few, many], 4).astype("float64") for few, many in ((3, 15), (6, 150), (3, 39), (6, 150)))
    )
    assert within_questions_p(sides.k_a, sides.n_a, sides.k_b, sides.n_b) < 1e-6
    these = on_these(sides)
    assert these.effect == pytest.approx(-0.08)
    assert 0.1 < these.p < 0.5
    assert these.low < 0 < these.high
    clear = on_these(Sides(3 * sides.k_a, 3 * sides.n_a, 3 * sides.k_b, 3 * sides.n_b), 0.05)
    assert clear.p > within_questions_p(sides.k_a, sides.n_a, sides.k_b, sides.n_b)
    alike = Sides(*(np.repeat(count, 8).astype("float64") for count in (15, 150, 39, 150)))
    assert on_these(alike).p == within_questions_p(alike.k_a, alike.n_a, alike.k_b, alike.n_b)


def test_the_level_at_which_the_joined_interval_reaches_0_is_that_of_the_interval():
    sides = Sides(*(np.array(x, dtype="float64") for x in ([5, 9, 20], [10, 20, 40], [2, 3, 9], [10, 30, 40])))
    p = on_these(sides).p
    assert p > within_questions_p(sides.k_a, sides.n_a, sides.k_b, sides.n_b)
    _, low, _ = joined_on_these(sides.k_a[None], sides.n_a[None], sides.k_b[None], sides.n_b[None], p)
    assert low == pytest.approx(0.0, abs=1e-4)
