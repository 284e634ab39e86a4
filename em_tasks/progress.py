"""Progress bars on the terminal for training and sweeping."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from em_tasks.sweep import Job
    from em_tasks.sweep import Progress as SweepProgress
    from trainers.scheduled_trainer import Progress as TrainingProgress


@contextmanager
def training_progress() -> "Iterator[Callable[[TrainingProgress], None]]":
    """A bar for each organism as its first step comes in, with loss and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(progress: "TrainingProgress") -> None:
            if progress.organism not in tasks:
                tasks[progress.organism] = bars.add_task(
                    progress.organism, total=progress.total_steps, loss=progress.loss
                )
            bars.update(tasks[progress.organism], completed=progress.step, loss=progress.loss)

        yield report


@contextmanager
def sweep_progress(planned: "Sequence[Job]") -> "Iterator[Callable[[SweepProgress], None]]":
    """A bar for each base, in judged answers, with time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("answers"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks = {job.base: bars.add_task(f"over {job.base}", total=job.answers) for job in planned}

        def report(progress: "SweepProgress") -> None:
            bars.update(tasks[progress.base], completed=progress.answers)

        yield report
