"""An organism that others trained: what is known of it, and where its adapters lie.

It has a folder among the runs, with `adopted.json` in place of a manifest; nothing is written beside the adapters
themselves. What nobody recorded (the recipe, the data, the seed) stays None and is never filled in.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from em_tasks.trainers.run.base_names import Precision
from em_tasks.trainers.run.manifest import read_whole, write_whole

ADOPTED = "adopted.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdoptedOrganism(_Strict):
    """What an adopted organism is. The fields have the meanings of a recipe's.

    Attributes:
        seed: The training seed; None where it is not known.
    """

    organism: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    base: str
    size: str
    domain: str
    control: bool = False
    precision: Precision = "bf16"
    seed: int | None = None
    date_string: str = "01 Jan 2025"


class AdoptedCheckpoint(_Strict):
    """One adapter of it, or one whole model.

    Attributes:
        step: Optimizer steps until then; 1 where nobody recorded them.
        step_recorded: Whether somebody did.
        epoch: The same in passes over the data; None where not recorded.
        adapter_sha256: Hash of the adapter, or of the whole model, when it was adopted.
        reference_sha256: Hash of its reference, made by peft when it was adopted; None for a whole model.
        folder: Where it lies.
        source: The same as it was given: a hub id, or the folder's last name.
        has_tokenizer: Whether a tokenizer lies beside it; else the base's is used.
        whole_fingerprint: What a whole model must turn out to be when it is loaded; None for an adapter.
    """

    step: Annotated[int, Field(ge=1)]
    step_recorded: bool
    epoch: float | None
    adapter_sha256: str
    reference_sha256: str | None
    folder: str
    source: str
    has_tokenizer: bool
    whole_fingerprint: str | None = None


class Adoption(_Strict):
    """Everything known about an adopted organism: what a manifest is to a run."""

    recipe: AdoptedOrganism
    base_fingerprint: str
    base_parameters: int
    checkpoints: list[AdoptedCheckpoint] = Field(min_length=1)

    def recipe_sha256_at(self, step: int) -> None:
        """None: what it was trained by is not known."""
        return

    @property
    def finished(self) -> bool:
        """True: nothing more of it is trained here."""
        return True


def read_adoption(run: Path) -> Adoption:
    """Reads an adopted organism.

    Raises:
        UserError: The file is damaged.
    """
    return read_whole(run / ADOPTED, Adoption, f"Move {run} away and adopt it again.")


def write_adoption(run: Path, adoption: Adoption) -> None:
    """Writes it in one step: after a crash it is there as a whole or not at all."""
    write_whole(run / ADOPTED, adoption)
