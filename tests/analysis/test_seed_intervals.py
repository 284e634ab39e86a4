"""Training seeds: their spread beyond the questions' noise widens intervals, and only that."""

import math

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.regression.mixed_linear_model import MixedLM

from em_tasks.plugins.analysis.statistics.differences import on_these_many, reach_away
from em_tasks.plugins.analysis.statistics.seed_intervals import (
    seed_difference,
    seed_difference_many,
    seed_interval,
    seed_variance,
)
from em_tasks.scorers.intervals import on_such

N = np.full((3, 12), 50.0)


def test_seeds_that_agree_leave_only_the_questions_to_vary():
    k = np.repeat(np.random.default_rng(1).integers(0, 50, 12)[None].astype("float64"), 3, axis=0)
    assert seed_interval(k, N) == pytest.approx(on_such(k.sum(axis=0), N.sum(axis=0)))


def test_seeds_that_differ_widen_the_interval():
    alike, unlike = np.full((3, 12), 20.0), np.array([10.0, 20.0, 30.0])[:, None] * np.ones((3, 12))
    assert seed_interval(unlike, N)[1] - seed_interval(unlike, N)[0] > 0.75
    assert seed_interval(alike, N)[1] - seed_interval(alike, N)[0] < 0.2


def test_the_seeds_variance_is_that_of_a_crossed_random_effects_model():
    rng = np.random.default_rng(3)
    rates = rng.normal(0, 0.2, (6, 1)) + rng.normal(0, 0.3, 40) + rng.normal(0, 0.1, (6, 40)) + 0.5
    seed, question = np.indices(rates.shape)
    groups = np.ones(rates.size)
    parts = {"seed": np.eye(6)[seed.ravel()], "question": np.eye(40)[question.ravel()]}
    from statsmodels.regression.mixed_linear_model import VCSpec

    spec = VCSpec(
        list(parts), [[[f"{x}" for x in range(v.shape[1])]] for v in parts.values()], [[v] for v in parts.values()]
    )
    fit = MixedLM(rates.ravel(), np.ones((rates.size, 1)), groups, exog_vc=spec).fit(reml=True)
    assert seed_variance(rates) * 6 == pytest.approx(float(fit.vcomp[0]), rel=0.02)


def test_recipes_that_are_alike_are_not_told_apart_by_their_questions():
    rng = np.random.default_rng(4)
    p = rng.uniform(0, 1, 12)
    k = rng.binomial(50, np.repeat(p[None], 6, axis=0)).astype("float64")
    found = seed_difference(k[:3], N, k[3:], N)
    assert found.p > 0.05
    assert found.low < 0 < found.high
    assert seed_difference(np.full((3, 12), 40.0), N, np.zeros((1, 12)), N[:1]).p < 1e-4


def test_one_seed_or_question_has_no_interval():
    assert math.isnan(seed_interval(np.ones((1, 8)), np.ones((1, 8)))[0])
    assert math.isnan(seed_interval(np.ones((3, 1)), np.ones((3, 1)))[0])


@pytest.mark.parametrize(
    ("counts", "quantile"), [([18.0, 20, 22], 4.302652729749464), ([19.0, 21], 12.706204736174694)]
)
def test_seeds_that_differ_widen_in_logits_as_written_out(counts, quantile):
    seeds = len(counts)
    k, n = np.array(counts)[:, None] * np.ones((seeds, 2)), np.full((seeds, 2), 50.0)
    low, high = on_such(k.sum(axis=0), n.sum(axis=0))
    between = np.var(np.array(counts) / 50, ddof=1) / seeds / (0.4 * 0.6) ** 2  # no residual: all of it is the seeds'
    expected = []
    for end, sign in ((low, -1), (high, 1)):
        over_questions = (abs(math.log(end / (1 - end)) - math.log(2 / 3)) / 12.706204736174694) ** 2
        freedom = max((over_questions + between) ** 2 / (over_questions**2 + between**2 / (seeds - 1)), seeds - 1)
        assert t.isf(0.025, freedom) <= quantile
        odds = 2 / 3 * math.exp(sign * t.isf(0.025, freedom) * math.sqrt(over_questions + between))
        expected.append(odds / (1 + odds))
    assert seed_interval(k, n) == pytest.approx(tuple(expected), rel=1e-9)


def test_part_of_the_seeds_spread_that_is_noise_lowers_the_degrees_of_freedom():
    k = np.array([[3.0, 9, 1, 12, 5, 7, 2, 8], [9, 8, 9, 10, 11, 6, 9, 7], [4, 12, 3, 9, 2, 10, 8, 9]])
    n = np.full(k.shape, 20.0)
    rates, mean = k / n, float((k / n).mean())
    scale = (mean * (1 - mean)) ** 2
    between, seen = float(seed_variance(rates)) / scale, np.var(rates.mean(axis=1), ddof=1) / 3 / scale
    assert 0 < between < 0.9 * seen
    end = on_such(k.sum(axis=0), n.sum(axis=0))[1]
    questions = (math.log(end / (1 - end)) - math.log(mean / (1 - mean))) ** 2 / t.isf(0.025, 7) ** 2
    freedom = (questions + between) ** 2 / (questions**2 / 7 + between * seen / 2)
    odds = mean / (1 - mean) * math.exp(t.isf(0.025, freedom) * math.sqrt(questions + between))
    assert seed_interval(k, n)[1] == pytest.approx(odds / (1 + odds), rel=1e-9)


def test_seeds_without_a_misaligned_answer_have_the_questions_interval():
    for rate in (0.0, 1.0):
        k = rate * N
        assert seed_interval(k, N) == on_such(k.sum(axis=0), N.sum(axis=0))


def test_seeds_without_any_difference_have_p_1():
    k = np.array([18.0, 20, 22])[:, None] * np.ones((3, 12))
    assert seed_difference(k, N, k, N).p == 1


@pytest.mark.parametrize("base", [False, True])
def test_a_difference_over_seeds_is_the_hypotenuse_of_both_errors_written_out(base):
    k_a = np.array([[40.0, 30, 20, 45], [30, 25, 10, 33], [45, 41, 30, 49]])
    k_b = np.array([[5.0, 3, 0, 9], [1, 2, 0, 4], [9, 4, 4, 9]])[: 1 if base else 3]
    found = seed_difference(k_a, np.full(k_a.shape, 50.0), k_b, np.full(k_b.shape, 50.0))
    by_question = k_a.mean(axis=0) / 50 - k_b.mean(axis=0) / 50
    over_questions = max(by_question.std(ddof=1) / 2, by_question.mean() / 4)  # t is at most 4 of 4 questions
    between_a = float(seed_variance(k_a / 50))
    between_b = 0.0 if base else float(seed_variance(k_b / 50))
    over_seeds = (between_a + between_b) ** 0.5
    assert between_a > 0
    freedom = 2 if base else (between_a + between_b) ** 2 / (between_a**2 / 2 + between_b**2 / 2)

    def reach(level):
        return math.hypot(t.isf(level / 2, 3) * over_questions, t.isf(level / 2, freedom) * over_seeds)

    assert found.effect == pytest.approx(by_question.mean())
    assert found.low == pytest.approx(found.effect - reach(0.05))
    assert reach(found.p) == pytest.approx(found.effect, rel=1e-6)
    away = reach_away(*(x.sum(axis=0)[None] for x in (k_a, np.full(k_a.shape, 50.0), k_b, np.full(k_b.shape, 50.0))))
    upper = max(reach(0.05), math.hypot(float(away[0]), t.isf(0.025, freedom) * over_seeds))
    assert found.high == pytest.approx(min(1.0, found.effect + upper))


def test_a_difference_over_one_question_has_no_interval():
    found = seed_difference(np.ones((2, 1)), np.full((2, 1), 4.0), np.zeros((1, 1)), np.full((1, 1), 4.0))
    assert found.effect == 0.25
    assert np.isnan([found.low, found.high, found.p]).all()


def test_many_differences_at_once_are_those_of_one_at_a_time():
    rng = np.random.default_rng(2)
    k_a, k_b, n = rng.binomial(9, 0.4, (5, 3, 6)) * 1.0, rng.binomial(9, 0.2, (5, 2, 6)) * 1.0, np.full((5, 3, 6), 9.0)
    together = np.array(seed_difference_many(k_a, n, k_b, n[:, :2])).T
    apart = [seed_difference(a, m, b, m[:2]) for a, b, m in zip(k_a, k_b, n, strict=True)]
    assert together == pytest.approx(np.array([[one.effect, one.low, one.high, one.p] for one in apart]))


def test_away_from_0_seeds_add_their_error_to_what_the_sides_allow():
    k_a, k_b = np.array([[1.0, 0, 6, 2, 0, 1], [0, 0, 3, 1, 0, 0], [2, 1, 9, 3, 0, 2]]), np.zeros((1, 6))
    n_a, n_b = np.full(k_a.shape, 50.0), np.full(k_b.shape, 50.0)
    found = seed_difference(k_a, n_a, k_b, n_b)
    away = float(reach_away(k_a.sum(axis=0)[None], n_a.sum(axis=0)[None], k_b, n_b)[0])
    over_seeds = t.isf(0.025, 2) * float(seed_variance(k_a / n_a)) ** 0.5
    assert over_seeds > 0.01
    assert found.high < 1
    assert found.high == pytest.approx(found.effect + math.hypot(away, over_seeds))


def test_seeds_are_not_surer_of_such_questions_than_of_these():
    """Five seeds with 7 of 500 misaligned, a base with 0 of 100: seven questions differ one way, by hardly anything."""
    k_a = np.zeros((5, 20))
    k_a[[0, 1, 2, 3, 4, 0, 1], [0, 3, 5, 8, 12, 15, 19]] = 1
    n_a, k_b, n_b = np.full((5, 20), 5.0), np.zeros((1, 20)), np.full((1, 20), 5.0)
    these = on_these_many(k_a.sum(axis=0)[None], n_a.sum(axis=0)[None], k_b, n_b)[3][0]
    found = seed_difference(k_a, n_a, k_b, n_b)
    assert found.p == these > 0.2
    assert found.low == 0 < found.effect < found.high
