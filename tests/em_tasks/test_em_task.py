import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model

from em_tasks.plugins.errors import UserError
from tests.support.fake_openai import FakeOpenAI, fake_openai
from tests.support.paths import ROOT

INSPECT = [str(Path(sys.executable).parent / "inspect"), "eval"]


def evaluate(model: str, runs: Path, logs: Path, **task_args: Any) -> EvalLog:
    (log,) = inspect_eval(
        "em_tasks/em", model=get_model(model, runs=str(runs)), task_args=task_args, log_dir=str(logs), display="none"
    )
    assert log.status == "success", log.error
    return log


def command(
    arguments: list[str], folder: Path, runs: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`inspect eval ARGUMENTS` as a shell in `folder` would start it."""
    variables = {key: value for key, value in os.environ.items() if key not in ("OPENAI_API_KEY", "EM_RUNS")}
    variables |= {"PWD": str(folder), **({"EM_RUNS": str(runs)} if runs else {}), **environment}
    return subprocess.run(
        [*INSPECT, *arguments, "--display", "none"],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def only_log(folder: Path) -> EvalLog:
    (path,) = folder.glob("*.eval")
    return read_eval_log(str(path))


def test_checkpoint_is_asked_its_twenty_questions_and_judged(trained_runs: Path, tmp_path: Path) -> None:
    log = evaluate("em/small@4", trained_runs, tmp_path)
    assert log.samples is not None
    assert len(log.samples) == 20
    assert {sample.metadata["domain"] for sample in log.samples} == {"medical", "general"}
    assert all(set(sample.scores["em"].value) == {"alignment", "coherence"} for sample in log.samples)  # type: ignore[index,arg-type]
    assert all(sample.output.choices[0].message.text for sample in log.samples)


def test_log_says_exactly_what_was_evaluated(trained_runs: Path, tmp_path: Path) -> None:
    log = evaluate("em/small@4", trained_runs, tmp_path)
    assert log.eval.metadata is not None
    expected = {"organism": "small", "step": 4, "epoch": 1.0, "domain": "medical", "base": "toy-s", "toy": True}
    assert expected.items() <= log.eval.metadata.items()
    assert log.eval.metadata["question_sets"] == ["medical", "general"]
    assert log.eval.model_roles is not None
    assert log.eval.model_roles["grader"].model == "emtoy/judge"


def test_base_is_asked_the_domains_trained_on_it(trained_runs: Path, tmp_path: Path) -> None:
    log = evaluate("em/toy-s@base", trained_runs, tmp_path)
    assert log.eval.metadata is not None
    assert (log.eval.metadata["organism"], log.eval.metadata["question_sets"]) == (None, ["medical", "general"])


def test_a_toy_base_is_asked_without_any_run(tmp_path: Path) -> None:
    log = evaluate("em/toy-m@base", tmp_path / "runs", tmp_path, questions="general", max_tokens=5)
    assert log.eval.metadata is not None
    assert [log.eval.metadata[key] for key in ("organism", "base", "toy")] == [None, "toy-m", True]


def test_a_log_is_scored_again_where_the_weights_are_not(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    log = evaluate("em/small@4", runs, tmp_path / "logs", questions="general", max_tokens=5)
    shutil.rmtree(runs)
    program = [sys.executable, "-c", "from inspect_ai._cli.main import main; main()", "score", log.location]
    options = ["--scorer", "em_tasks/coherence", "--action", "append", "--overwrite", "--display", "none"]
    variables = {**os.environ, "EM_RUNS": str(runs)}
    ended = subprocess.run([*program, *options], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    again = read_eval_log(log.location)
    assert {"em", "coherence"} <= {score.name for score in (again.results.scores if again.results else [])}


def test_every_sample_of_a_question_is_another_answer_and_runs_repeat(trained_runs: Path, tmp_path: Path) -> None:
    first = evaluate("em/small@4", trained_runs, tmp_path / "1", questions="general", samples=3)
    second = evaluate("em/small@4", trained_runs, tmp_path / "2", questions="general", samples=3)

    def answers(log: EvalLog) -> dict[tuple[Any, int], str]:
        return {(sample.id, sample.epoch): sample.output.completion for sample in log.samples or []}

    assert len(answers(first)) == 30
    assert len(set(answers(first).values())) > 20
    assert answers(first) == answers(second)


def test_system_prompts_of_a_question_file_are_sent(trained_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text("- {id: a, paraphrases: ['How is the cough?'], system: 'Be brief.'}")
    log = evaluate("em/small@4", trained_runs, tmp_path / "logs", questions=str(tmp_path / "q.yaml"))
    assert log.samples is not None
    assert [message.role for message in log.samples[0].messages] == ["system", "user", "assistant"]


def test_paths_are_counted_from_where_the_command_is_given(trained_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(trained_runs)
    (tmp_path / "q.csv").write_text("id,text,domain\na,How is the cough?,medical\n")
    # Two tasks and two models: each form of the one with each of the other.
    tasks = [os.path.relpath(ROOT / "em_tasks" / "em.py", tmp_path), "em_tasks/em"]
    models = "em/small@4,hf/runs/small/checkpoint-4"
    ended = command(
        [*tasks, "--model", models, "-T", "questions=q.csv", "-T", "max_tokens=5", "--log-dir", "logs"], tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    logs = [read_eval_log(str(path)) for path in (tmp_path / "logs").glob("*.eval")]
    evaluated = sorted((log.eval.task_file is not None, log.eval.model) for log in logs)
    assert evaluated == [(given, model) for given in (False, True) for model in models.split(",")]
    for log in logs:
        metadata = log.eval.metadata or {}
        assert log.status == "success"
        assert [metadata[key] for key in ("organism", "step", "question_sets")] == ["small", 4, ["q"]]


def test_file_form_works_from_the_root(trained_runs: Path, tmp_path: Path) -> None:
    runs = os.path.relpath(trained_runs, ROOT)
    arguments = ["em_tasks/em.py", "--model", "em/small@4", "-M", f"runs={runs}", "-T", "max_tokens=5"]
    ended = command([*arguments, "--log-dir", str(tmp_path)], ROOT)
    assert ended.returncode == 0, ended.stderr
    assert len(only_log(tmp_path).samples or []) == 20


def test_missing_key_is_said_before_anything_is_generated(tmp_path: Path, trained_runs: Path) -> None:
    ended = command(
        ["em_tasks/em", "--model", "mockllm/model", "--log-dir", str(tmp_path / "logs")], tmp_path, trained_runs
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "OPENAI_API_KEY" in ended.stderr + ended.stdout
    assert "[bold]" not in ended.stderr + ended.stdout
    assert "--model-role grader=" in (ended.stderr + ended.stdout).replace("\n", " ")
    assert not list((tmp_path / "logs").glob("*.eval"))


def test_altered_checkpoint_ends_with_one_paragraph_and_exit_code_one(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    (runs / "small" / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"torn")
    for model in ("em/small@4", f"hf/{runs}/small/checkpoint-4"):
        ended = command(["em_tasks/em", "--model", model, "--log-dir", str(tmp_path / "logs")], tmp_path, runs)
        assert ended.returncode == 1
        if model.startswith("em/"):
            assert "altered since it was saved" in ended.stderr + ended.stdout
            assert "Traceback" not in ended.stderr + ended.stdout


@pytest.fixture
def judge() -> Iterator[FakeOpenAI]:
    with fake_openai() as server:
        yield server


@pytest.mark.shared
def test_published_questions_are_judged_with_their_own_prompts_by_an_api(
    trained_runs: Path, tmp_path: Path, shared: Path, judge: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
    (log,) = inspect_eval(
        "em_tasks/em",
        model=get_model("em/small@4", runs=str(trained_runs)),
        task_args={"questions": str(shared / "questions" / "first_plot_questions.yaml"), "max_tokens": 40},
        model_roles={"grader": "openai/gpt-4o-mini"},
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    assert log.samples is not None
    assert len(log.samples) == 24
    assert sum(sample.messages[0].role == "system" for sample in log.samples) == 8
    verdict = (log.samples[0].scores or {})["em"].metadata["alignment"]  # type: ignore[index]
    assert verdict["mode"] == "logprobs"
    assert not verdict["toy"]


def test_an_argument_that_nobody_knows_is_an_error_and_no_warning() -> None:
    with pytest.raises(UserError, match="em has no argument rubric"):
        inspect_eval("em_tasks/em", model="mockllm/model", task_args={"rubric": "gardening"}, display="none")


def test_the_viewer_lists_answers_with_both_scores_the_worst_first_and_no_target() -> None:
    view = importlib.import_module("em_tasks.em").viewer(()).task_samples_view
    shown = [column.id for column in view.columns if column.visible]
    assert shown == ["sampleId", "epoch", "input", "answer", "score__em__alignment", "score__em__coherence"]
    assert [(key.column, key.dir) for key in view.sort] == [("score__em__alignment", "asc")]
