"""Every checkpoint of every organism, and every base, through the `em` task: `em sweep runs/`.

Checkpoints of one base are evaluated together in a process of their own, which holds that base once and frees it by
ending. Inspect's eval sets do the bookkeeping: what is done is skipped, what was interrupted goes on where it stopped.
"""

import io
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.commands.judge import cap_cost
from em_tasks.plugins.checkpoint_model.subject import base_names, evaluated_base, trained_domains
from em_tasks.plugins.errors import UserError
from em_tasks.questions import load_question_sets, shipped_sets
from em_tasks.quiet import quiet_libraries
from em_tasks.scorers.definitions import metric_value
from em_tasks.scorers.judging.grader import build_judge, default_grader
from em_tasks.trainers.run.base_names import is_toy
from em_tasks.trainers.run.checkpoints import Checkpoint, list_runs, verify

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog


@dataclass(frozen=True)
class Subject:
    """One model to evaluate: its `em/` name without the prefix, and the hash of its adapter, or of a base itself."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Job:
    """All that is evaluated over one base.

    Attributes:
        base: The base's `em/` name.
        subjects: The base and the checkpoints over it.
        answers: How many answers they give in all.
        toy: Whether the base is a toy model.
        runs: Folder of training runs.
        logs: Folder of this base's logs.
        model_args: Which other base or precision is asked for.
        task_args: Arguments of the `em` task.
        grader: The judge, if not the task's default.
        threads: CPU threads for torch.
        max_judge_cost: This base's share of the cap on what judging may cost (US dollars).
        judge_price: The judge's price, `IN,OUT` in US dollars per million tokens, if not the list price.
    """

    base: str
    subjects: tuple[Subject, ...]
    answers: int
    toy: bool
    runs: Path
    logs: Path
    model_args: dict[str, str]
    task_args: dict[str, Any]
    grader: str | None
    threads: int
    max_judge_cost: float | None
    judge_price: str | None


@dataclass(frozen=True)
class Progress:
    """Answers judged so far over one base; those judged by an earlier run count once they are found."""

    base: str
    answers: int


def plan_sweep(
    runs: Path,
    logs: Path,
    *,
    organisms: Sequence[str] = (),
    questions: Sequence[str] = (),
    samples: int = 1,
    max_tokens: int = 600,
    grader: str | None = None,
    base: str | None = None,
    precision: str | None = None,
    jobs: int = 1,
    max_judge_cost: float | None = None,
    judge_price: str | None = None,
) -> list[Job]:
    """What a sweep will evaluate, checked before anything is loaded.

    Args:
        runs: Folder of training runs.
        logs: Folder that receives one folder of logs a base.
        organisms: Only these (all when empty); their bases are evaluated too.
        questions: Question sets for all (each organism's own domain when empty).
        samples: Answers to each question.
        max_tokens: Tokens an answer is cut after.
        grader: The judge, if not the task's default.
        base: Another base than the organisms were trained on.
        precision: Another precision than they were trained at.
        jobs: Bases evaluated at the same time.
        max_judge_cost: The most that judging may cost (US dollars), shared among the bases by their answers.
        judge_price: The judge's price, if not the list price.

    Raises:
        UserError: There are no runs, or not the organisms asked for, or a checkpoint's files are gone.
        UserError: A checkpoint was altered since it was saved, or the judge cannot be had.
    """
    found = list_runs(runs)
    if not found:
        raise UserError(f"There is no training run under {runs}. Train one with `em train RECIPE --runs {runs}`.")
    if missing := sorted(set(organisms) - set(found)):
        raise UserError(f"There is no organism {', '.join(missing)} under {runs}. There are: {', '.join(found)}.")
    chosen = {name: manifest for name, manifest in found.items() if not organisms or name in organisms}
    task_args: dict[str, Any] = {"samples": samples, "max_tokens": max_tokens}
    if questions:
        task_args["questions"] = list(questions)
    asked_for = {key: value for key, value in (("base", base), ("precision", precision)) if value}
    planned: list[Job] = []
    # Names are told apart from those of the organisms left out too: they lie in the same folder.
    for key, name in base_names(found, base, precision).items():
        alike = {o: m for o, m in found.items() if evaluated_base(m, base, precision).key == key}
        over = {o: m for o, m in alike.items() if o in chosen}
        if not over:
            continue
        first = next(iter(alike.values()))
        on = evaluated_base(first, base, precision)
        subjects = [Subject(name, first.base_fingerprint)]
        answers = samples * _asked(questions, trained_domains(runs, first.base_fingerprint))
        for organism, manifest in over.items():
            for record in manifest.checkpoints:
                verify(Checkpoint(runs / organism, manifest, record))
                subjects.append(Subject(f"{organism}@{record.step}", record.adapter_sha256))
                answers += samples * _asked(questions, [manifest.recipe.domain])
        folder = "--".join([name.removesuffix("@base"), *([] if on.fingerprint else [on.base, on.precision])])
        planned.append(
            Job(
                base=name,
                subjects=tuple(subjects),
                answers=answers,
                toy=is_toy(on.base),
                runs=runs.resolve(),
                logs=(logs / folder.strip("/").replace("/", "--")).resolve(),
                model_args=asked_for,
                task_args=task_args,
                grader=grader,
                threads=threads_for(jobs),
                max_judge_cost=max_judge_cost,
                judge_price=judge_price,
            )
        )
    for judge in {_judge(job) for job in planned}:
        build_judge(judge)
    if max_judge_cost is None:
        return planned
    answers = sum(job.answers for job in planned)
    return [replace(job, max_judge_cost=max_judge_cost * job.answers / answers) for job in planned]


def sweep(planned: Sequence[Job], jobs: int, report: Callable[[Progress], None]) -> None:
    """Evaluates what was planned, `jobs` bases at a time.

    Args:
        planned: From `plan_sweep`.
        jobs: Processes at a time; one a GPU, or one a core or two on a CPU.
        report: Called whenever answers have been judged.

    Raises:
        UserError: Some evaluations did not succeed; the message names their logs. What succeeded stands.
    """
    with workers(jobs, tasks_per_process=1) as (pool, messages):
        futures = [pool.submit(_evaluate, job, messages) for job in planned]
        while not all(future.done() for future in futures):
            for message in drained(messages):
                report(message)
        for message in drained(messages):
            report(message)
    failures = [failure for future in futures for failure in future.result()]
    if failures:
        raise UserError(
            "Some evaluations did not succeed; the others stand. Run the same command again to go on. "
            + "; ".join(failures[:3])
            + (f"; and {len(failures) - 3} more." if len(failures) > 3 else ".")
        )


def threads_for(jobs: int) -> int:
    """CPU threads for each of so many processes: `OMP_NUM_THREADS` where it is set, else a fair share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // jobs))


@contextmanager
def workers(jobs: int, tasks_per_process: int | None) -> "Iterator[tuple[ProcessPoolExecutor, Any]]":
    """A pool of processes, each replaced after so many tasks (never if None), and a queue on which they report."""
    context = multiprocessing.get_context("spawn")
    pooled = ProcessPoolExecutor(jobs, context, max_tasks_per_child=tasks_per_process)
    with context.Manager() as manager, pooled as pool:
        try:
            yield pool, manager.Queue()
        except BaseException:
            for process in multiprocessing.active_children():
                if not process.name.startswith("SyncManager"):
                    process.terminate()
            raise


def drained(messages: Any, wait: float = 0.2) -> Iterator[Any]:
    """What has been reported, waiting a moment for the first."""
    try:
        yield messages.get(timeout=wait)
        while True:
            yield messages.get_nowait()
    except queue.Empty:
        return


def _asked(questions: Sequence[str], domains: Sequence[str]) -> int:
    """How many questions a subject is asked."""
    names = list(questions) or [domain for domain in domains if domain in shipped_sets()] or ["general"]
    return sum(len(one.questions) for one in load_question_sets(names))


def _evaluate(job: Job, messages: Any) -> list[str]:
    """Evaluates one base and its checkpoints, in a process of its own; returns a line for every log that failed."""
    import torch
    from inspect_ai import eval_set
    from inspect_ai.hooks import Hooks, SampleEnd, hooks
    from inspect_ai.model import get_model

    quiet_libraries()
    torch.set_num_threads(job.threads)
    # Not as a model argument: where the runs lie is no part of what is evaluated, and a moved folder stays done.
    os.environ["EM_RUNS"] = str(job.runs)
    cap_cost(job.max_judge_cost, job.judge_price, (_judge(job),))
    judged = 0

    @hooks(name="em_sweep_progress", description="Counts judged answers for the sweep's progress bar.")
    class Counter(Hooks):
        async def on_sample_end(self, data: SampleEnd) -> None:
            nonlocal judged
            judged += 1
            messages.put(Progress(job.base, judged))

    with redirect_stdout(io.StringIO()):  # Inspect announces its hooks there, whatever the display.
        models = []
        for subject in job.subjects:
            model_args: dict[str, Any] = {"pin": subject.sha256[:16], **job.model_args}
            models.append(get_model(f"em/{subject.name}", **model_args))
        _, logs = eval_set(
            "em_tasks/em",
            log_dir=str(job.logs),
            model=models,
            task_args=job.task_args,
            model_roles={"grader": build_judge(job.grader)} if job.grader else None,
            display="none",
            log_dir_allow_dirty=True,
            log_realtime=False,
            retry_attempts=2,
            fail_on_error=True,
            continue_on_fail=True,  # One broken answer must not cost the others.
        )
    messages.put(Progress(job.base, job.answers))
    return [failure for log in logs if (failure := _failure(log))]


def _failure(log: "EvalLog") -> str | None:
    """What is wrong with an evaluation, or None: it did not end well, or its judge never gave a number."""
    from inspect_ai.log import read_eval_log_sample_summaries

    if log.status != "success":
        said = [log.error.message] if log.error else []
        said += [one.error for one in read_eval_log_sample_summaries(log.location) if one.error]
        return f"{log.location}: {log.status} in {len(said)} answers, first: {said[0] if said else 'interrupted'}"
    metrics = {
        name: metric.value
        for score in (log.results.scores if log.results else [])
        for name, metric in score.metrics.items()
    }
    if metric_value(metrics, "n", "cs2881") != 0:
        return None
    judge = log.eval.model_roles["grader"] if log.eval.model_roles else None
    reasons = ", ".join(name.removeprefix("unscored_alignment_") for name in metrics if name.startswith("unscored_al"))
    return (
        f"{log.location}: the judge {getattr(judge, 'model', 'of the grader role')} gave no alignment score for any "
        f"answer ({reasons}). The answers are kept: name another judge with --grader"
    )


def _judge(job: Job) -> str:
    """Name of the judge of a job."""
    return job.grader or default_grader(job.toy)


def judging_estimate(planned: Sequence[Job]) -> str:
    """Calls that judging a plan takes and what they cost at most, as if every answer were as long as it may be."""
    from em_tasks.scorers.comparing.estimate import estimate_run
    from em_tasks.scorers.judging.cost import parse_price, set_price

    said = []
    for judge in dict.fromkeys(_judge(job) for job in planned):
        jobs = [job for job in planned if _judge(job) == judge]
        if jobs[0].judge_price is not None:
            set_price(judge, parse_price(jobs[0].judge_price))
        # The rubrics' prompts are much longer than any question, so a question's own length hardly counts.
        questions = ["x" * 200] * sum(job.answers for job in jobs)
        said.append(str(estimate_run(judge, questions, 1, jobs[0].task_args["max_tokens"])))
    return "; ".join(said)


def checkpoint_count(planned: Sequence[Job]) -> tuple[int, int, int]:
    """How many bases, checkpoints and answers a plan holds."""
    return len(planned), sum(len(job.subjects) - 1 for job in planned), sum(job.answers for job in planned)
