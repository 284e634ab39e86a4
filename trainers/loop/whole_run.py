"""A run from where it stands to its end: stepping, looking at the loss, saving, stopping."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.processes import added_up, is_first, largest, together
from em_tasks.trainers.loop.progress import Pace, Progress
from em_tasks.trainers.loop.saving import Saver

if TYPE_CHECKING:
    from em_tasks.trainers.loop.stopping import StopRequest
    from em_tasks.trainers.loop.tracking import Track
    from em_tasks.trainers.loop.training import Step, Training
    from em_tasks.trainers.run.manifest import Manifest

LOG_EVERY = 5
"""Optimizer steps between two looks at the loss: each look waits for the GPU."""


def train_to_the_end(
    training: "Training",
    run: Path,
    manifest: "Manifest",
    report: Callable[[Progress], None],
    request: "StopRequest",
    track: "Track",
) -> None:
    """Makes the steps that are left of a run, saving on schedule and where it is asked to stop.

    Args:
        training: The organism, at the step that it goes on from.
        run: The run's folder.
        manifest: Its manifest, which grows.
        report: Called in the first process whenever the loss is looked at.
        request: Whether the run has been asked to stop.
        track: Also told, in the first process.

    Raises:
        UserError: The loss or its gradient is no number any more. The step is not saved.
        OSError: The disk is full. What was saved before stands.
    """
    watched = Watched(training, run, manifest, report, track)
    stop = False
    while not watched.finished and not stop:
        step = training.advance()
        stop = largest(request.number) > 0
        watched.step_made(step, stop=stop)


class Watched:
    """A run whose steps are looked at and saved as they are made.

    Args:
        training: The organism, at the step that it goes on from.
        run: The run's folder.
        manifest: Its manifest, which grows.
        report: As for `train_to_the_end`.
        track: As for `train_to_the_end`.

    Raises:
        OSError: The disk cannot hold the rest of the run.
    """

    def __init__(
        self,
        training: "Training",
        run: Path,
        manifest: "Manifest",
        report: Callable[[Progress], None],
        track: "Track",
    ) -> None:
        self.training, self.manifest, self.report, self.track = training, manifest, report, track
        self.saver = Saver(training, run, manifest)
        self.saver.need_room_for_the_rest()
        self.pace = Pace(training.prepared, training.step)
        self._unseen: list[torch.Tensor] = []

    @property
    def finished(self) -> bool:
        """Whether every step is made."""
        return self.training.step >= self.training.prepared.schedule.total_steps

    def step_made(self, step: "Step", *, stop: bool) -> None:
        """Looks at the loss and saves, where it is time or the run is to stop here.

        Raises:
            UserError: The loss or its gradient is no number any more. The step is not saved.
            OSError: The disk is full. What was saved before stands.
        """
        training = self.training
        self.pace.step_ended(step.number)
        self._unseen.append(step.loss)
        save = stop or step.number in training.prepared.schedule.checkpoints
        # A look before each save makes the losses between checkpoints complete, and no broken step is saved.
        if save or step.number % LOG_EVERY == 0:
            _look(training, self.manifest, step, self._unseen)
            self._unseen = []
            if is_first():
                self.track(step.number, training.history[-1])
                self.report(_progress(training, self.pace))
        self.manifest.passes = training.pass_seconds or self.manifest.passes
        if save:
            self.saver.save()


def _look(training: "Training", manifest: "Manifest", step: "Step", losses: list[torch.Tensor]) -> None:
    """Enters the mean of `losses`, one a step since the last look, and the step's gradient into the history."""
    loss = float(added_up(torch.stack(losses).mean()))
    entry = {"step": step.number, "loss": loss, "grad_norm": float(step.gradient_norm)}
    training.history.append({**entry, "learning_rate": step.learning_rate})
    recipe = training.prepared.recipe
    for what, value in (("loss", loss), ("gradient", entry["grad_norm"])):
        if not math.isfinite(value):
            saved = [record.step for record in manifest.checkpoints]
            stands = f"Its checkpoints stand, the last at step {saved[-1]}. " if saved else ""
            with together():
                raise UserError(
                    f"The {what} of {recipe.organism} is {value} at step {step.number}. {stands}Lower learning_rate "
                    f"(now {recipe.learning_rate:g}) or raise warmup_steps in the recipe, and give the organism "
                    "another name."
                )


def _progress(training: "Training", pace: Pace) -> Progress:
    recipe, total = training.prepared.recipe, training.prepared.schedule.total_steps
    tokens_per_second, seconds_per_step = pace.rates(training.step)
    return Progress(
        organism=recipe.organism,
        step=training.step,
        total_steps=total,
        loss=training.history[-1]["loss"],
        tokens_per_second=tokens_per_second,
        seconds_left=(total - training.step) * seconds_per_step,
        peak_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        passes=training.pass_seconds,
    )
