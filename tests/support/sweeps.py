"""Sweeps in tests: run one, and read what it wrote."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

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
from inspect_ai.model._model import _models

from em_tasks.plugins.checkpoint_model.provider import CheckpointModel
from em_tasks.plugins.errors import UserError
from em_tasks.sweep import run
from em_tasks.sweep.evaluate import Progress
from em_tasks.sweep.logs import model_args
from em_tasks.sweep.plan import Job, Planner, Subject, SweepOptions
from em_tasks.sweep.pool import Outcome, Work


class Here:
    """Does a sweep's work in this process, one piece after the other, where `Pool` starts a process for each.

    What a process costs is the import of torch, transformers and Inspect, more than all that a toy model does.
    """

    def __init__(self, slots: Sequence[dict[str, str]], report: Callable[[Any], None]) -> None:
        self.report = report

    def run(self, works: Sequence[Work], more: Callable[[Sequence[Outcome]], Sequence[Work] | None]) -> list[Outcome]:
        """See `Pool.run`."""
        waiting, outcomes = list(works), list[Outcome]()
        while True:
            ended = [self._do(work) for work in waiting[:1]]
            waiting, outcomes = waiting[1:], outcomes + ended
            coming = more(ended)
            waiting += coming or ()
            if coming is None and not waiting:
                return outcomes

    def _do(self, work: Work) -> Outcome:
        try:
            with mock.patch.dict(os.environ):
                return Outcome(work, result=work.function(*work.arguments, self.report))
        except UserError as error:
            return Outcome(work, error=str(error))
        finally:
            for model in _models.values():
                if isinstance(model.api, CheckpointModel):
                    model.api.close()
            _models.clear()


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
    with mock.patch.object(run, "Pool", run.Pool if apart else Here):
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
