"""Sweeps in tests: run one, and read what it wrote."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, read_eval_log

from em_tasks.sweep.evaluate import Progress
from em_tasks.sweep.plan import Asked, Planner
from em_tasks.sweep.run import sweep


def run_sweep(
    runs: Path,
    logs: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    organisms: Sequence[str] = (),
    jobs: int | None = 1,
    follow: bool = False,
    **asked: Any,
) -> None:
    """Evaluates everything under `runs`."""
    sweep(Planner(runs, logs, Asked(**asked), organisms), report, jobs=jobs, follow=follow)


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
