"""Intervals hold what they promise: simulated experiments in which the truth is known."""

import math

import numpy as np
import pandas as pd
import pytest

from plugins.analysis.intervals import cluster_interval, mean_interval, seed_interval, wilson

RUNS = 1000
TOLERATED = (0.93, 0.97)


def covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_wilson_covers_a_fixed_rate(rate):
    # The exact coverage of 200 answers, so that no luck is involved.
    from scipy.stats import binom

    k = pd.Series(np.arange(201.0))
    low, high = wilson(k, pd.Series(np.full(201, 200)))
    inside = (low <= rate) & (rate <= high)
    assert TOLERATED[0] <= float(binom.pmf(k[inside], 200, rate).sum()) <= TOLERATED[1]


@pytest.mark.parametrize(("questions", "samples", "a", "b"), [(20, 10, 1.5, 3.5), (24, 50, 1, 3), (40, 5, 2, 2)])
def test_the_cluster_bootstrap_covers_the_rate_over_questions(questions, samples, a, b):
    rng = np.random.default_rng(7)
    rates = rng.beta(a, b, (RUNS, questions))
    k = rng.binomial(samples, rates).astype(float)
    n = np.full(questions, float(samples))
    found = covered([cluster_interval(row, n) for row in k], a / (a + b))
    assert TOLERATED[0] <= found <= TOLERATED[1]


def test_wilson_would_not_cover_the_rate_over_questions():
    rng = np.random.default_rng(7)
    k = rng.binomial(50, rng.beta(1, 3, (RUNS, 24))).sum(axis=1)
    low, high = wilson(pd.Series(k), pd.Series(np.full(RUNS, 24 * 50)))
    assert np.mean((low <= 0.25) & (high >= 0.25)) < 0.6


def test_the_bootstrap_of_differences_covers():
    rng = np.random.default_rng(7)
    shared = rng.beta(2, 4, (RUNS, 20))
    other = np.clip(shared + rng.normal(0.1, 0.1, shared.shape), 0, 1)
    truth = float(np.mean(other - shared))
    k_a, k_b = rng.binomial(10, other), rng.binomial(10, shared)
    found = covered([mean_interval((a - b) / 10) for a, b in zip(k_a, k_b, strict=True)], truth)
    assert TOLERATED[0] <= found <= TOLERATED[1]


def test_the_bootstrap_over_seeds_covers():
    rng = np.random.default_rng(7)
    runs = 600
    effect = rng.normal(0, 0.06, (runs, 5, 1))
    rates = np.clip(rng.normal(0.5, 0.15, (runs, 1, 20)) + effect, 0.02, 0.98)
    observed = rng.binomial(10, rates) / 10
    found = covered([seed_interval(one) for one in observed], 0.5)
    assert found >= TOLERATED[0]


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
