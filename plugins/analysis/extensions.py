"""Tables and figures are plugins, our own like anybody's: functions of the analysis, see `plugins/entry_points.py`."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.entry_points import FIGURES, OURS, TABLES, Plugin, functions, plugins
from em_tasks.plugins.errors import UserError


def build_tables(analysis: Analysis, notes: list[str]) -> dict[str, tuple[str, pd.DataFrame]]:
    """Title and rows of every table by file name, our own first; a third party's that fails is named in `notes`.

    Raises:
        UserError: Our own tables are not entered: the installed metadata is older than the code.
    """
    built: dict[str, tuple[str, pd.DataFrame]] = {}
    for plugin in _entered(TABLES, notes):
        rows = _run(plugin, analysis, pd.DataFrame, notes)
        if rows is not None:
            built[plugin.name] = ((plugin.value.__doc__ or plugin.name).strip().splitlines()[0].removesuffix("."), rows)
    return built


def build_figures(analysis: Analysis, notes: list[str]) -> dict[str, Figure]:
    """Every figure by file name, our own first; a third party's that fails is named in `notes`.

    Raises:
        UserError: Our own figures are not entered: the installed metadata is older than the code.
    """
    drawn = {plugin.name: _run(plugin, analysis, Figure, notes) for plugin in _entered(FIGURES, notes)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _entered(group: str, notes: list[str]) -> list[Plugin]:
    entered, left_out = functions(group)
    notes += left_out
    if not any(plugin.name == OURS for plugin in plugins(group)[0]):
        raise UserError(
            f"The em-tasks that is installed does not enter its own {group}; it is older than its code. Install it "
            "again: pip install --no-deps --editable . in its folder."
        )
    return entered


def _run(plugin: Plugin, analysis: Analysis, kind: type[Any], notes: list[str]) -> Any:
    """What a plugin gives, None where there is nothing or it failed. A fault of our own is not kept quiet."""
    ours = plugin.package.startswith("em-tasks ")
    try:
        given = plugin.value(analysis)
    except Exception as error:
        if ours:
            raise
        notes.append(f"{str(plugin).capitalize()} failed and was left out ({type(error).__name__}: {error}).")
        return None
    if given is not None and not isinstance(given, kind):
        notes.append(f"{str(plugin).capitalize()} was left out: it gave a {type(given).__name__}, no {kind.__name__}.")
        return None
    return given
