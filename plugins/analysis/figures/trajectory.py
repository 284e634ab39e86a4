"""Trajectories: EM and coherence over training steps, one panel a domain, one line a size, the base at step 0."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from em_tasks.plugins.analysis.analysis import CHECKPOINT, Analysis
from em_tasks.plugins.analysis.answers.log_rows import FURTHER
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import NOT_JOINED, drawn_scope, line_names, scored_alike
from em_tasks.plugins.analysis.statistics.rates import mean_on_such
from em_tasks.plugins.analysis.statistics.seed_intervals import LEAST_SEEDS, seed_interval
from em_tasks.plugins.analysis.statistics.training_seeds import in_scope, seed_counts
from em_tasks.scorers.definitions import COHERENT_ABOVE
from em_tasks.scorers.intervals import wilson_of

NEXT, ASIDE = 0.009, 0.04
"""How far lines stand apart at one step, and all of them together at most, as shares of the last step."""


def em_trajectories(analysis: Analysis) -> Figure | None:
    """EM rate over steps: a row of panels a main definition, a column a domain; None where no step is recorded."""
    scope, questions = drawn_scope(analysis)
    rows = analysis.rates[analysis.rates["scope"] == scope]
    panels = [
        (style.TITLES.get(name, name), pd.concat([rows[rows["definition"] == name], _means_over_seeds(analysis, name)]))
        for name in analysis.main
    ]
    bars = "Bars are 95 % intervals on these questions."
    if analysis.seeds:
        bars = (
            "Thin lines are single training seeds; the thick line is their mean at the steps that all of them have, "
            f"over questions, its bars 95 % intervals over seeds (from {LEAST_SEEDS} on) and questions. Other bars, "
            "the base's among them, are 95 % intervals on these questions."
        )
    caption = (
        f"{style.count_range(rows.loc[rows['definition'] == analysis.main[0], 'answers'], 'answers a checkpoint')}. "
        f"{bars} Step 0 is the base on the same questions. A checkpoint without a counted answer is a gap in the line."
    )
    return _grid(analysis, panels, f"EM rate over training, {questions}", "EM rate (%)", caption)


def coherence_trajectories(analysis: Analysis) -> Figure | None:
    """Share of coherent answers, and mean coherence, over steps; None where no step is recorded."""
    share = coherence_rates(analysis.trajectories)
    if analysis.seeds:
        share = pd.concat([share, coherence_rates(_seeds_together(analysis)).assign(pooled=True)])
    mean = share.assign(rate=share["mean"], low=share["mean_low"], high=share["mean_high"])
    panels = [(f"share with coherence > {COHERENT_ABOVE:g}", share), ("mean coherence", mean)]
    caption = (
        f"{style.count_range(share['n'], 'answers with a coherence score a checkpoint')}. Bars are 95 % intervals: "
        "Wilson for the share, normal for the mean. Step 0 is the base on the same questions."
        + (" Thin lines are single training seeds, the thick line their answers together." if analysis.seeds else "")
    )
    return _grid(analysis, panels, "Coherence over training", "", caption)


def further_trajectories(analysis: Analysis) -> Figure | None:
    """Means of other rubrics over steps, a row each on its own scale; None where none was asked or no step recorded."""
    scales = {name: scale for name, scale in analysis.further_scores.items() if scale is not None}
    panels, axes = [], []
    for name, (low, high) in scales.items():
        rows = _means(analysis, FURTHER + name)
        # Fractions of the scale, as `_lines` draws percentages of an axis from 0 to 100.
        rows[["rate", "low", "high"]] = ((rows[["rate", "low", "high"]] - low) / (high - low)).clip(0, 1)
        panels.append((style.plain(name), rows))
        axes.append((low, high))
    if not panels:
        return None
    caption = (
        f"{style.count_range(panels[0][1]['n'], 'scored answers a checkpoint')}. Means over questions, each question's "
        "answers averaged, on the rubric's own scale; bars are 95 % t intervals over questions. Step 0 is the base on "
        "the same questions."
    )
    return _grid(analysis, panels, "Other rubrics over training", "mean", caption, axes)


def _means(analysis: Analysis, column: str) -> pd.DataFrame:
    """Mean, interval and scored answers of a score, by checkpoint, with the columns that `_lines` draws."""
    table = analysis.trajectories
    questions = table["question_set"].astype(str) + "/" + table["question_id"].astype(str)
    rows = []
    for key, part in table[[*CHECKPOINT, column]].groupby(CHECKPOINT, observed=True, dropna=False):
        mean, low, high, n = mean_on_such(part[column], questions[part.index])
        known = dict(zip(CHECKPOINT, key, strict=True))
        low, high = (mean if np.isnan(end) else end for end in (low, high))
        rows.append({**known, "rate": mean, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows).sort_values(["organism", "step"], kind="stable")


def _seeds_together(analysis: Analysis) -> pd.DataFrame:
    """Rows like those of `Analysis.trajectories` in which the seeds of one recipe are one organism, their base once."""
    table = analysis.trajectories
    organism, parts = table["organism"].astype("str"), []
    for group in analysis.seeds:
        of_seeds = organism.isin(group.organisms) & table["step"].isin(group.steps) & ~table["baseline"]
        of_base = (organism == group.organisms[0]) & table["baseline"]
        rows = table[of_seeds | of_base]
        first = {name: rows[name].iloc[0] for name in CHECKPOINT if name not in ("step", "epoch", "baseline")}
        epoch = rows.groupby("step")["epoch"].transform("first")
        parts.append(rows.assign(**first).assign(organism=group.label, epoch=epoch))
    return pd.concat(parts)


def _means_over_seeds(analysis: Analysis, definition: str) -> pd.DataFrame:
    """Rows like those of `Analysis.rates` for organisms trained alike from several seeds, marked `pooled`."""
    rows = []
    scope = drawn_scope(analysis)[0]
    rates = analysis.rates[(analysis.rates["scope"] == scope) & (analysis.rates["definition"] == definition)]
    counts = in_scope(analysis.question_counts[definition], scope)
    for group in analysis.seeds:
        organism_rates = rates[rates["organism"].astype("str") == group.organisms[0]]
        for _, row in organism_rates[organism_rates["baseline"] | organism_rates["step"].isin(group.steps)].iterrows():
            if not row["baseline"]:
                k, n = seed_counts(counts, group.organisms, int(row["step"]))
                low, high = seed_interval(k, n)
                rate = float((k / n).mean()) if k.size else math.nan  # Seeds may have no question in common.
                mean = {"rate": rate, "low": low, "high": high}
            else:
                mean = {}
            rows.append({**row, **mean, "organism": group.label, "pooled": True})
    return pd.DataFrame(rows, columns=[*rates.columns, "pooled"])


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
    table["low"], table["high"] = wilson_of(table["k"], table["n"])
    half = 1.96 * (table["sd"] / np.sqrt(table["n"])).fillna(0.0)
    table["mean_low"] = ((table["mean"] - half) / 100).clip(0, 1)
    table["mean_high"] = ((table["mean"] + half) / 100).clip(0, 1)
    table["mean"] /= 100
    order = table["parameters"].astype("Float64").fillna(0)
    return table.assign(_order=order).sort_values(["_order", "size", "organism", "step"], kind="stable")


def _grid(
    analysis: Analysis,
    panels: list[tuple[str, pd.DataFrame]],
    title: str,
    label: str,
    caption: str,
    scales: Sequence[tuple[float, float]] = (),
) -> Figure | None:
    """Rows of panels over steps, a column a domain; `scales` are each row's ends where they are not 0 to 100 %."""
    single = {name for group in analysis.seeds for name in group.organisms} if "pooled" in panels[0][1] else set()
    panels = [
        (subtitle, rates[~rates["organism"].astype("str").isin(analysis.steps_not_recorded)])
        for subtitle, rates in panels
    ]
    panels = [(subtitle, rates.assign(alike=scored_alike(analysis, rates))) for subtitle, rates in panels]
    table = panels[0][1]
    if table.empty:
        return None
    if (table.groupby("organism", observed=True)["alike"].nunique() > 1).any():
        caption += NOT_JOINED
    with style.styled():
        domains = style.in_order(table["domain"].astype("str").sort_values())
        line = line_names(analysis, table, "size")
        names = list(dict.fromkeys(line.values()))
        hues = style.colours(names)
        width = max(7.0, 3.9 * len(domains))
        figure, axes = style.new_figure(width, 2.9 * len(panels), len(panels), len(domains), sharex="col", sharey=True)
        for row, (subtitle, rates) in enumerate(panels):
            for column, domain in enumerate(domains):
                panel: Axes = axes[row, column]
                style.percent_axis(panel, label if column == 0 else "")
                if scales:
                    low, high = scales[row]
                    panel.set_yticks(range(0, 101, 25), [f"{low + (high - low) * at / 4:g}" for at in range(5)])
                panel.set_title(f"{style.plain(domain)}\n{subtitle}", fontsize=9.5)
                _lines(panel, rates[rates["domain"].astype("str") == domain], hues, line, single)
                if row == len(panels) - 1:
                    panel.set_xlabel("training step")
        return style.finish(figure, title, caption, analysis.toy_warning, _legend(table, names, hues))


def _lines(panel: Axes, rates: pd.DataFrame, hues: dict[str, str], line: dict[str, str], single: set[str]) -> None:
    """One line an organism, coloured by its name in the legend.

    Those in `single` are seeds of one recipe, thin and without bars beside their mean.
    """
    organisms = style.in_order(rates["organism"])
    names = list(hues)
    widest = float(rates["step"].max()) if len(rates) else 1.0
    apart = [name for name in organisms if name not in single]
    for organism in organisms:
        # A small shift keeps intervals of equal steps apart; the base is one, and stands at 0.
        organism_rates = rates[rates["organism"].astype("str") == organism].sort_values("step")
        if organism_rates["rate"].isna().all():
            continue
        name, control, thin = line[organism], bool(organism_rates["control"].iloc[0]), organism in single
        shift = 0.0 if thin else (apart.index(organism) - (len(apart) - 1) / 2) * min(NEXT, ASIDE / len(apart))
        colour = hues[name]
        for _, joined in organism_rates.groupby((organism_rates["alike"].diff() != 0).cumsum()):
            rate, low, high = (100 * joined[column].astype("float64") for column in ("rate", "low", "high"))
            panel.errorbar(
                joined["step"] + shift * widest * (joined["step"] > 0),
                rate,
                yerr=None if thin else [(rate - low).clip(lower=0), (high - rate).clip(lower=0)],
                color=colour,
                marker="" if thin else style.marker(names.index(name)),
                markersize=5,
                markerfacecolor="white" if control else colour,
                linestyle=(0, (4, 2)) if control else "-",
                linewidth=0.8 if thin else 1.1 if control else 1.9,
                elinewidth=0.9,
                capsize=1.8,
                alpha=0.45 if thin else 0.75 if control else 1.0,
                clip_on=False,
            )
    if not rates["rate"].notna().any():
        panel.text(0.5, 0.5, "no scored answer", transform=panel.transAxes, ha="center", color=style.QUIET)


def _legend(table: pd.DataFrame, names: list[str], hues: dict[str, str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=hues[name], marker=style.marker(index), label=style.plain(name), linewidth=1.9)
        for index, name in enumerate(names)
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
