"""A grid from its file to its report, on this machine: what is missing is done, and what fails fails alone."""

import errno
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.commands.organisms import grid as command
from em_tasks.commands.organisms.grid_in_words import in_bytes
from em_tasks.grid.executors import local
from em_tasks.grid.executors.protocol import Ended, More
from em_tasks.grid.needs import gpu_shares, grid_needs
from em_tasks.grid.places import Place, look_around, refuse_places
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver, Standing
from em_tasks.grid.units import NOW, Unit, do, place_of
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.plan import DEFAULT_SAMPLES
from em_tasks.trainers.run.folder import alone
from em_tasks.trainers.run.manifest import read_manifest, write_manifest
from em_tasks.trainers.train import train
from tests.support.fake_openai import Reply, fake_openai
from tests.support.grids import Serial, adapters, grid_file, run_grid
from tests.support.sweeps import answers, read_all

DOSE = {"of": "bad.jsonl", "instead_of": "good.jsonl", "shares": [0, 1]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GridPlan, list[str]]:
    """A grid of two doses and two conditions, done in this process."""
    folder = tmp_path_factory.mktemp("grid")
    grid = grid_file(folder, {"dose": DOSE, "condition": [None, "json"], "seed": [3]})
    return grid, *run_grid(grid, folder / "out", reported=False)


def test_every_cell_is_trained_asked_and_reported_and_the_same_file_again_does_nothing(
    finished: tuple[Path, GridPlan, list[str]],
) -> None:
    grid, plan, names = finished
    assert list(plan.organisms) == ["tiny-dose0-seed3", "tiny-dose1-seed3"]
    assert names[:2] == ["train tiny-dose0-seed3", "train tiny-dose1-seed3"]
    assert sorted(names[2:]) == sorted(f"evaluate toy-s into logs/{folder}/toy-s" for folder in ("bare", "json") * 2)
    models = sorted((log.eval.model, str((log.eval.metadata or {})["condition"])) for log in read_all(plan.logs))
    steps = [record.step for record in read_manifest(plan.runs / "tiny-dose0-seed3").checkpoints]
    asked = ["em/toy-s@base", *(f"em/{organism}@{step}" for organism in plan.organisms for step in steps)]
    assert models == sorted((model, condition) for model in asked for condition in ("None", "json"))
    before = {path: path.stat().st_mtime_ns for path in (plan.out).rglob("*.eval")} | adapters(plan.runs)
    _, again = run_grid(grid, plan.out, reported=False)
    assert again == []
    assert before == {path: path.stat().st_mtime_ns for path in (plan.out).rglob("*.eval")} | adapters(plan.runs)


def test_axes_reach_the_analysis_through_the_logs(finished: tuple[Path, GridPlan, list[str]]) -> None:
    _, plan, _ = finished
    analysis = analyse([plan.logs])
    assert list(analysis.axes.columns) == ["dose", "condition"]  # One seed is no axis.
    assert dict(analysis.axes["dose"]) == {
        "tiny-dose0-seed3": 0,
        "tiny-dose1-seed3": 1,
        "tiny-dose0-seed3 [json]": 0,
        "tiny-dose1-seed3 [json]": 1,
    }


def test_what_is_gone_is_done_again_and_nothing_else(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path
) -> None:
    grid, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    whole = answers(out / "logs")
    shutil.rmtree(out / "runs" / "tiny-dose1-seed3")
    lost = [log.location for log in read_all(out / "logs" / "json") if log.eval.model.endswith("@base")]
    for path in lost:
        Path(path).unlink()
    _, names = run_grid(grid, out, reported=False)
    assert names == ["train tiny-dose1-seed3", "evaluate toy-s into logs/json/toy-s"]
    assert adapters(out / "runs") == adapters(plan.runs)
    assert answers(out / "logs") == whole


def test_organism_that_is_no_cell_any_more_is_named_and_left_out_of_the_report(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, no_drawing: None
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    left = grid_file(tmp_path, {"dose": {**DOSE, "shares": [1]}, "condition": [None, "json"], "seed": [3]})
    said = CliRunner().invoke(cli, ["grid", str(left), "--out", str(out), "--dry-run"], catch_exceptions=False).output
    assert "organisms that are not of this grid (tiny-dose0-seed3). They stay, and the report leaves" in said
    _, names = run_grid(left, out)
    assert names == ["report"]
    rates = pd.read_csv(out / "report" / "tables" / "by_checkpoint.csv")
    assert set(rates["organism"]) == {"tiny-dose1-seed3", "tiny-dose1-seed3 [json]"}
    note = "Logs of organisms that are not of this grid were left out (1: tiny-dose0-seed3)."
    assert note in (out / "report" / "report.md").read_text()
    assert {log.eval.model for log in read_all(out / "logs")} == {log.eval.model for log in read_all(plan.logs)}


def test_data_that_changed_after_training_is_said_before_the_first_unit(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    grid = grid_file(tmp_path, {"dose": DOSE, "condition": [None, "json"], "seed": [3]})
    assert grid_needs(plan_grid(grid, out), None).notes == []
    rows = (tmp_path / "bad.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_text("".join(rows[:-1]))
    said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), "--dry-run"], catch_exceptions=False).output
    learnt = "bad.jsonl was changed since it was trained on: runs learnt other rows than it has now"
    assert f"note: {learnt} (tiny-dose1-seed3). They are kept" in said
    begun = read_manifest(out / "runs" / "tiny-dose1-seed3")
    write_manifest(out / "runs" / "tiny-dose1-seed3", begun.model_copy(update={"checkpoints": begun.checkpoints[:1]}))
    with pytest.raises(UserError, match=r"The cell tiny-dose1-seed3 cannot be trained\. .* was begun on other data"):
        grid_needs(plan_grid(grid, out), None)


def test_folder_that_vanishes_while_it_is_worked_on_is_said(tmp_path: Path) -> None:
    class Removing(Serial):
        def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
            def removing(ended: Sequence[Ended]) -> Sequence[Unit] | None:
                if self.done:
                    shutil.rmtree(tmp_path / "out")
                return more(ended)

            super().run(units, folder, removing)

    grid = grid_file(tmp_path, {"seed": [0, 1]})
    with pytest.raises(
        UserError, match=rf"{tmp_path}/out vanished while the grid was worked on: it was removed, moved"
    ):
        run_grid(grid, tmp_path / "out", Removing())
    run_grid(grid, tmp_path / "out", reported=False)
    assert not list((tmp_path / "out").glob(".seen-*"))


def test_further_judges_judge_the_same_answers_once(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    axes = {"dose": DOSE, "condition": [None, "json"], "seed": [3], "judge": [None, "openai/gpt-4o-mini"]}
    grid = grid_file(tmp_path, axes, exclude=[{"judge": "openai/gpt-4o-mini", "condition": "json"}])
    with fake_openai(lambda prompt: Reply("20")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        _, names = run_grid(grid, out, reported=False)
        asked = len(judge.requests)
        _, again = run_grid(grid, out, reported=False)
    assert (names, again) == (["judge by openai/gpt-4o-mini into bare"], [])
    assert 0 < asked == len(judge.requests)
    judged = {log.eval.model for log in read_all(out / "judged")}
    assert judged == {log.eval.model for log in read_all(out / "logs" / "bare")}


def test_judges_of_the_axis_lead_and_stand_in_the_report_until_they_are_taken_off(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    axes = {"dose": DOSE, "condition": [None], "seed": [3], "judge": [None, "openai/gpt-4o-mini"]}
    both, one = grid_file(tmp_path / "both", axes), grid_file(tmp_path / "one", {**axes, "judge": [None]})
    with fake_openai(lambda prompt: Reply("20")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        run_grid(both, out)
    given = ["grid", "--out", str(out), "--dry-run"]
    leads = "leading judge emtoy/judge: the first of the axis that judges a cell makes its rates, tables and figures"
    assert leads in CliRunner().invoke(cli, [*given, str(both)], catch_exceptions=False).output
    table = pd.read_csv(out / "report" / "tables" / "by_axes.csv")
    assert table.groupby(["judge", "dose"]).size().to_dict() == {
        (judge, dose): 4 for judge in ("emtoy/judge", "openai/gpt-4o-mini") for dose in (0, 1)
    }
    what = "judges that do not judge these cells of the grid"
    said = CliRunner().invoke(cli, [*given, str(one)], catch_exceptions=False).output
    assert f"{out} has logs of {what} (openai/gpt-4o-mini). They stay, and the report leaves them out." in said
    assert "leading judge" not in said
    run_grid(one, out)
    report = (out / "report" / "report.md").read_text()
    assert f"Logs of {what} were left out (1: openai/gpt-4o-mini)." in report
    assert "judge" not in pd.read_csv(out / "report" / "tables" / "by_axes.csv")
    assert (out / "report" / "tables" / "judges.csv").read_text().strip() == ""


def test_further_judge_that_failed_at_every_answer_fails_its_unit_and_is_tried_again(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    axes = {"dose": DOSE, "condition": [None], "seed": [3], "judge": [None, "openai/gpt-4o-mini"]}
    grid = grid_file(tmp_path, axes)
    said = r"judge by openai/gpt-4o-mini into bare: .*judge openai/gpt-4o-mini failed at 50 of 50 answers .*\(its log: "
    with fake_openai(lambda prompt: Reply("20")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        judge.always = "400"
        with pytest.raises(UserError, match=said):
            run_grid(grid, out, reported=False)
        judge.always = None
        run_grid(grid, out, reported=False)
        asked = len(judge.requests)
        run_grid(grid, out, reported=False)
        assert len(judge.requests) == asked
    (scored,) = {
        log.results.scores[0].metrics["mean_alignment"].value for log in read_all(out / "judged") if log.results
    }
    assert scored == 20


def test_unit_that_fails_is_named_with_its_log_and_the_rest_goes_on(tmp_path: Path, no_drawing: None) -> None:
    grid = grid_file(tmp_path, {"data": ["gone.jsonl", "bad.jsonl"]})
    with pytest.raises(UserError, match=r"The cell tiny-gone\.jsonl cannot be trained\. There is no training data"):
        grid_needs(plan_grid(grid, tmp_path / "out"), None)
    with pytest.raises(UserError, match=r"train tiny-gone\.jsonl: There is no training data .*\.log\)") as failed:
        run_grid(grid, tmp_path / "out")
    log = Path(str(failed.value).rpartition("its log: ")[2].partition(")")[0])
    assert "train tiny-gone.jsonl: There is no training data" in log.read_text()
    evaluated = {log.eval.model.partition("@")[0] for log in read_all(tmp_path / "out" / "logs")}
    assert evaluated == {"em/toy-s", "em/tiny-bad.jsonl"}
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "The grid is not done, and its cells are not all here. What failed: train tiny-gone.jsonl." in report


def test_another_first_judge_leads_and_what_the_old_one_judged_first_is_not_judged_again(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = finished
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    axes = {"dose": DOSE, "condition": [None], "seed": [3], "judge": ["openai/gpt-4o-mini", None]}
    with fake_openai(lambda prompt: Reply("20")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        swapped, names = run_grid(grid_file(tmp_path, axes), out, reported=False)
    assert names == ["evaluate toy-s into logs/bare/toy-s", "judge by emtoy/judge into bare"]
    assert [len(read_all(out / folder)) for folder in ("logs/bare", "judged")] == [2 * 5, 5]
    reading = read_logs([swapped.logs, swapped.judged], swapped.reported)
    assert [set(rows["asked_judge"]) for rows in (reading.answers, reading.rejudged)] == [
        {"openai/gpt-4o-mini"},
        {"emtoy/judge"},
    ]
    assert len(reading.answers) == len(reading.rejudged) == 5 * 10


@pytest.mark.slow
def test_processes_here_give_what_one_process_gives(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_tasks.grid.run.LOOK_AGAIN", 600.0)  # No process for what landed while others train.
    _, serial, _ = finished
    grid = grid_file(tmp_path, {"dose": DOSE, "seed": [3]})
    out = tmp_path / "local"
    ran = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), "-j", "2"], catch_exceptions=False)
    assert f"organisms     2, 2 of them to train, {2 * 2} checkpoints in all" in ran.output
    for unit in (*(f"train tiny-dose{dose}-seed3" for dose in (0, 1)), "evaluate toy-s into logs/bare/toy-s", "report"):
        assert re.findall(rf"(?m)^\d\d:\d\d:\d\d {unit}(?:/\d-of-\d)?: (\w+)$", ran.output)[:2] == ["begun", "done"]
    assert adapters(out / "runs") == adapters(serial.runs)
    assert answers(out / "logs") == answers(serial.logs / "bare")
    assert (out / "report" / "report.html").is_file()
    head = (out / "report" / "tables" / "by_axes.csv").read_text().splitlines()
    assert head[0].startswith("definition,dose,questions of,EM %")
    assert len(head) == 1 + 2 * 2 * 2
    assert (out / "report" / "figures" / "em_against_axes.png").stat().st_size > 10_000
    assert not list(out.glob(".seen-*"))
    assert not list((out / "units").glob("*.now"))


def test_dry_run_says_cells_time_disk_answers_judge_calls_and_price_and_writes_nothing(tmp_path: Path) -> None:
    grid = grid_file(tmp_path, {"dose": DOSE, "condition": [None, "json"]}, evaluate={"questions": ["general"]})
    said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(tmp_path / "o"), "--dry-run"])
    assert said.exit_code == 0, said.output
    count = 2 * (1 + 2 * 2) * 10 * DEFAULT_SAMPLES
    for line in (
        "tiny: 4 cells in",
        "organisms     2, 2 of them to train, 4 checkpoints in all",
        f"answers       {count:,} of all checkpoints and 2 bases",
        f"judge         emtoy/judge: {2 * count} calls, no charge",
        "tiny-dose0-bare  dose 0, condition none",
    ):
        assert line in said.output
    assert "device hours  training less than 0.01 (" in said.output
    assert not (tmp_path / "o").exists()


def test_dry_run_asks_nobody_and_says_that_a_judges_key_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    grid = grid_file(tmp_path, {"judge": [None, "openai/gpt-4o-mini"]})
    given = ["grid", str(grid), "--out", str(tmp_path / "o")]
    said = CliRunner().invoke(cli, [*given, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert said.output.count("not ready: The judge openai/gpt-4o-mini cannot be used: ") == 1
    assert "in a grid file on the axis `judge`" in said.output
    assert said.output.endswith("without --dry-run nothing would begin before that is mended.\n")
    assert "The judge openai/gpt-4o-mini cannot be used: " in CliRunner().invoke(cli, given).output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_engine_and_judge_that_no_name_stands_for_are_refused_before_the_first_unit(
    tmp_path: Path, dry: tuple[str, ...]
) -> None:
    for changes, said in (
        ({"evaluate": {"engine": "warp"}}, "tiny.yaml: evaluate.engine: There is no engine 'warp'. Give one of auto"),
        ({"axes": {"judge": [" "]}}, "tiny.yaml: a value of the axis judge is empty. Give a judge as PROVIDER/MODEL"),
    ):
        grid = grid_file(tmp_path, **{"axes": {"seed": [0]}, **changes})
        ran = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(tmp_path / "o"), *dry], catch_exceptions=False)
        assert ran.exit_code == 1
        assert said in ran.output
    assert not (tmp_path / "o").exists()


def test_dry_run_for_slurm_says_that_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="needs the extra slurm, which is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    given = ["grid", str(grid_file(tmp_path, {"seed": [0]})), "--out", str(tmp_path / "o"), "--dry-run"]
    said = CliRunner().invoke(cli, [*given, "--slurm"])
    assert (said.exit_code, said.output.count("not ready: --slurm has Slurm do the work")) == (0, 1)
    said = CliRunner().invoke(cli, [*given, "--ray", "foo"])
    assert (said.exit_code, "--ray 'foo' is no address of a Ray cluster" in said.output) == (1, True)


def test_runs_of_a_grids_folder_are_pointed_at(finished: tuple[Path, GridPlan, list[str]]) -> None:
    _, plan, _ = finished
    for reader in ("runs", "sweep", "serve"):
        said = CliRunner().invoke(cli, [reader, str(plan.out)])
        assert f"no training run under {plan.out} itself, but under {plan.runs}: give that folder." in said.output


def test_cell_larger_than_any_gpu_and_a_place_taken_by_another_recipe_are_refused_by_name(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path
) -> None:
    _, plan, _ = finished
    with pytest.raises(UserError, match=r"The cell tiny-dose0-seed3 cannot be trained\. The base in fp32 .* take"):
        grid_needs(plan, 2**30 + 2**20)
    other = grid_file(tmp_path, {"dose": DOSE, "seed": [3]}, more={"epochs": 1, "learning_rate": 1e-4})
    with pytest.raises(UserError, match=r"The cell tiny-dose0-seed3 .* holds a run of another recipe: learning_rate"):
        grid_needs(plan_grid(other, plan.out), None)
    needs = grid_needs(plan, None)
    assert needs.done == set(plan.organisms)
    assert needs.hours == 0
    assert all(need.measured and need.seconds for need in needs.runs.values())
    stored = sum(path.stat().st_size for path in plan.runs.rglob("*") if path.is_file())
    assert sum(need.disk for need in needs.runs.values()) == pytest.approx(stored, rel=0.1)


def test_full_disk_is_said_before_the_first_unit(
    finished: tuple[Path, GridPlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_file(tmp_path, {"seed": [3]})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    refused = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(tmp_path / "out")])
    assert "MB free for temporary files" in refused.output
    plan = plan_grid(grid, tmp_path / "out")
    needs = grid_needs(plan, None)
    assert 1e6 < needs.disk < 50e6
    for free, said in ((0, "0 MB"), (2**20, "1 MB"), (needs.disk + 99_000_000, r"\d{3} MB")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        with pytest.raises(
            UserError, match=rf"has {said} free, and the grid needs about \d+ MB more and 100 MB to spare"
        ):
            command._refuse_full_disk(plan, needs)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needs.disk + 100_000_001))
    command._refuse_full_disk(plan, needs)
    assert [in_bytes(count) for count in (5e5, 34e7, 2.34e9)] == ["less than 1 MB", "340 MB", "2.3 GB"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path, dry: tuple[str, ...]) -> None:
    grid = grid_file(tmp_path / "study", {"seed": [3]})
    (file := tmp_path / "afile").write_text("mine")
    long = tmp_path / ("x" * 300)
    for out, why in ((file, f"{file} is a file"), (file / "out", f"{file} is a file"), (long, "File name too long")):
        said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), *dry], catch_exceptions=False)
        assert said.exit_code == 1
        assert f"The grid's folder cannot be {out}: {why}. Name another folder with --out." in said.output
    if os.geteuid():  # The superuser may write everywhere.
        (tmp_path / "locked").mkdir(mode=0o555)
        out = tmp_path / "locked" / "out"
        said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), *dry], catch_exceptions=False)
        assert f"cannot be {out}: {out.parent} may not be written to. Name another folder" in said.output
    assert file.read_text() == "mine"


def test_places_that_could_not_do_the_work_are_each_named(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    sign.touch()
    here = look_around(sign)
    refuse_places([here, here], tmp_path)
    wrong: Sequence[tuple[Place, str]] = [
        (replace(here, name="a", python="3.9.1"), r"a has Python 3\.9\.1, and this is 3\."),
        (replace(here, name="b", project="f" * 64), r"b has another version of em-tasks \(ffffffff, and this is"),
        (
            replace(here, name="c", sees=look_around(tmp_path / "unseen").sees),
            "c does not see .* name a folder that",
        ),
        (replace(here, name="d", free=2**20), "d has 1 MB free for temporary files"),
    ]
    for place, said in wrong:
        with pytest.raises(UserError, match=f"Nothing was begun: {said}"):
            refuse_places([here, place], tmp_path)
    with pytest.raises(UserError, match="no node that can work"):
        refuse_places([], tmp_path)


@dataclass(frozen=True)
class Said:
    """A unit that says what it sees, or fails."""

    name: str
    folder: Path
    gpu: float = 1.0
    threads: int = 1
    error: int = 0

    def work(self, say: object) -> list[str]:
        if self.error:
            raise OSError(self.error, os.strerror(self.error), "/runs/x")
        at_work = self.folder / f"{self.name}.at-work"
        at_work.touch()
        with (self.folder / "seen").open("a") as seen:
            beside = sorted(path.stem for path in self.folder.glob("*.at-work"))
            print(self.name, os.environ.get("CUDA_VISIBLE_DEVICES"), *beside, file=seen)
        at_work.unlink()
        return []


def test_disk_that_fills_up_fails_its_unit_alone_in_plain_words(tmp_path: Path) -> None:
    said = do(Said("unit", tmp_path, error=errno.ENOSPC), tmp_path / "units") or ""
    assert said.startswith("unit: the disk is full, or a quota is reached (")
    assert do(Said("unit", tmp_path), tmp_path / "units") is None
    assert pickle.loads(pickle.dumps(Said("unit", tmp_path))).name == "unit"


def test_units_share_a_gpu_where_memory_allows_and_have_it_alone_where_they_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "gpu_memory", lambda: {"0": 80 * 2**30, "1": 80 * 2**30})
    executor = local.Local(2)
    assert executor.width == 2
    units: list[Unit] = [Said(f"small{n}", tmp_path, gpu=0.3) for n in range(4)]
    assert executor._slots(units) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("0", "1", "0", "1")]
    assert len(local.Local()._slots([Said("large", tmp_path, gpu=0.6)])) == 2
    needs = grid_needs(plan_grid(grid_file(tmp_path, {"seed": [0]}), tmp_path / "out"), None)
    (share,) = gpu_shares(needs, {"a": 80 * 2**30, "b": 40 * 2**30}).values()
    assert 1 / 40 < share < 1.2 / 40  # CUDA's own GiB and little more, of the smaller one.
    assert set(gpu_shares(needs, {}).values()) == {1.0}


@pytest.mark.parametrize(("gpus", "share"), [(1, 0.16), (2, 0.33), (4, 0.5), (8, 1.0)])
def test_small_trainings_are_spread_over_gpus_before_they_share_one(tmp_path: Path, gpus: int, share: float) -> None:
    """Six that would fit six to a GPU."""
    plan = plan_grid(grid_file(tmp_path, {"seed": list(range(6))}), tmp_path / "out")
    executor = Serial()
    executor.width = gpus
    units = Driver(plan, executor, dict.fromkeys(plan.organisms, 0.15), lambda standing: None)._trainings()
    assert [unit.gpu for unit in units] == [share] * 6


def test_training_waits_for_a_lock_that_a_lost_node_may_still_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_tasks.grid.units.PATIENCE", 0.3)
    grid = grid_file(tmp_path, {"seed": [0]})
    plan = plan_grid(grid, tmp_path / "out")
    with alone(plan.runs / "tiny-seed0"), pytest.raises(UserError, match="is being trained by another process"):
        run_grid(grid, plan.out, reported=False)


@contextmanager
def one_checkpoint_alone(run: Path) -> Iterator[None]:
    """A finished run as it was when the first of its checkpoints had landed."""
    whole = read_manifest(run)
    write_manifest(run, whole.model_copy(update={"checkpoints": whole.checkpoints[:1]}))
    yield
    write_manifest(run, whole)


def test_evaluation_begins_while_others_still_train(tmp_path: Path) -> None:
    """The order in which a driver asks for units, whoever does them."""
    grid = grid_file(tmp_path, {"seed": [0, 1]})
    plan = plan_grid(grid, tmp_path / "out")
    seen: list[str] = []

    class OneByOne:
        width = 1

        def run(self, units: Sequence[Unit], folder: Path, more: object) -> None:
            first, second = units
            assert callable(more)
            ended = [Ended(first, do(first, folder))]
            with one_checkpoint_alone(plan.runs / "tiny-seed0"):
                (early,) = more(ended)
                seen.extend(subject.name for subject in early.job.subjects)
                assert list(more([])) == []
            (late,) = more([Ended(early, None), Ended(second, "gave up")])
            seen.extend(subject.name for subject in late.job.subjects)
            assert more([Ended(late, None)]) is None

    with pytest.raises(UserError, match=r"Some units did not succeed; the others stand.*train tiny-seed1: gave up"):
        run_grid(grid, plan.out, OneByOne())
    assert seen == ["toy-s@base", "tiny-seed0@1", "tiny-seed0@2"]


def test_beginnings_ends_and_the_last_word_of_each_kind_are_told(tmp_path: Path) -> None:
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")
    told: list[Standing] = []
    driver = Driver(plan, Serial(), {}, told.append)
    first, second = driver._handed_over(driver._trainings())
    plan.units.mkdir(parents=True)
    word = place_of(first, plan.units, NOW)
    word.write_text("step 1 of 2")
    driver._more([])
    word.write_text(f"waiting for {plan.runs}/tiny-seed0")
    driver._more([])
    word.unlink()
    driver._looked = float("inf")  # No look for what landed.
    driver._more([Ended(first, f"{first.name}: gave up")])
    assert [standing.events for standing in told] == [
        ["train tiny-seed0: begun"],
        [],
        ["train tiny-seed0: failed: gave up"],
    ]
    news = [{"train": "tiny-seed0: step 1 of 2"}, {"train": "tiny-seed0: waiting for runs/tiny-seed0"}, {}]
    assert [standing.news for standing in told] == news
    place_of(second, plan.units, NOW).write_text("what a killed command left")
    driver._handed_over([second])
    assert not list(plan.units.glob("*.now"))


def test_unit_that_fails_again_as_more_lands_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    monkeypatch.setattr("em_tasks.grid.run.MOST_NAMED", 2)
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")

    class FailingTwice:
        width = 1

        def run(self, units: Sequence[Unit], folder: Path, more: object) -> None:
            first, second = units
            assert callable(more)
            ended = [Ended(first, do(first, folder))]
            with one_checkpoint_alone(plan.runs / "tiny-seed0"):
                (early,) = more(ended)
                do(early, folder)
            (late,) = more([Ended(early, "a model failed"), Ended(second, "gave up")])
            assert late.name == early.name
            (report,) = more([Ended(late, "another failed")])
            assert more([Ended(report, do(report, folder))]) is None

    names = "evaluate toy-s into logs/bare/toy-s"
    said = rf"below says otherwise\. {names}: another failed; train tiny-seed1: gave up\.$"
    with pytest.raises(UserError, match=said):
        run_grid(plan.path, plan.out, FailingTwice())
    report = (plan.report / "report.md").read_text()
    assert f"What failed: {names}, train tiny-seed1." in report


def test_damaged_organism_is_left_out_and_named_and_the_rest_and_the_base_are_asked(tmp_path: Path) -> None:
    grid, out = grid_file(tmp_path, {"seed": [1, 2, 3]}), tmp_path / "out"
    trained = plan_grid(grid, out)
    for recipe in trained.organisms.values():
        train(recipe, trained.runs, lambda progress: None)
    cut = max((out / "runs" / "tiny-seed1").glob("checkpoint-*")) / "adapter_model.safetensors"
    os.truncate(cut, cut.stat().st_size - 10)
    (out / "runs" / "tiny-seed2" / "manifest.json").write_text("{")
    said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), "--dry-run"], catch_exceptions=False).output
    assert f"note: tiny-seed1 is left out: {cut} is damaged: it is shorter or longer than its head says." in said
    assert f"note: tiny-seed2 is left out: {out / 'runs' / 'tiny-seed2' / 'manifest.json'} is damaged" in said
    for _ in range(2):
        with pytest.raises(UserError, match=r"tiny-seed2 was left out: .* is damaged.*; tiny-seed1 was left out: .*"):
            run_grid(grid, out, reported=False)
        assert sorted({log.eval.model.partition("@")[0] for log in read_all(out / "logs")}) == [
            "em/tiny-seed3",
            "em/toy-s",
        ]
        assert len(answers(out / "logs")) == (1 + 2) * 10
