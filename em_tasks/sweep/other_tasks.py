"""Any Inspect task on every checkpoint and base: what training did to a model beside its advice.

The same engine answers, over one load of each base, and Inspect's eval sets keep count of what is done. Logs lie beside
those of the `em` task, so that the report finds both.
"""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em_tasks.quiet import quiet_libraries
from em_tasks.sweep.failures import left_out, not_all_succeeded
from em_tasks.sweep.gpus import gpu_slots, threads_for
from em_tasks.sweep.logs import alone_in, model_args, read_logs
from em_tasks.sweep.plan import Job, Planner, Subject
from em_tasks.sweep.pool import Outcome, Pool, Work
from em_tasks.sweep.task_names import tasks_named

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

FOLDER = "other-tasks"


def sweep_tasks(
    planner: Planner,
    tasks: Sequence[str],
    say: Callable[[str], None],
    *,
    limit: int | None = None,
    jobs: int | None = None,
) -> None:
    """Evaluates tasks on everything that is planned; what is done is skipped.

    Args:
        planner: Which checkpoints and bases.
        tasks: As `inspect eval` takes them: `package/task`, `file.py`, `file.py@task`.
        say: Called with a line when a task's evaluation of a model has ended.
        limit: Samples of each task that are asked, all unless given.
        jobs: Processes at a time; one a GPU, or one, unless given.

    Raises:
        UserError: A task is not there, or some evaluations did not succeed; the others stand.
    """
    for task in tasks:
        tasks_named(task)
    slots = gpu_slots(jobs)
    works = [
        Work(job.name, evaluate_tasks, (job, tuple(tasks), limit, threads_for(len(slots)))) for job in planner.plan()
    ]

    def no_more(ended: Sequence[Outcome]) -> None:
        return None

    outcomes = Pool(slots, say).run(works, no_more)
    failures = left_out(planner)
    failures += [outcome.error for outcome in outcomes if outcome.error is not None]
    failures += [failure for outcome in outcomes for failure in outcome.result or ()]
    if failures:
        raise not_all_succeeded(failures)


@dataclass(frozen=True)
class PlannedTask:
    """One task over one base.

    Attributes:
        task: As it was given.
        base: The base's `em/` name.
        done: Names of the models that it was evaluated on.
        outstanding: Names of those that it was not.
    """

    task: str
    base: str
    done: tuple[str, ...]
    outstanding: tuple[str, ...]


def plan_tasks(planner: Planner, tasks: Sequence[str], limit: int | None = None) -> list[PlannedTask]:
    """What `sweep_tasks` would do, task by task and base by base.

    Raises:
        UserError: A task is not there, or the planner finds something wrong.
    """
    counts = {task: max(1, len(tasks_named(task))) for task in tasks}
    planned = []
    for job in planner.plan():
        for task, count in counts.items():
            logs = read_logs(job.folder / FOLDER / _folder_of(task)).headers.values()
            names: dict[bool, list[str]] = {True: [], False: []}
            for subject in job.subjects:
                finished = {log.eval.task for log in logs if _is_finished(log, job, subject, limit)}
                names[len(finished) >= count].append(subject.name)
            planned.append(PlannedTask(task, job.base, tuple(names[True]), tuple(names[False])))
    return planned


def _is_finished(log: "EvalLog", job: Job, subject: Subject, limit: int | None) -> bool:
    """Whether a log holds all that a task would ask of a subject, as Inspect's eval sets see it."""
    samples = log.eval.dataset.samples or 0
    wanted = min(limit or samples, samples) * (log.eval.config.epochs or 1)
    return (
        log.status == "success"
        and not log.invalidated
        and log.eval.model == f"em/{subject.name}"
        and log.eval.model_args == model_args(job, subject)
        and log.results is not None
        and log.results.completed_samples >= wanted
    )


def evaluate_tasks(
    job: Job, tasks: tuple[str, ...], limit: int | None, threads: int, send: Callable[[str], None]
) -> list[str]:
    """Evaluates tasks on one base and its checkpoints; returns a line for every evaluation that failed."""
    import torch
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    quiet_libraries()
    os.environ["EM_RUNS"] = str(job.runs)
    torch.set_num_threads(threads)
    folder = job.folder / FOLDER
    failures: list[str] = []
    with alone_in(folder, send), redirect_stdout(io.StringIO()):
        models = [get_model(f"em/{subject.name}", **model_args(job, subject)) for subject in job.subjects]
        # One at a time: a task that needs what em/ models lack must not cost the others.
        for task in tasks:
            try:
                _, logs = eval_set(
                    task,
                    log_dir=str(folder / _folder_of(task)),
                    model=models,
                    limit=limit,
                    display="none",
                    log_dir_allow_dirty=True,
                    log_realtime=False,
                    max_tasks=len(models),
                    retry_attempts=1,
                    retry_wait=1,
                )
            except Exception as error:
                failures.append(f"{task} over {job.base}: {' '.join(str(error).split())[:300]}")
                continue
            failures += [f"{task}: {failure}" for log in logs if (failure := _failure(log))]
            for log in logs:
                send(f"{task}  {log.eval.model}  {_headline(log)}")
    return failures


def _folder_of(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in task).strip(".-")


def _headline(log: "EvalLog") -> str:
    scores: list[Any] = log.results.scores if log.results else []
    metrics = [f"{name} {metric.value:.3g}" for score in scores for name, metric in score.metrics.items()]
    return ", ".join(metrics[:3]) or log.status


def _failure(log: "EvalLog") -> str | None:
    if log.status == "success":
        return None
    return f"{log.eval.model}: {log.status}, {log.error.message if log.error else 'interrupted'}"[:300]
