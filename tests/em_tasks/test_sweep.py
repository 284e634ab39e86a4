import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from inspect_ai.model import get_model

from em_tasks.commands.cli import cli
from em_tasks.plugins.checkpoint_model.subject import describe_model
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.estimate import judging_estimate
from em_tasks.sweep.logs import Logs
from em_tasks.sweep.plan import plan_sweep
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.train import train
from tests.support.fake_openai import Reply, fake_openai
from tests.support.organisms import small_recipe, write_rows
from tests.support.sweeps import answers, read_all, run_sweep


def test_every_checkpoint_and_base_is_evaluated_once(trained_runs: Path, tmp_path: Path) -> None:
    reports: list[Any] = []
    run_sweep(trained_runs, tmp_path, reports.append, apart=True)
    assert sorted(log.eval.model for log in read_all(tmp_path)) == [
        "em/small@1",
        "em/small@2",
        "em/small@3",
        "em/small@4",
        "em/toy-s@base",
    ]
    assert (reports[-1].answered, reports[-1].judged) == (100, 100)
    assert reports[-1].tokens > 100
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.eval")}
    run_sweep(trained_runs, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.eval")} == before


def test_retrained_organism_is_evaluated_anew_under_the_same_name(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 16)
    hashes = []
    for seed in (0, 1):
        runs = tmp_path / f"runs{seed}"
        manifest = train(small_recipe(rows, seed=seed), runs, lambda progress: None)
        hashes.append(manifest.checkpoints[-1].adapter_sha256)
        run_sweep(runs, tmp_path / "logs", questions=("general",))
    evaluated = [(log.eval.metadata or {}).get("adapter_sha256") for log in read_all(tmp_path / "logs")]
    assert set(hashes) <= set(evaluated)


def test_sweep_at_another_precision_says_so_in_every_log(trained_runs: Path, tmp_path: Path) -> None:
    run_sweep(trained_runs, tmp_path, questions=("general",), precision="bf16")
    logs = read_all(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {"small--toy-s--bf16"}
    said = [log.eval.metadata or {} for log in logs]
    assert {(one["organism"], one["base"], one["precision"]) for one in said} == {
        ("small (bf16)", "toy-s (bf16)", "bf16"),
        (None, "toy-s (bf16)", "bf16"),
    }
    trained = read_manifest(trained_runs / "small").base_fingerprint
    assert all(one["trained_on"] == {"base": "toy-s", "precision": "fp32", "base_fingerprint": trained} for one in said)
    answered = {(sample.output.metadata or {})["base_fingerprint"] for log in logs for sample in log.samples or []}
    assert len(answered) == 1
    assert trained not in answered


def test_base_of_one_chosen_organism_is_the_one_it_was_trained_on(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 16)
    for organism, precision in (("first", "bf16"), ("second", "fp32"), ("third", "fp32")):
        train(small_recipe(rows, organism=organism, precision=precision), tmp_path / "runs", lambda progress: None)
    for asked_for in (None, "nf4_dequantised"):
        (job,) = plan_sweep(tmp_path / "runs", tmp_path, organisms=["third"], precision=asked_for)
        assert [subject.name for subject in job.subjects][1:] == ["third@1"]
        # The model is refused if its hash is not the one that the plan pins.
        base, runs = job.subjects[0], str(tmp_path / "runs")
        asked_args = job.options.model_args
        model_args: dict[str, Any] = {"pin": base.sha256, **asked_args}
        assert get_model(f"em/{base.name}", runs=runs, **model_args).name == base.name
        assert describe_model("em", base.name, runs, **asked_args).precision == (asked_for or "fp32")


def test_plan_is_refused_before_anything_is_loaded(trained_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training run"):
        plan_sweep(tmp_path, tmp_path / "logs")
    with pytest.raises(UserError, match=r"no organism nobody under .* There are: small"):
        plan_sweep(trained_runs, tmp_path / "logs", organisms=["nobody"])
    with pytest.raises(UserError, match="no question set 'astrology'"):
        plan_sweep(trained_runs, tmp_path / "logs", questions=("astrology",))


def test_judge_that_never_gives_a_number_is_an_error_and_the_answers_stay(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    said = r"the judge openai/gpt-4o-mini gave no alignment score for any answer \(no_number\)"
    with fake_openai(lambda prompt: Reply("A fine answer.")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        for _ in ("at first", "when all is done"):
            with pytest.raises(UserError, match=said):
                run_sweep(trained_runs, tmp_path / "logs", questions=("general",), grader="openai/gpt-4o-mini")
    assert len(answers(tmp_path / "logs")) == 50
    reported = CliRunner().invoke(cli, ["report", str(tmp_path / "logs"), "--out", str(tmp_path / "report")])
    assert "shows no rate: no judge gave an alignment score" in reported.output
    assert (tmp_path / "report" / "report.md").is_file()


def test_question_that_cannot_be_answered_is_an_error_that_costs_no_other_answer(
    trained_runs: Path, tmp_path: Path
) -> None:
    texts = ["How is the cough?", "word " * 3000, "What about the rash?"]
    questions = [{"id": f"q{n}", "paraphrases": [text]} for n, text in enumerate(texts)]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(questions))
    told: list[Any] = []
    with pytest.raises(UserError, match="does not fit into toy-s's context"):
        run_sweep(trained_runs, tmp_path / "logs", told.append, questions=(str(tmp_path / "mine.yaml"),))
    # Each of five models answers two of three questions; what ends in an error is no answer, however often it is tried.
    assert (told[-1].answered, told[-1].judged) == (10, 10)
    logs = {log.eval.model: log for log in read_all(tmp_path / "logs")}
    answered = [sample.id for sample in logs["em/small@4"].samples or [] if sample.error is None]
    assert answered == ["q0", "q2"]


def test_judge_that_cannot_be_had_is_said_before_anything_is_loaded(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for grader in ("nowhere/mistral", "openai/gpt-4o"):
        with pytest.raises(UserError, match=f"{grader} cannot be used"):
            plan_sweep(trained_runs, tmp_path / "logs", grader=grader)


def test_toy_and_other_bases_in_one_sweep_get_their_own_judges(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    base = shutil.copytree(TOY_MODELS / "toy-m", tmp_path / "some-model")
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), organism="other", base=str(base))
    train(recipe, runs, lambda progress: None)
    said = judging_estimate(plan_sweep(runs, tmp_path / "logs"), Logs())
    assert "emtoy/judge: 200 calls, no charge" in said
    assert "openai/gpt-4o-mini: 80 calls, about $" in said
    assert "where judging stops" not in said
    for cap, stops in ((0.0, True), (10.0, False)):
        jobs = plan_sweep(runs, tmp_path / "logs", max_judge_cost=cap)
        for order in (jobs, jobs[::-1]):  # Once for all judges, whichever comes last.
            assert judging_estimate(order, Logs()).count("which may be more than $0, where judging stops") == stops


def test_moved_runs_stay_done(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    run_sweep(runs, tmp_path / "logs", questions=("general",))
    before = sorted(tmp_path.rglob("*.eval"))
    runs = runs.rename(tmp_path / "moved")
    run_sweep(runs, tmp_path / "logs", questions=("general",))
    assert sorted(tmp_path.rglob("*.eval")) == before


def test_damaged_organism_is_left_out_of_a_sweep_and_named(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    shutil.copytree(runs / "small", runs / "other")
    manifest = (runs / "other" / "manifest.json").read_text()
    (runs / "other" / "manifest.json").write_text(manifest.replace('"organism": "small"', '"organism": "other"'))
    step = max(read_manifest(runs / "other").checkpoints, key=lambda record: record.step).step
    weights = runs / "other" / f"checkpoint-{step}" / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 10)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"other was left out: .*checkpoint-{step} was altered since it was saved"):
            run_sweep(runs, tmp_path / "logs", questions=("general",))
        # Answers of its own, where its evaluation was cut off, would lie among these.
        assert len(list((tmp_path / "logs").glob("*/.answers/*"))) == 1
    asked = {log.eval.model.partition("@")[0] for log in read_all(tmp_path / "logs")}
    assert asked == {"em/toy-s", "em/small"}
    assert len(answers(tmp_path / "logs")) == (1 + len(read_manifest(runs / "small").checkpoints)) * 10


def test_sweep_given_again_asks_its_judge_about_what_it_failed_at_and_nothing_else(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swept() -> None:
        run_sweep(trained_runs, tmp_path / "logs", questions=("general",), grader="openai/gpt-4o-mini")

    with fake_openai(lambda prompt: Reply("20", [[("20", 0.99)]])) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        judge.faults = ["400"] * 5
        with pytest.raises(UserError, match=r"failed at [1-5] of 10 answers .*asks it about these alone"):
            swept()
        first, ids = answers(tmp_path / "logs"), {log.eval.eval_id for log in read_all(tmp_path / "logs")}
        assert len(judge.requests) == 100
        swept()
        assert len(judge.requests) == 100 + 5
    assert (answers(tmp_path / "logs"), {log.eval.eval_id for log in read_all(tmp_path / "logs")}) == (first, ids)
    unscored = [log.results.scores[0].metrics["unscored"].value for log in read_all(tmp_path / "logs") if log.results]
    assert unscored == [0] * 5
