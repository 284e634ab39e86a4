"""A grid file: the axes of a study, what every cell shares, and how the organisms are asked.

    recipe: toy-medical-s
    fields: {epochs: 1}
    axes:
      base: {S: {base: toy-s, size: S}, M: {base: toy-m, size: M}}
      dose: {of: bad.jsonl, instead_of: good.jsonl, shares: [0, 0.5, 1]}
      seed: [0, 1]
      condition: [null, json]
    exclude: [{base: M, dose: 0.5}]
    evaluate: {samples: 10}
    study: study.yaml

An axis is a list of values of the recipe field of its name, labels that stand for several fields, or a dose. The axes
`condition` and `judge` are about asking, not training. A study file (`em plan`) names what is reported before the data
are seen; a grid file says what is trained and asked, and may name one.
"""

import re
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from em_tasks.grid.reading.misread import no_truth_value, refuse_misread
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import in_words, meant
from em_tasks.plugins.yaml_files import read_yaml_lines
from em_tasks.trainers.run.recipe import Coordinate

Lines = dict[tuple[str | int, ...], int]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Fields = dict[str, Any]
ASKING = ("condition", "judge")
"""Axes of how organisms are asked; all others are of training."""


def _listed(value: Any) -> Any:
    """What stands alone, as a list of it: `seed: 0`, `questions: general`, `exclude: {seed: 1}`."""
    return value if value is None or isinstance(value, list | tuple) else [value]


Listed = BeforeValidator(_listed)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Numbers that YAML reads as texts: those without a point, and those without a sign after the `e`."""


def as_number(value: Any) -> Any:
    """The number that a text stands for, whole where it is; anything else as it is."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        return value
    number = float(value)
    return int(number) if isfinite(number) and number == int(number) else number


def _number(value: Any) -> Any:
    return as_number(no_truth_value(value))


def _share(value: Any) -> Any:
    share = _number(value)
    if isinstance(share, int | float) and not 0 <= share <= 1:
        hint = f"; {share:g} % is {share / 100:g}" if 1 < share <= 100 else ""
        raise ValueError(f"a share is a number from 0 to 1, and this is {share:g}{hint}")
    return share


Number = BeforeValidator(_number)


class Dose(_Strict):
    """An axis of how much of the data is bad: each share of one file's rows, the rest of another's.

    Attributes:
        of: The file whose share is the dose.
        instead_of: The file whose rows stand in place of those left out.
        shares: The doses, 0 to 1; at 0 the organism is a control.
    """

    of: str
    instead_of: str
    shares: list[Annotated[float, BeforeValidator(_share)]] = Field(min_length=1)


def _kind(axis: Any) -> str:
    if isinstance(axis, Dose) or (isinstance(axis, dict) and "shares" in axis):
        return "dose"
    return "labels" if isinstance(axis, dict) else "values"


Axis = Annotated[
    Annotated[Dose, Tag("dose")]
    | Annotated[Annotated[dict[Coordinate, Fields], Field(min_length=1)], Tag("labels")]
    | Annotated[Annotated[list[Any], Listed, Field(min_length=1)], Tag("values")],
    Discriminator(_kind),
]


class Asking(_Strict):
    """How every checkpoint and base is asked; the fields are those of `em sweep`.

    `max_judge_cost` (US dollars) caps what all judges of the whole study cost, over all commands that are given for it.
    """

    questions: Annotated[tuple[str, ...], Listed] = ()
    rubrics: Annotated[tuple[str, ...], Listed] = ()
    samples: Annotated[int, Number] = Field(default=10, ge=1)
    max_tokens: Annotated[int, Number] = Field(default=600, ge=1)
    engine: str = "auto"
    exact: bool = False
    judge_price: str | None = None
    max_judge_cost: Annotated[float | None, Number] = Field(default=None, ge=0)


class GridFile(_Strict):
    """What a grid file holds.

    Attributes:
        name: The beginning of every cell's name; the file's name unless given.
        recipe: A recipe file, or the name of a shipped one, that the cells begin from; none where `fields` say all.
        fields: Recipe fields that all cells share, in place of the recipe's. `{AXIS}` in a text is a cell's value.
        axes: The axes.
        exclude: Cells to leave out: all that have every value named, or one of a list of them.
        include: Cells beside the product: a value of every axis.
        evaluate: How they are asked.
        study: A study file that the report is held to.
        slurm: Parameters of the jobs, by submitit's names (`timeout_min`, `slurm_partition`, ...).
    """

    name: Name
    recipe: str | None = None
    fields: Fields = {}
    axes: dict[Name, Axis] = Field(min_length=1)
    exclude: Annotated[list[dict[str, Any]], Listed] = []
    include: Annotated[list[dict[str, Any]], Listed] = []
    evaluate: Asking = Asking()
    study: str | None = None
    slurm: dict[str, Any] = {}


def read_grid(path: Path) -> tuple[GridFile, Lines]:
    """Reads a grid file, and where everything in it stands.

    Raises:
        UserError: It is not readable, or a key is missing, unknown or out of range; named with its line.
    """
    content, lines = read_yaml_lines(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not a mapping with `axes`. See docs/how-to/grid.md.")
    refuse_misread(path)
    try:
        return GridFile.model_validate({"name": path.stem, **content}), lines
    except ValidationError as error:
        first = error.errors()[0]
        way = tuple(first["loc"])
        # Behind an axis's name stands which kind it was read as.
        way = (*way[:2], *way[3:]) if way[0] == "axes" else way
        whole: str = "a grid file"
        kind: type[BaseModel] = GridFile
        if way[0] == "evaluate":
            whole, kind = "`evaluate`", Asking
        elif first["loc"][2:3] == ("dose",):
            whole, kind = "a dose", Dose
        problem = f"is wrong: {in_words(first, GridFile)}"
        if first["type"] == "extra_forbidden":
            problem = f"is no key of {whole}{meant({'loc': way[-1:]}, kind)}"
        problem = "is missing" if first["type"] == "missing" else problem
        where = ".".join(map(str, way)) or "the file"
        known = f"{whole[0].upper()}{whole[1:]} has: {', '.join(kind.model_fields)}"
        raise UserError(f"{path}, line {line_of(lines, *way)}: {where} {problem}. {known}.") from None


def line_of(lines: Lines, *way: str | int) -> int:
    """The line of a place in the file, or of what it should be in."""
    return next((lines[way[:end]] for end in range(len(way), 0, -1) if way[:end] in lines), 1)
