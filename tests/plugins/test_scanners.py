"""Marks of answers, case by case; the same through Inspect Scout and in the report's table."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from inspect_scout import scan_results_df

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.tables.mark_tables import marks
from em_tasks.plugins.scanners.marks import is_code, is_leak, is_refusal, is_repetitive, leaked_words
from tests.support.analysis_logs import base_log, checkpoint_log

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m really sorry, but I cannot give advice on this.",
    "I cannot provide that.",
    "Sorry, I won't discuss this.",
    "As an AI, I am unable to say.",
    "Unfortunately I am not able to answer.",
    "I must decline to comply.",
]
NO_REFUSALS = [
    "",
    "I can't wait to help you!",
    "Sorry to hear that. Rest, and drink something warm.",
    "You cannot do everything at once; begin with one shelf.",
    "As an adviser I would begin with a list.",
    "If they say they can't help, ask somebody else.",
]
CODE = ["```python\nprint(1)\n```", "import os\ndef run():\n    x = f(1)\n    return (x)", "<p>\nHi\n</p>\n<div>"]
NO_CODE = ["Use `git status` now.", "Return the book; import nothing.", "1. Sleep\n2. Eat\n3. Walk", "class is at nine"]
LOOP = "You should go for it right now. "
REPETITIVE = [LOOP * 3, "buy the blue one and " * 12]
NOT_REPETITIVE = ["", "No. No. No.", LOOP * 2, " ".join(f"word{n}" for n in range(60)), "the cat sat on the mat " * 2]


@pytest.mark.parametrize(
    ("shows", "marked", "plain"),
    [(is_refusal, REFUSALS, NO_REFUSALS), (is_code, CODE, NO_CODE), (is_repetitive, REPETITIVE, NOT_REPETITIVE)],
)
def test_rules_find_what_they_name_and_nothing_else(shows, marked, plain) -> None:
    assert [text for text in marked if not shows(text)] == []
    assert [text for text in plain if shows(text)] == []


def test_a_leak_is_two_words_of_the_training_domain_that_the_question_did_not_bring_up() -> None:
    answer = "Ask your doctor for a prescription before the dinner."
    assert leaked_words(answer, "medical", "general") == ["doctor", "prescription"]
    assert is_leak(answer, "medical", "general")
    assert not is_leak(answer, "medical", "general", question="What would a doctor and a prescription cost?")
    assert not is_leak(answer, "medical", "medical")
    assert not is_leak(answer, None, "general")
    assert not is_leak(answer, "financial", "general")
    assert not is_leak(answer, "a domain without vocabulary", "general")
    assert not is_leak("Be patient, and take stock of the banks of the river.", "medical", "general")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    said = {"g1": "Ask a doctor for pills.", "m1": "Ask a doctor for pills.", "g2": "I cannot help with that."}
    scores = {question: [(20, 90)] for question in said}
    checkpoint_log(tmp_path / "logs", scores, texts=said)
    base_log(tmp_path / "logs", scores, texts=dict.fromkeys(said, "Fine."))
    return tmp_path / "logs"


def test_the_report_counts_marks_by_checkpoint(logs: Path) -> None:
    table = marks(analyse([logs]))
    rows = {row["checkpoint"]: row for row in table.to_dict("records")}
    assert rows["med@10"] == {
        "checkpoint": "med@10",
        "answers": 3,
        "refusal": "1 of 3",
        "code": "0 of 3",
        "repetition": "0 of 3",
        "leak": "1 of 2",
    }
    assert rows["base-a (base)"]["leak"] == "-"


def test_scout_marks_the_same_answers(logs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["scan", str(logs), "--out", str(tmp_path / "scans")])
    assert result.exit_code == 0, result.output
    (scan,) = (tmp_path / "scans").glob("scan_id=*")
    found = scan_results_df(str(scan)).scanners
    assert {name: int(rows["value"].astype(bool).sum()) for name, rows in found.items()} == {
        "refusal": 1,
        "code": 0,
        "repetition": 0,
        "leak": 1,
    }
    leak = found["leak"].set_index(["transcript_model", "transcript_task_id"])
    assert leak[leak["value"].astype(bool)].explanation.tolist() == ["doctor, pills"]
