"""Units as jobs of Slurm, through submitit: arrays of them, requeued when they are preempted or their time is up."""

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from em_tasks.grid.executors.protocol import Ended, More
from em_tasks.grid.places import Place
from em_tasks.grid.units import Train, Unit, do
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.pool import signals_stop
from em_tasks.trainers.loop.stopping import Stopped

LOOK_AGAIN = 1.0
"""Seconds between two looks at what has ended."""
QUEUE_AGAIN = 20.0
"""Seconds between two looks at Slurm's queue. A result may come over a slow shared folder for as long."""
SLURMS_COMMANDS = ("sbatch", "srun")
TIME_IS_UP = signal.SIGUSR2
"""The signal that submitit has Slurm send some time before a job's end."""


class OnSlurm:
    """Jobs of Slurm.

    Args:
        parameters: Of the jobs, by submitit's names: `timeout_min`, `gpus_per_node`, `slurm_partition`, ...
        cluster: `slurm`, or `local` for processes here that are started as jobs are.

    Raises:
        UserError: submitit is not installed, or there is no Slurm here.
    """

    def __init__(self, parameters: dict[str, Any], cluster: str = "slurm") -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("--slurm needs the extra slurm: pip install 'em-tasks[slurm]'.") from None
        self._submitit: Any = submitit
        self._parameters, self._cluster = parameters, cluster
        self._looked, self._missed = 0.0, set[str]()
        missing = [tool for tool in SLURMS_COMMANDS if shutil.which(tool) is None]
        if cluster == "slurm" and missing:
            raise UserError(
                f"--slurm has Slurm do the work, by its commands, and {' and '.join(missing)} cannot be found here. "
                "This machine is no node of a Slurm cluster, or its commands are not on the PATH. Log in to a node of "
                "the cluster (some need `module load slurm` there) and give the same command; without --slurm it all "
                "runs on this machine."
            )

    @property
    def width(self) -> int:
        """Jobs of an array that may run at a time."""
        return int(self._parameters.get("slurm_array_parallelism", 8))

    def places(self, sign: Path) -> list[Place] | None:
        """None: which nodes there will be is Slurm's to choose."""
        return None

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        """Submits every unit, those that need alike as one array."""
        running: dict[Any, Unit] = {}
        with signals_stop():
            try:
                self._submit(units, folder, running)
                while True:
                    ended = [Ended(running.pop(job), _failure(job)) for job in [j for j in running if self._done(j)]]
                    ended += [Ended(running.pop(job), _lost(job)) for job in self._gone(running)]
                    coming = more(ended)
                    self._submit(coming or (), folder, running)
                    if coming is None and not running:
                        return
                    time.sleep(LOOK_AGAIN if running and not coming else 0)
            finally:
                for job in running:
                    job.cancel(check=False)

    def _done(self, job: Any) -> bool:
        """Whether a job has a result; of a process here also whether it is gone."""
        if self._cluster != "slurm":
            return bool(job.done())
        with suppress(OSError):
            job.paths.folder.chmod(job.paths.folder.stat().st_mode)  # Has a network's file system look again.
        return bool(job.paths.result_pickle.exists())

    def _gone(self, running: dict[Any, Unit]) -> list[Any]:
        """Jobs that two looks running did not find in Slurm's queue: cancelled, or ended with their node.

        submitit would ask Slurm's accounts, which many clusters do not keep, and wait without end.
        """
        if self._cluster != "slurm" or time.monotonic() - self._looked < QUEUE_AGAIN:
            return []
        self._looked = time.monotonic()
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
        if queue.returncode != 0:  # The controller is being started again, perhaps.
            return []
        missing = [job for job in running if job.job_id not in queue.stdout.split()]
        gone = [job for job in missing if job.job_id in self._missed and not self._done(job)]
        self._missed = {job.job_id for job in missing}
        return gone

    def _submit(self, units: Sequence[Unit], folder: Path, running: dict[Any, Unit]) -> None:
        needs = [(unit.gpu > 0, unit.threads) for unit in units]
        for gpu, threads in dict.fromkeys(needs):
            alike = [unit for unit, need in zip(units, needs, strict=True) if need == (gpu, threads)]
            executor = self._executor(folder, gpu=gpu, threads=threads)
            running.update(zip(executor.map_array(OneUnit(), alike, [folder] * len(alike)), alike, strict=True))

    def _executor(self, folder: Path, *, gpu: bool, threads: int) -> Any:
        executor = self._submitit.AutoExecutor(folder / "jobs", cluster=self._cluster, slurm_max_num_timeout=100)
        parameters = {"name": "em-grid", "timeout_min": 240, "cpus_per_task": threads, **self._parameters}
        parameters["slurm_additional_parameters"] = {"requeue": True} | parameters.get(
            "slurm_additional_parameters", {}
        )
        if not gpu:
            parameters.pop("gpus_per_node", None)
        try:
            executor.update_parameters(**parameters)
        except (ValueError, TypeError, NameError) as error:
            raise UserError(f"The grid file's `slurm` has parameters that submitit does not know: {error}") from None
        return executor


class OneUnit:
    """What a job does: one unit. A run in training saves before its job gives way."""

    def __call__(self, unit: Unit, folder: Path) -> str | None:
        """Does the unit."""
        requeue, time_is_up = signal.getsignal(TIME_IS_UP), False

        def stop_training(number: int, frame: FrameType | None) -> None:
            nonlocal time_is_up
            time_is_up = True
            signal.raise_signal(signal.SIGTERM)  # Which training takes as the request to save and stop.

        if isinstance(unit, Train):
            signal.signal(TIME_IS_UP, stop_training)
        try:
            return do(unit, folder)
        except Stopped:
            if time_is_up:
                signal.signal(TIME_IS_UP, requeue)
                signal.raise_signal(TIME_IS_UP)
            raise
        finally:
            signal.signal(TIME_IS_UP, requeue)

    def checkpoint(self, unit: Unit, folder: Path) -> Any:
        """What is submitted again: the same, which goes on from what is saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, unit, folder)


def _lost(job: Any) -> str:
    """What is to be said of a job that is gone."""
    return f"its job {job.job_id} left Slurm's queue without a result: cancelled? (its log: {job.paths.stderr})"


def _failure(job: Any) -> str | None:
    """What went wrong with a job that ended."""
    try:
        failure: str | None = job.result()
    except Exception as error:  # submitit raises several, with the job's own traceback in them
        reason = " ".join(str(error).split())
        return f"its job {job.job_id} ended without a result: {reason[-400:]} (its log: {job.paths.stderr})"
    return failure
