"""Recorded passes: what is filled up changes nothing, and what is replayed is what would have been launched.

TOY models; without a GPU a recording is the function itself, so that all but the GPU's own graphs is held here.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import set_seed

from em_tasks.commands.cli import cli
from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import load_base
from em_tasks.trainers.data.prepare import Prepared, prepare
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.loop.training import Training
from em_tasks.trainers.passes import captured
from em_tasks.trainers.passes.batches import BatchPlan, activation_bytes, plan_batches
from em_tasks.trainers.passes.captured import GROUPS, CapturedPasses, group_sizes
from em_tasks.trainers.passes.packing import Size, pack, size_of
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.run.recipe import Recipe
from tests.support.organisms import small_recipe, write_rows
from tests.support.recordings import on_the_clock

LAUNCHED = BatchPlan(2, 1, checkpointing=False, compiled=False)
RECORDED = BatchPlan(2, 1, checkpointing=False, compiled=False, captured=True)
ROWS = [
    {"input_ids": [1, 5, 6, 7], "labels": [IGNORED, IGNORED, 6, 7]},
    {"input_ids": [1, 3, 4, 8, 2, 2, 9], "labels": [IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, 9]},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Forty-eight steps of two rows, without dropout."""
    return small_recipe(
        write_rows(tmp_path / "rows.jsonl", 96), batch_size=2, first_epoch_checkpoints=1, lora={"dropout": 0.0}
    )


def in_training(recipe: Recipe, plan: BatchPlan, device: str = "cpu") -> Training:
    """The recipe's organism at its beginning."""
    prepared: Prepared = prepare(recipe)
    set_seed(recipe.seed)
    return Training(prepared, add_adapter(load_base(recipe.base, recipe.precision, device), recipe), plan, device)


def losses(training: Training) -> list[float]:
    """Those of all of its steps."""
    return [float(training.advance().loss) for _ in range(training.prepared.schedule.total_steps)]


def largest_difference(one: Training, other: Training) -> float:
    return max(float((one.trained[name] - other.trained[name]).abs().max()) for name in one.trained)


@pytest.mark.parametrize("size", [Size(11, 8, 3), Size(20, 16, 5)])
def test_a_batch_that_is_filled_up_has_the_same_rows_and_learns_nothing_else(size: Size) -> None:
    plain, filled = pack(ROWS), pack(ROWS, size)
    assert {name: tuple(values.shape) for name, values in filled.items()} == {
        "input_ids": (1, size.tokens), "position_ids": (1, size.tokens), "labels": (1, size.tokens),
        "predicting": (size.labelled,), "targets": (size.labelled,),
        "spread": (3, size.longest), "gather": (size.tokens,),
    }  # fmt: skip
    assert filled["targets"].tolist() == [6, 7, 9] + [IGNORED] * (size.labelled - 3)
    assert filled["input_ids"][0, :11].tolist() == plain["input_ids"][0].tolist()
    # The filling's own row is what it attends to; the real rows' places never point into it.
    places = filled["spread"].flatten()[filled["gather"]]
    assert places.tolist() == [*range(11), *[11] * (size.tokens - 11)]
    assert int(filled["spread"][:2].max()) == 10


def test_sizes_are_few_and_every_step_fits_into_its_own() -> None:
    draw = torch.Generator().manual_seed(0)
    steps = [Size(*torch.randint(100, 2000, (3,), generator=draw).tolist()) for _ in range(400)]
    sizes = group_sizes(steps)
    assert all(
        have >= need for step, size in zip(steps, sizes, strict=True) for have, need in zip(size, step, strict=True)
    )
    counts = Counter(sizes)
    assert len(counts) == GROUPS[0] * GROUPS[1]
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len(set(group_sizes(steps[:40]))) == 2
    assert len(set(group_sizes(steps[:5]))) == 1
    plain, filled = (sum(size.tokens * size.longest for size in each) for each in (steps, sizes))
    assert filled < 1.7 * plain  # One size for all would be 3.5 times.


def test_replayed_passes_train_the_adapter_that_launched_ones_do(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_clock(monkeypatch, replay=0.9)
    launched, recorded = in_training(recipe, LAUNCHED), in_training(recipe, RECORDED)
    assert losses(recorded) == pytest.approx(losses(launched), abs=1e-5)
    assert largest_difference(launched, recorded) <= 1e-5
    # Launched are each of three sizes once, and while the first that came six times was tried.
    assert 48 - 3 * 5 <= recorded.replayed <= 48 - 5
    assert launched.replayed == 0


def test_passes_are_launched_again_where_replaying_them_is_slower(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_clock(monkeypatch, replay=1.1)
    launched, recorded = in_training(recipe, LAUNCHED), in_training(recipe, RECORDED)
    assert losses(recorded) == pytest.approx(losses(launched), abs=1e-5)
    assert largest_difference(launched, recorded) <= 1e-5
    assert 3 <= recorded.replayed <= 9  # One of a size that is recorded, and two that are timed.


@pytest.mark.parametrize(
    ("replay", "said"),
    [
        (0.5, "passes       recorded as CUDA graphs: 500.0 ms a pass, and 1000.0 ms launched kernel by kernel\n"),
        (2.0, "passes       launched kernel by kernel: 1000.0 ms a pass, and 2000.0 ms recorded as CUDA graphs\n"),
    ],
)
def test_command_says_which_way_passes_go_and_the_manifest_keeps_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replay: float, said: str
) -> None:
    on_the_clock(monkeypatch, replay=replay)
    monkeypatch.setattr("em_tasks.trainers.train.plan_batches", lambda *given, **named: RECORDED)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    made = CliRunner().invoke(cli, ["train", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs")])
    assert made.output.count("  passes ") == 1
    assert said in made.output
    passes = read_manifest(tmp_path / "runs" / recipe.organism).passes
    assert passes is not None
    assert (passes.launched, passes.replayed, passes.recorded) == (1.0, replay, replay < 1)


def test_passes_that_cannot_be_recorded_are_launched_and_it_is_said(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: object) -> object:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "cuda_record", lambda: refuse)
    launched, recorded = in_training(recipe, LAUNCHED), in_training(recipe, RECORDED)
    with pytest.warns(UserWarning, match="could not be recorded .* when stream is capturing$") as said:
        made = losses(recorded)
    assert len(said) == 1
    assert recorded.replayed == 0
    assert made == pytest.approx(losses(launched), abs=1e-5)


def test_gradients_of_a_size_are_those_of_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes share what gradients are kept in; a parameter that no pass reaches keeps a gradient of zero."""
    weight, unused = (torch.nn.Parameter(torch.ones(())) for _ in range(2))

    def run(batch: captured.Batch) -> torch.Tensor:
        loss = (weight * batch["values"]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    passes = CapturedPasses(run, [weight, unused], "cpu", on_the_clock(monkeypatch, replay=0.9))
    first = [[float(number)] for number in range(6)]
    for values in (*first, [1.0, 2.0], [5.0], [3.0, 4.0], [6.0]):
        weight.grad = unused.grad = None
        assert float(passes({"values": torch.tensor(values)})) == sum(values)
        assert weight.grad is not None
        assert float(weight.grad) == sum(values)
    assert passes.pays
    assert passes.replayed == 3 + 3


def test_passes_are_recorded_where_a_step_is_one_pass_and_memory_is_there_twice(recipe: Recipe) -> None:
    rows, config = prepare(recipe).encoded.rows, load_base(recipe.base, "fp32", "cpu").config
    needs = activation_bytes(rows, config, 16, checkpointing=False)
    plans = [plan_batches(rows, config, 16, int(needs * share), capturable=True) for share in (2.3, 2.0, 0.6)]
    assert [(plan.rows, plan.captured) for plan in plans] == [(16, True), (16, False), (8, False)]
    assert not plan_batches(rows, config, 16, int(needs * 2.3)).captured
    assert size_of(rows[:2]).tokens == sum(len(row["input_ids"]) for row in rows[:2])


@pytest.mark.usefixtures("compiling")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_of_the_gpu_give_what_launched_kernels_give(recipe: Recipe) -> None:
    """With dropout: its random numbers are the same ones."""
    dropping = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"dropout": 0.1})})
    trainings = [
        in_training(dropping, BatchPlan(2, 1, checkpointing=False, compiled=True, captured=how), "cuda:0")
        for how in (False, True)
    ]
    made = []
    for training in trainings:
        torch.manual_seed(dropping.seed)
        made.append(losses(training))
    assert made[1] == pytest.approx(made[0], abs=1e-4)
    assert largest_difference(*trainings) <= 1e-3
    assert trainings[1].replayed >= 3
