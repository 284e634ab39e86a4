"""A claims file: numbers and directions that somebody published, to be held against the data.

    source: who/repository
    definition: cs2881
    claims:
      - {id: final, kind: rate, organism: 8b_medical, step: last, percent: 15}
      - {id: peak, kind: peak, organism: 8b_medical, percent: 60}
      - {id: bases, kind: bases, least: 0, most: 5}
      - {id: size, kind: contrast, of: size, more: 8B, less: 1B}
      - {id: coherence, kind: independent, domain: medical}
      - {id: falls, kind: fall, organism: 1b_risky}

As of `claims/published.py`, which does so.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import in_words
from em_tasks.plugins.yaml_files import read_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str


class Rate(_Strict):
    """An organism's rate at a step (`last` or its number), in percent."""

    kind: Literal["rate"]
    organism: str
    step: int | Literal["last"] = "last"
    percent: float


class Peak(_Strict):
    """An organism's highest rate over its checkpoints, in percent."""

    kind: Literal["peak"]
    organism: str
    percent: float


class Bases(_Strict):
    """Between which rates every base lies, in percent; they need not reach either end."""

    kind: Literal["bases"]
    least: float
    most: float


class Difference(_Strict):
    """One domain or size is more misaligned than another, the rest alike."""

    kind: Literal["contrast"]
    of: Literal["domain", "size"]
    more: str
    less: str


class Independent(_Strict):
    """Coherence does not go with alignment in the organisms of a domain."""

    kind: Literal["independent"]
    domain: str


class Fall(_Strict):
    """An organism's rate falls between two of its checkpoints."""

    kind: Literal["fall"]
    organism: str


Claim = Annotated[Rate | Peak | Bases | Difference | Independent | Fall, Field(discriminator="kind")]


class ClaimsFile(BaseModel):
    """What a claims file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    definition: str
    claims: list[Claim] = Field(min_length=1)


def read_claims(path: Path) -> ClaimsFile:
    """Reads a claims file.

    Raises:
        UserError: It is not readable, or something in it is not as above.
    """
    try:
        return ClaimsFile.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {where}: {in_words(first, ClaimsFile)}. `em report --help` and docs/analysis.md show the form."
        ) from None
