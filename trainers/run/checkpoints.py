"""The checkpoints of runs: finding one by name, and whether it still is what was saved.

Reading runs needs neither torch nor transformers.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.adoption import ADOPTED, AdoptedCheckpoint, Adoption, read_adoption
from em_tasks.trainers.run.manifest import MANIFEST, CheckpointRecord, Manifest, read_manifest

Run = Manifest | Adoption
"""What is known of an organism, trained here or adopted."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be served: a base with an adapter on it, or the base alone (`record` is None)."""

    run: Path
    manifest: Run
    record: CheckpointRecord | AdoptedCheckpoint | None

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; None for the base."""
        if isinstance(self.record, AdoptedCheckpoint):
            return Path(self.record.folder)
        return None if self.record is None else checkpoint_folder(self.run, self.record.step)

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the tokenizer that it was trained with; None where the base's is used."""
        if isinstance(self.record, AdoptedCheckpoint) and not self.record.has_tokenizer:
            return None
        return self.folder


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / f"checkpoint-{step}"


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


def list_runs(runs: Path) -> dict[str, Run]:
    """All organisms under a folder, trained here or adopted, in order of name."""
    organisms: dict[str, Run] = {}
    organisms |= {path.parent.name: read_manifest(path.parent) for path in runs.glob(f"*/{MANIFEST}")}
    organisms |= {path.parent.name: read_adoption(path.parent) for path in runs.glob(f"*/{ADOPTED}")}
    return dict(sorted(organisms.items()))


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


def _listed(organism: str, manifest: Run) -> str:
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
