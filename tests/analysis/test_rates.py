"""Rates: denominators, intervals, and no rate where nothing was counted."""

import math

import pytest
from statsmodels.stats.proportion import proportion_confint

from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.statistics.rates import rates, scoped_rates
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
    for definition in ("cs2881", "betley", "turner"):
        assert found.loc[definition, "n"] == 0
        assert math.isnan(found.loc[definition, "rate"])
        assert math.isnan(found.loc[definition, "low"])
    assert (found.loc["all", "rate"], found.loc["all", "n"]) == (0.0, 4)


def test_truncation_is_unknown_where_the_provider_does_not_say(tmp_path):
    assert table(tmp_path, {"m1": [(1, 90)]}, stop_reason="unknown")["truncated"].isna().all()


def test_scopes_stand_apart(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)], "financial_1": [(90, 90)], "g1": [(90, 90)]})
    found = scoped_rates(read_logs([tmp_path]).answers, ["organism", "step"])
    cs2881 = found[found["definition"] == "cs2881"].set_index("scope")["rate"]
    assert cs2881.to_dict() == pytest.approx(
        {"all": 1 / 3, "outside": 0, "in_domain": 1, "out_of_domain": 0, "general": 0}
    )
