"""The parts of the benchmark of whole grids that need no base and no GPU; the rest is a run of minutes."""

import os
import time
from pathlib import Path

import pytest

from benchmarks.scaling import Limit, Unjudged, Unreported, group_sizes, place, recipe_steps, write_grid
from em_tasks.grid.executors.local import Local
from em_tasks.grid.plan import plan_grid
from em_tasks.grid.units import LOG, NOW, Train, place_of
from em_tasks.plugins.errors import UserError
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


def test_units_are_told_by_gpu_start_and_pace_and_a_limit_ends_them(tmp_path: Path) -> None:
    plan = plan_grid(write_grid(tmp_path, "tiny", range(2), 160), tmp_path / "out")
    assert {recipe_steps(recipe) for recipe in plan.organisms.values()} == {10}
    driver = Unreported(plan, Serial(), {}, lambda standing: None)
    (unit, _) = driver._trainings()
    log, now = (place_of(unit, plan.units, suffix) for suffix in (LOG, NOW))
    plan.units.mkdir(parents=True)
    log.write_text(f"2026-11-22 13:00:00 {unit.name}: begun on here, GPU 3\n")
    driver._running = [unit]
    for step, second in ((2, 130.0), (6, 131.0), (6, 131.4), (10, 131.8)):
        now.write_text(f"seeds-seed0: step {step} of 10, loss 1.000")
        os.utime(now, (second, second))
        driver._words()
    (line,) = driver.phases(100.0, 10)
    assert line.pop("unit") == log.stem
    assert line == {"on": "here, GPU 3", "start_s": 30.0, "first_look_at": 2, "ms_a_step": 200.0, "seen_until": 10}
    (cut_off,) = driver.phases(100.0, 40)
    assert cut_off["ms_a_step"] == 200.0
    Limit().keep()
    with pytest.raises(TimeoutError):
        Limit(time.monotonic() - 1).keep()


def test_what_is_compiled_beforehand_is_what_the_grids_train_in_one_process() -> None:
    assert group_sizes(6, [1, 2, 4], ["together"]) == {6, 3, 2, 1}
    assert group_sizes(6, [1, 2], ["alone", "together"]) == {6, 3, 1}


def test_place_shows_the_first_of_the_visible_gpus_and_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,6")
    with place("local", 2) as executor:
        assert isinstance(executor, Local)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,3,6"
    with pytest.raises(UserError, match="4 GPUs were asked for, and here are 3"), place("local", 4):
        pass
