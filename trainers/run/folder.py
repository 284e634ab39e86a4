"""The folder of a run while it is trained: whose it is, who trains it, and what an interruption left in it.

Its resume state lies in `.trainer/`, the newest alone, and after the run's end too, so that it can be continued.
"""

import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.manifest import LOCK, MANIFEST, Continuation, Manifest, read_manifest, to_disk
from em_tasks.trainers.run.schedule import plan

if TYPE_CHECKING:
    from em_tasks.trainers.run.recipe import Recipe

RESUME_STATE = ".trainer"
STATE = "state.pt"
"""The file of a resume state that holds adapter, optimizer and random numbers."""


def existing_run(run: Path, recipe: "Recipe") -> Manifest | None:
    """The manifest of a run that is there already, if it is this recipe's, continued where the recipe has more epochs.

    Raises:
        UserError: The folder holds another recipe's run, or something that is no run.
    """
    # A kill during the very first write leaves the lock and the manifest's temporary file and nothing else.
    if not run.exists() or {path.name for path in run.iterdir()} <= {LOCK, f".{MANIFEST}.new"}:
        return None
    if not (run / MANIFEST).is_file():
        raise UserError(f"{run} exists but holds no run. Move it away, or give the organism another name.")
    return manifest_for(recipe, read_manifest(run), str(run))


def manifest_for(recipe: "Recipe", manifest: Manifest, where: str) -> Manifest:
    """A run's manifest if the run is this recipe's, continued where the recipe has more epochs.

    Raises:
        UserError: It is another recipe's; the message says `where` it lies.
    """
    # Hashed anew: the recipe may have been written before a field that it leaves at its default.
    if manifest.recipe.sha256 == recipe.sha256:
        return manifest
    changed = _differences(manifest.recipe, recipe)
    if changed == ["epochs"] and recipe.epochs > manifest.recipe.epochs:
        return continued(manifest, recipe)
    hint = " Epochs can be raised, and the run goes on, but not lowered." if changed == ["epochs"] else ""
    if "precision" in changed:
        hint = f" It was begun at precision {manifest.recipe.precision}, and {recipe.precision} is asked for now."
    raise UserError(
        f"{where} holds a run of another recipe: {', '.join(changed)} differ.{hint} Nothing was touched. Move the old "
        "run away, or give the new organism another name."
    )


def continued(manifest: Manifest, recipe: "Recipe") -> Manifest:
    """A run's manifest with its epochs raised to those of `recipe`, and what it was until then."""
    schedule = plan(manifest.rows, recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints)
    was = Continuation(
        from_step=manifest.resumes_at, epochs=manifest.recipe.epochs, recipe_sha256=manifest.recipe_sha256
    )
    return manifest.model_copy(
        update={
            "recipe": recipe,
            "recipe_sha256": recipe.sha256,
            "planned": list(schedule.checkpoints),
            # Before the first save nothing was trained that could go on.
            "continuations": manifest.continuations + ([was] if was.from_step else []),
        }
    )


def _differences(old: "Recipe", new: "Recipe") -> list[str]:
    """The fields in which two recipes differ, but for the folder that the data lies in."""
    before, now = old.model_dump(), new.model_dump()
    changed = [key for key in now if key not in ("data", "axes") and before[key] != now[key]]
    alike = old.model_copy(update={key: getattr(new, key) for key in changed})
    return changed if alike.sha256 == new.sha256 else [*changed, "data"]


def refuse_other_data(run: Path, before: Manifest | None, sha256: list[str]) -> None:
    """Refuses to go on with a run whose data has changed: `sha256` has the hash of each source as it is now."""
    if before is not None and [record.sha256 for record in before.data] != sha256:
        raise UserError(
            f"{run} was begun on other data: a file's SHA-256 differs. Bring the old data back, or move the run away."
        )


def refuse_unplanned(recipe: "Recipe", planned: Sequence[str] | None, sha256: Sequence[str]) -> None:
    """Refuses data that was changed after the run was planned.

    Args:
        recipe: What is to be trained.
        planned: The hash of each source as it was then; None where nobody looked.
        sha256: Likewise, now.
    """
    for source, before, now in zip(recipe.data, planned or (), sha256, strict=planned is not None):
        if before != now:
            raise UserError(
                f"{source.path} was changed after the run of {recipe.organism} was planned: its SHA-256 was "
                f"{before[:12]}, and is {now[:12]} now. Nothing of {recipe.organism} was trained. Bring the old file "
                "back, or give the same command again to train on the new one; what is trained already keeps the rows "
                "that it learnt."
            )


def clear_unrecorded(run: Path, manifest: Manifest) -> None:
    """Removes what an interrupted save left behind, and nothing else.

    That is a temporary name of ours (`.checkpoint-4`), and a checkpoint that was planned and came to lie there after
    the last one of the manifest. Whatever else a user keeps in the folder stays.
    """
    last = manifest.checkpoints[-1].step if manifest.checkpoints else 0
    for step in manifest.planned:
        _remove(run / f".checkpoint-{step}")
        if step > last:
            _remove(run / f"checkpoint-{step}")
    for folder in (run / RESUME_STATE).glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", folder.name) and folder != state_folder(run, manifest.resumes_at):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder that a save of ours made, if it is there.

    Raises:
        UserError: A file or a link of that name is: no save of ours makes one.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is no folder, and a checkpoint is to be saved under that name. Move it away.")
    if folder.exists():
        shutil.rmtree(folder)


def state_folder(run: Path, step: int) -> Path:
    """Where the state after `step` lies."""
    return run / RESUME_STATE / f"checkpoint-{step}"


def resume_state(run: Path, manifest: Manifest) -> Path | None:
    """Where the state that training goes on from lies; None for a run that begins.

    Raises:
        UserError: It is gone, or an earlier version's.
    """
    if not manifest.resumes_at:
        return None
    folder = state_folder(run, manifest.resumes_at)
    if not folder.is_dir():
        raise UserError(
            f"{run} has more to train and its resume state {folder} is gone, so it cannot go on. (Runs finished "
            "before they could be continued kept none.) Its checkpoints stand; move the run away to train it anew."
        )
    if not (folder / STATE).is_file():
        raise UserError(
            f"{folder} holds no {STATE}: an earlier version of em-tasks saved it with transformers' Trainer, and this "
            "one cannot go on from it. The run's checkpoints stand. Finish it with that version, or move the run away "
            "and train it anew."
        )
    return folder


class RunInUseError(UserError):
    """Another process is training the run."""


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keeps other processes from training the same run meanwhile; the lock goes with the process.

    Raises:
        RunInUseError: Another process is training it.
    """
    run.mkdir(parents=True, exist_ok=True)
    to_disk(run.parent)
    with (run / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(f"{run} is being trained by another process. Wait for it, or stop it first.") from None
        yield
