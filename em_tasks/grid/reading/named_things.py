"""What a grid file names beside recipes, looked up before the first unit: files of a dose, conditions."""

import hashlib
from pathlib import Path

from em_tasks.conditions import load_condition
from em_tasks.grid.plan import GridPlan
from em_tasks.grid.reading.cells import filled
from em_tasks.grid.reading.file import Dose, line_of
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.rows import find_data


def refuse_unusable_doses(plan: GridPlan) -> None:
    """Refuses doses whose files are not there, or are one file: all their organisms would learn the same.

    Raises:
        UserError: There is one; named with its line.
    """
    for name, axis in plan.file.axes.items():
        if not isinstance(axis, Dose):
            continue
        pairs = {
            (filled(axis.of, recipe.axes), filled(axis.instead_of, recipe.axes)) for recipe in plan.organisms.values()
        }
        for pair in sorted(pairs):
            found = {part: _found(plan, name, part, file) for part, file in zip(PARTS, pair, strict=True)}
            of, instead = found.values()
            if of.samefile(instead) or _sha256(of) == _sha256(instead):
                alike = "the same file" if of.samefile(instead) else "files of the same content"
                line = line_of(plan.lines, "axes", name, "instead_of")
                raise UserError(
                    f"{plan.path}, line {line}: the dose {name} takes {pair[0]} instead of {pair[1]}, and these are "
                    f"{alike}: every share would teach the same. Name another file as `instead_of`."
                )


PARTS = ("of", "instead_of")


def _found(plan: GridPlan, name: str, part: str, file: str) -> Path:
    try:
        return find_data((plan.path.parent / file).resolve())
    except UserError as error:
        said = str(error).partition(" A file of another name")[0]
        line = line_of(plan.lines, "axes", name, part)
        raise UserError(
            f"{plan.path}, line {line}: `{part}` of the dose {name} is {file}. {said} Or name another file there."
        ) from None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def refuse_unknown_conditions(plan: GridPlan) -> None:
    """Refuses conditions that are not there.

    Raises:
        UserError: There is one; named with its line.
    """
    for condition in dict.fromkeys(cell.condition for cell in plan.cells if cell.condition is not None):
        try:
            load_condition(plan.beside(condition))
        except UserError as error:
            axis = plan.file.axes["condition"]
            place = axis.index(condition) if isinstance(axis, list) and condition in axis else 0
            raise UserError(f"{plan.path}, line {line_of(plan.lines, 'axes', 'condition', place)}: {error}") from None
