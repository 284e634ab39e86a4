"""A sweep: every job in a process of its own, what lands meanwhile taken along, and what failed told at the end."""

import shutil
import time
from collections.abc import Callable, Sequence

from em_tasks.sweep.evaluate import Progress, evaluate
from em_tasks.sweep.failures import left_out, not_all_succeeded, what_failed
from em_tasks.sweep.gpus import gpu_slots, processes_worth, threads_for, with_gpu_shares
from em_tasks.sweep.logs import ANSWERS, folders, outstanding, read_logs
from em_tasks.sweep.mps import side_by_side
from em_tasks.sweep.plan import Job, Planner, shared_out
from em_tasks.sweep.pool import Outcome, Pool, Work

LOOK_AGAIN = 10.0
"""Seconds between two looks for new checkpoints."""


def sweep(
    planner: Planner,
    report: Callable[[Progress], None],
    *,
    jobs: int | None = None,
    follow: bool = False,
    mps: bool = True,
    planned: Callable[[Sequence[Job]], None] = lambda jobs: None,
) -> None:
    """Evaluates what is planned and not done.

    Args:
        planner: What to evaluate.
        report: Called when answers came or were judged.
        jobs: Processes at a time; unless given, as many on each GPU as are worth starting and its memory holds, and one
            where there is no GPU.
        follow: Take checkpoints along that land while it runs, until every run is finished.
        mps: Whether processes that share a GPU may run side by side, where there is NVIDIA's server for that.
        planned: Called with the jobs that begin, at first and whenever more come.

    Raises:
        UserError: Some evaluations did not succeed; the message names their logs. What succeeded stands.
        Stopped: SIGINT or SIGTERM came.
    """
    slots = gpu_slots(jobs or processes_worth(outstanding(planner.plan(), read_logs(planner.logs))))
    busy: set[str] = set()  # Bases with a process at work.
    tried: set[tuple[str, str]] = set()  # What was begun once is not begun again by the same command.
    looked = 0.0

    def new_jobs() -> list[Job]:
        nonlocal looked
        looked = time.monotonic()
        plan = planner.plan()
        left = [job for job in outstanding(plan, read_logs(planner.logs)) if job.base not in busy]
        fresh = [job for job in left if any((s.name, s.sha256) not in tried for s in job.subjects)]
        fresh = with_gpu_shares(shared_out(fresh, len(slots), threads_for(len(slots))), slots)
        for job in fresh:
            busy.add(job.base)
            tried.update((s.name, s.sha256) for s in job.subjects)
        if fresh:
            planned(fresh)
        return fresh

    def more(ended: Sequence[Outcome]) -> list[Work] | None:
        for outcome in ended:
            busy.discard(outcome.work.arguments[0].base)
        if not follow:
            return None
        if time.monotonic() - looked < LOOK_AGAIN and not ended:
            time.sleep(0 if busy else 0.2)
            return []
        over = not planner.unfinished
        works = _works(new_jobs())
        return None if over and not works and not busy else works

    works = _works(new_jobs())
    # Not for one process, nor while it waits for checkpoints, when it holds no GPU memory.
    with side_by_side(slots[: len(works)] if mps and not follow else ()) as server:
        outcomes = Pool([{**slot, **server} for slot in slots], report).run(works, more)
    failures = left_out(planner)
    failures += [outcome.error for outcome in outcomes if outcome.error is not None]
    failures += [failure for outcome in outcomes for failure in outcome.result or ()]
    failures += [failure for failure in _odd_logs(planner) if failure not in failures]
    if failures:
        raise not_all_succeeded(failures)


def _works(jobs: Sequence[Job]) -> list[Work]:
    return [Work(job.name, evaluate, (job,)) for job in jobs]


def _odd_logs(planner: Planner) -> list[str]:
    """What is wrong with evaluations that are done; where none is left to do, the kept answers go.

    They stay while an organism is left out: its own may be among them, and no plan says what is left to do of it.
    """
    plan, logs = planner.plan(), read_logs(planner.logs)
    left = {job.folder for job in outstanding(plan, logs)}
    for folder in folders(plan):
        if folder not in left and not planner.damaged:
            shutil.rmtree(folder / ANSWERS, ignore_errors=True)
    entries = [logs.of(job, subject) for job in plan for subject in job.subjects]
    failures = [what_failed(entry[1]) for entry in entries if entry is not None]
    return [failure for failure in failures if failure is not None]
