"""What happens between optimizer steps: progress is told, checkpoints are published, requests to stop are met.

Every save is the same sequence in any case: the Trainer's whole state, flushed to disk; on schedule the finished
checkpoint beside it; then the manifest that vouches for both; then what is no longer needed goes.
"""

import math
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.prepare import Prepared
from em_tasks.trainers.loop.checkpoint_files import checkpoint_bytes, publish
from em_tasks.trainers.loop.processes import from_first, is_first, largest, together
from em_tasks.trainers.loop.progress import Pace, Progress, mean_loss
from em_tasks.trainers.loop.references import reference_of
from em_tasks.trainers.loop.stopping import StopRequest
from em_tasks.trainers.run.disk import need_room, writing
from em_tasks.trainers.run.folder import RESUME_STATE, clear_unrecorded, state_folder
from em_tasks.trainers.run.hashes import adapter_sha256, tokenizer_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord, Manifest, read_manifest, to_disk, write_manifest
from em_tasks.trainers.run.model_card import model_card

LOG_EVERY = 5
"""Optimizer steps between two looks at the loss: each look waits for the GPU."""


class Publisher(TrainerCallback):  # type: ignore[misc]
    """Reports, saves on schedule and on request, and enters each checkpoint in the manifest.

    Args:
        prepared: The recipe with its rows and schedule.
        model: The base with the adapter that is trained.
        run: The run's folder.
        manifest: Its manifest, which grows.
        report: Called in the first process whenever the loss is looked at.
        request: Whether the run has been asked to stop.
    """

    def __init__(
        self,
        prepared: Prepared,
        model: PeftModel,
        run: Path,
        manifest: Manifest,
        report: Callable[[Progress], None],
        request: StopRequest,
    ) -> None:
        self.prepared, self.model, self.run, self.manifest = prepared, model, run, manifest
        self.report, self.request = report, request
        self.sizes = checkpoint_bytes(model, prepared.tokenizer)
        self.pace: Pace | None = None
        self.began = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Checks the disk, and has a longer schedule's learning rate apply from the first step on."""
        ahead = sum(step > state.global_step for step in self.manifest.planned)
        # The old state goes only when the new one is complete.
        states = 1 if state.global_step else 2
        needed = ahead * self.sizes[0] + states * self.sizes[1]
        from_first(lambda: need_room(self.run, needed, "the rest of the run"))
        # The optimizer's saved state holds the rate that the schedule of that time gave the next step.
        scheduler = kwargs["lr_scheduler"]
        for group, peak, factor in zip(
            kwargs["optimizer"].param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = peak * factor(scheduler.last_epoch)
        self.pace = Pace(self.prepared, state.global_step)
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says what is due after this step."""
        assert self.pace is not None
        self.pace.step_ended(state.global_step)
        stop = largest(self.request.number) > 0
        control.should_training_stop = control.should_training_stop or stop
        control.should_save = stop or state.global_step in self.prepared.schedule.checkpoints
        # A save's own log makes the losses between two checkpoints complete, and stops a broken run before it is saved.
        control.should_log = control.should_save or state.global_step % LOG_EVERY == 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Tells the progress, unless the loss or its gradient is no number any more."""
        if "loss" not in logs:
            return
        assert self.pace is not None
        recipe, step, total = self.prepared.recipe, state.global_step, self.prepared.schedule.total_steps
        for what, value in (("loss", logs["loss"]), ("gradient", logs.get("grad_norm", 0.0))):
            if not math.isfinite(value):
                saved = [record.step for record in self.manifest.checkpoints]
                stands = f"Its checkpoints stand, the last at step {saved[-1]}. " if saved else ""
                with together():
                    raise UserError(
                        f"The {what} of {recipe.organism} is {value} at step {step}. {stands}Lower learning_rate (now "
                        f"{recipe.learning_rate:g}) or raise warmup_steps in the recipe, and give the organism another "
                        "name."
                    )
        if is_first():
            tokens, seconds = self.pace.rates(step)
            memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
            self.report(Progress(recipe.organism, step, total, logs["loss"], tokens, seconds * (total - step), memory))

    def save(self, save_state: Callable[[], None], state: Any) -> None:
        """Saves where the run stands.

        Args:
            save_state: Has the Trainer write its state to `.trainer/checkpoint-<step>`.
            state: The Trainer's.

        Raises:
            OSError: The disk has no room; what was saved before stands.
        """
        from_first(lambda: need_room(self.run, sum(self.sizes), "the next checkpoint"))
        try:
            with together(), writing(self.run):
                save_state()
            from_first(lambda: self._vouch(state))
        except OSError:
            if is_first():
                clear_unrecorded(self.run, read_manifest(self.run))
            raise

    def _vouch(self, state: Any) -> None:
        step = state.global_step
        with writing(self.run):
            folder = state_folder(self.run, step)
            for path in (*folder.iterdir(), folder, self.run / RESUME_STATE):
                to_disk(path)
            if step in self.prepared.schedule.checkpoints:
                last = self.manifest.checkpoints[-1].step if self.manifest.checkpoints else 0
                epoch, loss = self.prepared.schedule.epoch_at(step), mean_loss(state.log_history, last, step)
                card = model_card(self.manifest, step, epoch, loss)
                reference = reference_of(self.model, self.prepared.tokenizer)
                published = publish(self.run, step, self.model, self.prepared.tokenizer, card, reference)
                self.manifest.checkpoints.append(
                    CheckpointRecord(
                        step=step,
                        epoch=epoch,
                        loss=loss,
                        adapter_sha256=adapter_sha256(published),
                        reference_sha256=sha256(reference).hexdigest(),
                        tokenizer_sha256=tokenizer_sha256(published),
                    )
                )
            self.manifest.resume_step = step
            self.manifest.seconds += time.perf_counter() - self.began
            write_manifest(self.run, self.manifest)
        self.began = time.perf_counter()
        clear_unrecorded(self.run, self.manifest)
