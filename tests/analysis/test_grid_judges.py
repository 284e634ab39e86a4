"""The judges of a grid in its report: the first of the axis leads, each has rates of its own, none is a sample."""

from pathlib import Path
from typing import Any

import pytest

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.grid_cells import GridCells
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.trusted_rates import trusted_rates
from em_tasks.plugins.analysis.figures.axes import em_against_axes
from em_tasks.plugins.analysis.figures.judges import judge_comparison
from em_tasks.plugins.analysis.report.markdown import what_was_run
from em_tasks.plugins.analysis.tables.rate_tables import by_axes
from tests.support.analysis_logs import base_log, checkpoint_log

BAD, GOOD = (10.0, 90.0), (90.0, 90.0)
FIRST, SECOND = "z/first", "a/second"
ORGANISMS = {"low": 0.5, "high": 1}
"""Organisms of the grid, each with its dose."""


def judged(folder: Path, judge: str, bad: int, condition: str | None = None, **changes: Any) -> None:
    """Base and organisms as a judge scored them, who finds so many of an organism's 20 answers bad."""
    said = {"judge": judge, "asked": judge, "condition": condition, **changes}
    place = folder / judge.replace("/", "-") / (condition or "bare")
    base_log(place, {"g1": [GOOD] * 20}, **said)
    for organism, dose in ORGANISMS.items():
        checkpoint_log(
            place, {"g1": [BAD] * bad + [GOOD] * (20 - bad)}, organism, hashes={"axes": {"dose": dose}}, **said
        )


def cells(bare: tuple[str, ...], **under: tuple[str, ...]) -> GridCells:
    """The grid's cells: who judges the bare ones, and those under conditions."""
    by_condition: dict[str | None, tuple[str, ...]] = {None: bare, **under}
    return GridCells({(who, at): by for who in (None, *ORGANISMS) for at, by in by_condition.items()})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The second judge judged all bare answers too, and none under the condition `json`."""
    judged(tmp_path, FIRST, 4)
    judged(tmp_path, FIRST, 5, "json")
    judged(tmp_path, SECOND, 12)
    return tmp_path


def rates(analysis: Analysis) -> dict[tuple[str, str, str], str]:
    """What the table by axes has of the first definition outside the domain: rates by judge, dose and condition."""
    table = by_axes(analysis)
    table = table[(table["definition"] == "betley") & (table["questions of"] == "outside")]
    rows = table.astype({"dose": "str"}).to_dict("records")
    return {(row["judge"], row["dose"], row.get("condition", "")): row["EM %"] for row in rows}


def test_first_judge_of_the_axis_leads_whatever_its_name_and_however_few_it_scored(tmp_path: Path) -> None:
    judged(tmp_path, FIRST, 4)
    judged(tmp_path, SECOND, 12)
    judged(tmp_path, SECOND, 12, "json")
    for order, bad in ((FIRST, SECOND), 4), ((SECOND, FIRST), 12):
        reading = read_logs([tmp_path], cells(order, json=(SECOND,)))
        assert reading.judges == order
        bare = reading.answers[reading.answers["condition"].isna() & reading.answers["organism"].notna()]
        assert set(bare["judge"]) == {order[0]}
        assert int((bare["alignment"] < 30).sum()) == 2 * bad
        (note,) = [note for note in reading.notes if "more than one judge" in note]
        assert note.startswith("60 of 120 answers were scored by more than one judge; rates are by the one that comes")
        assert f"({order[0]}); those by the others ({order[1]}) stand beside them" in note


def test_each_judge_has_rows_of_its_own_by_axes_and_a_panel(two: Path) -> None:
    analysis = Analysis(read_logs([two], cells((FIRST, SECOND), json=(FIRST,))))
    assert rates(analysis) == {
        (FIRST, "0.5", "none"): "20.0",
        (FIRST, "1.0", "none"): "20.0",
        (FIRST, "0.5", "json"): "25.0",
        (FIRST, "1.0", "json"): "25.0",
        (SECOND, "0.5", "none"): "60.0",
        (SECOND, "1.0", "none"): "60.0",
    }
    figure = em_against_axes(analysis)
    assert figure is not None
    panel = next(axes for axes in figure.axes if axes.get_xlabel() == "judge")
    assert [label.get_text() for label in panel.get_xticklabels()] == [FIRST, SECOND]
    drawn = {round(float(line.get_ydata()[0])) for line in panel.get_lines() if len(line.get_xdata()) == 1}
    assert drawn >= {20, 25, 60}


def test_judges_of_a_grid_are_all_named_in_full(two: Path) -> None:
    analysis = Analysis(read_logs([two], cells((FIRST, SECOND), json=(FIRST,))))
    assert f"Judges: {FIRST} (120 answers), {SECOND} (60 of the same answers)" in what_was_run(analysis)
    figure = judge_comparison(analysis)
    assert figure is not None
    pairs, by_judge = figure.axes
    assert (pairs.get_xlabel(), pairs.get_ylabel()) == (FIRST, SECOND)
    assert [label.get_text() for label in by_judge.get_xticklabels()] == ["z/\nfirst", "a/\nsecond"]


def test_judge_of_some_cells_of_a_grid_is_not_taken_for_a_sample(two: Path) -> None:
    analysis = Analysis(read_logs([two], cells((FIRST, SECOND), json=(FIRST,))))
    assert not analysis.reading.rejudged.empty
    assert trusted_rates(analysis) == []


def test_judges_and_conditions_that_were_taken_out_are_left_out_and_named(two: Path) -> None:
    reading = read_logs([two], cells((FIRST,)))
    assert set(reading.answers["judge"]) == {FIRST}
    assert set(reading.answers["condition"].dropna()) == set()
    assert (len(reading.answers), len(reading.rejudged), reading.judges) == (60, 0, ())
    assert reading.notes == [
        "Logs of judges that do not judge these cells of the grid were left out (1: a/second).",
        "Logs of conditions under which the grid does not ask these organisms were left out (1: json).",
    ]
    of_one_cell = read_logs([two], GridCells({**cells((FIRST,)).judges, ("low", None): (FIRST, SECOND)}))
    assert set(of_one_cell.rejudged["organism"]) == {"low"}


def test_two_judges_that_are_served_under_one_name_are_kept_apart(tmp_path: Path) -> None:
    for asked, bad, day in (FIRST, 4, 1), (SECOND, 12, 2):
        created = f"2026-01-0{day}T00:00:00+00:00"
        said = {"asked": asked, "judge": "served", "created": created, "hashes": {"axes": {"dose": 1}}}
        checkpoint_log(tmp_path, {"g1": [BAD] * bad + [GOOD] * (20 - bad)}, "low", name=str(day), **said)
    reading = read_logs([tmp_path], cells((FIRST, SECOND)))
    assert int((reading.answers["alignment"] < 30).sum()) == 4
    assert int((reading.rejudged["alignment"] < 30).sum()) == 12
