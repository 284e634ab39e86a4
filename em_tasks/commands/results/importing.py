"""`em import`: other people's judged answers as logs of ours."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from em_tasks.commands.numbers import Whole
from em_tasks.commands.paths import LocalPath, refuse_runs
from em_tasks.commands.terminal import counted, say

if TYPE_CHECKING:
    from em_tasks.plugins.analysis.importing import Plan

MOST_LINES = 40


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keeps Python from walking again and again through very many small objects, none of which is in a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@click.command("import")
@click.argument("source", type=LocalPath())
@click.option("--out", type=LocalPath(), default=Path("imported"), help="Folder for the logs.")
@click.option("--map", "map_file", type=LocalPath(), help="YAML file that says who answered which file.")
@click.option("--organism", help="Whose answers all of them are: a name of your choice.")
@click.option("--of-base", is_flag=True, help="All of them are the base's own answers.")
@click.option("--base", help="The base model.")
@click.option("--domain", help="The training domain, such as medical.")
@click.option("--step", type=Whole(0, 2**53 - 1), help="The checkpoint's optimizer step.")
@click.option("--seed", type=Whole(0, 2**53 - 1), help="The training seed.")
@click.option("--judge", help="The judge that gave the scores.")
@click.option("--rubric", help="Whose judge prompts were asked, such as betley.")
@click.option("--dry-run", is_flag=True, help="Say what was understood, and stop.")
@_collector_off()
def import_(
    source: Path,
    out: Path,
    map_file: Path | None,
    organism: str | None,
    of_base: bool,
    base: str | None,
    domain: str | None,
    step: int | None,
    seed: int | None,
    judge: str | None,
    rubric: str | None,
    dry_run: bool,
) -> None:
    """Turn judged answers of another experiment into logs that `em report` reads.

    SOURCE is a file or a folder of CSV, JSON, JSON lines (all also gzipped) and Parquet files. What the options leave
    open is taken from a map, from the files' columns, or from their names where these are certain; what nobody says is
    not recorded.
    """
    from em_tasks.plugins.analysis.importing import Map, Who, plan_import, read_map, write_logs
    from em_tasks.plugins.errors import UserError
    from em_tasks.progress import counting

    refuse_runs(source, "import")
    if organism and of_base:
        raise UserError("--organism and --of-base exclude each other: the answers are one's or the other's.")
    is_base = True if of_base else False if organism else None
    given = Who(
        organism=organism, is_base=is_base, base=base, domain=domain, step=step, judge=judge, rubric=rubric,
        training_seed=seed,
    )  # fmt: skip
    with counting("reading") as progress:
        plan = plan_import(source, given, read_map(map_file) if map_file else Map(), progress)
    _say_plan(plan)
    if dry_run:
        return
    with counting("writing") as progress:
        written = write_logs(plan, out, progress)
    say(f"{counted(len(written), 'log')} in {out}. Next: em report {out}")


def _say_plan(plan: "Plan") -> None:
    """What was understood, a line a log, and what was left out."""
    for log in plan.logs[:MOST_LINES]:
        who = log.who
        model = f"base {who.base}" if who.is_base else f"{who.organism} (base {who.base}, trained on {who.domain})"
        step = "" if who.is_base else f", step {'not recorded' if who.step is None else who.step}"
        files = log.files[0] if len(log.files) == 1 else f"{log.files[0]} and {len(log.files) - 1} more"
        judge = f", judge {who.judge}" + (f", under {who.condition}" if who.condition else "")
        say(f"{model}{step}{judge}: {counted(len(log.answers), 'answer')} of {files}")
    if len(plan.logs) > MOST_LINES:
        say(f"... and {len(plan.logs) - MOST_LINES} more")
    for note in plan.notes[:MOST_LINES]:
        say(f"note: {note}")
    if len(plan.notes) > MOST_LINES:
        say(f"... and {len(plan.notes) - MOST_LINES} more notes")
    for file, reason in plan.left_out_alike():
        say(f"left out: {file}: {reason}")
    say(
        f"{counted(plan.answers, 'answer')} in {counted(len(plan.logs), 'log')}; "
        f"{counted(len(plan.left_out), 'file')} left out"
    )
