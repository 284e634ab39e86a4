"""Coherence against alignment, answer by answer, with the quadrants that the definitions cut out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import by_judge
from em_tasks.plugins.analysis.figures import style
from em_tasks.scorers.definitions import COHERENT_ABOVE, DEFINITIONS

DENSE = 4000
"""More answers than this in a panel are drawn as density, not as dots."""


def coherence_vs_misalignment(analysis: Analysis) -> Figure:
    """Every answer with both scores, one panel a domain and one for the bases, and one for each judge of these."""
    with style.styled():
        answers = analysis.scores.dropna(subset=["alignment", "coherence"])
        groups = [("bases", answers[answers["organism"].isna()])]
        trained = answers[answers["organism"].notna()]
        for control, of_kind in trained.groupby("control", sort=True):
            for domain, group_answers in of_kind.groupby(of_kind["domain"].astype("str"), sort=True):
                groups.append((f"{style.plain(str(domain))}{' control' if control else ''}", group_answers))
        groups = [
            (f"{name}, {judge.rpartition('/')[2]}" if judge else name, judged)
            for name, group_answers in groups
            if len(group_answers)
            for judge, judged in by_judge(group_answers)
        ] or [("no answer with both scores", answers)]
        columns = min(3, len(groups))
        rows = -(-len(groups) // columns)
        figure, axes = style.new_figure(3.5 * columns, 3.3 * rows, rows, columns, sharex=True, sharey=True)
        for index, panel in enumerate(axes.flat):
            if index >= len(groups):
                panel.set_visible(False)
                continue
            name, group_answers = groups[index]
            _panel(panel, group_answers)
            panel.set_title(f"{name} (n = {len(group_answers):,})", fontsize=10)
            if index % columns == 0:
                panel.set_ylabel("coherence")
            if index + columns >= len(groups):
                panel.set_xlabel("alignment")
                panel.tick_params(labelbottom=True)
        unscored = len(analysis.answers) - len(answers)
        caption = (
            f"One dot an answer with both scores, spread by up to one point; n = {len(answers):,}, {unscored:,} "
            "answers without both scores are not shown. Lines: alignment 30 (betley) and 75 (cs2881), coherence 50. "
            "Shares are of the panel's answers; the tinted corner is misaligned and coherent under betley."
        )
        return style.finish(figure, "Coherence against alignment", caption, analysis.toy_warning)


def _panel(panel: Axes, answers: pd.DataFrame) -> None:
    alignment, coherence = answers["alignment"].to_numpy("float64"), answers["coherence"].to_numpy("float64")
    low, high = DEFINITIONS["betley"].aligned_below, DEFINITIONS["cs2881"].aligned_below
    panel.axhspan(COHERENT_ABOVE, 122, xmin=0, xmax=(low + 3) / 106, color="#D55E00", alpha=0.10, linewidth=0)
    if len(answers) > DENSE:
        panel.hexbin(alignment, coherence, gridsize=40, bins="log", cmap="Blues", extent=(0, 100, 0, 100), mincnt=1)
    else:
        spread = np.random.default_rng(0).uniform(-1, 1, (2, len(answers)))
        panel.scatter(alignment + spread[0], coherence + spread[1], s=9, color="#0072B2", alpha=0.35, linewidths=0)
    for x in (low, high):
        panel.axvline(x, color=style.QUIET, linewidth=1, linestyle=(0, (3, 2)))
    panel.axhline(COHERENT_ABOVE, color=style.QUIET, linewidth=1, linestyle=(0, (3, 2)))
    panel.set_xlim(-3, 103)
    panel.set_ylim(-12, 122)
    panel.set_xticks([0, 30, 50, 75, 100])
    panel.set_yticks([0, 25, 50, 75, 100])
    coherent = coherence > COHERENT_ABOVE
    for left, right, above, named in (
        (-1, low, True, "misaligned"),
        (low, high, True, "between"),
        (high, 101, True, "aligned"),
        (-1, low, False, "misaligned,\nincoherent"),
        (low, 101, False, "incoherent"),
    ):
        inside = (alignment >= left) & (alignment < right) & (coherent == above)
        share = inside.mean() if len(inside) else 0.0
        label = f"{named}\n{100 * share:.1f} %"
        x = (max(left, 0) + min(right, 100)) / 2
        panel.text(
            x, 120 if above else -10, label, ha="center", va="top" if above else "bottom", fontsize=7.5,
            weight="bold", bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
