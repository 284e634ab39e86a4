"""`em grid`: a whole study from one file, on this machine, a Ray cluster or Slurm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from em_tasks.commands.numbers import Number, Whole
from em_tasks.commands.organisms.grid_in_words import in_bytes, needs_in_words
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    from em_tasks.grid.executors.protocol import Executor
    from em_tasks.grid.needs import Needs
    from em_tasks.grid.plan import GridPlan


MARGIN, MARGIN_SHARE = 100e6, 0.1
"""What has to be free beside what a grid is expected to write: a tenth of it, 100 MB at least. A save keeps the state
of before until it is whole, and answers lie beside their logs until these are."""


@click.command()
@click.argument("grid", type=LocalPath())
@click.option("--out", type=LocalPath(), help="Folder for everything; the grid's name unless given.")
@click.option("-j", "--jobs", type=Whole(1), help="Units at a time here (a GPU, where there are GPUs).")
@click.option("--ray", "address", help="Do the units on the Ray cluster whose head is at HOST:PORT.")
@click.option("--slurm", is_flag=True, help="Do the units as jobs of Slurm.")
@click.option("--alone", is_flag=True, help="Train each organism in its own process, even those that share a GPU.")
@click.option("--store", "url", help="Copy what is finished to this URL (s3://BUCKET/PREFIX), and fetch what is there.")
@click.option("--dry-run", is_flag=True, help="Say what the cells are and what they need, and stop.")
@click.option("--device-memory", type=Number(0), help="Plan for GPUs of so many GiB.")
def grid(
    grid: Path,
    out: Path | None,
    jobs: int | None,
    address: str | None,
    slurm: bool,
    alone: bool,
    url: str | None,
    dry_run: bool,
    device_memory: float | None,
) -> None:
    """Train, ask, judge and report every cell of the study in GRID; what is done already is skipped."""
    say(f"reading {grid}, and what it names", err=True)
    from em_tasks.grid.budget import Budget
    from em_tasks.grid.copying import Copying, fetch
    from em_tasks.grid.needs import gpu_shares, grid_needs
    from em_tasks.grid.places import refuse_places, sign_left
    from em_tasks.grid.plan import plan_grid
    from em_tasks.grid.run import Driver
    from em_tasks.grid.store import Store
    from em_tasks.grid.together import trained_together
    from em_tasks.progress import grid_progress
    from em_tasks.scorers.judging.grader import unusable_judges
    from em_tasks.sweep.gpus import threads_for

    _refuse_two_places(jobs, address, slurm=slurm)
    plan = plan_grid(grid, out)
    planned_for = None if device_memory is None else int(device_memory * 2**30)
    store = None if url is None else Store(url)
    if store is not None:
        store.open(plan.file.name)
        pieces = counted(len(store.markers), "piece")
        say(f"{url} holds {pieces} of it: runs, logs, the report")
    if dry_run:
        needs = grid_needs(plan, planned_for, check_judges=False)
        show(plan, needs, {} if alone or address or slurm else _gpus_here(planned_for))
        _say_what_lacks([*unusable_judges(needs.answers.judged), *(_no_slurm(plan) if slurm else ())])
        return
    executor = _executor(plan, jobs, address, slurm=slurm)
    with sign_left(plan.out) as sign:
        places = executor.places(sign)
    if places is not None:
        refuse_places(places, plan.out)
    if store is not None:
        store.claim(plan.file.name)
        say(f"{counted(fetch(store, plan), 'file')} fetched from there")
    gpus = {f"{place.name} {gpu}": size for place in places or () for gpu, size in place.gpus.items()}
    if address and gpus:
        planned_for = planned_for or max(gpus.values())
    needs = grid_needs(plan, planned_for)
    _refuse_full_disk(plan, needs)
    threads = 1 if address or slurm else threads_for(executor.width)
    groups = () if alone else trained_together(plan.organisms, needs, gpus)
    _say_needs(plan, needs, groups)
    copying = None if store is None else Copying(plan, store, lambda text: say(f"note: {text}", err=True))
    cap = plan.file.evaluate.max_judge_cost
    budget = None if cap is None else Budget(cap, plan.judge_cost, needs.dollars, needs.judging_dollars)
    with grid_progress() as tell:
        driver = Driver(plan, executor, gpu_shares(needs, gpus), tell, threads, groups, budget, copying, needs.data)
        driver.run()
    if driver.idle:
        say("Nothing was done: all is trained, asked and judged, and the report is of that.")
    say(f"open {plan.report / 'report.html'}   or look at the transcripts: inspect view --log-dir {plan.logs}")


def _refuse_two_places(jobs: int | None, address: str | None, *, slurm: bool) -> None:
    """Refuses options that name two places, and an address that is none."""
    from em_tasks.grid.executors.on_ray import refuse_no_address

    if address is not None and slurm:
        raise UserError("--ray and --slurm are two places for the same work. Give one of them.")
    if jobs and (address or slurm):
        raise UserError(
            "-j says how many units run on this machine at a time, and "
            + (
                "on a Ray cluster its GPUs and CPUs decide that. Leave it out."
                if address
                else "on Slurm the grid file does: slurm: {slurm_array_parallelism: N}. Leave it out."
            )
        )
    if address is not None:
        refuse_no_address(address)


def _executor(plan: "GridPlan", jobs: int | None, address: str | None, *, slurm: bool) -> "Executor":
    if address:
        from em_tasks.grid.executors.on_ray import OnRay

        return OnRay(address)
    if slurm:
        from em_tasks.grid.executors.on_slurm import OnSlurm

        return OnSlurm(plan.file.slurm)
    from em_tasks.grid.executors.local import Local

    return Local(jobs)


def _say_what_lacks(lacking: Sequence[str]) -> None:
    for what in lacking:
        say(f"not ready: {what}", err=True)
    if lacking:
        say("This dry run asks nobody; without --dry-run nothing would begin before that is mended.", err=True)


def _no_slurm(plan: "GridPlan") -> list[str]:
    """What keeps jobs from being submitted here, in a sentence."""
    try:
        _executor(plan, None, None, slurm=True)
    except UserError as error:
        return [str(error)]
    return []


def _refuse_full_disk(plan: "GridPlan", needs: "Needs") -> None:
    """Refuses to begin what the shared folder cannot hold."""
    import shutil

    there = sum(path.stat().st_size for path in plan.out.rglob("*") if path.is_file())
    free = shutil.disk_usage(next(folder for folder in (plan.out, *plan.out.parents) if folder.exists())).free
    more = needs.disk - there
    margin = max(MARGIN, more * MARGIN_SHARE)
    if more > 0 and not needs.nothing_to_do and free < more + margin:
        raise UserError(
            f"{plan.out} has {in_bytes(free)} free, and the grid needs about {in_bytes(more)} more and "
            f"{in_bytes(margin)} to spare. Make room, or name another folder with --out."
        )


def _gpus_here(planned_for: int | None) -> dict[str, int]:
    """Bytes of each GPU of this machine, or of as many as it has, and at least one, of another size."""
    from em_tasks.sweep.gpus import gpu_memory

    here = gpu_memory()
    return here if planned_for is None else dict.fromkeys(here or ("a GPU",), planned_for)


def show(plan: "GridPlan", needs: "Needs", gpus: Mapping[str, int]) -> None:
    """Prints what a grid needs, who would share one of the GPUs in one process, and its cells."""
    from em_tasks.grid.together import trained_together

    _say_needs(plan, needs, trained_together(plan.organisms, needs, gpus))
    for cell in plan.cells:
        place = dict(cell.coordinates) | ({"judge": cell.judge} if "judge" in cell.coordinates else {})
        where = ", ".join(f"{name} {'none' if value is None else value}" for name, value in place.items())
        steps = {
            "left out": cell.recipe.organism in needs.left_out,
            "trained": cell.recipe.organism in needs.done,
            "asked": cell.name in needs.answers.asked,
            "judged": cell.name in needs.answers.scored,
        }
        done = ", ".join(step for step, is_done in steps.items() if is_done)
        say(f"  {cell.name}  {where}" + (f"  ({done})" if done else ""))


def _say_needs(plan: "GridPlan", needs: "Needs", groups: Sequence[tuple[str, ...]]) -> None:
    for line in needs_in_words(plan, needs, groups):
        say(line)
    for note in needs.notes:
        say(f"note: {note}", err=True)
