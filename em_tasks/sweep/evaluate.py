"""One job: a base and its checkpoints through the `em` task, in a process of its own."""

import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.quiet import quiet_libraries
from em_tasks.sweep.failures import what_failed
from em_tasks.sweep.logs import (
    ANSWERS,
    alone_in,
    is_fully_judged,
    is_judged,
    model_args,
    outstanding,
    put_aside,
    read_logs,
    remove_superseded,
    remove_unjudged,
)
from em_tasks.sweep.plan import Job

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

    from em_tasks.scorers.judging.calls import JudgeCalls

SAMPLES_AT_ONCE = 4000
"""Samples under way in a process. Those that wait for their judge must not keep the engine from being asked."""


@dataclass(frozen=True)
class Progress:
    """How far a job is; what an earlier run did counts once it is found.

    Attributes:
        base: The job's base.
        logs: The job's folder, which tells jobs over one base apart.
        answered: Answers that came.
        judged: Answers that are through with their judge.
        tokens: Tokens generated in this run.
        seconds: Since the first of them was asked for.
        note: Something to say, once.
    """

    base: str
    logs: str
    answered: int = 0
    judged: int = 0
    tokens: int = 0
    seconds: float = 0.0
    note: str | None = None

    def of(self, answers: int) -> str:
        """In words, of so many answers in all."""
        return f"{self.answered:,} of {answers:,} answers, {self.judged:,} judged"

    def __str__(self) -> str:
        """In words, where nobody says of how many."""
        return f"{self.answered} answers came, {self.judged} of them judged"


class Counter:
    """Counts what happens in this process and reports it, a few times a second at most."""

    def __init__(self, job: Job, send: Callable[[Any], None]) -> None:
        self.progress = Progress(job.base, str(job.logs))
        self._send, self._sent, self._began = send, 0.0, 0.0
        self._lock = threading.Lock()

    def add(self, *, answered: int = 0, judged: int = 0, tokens: int = 0) -> None:
        """Adds to the counts."""
        with self._lock:
            was, now = self.progress, time.monotonic()
            self._began = self._began or now
            self.progress = replace(
                was,
                answered=was.answered + answered,
                judged=was.judged + judged,
                tokens=was.tokens + tokens,
                seconds=now - self._began,
            )
            if now - self._sent > 0.2:
                self._sent = now
                self._send(self.progress)

    def finish(self, answers: int, *, judged: bool) -> None:
        """All is done: also what a log of an earlier run had, which nothing here has counted."""
        self.progress = replace(self.progress, answered=answers, judged=answers if judged else self.progress.judged)

    def note(self, text: str) -> None:
        """Says something to the user."""
        self._send(replace(self.progress, note=text))

    def flush(self) -> None:
        """Reports the counts as they are."""
        self._send(self.progress)


def evaluate(job: Job, send: Callable[[Any], None]) -> list[str]:
    """Evaluates one base and its checkpoints.

    Returns:
        A line for every evaluation that failed.
    """
    counter = Counter(job, send)
    quiet_libraries()
    # Not as a model argument: where the runs lie is no part of what is evaluated, and a moved folder stays done.
    os.environ["EM_RUNS"] = str(job.runs)
    with alone_in(job.logs, counter.note):
        logs = read_logs(job.folder)
        put_aside((path for path in logs.unreadable if path.is_relative_to(job.logs)), counter.note)
        left = outstanding([job], logs)
        finished = job.answers - sum(each.answers for each in left)
        counter.add(answered=finished, judged=finished if job.options.score else 0)
        counter.flush()
        if job.options.score and (job.folder / ANSWERS).is_dir():
            remove_unjudged(job.logs)
        failures = [failure for each in left for failure in _evaluate(each, counter)]
        remove_superseded(job.logs)
    if not failures:
        counter.finish(job.answers, judged=job.options.score)
    counter.flush()
    return failures


def _evaluate(job: Job, counter: Counter) -> list[str]:
    from em_tasks.scorers.judging.calls import JudgeCalls, handing_down

    options = job.options
    cap, judges = options.max_judge_cost, (job.judge,)
    calls = JudgeCalls.limited(cap, options.judge_price, judges, options.judge_ledger, options.judge_cap)
    logs = read_logs(job.folder)
    answered = {s: entry for s in job.subjects if (entry := logs.of(job, s)) is not None}
    # Hooks announce themselves on stdout, whatever the display.
    with handing_down(calls), redirect_stdout(io.StringIO()):
        _count_with_hooks(counter, judging=options.score)
        failures = [
            judge_answers(path, job, counter, calls)
            for path, log in answered.values()
            if not is_fully_judged(path, log)
        ]
        missing = tuple(subject for subject in job.subjects if subject not in answered)
        if missing:
            failures += [what_failed(log) for log in _ask(replace(job, subjects=missing))]
    return [failure for failure in failures if failure is not None]


def _ask(job: Job) -> "list[EvalLog]":
    """Has all subjects answer at once, so that their requests fill the engine's batches, and the answers judged."""
    import torch
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    from em_tasks.plugins.checkpoint_model.journal import AnswerJournal
    from em_tasks.plugins.checkpoint_model.provider import CheckpointModel
    from em_tasks.scorers.judging.grader import build_judge, judged_later

    torch.set_num_threads(job.threads)
    if job.gpu_share < 1 and torch.cuda.is_available():
        # Or the first process to look would take what is free, and the others' judges would find nothing left.
        torch.cuda.set_per_process_memory_fraction(job.gpu_share)
    journal = AnswerJournal(job.folder / ANSWERS, job.logs.name)
    models = []
    for subject in job.subjects:
        model = get_model(f"em/{subject.name}", **model_args(job, subject))
        assert isinstance(model.api, CheckpointModel)
        model.api.journal = journal
        models.append(model)
    grader = job.options.grader if job.options.score else None
    with nullcontext() if job.options.score else judged_later():
        _, logs = eval_set(
            "em_tasks/em",
            log_dir=str(job.logs),
            model=models,
            task_args=job.options.task_args,
            model_roles={"grader": build_judge(grader)} if grader else None,
            score=job.options.score,
            display="none",
            log_dir_allow_dirty=True,
            log_realtime=False,
            max_tasks=len(models),
            max_samples=max(20, SAMPLES_AT_ONCE // len(models)),
            retry_attempts=2,
            retry_wait=1,
            fail_on_error=True,
            continue_on_fail=True,  # One broken answer must not cost the others.
        )
    journal.close()
    return list(logs)


def judge_answers(path: Path, job: Job, counter: Counter, calls: "JudgeCalls") -> str | None:
    """Has the answers of a log judged that were not, or at which its judge failed; returns what went wrong."""
    from inspect_ai import score
    from inspect_ai.log import read_eval_log, write_eval_log

    from em_tasks.scorers.comparing.judging_again import judge_failed_again
    from em_tasks.scorers.em import em as em_scorer
    from em_tasks.scorers.em import rubrics_of
    from em_tasks.scorers.judging.grader import build_judge

    log, judge = read_eval_log(str(path)), build_judge(job.judge)
    if is_judged(log):
        scored = judge_failed_again(log, judge, calls)
    else:
        own_domain = (log.eval.metadata or {}).get("domain")
        scorer = em_scorer(own_domain, rubrics_of(log))
        roles = {"grader": judge}
        scored = score(log, scorer, action="overwrite", model_roles=roles, display="none", copy=False)
    # Aside first: whoever is killed here has the old log still.
    aside = path.with_name(f".{path.name}.new")
    write_eval_log(scored, str(aside), format="eval")
    aside.replace(path)
    scored.location = str(path)
    counter.add(answered=len(scored.samples or []), judged=len(scored.samples or []))
    return what_failed(scored)


def _count_with_hooks(counter: Counter, *, judging: bool) -> None:
    from inspect_ai.hooks import Hooks, ModelUsageData, SampleEnd, SampleScoring, hooks

    scored: set[str] = set()

    @hooks(name="em_sweep_progress", description="Counts answers for the sweep's progress.")
    class Counting(Hooks):
        async def on_model_usage(self, data: ModelUsageData) -> None:
            if data.model_name.startswith("em/"):
                counter.add(tokens=data.usage.output_tokens)

        async def on_sample_scoring(self, data: SampleScoring) -> None:
            scored.add(data.sample_id)
            counter.add(answered=1)

        async def on_sample_end(self, data: SampleEnd) -> None:
            # An error is no answer, and Inspect tries it again.
            came, was_scored = data.sample.error is None, data.sample_id in scored
            counter.add(judged=came and was_scored and judging, answered=came - was_scored)
