"""NVIDIA's multi-process server for the time of a sweep, with a stand-in for its control program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from em_tasks.sweep import mps
from em_tasks.sweep.gpus import gpu_slots
from em_tasks.sweep.mps import side_by_side
from tests.support.processes import all_gone, children_of

CONTROL = """#!/bin/sh
[ "$1" = -f ] || { read word; echo "$word" >> "$PIDS.said"; exit; }
[ -z "$CUDA_VISIBLE_DEVICES" ] || exit 4
echo $$ > "$PIDS"
touch "$CUDA_MPS_PIPE_DIRECTORY/control"
exec tail -f /dev/null
"""


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the stand-in, first on PATH, writes its process id to; CUDA begins under it."""
    control = tmp_path / "bin" / mps.CONTROL
    control.parent.mkdir()
    control.write_text(CONTROL)
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{control.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(mps, "BEGIN", "")
    monkeypatch.setattr(mps, "USUAL_PIPES", tmp_path / "none")
    return tmp_path / "pids"


def test_server_runs_while_processes_share_a_gpu_and_not_after(pids: Path) -> None:
    with side_by_side(gpu_slots(3)) as environment:
        folder = Path(environment[mps.PIPES])
        server = int(pids.read_text())
        os.kill(server, 0)
        assert (folder / "control").exists()
    assert pids.with_name("pids.said").read_text() == "quit\n"
    # This one does not listen.
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_killed_sweep_leaves_neither_server_nor_folder(pids: Path) -> None:
    script = (
        "import time\nfrom em_tasks.sweep import mps\nmps.BEGIN = ''\n"
        "with mps.side_by_side([{}, {}]) as environment:\n"
        "    print(environment[mps.PIPES], flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as sweep:
        assert sweep.stdout is not None
        folder = Path(sweep.stdout.readline().strip())
        assert folder.is_dir()
        started = children_of(sweep.pid)
        assert int(pids.read_text()) in started
        os.kill(sweep.pid, signal.SIGKILL)
    assert all_gone(started)
    assert not folder.exists()


def test_server_that_does_not_serve_is_done_without(pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "BEGIN", "raise SystemExit(1)")  # As in a container that may not reach it.
    with side_by_side(gpu_slots(3)) as environment:
        assert environment == {}
    monkeypatch.setattr(mps, "BEGIN", "")
    (pids.parent / "bin" / mps.CONTROL).write_text("#!/bin/sh\nexit 1\n")
    with side_by_side(gpu_slots(3)) as environment:
        assert environment == {}


@pytest.mark.parametrize("reason", ["one process", "several GPUs", "a server of the user's", "the usual one"])
def test_none_is_started_where_it_is_not_wanted(pids: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason == "several GPUs":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    if reason == "a server of the user's":
        monkeypatch.setenv(mps.PIPES, "/theirs")
    if reason == "the usual one":
        mps.USUAL_PIPES.mkdir()
        (mps.USUAL_PIPES / "control").touch()
    with side_by_side(gpu_slots(1 if reason == "one process" else 4)) as environment:
        assert environment == {}
    assert not pids.exists()
