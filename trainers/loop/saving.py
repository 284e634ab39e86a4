"""Saving where a run stands, in an order that loses nothing at any moment.

Every save is the same sequence: the whole state, flushed to disk; on schedule the finished checkpoint beside it; then
the manifest that vouches for both; then what is no longer needed goes.
"""

import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.trainers.loop.checkpoint_files import checkpoint_bytes, write_checkpoint
from em_tasks.trainers.loop.processes import from_first, gathered, is_first
from em_tasks.trainers.loop.progress import mean_loss
from em_tasks.trainers.loop.references import reference_of
from em_tasks.trainers.run.disk import need_room, writing
from em_tasks.trainers.run.folder import RESUME_STATE, clear_unrecorded, state_folder
from em_tasks.trainers.run.hashes import adapter_sha256, tokenizer_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord, Manifest, read_manifest, to_disk, write_manifest
from em_tasks.trainers.run.model_card import model_card

if TYPE_CHECKING:
    from em_tasks.trainers.loop.training import Training


class Saver:
    """Saves a run on schedule and on request, and enters each checkpoint in the manifest.

    Args:
        training: What is saved.
        run: The run's folder.
        manifest: Its manifest, which grows.
    """

    def __init__(self, training: "Training", run: Path, manifest: Manifest) -> None:
        self.training, self.run, self.manifest = training, run, manifest
        self.sizes = checkpoint_bytes(training.model, training.prepared.tokenizer)
        self.began = time.perf_counter()

    def need_room_for_the_rest(self) -> None:
        """Refuses a run that the disk cannot hold.

        Raises:
            OSError: It cannot.
        """
        ahead = sum(step > self.training.step for step in self.manifest.planned)
        # The old state goes only when the new one is complete.
        states = 1 if self.training.step else 2
        needed = ahead * self.sizes[0] + states * self.sizes[1]
        from_first(lambda: need_room(self.run, needed, "the rest of the run"))

    def save(self) -> None:
        """Saves where the run stands.

        Raises:
            OSError: The disk has no room; what was saved before stands.
        """
        random_states = gathered(self.training.random_state())
        try:
            from_first(lambda: self._save(random_states))
        except OSError:
            if is_first():
                clear_unrecorded(self.run, read_manifest(self.run))
            raise

    def _save(self, random_states: list[Any]) -> None:
        training, step = self.training, self.training.step
        need_room(self.run, sum(self.sizes), "the next checkpoint")
        with writing(self.run):
            folder = state_folder(self.run, step)
            training.write_state(folder, random_states)
            for path in (*folder.iterdir(), folder, self.run / RESUME_STATE):
                to_disk(path)
            if step in training.prepared.schedule.checkpoints:
                self.manifest.checkpoints.append(self._checkpoint(step))
            self.manifest.resume_step = step
            self.manifest.seconds += time.perf_counter() - self.began
            write_manifest(self.run, self.manifest)
        self.began = time.perf_counter()
        clear_unrecorded(self.run, self.manifest)

    def _checkpoint(self, step: int) -> CheckpointRecord:
        """Puts the finished checkpoint in its place and says what it is."""
        training, tokenizer = self.training, self.training.prepared.tokenizer
        last = self.manifest.checkpoints[-1].step if self.manifest.checkpoints else 0
        epoch = training.prepared.schedule.epoch_at(step)
        loss = mean_loss(training.history, last, step)
        card = model_card(self.manifest, step, epoch, loss)
        reference = reference_of(training.model, tokenizer)
        finished = write_checkpoint(self.run, step, training.model, tokenizer, card, reference)
        return CheckpointRecord(
            step=step,
            epoch=epoch,
            loss=loss,
            adapter_sha256=adapter_sha256(finished),
            reference_sha256=sha256(reference).hexdigest(),
            tokenizer_sha256=tokenizer_sha256(finished),
        )
