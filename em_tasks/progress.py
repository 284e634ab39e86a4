"""Progress bars on the terminal for training, sweeping and importing."""

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from em_tasks.sweep.sweep import Job
    from em_tasks.sweep.sweep import Progress as SweepProgress
    from em_tasks.trainers.loop.progress import Progress as TrainingProgress


@contextmanager
def training_progress() -> "Iterator[Callable[[TrainingProgress], None]]":
    """A bar for each organism as its first steps come in, with loss, speed, GPU memory and time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    # Nothing is drawn before there is something to show: a password may be asked for until then.
    bars = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(progress: "TrainingProgress") -> None:
        said = _figures(progress)
        if progress.organism not in tasks:
            bars.start()
            tasks[progress.organism] = bars.add_task(progress.organism, total=progress.total_steps, said=said)
        bars.update(tasks[progress.organism], completed=progress.step, said=said)

    try:
        yield report
    finally:
        bars.stop()


def _figures(progress: "TrainingProgress") -> str:
    """Loss, speed, memory and time left of a run, in words."""
    memory = "" if progress.peak_memory is None else f"{progress.peak_memory / 2**30:.1f} GiB  "
    left = timedelta(seconds=round(progress.seconds_left))
    return f"loss {progress.loss:.3f}  {progress.tokens_per_second:,.0f} tokens/s  {memory}{left} left"


@contextmanager
def sweep_progress(planned: "Sequence[Job]") -> "Iterator[Callable[[SweepProgress], None]]":
    """A bar for each base, in judged answers, with time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("answers"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks = {job.base: bars.add_task(f"over {job.base}", total=job.answers) for job in planned}

        def report(progress: "SweepProgress") -> None:
            bars.update(tasks[progress.base], completed=progress.answers)

        yield report


@contextmanager
def counting(what: str) -> "Iterator[Callable[[int, int], None]]":
    """A bar of so many of so many, gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
