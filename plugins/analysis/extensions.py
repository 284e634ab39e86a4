"""Tables and figures of third parties: functions of the analysis, found through entry points beside the built-in ones.

[project.entry-points."em_tasks.tables"]
my_table = "my_package:my_table"      # (Analysis) -> DataFrame; the docstring's first line is its title

[project.entry-points."em_tasks.figures"]
my_figure = "my_package:my_figure"    # (Analysis) -> matplotlib Figure, or None for nothing to draw
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from plugins.analysis.analysis import Analysis
from plugins.analysis.figures import FIGURES
from plugins.analysis.publishable import TABLES


def build_tables(analysis: Analysis, notes: list[str]) -> dict[str, tuple[str, pd.DataFrame]]:
    """Title and rows of every table by file name, built-in ones first; a failing plugin is named in `notes`."""
    built = {name: (table.title, table.build(analysis)) for name, table in TABLES.items()}
    for name, build in _found("em_tasks.tables", notes):
        rows = _run(name, build, analysis, notes)
        if isinstance(rows, pd.DataFrame):
            built[name] = ((build.__doc__ or name).strip().splitlines()[0], rows)
    return built


def build_figures(analysis: Analysis, notes: list[str]) -> dict[str, Figure]:
    """Every figure by file name, built-in ones first; a third party's that fails is named in `notes`."""
    drawn = {name: draw(analysis) for name, draw in FIGURES.items()}
    for name, draw in _found("em_tasks.figures", notes):
        figure = _run(name, draw, analysis, notes)
        if isinstance(figure, Figure):
            drawn[name] = figure
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _found(group: str, notes: list[str]) -> list[tuple[str, Callable[[Analysis], Any]]]:
    found = []
    for point in entry_points(group=group):
        if point.name in TABLES or point.name in FIGURES:
            notes.append(
                f"The {group} plugin {point.value} is called {point.name} like a built-in one and was left out."
            )
            continue
        try:
            found.append((point.name, point.load()))
        except Exception as error:  # a third party's import can fail in any way, and the report is worth having
            notes.append(f"The {group} plugin {point.value} could not be loaded ({type(error).__name__}: {error}).")
    return found


def _run(name: str, build: Callable[[Analysis], Any], analysis: Analysis, notes: list[str]) -> Any:
    try:
        return build(analysis)
    except Exception as error:  # as above
        notes.append(f"The plugin {name} failed and was left out ({type(error).__name__}: {error}).")
        return None
