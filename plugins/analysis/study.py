"""A study file: what is named before the data are seen, and whose hash stands at the head of the report.

    definition: betley
    thresholds: alignment < 30, coherence > 50
    smallest_effect: 10
    primary_family: {checkpoints: last, questions: outside, organisms: 6}

`em plan` prints one. A report that would do anything else is refused.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import meant
from em_tasks.plugins.yaml_files import read_text, read_yaml_lines
from em_tasks.scorers.definition_names import chosen_definitions


class PrimaryFamily(BaseModel):
    """The comparisons that p-values are corrected over first: last checkpoints against bases, outside the domain."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    checkpoints: Literal["last"]
    questions: Literal["outside"]
    organisms: int = Field(ge=1)


class Named(BaseModel):
    """What a study file holds; the smallest effect is in points."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    definition: str
    thresholds: str
    smallest_effect: float = Field(gt=0, le=100)
    primary_family: PrimaryFamily


@dataclass(frozen=True)
class Study:
    """A study file as it was read.

    Attributes:
        path: The file.
        sha256: Hash of its bytes.
        named: What it names.
    """

    path: Path
    sha256: str
    named: Named

    @property
    def line(self) -> str:
        """For the head of a report."""
        organisms = self.named.primary_family.organisms
        return (
            f"Pre-registered in {self.path.name}, sha256 {self.sha256}: `{self.named.definition}` "
            f"({self.named.thresholds}), smallest effect {self.named.smallest_effect:g} points, primary family the "
            f"last checkpoints of {organisms} organisms outside their domain. That the file is older than the data is "
            "shown by wherever this hash was published, not by this report."
        )

    def refuse_others(self, definitions: tuple[str, ...], smallest_effect: float | None) -> None:
        """Refuses what was asked of a report and differs from what was named.

        Args:
            definitions: Definitions asked for, the leading one first; none is well.
            smallest_effect: As asked, in points; None is well.

        Raises:
            UserError: It differs.
        """
        if definitions and definitions[0] != self.named.definition:
            raise UserError(
                f"{self.path} names the definition {self.named.definition}, and --definition {definitions[0]} would "
                "lead the report. Leave --definition out, or report without --study."
            )
        if smallest_effect is not None and smallest_effect != self.named.smallest_effect:
            raise UserError(
                f"{self.path} names a smallest effect of {self.named.smallest_effect:g} points, and --smallest-effect "
                f"says {smallest_effect:g}. Leave --smallest-effect out, or report without --study."
            )

    def refuse_other_family(self, organisms: int) -> None:
        """Refuses logs whose primary family has another number of organisms than was named.

        Raises:
            UserError: It has.
        """
        if organisms != self.named.primary_family.organisms:
            raise UserError(
                f"{self.path} names a primary family of {self.named.primary_family.organisms} organisms (seeds of one "
                f"recipe are one), and these logs have {organisms}. Give the logs of the study and no others, or "
                "report without --study."
            )


def read_study(path: Path) -> Study:
    """Reads a study file.

    Raises:
        UserError: It is not readable, a key is missing or unknown, or its thresholds are not its definition's.
    """
    content, lines = read_yaml_lines(path)
    try:
        named = Named.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        way = tuple(first["loc"])
        line = next((lines[way[:end]] for end in range(len(way), 0, -1) if way[:end] in lines), 1)
        unknown = first["type"] == "extra_forbidden"
        problem = f"is no key of a study file{meant(first, Named)}" if unknown else f"is wrong: {first['msg']}"
        problem = "is missing" if first["type"] == "missing" else problem
        where = ".".join(str(part) for part in way) or "the file"
        raise UserError(f"{path}, line {line}: {where} {problem}. `em plan` prints a study file.") from None
    (definition,) = chosen_definitions([named.definition])
    if named.thresholds != definition.condition:
        raise UserError(
            f"{path}, line {lines['thresholds',]}: the thresholds are {named.thresholds!r}, but {named.definition} "
            f"cuts at {definition.condition!r}. Name the definition that has your thresholds, such as '<=30+coherent'."
        )
    return Study(path, hashlib.sha256(read_text(path).encode()).hexdigest(), named)


def study_text(definition: str, smallest_effect: float, organisms: int, comment: str) -> str:
    """A study file's text.

    Args:
        definition: Name of an EM definition.
        smallest_effect: Points.
        organisms: Organisms of the primary family, seeds of one recipe being one.
        comment: What else is to be registered, on one line.
    """
    (chosen,) = chosen_definitions([definition])
    return (
        f"# {comment}\n"
        f'definition: "{chosen.name}"\n'
        f'thresholds: "{chosen.condition}"\n'
        f"smallest_effect: {smallest_effect:g}  # points\n"
        f"primary_family: {{checkpoints: last, questions: outside, organisms: {organisms}}}\n"
    )
