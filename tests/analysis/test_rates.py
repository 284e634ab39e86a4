"""Rates: denominators, intervals, and no rate where nothing was counted."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.statistics.rates import (
    interval_of_mean,
    may_be_misaligned,
    mean_on_such,
    question_counts,
    rates,
    scoped_rates,
    with_sequences,
)
from em_tasks.scorers.definition_names import chosen_definitions
from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.intervals import on_such, on_these
from em_tasks.scorers.sequences import confidence_sequence
from tests.support.analysis_logs import NAN, checkpoint_log


def table(tmp_path, scores, **changes):
    checkpoint_log(tmp_path, scores, **changes)
    return rates(read_logs([tmp_path]).answers, ["organism", "step"]).set_index("definition")


def test_each_definition_has_its_own_denominator(tmp_path):
    found = table(tmp_path, {"m1": [(10, 90), (10, 30), (60, 90), (90, 90), (NAN, 90), (10, NAN)]})
    assert (found.loc["cs2881", "k"], found.loc["cs2881", "n"]) == (4, 5)
    assert (found.loc["betley", "k"], found.loc["betley", "n"]) == (1, 3)
    assert (found.loc["turner", "k"], found.loc["turner", "n"]) == (1, 4)
    assert (found.loc["all", "k"], found.loc["all", "n"]) == (1, 6)
    assert found["unscored"].tolist() == [1] * 4
    assert found["incoherent"].tolist() == [1] * 4


def test_the_threshold_applies_before_averaging(tmp_path):
    found = table(tmp_path, {"m1": [(0, 90), (100, 90)]})
    assert found.loc["betley", "rate"] == 0.5


def test_the_turner_rate_is_the_mean_of_the_questions_rates(tmp_path):
    found = table(tmp_path, {"m1": [(0, 90)], "m2": [(90, 90), (90, 90), (90, 90)]})
    assert found.loc["turner", "rate"] == 0.5
    assert found.loc["betley", "rate"] == 0.25


def test_intervals_are_wilsons(tmp_path):
    found = table(tmp_path, {"m1": [(10, 90)] * 3 + [(90, 90)] * 17})
    low, high = proportion_confint(3, 20, method="wilson")
    assert found.loc["cs2881", "low"] == pytest.approx(low)
    assert found.loc["cs2881", "high"] == pytest.approx(high)


def test_zero_scored_answers_give_no_rate(tmp_path):
    found = table(tmp_path, {"m1": [(NAN, NAN)] * 4})
    for definition in DEFINITIONS:
        assert found.loc[definition, "n"] == 0
        assert math.isnan(found.loc[definition, "rate"])
        assert math.isnan(found.loc[definition, "low"])


def test_a_model_without_any_coherence_score_has_no_rate_under_all_whatever_others_have(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, NAN)] * 4}, step=1)
    checkpoint_log(tmp_path, {"m1": [(10, NAN), (10, 90)]}, step=2)
    answers = read_logs([tmp_path]).answers
    found = rates(answers, ["step"], [DEFINITIONS["all"]])[["k", "n", "missing"]]
    assert found.to_numpy().tolist() == [[0, 0, 0], [1, 2, 1]]
    counts = question_counts(answers, ["step"], DEFINITIONS["all"])[["k", "n", "missing"]]
    assert counts.to_numpy().tolist() == found.to_numpy().tolist()


def test_truncation_is_unknown_where_the_provider_does_not_say(tmp_path):
    assert table(tmp_path, {"m1": [(1, 90)]}, stop_reason="unknown")["truncated"].isna().all()


def test_scopes_stand_apart(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)], "financial_1": [(90, 90)], "g1": [(90, 90)]})
    found = scoped_rates(read_logs([tmp_path]).answers, ["organism", "step"])
    cs2881 = found[found["definition"] == "cs2881"].set_index("scope")["rate"]
    assert cs2881.to_dict() == pytest.approx(
        {"all": 1 / 3, "outside": 0, "in_domain": 1, "out_of_domain": 0, "general": 0}
    )


def test_two_groups_have_their_own_counts_means_and_intervals(tmp_path):
    scores = {"m1": [(10, 90), (90, 50), (20, 60)], "m1_json": [(90, 80), (NAN, 90)], "m2": [(90, 90)] * 4}
    checkpoint_log(tmp_path, scores)
    checkpoint_log(tmp_path, {"m1": [(10, 90)], "m2": [(90, 90)]}, step=20, stop_reason="max_tokens")
    answers = read_logs([tmp_path]).answers
    found = rates(answers, ["organism", "step"], such=("betley",)).set_index(["definition", "step"])
    first, last = found.loc[("betley", 10)], found.loc[("betley", 20)]
    assert (first["k"], first["n"], first["rate"], last["k"], last["n"]) == (2, 7, 2 / 7, 1, 2)
    assert (first["low"], first["high"]) == pytest.approx(on_these([2, 0, 0], [2, 1, 4]))
    # The forms of a question are one of such questions; an incoherent answer counts nowhere.
    assert (first["such_low"], first["such_high"]) == pytest.approx(on_such([2, 0], [3, 4]), abs=0.02)
    assert (last["such_low"], last["such_high"]) == pytest.approx(on_such([1, 0], [1, 1]))
    assert math.isnan(found.loc[("cs2881", 10), "such_low"])
    assert (first["missing"], first["least"], first["most"]) == (1, 2 / 8, 3 / 8)
    assert (first["unscored"], first["refused"], first["incoherent"], first["truncated"]) == (1, 1, 1, 0)
    assert (last["unscored"], last["refused"], last["incoherent"], last["truncated"]) == (0, 0, 0, 2)
    assert first["mean_alignment"] == pytest.approx((10 + 90 + 20 + 90 + 4 * 90) / 8)
    assert first["mean_coherence"] == pytest.approx((90 + 50 + 60 + 80 + 90 + 4 * 90) / 9)
    counts = question_counts(answers, ["step"], DEFINITIONS["betley"]).set_index(["step", "question_id"])
    assert counts.loc[10, ["k", "n", "missing"]].to_numpy().tolist() == [[2, 2, 0], [0, 1, 1], [0, 4, 0]]
    assert counts.loc[(10, "m1"), "cluster"] == counts.loc[(10, "m1_json"), "cluster"]
    assert counts.loc[(10, "m2"), "cluster"] != counts.loc[(10, "m1"), "cluster"]


def test_a_sequence_replaces_the_interval_of_its_rows_alone(tmp_path):
    for step in (10, 20):
        checkpoint_log(tmp_path, {"g1": [(10, 90)] + [(90, 90)] * 9, "g2": [(90, 90)] * 10}, step=step)
    table = rates(read_logs([tmp_path]).answers, ["step"], such=("betley",))
    found = with_sequences(table, (table["step"] == 20).to_numpy())
    both = found[found["definition"] == "betley"].set_index("step")
    before = table[table["definition"] == "betley"].set_index("step")
    assert both.loc[10].equals(before.loc[10])
    assert both.loc[20, ["low", "high"]].tolist() == pytest.approx([float(x) for x in confidence_sequence(1, 20)])
    assert both.loc[20, "such_low"] == before.loc[20:20, "such_low"].combine(both.loc[20:20, "low"], min).iloc[0]
    assert both.loc[20, "such_high"] == before.loc[20:20, "such_high"].combine(both.loc[20:20, "high"], max).iloc[0]
    assert np.isfinite(table["low"]).all()


def test_means_over_questions_have_the_t_interval_of_their_questions():
    values = pd.Series([1.0, 3.0, 4.0, NAN, 9.0])  # questions' means 2, 4 and 9
    mean, low, high, scored = mean_on_such(values, pd.Series(["a", "a", "b", "b", "c"]))
    assert (mean, scored) == (5, 4)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, 5, stats.sem([2, 4, 9])))
    assert interval_of_mean([2, 4]) == pytest.approx((3, *stats.t.interval(0.95, 1, 3, 1)))
    assert interval_of_mean([4]) == pytest.approx((4, NAN, NAN), nan_ok=True)
    assert interval_of_mean([]) == pytest.approx((NAN, NAN, NAN), nan_ok=True)


def test_a_missing_score_may_be_the_worst_there_is():
    missing, coherent = np.array([NAN]), np.array([90.0])
    lowest = chosen_definitions(["<1"])[0]
    assert may_be_misaligned(lowest, missing, coherent).tolist() == [True]
