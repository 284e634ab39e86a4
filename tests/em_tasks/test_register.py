"""What the register of inspect_evals asks of an outside repository."""

import json
import subprocess
import sys

import yaml

from em_tasks.questions import load_question_sets
from em_tasks.registry import em
from tests.support.paths import ROOT


def test_the_registers_lint_finds_no_fault() -> None:
    command = [sys.executable, "-m", "inspect_evals_lint", "--task", "em_tasks/em.py", "--output-format", "json"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    reports = json.loads(checked.stdout)
    assert checked.returncode == 0, reports
    assert '"status": "pass"' in json.dumps(reports)


def test_the_entry_names_the_task_and_how_much_it_asks() -> None:
    entry = yaml.safe_load((ROOT / "em_tasks" / "eval.yaml").read_text(encoding="utf-8"))
    asked = sum(len(questions.questions) for questions in load_question_sets(["medical"]))
    assert entry["tasks"] == [{"name": em.__name__, "dataset_samples": asked}]
