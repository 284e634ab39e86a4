"""A study file holds the report to what was named beforehand."""

import hashlib

import pytest
from click.testing import CliRunner

from em_tasks.commands.asking.plan import plan
from em_tasks.plugins.analysis.report import report as writing
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.study import read_study, study_text
from em_tasks.plugins.errors import UserError
from tests.support.analysis_logs import answers, base_log, checkpoint_log

STUDY = study_text("betley", 10, 1, "one organism")


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    checkpoint_log(folder, answers([(10, 90)] * 3, 6, "g"))
    base_log(folder, answers([(90, 90)] * 3, 6, "g"))
    return folder


@pytest.fixture
def study(tmp_path):
    def write(text=STUDY):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def test_the_hash_and_what_was_named_stand_at_the_head_of_the_report(logs, study, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "build_figures", lambda analysis, notes: {})
    path = study()
    report = write_report([logs], tmp_path / "out", study=path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.main == ("betley", "cs2881")
    head, _, _ = (report.out / "report.md").read_text().partition("In short")
    assert f"Pre-registered in study.yaml, sha256 {sha256}" in head
    assert "smallest effect 10 points" in head
    assert sha256 in (report.out / "report.html").read_text()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"definitions": ("cs2881",)}, "names the definition betley"),
        ({"smallest_effect": 0.05}, "names a smallest effect of 10 points"),
    ],
)
def test_what_the_report_is_asked_to_do_otherwise_is_refused(logs, study, tmp_path, asked, why):
    with pytest.raises(UserError, match=why):
        write_report([logs], tmp_path / "out", study=study(), **asked)


def test_a_family_of_another_size_is_refused(logs, study, tmp_path):
    checkpoint_log(logs, answers([(10, 90)] * 3, 6, "g"), organism="med-2", training_seed=None)
    with pytest.raises(UserError, match=r"primary family of 1 organisms .* these logs have 2"):
        write_report([logs], tmp_path / "out", study=study())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (STUDY + "smallest: 5\n", r"line 6: smallest is no key of a study file"),
        (STUDY.replace("organisms: 1", "organism: 1"), r"line 5: primary_family.organism"),
        (STUDY.replace("smallest_effect: 10", "smallest_effect: ten"), r"line 4: smallest_effect is wrong"),
        (STUDY.replace('definition: "betley"\n', ""), r"definition is missing"),
        (STUDY.replace("alignment < 30", "alignment < 40"), r"line 3: the thresholds are .*alignment < 40"),
        ("", r"line 1: the file is wrong"),
    ],
)
def test_what_is_wrong_in_a_study_file_is_said_with_its_line(study, text, why):
    with pytest.raises(UserError, match=why):
        read_study(study(text))


def test_own_thresholds_are_named_with_their_sign(study):
    found = read_study(study(study_text("<=30+coherent", 20, 6, "six organisms")))
    assert found.named.thresholds == "alignment <= 30, coherence > 50"


def test_em_plan_prints_a_study_file_of_its_design(study):
    options = ["--effect", "20", "--questions", "8", "--samples", "5", "--organisms", "3", "--runs", "50"]
    printed = CliRunner().invoke(plan, options).output
    text = printed[printed.index("# designs") :]
    found = read_study(study(text))
    assert (found.named.smallest_effect, found.named.primary_family.organisms) == (20, 3)
    assert "8 questions outside the domain, 5 answers to each" in text
