"""What a grid comes to: its cells, the organisms to train, how each is asked, and where everything lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from em_tasks.conditions import load_condition
from em_tasks.grid.places import refuse_unusable
from em_tasks.grid.reading.cells import BARE, Cell, cells_of
from em_tasks.grid.reading.file import GridFile, Lines, read_grid
from em_tasks.plugins.analysis.answers.grid_cells import GridCells
from em_tasks.plugins.analysis.study import read_study
from em_tasks.plugins.safe_names import file_name
from em_tasks.resources import recipe_file
from em_tasks.sweep.plan import Job, SweepOptions
from em_tasks.trainers.run.recipe import Recipe


@dataclass(frozen=True)
class AskedAlike:
    """Organisms that are asked alike.

    Attributes:
        options: How: the condition and the leading judge among them.
        organisms: Whom.
        judges: Judges that judge the same answers again, in the order of the axis.
        folder: Folder of their logs.
    """

    options: SweepOptions
    organisms: tuple[str, ...]
    judges: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class GridPlan:
    """A grid, read and checked.

    Attributes:
        path: Its file.
        file: The file's content.
        cells: Its cells.
        out: Folder of all that it makes, seen under this path by every process that works on it.
        lines: Where everything in the file stands.
    """

    path: Path
    file: GridFile
    cells: tuple[Cell, ...]
    out: Path
    lines: Lines = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        """Folder of training runs."""
        return self.out / "runs"

    @property
    def logs(self) -> Path:
        """Folder of logs, a folder a condition."""
        return self.out / "logs"

    @property
    def judged(self) -> Path:
        """Folder of logs that further judges judged."""
        return self.out / "judged"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.out / "report"

    @property
    def judge_cost(self) -> Path:
        """Folder of what judging has cost, where that is capped."""
        return self.out / "judge_cost"

    @property
    def units(self) -> Path:
        """Folder of what each unit of work said."""
        return self.out / "units"

    @property
    def study(self) -> Path | None:
        """The study file that the report is held to."""
        return None if self.file.study is None else (self.path.parent / self.file.study).resolve()

    def beside(self, name: str) -> str:
        """A name of something to ask; a file (`FILE.yaml`, `FILE.yaml:NAME`) counts from the grid's folder."""
        file, colon, inside = name.partition(":")
        return f"{(self.path.parent / file).resolve()}{colon}{inside}" if Path(file).suffix else name

    @cached_property
    def organisms(self) -> Mapping[str, Recipe]:
        """Every organism's recipe by its name."""
        return {cell.recipe.organism: cell.recipe for cell in self.cells}

    @cached_property
    def groups(self) -> tuple[AskedAlike, ...]:
        """How the organisms are asked, those that are asked alike together."""
        judges: dict[tuple[str | None, str], dict[str, None]] = {}
        for cell in self._by_judge:
            judges.setdefault((cell.condition, cell.recipe.organism), {})[cell.judge] = None
        alike: dict[tuple[str | None, tuple[str, ...]], list[str]] = {}
        for (condition, organism), by in judges.items():
            alike.setdefault((condition, tuple(by)), []).append(organism)
        asking = self.file.evaluate
        return tuple(
            AskedAlike(
                SweepOptions(
                    questions=tuple(self.beside(name) for name in asking.questions),
                    rubrics=tuple(self.beside(name) for name in asking.rubrics),
                    samples=asking.samples,
                    max_tokens=asking.max_tokens,
                    engine=asking.engine,
                    exact=asking.exact,
                    judge_price=asking.judge_price,
                    condition=condition and self.beside(condition),
                    grader=first,
                ),
                tuple(organisms),
                tuple(others),
                self.logs / file_name(condition or BARE),
            )
            for (condition, (first, *others)), organisms in alike.items()
        )

    @property
    def _by_judge(self) -> list[Cell]:
        """The cells in the order of the axis of judges: its first one leads, whatever is excluded or included."""
        axis = self.file.axes.get("judge")
        values = [*(axis if isinstance(axis, list) else ()), *(cell.coordinates.get("judge") for cell in self.cells)]
        return sorted(self.cells, key=lambda cell: values.index(cell.coordinates.get("judge")))

    @cached_property
    def reported(self) -> GridCells:
        """The cells by what the headers of their logs say.

        Raises:
            UserError: A condition cannot be had.
        """
        judges: dict[tuple[str | None, str | None], dict[str, None]] = {}
        for cell in self._by_judge:
            condition = _condition_name(self, cell)
            for organism in (cell.recipe.organism, None):
                judges.setdefault((organism, condition), {})[cell.judge] = None
        values: dict[str, dict[Any, None]] = {}
        for cell in self.cells:
            for axis, value in (cell.recipe.axes | {"condition": _condition_name(self, cell) or "none"}).items():
                values.setdefault(axis, {})[value] = None
        return GridCells(
            {key: tuple(of_cell) for key, of_cell in judges.items()},
            {axis: tuple(of_axis) for axis, of_axis in values.items()},
        )

    @property
    def leading(self) -> tuple[str, ...]:
        """The judges whose scores make rates, tables and figures: of each cell the first of the axis that judges it."""
        return tuple(dict.fromkeys(str(group.options.grader) for group in self.groups))

    def condition_of(self, cell: Cell) -> str | None:
        """What is put around the questions in a cell, as `SweepOptions` names it."""
        return cell.condition and self.beside(cell.condition)

    def asks_base(self, group: AskedAlike, recipe: Recipe) -> bool:
        """Whether a group asks the base of one of its recipes: not where one with all of its judges and more does.

        Cells that name some of the judges are a group of their own, and the base would be asked once for each.
        """
        return not any(
            other.folder == group.folder
            and {group.options.grader, *group.judges} < {other.options.grader, *other.judges}
            and any(self._base(name) == (recipe.base, recipe.precision) for name in other.organisms)
            for other in self.groups
        )

    def own_jobs(self, group: AskedAlike, jobs: Sequence[Job]) -> list[Job]:
        """A group's jobs without the bases that another group asks."""
        own = []
        for job in jobs:
            organisms = [name for s in job.subjects if (name := s.name.rpartition("@")[0]) in self.organisms]
            asks = all(self.asks_base(group, self.organisms[name]) for name in organisms)
            subjects = tuple(s for s in job.subjects if asks or not s.name.endswith("@base"))
            own.append(replace(job, subjects=subjects))
        return [job for job in own if job.subjects]

    def _base(self, organism: str) -> tuple[str, str]:
        return self.organisms[organism].base, self.organisms[organism].precision


def _condition_name(plan: GridPlan, cell: Cell) -> str | None:
    return cell.condition and load_condition(plan.beside(cell.condition)).name


def plan_grid(path: Path, out: Path | None) -> GridPlan:
    """Reads a grid file and says what it comes to.

    Args:
        path: The grid file.
        out: Folder for all that it makes; one of its name, where the command is given, if None.

    Raises:
        UserError: The file, or the study file that it names, is at fault; see `read_grid` and `cells_of`.
        UserError: The folder cannot be made or written to.
    """
    file, lines = read_grid(path)
    template = None
    if file.recipe is not None:
        named = Path(file.recipe)
        template = recipe_file(path.parent / named if named.suffix or len(named.parts) > 1 else named)
    cells = cells_of(file, lines, path, template)
    if file.study is not None:
        read_study(path.parent / file.study)
    out = (out or Path(file.name)).resolve()
    refuse_unusable(out)
    return GridPlan(path, file, tuple(cells), out, lines)
