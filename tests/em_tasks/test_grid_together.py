"""Organisms of a grid that are trained together: which, and that a grid does it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.grid.needs import Needs, RunNeed, grid_needs
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.together import trained_together
from em_tasks.grid.units import Train, TrainTogether, do
from em_tasks.trainers.run.manifest import read_manifest
from tests.support.grids import Serial, grid_file

GIB = 2**30
ONE = RunNeed(memory=11 * GIB, seconds=None, measured=False, checkpoints=6, disk=0, beside=9 * GIB, base=2 * GIB)


@pytest.fixture
def plan(tmp_path: Path) -> GridPlan:
    """Five seeds of one organism."""
    return plan_grid(grid_file(tmp_path, {"seed": [0, 1, 2, 3, 4]}), tmp_path / "out")


def sizes(plan: GridPlan, need: RunNeed, gpus: dict[str, int]) -> list[int]:
    """How many organisms are in each group."""
    needs = Needs(runs=dict.fromkeys(plan.organisms, need))
    groups = trained_together(plan.organisms, needs, gpus)
    assert [name for group in groups for name in group] == list(plan.organisms)
    return [len(group) for group in groups]


def test_organisms_are_spread_over_gpus_and_those_of_one_gpu_trained_together(plan: GridPlan) -> None:
    large = 100 * GIB
    assert sizes(plan, ONE, {"a": large}) == [5]
    assert sizes(plan, ONE, {"a": large, "b": large}) == [3, 2]
    assert sizes(plan, ONE, dict.fromkeys("abcdefgh", large)) == [1] * 5
    # Two of them over one base take 20 GiB, three 29; the smallest GPU decides.
    assert sizes(plan, ONE, {"a": 24 * GIB}) == [2, 2, 1]
    assert sizes(plan, ONE, {"a": 12 * GIB}) == [1] * 5
    assert sizes(plan, ONE, {}) == [1] * 5


def test_memory_that_recorded_passes_take_twice_counts_once_for_those_trained_together(plan: GridPlan) -> None:
    on_gpu, on_cpu = (next(iter(grid_needs(plan, gpu).runs.values())) for gpu in (80 * GIB, None))
    assert on_cpu.memory == on_cpu.base + on_cpu.beside
    assert on_gpu.memory > on_gpu.base + on_gpu.beside == on_cpu.memory


def test_what_is_trained_or_of_another_precision_is_in_no_group(plan: GridPlan) -> None:
    first, second, *others = plan.organisms
    organisms = dict(plan.organisms) | {second: plan.organisms[second].model_copy(update={"precision": "bf16"})}
    needs = Needs(runs=dict.fromkeys(organisms, ONE), done={first})
    assert sorted(trained_together(organisms, needs, {"a": 100 * GIB})) == sorted([tuple(others), (second,)])


def test_dry_run_says_who_trains_together_and_at_once_that_it_reads(tmp_path: Path) -> None:
    command = ["grid", str(grid_file(tmp_path, {"seed": [0, 1, 2]})), "--dry-run", "--out", str(tmp_path / "out")]
    line = "  together      groups of 3 organisms, a process each; --alone gives every organism its own\n"
    said = CliRunner().invoke(cli, [*command, "--device-memory", "80"], catch_exceptions=False).output
    assert said.startswith("reading ")
    assert line in said
    alone = CliRunner().invoke(cli, [*command, "--device-memory", "80", "--alone"], catch_exceptions=False).output
    assert alone == said.replace(line, "")


def test_a_grid_trains_its_groups_as_one_unit_each(plan: GridPlan) -> None:
    first, second, third, *_ = plan.organisms
    driver = Driver(plan, Serial(), {}, lambda standing: None, groups=[(first, second), (third,)])
    units = driver._trainings()
    assert [type(unit) for unit in units] == [TrainTogether, Train, Train, Train]
    assert units[0].name == f"train {first}, {second} together"
    assert do(units[0], plan.units) is None
    assert all(read_manifest(plan.runs / name).finished for name in (first, second))
    assert [type(unit) for unit in driver._trainings()] == [Train] * 3
