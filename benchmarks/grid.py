"""What a grid of many organisms costs beside training and asking: seconds of processor, and bytes, by organisms.

    python -m benchmarks.grid --organisms 10 40 160 --report 10 40

One toy organism is trained and evaluated for real (two checkpoints, twenty questions asked once each). Its run and its
logs are then copied under the names of all cells of a grid of seeds, so that nothing is left to do but what the driver
does: reading the grid, checking what it needs, looking for what is missing, reporting.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inspect_ai.log import read_eval_log, write_eval_log

from em_tasks.grid.executors.protocol import More
from em_tasks.grid.needs import grid_needs
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.units import Unit, do
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.resources import shipped
from em_tasks.trainers.run.manifest import read_manifest, write_manifest

T = TypeVar("T")


class InOrder:
    """Does units one after the other in this process."""

    width = 1

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        """Does them."""
        from em_tasks.grid.executors.protocol import Ended

        waiting, ended = list(units), list[Ended]()
        while (coming := more(ended)) is not None or waiting:
            waiting += coming or ()
            ended = []
            if waiting:
                unit = waiting.pop(0)
                ended = [Ended(unit, do(unit, folder))]


def grid(folder: Path, organisms: int) -> Path:
    """A grid of so many seeds of one tiny organism."""
    rows = shipped("datasets/toy/medical_reckless.jsonl").read_text().splitlines()[:16]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    fields = {"base": "toy-s", "size": "S", "domain": "medical", "data": "rows.jsonl", "precision": "fp32"}
    fields |= {"batch_size": 8, "accumulation": 1, "epochs": 1}  # type: ignore[dict-item]
    content = {"name": "many", "fields": fields, "axes": {"seed": list(range(organisms))}, "evaluate": {"samples": 1}}
    path = folder / f"many{organisms}.yaml"
    path.write_text(json.dumps(content))
    return path


def driver(plan: GridPlan) -> Driver:
    """A driver of a grid that reports nothing."""
    made = Driver(plan, InOrder(), {}, lambda standing: None)  # type: ignore[arg-type]
    made._reporting = list  # type: ignore[method-assign]
    return made


def copied(one: GridPlan, plan: GridPlan) -> None:
    """Gives every organism of a grid the run and the logs of the only one of another."""
    (first,) = one.organisms
    begun = read_manifest(one.runs / first)
    logs = [read_eval_log(str(path)) for path in sorted(one.logs.rglob("*.eval"))]
    for name, recipe in plan.organisms.items():
        run = plan.runs / name
        shutil.copytree(one.runs / first, run)
        write_manifest(run, begun.model_copy(update={"recipe": recipe, "recipe_sha256": recipe.sha256}))
        for number, log in enumerate(logs):
            if log.eval.model.endswith("@base"):
                continue
            mine = log.model_copy(deep=True)
            mine.eval.model = mine.eval.model.replace(first, name)
            mine.eval.metadata = {**(log.eval.metadata or {}), "organism": name, "training_seed": recipe.seed}
            mine.eval.metadata["axes"] = recipe.axes
            folder = plan.logs / Path(one.groups[0].folder).name / "toy-s"
            folder.mkdir(parents=True, exist_ok=True)
            write_eval_log(mine, str(folder / f"{name}-{number}.eval"))
    for log in logs:
        if log.eval.model.endswith("@base"):
            write_eval_log(log, str(plan.logs / "bare" / "toy-s" / "base.eval"))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of processor, those of processes that it started included, and what it gave."""
    began = sum(os.times()[:4])
    given = work()
    return sum(os.times()[:4]) - began, given


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--organisms", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--report", type=int, nargs="*", default=[10, 40], help="of these the report too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = plan_grid(grid(folder, 1), folder / "one")
        driver(one).run()
        print("organisms  cells s  needs s  look s  again s  runs MB  logs MB  report s  report MB")
        for count in options.organisms:
            out = folder / f"out{count}"
            cells, plan = timed(lambda count=count, out=out: plan_grid(grid(folder, count), out))  # type: ignore[misc]
            copied(one, plan)
            needs, _ = timed(lambda plan=plan: grid_needs(plan, None))  # type: ignore[misc]
            looking = driver(plan)
            look, _ = timed(looking.run)
            again, left = timed(looking._evaluations)
            if left or looking._begun:
                raise AssertionError(f"something was left to do: {looking._begun}, {left}")
            row: list[Any] = [f"{cells:.2f}", f"{needs:.2f}", f"{look:.2f}", f"{again:.2f}"]
            row += [f"{size(plan.runs) / 1e6:.1f}", f"{size(plan.logs) / 1e6:.1f}"]
            if count in options.report:
                seconds, _ = timed(lambda plan=plan: write_report([plan.logs], plan.report))  # type: ignore[misc]
                row += [f"{seconds:.1f}", f"{size(plan.report) / 1e6:.1f}"]
            print(f"{count:9}  " + "  ".join(f"{cell:>7}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
