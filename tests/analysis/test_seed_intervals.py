"""Training seeds: their spread beyond the questions' noise widens intervals, and only that."""

import math

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.regression.mixed_linear_model import MixedLM

from em_tasks.plugins.analysis.statistics.differences import Sides, no_surer_than, on_these
from em_tasks.plugins.analysis.statistics.seed_intervals import (
    seed_difference,
    seed_difference_many,
    seed_interval,
    seed_interval_many,
    seed_spread,
    seed_variance,
)
from em_tasks.plugins.analysis.statistics.simulation import NOISE, SEED_SPREAD, population
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


def test_two_seeds_or_one_question_have_no_interval():
    assert math.isnan(seed_interval(np.array([[1.0], [0.0]]).repeat(8, axis=1), np.full((2, 8), 2.0))[0])
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
        shares = over_questions**1.5 + between**1.5 / (seeds - 1)
        freedom = max((over_questions + between) ** 1.5 / shares, seeds - 1)
        assert t.isf(0.025, freedom) <= quantile
        odds = 2 / 3 * math.exp(sign * t.isf(0.025, freedom) * math.sqrt(over_questions + between))
        expected.append(odds / (1 + odds))
    ends = seed_interval_many(k[None], n[None])
    assert (ends[0][0], ends[1][0]) == pytest.approx(tuple(expected), rel=1e-9)


def test_a_rates_two_errors_share_their_degrees_of_freedom():
    k = np.array([[3.0, 9, 1, 12, 5, 7, 2, 8], [9, 8, 9, 10, 11, 6, 9, 7], [4, 12, 3, 9, 2, 10, 8, 9]])
    n = np.full(k.shape, 20.0)
    rates, mean = k / n, float((k / n).mean())
    between = float(seed_variance(rates)) / (mean * (1 - mean)) ** 2
    assert 0 < between < 0.9 * np.var(rates.mean(axis=1), ddof=1) / 3 / (mean * (1 - mean)) ** 2
    end = on_such(k.sum(axis=0), n.sum(axis=0))[1]
    questions = (math.log(end / (1 - end)) - math.log(mean / (1 - mean))) ** 2 / t.isf(0.025, 7) ** 2
    freedom = (questions + between) ** 1.5 / (questions**1.5 / 7 + between**1.5 / 2)
    odds = mean / (1 - mean) * math.exp(t.isf(0.025, freedom) * math.sqrt(questions + between))
    assert seed_interval(k, n)[1] == pytest.approx(odds / (1 + odds), rel=1e-9)


def test_seeds_without_a_misaligned_answer_have_the_questions_interval():
    for rate in (0.0, 1.0):
        k = rate * N
        assert seed_interval(k, N) == on_such(k.sum(axis=0), N.sum(axis=0))


def test_seeds_without_any_difference_have_p_1():
    k = np.array([18.0, 20, 22])[:, None] * np.ones((3, 12))
    assert seed_difference(k, N, k, N).p == 1


def two_errors(k_a, k_b, n):
    """Variances over seeds and questions, and the residual's, in as many lines as the formulas have."""
    over_seeds, residual = [], []
    for k in (k_a, k_b):
        rates = k / n
        means = rates.mean(axis=1)
        left = rates - means[:, None] - rates.mean(axis=0) + rates.mean()
        over_seeds.append(means.var(ddof=1) / len(k) if len(k) > 1 else 0.0)
        residual.append((left**2).sum() / ((len(k) - 1) * (len(left.T) - 1) * left.size) if len(k) > 1 else 0.0)
    by_question = (k_a.mean(axis=0) - k_b.mean(axis=0)) / n
    return over_seeds, max(0.0, by_question.var(ddof=1) / len(by_question) - sum(residual))


@pytest.mark.parametrize("base", [False, True])
def test_a_difference_over_seeds_joins_both_sides_errors_in_logits_written_out(base):
    k_a = np.array([[40.0, 30, 20, 45, 38], [30, 25, 10, 33, 30], [45, 41, 30, 49, 44]])
    k_b = np.array([[5.0, 3, 0, 9, 4], [1, 2, 0, 4, 2], [9, 4, 4, 9, 8]])[: 1 if base else 3]
    found = seed_difference(k_a, np.full(k_a.shape, 50.0), k_b, np.full(k_b.shape, 50.0))
    (seeds_a, seeds_b), over_questions = two_errors(k_a, k_b, 50)
    over_seeds = seeds_a + seeds_b
    assert min(over_seeds, over_questions) > 0.0001
    welch = over_seeds**2 / (seeds_a**2 / 2 + seeds_b**2 / 2)
    freedom = (over_seeds + over_questions) ** 1.25 / (over_seeds**1.25 / welch + over_questions**1.25 / 4)
    freedom = max(freedom, 2 if base else 4)
    a, b = k_a.mean() / 50, k_b.mean() / 50
    slope_a, slope_b = a * (1 - a), b * (1 - b)
    question = over_questions / (slope_a**2 + slope_b**2)
    seed = over_seeds / (slope_a**2 + (0 if base else slope_b**2))
    error_a, error_b = (seed + question) ** 0.5, ((0 if base else seed) + question) ** 0.5

    def moved(rate, by):
        return 1 / (1 + math.exp(-(math.log(rate / (1 - rate)) + by)))

    def reach(level):
        quantile = t.isf(level / 2, freedom)
        down = math.hypot(a - moved(a, -quantile * error_a), moved(b, quantile * error_b) - b)
        return down, math.hypot(moved(a, quantile * error_a) - a, b - moved(b, -quantile * error_b))

    assert found.effect == pytest.approx(a - b)
    assert found.low == pytest.approx(found.effect - reach(0.05)[0])
    assert found.high == pytest.approx(found.effect + reach(0.05)[1])
    assert reach(found.p)[0] == pytest.approx(found.effect, rel=1e-6)


def test_what_differs_the_other_way_has_the_same_interval_and_p_turned_round():
    rng = np.random.default_rng(6)
    k_a, k_b, n = rng.binomial(20, 0.5, (3, 8)) * 1.0, rng.binomial(20, 0.2, (3, 8)) * 1.0, np.full((3, 8), 20.0)
    there, back = seed_difference(k_a, n, k_b, n), seed_difference(k_b, n, k_a, n)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert there.p == pytest.approx(back.p)
    assert there.p < 0.01


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_and_questions_that_all_moved_alike_are_not_certain(seeds):
    k_a, k_b, n = np.full((seeds, 8), 40.0), np.full((seeds, 8), 10.0), np.full((seeds, 8), 50.0)
    found = seed_difference(k_a, n, k_b, n)
    error = 0.6 / 8 / seeds**0.5  # t is at most 8 of a seed, and so much more of the mean of several
    assert found.low == pytest.approx(0.6 - t.isf(0.025, 7) * error)
    assert found.p == pytest.approx(2 * t.sf(0.6 / error, 7), rel=1e-6)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("answers", [10, 50])
@pytest.mark.parametrize("fewer", [0, 1, 3])
def test_nearly_all_against_nearly_none_is_shown_and_the_more_the_more_there_is(several, answers, fewer):
    """Three seeds that are misaligned in all answers and a base in none were "not shown on such questions"."""
    n = np.full((3, 8), float(answers))
    k_a, k_b = n.copy(), np.zeros((3 if several else 1, 8))
    k_a[range(fewer), range(fewer)] -= 1
    k_b[0, :fewer] += 1
    found = seed_difference(k_a, n, k_b, n[: len(k_b)])
    assert 0.75 < found.low < found.effect <= found.high <= 1
    assert found.p < 0.005


def seeds_of(rng, rate, questions, seeds, answers, spread):
    """Misaligned answers, shape (experiments, seeds, questions), as benchmarks/coverage.py draws them."""
    noise = NOISE * rng.standard_normal((len(questions), seeds, questions.shape[2]))
    noise += spread * rng.standard_normal((len(questions), seeds, 1))
    logits = population(rate, float(np.hypot(spread, NOISE)))[questions] + noise
    return rng.binomial(answers, 1 / (1 + np.exp(-logits))).astype("float64")


@pytest.mark.parametrize(
    ("base", "change", "seeds", "questions", "several", "least", "most"),
    [
        # Of three seeds' differences from eight questions' bases 98.3 % were covered by a hypotenuse of two t's.
        (0.2, 0.4, 3, 8, False, 93.5, 97.0),
        # Of five seeds', whose questions all move nearly alike, 98.5 %.
        (0.2, 0.4, 5, 8, True, 93.5, 97.0),
        # Where few of eight questions carry what is misaligned, 98.2 %.
        (0.05, 0.0, 5, 8, True, 93.5, 97.6),
        # Satterthwaite's degrees of freedom cover 93.6 %.
        (0.6, 0.0, 3, 20, False, 94.3, 97.0),
    ],
)
def test_differences_over_seeds_cover_what_they_say(base, change, seeds, questions, several, least, most):
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, len(population(base)), (4000, 1, questions))
    k_a = seeds_of(rng, base + change, drawn, seeds, 50, SEED_SPREAD)
    k_b = seeds_of(rng, base, drawn, seeds if several else 1, 50, SEED_SPREAD if several else 0.0)
    _, low, high, p = seed_difference_many(k_a, np.full(k_a.shape, 50.0), k_b, np.full(k_b.shape, 50.0))
    covered = 100 * float(np.mean((low <= change) & (change <= high)))
    assert least < covered < most
    assert ((p < 0.05) == ((low > 0) | (high < 0))).all()


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


def test_seeds_that_came_out_alike_are_held_to_these_questions():
    k_a, k_b = np.ones((3, 6)), np.zeros((1, 6))
    n_a, n_b = np.full(k_a.shape, 50.0), np.full(k_b.shape, 50.0)
    these = on_these(Sides(k_a.sum(axis=0), n_a.sum(axis=0), k_b[0], n_b[0]))
    alone = seed_difference(k_a, n_a, k_b, n_b)
    held = no_surer_than(alone, these)
    assert alone.high < these.high
    assert (held.high, held.effect) == pytest.approx((these.high, these.effect))


def test_seeds_are_not_surer_of_such_questions_than_of_these():
    """Five seeds with 7 of 500 misaligned, a base with 0 of 100: seven questions differ one way, by hardly anything."""
    k_a = np.zeros((5, 20))
    k_a[[0, 1, 2, 3, 4, 0, 1], [0, 3, 5, 8, 12, 15, 19]] = 1
    n_a, k_b, n_b = np.full((5, 20), 5.0), np.zeros((1, 20)), np.full((1, 20), 5.0)
    these = on_these(Sides(k_a.sum(axis=0), n_a.sum(axis=0), k_b[0], n_b[0]))
    alone = seed_difference(k_a, n_a, k_b, n_b)
    found = no_surer_than(alone, these)
    assert alone.p < 0.05
    assert found.p == these.p > 0.2
    assert found.low == these.low < 0 < found.effect < found.high


def test_the_spread_of_seeds_is_that_of_their_logits():
    k = np.array([[20.0, 30], [30, 40], [10, 20]])
    rates = k.mean(axis=1) / 50
    expected = rates.std(ddof=1) / (rates.mean() * (1 - rates.mean()))  # no residual: all of it is the seeds'
    assert seed_spread(k, np.full(k.shape, 50.0)) == pytest.approx(expected)
    assert math.isnan(seed_spread(0 * k, np.full(k.shape, 50.0)))


@pytest.mark.parametrize(("seeds", "most"), [((2, 5), 0.066), ((3, 8), 0.06)])
def test_unequal_numbers_of_seeds_have_the_degrees_of_freedom_of_unequal_numbers(seeds, most):
    """Two seeds against five had those of seven in equal parts, and an outsider counted 7.7 % false alarms."""
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, len(population(0.2)), (4000, 1, 20))
    k_a, k_b = (seeds_of(rng, 0.2, drawn, number, 50, SEED_SPREAD) for number in seeds)
    p = seed_difference_many(k_a, np.full(k_a.shape, 50.0), k_b, np.full(k_b.shape, 50.0))[3]
    assert (p < 0.05).mean() < most


def test_seeds_that_are_very_unlike_raise_hardly_more_false_alarms_than_allowed():
    """Three and five seeds that differ by 1.0 in logits raised up to 8.5 %: logits alone know too much of low rates."""
    rng = np.random.default_rng(4)
    for rate, seeds in ((0.05, 3), (0.05, 5)):
        drawn = rng.integers(0, len(population(rate)), (4000, 1, 20))
        k_a, k_b = (seeds_of(rng, rate, drawn, seeds, 20, 1.0) for _ in range(2))
        p = seed_difference_many(k_a, np.full(k_a.shape, 20.0), k_b, np.full(k_b.shape, 20.0))[3]
        assert (p < 0.05).mean() < 0.058
