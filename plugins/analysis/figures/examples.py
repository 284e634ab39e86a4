"""Answers to one question at every checkpoint, side by side with their scores, as a picture for a paper or a talk."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.figures.drawn import drawn_answers
from em_tasks.plugins.errors import UserError

LINES, WIDTH, NAME_WIDTH = 5, 84, 27
MOST = 24
"""Organisms of one picture, of which each takes two answers."""


def chosen_questions(analysis: Analysis, wanted: tuple[str, ...] = (), count: int = 3) -> list[str]:
    """The ids of the questions to show: those wanted, or those whose alignment fell most from base to last checkpoint.

    One question of each scope is taken first, so that own domain, other domains and general questions are all seen.

    Raises:
        UserError: A wanted question was not asked.
    """
    question_ids = {str(name) for name in analysis.answers["question_id"].unique()}
    if missing := [name for name in wanted if name not in question_ids]:
        raise UserError(
            f"There is no question {', '.join(missing)} in the logs. Asked were {', '.join(sorted(question_ids)[:30])}."
        )
    if wanted:
        return list(wanted)
    table = drawn_answers(analysis)
    table = table[~table["control"]]
    step = table.groupby("organism", observed=True)["step"].transform("max")
    last = table[table["step"] == step].groupby("question_id", observed=True)["alignment"].mean()
    base = table[table["baseline"]].groupby("question_id", observed=True)["alignment"].mean()
    fall = (base.reindex(last.index).fillna(100) - last).dropna().sort_values(ascending=False)
    scopes = table.drop_duplicates("question_id").set_index("question_id")["question_domain"].astype("str")
    first = [str(falls.index[0]) for _, falls in fall.groupby(scopes.reindex(fall.index), sort=False)]
    rest = [str(name) for name in fall.index if str(name) not in first]
    return [*first, *rest][:count]


def response_examples(analysis: Analysis, question: str) -> Figure:
    """The first answer to one question by every organism's base, first and last checkpoint, with scores.

    Of more than `MOST` organisms the first are drawn, and the caption counts the others.
    """
    with style.styled():
        table = drawn_answers(analysis)
        first_samples = table[
            (table["question_id"].astype("str") == question) & (table["sample"] == table["sample"].min())
        ]
        rows = []
        by_organism = dict(list(first_samples.sort_values("step").groupby(first_samples["organism"].astype("str"))))
        organisms = [name for name in style.in_order(analysis.rates["organism"]) if name in by_organism]
        for name in organisms[:MOST]:
            trained = by_organism[name][~by_organism[name]["baseline"]]
            rows += [row for _, row in pd.concat([trained.head(1), trained.tail(1)]).drop_duplicates("step").iterrows()]
        bases = first_samples[first_samples["baseline"]].drop_duplicates("base").sort_values(["parameters", "base"])
        rows = [*(row for _, row in bases.iterrows()), *rows]
        names = [_name(analysis, row) for row in rows]
        lines = [_wrapped(str(analysis.answers["answer"].iloc[row["at"]])) for row in rows]
        heights = [max(len(text), name.count("\n") + 1) * 0.165 + 0.12 for text, name in zip(lines, names, strict=True)]
        figure, axes = style.new_figure(10.5, sum(heights) + 0.35)
        panel = axes[0][0]
        panel.set_xlim(0, 100)
        panel.set_ylim(sum(heights) + 0.3, 0)
        panel.axis("off")
        for x, head in ((0.5, "model"), (22, "alignment"), (30.2, "coherence"), (39.5, "answer")):
            panel.text(x, 0.18, head, weight="bold", va="center", fontsize=9, color=style.QUIET)
        top = 0.3
        for index, (row, text, height) in enumerate(zip(rows, lines, heights, strict=True)):
            if index % 2 == 0:
                panel.axhspan(top, top + height, color="#f3f4f6", linewidth=0)
            panel.text(0.5, top + 0.1, names[index], va="top", fontsize=8.5)
            for x, score, limit in ((25.5, row["alignment"], 75), (34, row["coherence"], 50.01)):
                bad = pd.notna(score) and score < limit
                shown = "none" if pd.isna(score) else f"{score:.0f}"
                panel.text(
                    x,
                    top + 0.1,
                    shown,
                    va="top",
                    ha="center",
                    weight="bold",
                    fontsize=9.5,
                    color=style.TOY_RED if bad else style.INK,
                )
            panel.text(39.5, top + 0.1, "\n".join(text), va="top", fontsize=8.5, linespacing=1.25)
            top += height
        question_text = str(first_samples["question"].iloc[0]) if len(first_samples) else question
        caption = (
            f"First sampled answer of each base, first and last checkpoint, cut to {LINES} lines. Red: alignment below "
            "75, coherence at most 50. The whole answers are in answers.csv"
            + (f", those of {len(organisms) - MOST} more organisms, too." if len(organisms) > MOST else ".")
        )
        return style.finish(
            figure, textwrap.shorten(question_text, 85, placeholder=" ..."), caption, analysis.toy_warning
        )


def _name(analysis: Analysis, row: pd.Series) -> str:
    if row["baseline"]:
        return style.wrapped_name(str(row["base"]).rpartition("/")[2], NAME_WIDTH) + "\nbase"
    name, step = str(row["organism"]), int(row["step"])
    at = "last step" if name in analysis.steps_not_recorded else f"step {step}"
    return f"{style.wrapped_name(name, NAME_WIDTH)}\n{at}"


def _wrapped(answer: str) -> list[str]:
    lines = textwrap.wrap(" ".join(answer.split()), WIDTH)
    return (
        lines
        if len(lines) <= LINES
        else [*lines[: LINES - 1], textwrap.shorten(lines[LINES - 1], WIDTH - 4, placeholder="") + " ..."]
    )
