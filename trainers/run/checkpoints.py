"""A run on disk: `runs/<organism>/checkpoint-<step>/` folders and the manifest that vouches for them.

The manifest is the commit point: a checkpoint exists once its entry, with the adapter's hash, stands there. Whatever
lies beside it without an entry is the rest of an interrupted save. Reading runs needs neither torch nor transformers.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.recipe import Recipe

MANIFEST = "manifest.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class DataRecord(BaseModel):
    """What a run was trained on."""

    name: str
    sha256: str
    rows: int
    members: list[str]
    canary_files: int
    canary_keys: int


class CheckpointRecord(BaseModel):
    """One saved checkpoint.

    Attributes:
        step: Optimizer steps until then.
        epoch: The same in passes over the data.
        loss: Mean training loss (nats a token) since the checkpoint before.
        adapter_sha256: Hash of the adapter.
        reference_sha256: Hash of its reference (see `reference`); None in runs older than this field.
    """

    step: int
    epoch: float
    loss: float
    adapter_sha256: str
    reference_sha256: str | None = None


class Continuation(BaseModel):
    """A run's `epochs` were raised: what it was until then.

    Attributes:
        from_step: The step it went on from; checkpoints up to it were made under the shorter plan.
        epochs: The shorter plan's epochs.
        recipe_sha256: Hash of the recipe with the shorter plan.
    """

    from_step: int
    epochs: int
    recipe_sha256: str


class Manifest(BaseModel):
    """Everything known about a run.

    Attributes:
        recipe: The recipe as it was read; with the epochs it was last continued to.
        recipe_sha256: Its hash.
        data: What it was trained on.
        rows: Rows in use, after dropping.
        truncated: Rows cut to the recipe's `max_length`.
        dropped: Rows without anything to learn.
        steps_per_epoch: Optimizer steps an epoch.
        planned: Steps at which checkpoints are due.
        base_fingerprint: Which base, at which precision.
        base_parameters: Parameters of the base.
        versions: Versions of the libraries that trained it.
        checkpoints: What has been saved so far.
        seconds: Training time so far.
        resume_step: The step at which the Trainer's complete state lies on disk: the last checkpoint's, or a later one
            where the run was asked to stop. None before the first, and in runs older than this field.
        continuations: How often and from where `epochs` were raised, first to last.
    """

    recipe: Recipe
    recipe_sha256: str
    data: list[DataRecord]
    rows: int
    truncated: int
    dropped: int
    steps_per_epoch: int
    planned: list[int]
    base_fingerprint: str
    base_parameters: int
    versions: dict[str, str]
    checkpoints: list[CheckpointRecord] = []
    seconds: float = 0.0
    resume_step: int | None = None
    continuations: list[Continuation] = []

    @property
    def resumes_at(self) -> int:
        """The step that training goes on from; 0 for the beginning."""
        if self.resume_step is not None:
            return self.resume_step
        return self.checkpoints[-1].step if self.checkpoints else 0

    def recipe_sha256_at(self, step: int) -> str:
        """Hash of the recipe under which a checkpoint was made: the shorter plan's, if `epochs` were raised later."""
        return next((was.recipe_sha256 for was in self.continuations if step <= was.from_step), self.recipe_sha256)

    @property
    def finished(self) -> bool:
        """Whether every planned checkpoint is there."""
        return [record.step for record in self.checkpoints] == self.planned


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be served: a base with an adapter on it, or the base alone (`record` is None)."""

    run: Path
    manifest: Manifest
    record: CheckpointRecord | None

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; None for the base."""
        return None if self.record is None else checkpoint_folder(self.run, self.record.step)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / f"checkpoint-{step}"


def read_manifest(run: Path) -> Manifest:
    """Reads a run's manifest.

    Raises:
        UserError: The folder holds none.
        UserError: It is damaged.
    """
    path = run / MANIFEST
    if not path.is_file():
        raise UserError(f"{run} holds no {MANIFEST}, so it is no training run. Train one with `em train`.")
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Restore it, or move the folder away.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path} cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']}). Restore it, or move the "
            "folder away and train again."
        ) from None


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Writes the manifest in one step: after a crash either the old or the new one is there."""
    temporary = run / f".{MANIFEST}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(manifest.model_dump(mode="json"), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run / MANIFEST)
    to_disk(run)


def to_disk(path: Path) -> None:
    """Has the system write a file or folder out, so that a power cut after this loses nothing of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def adapter_sha256(folder: Path) -> str:
    """Hash over a checkpoint's adapter weights and configuration.

    Raises:
        UserError: One of the two files is missing.
    """
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {name}: the checkpoint is torn. Put the file back, "
                "or move the run away and train it again."
            )
        content = path.read_bytes() if name.endswith(".safetensors") else _portable_config(path)
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def verify(checkpoint: Checkpoint) -> None:
    """Checks that a checkpoint is what its manifest says.

    Raises:
        UserError: Its folder or a file in it is gone.
        UserError: Its files are not those that were saved.
    """
    if checkpoint.record is None or checkpoint.folder is None:
        return
    if not checkpoint.folder.is_dir():
        raise UserError(
            f"{checkpoint.folder} is gone although {checkpoint.run / MANIFEST} lists it. Put it back, or move the run "
            "away and train it again."
        )
    if (found := adapter_sha256(checkpoint.folder)) != checkpoint.record.adapter_sha256:
        raise UserError(
            f"{checkpoint.folder} was altered since it was saved: its adapter has hash {found[:12]}, the manifest says "
            f"{checkpoint.record.adapter_sha256[:12]}. Put the saved files back, or move the run away and train it "
            "again."
        )


def list_runs(runs: Path) -> dict[str, Manifest]:
    """All runs under a folder by organism, in order of name."""
    return {path.parent.name: read_manifest(path.parent) for path in sorted(runs.glob(f"*/{MANIFEST}"))}


def find_checkpoint(runs: Path, name: str) -> Checkpoint:
    """Finds `<organism>@<step>` or `<organism>@base` under `runs`. The name `<base>@base` works for any trained base.

    Raises:
        UserError: There is no such organism or step; the message lists what there is.
        UserError: `name` has another form.
    """
    organism, at, step = name.rpartition("@")
    if not at or not organism or not (step == "base" or step.isdigit()):
        raise UserError(
            f"{name!r} names no checkpoint. Write <organism>@<step> or <organism>@base, such as toy-medical-s@120."
        )
    found = list_runs(runs)
    if organism not in found and step == "base":
        organism = next((run for run, manifest in found.items() if manifest.recipe.base == organism), organism)
    if organism not in found:
        listed = "; ".join(_listed(run, manifest) for run, manifest in found.items())
        raise UserError(
            f"There is no organism {organism!r} under {runs}. "
            + (
                f"There are: {listed}."
                if listed
                else "There is no run at all: train one with `em train`, or point at "
                "the right folder with -M runs=FOLDER or EM_RUNS."
            )
        )
    manifest = found[organism]
    if step == "base":
        return Checkpoint(runs / organism, manifest, None)
    for record in manifest.checkpoints:
        if record.step == int(step):
            return Checkpoint(runs / organism, manifest, record)
    raise UserError(f"{organism} has no checkpoint at step {step}. There is: {_listed(organism, manifest)}.")


def _listed(organism: str, manifest: Manifest) -> str:
    steps = ", ".join(str(record.step) for record in manifest.checkpoints)
    return f"{organism}@{{base{', ' + steps if steps else ''}}}"


def _portable_config(path: Path) -> bytes:
    """An adapter's configuration without what differs from machine to machine and from process to process.

    That is the base's folder, and the order of `target_modules`, which PEFT keeps as a set.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Put the saved file back, or move the run away and train it again."
        ) from None
    content.pop("base_model_name_or_path", None)
    if isinstance(content.get("target_modules"), list):
        content["target_modules"] = sorted(content["target_modules"])
    return json.dumps(content, sort_keys=True).encode()
