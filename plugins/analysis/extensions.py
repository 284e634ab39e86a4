"""Tables and figures are plugins, our own like anybody's: functions of the analysis, found through entry points.

[project.entry-points."em_tasks.tables"]
my_table = "my_package:my_table"      # (Analysis) -> DataFrame; the docstring's first line is its title

[project.entry-points."em_tasks.figures"]
my_figure = "my_package:my_figure"    # (Analysis) -> matplotlib Figure, or None for nothing to draw

An entry may also name a mapping from names to such functions, as ours do.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.errors import UserError

OURS = "em_tasks"
"""The name of our own entries, which come first."""


def build_tables(analysis: Analysis, notes: list[str]) -> dict[str, tuple[str, pd.DataFrame]]:
    """Title and rows of every table by file name, our own first; a third party's that fails is named in `notes`.

    Raises:
        UserError: Our own tables are not entered: the installed metadata is older than the code.
    """
    built: dict[str, tuple[str, pd.DataFrame]] = {}
    for name, build, ours in _found("em_tasks.tables", notes):
        rows = build(analysis) if ours else _run(name, build, analysis, notes)
        if isinstance(rows, pd.DataFrame):
            built[name] = ((build.__doc__ or name).strip().splitlines()[0].removesuffix("."), rows)
    return built


def build_figures(analysis: Analysis, notes: list[str]) -> dict[str, Figure]:
    """Every figure by file name, our own first; a third party's that fails is named in `notes`.

    Raises:
        UserError: Our own figures are not entered: the installed metadata is older than the code.
    """
    drawn: dict[str, Figure] = {}
    for name, draw, ours in _found("em_tasks.figures", notes):
        figure = draw(analysis) if ours else _run(name, draw, analysis, notes)
        if isinstance(figure, Figure):
            drawn[name] = figure
    return drawn


def _found(group: str, notes: list[str]) -> list[tuple[str, Callable[[Analysis], Any], bool]]:
    """Name, function and whether it is ours, of everything entered under a group."""
    points = sorted(entry_points(group=group), key=lambda point: (point.name != OURS, point.name))
    if not points or points[0].name != OURS:
        raise UserError(
            f"The em-tasks that is installed does not enter its own {group}; it is older than its code. Install it "
            "again: pip install --no-deps --editable . in its folder."
        )
    found: dict[str, tuple[str, Callable[[Analysis], Any], bool]] = {}
    for point in points:
        for name, build in _functions(point, notes).items():
            if name in found:
                notes.append(f"The {group} plugin {point.value} has the name {name} of another one and was left out.")
                continue
            found[name] = (name, build, point is points[0])
    return list(found.values())


def _functions(point: EntryPoint, notes: list[str]) -> Mapping[str, Callable[[Analysis], Any]]:
    try:
        loaded = point.load()
    except Exception as error:  # a third party's import can fail in any way, and the report is worth having
        notes.append(f"The {point.group} plugin {point.value} could not be loaded ({type(error).__name__}: {error}).")
        return {}
    return loaded if isinstance(loaded, Mapping) else {point.name: loaded}


def _run(name: str, build: Callable[[Analysis], Any], analysis: Analysis, notes: list[str]) -> Any:
    try:
        return build(analysis)
    except Exception as error:  # as above
        notes.append(f"The plugin {name} failed and was left out ({type(error).__name__}: {error}).")
        return None
