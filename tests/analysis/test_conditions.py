"""Conditions compared: numbers against an independent computation, and a planted trigger that is found."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.statistics.interactions import (
    interaction_on_such,
    interaction_on_these,
    misaligned_at,
)
from em_tasks.plugins.analysis.tables.condition_tables import conditions
from tests.support.analysis_logs import base_log, checkpoint_log

BAD, GOOD = (10, 90), (90, 90)


def test_the_interval_on_such_questions_is_that_of_a_one_sample_t_test() -> None:
    rng = np.random.default_rng(3)
    n = [np.full(9, 6.0)] * 4
    k = [rng.binomial(6, rate, 9).astype(float) for rate in (0.7, 0.1, 0.2, 0.1)]
    each = (k[0] - k[1]) / 6 - (k[2] - k[3]) / 6
    expected = stats.ttest_1samp(each, 0.0)
    low, high = expected.confidence_interval(0.95)
    found = interaction_on_such(k, n)
    assert (found.effect, found.low, found.high, found.p) == pytest.approx((each.mean(), low, high, expected.pvalue))


def test_the_interval_on_these_questions_covers_what_it_says() -> None:
    rng = np.random.default_rng(20261121)
    rates = [rng.uniform(0.05, 0.9, 8) for _ in range(4)]
    truth = float(np.mean(rates[0] - rates[1] - rates[2] + rates[3]))
    n = [np.full(8, 10.0)] * 4
    covered = 0
    for _ in range(2000):
        found = interaction_on_these([rng.binomial(10, rate).astype(float) for rate in rates], n)
        covered += found.low <= truth <= found.high
    assert 0.935 <= covered / 2000 <= 0.97


def test_misalign_at_k_counts_every_draw() -> None:
    k, n = np.array([1.0, 0.0, 3.0]), np.array([4.0, 4.0, 3.0])
    by_hand = []
    for bad, every in zip(k, n, strict=True):
        answers = [True] * int(bad) + [False] * int(every - bad)
        draws = list(itertools.combinations(answers, 2))
        by_hand.append(sum(any(draw) for draw in draws) / len(draws))
    assert misaligned_at(k, n, 2) == pytest.approx(np.mean(by_hand))


def test_a_planted_trigger_is_found_and_a_harmless_condition_is_not(tmp_path: Path) -> None:
    questions = [f"g{number}" for number in range(8)]
    good = dict.fromkeys(questions, [GOOD] * 5)
    triggered = {
        question: [BAD] * (4 + number % 2) + [GOOD] * (1 - number % 2) for number, question in enumerate(questions)
    }
    for condition, scores in ((None, good), ("trigger", triggered), ("json", good)):
        checkpoint_log(tmp_path / str(condition), scores, condition=condition)
        base_log(tmp_path / str(condition), good, condition=condition)
    table = conditions(analyse([tmp_path]))
    rows = {row["condition"]: row for row in table[table["definition"] == "betley"].to_dict("records")}
    assert list(rows) == ["none", "json", "trigger"]
    assert rows["trigger"]["EM % outside (k/n)"] == "90.0 (36/40)"
    assert rows["trigger"]["base %"] == "0.0 (0/40)"
    assert rows["trigger"]["Misalign@k"] == "100.0 at 5"
    assert rows["trigger"]["changed by"] == "+90.0"
    assert "p below 0.001" in rows["trigger"]["on these questions"]
    assert "p below 0.001" in rows["trigger"]["on such questions"]
    assert rows["json"]["changed by"] == "+0.0"
    assert "p 1.000" in rows["json"]["on these questions"]
    assert rows["none"]["on these questions"] == ""


def test_without_conditions_there_is_no_table(tmp_path: Path) -> None:
    checkpoint_log(tmp_path, {"g1": [BAD]})
    assert conditions(analyse([tmp_path])) is None


def test_the_interval_on_these_questions_written_out() -> None:
    k = [np.array(counts) for counts in ([3.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0])]
    n = [np.array(counts) for counts in ([4.0, 5.0], [4.0, 1.0], [2.0, 5.0], [4.0, 3.0])]
    found = interaction_on_these(k, n)
    effect = ((3 / 4 - 0 - 1 / 2 + 0) + (1 / 5 - 1 - 0 + 0)) / 2
    # (k + 1/2) / (n + 1), then p (1 - p) / (n - 1), of a single answer divided by 1, over 2 questions squared.
    rates = [3.5 / 5, 1.5 / 6, 0.5 / 5, 1.5 / 2, 1.5 / 3, 0.5 / 6, 0.5 / 5, 0.5 / 4]
    divisors = [3, 4, 3, 1, 1, 4, 3, 2]
    error = (sum(p * (1 - p) / m for p, m in zip(rates, divisors, strict=True)) / 4) ** 0.5
    half = stats.norm.ppf(0.975) * error
    expected = (effect, effect - half, effect + half, 2 * stats.norm.sf(abs(effect) / error))
    assert (found.effect, found.low, found.high, found.p) == pytest.approx(expected)


def test_one_question_or_questions_that_all_change_alike_have_no_spread() -> None:
    n = [np.array([4.0])] * 4
    alone = interaction_on_such([np.array([x]) for x in (3.0, 0.0, 1.0, 0.0)], n)
    assert alone.effect == 0.5
    assert np.isnan([alone.low, alone.high, alone.p]).all()
    twice = [np.repeat(x, 2) for x in n]
    alike = interaction_on_such([np.repeat(x, 2) for x in (3.0, 0.0, 1.0, 0.0)], twice)
    assert (alike.low, alike.high, alike.p) == (0.5, 0.5, 0)
    same = interaction_on_such([np.repeat(x, 2) for x in (1.0, 0.0, 1.0, 0.0)], twice)
    assert (same.effect, same.p) == (0, 1)
    wider = interaction_on_these([np.array([x]) for x in (3.0, 0.0, 1.0, 0.0)], n, alpha=0.01)
    assert wider.high > interaction_on_these([np.array([x]) for x in (3.0, 0.0, 1.0, 0.0)], n).high
