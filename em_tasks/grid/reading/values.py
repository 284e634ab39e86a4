"""What the values of axes and fields are read as: YAML takes `1e-4` for a text, and to a study it is the number 0.0001.

Without that, `1e-4` and `1.0e-4` would be two cells, and figures would order an axis of such values by their letters.
"""

from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from em_tasks.grid.reading.file import ASKING, Dose, Fields, GridFile, Lines, as_number, line_of
from em_tasks.grid.reading.misread import TRUTH_VALUE
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.recipe import LoraSettings, Recipe


def with_numbers(grid: GridFile, lines: Lines, path: Path) -> GridFile:
    """The grid with texts that stand for numbers read as such, in fields, axes, excludes and includes.

    A value of a recipe field becomes what the recipe makes of it; a label or a dose what its text says.

    Args:
        grid: The file's content.
        lines: Where it stands in the file.
        path: The file.

    Raises:
        UserError: Two labels are one number, or a truth value stands where a number should.
    """

    def field(name: str, value: Any, *way: str | int) -> Any:
        if isinstance(value, bool) and _kind(name) in (int, float):
            raise UserError(f"{path}, line {line_of(lines, *way)}: {name} is {str(value).lower()}. {TRUTH_VALUE}.")
        if isinstance(value, dict) and name == "lora":
            return {part: field(f"lora.{part}", each, *way, part) for part, each in value.items()}
        return _of_field(name, value) if isinstance(value, str) else value

    def fields(content: Fields, *way: str) -> Fields:
        return {name: field(name, value, *way, name) for name, value in content.items()}

    def read(name: str, value: Any, *way: str | int) -> Any:
        if isinstance(value, list):
            return [read(name, each, *way, place) for place, each in enumerate(value)]
        axis = grid.axes.get(name)
        if name in ASKING or axis is None:
            return value
        if isinstance(axis, list):
            return field(name, value, *way)
        if isinstance(axis, Dose) and isinstance(value, bool):
            raise UserError(f"{path}, line {line_of(lines, *way)}: {name} is {str(value).lower()}. {TRUTH_VALUE}.")
        return as_number(value)

    def read_all(key: str, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {name: read(name, value, key, place, name) for name, value in cell.items()}
            for place, cell in enumerate(cells)
        ]

    axes = {
        name: read(name, axis, "axes", name) if isinstance(axis, list) else axis for name, axis in grid.axes.items()
    }
    for name, axis in axes.items():
        if isinstance(axis, dict):
            labels = [as_number(label) for label in axis]
            _refuse_doubles(list(axis), labels, f"{path}, line {line_of(lines, 'axes', name)}: the axis {name}")
            stands_for = [fields(content, "axes", name, str(label)) for label, content in axis.items()]
            axes[name] = dict(zip(labels, stands_for, strict=True))
    changed = {"exclude": read_all("exclude", grid.exclude), "include": read_all("include", grid.include)}
    return grid.model_copy(update={"fields": fields(grid.fields, "fields"), "axes": axes, **changed})


def _refuse_doubles(written: list[Any], read: list[Any], where: str) -> None:
    for place, value in enumerate(read):
        if value in read[:place]:
            first = written[read.index(value)]
            raise UserError(f"{where} has the labels {first!r} and {written[place]!r}, which are one number. Keep one.")


def _kind(name: str) -> Any:
    """What a recipe's field holds; None for no field."""
    whole, _, part = name.partition(".")
    field = (LoraSettings.model_fields if whole == "lora" and part else Recipe.model_fields).get(part or whole)
    return field and field.annotation


def _of_field(name: str, text: str) -> Any:
    """What a recipe makes of a field's text; the text where it makes nothing of it, and says so itself."""
    kind = _kind(name)
    if kind is None:
        return text
    # Of a whole number the text `1e1` is none, and the number 10 is one.
    for read in dict.fromkeys((text, as_number(text))):
        try:
            value: Any = TypeAdapter(kind).validate_python(read)
        except ValidationError:
            continue
        return value if isinstance(value, bool | int | float) and isfinite(value) else text
    return text
