"""Data that changes while a grid is worked on: no unit trains on what was not planned with, and reports say so."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from em_tasks.grid.executors.protocol import More
from em_tasks.grid.needs import grid_needs
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.units import Train, TrainTogether, Unit, do
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.manifest import read_manifest
from tests.support.grids import Serial, grid_file


class Changing(Serial):
    """Loses a row of a file once the first unit is done."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        def changing(ended: object) -> Sequence[Unit] | None:
            if len(self.done) == 1:
                shorten(self.file)
            return more(ended)  # type: ignore[arg-type]

        super().run(units, folder, changing)


def shorten(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:15]))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def driven(plan: GridPlan, executor: Serial) -> None:
    Driver(plan, executor, {}, lambda standing: None, data=grid_needs(plan, None).data).run()


def test_file_that_changes_after_planning_fails_the_units_that_would_learn_it_and_the_report_names_who_learnt_what(
    tmp_path: Path, no_drawing: None
) -> None:
    bad = tmp_path / "bad.jsonl"
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")
    before = sha256(bad)
    with pytest.raises(
        UserError, match=r"train tiny-seed1: .*bad\.jsonl was changed after the run of tiny-seed1"
    ) as said:
        driven(plan, Changing(bad))
    now = sha256(bad)
    assert f"its SHA-256 was {before}, and is {now} now. Nothing of tiny-seed1 was trained. Bring" in str(said.value)
    assert not (plan.runs / "tiny-seed1" / "manifest.json").exists()
    changed = "bad.jsonl was changed since it was trained on: runs learnt other rows than it has now (tiny-seed0)"
    learnt = f"tiny-seed0 learnt {before}; tiny-seed1 learnt {now}"
    versions = f"Runs of this grid learnt 2 versions of bad.jsonl (SHA-256: {learnt})"
    assert [changed in note for note in grid_needs(plan, None).notes] == [True]
    driven(plan, Serial())
    report = (plan.report / "report.md").read_text()
    assert changed in report
    assert versions in report
    assert [note.partition(". ")[0] for note in grid_needs(plan, None).notes] == [changed, versions]
    assert [read_manifest(plan.runs / name).rows for name in plan.organisms] == [16, 15]


def test_organisms_that_are_trained_together_are_held_to_the_planned_data_too(tmp_path: Path) -> None:
    plan = plan_grid(grid_file(tmp_path, {"seed": [0, 1]}), tmp_path / "out")
    data = grid_needs(plan, None).data
    assert [len(hashes) for hashes in data.values()] == [1, 1]
    driver = Driver(plan, Serial(), {}, lambda standing: None, groups=[tuple(plan.organisms)], data=data)
    (unit,) = driver._trainings()
    assert isinstance(unit, TrainTogether)
    shorten(tmp_path / "bad.jsonl")
    assert "bad.jsonl was changed after the run of tiny-seed0 was planned" in str(do(unit, plan.units))
    assert not list(plan.runs.glob("*/manifest.json"))


def test_run_that_was_begun_says_what_it_was_begun_on(tmp_path: Path) -> None:
    plan = plan_grid(grid_file(tmp_path, {"seed": [0]}, more={"epochs": 1}), tmp_path / "out")
    (recipe,) = plan.organisms.values()
    data = grid_needs(plan, None).data[recipe.organism]
    assert do(Train(recipe, plan.runs, data=data), plan.units) is None
    shorten(tmp_path / "bad.jsonl")
    assert do(Train(recipe, plan.runs, data=data), plan.units) is None  # Finished, so nothing is learnt.
    longer = recipe.model_copy(update={"epochs": 2})
    assert "was begun on other data" in str(do(Train(longer, plan.runs, data=data), plan.units))
