"""Rubrics beside alignment and coherence: a column of the frame, a table with intervals, a figure on its scale."""

from pathlib import Path

import pandas as pd
import pytest

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.figures.trajectory import further_trajectories
from em_tasks.plugins.analysis.report.notes import oddities
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.tables.rate_tables import further_scores
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log

KIND = {"name": "kind", "prompt": "{question} {answer}", "scale": [1, 5]}
ROWS = answers([(20.0, 90.0), (80.0, 90.0)], 3)


def logs(folder: Path, **changes: object) -> Path:
    trained = {"m0": [1.0, 2.0], "m1": [2.0, 2.0], "m2": [3.0, NAN]}
    before = {"m0": [4.5, 4.5], "m1": [5.0, 5.0], "m2": [5.0, 5.0]}
    checkpoint_log(folder, ROWS, further={"kind": trained}, **{"rubrics": [KIND], **changes})
    base_log(folder, ROWS, further={"kind": before}, rubrics=[KIND])
    return folder


def test_the_frame_has_a_column_for_each_further_score_and_logs_without_it_have_none(tmp_path: Path) -> None:
    checkpoint_log(logs(tmp_path), ROWS, organism="other")
    frame = analyse([tmp_path]).answers.set_index(["organism", "question_id", "sample"]).sort_index()
    assert frame["score_kind"].dtype == "float64"
    assert frame.loc[("med", "m2"), "score_kind"].tolist() == [3.0, pytest.approx(NAN, nan_ok=True)]
    assert frame.loc["other", "score_kind"].isna().all()


def test_the_table_has_means_on_the_rubrics_own_scale_and_the_change_from_the_base(tmp_path: Path) -> None:
    base, trained = further_scores(analyse([logs(tmp_path)])).to_dict("records")
    # Means of questions 1.5, 2, 3: mean 2.1667, standard deviation 0.7638, t(2) = 4.3027: 2.1667 -+ 1.8973.
    assert trained == {
        "score": "kind",
        "scale": "1 to 5",
        "organism": "med",
        "kind": "medical",
        "step": "10",
        "mean": "2.17",
        "95 % interval": "1.00 to 4.06",  # cut at the end of the scale
        "change from base": "-2.67",  # of -3, -3 and -2
        "95 % interval of the change": "-4.10 to -1.23",
        "scored": "5 of 6",
    }
    assert (base["kind"], base["mean"], base["change from base"]) == ("base", "4.83", "")


def test_the_figure_is_drawn_on_the_rubrics_own_scale(tmp_path: Path) -> None:
    (panel,) = further_trajectories(analyse([logs(tmp_path)])).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["1", "2", "3", "4", "5"]
    (line,) = (container.lines[0] for container in panel.containers)
    assert line.get_ydata() == pytest.approx([100 * (4.8333 - 1) / 4, 100 * (2.1667 - 1) / 4], abs=0.01)


def test_another_scale_under_one_name_is_said_and_not_averaged(tmp_path: Path) -> None:
    analysis = analyse([logs(tmp_path, rubrics=[{**KIND, "scale": [0, 10]}])])
    assert further_scores(analysis) is None
    assert any("The rubric kind stands for different prompts or scales" in note for note in oddities(analysis))


def test_logs_of_a_rubric_asked_alone_make_a_report_whose_judge_is_known(tmp_path: Path, coarse_drawing: None) -> None:
    unscored = answers([(NAN, NAN)], 2)
    for folder in ("trained", "base"):
        write = checkpoint_log if folder == "trained" else base_log
        write(tmp_path / folder, unscored, further={"kind": {"m0": [2.0], "m1": [3.0]}}, rubrics=[KIND], bare=True)
    report = write_report([tmp_path], tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "tables" / "further_scores.csv")
    assert table["mean"].tolist() == [2.5, 2.5]
    assert (tmp_path / "report" / "figures" / "further_trajectories.png").is_file()
    assert report.rates["rate"].isna().all()
