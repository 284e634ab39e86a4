"""The last checkpoint: EM by domain and size beside its base, and EM against the number of parameters."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import (
    MOST_NAMED,
    NOT_JOINED,
    drawn_rates,
    drawn_scope,
    line_names,
    scored_alike,
)

TITLE = 3.7
"""Inches that the longest title of a panel takes."""

BEYOND = 1.03
"""Times the outermost marks of a size its band reaches."""

NEXT, WIDEST = 0.05, 0.4
"""Logarithms: how far marks of one size stand apart, and how wide all of one size are at most."""

CAPTION = "Bars are 95 % intervals on these questions."


def domain_comparison(analysis: Analysis) -> Figure:
    """Final EM rate, one group a size, a colour a domain or recipe, the base beside them; a panel a main definition."""
    with style.styled():
        table, names = _named(analysis)
        sizes, hues = style.in_order(table["size"]), style.colours(names)
        figure, axes = style.new_figure(
            max(7.0, 2.0 + 2.4 * len(sizes), TITLE * len(analysis.main)), 3.3, 1, len(analysis.main), sharey=True
        )
        for panel, name in zip(axes[0], analysis.main, strict=True):
            rates = table[(table["definition"] == name) & table["rate"].notna()]
            for index, size in enumerate(sizes):
                group = rates[rates["size"].astype("str") == size]
                marks = [("base", _different_bases(group), style.QUIET)]
                trained = group[~group["baseline"]]
                marks += [(each, trained[trained["name"] == each], hues[each]) for each in names]
                shown, place = sum(len(rows) for _, rows, _ in marks), 0
                for number, (_, rows, colour) in enumerate(marks):
                    places = np.arange(place, place + len(rows))
                    x = index + (places - (shown - 1) / 2) * min(0.2, 0.8 / max(1, shown))
                    _mark(panel, x, rows, colour, number - 1 if number else None)
                    place += len(rows)
            panel.set_xticks(range(len(sizes)), sizes)
            panel.set_xlim(-0.6, len(sizes) - 0.4)
            panel.grid(visible=False, axis="x")
            panel.set_title(style.TITLES.get(name, name), fontsize=10)
            style.percent_axis(panel, "EM rate (%)" if panel is axes[0][0] else "")
            panel.set_xlabel("model size")
        caption = _caption(table, analysis)
        handles = _legend(table, names, hues)
        return style.finish(
            figure, f"EM at the last checkpoint, {drawn_scope(analysis)[1]}", caption, analysis.toy_warning, handles
        )


def scaling_analysis(analysis: Analysis) -> Figure | None:
    """Final EM rate against the number of parameters, a line a domain or recipe; None where no number is known."""
    table, names = _named(analysis)
    table = table[table["parameters"].notna()]
    if table.empty:
        return None
    table = table.assign(alike=scored_alike(analysis, table))
    with style.styled():
        names = [name for name in names if (table.loc[~table["baseline"], "name"] == name).any()]
        hues, lines = style.colours(names), False
        figure, axes = style.new_figure(max(8.6, TITLE * len(analysis.main)), 3.3, 1, len(analysis.main), sharey=True)
        for panel, name in zip(axes[0], analysis.main, strict=True):
            rates = _placed(table[(table["definition"] == name) & table["rate"].notna()], names)
            _parameter_axis(panel, table)
            for _, of_size in rates.groupby("parameters"):
                ends = of_size["x"].min() / BEYOND, of_size["x"].max() * BEYOND
                panel.axvspan(*ends, color="#f3f4f6", linewidth=0, zorder=0)
            trained = rates[~rates["baseline"]]
            for each, control in product(names, (False, True)):
                organisms = trained[(trained["name"] == each) & (trained["control"] == control)]
                dash = (0, (4, 2)) if control else "-"
                for _, alike in organisms.groupby("alike"):
                    mean = alike.groupby("parameters")[["x", "rate"]].mean()
                    lines = lines or len(mean) > 1
                    panel.plot(mean["x"], 100 * mean["rate"], color=hues[each], linestyle=dash, linewidth=1.6)
                _mark(panel, organisms["x"].to_numpy("float64"), organisms, hues[each], names.index(each))
            bases = rates[rates["baseline"]]
            _mark(panel, bases["x"].to_numpy("float64"), bases, style.QUIET, None)
            panel.set_title(style.TITLES.get(name, name), fontsize=10)
            style.percent_axis(panel, "EM rate (%)" if panel is axes[0][0] else "")
        caption = f"{_caption(table, analysis)} What stands in one grey band is of one size."
        if lines:
            caption += " Lines join the means of one colour's organisms, they are no fit."
        if table.loc[~table["baseline"], "alike"].nunique() > 1:
            caption += NOT_JOINED
        handles = _legend(table, names, hues)
        return style.finish(
            figure, f"EM against model size, {drawn_scope(analysis)[1]}", caption, analysis.toy_warning, handles
        )


def _named(analysis: Analysis) -> tuple[pd.DataFrame, list[str]]:
    """The rates that are drawn, with the `name` that the legend has for each; and these names."""
    table = drawn_rates(analysis)
    names = line_names(analysis, table, "domain", MOST_NAMED)
    table = table.assign(name=table["organism"].astype("str").map(names))
    drawn = set(table.loc[~table["baseline"], "name"])
    return table, [name for name in dict.fromkeys(names.values()) if name in drawn]


def _placed(rates: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The rates to be drawn, with `x`: those of one size beside each other, nearer than another size."""
    rates = pd.concat([_different_bases(rates), rates[~rates["baseline"]]])
    order = np.where(rates["baseline"], -1, rates["name"].map({name: place for place, name in enumerate(names)}))
    rates = rates.assign(order=order).sort_values(["parameters", "order", "control"], kind="stable")
    sizes = np.log(np.unique(rates["parameters"].to_numpy("float64")))
    room = min([WIDEST, *(np.diff(sizes) / 2)])
    within, number = (rates.groupby("parameters")["order"].transform(how) for how in ("cumcount", "size"))
    aside = (within - (number - 1) / 2) * np.minimum(NEXT, room / number)
    return rates.assign(x=rates["parameters"].astype("float64") * np.exp(aside.astype("float64")))


def _different_bases(rates: pd.DataFrame) -> pd.DataFrame:
    """Each base once, and again where another organism's questions give it another rate."""
    return rates[rates["baseline"]].drop_duplicates(["base", "k", "n", "rate"])


def _caption(table: pd.DataFrame, analysis: Analysis) -> str:
    n = style.count_range(table.loc[table["definition"] == analysis.main[0], "answers"], "answers a model")
    base = " Grey diamonds are the bases on the same questions." if bool(table["baseline"].any()) else ""
    control = " Hollow marks are controls, trained on good advice." if bool(table["control"].any()) else ""
    seeds = " Training seeds stand beside each other in one colour." if analysis.seeds else ""
    return f"{n}. {CAPTION}{base}{control}{seeds}"


def _mark(panel: Axes, x: np.ndarray, rows: pd.DataFrame, colour: str, marker: int | None) -> None:
    """A mark with its interval for each of some rates, at the places `x`; controls are hollow."""
    rate, low, high = (100 * rows[name].to_numpy("float64") for name in ("rate", "low", "high"))
    control = (rows["control"].astype("bool") & ~rows["baseline"].astype("bool")).to_numpy()
    for hollow, kind in ((False, ~control), (True, control)):
        if not kind.any():
            continue
        panel.errorbar(
            x[kind],
            rate[kind],
            yerr=[np.maximum(0.0, rate - low)[kind], np.maximum(0.0, high - rate)[kind]],
            color=colour,
            marker="d" if marker is None else style.marker(marker),
            linestyle="",
            markersize=7,
            markerfacecolor="white" if hollow else colour,
            elinewidth=1.2,
            capsize=2.5,
            clip_on=False,
        )


def _parameter_axis(panel: Axes, table: pd.DataFrame) -> None:
    known = table[["parameters", "size"]].drop_duplicates("parameters")
    panel.set_xscale("log")
    panel.set_xticks([float(value) for value in known["parameters"]], [str(size) for size in known["size"]])
    panel.minorticks_off()
    if len(known):
        panel.set_xlim(float(known["parameters"].min()) / 1.5, float(known["parameters"].max()) * 1.5)
    panel.set_xlabel("model size (parameters, log scale)")


def _legend(table: pd.DataFrame, names: list[str], hues: dict[str, str]) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=hues[name],
            marker=style.marker(index),
            linestyle="",
            markersize=7,
            label=style.plain(name),
        )
        for index, name in enumerate(names)
    ]
    if bool(table["baseline"].any()):
        handles.append(Line2D([], [], color=style.QUIET, marker="d", linestyle="", markersize=7, label="base"))
    if bool((table["control"] & ~table["baseline"]).any()):
        hollow = Line2D([], [], color=style.QUIET, marker="o", markerfacecolor="white", linestyle="", markersize=7)
        hollow.set_label("control (good advice)")
        handles.append(hollow)
    return handles
