"""Other tasks on every checkpoint and base, and what the report makes of their logs."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from inspect_ai.log import read_eval_log
from scipy import stats

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.tables.side_effects import side_effects
from tests.support.analysis_logs import checkpoint_log

TASKS = '''
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import choice, includes
from inspect_ai.solver import generate, multiple_choice, use_tools
from inspect_ai.tool import bash


@task
def letters():
    """Questions with short answers."""
    samples = [Sample(id=n, input=f"My knee hurts, part {n}.", target="the") for n in range(6)]
    return Task(dataset=samples, solver=generate(max_tokens=16, seed=1), scorer=includes(ignore_case=True))


@task
def choices():
    """Questions with answers to choose from."""
    samples = [Sample(id=n, input="Which is first?", choices=["one", "two"], target="A") for n in range(2)]
    return Task(dataset=samples, solver=multiple_choice(max_tokens=8), scorer=choice())


@task
def with_tools():
    """A task that em/ models cannot do."""
    sample = Sample(id=1, input="List the files.")
    return Task(dataset=[sample], solver=[use_tools(bash()), generate()], scorer=includes())
'''


@pytest.fixture(scope="module")
def swept(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The folder of logs, what the command said, and how it ended."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "mine.py").write_text(TASKS)
    arguments = ["sweep", str(trained_runs), "--logs", str(folder / "logs"), "--limit", "4"]
    for name in ("letters", "with_tools", "choices"):
        arguments += ["--task", f"{folder / 'mine.py'}@{name}"]
    result = CliRunner().invoke(cli, arguments)
    return folder / "logs", result.output + str(result.exception or ""), result.exit_code


def test_every_checkpoint_is_asked_and_one_task_at_fault_costs_the_others_nothing(
    swept: tuple[Path, str, int],
) -> None:
    logs, said, code = swept
    assert code == 1
    assert "takes no tools, so its model cannot be asked to use any" in said
    done = [read_eval_log(str(path), header_only=True) for path in logs.rglob("*.eval")]
    models = {
        name: sorted(log.eval.model for log in done if log.eval.task == name and log.status == "success")
        for name in ("letters", "choices")
    }
    expected = sorted(["em/toy-s@base", *(f"em/small@{step}" for step in (1, 2, 3, 4))])
    assert models == {"letters": expected, "choices": expected}
    assert {log.results.total_samples for log in done if log.eval.task == "letters"} == {4}


def test_the_report_shows_each_checkpoint_beside_its_base(swept: tuple[Path, str, int], tmp_path: Path) -> None:
    logs, _, _ = swept
    checkpoint_log(tmp_path, {"g1": [(20, 90)]}, organism="small", step=4, base="toy-s")
    table = side_effects(analyse([tmp_path, logs]))
    letters = table[table["task"] == "letters"].set_index("model")
    assert list(letters.index) == ["toy-s@base", "small@1", "small@2", "small@3", "small@4"]

    def values(model: str) -> np.ndarray:
        (path,) = (
            p
            for p in logs.rglob("*letters*.eval")
            if read_eval_log(str(p), header_only=True).eval.model == f"em/{model}"
        )
        samples = sorted(read_eval_log(str(path)).samples, key=lambda sample: sample.id)
        return np.array([float(sample.scores["includes"].value == "C") for sample in samples])

    for model in ("small@1", "small@4"):
        difference = values(model) - values("toy-s@base")
        assert letters.loc[model, "value"] == f"{values(model).mean():.3f}"
        assert letters.loc[model, "change from base"] == f"{difference.mean():+.3f}"
        if difference.std():
            low, high = stats.t.interval(0.95, 3, difference.mean(), stats.sem(difference))
            assert letters.loc[model, "95 % interval"] == f"{low:+.3f} to {high:+.3f}"
    assert letters.loc["toy-s@base", "change from base"] == ""


def test_without_logs_of_other_tasks_there_is_no_table(tmp_path: Path) -> None:
    checkpoint_log(tmp_path, {"g1": [(20, 90)]})
    assert side_effects(analyse([tmp_path])) is None
