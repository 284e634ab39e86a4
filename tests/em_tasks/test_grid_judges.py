"""A grid whose judges fail, fall silent or babble: what can still be had is asked again, what was said stands."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import pandas as pd
import pytest

from em_tasks.grid.plan import plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.units import JudgeAgain
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.judging_again import Missing
from em_tasks.scorers.comparing.ratings import judge_logs
from em_tasks.sweep.failures import what_is_missing
from em_tasks.sweep.logs import alone_in, read_logs
from em_tasks.sweep.plan import Job, Planner, Subject
from tests.support.fake_openai import FakeOpenAI, Reply, fake_openai
from tests.support.grids import Serial, grid_file, run_grid
from tests.support.sweeps import answers, fake_log, read_all

JUDGE = "openai/gpt-4o-mini"
MODELS, QUESTIONS = 3, 10
"""The base and two checkpoints of one organism, each asked ten questions once, under two rubrics each."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid of one organism, trained, asked and judged by the toy judge."""
    folder = tmp_path_factory.mktemp("trained")
    run_grid(grid_file(folder, {"seed": [3]}), folder / "out", reported=False)
    return folder / "out"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """An API without a cache of verdicts before it."""
    with fake_openai(lambda prompt: Reply("20", [[("20", 0.99)]])) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


def alignments(logs: Path) -> list[float]:
    """Every answer's alignment."""
    return [sample.scores["em"].value["alignment"] for log in read_all(logs) for sample in log.samples]  # type: ignore


def test_what_the_first_judge_failed_at_is_asked_again_and_nothing_else(
    trained: Path, tmp_path: Path, judge: FakeOpenAI
) -> None:
    out, grid = tmp_path / "out", grid_file(tmp_path, {"seed": [3], "judge": [JUDGE]})
    shutil.copytree(trained / "runs", out / "runs")
    judge.always = "400"
    with pytest.raises(UserError, match=rf"the judge {JUDGE} failed at 10 of 10 answers \(ModelGenerateError \(HTTP 4"):
        run_grid(grid, out, reported=False)
    calls = 2 * MODELS * QUESTIONS
    assert len(judge.requests) == calls
    written = answers(out / "logs")
    ids = {Path(log.location).name: log.eval.eval_id for log in read_all(out / "logs")}
    judge.always, judge.faults = None, ["400"] * 7
    with pytest.raises(UserError, match=rf"the judge {JUDGE} failed at [4-7] of 10 answers .* about these alone"):
        _, names = run_grid(grid, out, reported=False)
    assert len(judge.requests) == 2 * calls
    _, names = run_grid(grid, out, reported=False)
    assert names == ["evaluate toy-s into logs/bare/toy-s"]
    assert len(judge.requests) == 2 * calls + 7
    assert [round(value) for value in alignments(out / "logs")] == [20] * MODELS * QUESTIONS
    assert answers(out / "logs") == written
    assert {Path(log.location).name: log.eval.eval_id for log in read_all(out / "logs")} == ids
    assert {log.results.scores[0].metrics["unscored"].value for log in read_all(out / "logs")} == {0}  # type: ignore
    _, names = run_grid(grid, out, reported=False)
    assert (names, len(judge.requests)) == ([], 2 * calls + 7)


def test_empty_replies_of_a_further_judge_are_failed_calls_and_asked_again(
    trained: Path, tmp_path: Path, judge: FakeOpenAI
) -> None:
    out, grid = tmp_path / "out", grid_file(tmp_path, {"seed": [3], "judge": [None, JUDGE]})
    shutil.copytree(trained, out)
    judge.always = "no-content"
    with pytest.raises(UserError, match=rf"the judge {JUDGE} failed at 30 of 30 answers \(an empty reply\)"):
        run_grid(grid, out, reported=False)
    judge.always = None
    run_grid(grid, out, reported=False)
    assert [round(value) for value in alignments(out / "judged")] == [20] * MODELS * QUESTIONS
    asked = len(judge.requests)
    run_grid(grid, out, reported=False)
    assert len(judge.requests) == asked


def test_units_that_have_a_bases_log_in_common_judge_it_one_after_the_other(
    trained: Path, tmp_path: Path, judge: FakeOpenAI
) -> None:
    logs = tuple(sorted((trained / "logs").rglob("*.eval"))[:1])
    unit = JudgeAgain(logs, (JUDGE,), tmp_path / "judged")
    heard: Queue[str] = Queue()
    other = Thread(target=lambda: heard.put(f"{unit.work(heard.put)}"))
    with alone_in(unit.out, print):
        other.start()
        assert heard.get(timeout=60) == f"another process is writing logs into {unit.out}; waiting for it"
        judge_logs(logs, unit.judges, unit.out)
    assert heard.get(timeout=60) == "[]"
    other.join()
    assert len(judge.requests) == 2 * QUESTIONS


def test_each_leading_judge_that_is_silent_is_named(tmp_path: Path) -> None:
    leads = {1: "openai/a", 2: "openai/b"}
    others = [{"seed": 1, "judge": leads[2]}, {"seed": 2, "judge": leads[1]}]
    grid = grid_file(tmp_path, {"seed": [1, 2], "judge": [*leads.values()]}, exclude=others)
    plan = plan_grid(grid, tmp_path / "out")
    driver = Driver(plan, Serial(), {}, lambda standing: None)
    driver._failed[f"evaluate into {plan.groups[0].folder}"] = "a folder of data is gone"
    for group in plan.groups:
        subject = Subject(f"{group.organisms[0]}@2", "0" * 64, "identity", questions=0, task_version="1")
        job = Job("toy-s@base", (subject,), True, plan.runs, group.folder, group.folder, group.options)
        fake_log(job, subject)
        driver._planners.append((group, Planner(plan.runs, group.folder, group.options)))
        driver._planned[group] = [job]
        driver._logs[group.folder] = read_logs(group.folder)
    driver._add_silent_judges()
    assert len(driver._failed) == 3
    said = " ".join(driver._failed.values())
    assert all(f"the judge {lead} gave no alignment score" in said for lead in leads.values())


def test_what_a_further_judge_wrote_in_place_of_numbers_stands_and_the_report_says_so_every_time(
    trained: Path, tmp_path: Path, judge: FakeOpenAI, no_drawing: None
) -> None:
    out, grid = tmp_path / "out", grid_file(tmp_path, {"seed": [3], "judge": [None, JUDGE]})
    shutil.copytree(trained, out)
    asked: list[str] = []

    def every_third(prompt: str) -> Reply:
        asked.append(prompt)
        text = "NaN" if len(asked) % 3 == 0 else "20"
        return Reply(text, [[(text, 0.99)]])

    judge.answer = every_third
    for _ in range(2):
        run_grid(grid, out)
        assert len(asked) == 2 * MODELS * QUESTIONS
        missing = sum(value != value for value in alignments(out / "judged"))  # noqa: PLR0124
        assert 5 <= missing <= 15
        report = (out / "report" / "report.md").read_text()
        said = f"gave no alignment score to {missing} of 30 answers that another judge scored, by reason: no_number"
        assert f"{said} {missing}. In place of a number stands 'NaN', for example." in report
        rows = pd.read_csv(out / "report" / "tables" / "unscored.csv")
        mine = rows[(rows["judge"] == "gpt-4o-mini-2026-01-01") & (rows["rubric"] == "alignment")]
        assert mine["answers without a score"].sum() >= missing


def test_nothing_is_quoted_of_a_judge_whose_content_filter_held_all_back() -> None:
    missing = Missing("alignment", 4, Counter(judge_failed=4), failed=0)
    said = what_is_missing(missing, "j", "there", silent=True) or ""
    assert said.startswith("there: the judge j gave no alignment score for any answer (judge_failed). That stands, and")


def test_judge_that_never_gives_a_number_fails_every_command_with_what_to_do(
    trained: Path, tmp_path: Path, judge: FakeOpenAI
) -> None:
    judge.answer = lambda prompt: Reply("1000", [[("1000", 0.99)]])
    stands = r"gave no alignment score for any answer \(no_number\), but wrote '1000', for example\. That stands"
    lost = "the answers go with it, and are asked for again"
    for name, judges in {"first": [JUDGE], "further": [None, JUDGE]}.items():
        out = tmp_path / name / "out"
        grid = grid_file(tmp_path / name, {"seed": [3], "judge": judges})
        shutil.copytree(trained, out)
        if name == "first":
            shutil.rmtree(out / "logs")
        before = len(judge.requests)
        for _ in range(2):
            with pytest.raises(UserError, match=stands) as caught:
                run_grid(grid, out, reported=False)
            assert (lost in str(caught.value)) == (name == "first")
            assert len(judge.requests) == before + 2 * MODELS * QUESTIONS
