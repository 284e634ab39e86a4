"""A sweep that is killed, doubled, judged later or overtaken by training ends with an undisturbed one's answers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from em_tasks.sweep import run
from em_tasks.sweep.logs import ANSWERS, alone_in
from em_tasks.sweep.plan import Job, Planner, SweepOptions
from em_tasks.trainers.run.manifest import read_manifest, write_manifest
from tests.support.paths import ROOT
from tests.support.processes import all_gone, children_of
from tests.support.sweeps import answers, read_all, run_sweep, sweep_planned

OPTIONS = ("--organism", "small", "--questions", "general", "--samples", "3")


def sweeping(runs: Path, logs: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "em_tasks", "sweep", str(runs), "--logs", str(logs), *OPTIONS]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def journals(logs: Path) -> list[Path]:
    """The files in which a sweep keeps answers as they come."""
    return list(logs.rglob(f"{ANSWERS}/*.jsonl"))


def kept(logs: Path) -> list[str]:
    """The answers in the journals, as they are now."""
    lines = [line for path in journals(logs) for line in path.read_bytes().splitlines()]
    texts = []
    for line in lines:
        try:
            texts.append(json.loads(json.loads(line)[1])["choices"][0]["message"]["content"])
        except ValueError:
            continue
    return texts


def end_after(runs: Path, logs: Path, count: int, number: signal.Signals) -> tuple[int, list[str]]:
    """Ends a sweep by a signal once so many answers are kept; nothing of it may be left."""
    with sweeping(runs, logs) as process:
        # Only lines are counted here: what looks hard and often takes the processor that the sweep is to answer with.
        while process.poll() is None and sum(path.read_bytes().count(b"]\n") for path in journals(logs)) < count:
            time.sleep(0.05)
        left = children_of(process.pid)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        assert all_gone(left), output
        return process.returncode, [output]


@pytest.fixture(scope="module")
def whole(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], str]:
    """The answers of two undisturbed sweeps at once, which do the work once."""
    logs = tmp_path_factory.mktemp("whole")
    with sweeping(trained_runs, logs) as one, sweeping(trained_runs, logs) as two:
        outputs = [process.communicate(timeout=240)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outputs
    assert len(read_all(logs)) == 5
    undisturbed = answers(logs)
    assert len(undisturbed) == 150
    return undisturbed


@pytest.mark.slow
def test_killed_sweep_leaves_nothing_running_and_goes_on_without_asking_again(
    trained_runs: Path, whole: dict[tuple[str, str, int], str], tmp_path: Path
) -> None:
    logs = tmp_path / "killed"
    code, output = end_after(trained_runs, logs, 5, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "answers that came are kept" in output[0]
    first = kept(logs)
    assert end_after(trained_runs, logs, len(first) + 20, signal.SIGKILL)[0] == -signal.SIGKILL
    second = kept(logs)
    assert 5 <= len(first) < len(second) < 150
    (logs / "toy-s" / "torn.eval").write_bytes(b"PK\x03\x04 half a log")
    reports: list[Any] = []
    run_sweep(trained_runs, logs, reports.append, organisms=["small"], questions=("general",), samples=3)
    assert any("torn.eval cannot be read as a log" in str(report.note) for report in reports)
    assert answers(logs) == whole
    assert all(text in whole.values() for text in second)
    assert kept(logs) == []  # What is in the logs is kept there alone.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 kB, which not even half of the sweep's answers fit on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small file system of its own, and mounting one is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_full_disk_is_said_and_the_same_command_goes_on_once_there_is_room(
    trained_runs: Path, whole: dict[tuple[str, str, int], str], small_disk: Path
) -> None:
    logs = small_disk / "logs"
    with sweeping(trained_runs, logs) as process:
        output = process.communicate(timeout=240)[0]
    assert process.returncode == 1, output
    last = output.strip().splitlines()[-1]
    assert "The disk is full, or a quota is reached: free some space" in last, output
    assert "Run the same command again to go on" in last
    assert "Traceback" not in output
    came = kept(logs)
    assert 5 <= len(came) < 150
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    reports: list[Any] = []
    run_sweep(trained_runs, logs, reports.append, organisms=["small"], questions=("general",), samples=3)
    assert answers(logs) == whole
    assert all(text in whole.values() for text in came)


@pytest.mark.slow
def test_answers_judged_later_need_no_judge_yet_and_are_the_same_and_not_asked_for_again(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"questions": ("general",), "organisms": ["small"]}
    first: list[Any] = []
    with monkeypatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setattr(import_module("em_tasks.em"), "default_grader", lambda toy: "openai/gpt-4o-mini")
        run_sweep(trained_runs, tmp_path, first.append, score=False, **asked)
    assert (first[-1].answered, first[-1].judged) == (50, 0)
    before, files = answers(tmp_path), sorted(tmp_path.rglob("*.eval"))
    assert all(not (log.results and log.results.scores) for log in read_all(tmp_path))
    reports: list[Any] = []
    run_sweep(trained_runs, tmp_path, reports.append, **asked)
    assert answers(tmp_path) == before
    assert sorted(tmp_path.rglob("*.eval")) == files
    assert all(log.results and log.results.scores for log in read_all(tmp_path))
    assert reports[-1].tokens == 0
    assert reports[-1].judged == len(before) == 50


@pytest.mark.slow
def test_checkpoint_that_lands_while_a_sweep_follows_is_evaluated(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LOOK_AGAIN", 0.1)
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    whole = read_manifest(runs / "small")
    write_manifest(runs / "small", whole.model_copy(update={"checkpoints": whole.checkpoints[:3]}))
    begun: list[list[str]] = []

    def land(jobs: Sequence[Job]) -> None:
        begun.append([subject.name for job in jobs for subject in job.subjects])
        write_manifest(runs / "small", whole)

    planner = Planner(runs, tmp_path / "logs", SweepOptions(questions=("general",)))
    sweep_planned(planner, follow=True, planned=land)
    assert begun == [["toy-s@base", "small@1", "small@2", "small@3"], ["small@4"]]
    assert len(answers(tmp_path / "logs")) == 50


def test_folder_of_logs_has_one_writer_at_a_time(tmp_path: Path) -> None:
    inside, most, notes = 0, 0, list[str]()

    def write() -> None:
        nonlocal inside, most
        with alone_in(tmp_path / "logs", notes.append):
            inside += 1
            most = max(most, inside)
            os.sched_yield()
            inside -= 1

    threads = [threading.Thread(target=write) for _ in range(5)]
    with alone_in(tmp_path / "logs", notes.append):
        for thread in threads:
            thread.start()
        while len(notes) < 5:
            time.sleep(0.01)
    for thread in threads:
        thread.join(10)
    assert most == 1
    assert all("another process is writing logs into" in note for note in notes)
