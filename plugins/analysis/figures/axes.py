"""The EM rate against each axis of a grid: dose and response, rank and response, whatever the axes are."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import matplotlib as mpl
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
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
MOST_COLOURS = 12
MOST_PANELS = 8
"""Panels beside each other."""
NEAR = 7.0
"""A line of a base's label is so high (%): bases that are nearer share one."""


def em_against_axes(analysis: Analysis) -> Figure | None:
    """The EM rate at the last checkpoint against each axis, a row an axis; None where no grid was evaluated.

    Lines join the means over seeds of organisms that differ in this axis alone. Of three axes one is told by colour,
    one by marker and one by the kind of line; for each value of any further one there is a panel.
    """
    axes = [*map(str, analysis.axes), *(["judge"] if analysis.reading.judges else [])]
    drawn = [name for name in axes if name != SEED]
    if not drawn or analysis.axes.index.empty:
        return None
    every = pd.concat([_last(of_judge, analysis.axes, judge) for judge, of_judge in analysis.by_judge.items()])
    table = every[every["rate"].notna()]
    scope = "outside" if (table["scope"] == "outside").any() else "all"
    table = table[table["scope"] == scope]
    if table.empty:
        return None
    orders = {name: _values(analysis.axes[name]) for name in drawn if name in analysis.axes}
    orders |= {"judge": [style.plain(judge) for judge in analysis.reading.judges]} if "judge" in drawn else {}
    every_order = orders
    orders = {name: [each for each in orders[name] if each in set(table[f"axis {name}"].map(_shown))] for name in drawn}
    # Against one value there is nothing to see.
    drawn = [name for name in drawn if len(orders[name]) > 1] or drawn[:1]
    orders = {name: orders[name] for name in drawn}
    # As they stand in the file, which the groups of every panel follow.
    ranks = {name: table[f"axis {name}"].map(_shown).map(orders[name].index) for name in drawn}
    table = table.iloc[pd.DataFrame(ranks).reset_index(drop=True).sort_values(drawn, kind="stable").index]
    looks = Looks.of(orders)
    wanted = {axis: list(_combinations(table, looks.panels, axis, orders)) for axis in drawn}
    most = max(map(len, wanted.values()))
    definitions = analysis.main if most == 1 or most * len(analysis.main) <= MOST_PANELS else analysis.main[:1]
    kept = {axis: combinations[: MOST_PANELS // len(definitions)] for axis, combinations in wanted.items()}
    columns = len(definitions) * max(map(len, kept.values()))
    with style.styled():
        width = max(8.6, 3.0 * columns)
        figure, panels = style.new_figure(width, 2.9 * len(drawn), len(drawn), columns, sharey=True)
        for row, axis in zip(panels, drawn, strict=True):
            pairs = list(product(definitions, kept[axis]))
            for panel in row[len(pairs) :]:
                panel.set_visible(False)
            for panel, (definition, combination) in zip(row, pairs, strict=False):
                here = table[table["definition"] == definition]
                for name, value in combination.items():
                    here = here[here[f"axis {name}"].map(_shown) == value]
                _panel(panel, here, axis, orders, looks)
                _bases(panel, analysis, definition, scope, combination)
                first = panel in panels[0] or columns > len(definitions)
                titles = [style.TITLES.get(definition, definition)] if first else []
                titles += [", ".join(f"{name} {value}" for name, value in combination.items())] if combination else []
                panel.set_title("\n".join(titles), fontsize=10 if columns <= 2 else 8.5)
                style.percent_axis(panel, "EM rate (%)" if panel is row[0] else "")
        questions = "outside the training domain" if scope == "outside" else "on all questions"
        caption = " ".join(
            [
                f"{_counts(table[table['definition'].isin(definitions)])}, last checkpoints, {questions}. Bars are "
                "Wilson 95 % intervals, the questions taken as fixed. Lines join means over seeds, small marks, of "
                "organisms that differ in this axis alone; they are no fit. Hollow marks are controls, grey dashed "
                "lines the bases named there." + (NOT_JOINED if table["alike"].nunique() > 1 else ""),
                *_not_drawn(every[every["definition"].isin(definitions)], table, every_order, scope),
                *([f"Only {definitions[0]} is drawn."] if len(definitions) < len(analysis.main) else []),
                *(
                    f"Of {', '.join(looks.panels)} there is no panel for: {'; '.join(left)}."
                    for axis in drawn[:1]
                    if (left := [", ".join(each.values()) for each in wanted[axis][len(kept[axis]) :]])
                ),
            ]
        )
        return style.finish(figure, "EM against the axes of the grid", caption, analysis.toy_warning, looks.legend())


def _last(analysis: Analysis, axes: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Rates at the last checkpoint with a column `axis NAME` an axis: the judge's too where several judged.

    What was scored alike (`alike`) may be joined by a line.
    """
    last = analysis.final
    last = last.assign(organism=last["organism"].astype("str"))
    last = last[last["organism"].isin(axes.index)].join(axes.astype("object").add_prefix("axis "), on="organism")
    last = last.assign(**{"axis judge": judge} if judge else {})
    return last.assign(alike=[f"{judge} {number}" for number in scored_alike(analysis, last)])


class Look(NamedTuple):
    """How an organism's points and the line through them look."""

    colour: str = style.INK
    marker: str = "o"
    line: Any = "-"


class Looks(NamedTuple):
    """What tells the values of the axes apart, the same in every row.

    Attributes:
        parts: By axis and value, the parts of a look that the value decides; an axis without any has panels.
        panels: The axes whose values have panels of their own.
    """

    parts: Mapping[str, Mapping[str, Mapping[str, Any]]]
    panels: tuple[str, ...]

    @classmethod
    def of(cls, orders: Mapping[str, Sequence[str]]) -> "Looks":
        """Looks for axes of these values, all that a figure draws."""
        parts: dict[str, dict[str, dict[str, Any]]] = {}
        if len(orders) <= 2:
            # In each row one other axis is told apart, so colour and marker can both say it, and no two axes share one.
            pairs = [(axis, value) for axis in reversed(list(orders)) for value in orders[axis] if len(orders) == 2]
            for place, (axis, value) in enumerate(pairs):
                look = {"colour": style.HUES[place % len(style.HUES)], "marker": style.marker(place)}
                parts.setdefault(axis, {})[value] = look
            return cls(parts, ())
        free: dict[str, int] = {"colour": MOST_COLOURS, "marker": len(style.MARKERS), "line": len(LINES)}
        for axis, values in orders.items():
            if part := next((part for part, most in free.items() if len(values) <= most), None):
                del free[part]
                parts[axis] = {
                    value: {part: each} for value, each in zip(values, _different(part, values), strict=False)
                }
        return cls(parts, tuple(axis for axis in orders if axis not in parts))

    def look(self, values: Mapping[str, str]) -> Look:
        """The look of an organism at these values of the other axes."""
        chosen: dict[str, Any] = {}
        for axis, value in values.items():
            chosen |= self.parts.get(axis, {}).get(value, {})
        return Look(**chosen)

    def legend(self) -> list[Line2D]:
        """A handle for every value that has a look."""
        handles = []
        for axis, values in self.parts.items():
            for value, part in values.items():
                look = Look(**part)
                line: Any = "none" if set(part) == {"marker"} else look.line
                marker = look.marker if "marker" in part else ""
                handles.append(
                    Line2D(
                        [], [], color=look.colour, marker=marker, markersize=5, linestyle=line, label=f"{axis} {value}"
                    )
                )
        return handles


def _different(part: str, values: Sequence[str]) -> Sequence[Any]:
    if part == "marker":
        return style.MARKERS
    if part == "line":
        return LINES
    if len(values) <= len(style.HUES):
        return style.HUES
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place / len(values))) for place in range(len(values))]


def _combinations(
    table: pd.DataFrame, panels: Sequence[str], axis: str, orders: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, str]]:
    """The values, of the axes that have panels, for which there is something to draw against an axis."""
    names = [name for name in panels if name != axis]
    there = set(zip(*(table[f"axis {name}"].map(_shown) for name in names), strict=True)) if names else {()}
    for values in product(*(orders[name] for name in names)):
        if values in there:
            yield dict(zip(names, values, strict=True))


def _counts(table: pd.DataFrame) -> str:
    """How many answers an organism gave, and over how many of them its rate is."""
    over = style.count_range(table["n"], "").removeprefix("n = ").strip()
    asked = style.count_range(table["answers"], "answers an organism")
    return asked if (table["n"] == table["answers"]).all() else f"{asked}, of which {over} count"


def _not_drawn(
    every: pd.DataFrame, table: pd.DataFrame, orders: Mapping[str, Sequence[str]], scope: str
) -> Iterator[str]:
    """Sentences on values of axes, and organisms at other values, of which nothing is drawn, and why."""
    missing = every[~every["organism"].isin(set(table["organism"]))]
    if missing.empty:
        return
    named: list[str] = []
    for axis, values in orders.items():
        there = set(table[f"axis {axis}"].map(_shown))
        gone = [value for value in values if value not in there]
        named += [f"{axis} {value}" for value in gone]
        missing = missing[~missing[f"axis {axis}"].map(_shown).isin(gone)]
    organisms = list(dict.fromkeys(missing["organism"]))
    named += organisms[:3] + ([f"{len(organisms) - 3} more organisms"] if len(organisms) > 3 else [])
    why = "none of their answers to these questions gives a rate"
    if scope == "outside":
        why = "they were asked no question outside their domain, or no answer to one gives a rate"
    yield f"Not drawn: {', '.join(named)} ({why})."


def _panel(panel: Axes, table: pd.DataFrame, axis: str, orders: Mapping[str, Sequence[str]], looks: Looks) -> None:
    """One axis under one definition."""
    column = f"axis {axis}"
    numbers = _numbers(table[column])
    values = [value for value in orders[axis] if value in set(table[column].map(_shown))]
    at = {value: index for index, value in enumerate(values)} if numbers is None else {}
    table = table.assign(x=[float(at[_shown(value)] if at else value) for value in table[column]])
    low, high = float(table["x"].min()), float(table["x"].max())
    logarithmic = numbers is not None and low > 0 and high > WIDE * low
    others = [name for name in orders if name != axis]
    columns = [f"axis {name}" for name in others]
    groups = [group for _, group in table.groupby(columns, sort=False, dropna=False)] if others else [table]
    seeds = max((int(group["x"].value_counts().max()) for group in groups), default=1)
    apart = min(SPREAD, 0.5 / (max(1, len(groups)) * seeds * max(1, len(values) - 1)))

    def beside(x: float, slot: float) -> float:
        aside = slot * seeds * apart
        return x * (high / low) ** aside if logarithmic else x + aside * ((high - low) or 1.0)

    for index, group in enumerate(groups):
        look = looks.look({name: _shown(group[f"axis {name}"].iloc[0]) for name in others})
        middle = index - (len(groups) - 1) / 2
        for _, alike in group.groupby("alike"):
            mean = alike.groupby("x")["rate"].mean()
            # Beside each other as their marks are: lines of one rate would hide one another.
            places = [beside(float(x), middle) for x in mean.index]
            panel.plot(
                places,
                list(100 * mean),
                color=look.colour,
                linestyle=look.line,
                linewidth=1.4,
                marker=look.marker,
                markersize=3,
                alpha=0.8,
                zorder=1,
            )
        for x, here in group.groupby("x"):
            for place, (_, row) in enumerate(here.iterrows()):
                slot = middle + (place - (len(here) - 1) / 2) / seeds
                _mark(panel, beside(float(str(x)), slot), row, look.colour, look.marker)
    if logarithmic:
        panel.set_xscale("log")
    if numbers is None:
        inches = panel.get_window_extent().width / panel.figure.dpi
        room = int(11 * inches / len(values))
        panel.set_xticks(range(len(values)), [style.wrapped_name(value, room) for value in values])
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


def _bases(panel: Axes, analysis: Analysis, definition: str, scope: str, at: Mapping[str, str]) -> None:
    """A quiet line for each base's rate on the same questions, with its name; bases that are near share a label.

    A panel `at` one judge has that judge's alone.
    """
    known: list[tuple[float, str]] = []
    for judge, of_judge in analysis.by_judge.items():
        if at.get("judge", style.plain(judge)) != style.plain(judge):
            continue
        rates = of_judge.rates
        bases = rates[rates["baseline"] & (rates["definition"] == definition) & (rates["scope"] == scope)]
        for _, row in bases.dropna(subset=["rate"]).drop_duplicates(["base", "rate"]).iterrows():
            name = style.plain(str(row["base"]).rpartition("/")[2]) + (
                f" by {judge}" if judge and "judge" not in at else ""
            )
            known.append((100 * float(row["rate"]), name))
    labels: list[tuple[float, list[str]]] = []
    for rate, name in sorted(known):
        panel.axhline(rate, color=style.QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        if labels and rate - labels[-1][0] < NEAR * len(set(labels[-1][1])):
            labels[-1][1].append(name)
        else:
            labels.append((rate, [name]))
    for rate, names in labels:
        unique = list(dict.fromkeys(names))
        text = [f"base {name}" for name in unique[:3]] + ([f"and {len(unique) - 3} more"] if len(unique) > 3 else [])
        panel.annotate(
            "\n".join(text),
            (1, rate),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 1.5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=6.5,
            color=style.QUIET,
            zorder=0,
        )


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
