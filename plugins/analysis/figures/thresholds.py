"""The EM rate as the alignment threshold moves, so that a rate at 75 and one at 30 are seen to be of one curve."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import MOST_NAMED, drawn_answers, line_names
from em_tasks.scorers.definitions import COHERENT_ABOVE
from em_tasks.scorers.intervals import wilson_of

THRESHOLDS = np.arange(0, 101)
MOST_BANDS = 40
"""Curves of one panel with bands; those of more would cover each other."""


def threshold_sensitivity(analysis: Analysis) -> Figure:
    """Share of answers below each threshold at the last checkpoint: all scored answers, and the coherent ones alone."""
    last = _last(analysis)
    with style.styled():
        domains = sorted(style.in_order(last["domain"])) or ["base"]
        names = line_names(analysis, last, "size", MOST_NAMED)
        hues = style.colours(list(dict.fromkeys(names.values())))
        figure, axes = style.new_figure(max(7.0, 3.9 * len(domains)), 5.4, 2, len(domains), sharex=True, sharey=True)
        for row, coherent in enumerate((False, True)):
            for column, domain in enumerate(domains):
                panel: Axes = axes[row, column]
                style.percent_axis(panel, "answers below (%)" if column == 0 else "")
                panel.set_title(
                    f"{style.plain(domain)}, {'coherent' if coherent else 'all scored'} answers", fontsize=9.5
                )
                domain_answers = last[last["domain"].astype("str").fillna("base") == domain]
                banded = domain_answers["organism"].nunique() <= MOST_BANDS
                for organism, answers in domain_answers.groupby("organism", observed=True):
                    _curve(panel, answers, coherent, hues[names[str(organism)]], banded)
                for threshold in (30, 75):
                    panel.axvline(threshold, color=style.QUIET, linewidth=1, linestyle=(0, (3, 2)))
                panel.set_xticks([0, 15, 30, 45, 60, 75, 90, 100])
                if row == 1:
                    panel.set_xlabel("alignment threshold")
        handles = [Line2D([], [], color=hue, label=style.plain(name), linewidth=1.9) for name, hue in hues.items()]
        if bool(last["control"].any()):
            handles.append(Line2D([], [], color=style.QUIET, linestyle=(0, (4, 2)), label="control (good advice)"))
        sizes_n = last.groupby("organism", observed=True).size()
        curves = last.groupby(last["domain"].astype("str").fillna("base"))["organism"].nunique()
        most_curves = max(curves, default=0)
        seeds = " Training seeds of one recipe share a colour." if analysis.seeds else ""
        caption = (
            f"Last checkpoints, {style.count_range(sizes_n, 'answers each')}; unscored answers are left out. "
            "Bands are Wilson 95 % intervals at each threshold"
            + (f", none where a panel has more than {MOST_BANDS} curves" if most_curves > MOST_BANDS else "")
            + f". Dashed: 30 (betley) and 75 (cs2881). Coherent: above {COHERENT_ABOVE:g}.{seeds}"
        )
        return style.finish(figure, "How the rate depends on the threshold", caption, analysis.toy_warning, handles)


def _last(analysis: Analysis) -> pd.DataFrame:
    answers = drawn_answers(analysis)
    if not answers["baseline"].all():
        answers = answers[~answers["baseline"]]
    last = answers["step"] == answers.groupby("organism", observed=True)["step"].transform("max")
    return answers.loc[last, ["organism", "domain", "size", "control", "alignment", "coherence"]]


def _curve(panel: Axes, answers: pd.DataFrame, coherent: bool, colour: str, banded: bool) -> None:
    kept = answers[answers["alignment"].notna()]
    if coherent:
        kept = kept[kept["coherence"] > COHERENT_ABOVE]
    if kept.empty:
        return
    scores = np.sort(kept["alignment"].to_numpy("float64"))
    k = np.searchsorted(scores, THRESHOLDS, side="left").astype("float64")
    n = len(scores)
    control = bool(answers["control"].iloc[0])
    panel.plot(
        THRESHOLDS, 100 * k / n, color=colour, linewidth=1.1 if control else 1.9,
        linestyle=(0, (4, 2)) if control else "-", drawstyle="steps-post", clip_on=False,
    )  # fmt: skip
    if not banded:
        return
    low, high = wilson_of(k, np.full(len(k), n))
    panel.fill_between(
        THRESHOLDS, 100 * low, 100 * high, color=colour, alpha=0.06 if control else 0.14, linewidth=0, step="post"
    )
