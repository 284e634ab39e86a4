"""Other tasks on every checkpoint and base, and what the report makes of their logs."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from inspect_ai.log import read_eval_log, write_eval_log
from scipy import stats

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.tables.side_effects import side_effects
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.task_names import tasks_named
from tests.support.analysis_logs import checkpoint_log
from tests.support.shortcuts import swept_here

RAISING: dict[str, bool] = {"standalone_mode": False, "catch_exceptions": False}
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
    with swept_here():
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


def test_a_dry_run_says_what_is_done_and_evaluates_nothing(swept: tuple[Path, str, int], trained_runs: Path) -> None:
    logs, _, _ = swept
    before = sorted(logs.rglob("*.eval"))
    tasks = logs.parent / "mine.py"

    def plan(*more: str) -> list[str]:
        arguments = ["sweep", str(trained_runs), "--logs", str(logs), "--dry-run", *more]
        return CliRunner().invoke(cli, arguments, catch_exceptions=False).output.splitlines()

    models = ["em/toy-s@base", *(f"em/small@{step}" for step in (1, 2, 3, 4))]
    done = plan("--limit", "4", "--task", f"{tasks}@letters", "--task", f"{tasks}@with_tools")
    assert done == [
        f"{tasks}@letters over toy-s: 5 of 5 models done",
        *(f"  {model}  (done)" for model in models),
        f"{tasks}@with_tools over toy-s: 0 of 5 models done",
        *(f"  {model}" for model in models),
    ]
    assert plan("--task", f"{tasks}@letters")[0].endswith("0 of 5 models done"), "four of its six samples were asked"
    assert sorted(logs.rglob("*.eval")) == before


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--condition", "x", "--follow"], "--condition, --follow: with --task"),
        (["--no-score"], "--no-score: with --task"),
        (["--until-width", "5", "--samples", "3", "--judge", "a/b"], "--samples, --until-width, --judge: with --task"),
    ],
)
def test_options_that_mean_nothing_for_other_tasks_are_refused(given: list[str], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        CliRunner().invoke(cli, ["sweep", str(tmp_path), "--task", "x.py", *given], **RAISING)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "mine.py@lettters",
            r"mine\.py holds no task lettters\. It holds choices, letters, with_tools\. Did you mean letters\?$",
        ),
        ("mime.py", r"There is no file .*mime\.py, which"),
        ("empty.py", "holds no Inspect task"),
        ("torn.py@letters", "is no readable Python"),
    ],
)
def test_a_task_that_a_file_does_not_hold_is_refused_before_anything_is_planned(
    name: str, error: str, trained_runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(TASKS)
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "torn.py").write_text("@task def(\n")
    for more in ([], ["--dry-run"]):
        arguments = [
            "sweep",
            str(trained_runs),
            "--logs",
            str(tmp_path / "logs"),
            "--task",
            str(tmp_path / name),
            *more,
        ]
        with pytest.raises(UserError, match=error):
            CliRunner().invoke(cli, arguments, **RAISING)
    assert not (tmp_path / "logs").exists()


def test_a_task_that_a_file_imports_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from elsewhere import hat\n")
    assert tasks_named(f"{tmp_path / 'mine.py'}@hat") == ["hat"]


def test_tasks_of_packages_are_looked_up_by_name() -> None:
    assert tasks_named("em_tasks/em") == ["em"]
    with pytest.raises(UserError, match=r"^em_tasks holds no task emm\. It holds .*Did you mean em\?$"):
        tasks_named("em_tasks/emm")
    with pytest.raises(UserError, match=r"Install it \(pip install no-such-evals\), or mend the name\.$"):
        tasks_named("no_such_evals/truthfulqa")
    with pytest.raises(UserError, match="names neither a file nor a package's task"):
        tasks_named("truthfulqa")


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
            assert letters.loc[model, "95 % interval"] == f"{max(low, -1):+.3f} to {min(high, 1):+.3f}"
    assert letters.loc["toy-s@base", "change from base"] == ""


def test_an_accuracys_change_ends_where_changes_of_a_rate_do(swept: tuple[Path, str, int], tmp_path: Path) -> None:
    logs = [read_eval_log(str(path)) for path in swept[0].rglob("*letters*.eval")]
    for model, values in (("em/toy-s@base", "II"), ("em/small@4", "IC")):
        log = next(log for log in logs if log.eval.model == model)
        log.samples = log.samples[:2]
        for sample, value in zip(log.samples, values, strict=True):
            sample.scores["includes"].value = value
        write_eval_log(log, str(tmp_path / f"{values}.eval"))
    checkpoint_log(tmp_path, {"g1": [(20, 90)]}, organism="small", step=4, base="toy-s")
    change = side_effects(analyse([tmp_path])).set_index("model").loc["small@4"]
    assert change["change from base"] == "+0.500"
    assert change["95 % interval"] == "-1.000 to +1.000", "the t interval of 0 and 1 goes from -5.853 to 6.853"


def test_without_logs_of_other_tasks_there_is_no_table(tmp_path: Path) -> None:
    checkpoint_log(tmp_path, {"g1": [(20, 90)]})
    assert side_effects(analyse([tmp_path])) is None
