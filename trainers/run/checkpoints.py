"""The checkpoints of runs: finding one by name, and whether it still is what was saved.

Reading runs needs neither torch nor transformers.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.yaml_files import read_text
from em_tasks.trainers.run.adoption import ADOPTED, AdoptedCheckpoint, Adoption, read_adoption
from em_tasks.trainers.run.base_names import base_label, toy_bases
from em_tasks.trainers.run.hashes import adapter_sha256, tokenizer_sha256, whole_model_sha256
from em_tasks.trainers.run.manifest import LOCK, MANIFEST, CheckpointRecord, Manifest, read_manifest
from em_tasks.trainers.run.toy_bases import toy_base

STEP = re.compile("[0-9]{1,18}")

RUNS = "runs"
"""The folder of runs, unless another is named; in a grid's folder too."""

WEIGHTS, LONGEST_HEADER = "adapter_model.safetensors", 100_000_000
MEND = "Put the saved files back, or move the run away and train it again."

Run = Manifest | Adoption
"""What is known of an organism, trained here or adopted."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be served: a base with an adapter on it, a whole model, or the base (`record` is None)."""

    run: Path
    manifest: Run
    record: CheckpointRecord | AdoptedCheckpoint | None

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; None for the base and for a whole model."""
        if isinstance(self.record, AdoptedCheckpoint):
            return None if self.record.whole_fingerprint else Path(self.record.folder)
        return None if self.record is None else checkpoint_folder(self.run, self.record.step)

    @property
    def whole_model(self) -> Path | None:
        """The folder of a checkpoint that is a whole model; None for an adapter and for the base."""
        whole = isinstance(self.record, AdoptedCheckpoint) and self.record.whole_fingerprint
        return Path(self.record.folder) if whole and isinstance(self.record, AdoptedCheckpoint) else None

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the tokenizer that it was trained with; None where the base's is used."""
        if isinstance(self.record, AdoptedCheckpoint) and not self.record.has_tokenizer:
            return None
        return self.whole_model or self.folder


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / f"checkpoint-{step}"


def verify(checkpoint: Checkpoint) -> None:
    """Checks that a checkpoint is what its manifest says.

    Raises:
        UserError: Its folder or a file in it is gone.
        UserError: Its files are not those that were saved.
    """
    folder = checkpoint.whole_model or checkpoint.folder
    if checkpoint.record is None or folder is None:
        return
    if not folder.is_dir():
        raise UserError(
            f"{folder} is gone although {checkpoint.run / MANIFEST} lists it. Put it back, or move the run "
            "away and train it again."
        )
    if checkpoint.folder is None:
        if (actual := whole_model_sha256(folder)) != checkpoint.record.adapter_sha256:
            raise UserError(
                f"{folder} was altered since it was adopted: the whole model there has hash {actual[:12]}, and "
                f"{checkpoint.record.adapter_sha256[:12]} was adopted. Put its files back, or adopt it again under "
                "another name."
            )
        return
    if (actual := adapter_sha256(checkpoint.folder)) != checkpoint.record.adapter_sha256:
        raise UserError(
            f"{checkpoint.folder} was altered since it was saved: its adapter has hash {actual[:12]}, the manifest "
            f"says {checkpoint.record.adapter_sha256[:12]}. {MEND}"
        )
    recorded = getattr(checkpoint.record, "tokenizer_sha256", None)
    if recorded is not None and (actual := tokenizer_sha256(checkpoint.folder)) != recorded:
        raise UserError(
            f"{checkpoint.folder} was altered since it was saved: its tokenizer or chat template has hash "
            f"{actual[:12]}, the manifest says {recorded[:12]}. Put the saved files back, take out "
            "what was added, or move the run away and train it again."
        )


def refuse_visible_damage(run: Path, manifest: Run) -> None:
    """Refuses what can be seen of a run's checkpoints without reading their weights: files that are gone or cut short.

    Raises:
        UserError: A checkpoint's folder or adapter is gone, or shorter or longer than its first bytes say.
    """
    for record in manifest.checkpoints:
        if (folder := Checkpoint(run, manifest, record).folder) is None:
            continue
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise UserError(f"{weights} is gone although {run / MANIFEST} lists it. {MEND}")
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(size, LONGEST_HEADER)))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
                whole = 8 + size + max(ends, default=0)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise UserError(f"{weights} is damaged: its head cannot be read. {MEND}") from None
        if weights.stat().st_size != whole:
            raise UserError(f"{weights} is damaged: it is shorter or longer than its head says. {MEND}")


def list_runs(runs: Path, damaged: dict[str, str] | None = None) -> dict[str, Run]:
    """All organisms under a folder, trained here or adopted, in order of name.

    What has a manifest's name and is none of ours is passed over; `foreign_manifests` names it.

    Args:
        runs: The folder.
        damaged: Receives why each organism whose manifest is at fault is left out; without it that is an error.

    Raises:
        UserError: A manifest is damaged, or its organism has another name than its folder.
    """
    organisms: dict[str, Run] = {}
    for path in (*runs.glob(f"*/{MANIFEST}"), *runs.glob(f"*/{ADOPTED}")):
        if not _is_ours(path):
            continue
        try:
            organism = read_manifest(path.parent) if path.name == MANIFEST else read_adoption(path.parent)
            _refuse_other_name(path, organism.recipe.organism)
        except UserError as error:
            if damaged is None:
                raise
            damaged[path.parent.name] = str(error)
            continue
        organisms[path.parent.name] = organism
    return dict(sorted(organisms.items()))


def no_runs(folder: Path) -> UserError:
    """What to say of a folder without runs; those of a grid lie one folder further in."""
    inside = folder / RUNS
    if organisms_in(inside):
        return UserError(f"There is no training run under {folder} itself, but under {inside}: give that folder.")
    return UserError(f"There is no training run under {folder}. Train one with `em train RECIPE --runs {folder}`.")


def organisms_in(folder: Path) -> list[str]:
    """Names of the runs' folders under a folder, or of the folder itself if it is one; no manifest is read for it."""
    places = [path for at in ("", "*/") for name in (MANIFEST, ADOPTED) for path in folder.glob(f"{at}{name}")]
    return sorted({path.resolve().parent.name for path in places if _is_ours(path)})


def foreign_manifests(runs: Path) -> list[str]:
    """One sentence for each file under `runs` that is named as our manifests are and is none."""
    return [
        f"{path} is no manifest of a training run of this project, so {path.parent} is passed over."
        for path in sorted(runs.glob(f"*/{MANIFEST}"))
        if not _is_ours(path)
    ]


def _is_ours(path: Path) -> bool:
    """Whether a manifest is one of ours, if perhaps a damaged one: it says so, or the folder has what runs have."""
    if path.name == ADOPTED:
        return True
    if (path.parent / LOCK).exists() or any(path.parent.glob("checkpoint-*")):
        return True
    try:
        content = json.loads(read_text(path))
    except (UserError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "recipe_sha256" in content


def _refuse_other_name(path: Path, organism: str) -> None:
    folder = path.parent
    if folder.name == organism:
        return
    if (folder.parent / organism).exists():
        mend = f"There is a {folder.parent / organism} too: move one of the two to another folder of runs"
    else:
        mend = f"Give the folder its name back (mv {folder} {folder.parent / organism})"
    raise UserError(
        f"{folder} holds the organism {organism!r}, as its {path.name} says: it was renamed or copied, and one "
        f"organism would be taken for two. {mend}; an organism of another name is trained by a recipe with another "
        "`organism`."
    )


def find_checkpoint(runs: Path, name: str) -> Checkpoint:
    """Finds `<organism>@<step>` or `<organism>@base` under `runs`.

    The name `<base>@base` works for any base that was trained on, and for the toy models always.

    Raises:
        UserError: There is no such organism or step; the message lists what there is.
        UserError: `name` has another form.
    """
    organism, at, step = name.rpartition("@")
    if not at or not organism or not (step == "base" or STEP.fullmatch(step)):
        raise UserError(
            f"{name!r} names no checkpoint. Write <organism>@<step> or <organism>@base, such as toy-medical-s@120."
        )
    # Another organism's damage is no business of this one's.
    damaged: dict[str, str] = {}
    manifests = list_runs(runs, damaged)
    if organism in damaged:
        raise UserError(damaged[organism])
    if organism not in manifests and step == "base":
        named = (run for run, manifest in manifests.items() if organism in _names(manifest.recipe.base))
        organism = next(named, organism)
    if organism not in manifests and step == "base" and organism in toy_bases():
        return Checkpoint(runs / organism, toy_base(organism), None)
    if organism not in manifests:
        listed = "; ".join(_listed(run, manifest) for run, manifest in manifests.items())
        raise UserError(
            f"There is no organism {organism!r} under {runs}. "
            + (
                f"There are: {listed}."
                if listed
                else "There is no run at all: train one with `em train`, or point at "
                "the right folder with the variable EM_RUNS (inspect eval also takes -M runs=FOLDER)."
            )
        )
    manifest = manifests[organism]
    if step == "base":
        return Checkpoint(runs / organism, manifest, None)
    for record in manifest.checkpoints:
        if record.step == int(step):
            return Checkpoint(runs / organism, manifest, record)
    raise UserError(f"{organism} has no checkpoint at step {step}. There is: {_listed(organism, manifest)}.")


def _names(base: str) -> tuple[str, str]:
    return base, base_label(base)


def _listed(organism: str, manifest: Run) -> str:
    steps = ", ".join(str(record.step) for record in manifest.checkpoints)
    return f"{organism}@{{base{', ' + steps if steps else ''}}}"
