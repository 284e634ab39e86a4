"""Organisms of a grid that are trained together: which, and that a grid does it."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.grid.needs import Needs, RunNeed, grid_needs
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.together import trained_together
from em_tasks.grid.units import Train, TrainTogether, do
from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.together.train import train_together
from tests.support.grids import Serial, adapters, grid_file

GIB = 2**30
ONE = RunNeed(memory=11 * GIB, seconds=None, measured=False, checkpoints=6, disk=0, beside=9 * GIB, base=2 * GIB)


class KilledError(BaseException):
    """Ends training as a kill does: nothing more is written."""


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
    assert sizes(plan, ONE, dict.fromkeys("abcd", large)) == [2, 1, 1, 1]
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


def test_after_a_kill_those_that_were_begun_together_go_on_so_to_the_same_numbers(plan: GridPlan) -> None:
    first, second, third, *others = plan.organisms
    recipes = [plan.organisms[name] for name in (first, second, third)]

    def kill(progress: Progress) -> None:
        if (progress.organism, progress.step) == (second, 2):
            raise KilledError  # The first has finished; the other two have saved their first step.

    with pytest.raises(KilledError):
        train_together(recipes, plan.runs, kill)
    large = 100 * GIB
    needs = replace(grid_needs(plan, None), runs=dict.fromkeys(plan.organisms, ONE))
    assert needs.done == {first}
    groups = trained_together(plan.organisms, needs, {"a": large})
    assert groups == [(first, second, third), tuple(others)]
    # Who is damaged is left out, and keeps nobody from being trained.
    weights = plan.runs / second / "checkpoint-1" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    rest = replace(grid_needs(plan, None), runs=needs.runs)
    assert (rest.done, rest.left_out) == ({first}, {second})
    assert trained_together(plan.organisms, rest, {"a": large}) == [(third, *others)]
    weights.write_bytes(content)
    # What was never begun is spread; a GPU without work, or too little memory, has all spread anew.
    assert trained_together(plan.organisms, needs, {"a": large, "b": large}) == groups
    anew = [(second,), (third,), (others[0],), (others[1],)]
    assert trained_together(plan.organisms, needs, dict.fromkeys("abcd", large)) == anew
    assert trained_together(plan.organisms, needs, {"a": 24 * GIB})[0] == (second, third)
    (unit, *_) = Driver(plan, Serial(), {}, lambda standing: None, groups=groups)._trainings()
    assert do(unit, plan.units) is None
    straight = plan.out / "straight"
    train_together(recipes, straight, lambda progress: None)
    assert adapters(plan.runs) == adapters(straight)
