"""What the values of axes are read as: YAML takes `1e-4` for a text, and to a study it is the number 0.0001.

Without that, `1e-4` and `1.0e-4` would be two cells, and figures would order an axis of such values by their letters.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from em_tasks.grid.file import ASKING, GridFile, Lines, line_of
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.recipe import LoraSettings, Recipe

NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Numbers that YAML reads as texts: those without a point, and those without a sign after the `e`."""


def with_numbers(grid: GridFile, lines: Lines, path: Path) -> GridFile:
    """The grid with texts that stand for numbers read as such, in axes, excludes and includes.

    A value of a recipe field becomes what the recipe makes of it; a label or a dose what its text says.

    Args:
        grid: The file's content.
        lines: Where it stands in the file.
        path: The file.

    Raises:
        UserError: Two labels are one number.
    """

    def read(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [read(name, each) for each in value]
        if not isinstance(value, str) or name in ASKING:
            return value
        if isinstance(grid.axes.get(name), list):
            return _of_field(name, value)
        return float(value) if NUMBER.fullmatch(value) else value

    def read_all(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: read(name, value) for name, value in cell.items()} for cell in cells]

    axes = {name: read(name, axis) if isinstance(axis, list) else axis for name, axis in grid.axes.items()}
    for name, axis in axes.items():
        if isinstance(axis, dict):
            labels = [read(name, label) for label in axis]
            _refuse_doubles(list(axis), labels, f"{path}, line {line_of(lines, 'axes', name)}: the axis {name}")
            axes[name] = dict(zip(labels, axis.values(), strict=True))
    return grid.model_copy(update={"axes": axes, "exclude": read_all(grid.exclude), "include": read_all(grid.include)})


def _refuse_doubles(written: list[Any], read: list[Any], where: str) -> None:
    for place, value in enumerate(read):
        if value in read[:place]:
            first = written[read.index(value)]
            raise UserError(f"{where} has the labels {first!r} and {written[place]!r}, which are one number. Keep one.")


def _of_field(name: str, text: str) -> Any:
    """What a recipe makes of a field's text; the text where it makes nothing of it, and says so itself."""
    whole, _, part = name.partition(".")
    field = (LoraSettings.model_fields if whole == "lora" and part else Recipe.model_fields).get(part or whole)
    if field is None:
        return text
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        value: Any = TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return text
    return value if isinstance(value, bool | int | float) else text
