"""Judges compared on the same answers: scores against scores, and what each judge makes of the EM rate."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.frame import ANSWER_KEY
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.statistics.rates import rates

NAMES = dict.fromkeys(("organism", "base", "question_set", "question_id", "judge"), "str")


def judge_comparison(analysis: Analysis) -> Figure | None:
    """Alignment by two judges on the same answers, and the rate by judge on those answers; None for one judge."""
    pairs = judged_twice(analysis)
    if pairs.empty:
        return None
    with style.styled():
        others = style.in_order(pairs["judge_other"])
        figure, axes = style.new_figure(3.5 * (len(others) + 1), 3.4, 1, len(others) + 1)
        for panel, judge in zip(axes[0], others, strict=False):
            judge_pairs = pairs[pairs["judge_other"] == judge]
            both = judge_pairs.dropna(subset=["alignment", "alignment_other"])
            spread = np.random.default_rng(0).uniform(-1, 1, (2, len(both)))
            panel.plot([0, 100], [0, 100], color=style.QUIET, linewidth=1, linestyle=(0, (3, 2)))
            panel.scatter(
                both["alignment"] + spread[0], both["alignment_other"] + spread[1], s=9, color=style.HUES[0],
                alpha=0.35, linewidths=0,
            )  # fmt: skip
            panel.set_title(f"alignment, n = {len(both):,}", fontsize=10)
            panel.set_xlabel(" or ".join(style.in_order(judge_pairs["judge"])))
            panel.set_ylabel(judge)
        panel = axes[0][-1]
        table = rates_by_judge(analysis)
        names = list(dict.fromkeys([*style.in_order(pairs["judge"]), *others]))
        hues = style.colours(list(analysis.main))
        for place, definition in enumerate(analysis.main):
            judge_rates = table[(table["definition"] == definition) & table["rate"].notna()]
            x = [
                names.index(str(judge)) + (place - (len(analysis.main) - 1) / 2) * 0.22
                for judge in judge_rates["judge"]
            ]
            rate, low, high = (100 * judge_rates[name].to_numpy("float64") for name in ("rate", "low", "high"))
            panel.errorbar(
                x, rate, yerr=[np.clip(rate - low, 0, None), np.clip(high - rate, 0, None)], color=hues[definition],
                linestyle="", marker=style.MARKERS[place], capsize=2.5, label=definition, clip_on=False,
            )  # fmt: skip
        panel.set_xticks(range(len(names)), [name.replace("/", "/\n") for name in names], fontsize=8)
        panel.set_xlim(-0.6, len(names) - 0.4)
        style.percent_axis(panel)
        panel.legend(loc="upper right")
        panel.set_title("EM rate by judge", fontsize=10)
        caption = (
            f"The same answers, scored by each judge: {len(pairs):,} pairs, of which n have a number from both. "
            "Dots are spread by up to one point. "
            "Bars are Wilson 95 % intervals over answers; the judges' rates are paired: overlapping bars may differ."
        )
        return style.finish(figure, "Judges compared", caption, analysis.toy_warning)


def judged_twice(analysis: Analysis) -> pd.DataFrame:
    """Answers with scores by the judge of the tables and by another one (columns ending in `_other`)."""
    columns = [*ANSWER_KEY, "judge", "alignment", "coherence"]
    mine = analysis.answers[columns].astype(NAMES)
    other = analysis.reading.rejudged[columns].astype(mine.dtypes.to_dict())
    # Bases have no organism, and missing keys would not join.
    filled = [frame.fillna({"organism": ""}) for frame in (mine, other)]
    return filled[0].merge(filled[1], on=ANSWER_KEY, suffixes=("", "_other"))


def rates_by_judge(analysis: Analysis) -> pd.DataFrame:
    """Rates of each judge on the answers that more than one judge scored, see `rates.rates`."""
    twice = judged_twice(analysis)[ANSWER_KEY].drop_duplicates()
    every = pd.concat([analysis.scores, analysis.reading.rejudged.drop(columns="answer")], ignore_index=True)
    every = every.astype(NAMES)
    every = every.fillna({"organism": ""}).merge(twice, on=ANSWER_KEY)
    return rates(
        every, ["judge"], [definition for definition in analysis.definitions if definition.name in analysis.main]
    )
