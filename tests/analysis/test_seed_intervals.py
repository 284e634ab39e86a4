"""Training seeds: their spread beyond the questions' noise widens intervals, and only that."""

import math

import numpy as np
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from em_tasks.plugins.analysis.statistics.seed_intervals import seed_difference, seed_interval, seed_variance
from em_tasks.scorers.intervals import on_such

N = np.full((3, 12), 50.0)


def test_seeds_that_agree_leave_only_the_questions_to_vary():
    k = np.repeat(np.random.default_rng(1).integers(0, 50, 12)[None].astype("float64"), 3, axis=0)
    assert seed_interval(k, N) == pytest.approx(on_such(k.sum(axis=0), N.sum(axis=0)))


def test_seeds_that_differ_widen_the_interval():
    alike, unlike = np.full((3, 12), 20.0), np.array([10.0, 20.0, 30.0])[:, None] * np.ones((3, 12))
    assert seed_interval(unlike, N)[1] - seed_interval(unlike, N)[0] > 0.8
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
def test_seeds_spread_joins_the_questions_as_written_out(counts, quantile):
    seeds = len(counts)
    k, n = np.array(counts)[:, None] * np.ones((seeds, 2)), np.full((seeds, 2), 50.0)
    low, high = on_such(k.sum(axis=0), n.sum(axis=0))
    between = quantile * math.sqrt(np.var(np.array(counts) / 50, ddof=1) / seeds)
    expected = max(0.0, 0.4 - math.hypot(0.4 - low, between)), min(1.0, 0.4 + math.hypot(high - 0.4, between))
    assert seed_interval(k, n) == pytest.approx(expected, rel=1e-9)


def test_seeds_without_any_difference_have_p_1():
    k = np.array([18.0, 20, 22])[:, None] * np.ones((3, 12))
    assert seed_difference(k, N, k, N).p == 1
