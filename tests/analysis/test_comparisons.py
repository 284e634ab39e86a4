"""Comparisons: exact p-values, false alarms as rare as promised, and enough answers when told how many."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, permutation_test
from statsmodels.stats.multitest import multipletests

from benchmarks.coverage import SIMULATIONS
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.report.findings import findings
from em_tasks.plugins.analysis.statistics.comparisons import (
    EXACT_QUESTIONS,
    PERMUTATIONS,
    comparisons,
    holm,
    sign_flip_p,
)
from em_tasks.plugins.analysis.statistics.power import needed
from tests.support.analysis_logs import answers, base_log, checkpoint_log

ALARMS = [one for one in SIMULATIONS if one.kind == "false alarms"]
BAD, GOOD = (10, 90), (90, 90)


def test_with_one_answer_a_question_the_test_is_mcnemars():
    difference = np.array([1.0] * 7 + [-1.0] + [0.0] * 12)
    assert sign_flip_p(difference) == pytest.approx(binomtest(1, 8).pvalue)


@pytest.mark.parametrize("questions", [2, 7, 12, EXACT_QUESTIONS, EXACT_QUESTIONS + 1, 40])
def test_p_values_are_those_of_scipys_permutation_test(questions):
    difference = np.random.default_rng(questions).integers(-4, 6, questions) / 5
    exact = questions < 13
    theirs = permutation_test(
        (difference,),
        lambda values, axis: np.round(np.mean(values, axis=axis), 12),
        permutation_type="samples",
        n_resamples=np.inf if exact else 20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    assert sign_flip_p(difference) == pytest.approx(theirs.pvalue, abs=1e-12 if exact else 0.02)


@pytest.mark.parametrize("questions", [20, EXACT_QUESTIONS])
def test_as_many_questions_as_are_usual_are_tested_exactly(questions):
    difference = np.array([1.0] * (questions - 4) + [-1.0] * 4)
    assert sign_flip_p(difference) == pytest.approx(binomtest(4, questions).pvalue, rel=1e-12)


def test_beyond_them_p_is_never_0():
    assert sign_flip_p(np.ones(EXACT_QUESTIONS + 1)) == 1 / (PERMUTATIONS + 1)


def test_no_difference_has_p_1():
    assert sign_flip_p(np.zeros(20)) == 1


@pytest.mark.parametrize("simulation", ALARMS, ids=[one.what for one in ALARMS])
def test_false_alarms_are_at_most_six_percent(simulation):
    assert simulation.run(500, 7) <= 0.06


def test_p_values_are_corrected_by_holm():
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    p = np.round(np.random.default_rng(4).beta(0.2, 2, 300), 3)  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_the_answers_told_to_be_needed_settle_the_difference():
    rng = np.random.default_rng(3)
    rates_a, rates_b = rng.uniform(0.3, 0.7, 20), rng.uniform(0.2, 0.5, 20)
    n = np.full(20, 100.0)
    samples, _ = needed(rates_a * n, n, rates_b * n, n)
    effect = float(np.mean(rates_a - rates_b))
    draws = 2000
    k_a = rng.binomial(int(samples), np.tile(rates_a, (draws, 1)))
    k_b = rng.binomial(int(samples), np.tile(rates_b, (draws, 1)))
    means = ((k_a - k_b) / samples).mean(axis=1)
    error = np.sqrt(np.mean(rates_a * (1 - rates_a) + rates_b * (1 - rates_b)) / samples / 20)
    assert effect > 0
    assert 0.75 <= np.mean(means / error > 1.96) <= 0.95


@pytest.fixture
def risen_and_fallen(tmp_path):
    """Twenty questions: none misaligned at the base, all at step 20, none again at step 30."""
    for step, answer in ((10, GOOD), (20, BAD), (30, GOOD)):
        checkpoint_log(tmp_path, answers([answer] * 2, 20), step=step)
    base_log(tmp_path, answers([GOOD] * 2, 20))
    return analyse([tmp_path])


def test_every_checkpoint_is_compared_with_its_base_on_the_same_questions(risen_and_fallen):
    table = comparisons(risen_and_fallen)
    cs2881 = table[(table["definition"] == "cs2881") & (table["kind"] == "base")].set_index("a_step")
    assert cs2881["effect"].to_dict() == {10: 0, 20: 1, 30: 0}
    assert cs2881.loc[20, "p_corrected"] < 0.001
    assert cs2881.loc[10, "p_corrected"] == 1


def test_a_real_rise_and_fall_is_found_non_monotonic(risen_and_fallen):
    found = findings(risen_and_fallen, comparisons(risen_and_fallen))
    course = [one for one in found if one.question == "non_monotonic" and one.about == "med"]
    assert {one.verdict for one in course} == {"shown"}
    peak = next(one for one in found if one.question == "peak")
    assert peak.verdict == "shown"
    assert "step 20" in peak.sentence


def test_chance_fluctuation_is_not_called_non_monotonic(tmp_path):
    rng = np.random.default_rng(1)
    for step in (10, 20, 30, 40, 50, 60):
        checkpoint_log(tmp_path, {f"m{q}": [BAD if rng.random() < 0.4 else GOOD] for q in range(20)}, step=step)
    base_log(tmp_path, answers([GOOD], 20))
    analysis = analyse([tmp_path])
    found = findings(analysis, comparisons(analysis))
    assert {one.verdict for one in found if one.question == "non_monotonic"} == {"not shown"}


def test_organisms_without_a_base_are_said_to_be_untested(tmp_path):
    checkpoint_log(tmp_path, answers([BAD], 5))
    analysis = analyse([tmp_path])
    found = findings(analysis, comparisons(analysis))
    assert {one.verdict for one in found if one.question == "emerged"} == {"unknown"}


def test_coherence_that_moves_with_alignment_is_found(tmp_path):
    rng = np.random.default_rng(1)
    moving = {f"m{q}": [(x, min(100.0, x + rng.uniform(0, 20))) for x in rng.uniform(0, 80, 10)] for q in range(10)}
    checkpoint_log(tmp_path, moving)
    analysis = analyse([tmp_path])
    found = [one for one in findings(analysis, comparisons(analysis)) if one.question == "coherence"]
    assert [one.verdict for one in found] == ["shown"]
    assert "rises with" in found[0].sentence


def test_the_table_has_one_row_a_comparison(risen_and_fallen):
    table = comparisons(risen_and_fallen)
    keys = ["kind", "definition", "a", "a_step", "b", "b_step"]
    assert not table.duplicated(keys).any()
    assert (table["p_corrected"] >= table["p"] - 1e-12).all()
    assert isinstance(table, pd.DataFrame)
