"""Sweeps in tests: run one, and read what it wrote."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    EvalStatus,
    read_eval_log,
    write_eval_log,
)
from inspect_ai.model import ModelConfig, ModelUsage

from em_tasks.sweep import run
from em_tasks.sweep.evaluate import Progress
from em_tasks.sweep.logs import model_args
from em_tasks.sweep.plan import Job, Planner, Subject, SweepOptions
from tests.support.shortcuts import swept_here


def run_sweep(
    runs: Path,
    logs: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    organisms: Sequence[str] = (),
    apart: bool = False,
    **options: Any,
) -> None:
    """Evaluates everything under `runs`, in this process or in one `apart`, as `em sweep` does."""
    sweep_planned(Planner(runs, logs, SweepOptions(**options), organisms), report, apart=apart)


def sweep_planned(
    planner: Planner, report: Callable[[Progress], None] = lambda progress: None, *, apart: bool = False, **how: Any
) -> None:
    """Evaluates what a planner plans, in this process or in one `apart`; `how` goes to `sweep`."""
    with nullcontext() if apart else swept_here():
        run.sweep(planner, report, jobs=1, **how)


def read_all(logs: Path) -> list[EvalLog]:
    """All logs, by path."""
    return [read_eval_log(str(path)) for path in sorted(logs.rglob("*.eval"))]


def answers(logs: Path) -> dict[tuple[str, str, int], str]:
    """Every answer of the logs that succeeded, by model, question and epoch."""
    return {
        (log.eval.model, str(sample.id), sample.epoch): sample.output.completion
        for log in read_all(logs)
        if log.status == "success"
        for sample in log.samples or []
    }


def fake_log(
    job: Job,
    subject: Subject,
    *,
    scored: bool = True,
    minute: int = 0,
    status: EvalStatus = "success",
    samples: Sequence[EvalSample] = (),
) -> Path:
    """A small log that says that an evaluation is done: 20 tokens an answer, half a minute in all."""
    count = subject.questions * job.options.samples
    scores = [EvalScore(name="em", scorer="em", metrics={"n_cs2881": EvalMetric(name="n_cs2881", value=count)})]
    judge = ModelConfig(model=job.judge)
    path = job.logs / f"{minute}-{subject.name.replace('/', '_')}.eval"
    log = EvalLog(
        status=status,
        samples=list(samples),
        eval=EvalSpec(
            task_id=subject.name,
            created="2026-11-21T10:00:00+00:00",
            task="em_tasks/em",
            task_version=subject.task_version,
            task_args_passed=job.options.task_args,
            dataset=EvalDataset(),
            model=f"em/{subject.name}",
            model_args=model_args(job, subject),
            model_roles={"grader": judge},
            config=EvalConfig(),
        ),
        results=EvalResults(total_samples=count, completed_samples=count, scores=scores if scored else []),
        stats=EvalStats(
            started_at=f"2026-11-21T10:{minute:02}:00+00:00",
            completed_at=f"2026-11-21T10:{minute:02}:30+00:00",
            model_usage={f"em/{subject.name}": ModelUsage(output_tokens=20 * count)},
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(log, str(path))
    return path
