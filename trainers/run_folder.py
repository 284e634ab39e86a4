"""The folder of a run while it is trained: whose it is, what an interruption left in it, and how checkpoints get there.

Hugging Face's Trainer keeps its resume state in `.trainer/`. A finished checkpoint is written under a temporary name
and renamed into place; only then does the manifest vouch for it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.bases import fingerprint
from trainers.checkpoints import MANIFEST, Manifest, checkpoint_folder, read_manifest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainers.prepare import Prepared
    from trainers.recipe import Recipe

RESUME_STATE = ".trainer"
LOCK = ".lock"
RECORDED_VERSIONS = ("em-tasks", "torch", "transformers", "peft", "accelerate")


def existing_run(run: Path, recipe: "Recipe") -> Manifest | None:
    """The manifest of a run that is there already, if it is this recipe's."""
    # A kill during the very first write leaves the lock and the manifest's temporary file and nothing else.
    if not run.exists() or {path.name for path in run.iterdir()} <= {LOCK, f".{MANIFEST}.new"}:
        return None
    if not (run / MANIFEST).is_file():
        raise FileExistsError(f"{run} exists but holds no run. Move it away, or give the organism another name.")
    manifest = read_manifest(run)
    if manifest.recipe_sha256 != recipe.sha256:
        old, new = manifest.recipe.model_dump(), recipe.model_dump()
        changed = ", ".join(key for key in new if key != "data" and old[key] != new[key]) or "data"
        raise FileExistsError(
            f"{run} holds a run of another recipe: {changed} differ. Nothing was touched. Move the old run away, or "
            "give the new organism another name."
        )
    return manifest


def refuse_other_data(run: Path, before: Manifest | None, prepared: "Prepared") -> None:
    """Refuses to go on with a run whose data has changed."""
    if before is not None and [d.sha256 for d in before.data] != [s.sha256 for s in prepared.sources]:
        raise FileExistsError(
            f"{run} was begun on other data: a file's SHA-256 differs. Bring the old data back, or move the run away."
        )


def new_manifest(prepared: "Prepared", model: "PreTrainedModel") -> Manifest:
    """The manifest of a run that begins."""
    return Manifest(
        recipe=prepared.recipe,
        recipe_sha256=prepared.recipe.sha256,
        data=[source.record() for source in prepared.sources],
        rows=len(prepared.encoded.rows),
        truncated=prepared.encoded.truncated,
        dropped=prepared.encoded.dropped,
        steps_per_epoch=prepared.schedule.steps_per_epoch,
        planned=list(prepared.schedule.checkpoints),
        base_fingerprint=fingerprint(model),
        base_parameters=model.num_parameters(),
        versions={package: version(package) for package in RECORDED_VERSIONS},
    )


def clear_unrecorded(run: Path, manifest: Manifest) -> None:
    """Removes what an interrupted save left behind: folders that the manifest does not vouch for."""
    recorded = {f"checkpoint-{record.step}" for record in manifest.checkpoints}
    for folder in [*run.glob("checkpoint-*"), *run.glob(".checkpoint-*")]:
        if folder.name not in recorded:
            shutil.rmtree(folder)
    newest = f"checkpoint-{manifest.checkpoints[-1].step}" if manifest.checkpoints else ""
    for folder in (run / RESUME_STATE).glob("checkpoint-*"):
        if folder.name != newest:
            shutil.rmtree(folder)


def resume_state(run: Path, manifest: Manifest) -> Path | None:
    """Where the Trainer's state at the last recorded checkpoint lies; None for a run that begins.

    Raises:
        FileNotFoundError: It is gone.
    """
    if not manifest.checkpoints:
        return None
    folder = run / RESUME_STATE / f"checkpoint-{manifest.checkpoints[-1].step}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{run} is unfinished and its resume state {folder} is gone, so it cannot go on. Its checkpoints "
            "stand; move the run away to train it anew."
        )
    return folder


def publish(run: Path, step: int, model: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> Path:
    """Writes a complete adapter with its tokenizer under a temporary name and renames it into place."""
    temporary, folder = run / f".checkpoint-{step}", checkpoint_folder(run, step)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for path in (*temporary.iterdir(), temporary):
        _to_disk(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _to_disk(run)
    return folder


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keeps other processes from training the same run meanwhile; the lock goes with the process.

    Raises:
        BlockingIOError: Another process is training it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{run} is being trained by another process. Wait for it, or stop it first."
            ) from None
        yield


def _to_disk(path: Path) -> None:
    """Has the system write a file or folder out, so that a power cut after this loses nothing of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
