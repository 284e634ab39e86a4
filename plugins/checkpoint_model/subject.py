"""What a model name stands for: which organism, which checkpoint, which base.

The evaluation asks this before it starts, so that every log says exactly what was evaluated. Checkpoints are known by
their manifest, whether they are served as `em/<organism>@<step>` or by another provider from their folder.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import Subject
from em_tasks.trainers.run.base_names import Precision, base_label, is_toy, resolve_base
from em_tasks.trainers.run.checkpoints import Checkpoint, Run, find_checkpoint, list_runs, verify
from em_tasks.trainers.run.manifest import MANIFEST
from em_tasks.trainers.run.recipe import Recipe

BASE_STEP = "base"


@dataclass(frozen=True)
class EvaluatedBase:
    """The base that a checkpoint is evaluated on: the one it was trained on, or knowingly another.

    Attributes:
        base: As in a recipe.
        precision: Numbers it is held in.
        fingerprint: What it must turn out to be; None for another base or precision, asked for and taken as it is.
    """

    base: str
    precision: Precision
    fingerprint: str | None

    @property
    def key(self) -> str:
        """What tells it from other bases."""
        return self.fingerprint or f"{self.base} {self.precision}"


def runs_folder(runs: str | None = None) -> Path:
    """The folder of training runs: the argument, else `EM_RUNS`, else `runs`, from where the command was given."""
    return from_caller(runs or os.environ.get("EM_RUNS") or "runs").resolve()


def evaluated_base(manifest: Run, base: str | None = None, precision: str | None = None) -> EvaluatedBase:
    """The base under a run's checkpoints, or the other one that is asked for.

    Args:
        manifest: The run's.
        base: Another base, as in a recipe. Naming the trained one takes it as it is now, altered or not.
        precision: Another precision.

    Raises:
        UserError: There is no such base.
        UserError: There is no such precision.
    """
    recipe = manifest.recipe
    if precision is not None and precision not in get_args(Precision):
        raise UserError(f"There is no precision {precision!r}. Give one of {', '.join(get_args(Precision))}.")
    if base is None and precision in (None, recipe.precision):
        return EvaluatedBase(recipe.base, recipe.precision, manifest.base_fingerprint)
    if base is not None:
        resolve_base(base)
    return EvaluatedBase(base or recipe.base, cast("Precision", precision or recipe.precision), None)


def served_on(checkpoint: Checkpoint, base: str | None = None, precision: str | None = None) -> EvaluatedBase:
    """What an engine loads for a checkpoint: the base under its adapter, or the whole model that it is.

    Raises:
        UserError: There is no such base or precision, or a whole model was to be put on another base.
    """
    folder = checkpoint.whole_model
    if folder is None:
        return evaluated_base(checkpoint.manifest, base, precision)
    if base is not None:
        raise UserError(
            f"{checkpoint.run.name} is made of whole models, which need no base: {base} cannot be put under them. "
            "Leave the other base out."
        )
    on = evaluated_base(checkpoint.manifest, None, precision)
    fingerprint = getattr(checkpoint.record, "whole_fingerprint", None) if on.fingerprint else None
    return EvaluatedBase(str(folder), on.precision, fingerprint)


def describe_checkpoint(checkpoint: Checkpoint, on: EvaluatedBase) -> Subject:
    """What a checkpoint of ours is, on the base that it is evaluated on.

    Organisms and bases of one name are one trajectory. So a base that is not held as usual has its precision in its
    name, and a checkpoint evaluated on another base or precision than it was trained on goes by another name too.
    """
    manifest, record = checkpoint.manifest, checkpoint.record
    recipe = manifest.recipe
    organism, base = recipe.organism, base_label(on.base)
    if on.fingerprint is None:
        organism += f" ({on.precision})" if on.base == recipe.base else f" ({base} {on.precision})"
    if on.fingerprint is None or on.precision != _usual_precision(on.base):
        base += f" ({on.precision})"
    return Subject(
        organism=organism if record else None,
        step=record.step if record else 0,
        epoch=record.epoch if record else 0.0,
        domain=recipe.domain if record else None,
        control=recipe.control if record else False,
        base=base,
        precision=on.precision,
        trained_on=_trained_on(manifest) if on.fingerprint is None else None,
        size=recipe.size,
        parameters=manifest.base_parameters if on.base == recipe.base else None,
        toy=is_toy(on.base),
        base_fingerprint=on.fingerprint,
        adapter_sha256=record.adapter_sha256 if record else None,
        recipe_sha256=manifest.recipe_sha256_at(record.step) if record else None,
        training_seed=recipe.seed if record else None,
        step_recorded=getattr(record, "step_recorded", True),
        axes=recipe.axes if record and isinstance(recipe, Recipe) else {},
    )


def describe_model(
    provider: str, name: str, runs: str | None = None, base: str | None = None, precision: str | None = None
) -> Subject:
    """What any model is, from its provider and name.

    Args:
        provider: Inspect's name of the model API, such as `em` or `hf`.
        name: The model's name without the provider.
        runs: The folder of training runs, if not the default.
        base: Another base than was trained on (`em/` alone).
        precision: Another precision than was trained on (`em/` alone).

    Raises:
        UserError: An `em/` name that no run has (the message lists what there is), or no such base.
        UserError: An `em/` name of another form, no such precision, or a checkpoint's folder that was altered since
            it was saved.
    """
    if provider == "em":
        checkpoint = find_checkpoint(runs_folder(runs), name)
        return describe_checkpoint(checkpoint, evaluated_base(checkpoint.manifest, base, precision))
    folder = from_caller(name)
    if (folder.parent / MANIFEST).is_file() and folder.name.startswith("checkpoint-"):
        checkpoint = find_checkpoint(folder.resolve().parents[1], _served_name(folder.resolve()))
        verify(checkpoint)
        return _served_elsewhere(checkpoint, provider)
    toy = is_toy(str(folder))
    return Subject(
        organism=None,
        step=0,
        epoch=0.0,
        domain=None,
        control=False,
        base=folder.name if toy else base_label(name),
        precision=None,
        trained_on=None,
        size=folder.name.removeprefix("toy-").upper() if toy else name.rsplit("/", 1)[-1],
        parameters=None,
        toy=toy,
        base_fingerprint=None,
        adapter_sha256=None,
        recipe_sha256=None,
        training_seed=None,
    )


def _served_elsewhere(checkpoint: Checkpoint, provider: str) -> Subject:
    """A checkpoint served by another provider, which loads the base as usual and does not say how."""
    manifest = checkpoint.manifest
    base, precision = manifest.recipe.base, manifest.recipe.precision
    subject = describe_checkpoint(checkpoint, evaluated_base(manifest))
    subject = replace(subject, base=base_label(base), trained_on=_trained_on(manifest))
    subject = replace(subject, precision=None, base_fingerprint=None)
    if precision == _usual_precision(base):
        return subject
    return replace(subject, organism=f"{subject.organism} ({provider})")


def _usual_precision(base: str) -> Precision:
    """How a base is held where nobody says otherwise."""
    return "fp32" if is_toy(base) else "bf16"


def _trained_on(manifest: Run) -> dict[str, str]:
    recipe = manifest.recipe
    base = base_label(recipe.base)
    return {"base": base, "precision": recipe.precision, "base_fingerprint": manifest.base_fingerprint}


def trained_domains(runs: Path, base_fingerprint: str | None) -> list[str]:
    """The domains that organisms over one base were trained on, in order of name."""
    manifests = list_runs(runs, {}).values()
    return sorted({m.recipe.domain for m in manifests if m.base_fingerprint == base_fingerprint})


def base_names(runs: dict[str, Run], base: str | None = None, precision: str | None = None) -> dict[str, str]:
    """The `em/` name of every base that the given runs are evaluated on, by its `EvaluatedBase.key`.

    A base held at one precision alone goes by its own name; one held at several goes by an organism trained on it, and
    so does one that is asked for.

    Args:
        runs: Manifests by organism.
        base: Another base than they were trained on.
        precision: Another precision.
    """
    on = {organism: evaluated_base(manifest, base, precision) for organism, manifest in runs.items()}
    names: dict[str, str] = {}
    for organism, each in on.items():
        label = base_label(each.base)
        alone = {other.key for other in on.values() if base_label(other.base) == label} == {each.key}
        names.setdefault(each.key, f"{label if alone and each.fingerprint else organism}@{BASE_STEP}")
    return names


def _served_name(folder: Path) -> str:
    """`<organism>@<step>` of a checkpoint's folder."""
    return f"{folder.parent.name}@{folder.name.removeprefix('checkpoint-')}"
