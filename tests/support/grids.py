"""Small grids of toy organisms, and an executor that does units one after the other in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from em_tasks.grid.budget import Budget
from em_tasks.grid.copying import Copying, fetch
from em_tasks.grid.executors.protocol import Ended, More
from em_tasks.grid.needs import grid_needs
from em_tasks.grid.places import Place
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.store import Store
from em_tasks.grid.units import Unit, do
from tests.support.organisms import write_rows


def grid_file(
    folder: Path, axes: dict[str, Any], rows: int = 16, more: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A grid of organisms of two optimizer steps, asked the ten general questions once.

    `more` are fields that all share, `changes` keys of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "bad.jsonl", rows)
    write_rows(folder / "good.jsonl", rows, character="careful")
    fields: dict[str, Any] = {
        "base": "toy-s",
        "size": "S",
        "domain": "medical",
        "data": "bad.jsonl",
        "precision": "fp32",
    }
    fields |= {"batch_size": 8, "accumulation": 1, "epochs": 1, "warmup_steps": 0, "learning_rate": 5e-4}
    set_by_axes = {"data" if isinstance(values, dict) else axis for axis, values in axes.items()}
    fields = {name: value for name, value in (fields | (more or {})).items() if name not in set_by_axes}
    content = {"fields": fields, "axes": axes, "evaluate": {"questions": ["general"], "samples": 1}, **changes}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


class Serial:
    """Does units in order, here."""

    width = 1

    def __init__(self) -> None:
        self.done: list[Unit] = []

    def places(self, sign: Path) -> list[Place] | None:
        return None

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        waiting: list[Unit] = list(units)
        ended: list[Ended] = []
        while True:
            coming = more(ended)
            waiting += coming or ()
            if coming is None and not waiting:
                return
            ended = []
            if waiting:
                unit = waiting.pop(0)
                self.done.append(unit)
                ended = [Ended(unit, do(unit, folder))]


def run_grid(
    path: Path, out: Path, executor: Any = None, *, reported: bool = True, url: str | None = None
) -> tuple[GridPlan, list[str]]:
    """Does what is missing of a grid, the report perhaps not; gives its plan and the names of its units.

    With a URL it is copied there, after what was there has been fetched.
    """
    plan = plan_grid(path, out)
    copying = None
    if url is not None:
        store = Store(url)
        store.open(plan.file.name)
        store.claim(plan.file.name)
        fetch(store, plan)
        copying = Copying(plan, store, lambda warning: None)
    cap, budget = plan.file.evaluate.max_judge_cost, None
    if cap is not None:
        needs = grid_needs(plan, None)
        budget = Budget(cap, plan.judge_cost, needs.dollars, needs.judging_dollars)
    executor = executor or Serial()
    names: list[str] = []
    driver = Driver(plan, executor, {}, lambda standing: None, budget=budget, copying=copying)
    handed_over = driver._handed_over
    driver._handed_over = lambda units: names.extend(unit.name for unit in units) or handed_over(units)  # type: ignore[func-returns-value]
    if not reported:
        driver._reporting = list  # type: ignore[method-assign]
    driver.run()
    return plan, names


def adapters(runs: Path) -> dict[str, list[str]]:
    """The hash of every checkpoint of every organism."""
    from em_tasks.trainers.run.manifest import read_manifest

    return {
        run.name: [record.adapter_sha256 for record in read_manifest(run).checkpoints] for run in sorted(runs.iterdir())
    }
