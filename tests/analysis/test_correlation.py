"""Correlation and agreement over questions: other code's estimates, and intervals that know that questions are few."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from em_tasks.plugins.analysis.statistics.correlation import rank_correlation
from em_tasks.plugins.analysis.statistics.design_power import power_of
from em_tasks.plugins.analysis.tables.judge_tables import kappa_interval


def test_rho_is_scipys_and_its_interval_that_of_questions_left_out_one_by_one():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 100, 200).astype("float64")
    y = x + rng.normal(0, 40, 200)
    cluster = np.repeat(np.arange(20), 10)
    rho, low, high = rank_correlation(x, y, cluster)
    assert rho == pytest.approx(spearmanr(x, y).statistic)
    assert low < rho < high
    assert np.isnan(rank_correlation(x[:20], y[:20], cluster[:20])[1])


def test_kappa_is_the_textbooks():
    a = np.array([1.0] * 20 + [1.0] * 5 + [0.0] * 10 + [0.0] * 15)
    b = np.array([1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15)
    kappa, low, high = kappa_interval(a, b, np.tile(np.arange(10), 5))
    assert kappa == pytest.approx(0.4)
    assert low < kappa < high


def test_more_answers_help_on_these_questions_and_more_questions_on_such_questions():
    few, many_answers, many_questions = (
        power_of(0.01, 0.2, questions, samples, organisms=6, runs=60)
        for questions, samples in ((8, 2), (8, 30), (32, 8))
    )
    assert many_answers.these > few.these + 0.3
    assert many_questions.such > many_answers.such + 0.2
    assert many_answers.such <= many_answers.these
