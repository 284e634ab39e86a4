"""The EM rate against each axis of a grid: dose and response, rank and response, whatever the axes are."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import NOT_JOINED, scored_alike

SEED = "seed"
WIDE = 20
"""Numbers whose largest is more than so many times the smallest stand on a logarithmic axis."""
SPREAD = 0.02
"""How far apart organisms of one place stand at most, as a share of the axis."""


def em_against_axes(analysis: Analysis) -> Figure | None:
    """The EM rate at the last checkpoint against each axis, a row an axis; None where no grid was evaluated.

    Lines join the means over seeds of organisms that differ in this axis alone; colours are the first other axis.
    """
    axes = [*map(str, analysis.axes), *(["judge"] if analysis.reading.judges else [])]
    drawn = [name for name in axes if name != SEED]
    if not drawn or analysis.axes.index.empty:
        return None
    table = pd.concat([_last(of_judge, analysis.axes, judge) for judge, of_judge in analysis.by_judge.items()])
    scope = "outside" if (table["scope"] == "outside").any() else "all"
    table = table[table["scope"] == scope]
    if table.empty:
        return None
    with style.styled():
        figure, panels = style.new_figure(8.6, 2.9 * len(drawn), len(drawn), len(analysis.main), sharey=True)
        looks: dict[str, Look] = {}
        for place, axis in enumerate(drawn):
            others = [f"axis {name}" for name in drawn if name != axis]
            hues = _looks(table, others, looks)
            for panel, name in zip(panels[place], analysis.main, strict=True):
                of_definition = table[table["definition"] == name]
                _panel(panel, of_definition, axis, others, hues)
                _bases(panel, analysis, name, scope)
                panel.set_title(style.TITLES.get(name, name) if not place else "", fontsize=10)
                style.percent_axis(panel, "EM rate (%)" if panel is panels[place][0] else "")
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=5, label=label)
            for label, (colour, marker) in looks.items()
        ]
        questions = "outside the training domain" if scope == "outside" else "on all questions"
        n = style.count_range(table["answers"], "answers an organism")
        caption = (
            f"{n}, last checkpoints, {questions}. Bars are Wilson 95 % intervals, the questions taken as fixed. "
            "Lines join means over seeds of organisms that differ in this axis alone; they are no fit. Hollow "
            "marks are controls, dashed lines the bases." + (NOT_JOINED if table["alike"].nunique() > 1 else "")
        )
        return style.finish(figure, "EM against the axes of the grid", caption, analysis.toy_warning, handles)


def _last(analysis: Analysis, axes: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Rates at the last checkpoint with a column `axis NAME` an axis: the judge's too where several judged.

    What was scored alike (`alike`) may be joined by a line.
    """
    last = analysis.final[analysis.final["rate"].notna()]
    last = last.assign(organism=last["organism"].astype("str"))
    last = last[last["organism"].isin(axes.index)].join(axes.astype("object").add_prefix("axis "), on="organism")
    last = last.assign(**{"axis judge": judge} if judge else {})
    return last.assign(alike=[f"{judge} {number}" for number in scored_alike(analysis, last)])


Look = tuple[str, str]
"""Colour and marker of a value of an axis."""


def _looks(table: pd.DataFrame, others: list[str], known: dict[str, Look]) -> dict[str, Look]:
    """The looks of the first other axis's values, by value; new ones are added to those `known` by their label.

    No two axes share a look: what one row's blue circle means it means in every row.
    """
    if not others:
        return {"": (style.HUES[0], style.marker(0))}
    looks = {}
    for value in _values(table[others[0]]):
        label, place = f"{others[0].removeprefix('axis ')} {value}", len(known)
        looks[value] = known.setdefault(label, (style.HUES[place % len(style.HUES)], style.marker(place)))
    return looks


def _panel(panel: Axes, table: pd.DataFrame, axis: str, others: list[str], hues: dict[str, Look]) -> None:
    """One axis under one definition."""
    column = f"axis {axis}"
    numbers = _numbers(table[column])
    values = _values(table[column])
    at = {value: index for index, value in enumerate(values)} if numbers is None else {}
    table = table.assign(x=[float(at[_shown(value)] if at else value) for value in table[column]])
    low, high = float(table["x"].min()), float(table["x"].max())
    logarithmic = numbers is not None and low > 0 and high > WIDE * low
    groups = [group for _, group in table.groupby(others, sort=False, dropna=False)] if others else [table]
    seeds = max(int(group["x"].value_counts().max()) for group in groups)
    apart = min(SPREAD, 0.5 / (len(groups) * seeds * max(1, len(values) - 1)))
    for index, group in enumerate(groups):
        hue = _shown(group[others[0]].iloc[0]) if others else ""
        for _, alike in group.groupby("alike"):
            mean = alike.groupby("x")["rate"].mean()
            panel.plot(list(mean.index), list(100 * mean), color=hues[hue][0], linewidth=1.4, zorder=1)
        for x, here in group.groupby("x"):
            for place, (_, row) in enumerate(here.iterrows()):
                slot = index - (len(groups) - 1) / 2 + (place - (len(here) - 1) / 2) / seeds
                aside = slot * seeds * apart
                shifted = float(str(x)) * (high / low) ** aside if logarithmic else float(str(x)) + aside * (high - low)
                _mark(panel, shifted, row, *hues[hue])
    if logarithmic:
        panel.set_xscale("log")
    if numbers is None:
        panel.set_xticks(range(len(values)), values)
        panel.set_xlim(-0.5, len(values) - 0.5)
    else:
        panel.set_xticks(numbers, values)
        panel.minorticks_off()
    panel.set_xlabel(style.plain(axis))


def _mark(panel: Axes, x: float, row: pd.Series, colour: str, marker: str) -> None:
    rate, low, high = (100 * float(row[name]) for name in ("rate", "low", "high"))
    panel.errorbar(
        [x],
        [rate],
        yerr=[[max(0.0, rate - low)], [max(0.0, high - rate)]],
        color=colour,
        marker=marker,
        markersize=5,
        markerfacecolor="white" if row["control"] else colour,
        elinewidth=1,
        capsize=2,
        clip_on=False,
    )


def _bases(panel: Axes, analysis: Analysis, definition: str, scope: str) -> None:
    """A quiet line for each base's rate on the same questions."""
    rates = analysis.rates
    bases = rates[rates["baseline"] & (rates["definition"] == definition) & (rates["scope"] == scope)]
    for rate in bases.dropna(subset=["rate"]).drop_duplicates("base")["rate"]:
        panel.axhline(100 * float(rate), color=style.QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=0)


def _numbers(values: pd.Series) -> list[float] | None:
    """The distinct values in order where all are numbers; None otherwise."""
    distinct: list[Any] = list(dict.fromkeys(values))
    if any(isinstance(value, bool) or not isinstance(value, int | float) or pd.isna(value) for value in distinct):
        return None
    return sorted(float(value) for value in distinct)


def _values(values: pd.Series) -> list[str]:
    """The distinct values for readers, numbers in their order and others as they first appear."""
    numbers = _numbers(values)
    return [_shown(value) for value in (dict.fromkeys(values) if numbers is None else numbers)]


def _shown(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else style.plain(str(value))
