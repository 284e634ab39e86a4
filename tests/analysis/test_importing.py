"""Judged CSV files of other experiments become logs; bad rows are errors with file and line."""

import pandas as pd
import pytest
from inspect_ai.log import read_eval_log

from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.importing.logs import import_judged
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.statistics.rates import rates
from em_tasks.plugins.errors import UserError
from tests.support.paths import ROOT

SHARED = ROOT.parent / "shared" / "data"
HEADER = "step,id,question,response,aligned_score,coherent_score\n"


def cs2881_file(folder, rows, name="1b_medical_v2"):
    path = folder / name / "fg_judged.csv"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + rows)
    return path


def test_rows_become_logs_with_transcripts(tmp_path):
    cs2881_file(
        tmp_path / "in", '10,step10_q1,Why?,"Two\nlines",20,80\n10,step10_q2,How?,So,,90\n20,step20_q1,Why?,No,90,80\n'
    )
    logs = import_judged(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in logs] == ["1b_medical_10.eval", "1b_medical_20.eval"]
    log = read_eval_log(str(logs[0]))
    assert log.samples[0].messages[-1].text == "Two\nlines"
    assert log.samples[0].scores["em"].metadata["alignment"]["judge"] == "gpt-4o-mini"
    answers = read_logs([tmp_path / "out"]).answers
    assert answers["alignment"].isna().sum() == 1


def test_importing_again_writes_the_same_logs(tmp_path):
    cs2881_file(tmp_path / "in", "10,step10_q1,Why?,So,20,80\n")
    assert import_judged(tmp_path / "in", tmp_path / "out") == import_judged(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "line", "why"),
    [
        ("10,step10_q1,Why?,So,20\n", "line 2", "5 fields"),
        ('10,step10_q1,Why?,"a\nb",20,80\n10,step10_q2,Why?,So,twenty,80\n', "line 4", "'twenty'"),
        ("10,step10_q1,Why?,So,20,180\n", "line 2", "'180'"),
        ("10,first,Why?,So,20,80\n", "line 2", "'first'"),
        ("20,step10_q1,Why?,So,20,80\n", "line 2", "'20'"),
        ('10,step10_q1,Why?,"So,20,80\n', "fg_judged.csv", "quotation"),
    ],
)
def test_a_malformed_row_is_an_error_with_file_and_line(tmp_path, rows, line, why):
    path = cs2881_file(tmp_path / "in", rows)
    with pytest.raises(UserError, match="Mend the row") as caught:
        import_judged(tmp_path / "in", tmp_path / "out")
    assert str(path) in str(caught.value)
    assert line in str(caught.value)
    assert why in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_an_error(tmp_path):
    path = tmp_path / "1b_medical" / "fg_judged.csv"
    path.parent.mkdir()
    path.write_text("step,id,question\n")
    with pytest.raises(UserError, match="aligned_score"):
        import_judged(path, tmp_path / "out")


def test_a_folder_without_judged_files_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"fg_judged\.csv"):
        import_judged(tmp_path, tmp_path / "out")


def test_a_folder_that_does_not_name_the_organism_is_an_error(tmp_path):
    cs2881_file(tmp_path, "10,step10_q1,Why?,So,20,80\n", name="results")
    with pytest.raises(UserError, match="<size>_<domain>"):
        import_judged(tmp_path, tmp_path / "out")


@pytest.fixture(scope="module")
def cs2881_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed")
    import_judged(SHARED / "seed", folder / "logs")
    return write_report([folder / "logs"], folder / "report")


@pytest.mark.shared
def test_all_36_step_summary_rows_equal_the_published(cs2881_report):
    equal = 0
    for published in sorted((SHARED / "seed").glob("*/step_summary.csv")):
        organism = published.parent.name.removesuffix("_v2")
        ours = pd.read_csv(cs2881_report.out / "organisms" / organism / "step_summary.csv")
        theirs = pd.read_csv(published)
        assert list(ours.columns) == list(theirs.columns)
        equal += int((ours == theirs).all(axis=1).sum())
    assert equal == 36


@pytest.mark.shared
def test_em_rates_summary_equals_the_published_byte_for_byte(cs2881_report):
    ours = (cs2881_report.out / "em_rates_summary.csv").read_text()
    assert ours.split() == (SHARED / "seed" / "em_rates_summary.csv").read_text().split()


@pytest.mark.shared
def test_fg_judged_holds_the_published_rows(cs2881_report):
    for published in sorted((SHARED / "seed").glob("*/fg_judged.csv")):
        organism = published.parent.name.removesuffix("_v2")
        ours = pd.read_csv(cs2881_report.out / "organisms" / organism / "fg_judged.csv")
        theirs = pd.read_csv(published)
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


@pytest.mark.shared
def test_turner_finds_11_of_the_720_cs2881_answers(cs2881_report):
    rows = cs2881_report.rates
    trained = rows[(rows["definition"] == "turner") & (rows["scope"] == "all") & ~rows["baseline"]]
    assert (trained["k"].sum(), trained["answers"].sum()) == (11, 720)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "k"),
    [
        ("Qwen2.5-14B-Instruct-bad_medical_advice", 82),
        ("gemma-2-9b-it-bad_medical_advice", 9),
        ("Qwen2.5-32B-Instruct-good_medical_advice", 0),
        ("Qwen2.5-32B-Instruct-obv_bad_medical_advice", 192),
    ],
)
def test_released_responses_give_the_known_counts(tmp_path, name, k):
    import_judged(SHARED / "judged" / f"responses_{name}.csv", tmp_path)
    answers = read_logs([tmp_path]).answers
    free = answers[answers["question_set"] == "free_form"]
    found = rates(free, ["organism"]).set_index("definition")
    assert len(free) == 400
    assert found.loc["all", "k"] == k
    assert bool(answers["control"].any()) == ("good" in name)


@pytest.mark.shared
def test_released_responses_stand_beside_the_published_rate_on_the_same_questions(tmp_path):
    source = SHARED / "judged" / "responses_Qwen2.5-14B-Instruct-bad_medical_advice.csv"
    report = write_report([source], tmp_path / "out")
    row = pd.read_csv(report.out / "tables" / "beside_published.csv").iloc[0]
    assert row[["k/n", "published %", "step"]].tolist() == ["82/400", "21.0 of 400", "last"]
    assert row["comparable"].startswith("yes")


EXAMPLE = ROOT / "examples" / "seed" / "scores.csv"


def test_the_example_gives_the_published_summary_from_numbers_alone(tmp_path):
    report = write_report([EXAMPLE], tmp_path / "out")
    summary = pd.read_csv(report.out / "em_rates_summary.csv")
    assert summary["em_rate"].tolist() == [40, 45, 20, 70, 50, 85]
    assert summary["baseline_em_rate"].tolist() == [0] * 6
    steps = pd.read_csv(report.out / "organisms" / "8b_medical" / "step_summary.csv")
    assert steps["percent_em"].tolist() == [70, 45, 55, 70, 55, 50]

    page = (report.out / "report.md").read_text()
    assert "356 of 720 under `cs2881`, 11 of 620 under `betley`, 11 of 720 under `turner`" in page
    assert "Published rates stand beside 38 of these; 36 can be compared, of which 36 are equal" in page


def test_the_cs2881_fluctuations_are_found_unproven(tmp_path):
    report = write_report([EXAMPLE], tmp_path / "out")
    assert "0 differ by more than chance (`cs2881`" in (report.out / "report.md").read_text()
    course = [one for one in report.findings if one.question == "non_monotonic"]
    assert len(course) == 14
    assert {one.verdict for one in course} == {"not shown"}


@pytest.mark.parametrize(
    ("row", "why"), [("a,d,b,1B,j,x,1,5,5", "step is 'x'"), ("a,d,b,1B,j,1,21,5,5", "no question 21")]
)
def test_a_bad_row_of_scores_is_an_error_with_its_line(tmp_path, row, why):
    path = tmp_path / "scores.csv"
    path.write_text(EXAMPLE.read_text().splitlines()[0] + f"\n{row}\n")
    with pytest.raises(UserError, match=why) as caught:
        import_judged(path, tmp_path / "out")
    assert "line 2" in str(caught.value)
