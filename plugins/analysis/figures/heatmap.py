"""Mean alignment of every question at every checkpoint: where misalignment sits, question by question."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import drawn_answers
from em_tasks.plugins.analysis.figures.style import wrapped_name

MOST_QUESTIONS = 60
MOST_CHECKPOINTS = 120
"""Columns; a picture with more could not be read."""
UPRIGHT = 12
"""Characters: a longer name in a narrower group stands upright."""

SCOPES = {"in_domain": "own domain", "out_of_domain": "other domain", "general": "general"}


def question_heatmap(analysis: Analysis) -> Figure:
    """A row a question, a column a checkpoint, grouped by organism; hatched where nothing was scored."""
    with style.styled():
        table = drawn_answers(analysis)
        rows = table[["question_set", "question_domain", "question_id", "topic"]].drop_duplicates("question_id")
        rows = rows.astype("str")
        # Published files ask one topic in several forms; each is a question set of its own.
        several = rows.duplicated(["topic", "question_domain"], keep=False)
        rows["label"] = (
            rows["topic"] + "  (" + rows["question_domain"] + rows["question_set"].radd(", ").where(several, "") + ")"
        )
        rows = rows.assign(general=rows["question_domain"] == "general").sort_values(
            ["general", "question_domain"], kind="stable"
        )
        left_out = max(0, len(rows) - MOST_QUESTIONS)
        rows = rows.head(MOST_QUESTIONS)
        organisms = style.in_order(analysis.rates["organism"]) or style.in_order(table["organism"])
        means = table.assign(question_id=table["question_id"].astype("str"), organism=table["organism"].astype("str"))
        grid = means.pivot_table(
            index="question_id", columns=["organism", "step"], values="alignment", aggfunc="mean", dropna=False
        )
        of_steps = means.groupby("organism")["step"].unique()
        steps = {name: sorted(of_steps[name]) for name in organisms}
        columns = [(name, step) for name in organisms for step in steps[name]]
        wide = next((name for place, (name, _) in enumerate(columns) if place >= MOST_CHECKPOINTS), None)
        more_organisms = 0 if wide is None else len(organisms) - max(1, organisms.index(wide))
        organisms = organisms[: len(organisms) - more_organisms]
        columns = [(name, step) for name in organisms for step in steps[name]]
        values = grid.reindex(index=list(rows["question_id"]), columns=pd.MultiIndex.from_tuples(columns)).to_numpy(
            "float64"
        )
        height, width = 0.24 * len(rows) + 1.4, 0.26 * len(columns) + 3.4
        figure, axes = style.new_figure(max(8.0, width), height)
        panel = axes[0][0]
        # The colours of scores have a grey among them.
        panel.patch.set(facecolor="#ffffff", edgecolor=style.QUIET, hatch="/////", linewidth=0)
        image = panel.imshow(
            np.ma.masked_invalid(values), aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest"
        )
        panel.grid(visible=False)
        panel.set_yticks(range(len(rows)), rows["label"].tolist(), fontsize=8)
        panel.set_xticks(
            range(len(columns)), [analysis.step_text(*column) for column in columns], rotation=90, fontsize=7.5
        )
        panel.set_xlabel("training step, 0 is the base")
        at = tallest = 0
        for name in organisms:
            if at:
                panel.axvline(at - 0.5, color="white", linewidth=3)
            room = int(13 * (figure.get_size_inches()[0] - 3.4) * len(steps[name]) / len(columns))
            # A narrow group's name stands upright: broken into syllables it would run into its neighbours'.
            upright = any(len(line) > room for line in wrapped_name(name, room).split("\n")) or room < UPRIGHT < len(
                name
            )
            tallest = max(tallest, len(name) if upright else 0)
            panel.text(
                at + len(steps[name]) / 2 - 0.5,
                -0.8,
                name if upright else wrapped_name(name, room),
                rotation=90 if upright else 0,
                ha="center",
                va="bottom",
                fontsize=8,
                weight="bold",
            )
            at += len(steps[name])
        figure.set_size_inches(figure.get_size_inches()[0], height + 0.085 * tallest)
        for edge in np.flatnonzero(np.diff(pd.factorize(rows["question_domain"])[0])):
            panel.axhline(edge + 0.5, color="white", linewidth=2)
        bar = figure.colorbar(image, ax=panel, fraction=0.03, pad=0.02)
        bar.set_label("mean alignment")
        bar.ax.axhline(75, color="white", linewidth=1.5)
        bar.ax.axhline(30, color="white", linewidth=1.5)
        counts = table.groupby(["organism", "step", "question_id"], observed=True).size()
        caption = (
            f"{style.count_range(counts, 'answers a cell')}; means over scored answers; hatched: not scored, not asked."
            " Marks on the bar: 30 and 75."
        )
        if left_out:
            caption += f" {left_out} more questions are in answers.csv."
        if more_organisms:
            caption += f" {more_organisms} more organisms are in answers.csv."
        return style.finish(figure, "Alignment, question by question", caption, analysis.toy_warning)
