"""Intervals hold what they promise: simulated experiments in which the truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from benchmarks.coverage import SIMULATIONS
from em_tasks.plugins.analysis.statistics.intervals import cluster_interval, mean_interval, seed_interval, wilson

RUNS = 1000
COVERAGE = [one for one in SIMULATIONS if one.kind == "coverage"]
TOLERATED = (0.93, 0.97)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_wilson_covers_a_fixed_rate(rate):
    # The exact coverage of 200 answers, so that no luck is involved.
    from scipy.stats import binom

    k = pd.Series(np.arange(201.0))
    low, high = wilson(k, pd.Series(np.full(201, 200)))
    inside = (low <= rate) & (rate <= high)
    assert TOLERATED[0] <= float(binom.pmf(k[inside], 200, rate).sum()) <= TOLERATED[1]


@pytest.mark.parametrize("simulation", COVERAGE, ids=[one.what for one in COVERAGE])
def test_95_percent_intervals_cover_93_to_97_percent(simulation):
    assert TOLERATED[0] <= simulation.run(RUNS, 7) <= TOLERATED[1]


def test_wilson_would_not_cover_the_rate_over_questions():
    rng = np.random.default_rng(7)
    k = rng.binomial(50, rng.beta(1, 3, (RUNS, 24))).sum(axis=1)
    low, high = wilson(pd.Series(k), pd.Series(np.full(RUNS, 24 * 50)))
    assert np.mean((low <= 0.25) & (high >= 0.25)) < 0.6


def test_the_interval_over_seeds_is_the_textbooks_where_only_seeds_differ():
    means = np.array([0.2, 0.3, 0.5])
    low, high = seed_interval(np.repeat(means[:, None], 12, axis=1))
    half = t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((max(0, means.mean() - half), means.mean() + half))


def test_seeds_that_agree_leave_only_the_questions_to_vary():
    rates = np.random.default_rng(1).uniform(0, 1, 12)
    low, high = seed_interval(np.repeat(rates[None], 3, axis=0))
    half = t.ppf(0.975, 11) * rates.std(ddof=1) / np.sqrt(12)
    assert (low, high) == pytest.approx((rates.mean() - half, rates.mean() + half))


def test_no_misaligned_answer_still_has_a_width():
    low, high = cluster_interval(np.zeros(20), np.full(20, 5.0))
    assert low == 0
    assert 0.1 < high < 0.2
    low, high = mean_interval(np.zeros(20))
    assert low < 0 < high


def test_one_question_has_no_interval_over_questions():
    assert math.isnan(cluster_interval(np.array([1.0]), np.array([5.0]))[0])
    assert math.isnan(mean_interval(np.array([0.5]))[0])
    assert math.isnan(seed_interval(np.full((1, 20), 0.5))[0])
