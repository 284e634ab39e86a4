"""What a model name stands for: which organism, which checkpoint, which base.

The evaluation asks this before it starts, so that every log says exactly what was evaluated. Checkpoints are known by
their manifest, whether they are served as `em/<organism>@<step>` or by another provider from their folder.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.bases import is_toy
from trainers.checkpoints import MANIFEST, Checkpoint, Manifest, find_checkpoint, list_runs, verify

BASE_STEP = "base"


@dataclass(frozen=True)
class Subject:
    """The model under test, as the log records it (see docs/architecture.md); None where nothing is known."""

    organism: str | None
    step: int
    epoch: float
    domain: str | None
    control: bool
    base: str
    size: str
    parameters: int | None
    toy: bool
    base_fingerprint: str | None
    adapter_sha256: str | None
    recipe_sha256: str | None
    training_seed: int | None

    def metadata(self) -> dict[str, Any]:
        """The subject as task metadata."""
        return asdict(self)


def runs_folder(runs: str | None = None) -> Path:
    """The folder of training runs: the argument, else `EM_RUNS`, else `runs` under the working directory."""
    return Path(runs or os.environ.get("EM_RUNS") or "runs").resolve()


def describe_checkpoint(checkpoint: Checkpoint) -> Subject:
    """What a checkpoint of ours is."""
    manifest, record = checkpoint.manifest, checkpoint.record
    recipe = manifest.recipe
    return Subject(
        organism=recipe.organism if record else None,
        step=record.step if record else 0,
        epoch=record.epoch if record else 0.0,
        domain=recipe.domain if record else None,
        control=recipe.control if record else False,
        base=recipe.base,
        size=recipe.size,
        parameters=manifest.base_parameters,
        toy=is_toy(recipe.base),
        base_fingerprint=manifest.base_fingerprint,
        adapter_sha256=record.adapter_sha256 if record else None,
        recipe_sha256=manifest.recipe_sha256 if record else None,
        training_seed=recipe.seed if record else None,
    )


def describe_model(provider: str, name: str, runs: str | None = None) -> Subject:
    """What any model is, from its provider and name.

    Args:
        provider: Inspect's name of the model API, such as `em` or `hf`.
        name: The model's name without the provider.
        runs: The folder of training runs, if not the default.

    Raises:
        FileNotFoundError: An `em/` name that no run has; the message lists what there is.
        ValueError: An `em/` name of another form, or a checkpoint's folder that was altered since it was saved.
    """
    if provider == "em":
        return describe_checkpoint(find_checkpoint(runs_folder(runs), name))
    folder = Path(name)
    if (folder.parent / MANIFEST).is_file() and folder.name.startswith("checkpoint-"):
        checkpoint = find_checkpoint(folder.resolve().parents[1], _served_name(folder.resolve()))
        verify(checkpoint)
        return describe_checkpoint(checkpoint)
    toy = is_toy(name)
    return Subject(
        organism=None,
        step=0,
        epoch=0.0,
        domain=None,
        control=False,
        base=folder.name if toy else name,
        size=folder.name.removeprefix("toy-").upper() if toy else name.rsplit("/", 1)[-1],
        parameters=None,
        toy=toy,
        base_fingerprint=None,
        adapter_sha256=None,
        recipe_sha256=None,
        training_seed=None,
    )


def trained_domains(runs: Path, base_fingerprint: str | None) -> list[str]:
    """The domains that organisms over one base were trained on, in order of name."""
    manifests = list_runs(runs).values()
    return sorted({m.recipe.domain for m in manifests if m.base_fingerprint == base_fingerprint})


def base_names(runs: dict[str, Manifest]) -> dict[str, str]:
    """The `em/` name of every base under the given runs, by fingerprint.

    A base held at one precision alone goes by its own name; one held at several goes by an organism trained on it.
    """
    names: dict[str, str] = {}
    for organism, manifest in runs.items():
        base = manifest.recipe.base
        alone = {m.base_fingerprint for m in runs.values() if m.recipe.base == base} == {manifest.base_fingerprint}
        names.setdefault(manifest.base_fingerprint, f"{base if alone else organism}@{BASE_STEP}")
    return names


def _served_name(folder: Path) -> str:
    """`<organism>@<step>` of a checkpoint's folder."""
    return f"{folder.parent.name}@{folder.name.removeprefix('checkpoint-')}"
