import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from em_tasks.collecting import RARELY
from em_tasks.sweep.pool import Outcome, Pool, Work
from tests.support.paths import ROOT
from tests.support.pool_work import be_killed, double, fail, see_gpu, see_thresholds
from tests.support.processes import all_gone, children_of


def run(works: list[Work], slots: int = 1, more: Callable[[Any], Any] = lambda ended: None) -> dict[str, Outcome]:
    outcomes = Pool([{"CUDA_VISIBLE_DEVICES": str(n)} for n in range(slots)], lambda message: None).run(works, more)
    return {outcome.work.name: outcome for outcome in outcomes}


def test_work_reports_and_gives_its_result_and_more_may_come() -> None:
    told: list[str] = []
    later = [Work("later", double, (4,))]
    pool = Pool([{}], told.append)
    outcomes = pool.run([Work("first", double, (2,))], lambda ended: [later.pop()] if later and ended else None)
    assert {outcome.work.name: outcome.result for outcome in outcomes} == {"first": 4, "later": 8}
    assert told == ["doubling 2", "doubling 4"]


def test_processes_at_the_same_time_see_a_gpu_each() -> None:
    outcomes = run([Work("a", see_gpu), Work("b", see_gpu)], slots=2)
    assert {outcome.result for outcome in outcomes.values()} == {"0", "1"}


def test_processes_look_for_garbage_rarely_and_not_at_their_end() -> None:
    """What a start imports, a million objects that stay, was looked through for a third of its processor time."""
    assert run([Work("a", see_thresholds)])["a"].result == RARELY
    # Functions to be called at the end are called last first.
    last = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000))"
    program = f"{last}; from em_tasks.commands.cli import main; print(gc.get_freeze_count()); main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[0::2] == ["0", "True"], ended.stdout


def test_killed_process_is_named_with_what_it_did_and_takes_no_other_along() -> None:
    outcomes = run([Work("evaluating toy-l", be_killed), Work("evaluating toy-s", double, (3,))], slots=2)
    assert outcomes["evaluating toy-s"].result == 6
    error = str(outcomes["evaluating toy-l"].error)
    assert "evaluating toy-l: its process was killed (SIGKILL), as the system does when memory is full" in error
    assert "41 answers came" in error


def test_errors_are_told_in_words_and_faults_of_ours_with_their_traceback() -> None:
    kinds = [Work(kind, fail, (kind,)) for kind in ("user", "disk", "ours")]
    errors = {name: str(outcome.error) for name, outcome in run(kinds, slots=3).items()}
    assert errors["user"] == "The base is gone. Bring it back."
    assert errors["disk"].startswith("The disk is full, or a quota is reached: free some space.")
    assert "/logs/x.eval" in errors["disk"]
    assert "Traceback" not in errors["disk"]
    assert "Traceback" in errors["ours"]
    assert "ZeroDivisionError: a fault of ours" in errors["ours"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_command_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    """Neither the process, nor what it started, nor any helper, whichever way the parent goes."""
    command = [sys.executable, "-m", "tests.support.pool_work", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"here\n"
        left = [int(pid) for pid in (tmp_path / "pids").read_text().split()] + children_of(parent.pid)
        parent.send_signal(number)
        parent.wait(20)
    assert parent.returncode != 0
    assert all_gone(left)


def test_work_that_wants_a_gpu_alone_waits_for_all_of_its_slots_and_what_is_behind_it_waits_too() -> None:
    pool = Pool([{"GPU": gpu} for gpu in ("0", "1", "0", "1")], lambda message: None)
    small, large = Work("small", see_gpu), Work("large", see_gpu, alone=True)

    def start(work: Work) -> list[int]:
        slots = pool._slots_for(work)
        pool._running.append(SimpleNamespace(work=work, slots=slots))
        return slots

    assert (start(small), start(large)) == ([0], [1, 3])
    assert pool._slots_for(large) == []
    assert start(small) == [2]
    pool._running = [running for running in pool._running if running.work is large]
    assert start(large) == [0, 2]
    assert pool._slots_for(small) == []
