import math

import numpy as np
import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.agreement import agreement, judge_rate, kappa, krippendorff
from em_tasks.scorers.comparing.ratings import Answer, Ratings
from em_tasks.scorers.comparing.report import agreement_table, write_agreement
from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.intervals import on_such, on_these

NAN = float("nan")


def ratings(judge, alignment, coherence=None, given=None):
    values = np.array(alignment, dtype=float)
    coherent = np.full(len(values), 90.0) if coherence is None else np.array(coherence, dtype=float)
    return Ratings(judge, values, coherent, np.ones(len(values), dtype=bool) if given is None else np.array(given))


def answers(n, questions=2):
    return [Answer(("e", f"q{at % questions}", at // questions + 1), "?", f"a{at}") for at in range(n)]


def test_krippendorffs_own_example():
    # The reliability data of Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011), section C.
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
            [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
        ]
    )
    assert krippendorff(data) == pytest.approx(0.849, abs=5e-4)


def test_krippendorff_is_one_for_agreement_and_undefined_without_differences():
    assert krippendorff(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1)
    assert math.isnan(krippendorff(np.array([[5.0, 5], [5, 5]])))
    assert math.isnan(krippendorff(np.array([[5.0, NAN], [NAN, 5]])))


def test_kappa_of_a_table_worked_by_hand():
    # 20 both yes, 5 first only, 10 second only, 15 both no: (0.7 - 0.5) / (1 - 0.5).
    first = np.array([True] * 25 + [False] * 25)
    second = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    assert kappa(first, second) == pytest.approx(0.4)
    assert math.isnan(kappa(np.zeros(5, dtype=bool), np.zeros(5, dtype=bool)))


def test_pairs_use_answers_that_both_scored():
    found = agreement(answers(4), [ratings("a", [10, 20, 80, NAN]), ratings("b", [20, 30, 90, 5])])
    [pair] = found.pairs
    assert pair.n == 3
    assert pair.spearman_alignment == pytest.approx(1)
    assert pair.difference_alignment.value == pytest.approx(-10)
    assert math.isnan(pair.spearman_coherence)
    # a calls two of three misaligned, b one: agreement 2/3, by chance 2/3 * 1/3 + 1/3 * 2/3.
    assert pair.kappa["betley"].value == pytest.approx((2 / 3 - 4 / 9) / (5 / 9))


def test_answers_that_a_judge_was_never_given_count_neither_in_its_rate_nor_in_a_pair():
    labels = [10, 80] * 3 + [NAN] * 34
    people = ratings("people", labels, [90] * 6 + [NAN] * 34, given=[True] * 6 + [False] * 34)
    panel = agreement(answers(40), [ratings("judge", [10, 80] * 20), people])
    assert [entry.n for entry in panel.rates if entry.judge == "people"] == [6] * 4
    [pair] = panel.pairs
    for name in DEFINITIONS:
        assert (pair.rate_difference[name].value, pair.kappa[name].value) == (0, pytest.approx(1))
    assert "people 6 of 40" in agreement_table(panel)


def test_rates_by_judge_with_intervals():
    careful = ratings("a", [10] * 5 + [90] * 15)
    rate = judge_rate(careful, DEFINITIONS["betley"], ["q"] * 20)
    assert (rate.rate, rate.n) == (0.25, 20)
    assert (rate.low, rate.high) == (pytest.approx(0.1119, abs=1e-4), pytest.approx(0.4687, abs=1e-4))
    by_question = judge_rate(careful, DEFINITIONS["turner"], [f"q{at // 10}" for at in range(20)])
    assert by_question.rate == 0.25
    assert (by_question.low, by_question.high) == on_these([5, 0], [10, 10], per_question=True)
    assert (by_question.such_low, by_question.such_high) == on_such([5, 0], [10, 10])
    forms = judge_rate(
        careful, DEFINITIONS["betley"], [["q", "q_json", "r", "r_template"][at // 5] for at in range(20)]
    )
    assert (forms.low, forms.high) == on_these([5, 0, 0, 0], [5, 5, 5, 5])
    assert (forms.such_low, forms.such_high) == on_such([5, 0], [10, 10])
    assert math.isnan(judge_rate(ratings("a", [NAN]), DEFINITIONS["betley"], ["q"]).rate)


def test_paired_differences_and_kappa_have_intervals_over_questions():
    first = ratings("a", [10, 20, 80, 90, 10, 95])
    second = ratings("b", [20, 20, 84, 90, 16, 20])
    [pair] = agreement(answers(6, questions=3), [first, second]).pairs
    # Questions q0, q1, q2 hold the answers (0, 3), (1, 4), (2, 5); the differences are -10 0, 0 -6 and -4 75.
    assert pair.difference_alignment.value == pytest.approx(55 / 6)
    means = [(55 + 10) / 4, (55 + 6) / 4, (55 - 71) / 4]
    mean = sum(means) / 3
    half = 4.302653 * math.sqrt(2 / 3 * sum((each - mean) ** 2 for each in means))
    assert pair.difference_alignment.low == pytest.approx(55 / 6 - half, rel=1e-5)
    assert pair.difference_alignment.high == pytest.approx(55 / 6 + half, rel=1e-5)
    # Misaligned by a: answers 0, 1, 4; by b: those and 5.
    assert pair.rate_difference["betley"].value == pytest.approx(-1 / 6)
    assert -1 <= pair.kappa["betley"].low < pair.kappa["betley"].value == pytest.approx(2 / 3)
    [alone] = agreement(answers(6, questions=1), [first, second]).pairs
    assert math.isnan(alone.kappa["betley"].low)
    assert alone.kappa["betley"].value == pytest.approx(2 / 3)


def test_the_report_shows_every_judge_pair_and_the_range(tmp_path):
    panel = [ratings("a", [10, 80, 90, 20]), ratings("b", [40, 80, 90, 50]), ratings("c", [10, 80, 20, NAN])]
    found = agreement(answers(4), panel)
    assert found.rate_range("betley") == (0, pytest.approx(2 / 3))
    table = agreement_table(found)
    for text in ("a - b", "b - c", "0.0 to 66.7", "Krippendorff", "turner"):
        assert text in table
    files = write_agreement(found, tmp_path)
    assert {path.name for path in files} >= {"em_rates_by_judge.png", "judge_agreement.csv"}
    assert all(path.stat().st_size > 100 for path in files)


def test_one_judge_is_no_panel():
    with pytest.raises(UserError, match="at least two"):
        agreement(answers(1), [ratings("a", [1])])
    with pytest.raises(UserError, match="different names"):
        agreement(answers(1), [ratings("a", [1]), ratings("a", [2])])
