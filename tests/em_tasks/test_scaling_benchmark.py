"""The parts of the benchmark of whole grids that need no base and no GPU; the rest is a run of minutes."""

import os
from pathlib import Path

import pytest

from benchmarks.scaling import Unjudged, Unreported, place, write_grid
from em_tasks.grid.executors.local import Local
from em_tasks.grid.plan import plan_grid
from em_tasks.grid.units import Train
from tests.support.grids import Serial


def test_grid_of_the_benchmark_has_its_seeds_and_rows_and_is_neither_judged_nor_reported(tmp_path: Path) -> None:
    read = plan_grid(write_grid(tmp_path, "1B", range(3), 700), tmp_path / "out")
    plan = Unjudged(read.path, read.file, read.cells, read.out)
    recipes = list(plan.organisms.values())
    assert [recipe.seed for recipe in recipes] == [0, 1, 2]
    assert {(recipe.precision, recipe.effective_batch, recipe.epochs) for recipe in recipes} == {("bf16", 16, 1)}
    assert len((tmp_path / "rows700.jsonl").read_text().splitlines()) == 700
    assert recipes[0].data[0].path == str(tmp_path / "rows700.jsonl")
    assert [group.options.score for group in plan.groups] == [False]
    driver = Unreported(plan, Serial(), {}, lambda standing: None)
    driver.asks = False
    assert [type(unit) for unit in driver._trainings()] == [Train] * 3
    assert not driver._evaluations()
    assert not driver._reporting()


def test_place_shows_so_many_gpus_and_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")

    with place("local", 2) as executor:
        assert isinstance(executor, Local)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
