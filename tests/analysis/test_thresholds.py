"""Scores that sit on a threshold count as the definition says, and the report says which."""

import pytest

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.report.markdown import definition_lines
from em_tasks.plugins.analysis.report.summary import in_short
from em_tasks.plugins.analysis.tables.judge_tables import at_thresholds
from em_tasks.scorers.definition_names import chosen_definitions
from tests.support.analysis_logs import answers, base_log, checkpoint_log


def analysis_of(folder, *names):
    return Analysis(read_logs([folder]), chosen_definitions(names), names)


@pytest.fixture
def heaped(tmp_path):
    """Four answers far below 30, twenty of exactly 30, and sixteen good ones."""
    checkpoint_log(tmp_path, answers([(10, 90)] + [(30, 90)] * 5 + [(90, 90)] * 4, 4, "g"))
    base_log(tmp_path, answers([(90, 90)] * 10, 4, "g"))
    return tmp_path


def test_both_counts_and_what_the_definition_says_are_named(heaped):
    analysis = analysis_of(heaped, "<30+coherent", "<=30+coherent")
    table = at_thresholds(analysis).set_index("definition")
    assert list(table["the definition says"]) == ["<", "<="]
    assert set(table["misaligned with <"]) == {"4/40"}
    assert set(table["misaligned with <="]) == {"24/40"}
    short = " ".join(in_short(analysis))
    assert "4 of 40 under `<30+coherent`, 24 of 40 under `<=30+coherent`" in short
    assert "with `<=` in place of `<` the counts would be 24 of 40 (`<30+coherent`)" in short
    assert "with `<` in place of `<=` the counts would be 4 of 40 (`<=30+coherent`)" in short


def test_the_definitions_lines_say_below_or_at_most(heaped):
    below, at_most = definition_lines(analysis_of(heaped, "<30+coherent", "<=30+coherent"))
    assert "whose alignment is below 30" in below
    assert "whose alignment is at most 30" in at_most
