from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.run.schedule import learning_rate, plan
from tests.support.organisms import small_recipe


def test_published_medical_data_gives_the_published_checkpoints() -> None:
    schedule = plan(rows=7049, effective_batch=16, epochs=3, first_epoch_checkpoints=4)
    assert schedule.checkpoints == (110, 220, 330, 440, 880, 1320)


def test_published_financial_data_gives_the_published_checkpoints() -> None:
    schedule = plan(rows=6000, effective_batch=16, epochs=3, first_epoch_checkpoints=4)
    assert schedule.checkpoints == (93, 187, 281, 375, 750, 1125)


def test_last_checkpoint_of_every_epoch_is_its_end() -> None:
    schedule = plan(rows=7049, effective_batch=16, epochs=3, first_epoch_checkpoints=4)
    assert [schedule.epoch_at(step) for step in (440, 880, 1320)] == [1.0, 2.0, 3.0]
    assert schedule.total_steps == schedule.checkpoints[-1]


def test_epochs_shorter_than_their_checkpoints_save_every_step_once() -> None:
    assert plan(rows=32, effective_batch=16, epochs=2, first_epoch_checkpoints=4).checkpoints == (1, 2, 4)


def test_fewer_rows_than_one_step_are_refused() -> None:
    with pytest.raises(UserError, match="15 usable rows are fewer than one optimizer step"):
        plan(rows=15, effective_batch=16, epochs=1, first_epoch_checkpoints=4)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 12, 20])
def test_learning_rates_are_those_of_transformers_schedules(schedule: str, warmup: int) -> None:
    recipe = small_recipe(Path("rows.jsonl"), lr_schedule=schedule, warmup_steps=warmup, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=3e-4)
    factor = get_scheduler(schedule, optimizer, warmup, 12).lr_lambdas[0]
    assert [learning_rate(recipe, 12, step) for step in range(13)] == [3e-4 * factor(step) for step in range(13)]


def test_learning_rate_at_four_places() -> None:
    recipe = small_recipe(Path("rows.jsonl"), lr_schedule="cosine", warmup_steps=4, learning_rate=1.0)
    assert [learning_rate(recipe, 20, step) for step in (0, 2, 4, 12, 20)] == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [(0, 0, [4, 1, 7, 5, 3, 9]), (0, 1, [5, 6, 1, 2, 0, 8]), (1, 0, [4, 1, 8, 6, 3, 9]), (7, 2, [4, 7, 5, 8, 6, 1])],
)
def test_rows_come_in_the_same_order_for_ever(seed: int, epoch: int, order: list[int]) -> None:
    assert rows_of_epoch(seed, epoch, rows=10, drawn=6) == order
