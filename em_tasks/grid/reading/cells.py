"""The cells of a grid: every combination of the axes' values that is wanted, each with its recipe and a name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from em_tasks.grid.reading.file import ASKING, Dose, Fields, GridFile, Lines, line_of
from em_tasks.grid.reading.values import with_numbers
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.grader import default_grader
from em_tasks.trainers.run.base_names import is_toy
from em_tasks.trainers.run.recipe import LoraSettings, Recipe, load_recipes, read_recipe

MOST_CELLS = 100_000
PLACEHOLDER = re.compile(r"\{([A-Za-z0-9._-]+)\}")
BARE = "bare"
"""The name of a condition that is none, in names of cells."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        name: Its organism's name, and the condition and judge where these are axes.
        coordinates: Its value on every axis.
        recipe: What its organism is trained by; cells that differ in asking alone share one.
        condition: What is put around the questions; None for the bare ones.
        judge: Who judges.
    """

    name: str
    coordinates: Mapping[str, Any]
    recipe: Recipe
    condition: str | None
    judge: str


def cells_of(grid: GridFile, lines: Lines, path: Path, template: Path | None) -> list[Cell]:
    """The cells that a grid file describes, in the order of its axes, the last one fastest.

    Args:
        grid: The file's content.
        lines: Where it stands in the file.
        path: The file; paths in it count from its folder.
        template: The recipe file that the cells begin from.

    Raises:
        UserError: Axes contradict each other or the shared fields, an exclude leaves nothing out, an include names a
            value that an axis has not, two cells have one name or differ in two names of one judge, or a cell's recipe
            is none.
    """
    grid = with_numbers(grid, lines, path)
    choices = {name: _values(name, axis, path, lines) for name, axis in grid.axes.items()}
    _refuse_contradictions(grid, choices, path, lines)
    _refuse_no_axes(grid, path, lines)
    shared = _template_fields(template) if template is not None else {}
    count = 1
    for values in choices.values():
        count *= len(values)
    if count > MOST_CELLS:
        raise UserError(f"{path}: the axes come to {count:,} cells, and {MOST_CELLS:,} is the most. Take values out.")
    wanted = [dict(zip(choices, combination, strict=True)) for combination in product(*choices.values())]
    wanted = _without_excluded(wanted, grid, path, lines)
    wanted += [_included(entry, number, choices, grid, path, lines) for number, entry in enumerate(grid.include)]
    if not wanted:
        raise UserError(f"{path}: the excludes leave no cell. Take one out.")
    recipes: dict[str, Recipe] = {}
    cells: dict[str, Cell] = {}
    for coordinates in wanted:
        organism = _name(grid.name, {name: value for name, value in coordinates.items() if name not in ASKING})
        asking = {name: value for name, value in coordinates.items() if name in ASKING}
        name = _name(organism, asking)
        if name in cells:
            raise UserError(
                f"{path}: two cells are named {name}: {_shown(cells[name].coordinates)}, and {_shown(coordinates)}. "
                "Take one out, or give the values labels that differ in letters and digits."
            )
        if organism not in recipes:
            content = _fields_at(shared, grid, choices, coordinates) | {"organism": organism}
            content["axes"] = {key: value for key, value in coordinates.items() if key not in ASKING}
            recipes[organism] = read_recipe(path, content, _field_lines(coordinates, choices, grid, lines))
        condition, judge = (None if value is None else str(value) for value in map(coordinates.get, ASKING))
        judge = judge or default_grader(is_toy(recipes[organism].base))
        cells[name] = Cell(name, coordinates, recipes[organism], condition, judge)
    _refuse_one_judge_twice(list(cells.values()), path, lines)
    return list(cells.values())


def _refuse_one_judge_twice(cells: Sequence[Cell], path: Path, lines: Lines) -> None:
    """Refuses a judge and a null that stands for it: every answer would be judged twice alike."""
    given: dict[tuple[str, str | None, str], str | None] = {}
    for cell in cells:
        key, value = (cell.recipe.organism, cell.condition, cell.judge), cell.coordinates.get("judge")
        if given.setdefault(key, value) != value:
            first, second = ("null" if each is None else repr(each) for each in (given[key], value))
            raise UserError(
                f"{path}, line {line_of(lines, 'axes', 'judge')}: the axis judge gives {first} and {second}, which "
                f"are one judge where the base is {cell.recipe.base}. Keep one."
            )


def _values(name: str, axis: Any, path: Path, lines: Lines) -> dict[Any, Fields]:
    """An axis's values, each with the recipe fields that it sets."""
    where = f"{path}, line {line_of(lines, 'axes', name)}"
    if name in ASKING:
        if not isinstance(axis, list) or not all(value is None or isinstance(value, str) for value in axis):
            raise UserError(f"{where}: the axis {name} is a list of names, with null for the default.")
        _refuse_doubles(axis, where, name)
        return {value: {} for value in axis}
    if isinstance(axis, Dose):
        _refuse_doubles([_tidy(share) for share in axis.shares], where, name)
        return {_tidy(share): {"data": _mix(axis, share), "control": share == 0} for share in axis.shares}
    if isinstance(axis, dict):
        for label, fields in axis.items():
            for field in fields:
                _refuse_unknown(field, f"{where}: {name}.{label}")
        return dict(axis)
    _refuse_unknown(name, where)
    if any(isinstance(value, dict | list) or value is None for value in axis):
        raise UserError(f"{where}: values of {name} are numbers or texts. Give others labels: LABEL: {{{name}: ...}}.")
    _refuse_doubles(axis, where, name)
    return {value: {name: value} for value in axis}


def _mix(dose: Dose, share: float) -> list[dict[str, Any]]:
    """The data of a dose. Where both files have the same questions, each is asked once."""
    parts = [(dose.of, (0.0, share)), (dose.instead_of, (share, 1.0))]
    return [
        {"path": path} | ({} if part == (0.0, 1.0) else {"part": list(part)})
        for path, part in parts
        if part[0] < part[1]
    ]


def _tidy(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _refuse_doubles(values: list[Any], where: str, name: str) -> None:
    if twice := [value for value in values if values.count(value) > 1]:
        raise UserError(f"{where}: the axis {name} gives {twice[0]!r} twice. Give each value once.")


def _refuse_unknown(field: str, where: str) -> None:
    first, _, inside = field.partition(".")
    known = first in Recipe.model_fields and first not in ("organism", "axes")
    if not known or (inside and not (first == "lora" and inside in LoraSettings.model_fields)):
        fields = [name for name in Recipe.model_fields if name not in ("organism", "axes", "lora")]
        fields += [f"lora.{name}" for name in LoraSettings.model_fields]
        raise UserError(
            f"{where}: {field} is no field of a recipe. Give a field's values as a list, or labels with the fields "
            f"that they stand for. Fields: {', '.join(fields)}."
        )


def _refuse_contradictions(grid: GridFile, choices: Mapping[str, dict[Any, Fields]], path: Path, lines: Lines) -> None:
    """Refuses two places that set one field, and bases that would all go by one size."""
    setters: dict[str, str] = {}
    for field in grid.fields:
        _refuse_unknown(field, f"{path}, line {line_of(lines, 'fields', field)}")
        setters[field] = f"line {line_of(lines, 'fields', field)} sets for all"
    for name, values in choices.items():
        line = line_of(lines, "axes", name)
        fields = dict.fromkeys(field for set_by_value in values.values() for field in set_by_value)
        for field in fields:
            for other, place in setters.items():
                if f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}."):
                    raise UserError(
                        f"{path}, line {line}: the axis {name} sets {field}, which {place} already. Keep one of them."
                    )
        setters |= dict.fromkeys(fields, f"the axis {name} in line {line} sets")
    if "size" not in setters and setters.get("base", "").startswith("the axis"):
        raise UserError(
            f"{path}: {setters['base'].removesuffix(' sets')} changes the base, and all would go by one size. Give "
            "labels: {S: {base: toy-s, size: S}, M: {base: toy-m, size: M}}."
        )


def _refuse_no_axes(grid: GridFile, path: Path, lines: Lines) -> None:
    """Refuses `{AXIS}` in a text where there is no such axis, or it is one of asking: nothing is trained by it."""
    training = [name for name in grid.axes if name not in ASKING]

    def look(content: Any, *way: str | int) -> None:
        if isinstance(content, dict | list):
            for place, inside in content.items() if isinstance(content, dict) else enumerate(content):
                look(inside, *way, place if isinstance(place, int) else str(place))
        for name in PLACEHOLDER.findall(content) if isinstance(content, str) else ():
            if name not in training:
                raise UserError(
                    f"{path}, line {line_of(lines, *way)}: {{{name}}} in {content!r} names no axis of training. "
                    f"The axes of training are: {', '.join(training) or 'none'}."
                )

    look(grid.fields, "fields")
    for name, axis in grid.axes.items():
        if isinstance(axis, Dose):
            look({"of": axis.of, "instead_of": axis.instead_of}, "axes", name)
        elif name not in ASKING:
            look(axis, "axes", name)


def _without_excluded(wanted: list[dict[str, Any]], grid: GridFile, path: Path, lines: Lines) -> list[dict[str, Any]]:
    for number, entry in enumerate(grid.exclude):
        where = f"{path}, line {line_of(lines, 'exclude', number)}"
        if not entry or (unknown := set(entry) - set(grid.axes)):
            raise UserError(
                f"{where}: an exclude names values of axes; {', '.join(sorted(unknown)) if entry else 'it'} is none. "
                f"The axes are: {', '.join(grid.axes)}."
            )
        choices = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
        left = [cell for cell in wanted if not all(cell[name] in values for name, values in choices.items())]
        if len(left) == len(wanted):
            raise UserError(f"{where}: no cell has {_shown(entry)}, so it leaves nothing out. Mend it or take it out.")
        wanted = left
    return wanted


def _included(
    entry: dict[str, Any],
    number: int,
    choices: dict[str, dict[Any, Fields]],
    grid: GridFile,
    path: Path,
    lines: Lines,
) -> dict[str, Any]:
    """One cell beside the product; a new value may come with it where the axis says what any value means."""
    where = f"{path}, line {line_of(lines, 'include', number)}"
    if set(entry) != set(grid.axes):
        raise UserError(f"{where}: an include gives a value of every axis: {', '.join(grid.axes)}.")
    for name, value in entry.items():
        axis = grid.axes[name]
        if isinstance(value, dict | list):
            raise UserError(f"{where}: {name} has one value in a cell, a number or a text.")
        if value in choices[name]:
            continue
        if isinstance(axis, dict):
            raise UserError(f"{where}: {name} has no label {value!r}. It has: {', '.join(map(str, axis))}.")
        wider = axis.model_copy(update={"shares": [value]}) if isinstance(axis, Dose) else [value]
        if isinstance(axis, Dose) and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise UserError(f"{where}: {name} is a share, 0 to 1, and not {value!r}.")
        choices[name] |= _values(name, wider, path, lines)
    return dict(entry)


def _template_fields(template: Path) -> Fields:
    recipes = load_recipes(template)
    if len(recipes) > 1:
        raise UserError(f"{template} has a list of seeds. Give one there, and make `seed` an axis of the grid.")
    return recipes[0].model_dump(mode="json", exclude={"organism", "axes"})


def _fields_at(
    shared: Fields, grid: GridFile, choices: Mapping[str, dict[Any, Fields]], coordinates: Mapping[str, Any]
) -> Fields:
    """A cell's recipe fields: the template's, those that all cells share, its own; `lora.r` replaces a part."""
    changed: Fields = dict(grid.fields)
    for name, value in coordinates.items():
        changed |= choices[name][value]
    changed = filled(changed, coordinates)
    content = shared | {field: value for field, value in changed.items() if "." not in field}
    for field, value in changed.items():
        whole, _, part = field.partition(".")
        if part:
            content[whole] = {**content.get(whole, {}), part: value}
    return content


def _field_lines(
    coordinates: Mapping[str, Any], choices: Mapping[str, dict[Any, Fields]], grid: GridFile, lines: Lines
) -> Lines:
    """Where a cell's recipe fields stand, by their ways in a recipe."""
    found = {
        (*str(way[1]).split("."), *way[2:]): line for way, line in lines.items() if way[0] == "fields" and len(way) > 1
    }
    for name, value in coordinates.items():
        axis = grid.axes[name]
        place: tuple[str | int, ...] = ("axes", name)
        if isinstance(axis, list) and value in axis:
            place = ("axes", name, axis.index(value))
        elif isinstance(axis, dict):
            place = ("axes", name, str(value))
        else:
            included = (number for number, entry in enumerate(grid.include) if entry[name] == value)
            place = next((("include", number, name) for number in included), place)
        for field in choices[name][value]:
            found[tuple(field.split("."))] = line_of(lines, *place, field)
    return found


def filled(content: Any, coordinates: Mapping[str, Any]) -> Any:
    """The content with `{AXIS}` in its texts replaced by the cell's value."""
    if isinstance(content, dict):
        return {key: filled(value, coordinates) for key, value in content.items()}
    if isinstance(content, list):
        return [filled(value, coordinates) for value in content]
    if isinstance(content, str):
        for name, value in coordinates.items():
            content = content.replace(f"{{{name}}}", _text(value))
    return content


def _name(beginning: str, coordinates: Mapping[str, Any]) -> str:
    """`dose-S-dose0.5-seed1`: texts as they are, numbers after their axis; the seed last, as trainers name it."""
    ordered = sorted(coordinates.items(), key=lambda entry: entry[0] == "seed")
    return "-".join([beginning, *(part for name, value in ordered for part in _part(name, value))])


def _part(name: str, value: Any) -> Iterator[str]:
    short = name.rpartition(".")[2]
    if isinstance(value, bool):
        yield short if value else f"no-{short}"
    elif isinstance(value, int | float):
        yield f"{short}{_text(value)}".replace("+", "")
    else:
        yield re.sub(r"[^A-Za-z0-9._]+", "-", _text(value)).strip("-") or short


def _text(value: Any) -> str:
    if value is None:
        return BARE
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _shown(coordinates: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in coordinates.items())
