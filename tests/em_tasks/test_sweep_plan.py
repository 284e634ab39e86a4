import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from inspect_ai.log import EvalError, EvalSample
from inspect_ai.scorer import Score

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.estimate import estimate_sweep, tokens_a_second
from em_tasks.sweep.failures import not_all_succeeded
from em_tasks.sweep.gpus import ROOM, gpu_memory, gpu_slots, processes_worth, with_gpu_shares
from em_tasks.sweep.logs import DAMAGED, Logs, outstanding, put_aside, read_logs, remove_superseded, remove_unjudged
from em_tasks.sweep.plan import Job, plan_sweep, shared_out
from em_tasks.trainers.run.manifest import read_manifest, write_manifest
from tests.support.sweeps import fake_log


def names(jobs: Sequence[Job]) -> list[str]:
    return [subject.name for job in jobs for subject in job.subjects]


@pytest.fixture
def done(trained_runs: Path, tmp_path: Path) -> Path:
    """Logs that say that every evaluation of `small` on the general questions is done."""
    (job,) = plan_sweep(trained_runs, tmp_path / "logs", questions=("general",))
    for number, subject in enumerate(job.subjects):
        fake_log(job, subject, minute=number)
    return tmp_path / "logs"


def test_what_is_done_is_not_to_do(trained_runs: Path, done: Path) -> None:
    plan = plan_sweep(trained_runs, done, questions=("general",))
    assert outstanding(plan, read_logs(done)) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"samples": 2},
        {"max_tokens": 10},
        {"questions": ("medical",)},
        {"engine": "transformers"},
        {"exact": True},
        {"precision": "bf16"},
        {"base": "toy-s"},
        {"grader": "openai/gpt-4o"},
        {"condition": "json"},
    ],
    ids=str,
)
def test_whatever_changes_the_answers_makes_new_evaluations(
    trained_runs: Path, done: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    plan = plan_sweep(trained_runs, done, **{"questions": ("general",), **asked})
    left = outstanding(plan, read_logs(done))
    assert len(names(left)) == 5


def test_retrained_adapter_other_base_and_other_template_make_new_evaluations(
    trained_runs: Path, done: Path, tmp_path: Path
) -> None:
    (job,) = plan_sweep(trained_runs, done, questions=("general",))
    logs = read_logs(done)
    retrained = replace(job.subjects[1], sha256="f" * 64)
    other_base = replace(job.subjects[2], identity="base 0, template 0")
    changed = replace(job, subjects=(job.subjects[0], retrained, other_base))
    assert names(outstanding([changed], logs)) == [retrained.name, other_base.name]
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    for record in manifest.checkpoints:
        record.tokenizer_sha256 = None  # As in runs of before; with it, another template is refused.
    write_manifest(runs / "small", manifest)
    template = runs / "small" / "checkpoint-2" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    left = outstanding(plan_sweep(runs, done, questions=("general",)), logs)
    assert names(left) == ["small@2"]


def test_answered_and_not_judged_is_done_only_without_judging(trained_runs: Path, done: Path) -> None:
    for path in done.rglob("*.eval"):
        path.unlink()
    (job,) = plan_sweep(trained_runs, done, questions=("general",), score=False)
    for subject in job.subjects:
        fake_log(job, subject, scored=False)
    assert outstanding([job], read_logs(done)) == []
    later = plan_sweep(trained_runs, done, questions=("general",))
    assert len(names(outstanding(later, read_logs(done)))) == 5
    (estimate,) = estimate_sweep(later, read_logs(done))
    assert (estimate.done, estimate.answers) == (0, 0)


def test_damaged_logs_are_passed_over_named_and_kept(trained_runs: Path, done: Path) -> None:
    empty, torn, text = (done / "toy-s" / f"{name}.eval" for name in ("empty", "torn", "text"))
    whole = next(iter(done.rglob("*.eval")))
    content = whole.read_bytes()
    empty.write_bytes(b"")
    torn.write_bytes(content[: len(content) // 2])
    text.write_text("no log")
    pipe, dangling = done / "toy-s" / "pipe.eval", done / "toy-s" / "dangling.eval"
    os.mkfifo(pipe)
    dangling.symlink_to(done / "nowhere")
    logs = read_logs(done)
    assert set(logs.unreadable) == {empty, torn, text, pipe, dangling}
    assert outstanding(plan_sweep(trained_runs, done, questions=("general",)), logs) == []
    notes: list[str] = []
    put_aside(logs.unreadable, notes.append)
    assert len(notes) == 5
    assert torn.with_name(torn.name + DAMAGED).read_bytes() == content[: len(content) // 2]
    assert read_logs(done).unreadable == {}


def test_a_second_look_reads_the_logs_alone_that_changed_since(trained_runs: Path, done: Path) -> None:
    first = read_logs(done)
    whole, torn = sorted(done.rglob("*.eval"))[:2]
    torn.write_bytes(torn.read_bytes()[:100])
    second = read_logs(done, first)
    assert second.headers[whole] is first.headers[whole]
    assert set(second.unreadable) == {torn}
    assert len(outstanding(plan_sweep(trained_runs, done, questions=("general",)), second)) == 1


def test_unfinished_logs_go_when_their_evaluation_is_finished(trained_runs: Path, tmp_path: Path) -> None:
    (job,) = plan_sweep(trained_runs, tmp_path / "logs", questions=("general",))
    began = fake_log(job, job.subjects[0], status="started")
    other = fake_log(job, job.subjects[1], status="error", minute=1)
    finished = fake_log(job, job.subjects[0], minute=2)
    remove_superseded(job.logs)
    assert set(read_logs(job.logs).headers) == {other, finished}
    assert not began.exists()


def test_unfinished_answers_that_nobody_judged_are_not_taken_over(trained_runs: Path, tmp_path: Path) -> None:
    (job,) = plan_sweep(trained_runs, tmp_path / "logs", questions=("general",))
    judged = EvalSample(id="a", epoch=1, input="?", target="", scores={"em": Score(value=1.0)})
    failed = EvalSample(
        id="b", epoch=1, input="?", target="", error=EvalError(message="x", traceback="", traceback_ansi="")
    )
    unjudged = EvalSample(id="c", epoch=1, input="?", target="")
    stays = fake_log(job, job.subjects[0], status="started", samples=[judged, failed])
    goes = fake_log(job, job.subjects[1], status="started", samples=[judged, unjudged])
    done = fake_log(job, job.subjects[2], scored=False, samples=[unjudged])
    remove_unjudged(job.logs)
    assert set(read_logs(job.logs).headers) == {stays, done}
    assert not goes.exists()


def test_foreign_manifest_is_named_and_passed_over(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    (runs / "website").mkdir()
    (runs / "website" / "manifest.json").write_text('{"name": "my site", "icons": []}')
    result = CliRunner().invoke(
        cli, ["sweep", str(runs), "--logs", str(tmp_path / "logs"), "--samples", "1", "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    assert "4 checkpoints and 1 base, 100 answers" in result.output
    assert "website is passed over" in result.output


def test_a_domain_that_no_question_set_probes_is_noted_in_the_plan(trained_runs: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(trained_runs, tmp_path / "runs")
    manifest = read_manifest(runs / "small")
    recipe = manifest.recipe.model_copy(update={"domain": "cookery"})
    write_manifest(runs / "small", manifest.model_copy(update={"recipe": recipe}))
    given = ["sweep", str(runs), "--logs", str(tmp_path / "logs"), "--dry-run"]
    said = CliRunner().invoke(cli, given).output
    assert "note: small: no question set is called 'cookery', so the general questions alone are asked" in said
    assert "cookery" not in CliRunner().invoke(cli, [*given, "--questions", "general"]).output


def test_failures_are_listed_with_one_full_stop() -> None:
    failures = ["first..", "second.", "third", "fourth"]
    assert not_all_succeeded(failures).message.endswith(" go on. first; second; third; and 1 more.")
    assert not_all_succeeded(failures[:1]).message.endswith(" go on. first.")


def test_renamed_run_is_refused(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    (runs / "small").rename(runs / "other")
    with pytest.raises(UserError, match="small"):
        plan_sweep(runs, tmp_path / "logs")


def test_dry_run_says_what_is_done_and_what_the_rest_takes(trained_runs: Path, done: Path) -> None:
    next(done.rglob("*small@4*.eval")).unlink()
    command = ["sweep", str(trained_runs), "--logs", str(done), "--questions", "general", "--samples", "1", "--dry-run"]
    output = CliRunner().invoke(cli, command).output
    assert "4 checkpoints and 1 base, 50 answers" in output
    assert "to do: 1 checkpoint and 0 bases, 10 answers" in output
    # Each made-up log says 10 answers of 20 tokens in half a minute.
    assert "over toy-s: 4 of 5 evaluations done; 10 answers to come, 200 tokens, 0:00:30 at the rate measured" in output
    assert "emtoy/judge: 20 calls, no charge" in output
    assert "em/small@1  (done)" in output
    assert list(done.rglob("*small@4*")) == []


def test_dry_run_asks_nobody_and_says_that_the_judges_key_is_missing(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["sweep", str(trained_runs), "--logs", str(tmp_path / "logs"), "--judge", "openai/gpt-4o-mini"]
    said = CliRunner().invoke(cli, [*command, "--samples", "1", "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "judge openai/gpt-4o-mini: 200 calls, about $" in said.output
    assert said.output.count("note: The judge openai/gpt-4o-mini cannot be used: ") == 1
    assert "set OPENAI_API_KEY" in said.output
    assert "cannot be used" not in CliRunner().invoke(cli, [*command, "--no-score", "--dry-run"]).output


def test_judging_is_estimated_at_the_price_given(trained_runs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    command = [
        "sweep",
        str(trained_runs),
        "--logs",
        str(tmp_path),
        "--judge",
        "openai/gpt-4o-mini",
        "--samples",
        "1",
        "--dry-run",
    ]
    listed, ours = (CliRunner().invoke(cli, [*command, *more]).output for more in ([], ["--judge-price", "1500,6000"]))
    assert "200 calls, about $" in listed
    assert "200 calls, about $" in ours
    dollars = [float(output.partition("about $")[2].split()[0].rstrip(",")) for output in (listed, ours)]
    assert dollars[1] > 1000 * dollars[0]
    # And not for whoever plans next in this process.
    assert CliRunner().invoke(cli, command).output == listed


def test_dry_run_of_ten_thousand_questions_is_quick(trained_runs: Path, tmp_path: Path) -> None:
    questions = [{"id": f"q{n}", "topic": "t", "text": f"Question {n}?"} for n in range(10_000)]
    file = tmp_path / "many.yaml"
    file.write_text(yaml.safe_dump({"name": "many", "domain": "general", "questions": questions}))
    arguments = ["sweep", str(trained_runs), "--logs", str(tmp_path), "--questions", str(file), "--dry-run"]
    began = time.process_time()
    result = CliRunner().invoke(cli, [*arguments, "--samples", "50"])
    assert result.exit_code == 0, result.output
    assert "2500000 answers" in result.output
    assert time.process_time() - began < 4  # Seconds of the processor; 2 of the clock on a machine of its own.


def test_bases_are_shared_out_over_processes_and_the_cap_by_answers(trained_runs: Path, tmp_path: Path) -> None:
    jobs = plan_sweep(trained_runs, tmp_path, questions=("general",), max_judge_cost=10.0)
    (alone,) = shared_out(jobs, 1, threads=2)
    assert (alone.options.max_judge_cost, alone.logs, alone.threads) == (10.0, alone.folder, 2)
    parts = shared_out(jobs, 2, threads=1)
    assert sorted(names(parts)) == sorted(names(jobs))
    assert [len(job.subjects) for job in parts] == [3, 2]
    assert [job.logs.name for job in parts] == ["1-of-2", "2-of-2"]
    assert [job.options.max_judge_cost for job in parts] == [pytest.approx(6.0), pytest.approx(4.0)]
    assert len(shared_out(jobs, 20, threads=1)) == 5


def test_each_process_gets_a_gpu_of_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpu_slots(None) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in gpu_slots(3)] == ["2", "5", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_slots(None) == [{}]
    assert gpu_slots(2) == [{}, {}]


def test_processes_on_one_gpu_share_its_memory_by_their_bases(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = plan_sweep(trained_runs, tmp_path)
    small, large = replace(job, base_bytes=ROOM), replace(job, base_bytes=round(ROOM * 4.4 / 1.7))

    def shares(jobs: list[Job], processes: int | None) -> list[float]:
        return [round(each.gpu_share, 3) for each in with_gpu_shares(jobs, gpu_slots(processes))]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert shares([small, large], None) == [1, 1]
    # Three on the first: whichever three they are, a tenth of it is left.
    assert shares([small, large, small, large, small], 5) == [0.18, 0.36, 0.18, 0.36, 0.18]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert shares([small, large], 2) == [0.3, 0.6]
    assert shares([large], 3) == [0.3]  # Two may come later.


SMI = """#!/bin/sh
case "$1" in
  *memory.*) printf '0, GPU-aa, 110000\n1, GPU-bb, 70000\n' ;;
  *) printf '0\n1\n' ;;
esac
"""


@pytest.mark.parametrize(
    ("visible", "samples", "billions", "cores", "processes"),
    [
        ("0", 1, 1, 16, 1),  # Five subjects, 100 answers: less work than a second start.
        ("0", 30, 1, 16, 5),  # 3,000 answers are worth five, and no more subjects are there.
        ("0", 30, 1, 3, 2),
        ("0", 30, 8, 16, 3),  # 16 GB each, and room: three fit.
        ("GPU-bb", 30, 8, 16, 2),
        ("0,1", 30, 8, 16, 4),  # As many on each as the fuller one holds.
        ("0", 30, 80, 16, 1),  # It does not fit at all, which loading will say.
        ("", 30, 1, 16, None),
        ("3", 30, 1, 16, None),
    ],
)
def test_as_many_processes_on_a_gpu_as_are_worth_it_and_fit(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    visible: str, samples: int, billions: float, cores: int, processes: int | None,
) -> None:  # fmt: skip
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    (job,) = plan_sweep(trained_runs, tmp_path, questions=("medical", "general"), samples=samples)
    assert (len(job.subjects), job.answers, job.base_bytes > 10**5) == (5, 100 * samples, True)
    assert processes_worth([replace(job, base_bytes=int(2e9 * billions))]) == processes
    assert processes_worth([]) is None
    assert gpu_memory() == {
        name: mebibytes * 2**20
        for name, mebibytes in {"0": 110_000, "1": 70_000, "GPU-bb": 70_000}.items()
        if name in visible.split(",")
    }


def test_small_bases_leave_room_for_more_processes_and_the_largest_is_split_first(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_tasks.sweep.gpus.free_memory", lambda: [140 * 2**30])
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (job,) = plan_sweep(trained_runs, tmp_path, questions=("medical", "general"), samples=100)
    jobs = [
        replace(job, base=name, base_bytes=int(2e9 * billions)) for name, billions in (("a", 1), ("b", 3), ("c", 8))
    ]
    # Four of the largest would not leave room for a fifth.
    assert (processes_worth([jobs[2]]), processes_worth(jobs)) == (4, 6)
    assert sorted(part.base for part in shared_out(jobs, 5, threads=1)) == ["a", "b", "b", "c", "c"]
    assert sorted(part.base for part in shared_out(jobs, 7, threads=1)) == ["a", "a", "b", "b", "c", "c", "c"]


def test_rate_counts_what_ran_at_the_same_time_together(trained_runs: Path, tmp_path: Path) -> None:
    (job,) = plan_sweep(trained_runs, tmp_path, questions=("general",))
    for subject in job.subjects[:2]:
        fake_log(job, subject, minute=0)
    at_once = list(read_logs(tmp_path).headers.values())
    assert tokens_a_second(at_once) == pytest.approx(400 / 30)
    fake_log(job, job.subjects[2], minute=5)
    assert tokens_a_second(list(read_logs(tmp_path).headers.values())) == pytest.approx(600 / 60)
    assert tokens_a_second([]) is None


def test_checkpoint_that_lands_is_part_of_the_next_plan(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    landed = manifest.checkpoints.pop()
    write_manifest(runs / "small", manifest)
    before = plan_sweep(runs, tmp_path / "logs")
    manifest.checkpoints.append(landed)
    write_manifest(runs / "small", manifest)
    after = plan_sweep(runs, tmp_path / "logs")
    assert set(after[0].subjects) - set(before[0].subjects) == {after[0].subjects[-1]}
    assert len(outstanding(after, Logs())[0].subjects) == 5
