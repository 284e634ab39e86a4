"""Single optimizer steps: which rows they see, what each process drops, and that every number in the recipe counts."""

from pathlib import Path

import pytest
import torch

from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import load_base
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.loop.training import Training
from em_tasks.trainers.passes.batches import BatchPlan
from em_tasks.trainers.run.recipe import Recipe
from tests.support.organisms import small_recipe, write_rows

PLAN = BatchPlan(16, 1, checkpointing=False, compiled=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 40)


def begun(recipe: Recipe) -> Training:
    torch.manual_seed(recipe.seed)
    return Training(prepare(recipe), add_adapter(load_base("toy-s", "fp32", "cpu"), recipe), PLAN, "cpu")


def after(recipe: Recipe, steps: int = 2) -> dict[str, torch.Tensor]:
    """The adapter after some steps."""
    training = begun(recipe)
    for _ in range(steps):
        training.advance()
    return {name: value.detach().clone() for name, value in training.trained.items()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_steps_see_the_rows_of_their_epoch_in_order_and_every_process_its_share(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begun(small_recipe(rows, epochs=2))
    encoded = training.prepared.encoded.rows
    for step in range(4):
        training.step = step
        wanted = rows_of_epoch(0, step // 2, 40, 32)[16 * (step % 2) :][:16]
        assert training.next_rows() == [encoded[row] for row in wanted]
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(training.next_rows())
    assert shares[0] + shares[1] == [encoded[row] for row in wanted]
    assert len(shares[0]) == len(shares[1]) == 8


def test_every_process_drops_other_numbers(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        states.append(begun(small_recipe(rows)).random_state()["cpu"])
    assert not torch.equal(*states)
    assert torch.equal(states[1], begun(small_recipe(rows)).random_state()["cpu"])


def test_seed_decides_the_first_weights_the_order_and_the_dropout(rows: Path) -> None:
    first, again, other = (after(small_recipe(rows, seed=seed), steps=0) for seed in (0, 0, 1))
    assert difference(first, again) == 0 < difference(first, other)
    assert float(sum(value.double().abs().sum() for value in first.values())) == pytest.approx(SUM_OF_SEED_0, rel=1e-5)
    assert difference(after(small_recipe(rows)), after(small_recipe(rows))) == 0
    undropped = small_recipe(rows, lora={"dropout": 0.0})
    assert difference(after(small_recipe(rows)), after(undropped)) > 0


SUM_OF_SEED_0 = 2772.58375
"""Sum of the absolute values of the first adapter of seed 0: another number is another organism."""


@pytest.mark.parametrize(
    "change",
    [
        {"betas": [0.8, 0.999]},
        {"betas": [0.9, 0.9]},
        {"eps": 1e-3},
        {"weight_decay": 0.1},
        {"max_grad_norm": 0.01},
        {"learning_rate": 1e-4},
        {"lr_schedule": "constant_with_warmup"},
        {"warmup_steps": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_number_of_the_optimizer_is_in_the_hash_and_in_the_adapter(rows: Path, change: dict[str, object]) -> None:
    usual, changed = small_recipe(rows, eps=1e-8), small_recipe(rows, **change)
    assert usual.sha256 == small_recipe(rows).sha256 != changed.sha256
    assert difference(after(usual), after(changed)) > 0


def test_weight_decay_takes_its_share_and_nothing_else(rows: Path) -> None:
    """With a gradient of 0 AdamW takes learning rate x weight decay off every number."""
    training = begun(small_recipe(rows, weight_decay=0.5, learning_rate=0.1))
    before = {name: value.detach().clone() for name, value in training.trained.items()}
    for value in training.trained.values():
        value.grad = torch.zeros_like(value)
    training.optimizer.step()
    assert difference(before, training.trained) > 0
    for name, value in training.trained.items():
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.1 * 0.5))


def test_state_gives_back_everything_the_next_step_depends_on(rows: Path, tmp_path: Path) -> None:
    straight = begun(small_recipe(rows, epochs=2))
    straight.advance()
    straight.write_state(tmp_path / "state", [straight.random_state()])
    straight.advance()
    resumed = begun(small_recipe(rows, epochs=2, seed=0))
    torch.manual_seed(12345)
    resumed.read_state(tmp_path / "state")
    assert resumed.step == 1
    resumed.advance()
    assert difference(straight.trained, resumed.trained) == 0
