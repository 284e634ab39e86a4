import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.schedule import plan


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
