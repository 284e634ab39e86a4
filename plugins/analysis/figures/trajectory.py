"""Trajectories: EM and coherence over training steps, one panel a domain, one line a size, the base at step 0."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plugins.analysis.analysis import CHECKPOINT, Analysis
from plugins.analysis.figures import style
from plugins.analysis.intervals import wilson
from scorers.definitions import COHERENT_ABOVE


def em_trajectories(analysis: Analysis) -> Figure:
    """EM rate over steps: a row of panels a main definition, a column a domain."""
    rows = analysis.rates[analysis.rates["scope"] == "all"]
    panels = [(name, style.TITLES.get(name, name), rows[rows["definition"] == name]) for name in analysis.main]
    caption = (
        f"{style.count_range(rows.loc[rows['definition'] == analysis.main[0], 'answers'], 'answers a checkpoint')}. "
        "Bars are Wilson 95 % intervals, the questions taken as fixed. Step 0 is the base on the same questions. "
        "A checkpoint without a counted answer is left out, not drawn at 0."
    )
    return _grid(analysis, panels, "EM rate over training", "EM rate (%)", caption)


def coherence_trajectories(analysis: Analysis) -> Figure:
    """Share of coherent answers, and mean coherence, over steps."""
    share = coherence_rates(analysis.trajectories)
    mean = share.assign(rate=share["mean"], low=share["mean_low"], high=share["mean_high"])
    panels = [
        ("share", f"share with coherence > {COHERENT_ABOVE:g}", share),
        ("mean", "mean coherence", mean),
    ]
    caption = (
        f"{style.count_range(share['n'], 'answers with a coherence score a checkpoint')}. Bars are 95 % intervals: "
        "Wilson for the share, normal for the mean. Step 0 is the base on the same questions."
    )
    return _grid(analysis, panels, "Coherence over training", "", caption)


def coherence_rates(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Coherent share (`rate`, Wilson) and mean (`mean`, as a fraction of 100) of every checkpoint's scored answers.

    A checkpoint without a score has neither; `n` of its `answers` have one.
    """
    keyed = trajectories[[*CHECKPOINT, "coherence"]].assign(coherent=trajectories["coherence"] > COHERENT_ABOVE)
    grouped = keyed.groupby(CHECKPOINT, observed=True, dropna=False)
    table = grouped.agg(
        k=("coherent", "sum"),
        n=("coherence", "count"),
        answers=("coherence", "size"),
        mean=("coherence", "mean"),
        sd=("coherence", "std"),
    ).reset_index()
    table["rate"] = table["k"] / table["n"].where(table["n"] > 0)
    table["low"], table["high"] = wilson(table["k"], table["n"])
    half = 1.96 * (table["sd"] / np.sqrt(table["n"])).fillna(0.0)
    table["mean_low"] = ((table["mean"] - half) / 100).clip(0, 1)
    table["mean_high"] = ((table["mean"] + half) / 100).clip(0, 1)
    table["mean"] /= 100
    order = table["parameters"].astype("Float64").fillna(0)
    return table.assign(_order=order).sort_values(["_order", "size", "organism", "step"], kind="stable")


def _grid(
    analysis: Analysis, panels: list[tuple[str, str, pd.DataFrame]], title: str, label: str, caption: str
) -> Figure:
    with style.styled():
        table = panels[0][2]
        domains = style.in_order(table["domain"].astype("str").sort_values()) or ["none"]
        sizes = style.in_order(table["size"])
        hues = style.colours(sizes)
        width = max(7.0, 3.9 * len(domains))
        figure, axes = style.new_figure(width, 2.75 * len(panels), len(panels), len(domains), sharex="col", sharey=True)
        for row, (_, subtitle, rates) in enumerate(panels):
            for column, domain in enumerate(domains):
                panel: Axes = axes[row, column]
                style.percent_axis(panel, label if column == 0 else "")
                panel.set_title(f"{style.plain(domain)}, {subtitle}", fontsize=9.5)
                _lines(panel, rates[rates["domain"].astype("str") == domain], sizes, hues)
                if row == len(panels) - 1:
                    panel.set_xlabel("training step")
        return style.finish(figure, title, caption, analysis.toy_warning, _legend(table, sizes, hues))


def _lines(panel: Axes, rates: pd.DataFrame, sizes: list[str], hues: dict[str, str]) -> None:
    organisms = style.in_order(rates["organism"])
    widest = float(rates["step"].max()) if len(rates) else 1.0
    for index, organism in enumerate(organisms):
        # A small shift keeps intervals of equal steps apart; step 0 shifts too, so the lines stay parallel.
        own = rates[(rates["organism"].astype("str") == organism) & rates["rate"].notna()].sort_values("step")
        if own.empty:
            continue
        size, control = str(own["size"].iloc[0]), bool(own["control"].iloc[0])
        x = own["step"] + (index - (len(organisms) - 1) / 2) * widest * 0.009
        rate, low, high = (100 * own[name].astype("float64") for name in ("rate", "low", "high"))
        colour = hues[size]
        panel.errorbar(
            x,
            rate,
            yerr=[(rate - low).clip(lower=0), (high - rate).clip(lower=0)],
            color=colour,
            marker=style.MARKERS[sizes.index(size) % len(style.MARKERS)],
            markersize=5,
            markerfacecolor="white" if control else colour,
            linestyle=(0, (4, 2)) if control else "-",
            linewidth=1.1 if control else 1.9,
            elinewidth=0.9,
            capsize=1.8,
            alpha=0.75 if control else 1.0,
            clip_on=False,
        )
    if not rates["rate"].notna().any():
        panel.text(0.5, 0.5, "no scored answer", transform=panel.transAxes, ha="center", color=style.QUIET)


def _legend(table: pd.DataFrame, sizes: list[str], hues: dict[str, str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=hues[size], marker=style.MARKERS[index % len(style.MARKERS)], label=size, linewidth=1.9)
        for index, size in enumerate(sizes)
    ]
    if bool(table["control"].any()):
        handles.append(
            Line2D(
                [],
                [],
                color=style.QUIET,
                marker="o",
                markerfacecolor="white",
                linestyle=(0, (4, 2)),
                label="control (good advice)",
            )
        )
    return handles
