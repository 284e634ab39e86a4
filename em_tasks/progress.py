"""Progress bars on the terminal for training, sweeping and importing."""

import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from em_tasks.plugins.safe_names import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from em_tasks.grid.run import Standing
    from em_tasks.sweep.evaluate import Progress as SweepCounts
    from em_tasks.sweep.plan import Job
    from em_tasks.trainers.loop.progress import Progress as TrainingProgress


@contextmanager
def training_progress() -> "Iterator[Callable[[TrainingProgress], None]]":
    """A bar for each organism as its first steps come in, with loss, speed, GPU memory and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    # Nothing is drawn before there is something to show: a password may be asked for until then.
    bars = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(progress: "TrainingProgress") -> None:
        figures = _figures(progress)
        if progress.organism not in tasks:
            bars.start()
            tasks[progress.organism] = bars.add_task(progress.organism, total=progress.total_steps, figures=figures)
        bars.update(tasks[progress.organism], completed=progress.step, figures=figures)

    try:
        yield report
    finally:
        bars.stop()


def _figures(progress: "TrainingProgress") -> str:
    """Loss, speed, memory and time left of a run, in words."""
    memory = "" if progress.peak_memory is None else f"{progress.peak_memory / 2**30:.1f} GiB  "
    left = timedelta(seconds=round(progress.seconds_left))
    return f"loss {progress.loss:.3f}  {progress.tokens_per_second:,.0f} tokens/s  {memory}{left} left"


class SweepProgress:
    """One table: a row for each process, with answers, judged answers, speed and time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._before: dict[str, int] = {}

    def begin(self, jobs: "Sequence[Job]") -> None:
        """Adds the rows of jobs that begin."""
        for job in jobs:
            task = self._tasks.get(str(job.logs))
            if task is None:
                name = escape(f"{job.base.removesuffix('@base')} ({len(job.subjects)})")
                task = self._bars.add_task(name, total=job.answers, judged="", speed="")
            else:
                self._bars.reset(task, total=job.answers, judged="", speed="")
            self._tasks[str(job.logs)] = task
            self._before.pop(str(job.logs), None)

    def report(self, progress: "SweepCounts") -> None:
        """Shows what a process tells."""
        if progress.note is not None:
            self._bars.console.print(escape(f"note: {progress.note}"), soft_wrap=True, highlight=False)
            return
        # What an earlier run did is told at once, and says nothing about the speed of this one.
        before = self._before.setdefault(progress.logs, progress.answered)
        task = self._tasks[progress.logs]
        total = self._bars.tasks[self._bars.task_ids.index(task)].total or 0
        left = "-:--:--"
        if progress.answered > before and progress.seconds:
            seconds = progress.seconds * (total - progress.answered) / (progress.answered - before)
            left = str(timedelta(seconds=round(max(0.0, seconds))))
        speed = progress.tokens / progress.seconds if progress.seconds else 0.0
        told = f"{speed:,.0f} tokens/s  {left} left"
        judged = f"{progress.judged} judged"
        self._bars.update(task, completed=progress.answered, judged=judged, speed=told)


@contextmanager
def sweep_progress() -> "Iterator[SweepProgress]":
    """The table, on the terminal's error stream."""
    columns = (
        TextColumn("over {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answers  {task.fields[judged]}  {task.fields[speed]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield SweepProgress(bars)


@contextmanager
def grid_progress() -> "Iterator[Callable[[Standing], None]]":
    """A bar and the last word for each kind of unit; without a terminal a line for each that begins or ends."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda standing: _print(console, standing.events)
        return
    # What is too long is cut at the end of the last word, never a bar or a count.
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len("evaluate"))),
        BarColumn(bar_width=20, table_column=Column(min_width=20)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=len("10/10"))),
        TextColumn("{task.fields[news]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console, expand=True) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(standing: "Standing") -> None:
            for kind, begun in standing.begun.items():
                if kind not in tasks:
                    tasks[kind] = bars.add_task(kind, total=begun, news="")
                news = escape(printable(standing.news.get(kind, "")))
                bars.update(tasks[kind], total=begun, completed=standing.ended.get(kind, 0), news=news)

        yield tell


def _print(console: Console, events: "Sequence[str]") -> None:
    for event in events:
        console.out(time.strftime("%H:%M:%S"), printable(event), highlight=False)


@contextmanager
def counting(what: str) -> "Iterator[Callable[[int, int], None]]":
    """A bar of so many of so many, gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
