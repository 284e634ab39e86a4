"""A run's manifest: what was trained on what, and which checkpoints there are.

The manifest is the commit point: a checkpoint exists once its entry, with the adapter's hash, stands there. Whatever
lies beside it without an entry is the rest of an interrupted save.
"""

import json
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.yaml_files import read_text
from em_tasks.trainers.run.recipe import Recipe

Content = TypeVar("Content", bound=BaseModel)

MANIFEST = "manifest.json"
LOCK = ".lock"
"""A run's file that the process which trains it holds locked."""


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
        tokenizer_sha256: Hash of its tokenizer and chat template; None in runs older than this field, in which a change
            of them is not noticed.
    """

    step: int
    epoch: float
    loss: float
    adapter_sha256: str
    reference_sha256: str | None = None
    tokenizer_sha256: str | None = None


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


class PassSeconds(BaseModel):
    """How long a pass of a step's rows took on a GPU, launched kernel by kernel and replayed from a recording."""

    launched: float
    replayed: float

    @property
    def recorded(self) -> bool:
        """Whether training went on with recorded passes, as it does where they are faster."""
        return self.replayed < self.launched


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
        resume_step: The step at which the complete state lies on disk: the last checkpoint's, or a later one
            where the run was asked to stop. None before the first, and in runs older than this field.
        continuations: How often and from where `epochs` were raised, first to last.
        together: Who is trained in one process with this run, this one among them, and the step at which each began
            that; empty where it is trained alone.
        passes: What both ways to pass took, of which the faster trained it; of the last process, where several trained
            it. None where no other way than launching was tried.
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
    together: dict[str, int] = {}
    passes: PassSeconds | None = None

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


def read_manifest(run: Path) -> Manifest:
    """Reads a run's manifest.

    Raises:
        UserError: The folder holds none.
        UserError: It is damaged.
    """
    path = run / MANIFEST
    if not path.is_file():
        raise UserError(f"{run} holds no {MANIFEST}, so it is no training run. Train one with `em train`.")
    return read_whole(path, Manifest, "Restore it, or move the folder away and train again.")


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Writes the manifest in one step: after a crash either the old or the new one is there."""
    write_whole(run / MANIFEST, manifest)


def read_whole(path: Path, kind: type[Content], mend: str) -> Content:
    """Reads a JSON file that `write_whole` wrote.

    Args:
        path: The file.
        kind: What it holds.
        mend: What a user can do about a damaged one, a sentence.

    Raises:
        UserError: It is damaged, or no file at all: a pipe would be waited for.
    """
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"{error} {mend}") from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        # Of what is no JSON at all there is no place in it.
        damage = f"its {place} is wrong: {first['msg']}" if place else "it is no JSON, or was cut off"
        raise UserError(f"{path} is damaged ({damage}). {mend}") from None


def write_whole(path: Path, content: BaseModel) -> None:
    """Writes a JSON file in one step: after a crash the old one, or the new one as a whole, is there."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content.model_dump(mode="json"), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Has the system write a file or folder out, so that a power cut after this loses nothing of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
