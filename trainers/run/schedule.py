"""When a run saves: evenly in the first epoch, then at every epoch's end.

An epoch is `rows // effective batch` optimizer steps, the rest of the rows being left out of that epoch, so that every
epoch ends exactly on a checkpoint. 7,049 rows at 16 a step give 110 220 330 440 880 1320; 6,000 give 93 187 281 375
750 1125, as in the published experiment.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    from em_tasks.trainers.run.recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """A run's steps.

    Attributes:
        steps_per_epoch: Optimizer steps an epoch.
        epochs: Passes over the data.
        checkpoints: Steps after which a checkpoint is saved, rising; the last one ends the run.
    """

    steps_per_epoch: int
    epochs: int
    checkpoints: tuple[int, ...]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def epoch_at(self, step: int) -> float:
        """How many epochs have passed after `step` steps."""
        return step / self.steps_per_epoch


def plan(rows: int, effective_batch: int, epochs: int, first_epoch_checkpoints: int) -> Schedule:
    """The schedule of a run over `rows` rows.

    Raises:
        UserError: There are fewer rows than one optimizer step takes.
    """
    steps = rows // effective_batch
    if steps == 0:
        raise UserError(
            f"{rows} usable rows are fewer than one optimizer step takes ({effective_batch}). "
            "Give more data, or lower batch_size or accumulation in the recipe."
        )
    parts = {steps * k // first_epoch_checkpoints for k in range(1, first_epoch_checkpoints + 1)} - {0}
    return Schedule(steps, epochs, tuple(sorted(parts | {steps * epoch for epoch in range(1, epochs + 1)})))


def learning_rate(recipe: "Recipe", total_steps: int, step: int) -> float:
    """The learning rate of the optimizer step after `step` steps, in a run of `total_steps`.

    It rises evenly from 0 over the warm-up and then stays (`constant_with_warmup`), falls evenly to 0 at the run's end
    (`linear`) or along half a cosine wave (`cosine`), as transformers' schedules of these names do.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step / recipe.warmup_steps)
    done = (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps)
    if recipe.lr_schedule == "linear":
        return recipe.learning_rate * max(0.0, (total_steps - step) / max(1, total_steps - recipe.warmup_steps))
    if recipe.lr_schedule == "cosine":
        return recipe.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return recipe.learning_rate
