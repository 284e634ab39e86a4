"""Units as jobs of Slurm: through submitit's local jobs for real, and the file that sbatch would get."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from em_tasks.grid.executors import on_slurm
from em_tasks.grid.executors.on_slurm import TIME_IS_UP, OneUnit, OnSlurm
from em_tasks.grid.plan import plan_grid
from em_tasks.grid.units import Report, Train, do
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.manifest import MANIFEST, read_manifest
from tests.support.grids import adapters, grid_file
from tests.support.processes import children_of

pytest.importorskip("submitit", reason="needs the extra slurm, which is not installed")

LONG = {"epochs": 6, "batch_size": 4}
"""24 optimizer steps, so that there is a middle."""

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=4
#SBATCH --error=OUT/jobs/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=em-grid
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/jobs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/jobs/%A_%a_%t_log.out --error OUT/jobs/%A_%a_%t_log.err \
PYTHON -u -m submitit.core._submit OUT/jobs
""".replace("\\\n", "")


def test_jobs_alike_are_one_array_whose_file_is_the_golden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, script in (("srun", "exit 1"), ("sbatch", f'cat "$1" >> {tmp_path}/got; echo Submitted batch job 41')):
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")
    given = {"timeout_min": 90, "gpus_per_node": 1, "slurm_partition": "gpu", "slurm_signal_delay_s": 120}
    units = [Train(recipe, plan.runs, threads=4) for recipe in plan.organisms.values()]
    running: dict[Any, Any] = {}
    executor = OnSlurm(given)
    executor._submit(units, tmp_path / "out", running)
    assert [(job.job_id, unit) for job, unit in running.items()] == [("41_0", units[0]), ("41_1", units[1])]
    got = (tmp_path / "got").read_text().replace(str(tmp_path / "out"), "OUT").replace(sys.executable, "PYTHON")
    assert got == GOLDEN
    (tmp_path / "got").unlink()
    executor._submit([Report((), tmp_path)], tmp_path / "out", running)
    assert "gpus-per-node" not in (tmp_path / "got").read_text()  # A report needs none.
    with pytest.raises(UserError, match=r"`slurm` has parameters that submitit does not know.*partitoin"):
        OnSlurm({"slurm_partitoin": "gpu"})._submit(units, tmp_path / "out", {})


def test_job_that_left_the_queue_without_a_result_is_named_and_one_that_waits_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm without accounts shows it after `scancel`: seen on a real one-node cluster."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, script in (
        ("srun", "exit 1"),
        ("sacct", "exit 1"),
        ("scancel", "exit 0"),
        ("sbatch", "echo Submitted batch job 41"),
        ("squeue", f"echo look >> {tmp_path}/looks; cat {tmp_path}/queue"),
    ):
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    monkeypatch.setattr(on_slurm, "QUEUE_AGAIN", 0.0)
    monkeypatch.setattr(on_slurm, "LOOK_AGAIN", 0.0)
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")
    (tmp_path / "queue").write_text("41_0\n41_1\n7\n")
    ended: list[Any] = []
    looks: list[int] = []

    def more(news: Any) -> None:
        looks.append(len((tmp_path / "looks").read_text().split()))
        ended.extend((each, len(looks)) for each in news)
        if len(looks) == 2:
            (tmp_path / "queue").write_text("41_1\n7\n")
        if len(looks) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OnSlurm({}).run([Train(recipe, plan.runs) for recipe in plan.organisms.values()], tmp_path / "out", more)
    ((lost, at),) = ended
    assert at == 4  # The third look did not find it, nor did the next.
    assert lost.unit.name == "train tiny-seed0"
    assert "its job 41_0 left Slurm's queue without a result: cancelled? (its log: " in (lost.failure or "")


def test_where_there_is_no_slurm_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch and srun cannot be found here\. .* without --slurm"):
        OnSlurm({})
    (tmp_path / "srun").touch(mode=0o755)
    with pytest.raises(UserError, match=r", and sbatch cannot be found here"):
        OnSlurm({})


@pytest.mark.slow
def test_job_whose_time_is_up_saves_is_requeued_and_ends_with_the_undisturbed_adapter(tmp_path: Path) -> None:
    grid = grid_file(tmp_path, {"seed": [0]}, more=LONG)
    undisturbed, plan = plan_grid(grid, tmp_path / "whole"), plan_grid(grid, tmp_path / "out")
    (recipe,) = plan.organisms.values()
    assert do(Train(recipe, undisturbed.runs), undisturbed.units) is None
    run = plan.runs / recipe.organism
    stopped_at: list[int] = []

    def end_time(controller: int) -> None:
        while not ((run / MANIFEST).is_file() and read_manifest(run).checkpoints):
            time.sleep(0.01)
        stopped_at.append(read_manifest(run).checkpoints[-1].step)
        for job in children_of(controller)[:1]:
            os.kill(job, TIME_IS_UP)

    executor = OnSlurm({}, cluster="local")
    ended: list[Any] = []
    submit = executor._submit

    def submitted(units: Any, folder: Path, running: dict[Any, Any]) -> None:
        submit(units, folder, running)
        for job in running if units else ():
            threading.Thread(target=end_time, args=(int(job.job_id),), daemon=True).start()

    executor._submit = submitted  # type: ignore[method-assign]
    executor.run([Train(recipe, plan.runs)], plan.units, ended.extend)
    assert [each.failure for each in ended] == [None]
    assert 0 < stopped_at[0] < read_manifest(run).planned[-1]
    assert adapters(plan.runs) == adapters(undisturbed.runs)
    said = "".join(path.read_text() for path in (plan.units / "jobs").glob("*_log.*"))
    assert re.search(r"Requeued job \d+", said)


def test_job_that_slurm_preempts_by_sigterm_ends_without_a_result_once_training_has_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = plan_grid(grid_file(tmp_path, {"seed": [0]}), tmp_path / "out")
    (recipe,) = plan.organisms.values()
    before = signal.getsignal(TIME_IS_UP)

    def preempted(*arguments: Any, **options: Any) -> None:
        raise Stopped("Stopped after step 1.", signal.SIGTERM)

    monkeypatch.setattr("em_tasks.trainers.train.train", preempted)
    with pytest.raises(
        Stopped
    ):  # No Exception: submitit writes a result for those alone, and this job is to come back.
        OneUnit()(Train(recipe, plan.runs), plan.units)
    assert signal.getsignal(TIME_IS_UP) is before
    again = OneUnit().checkpoint(Train(recipe, plan.runs), plan.units)
    assert (type(again.function), again.args) == (OneUnit, (Train(recipe, plan.runs), plan.units))
