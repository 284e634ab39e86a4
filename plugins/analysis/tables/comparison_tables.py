"""Tables of comparisons: against the base, between organisms, what would settle them, beside published rates."""

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.statistics.comparisons import comparisons
from em_tasks.plugins.analysis.statistics.rates import rates
from em_tasks.plugins.analysis.tables.cells import (
    LEFT_OUT_HEAD,
    between,
    counted,
    left_out,
    p_text,
    percent,
    points,
    rows_of,
    whole,
)
from em_tasks.plugins.analysis.tables.published_rates import CS2881, PublishedRate, published_for


def baselines_and_change(analysis: Analysis) -> pd.DataFrame:
    """Change from the base at the last checkpoint, on the same questions."""
    table = comparisons(analysis)
    last = table["a_step"] == table.groupby("a")["a_step"].transform("max")
    return _effects(analysis, table[(table["kind"] == "seeds") | ((table["kind"] == "base") & last)])


def organisms_compared(analysis: Analysis) -> pd.DataFrame:
    """Organisms compared at their last checkpoints, on the same questions."""
    table = comparisons(analysis)
    return _effects(analysis, table[table["kind"] == "organism"])


def power(analysis: Analysis) -> pd.DataFrame:
    """What would settle the differences: answers a question, or questions (80 % power, tested alone)."""
    table = comparisons(analysis)
    last = table.groupby("a")["a_step"].transform("max")
    table = table[table["kind"].isin(["organism", "seeds"]) | ((table["kind"] == "base") & (table["a_step"] == last))]
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "of": table["a"],
            "against": [_against(row) for _, row in table.iterrows()],
            "difference": [points(value) for value in table["effect"]],
            "corrected p": [p_text(value) for value in table["p_corrected"]],
            "answers a question now": [_answers_a_question(analysis, row) for _, row in table.iterrows()],
            "answers a question needed": [whole(value) for value in table["samples_needed"]],
            "questions now": table["questions"],
            "or questions needed": [whole(value) for value in table["questions_needed"]],
        }
    )


def beside_published(analysis: Analysis) -> pd.DataFrame:
    """Beside published rates of the same base or size and domain, on their questions, and why they may not compare.

    cs2881's rates stand beside every checkpoint of the same step, others beside the last one.
    """
    rows = []
    whole_rates = analysis.rates[(analysis.rates["scope"] == "all") & ~analysis.rates["baseline"]]
    last = analysis.final.set_index("organism")["step"].to_dict()
    for _, every in whole_rates[~whole_rates["control"]].iterrows():
        row = every
        about = str(row["domain"]), int(row["step"])
        known = CS2881.get((str(row["size"]), *about))
        if row["definition"] == "turner" and row["step"] == last[row["organism"]]:
            known = published_for(str(row["base"]), about[0])
        if known is None or known.definition != row["definition"]:
            continue
        row = _on_their_questions(analysis, row, known)
        reasons = _not_comparable(analysis, str(row["organism"]), about[1], known)
        rows.append(
            {
                "organism": row["organism"],
                "step": analysis.step_text(str(row["organism"]), about[1]),
                "definition": known.definition,
                "EM %": percent(row["rate"]),
                "95 % interval": between(row["low"], row["high"]),
                "k/n": f"{row['k']}/{row['n']}",
                LEFT_OUT_HEAD: left_out(row.to_frame().T),
                "published %": f"{known.percent:.1f} of {known.n}",
                "difference": points(row["rate"] - known.percent / 100),
                "comparable": "yes, if trained on the same data"
                if not reasons
                else f"not comparable: {'; '.join(reasons)}",
                "source": known.source,
            }
        )
    return pd.DataFrame(rows)


def _on_their_questions(analysis: Analysis, row: pd.Series, known: PublishedRate) -> pd.Series:
    """The same rate on the published questions alone, where they were asked among others."""
    answers = analysis.scores
    own = answers[(answers["organism"] == row["organism"]) & (answers["step"] == row["step"])]
    theirs = own[own["question_set"] == known.questions]
    if theirs.empty or len(theirs) == len(own):
        return row
    definition = [one for one in analysis.definitions if one.name == known.definition]
    return rates(theirs, ["organism", "step"], definition).iloc[0]


def _not_comparable(analysis: Analysis, organism: str, step: int, known: PublishedRate) -> list[str]:
    answers = analysis.answers
    columns = ["judge", "question_set", "question_id", "truncated"]
    own = answers.loc[(answers["organism"] == organism) & (answers["step"] == step), columns]
    reasons = []
    judges = sorted(own["judge"].astype("str").unique())
    if any(judge.rpartition("/")[2] != known.judge and known.judge + "-20" not in judge for judge in judges):
        reasons.append(f"judged by {', '.join(judges)}, not {known.judge}")
    asked = sorted(own["question_set"].astype("str").unique())
    if known.definition == "cs2881":
        if set(own["question_id"].astype("str")) != {f"q{number}" for number in range(1, 21)}:
            reasons.append(f"questions {', '.join(asked)}, not {known.questions}")
    elif known.questions not in asked:
        reasons.append(f"questions {', '.join(asked)}, not the eight first-plot ones")
    if (cut := int(own["truncated"].sum())) > 0.1 * len(own):
        reasons.append(f"{cut} of {len(own)} answers cut off")
    return reasons


def _effects(analysis: Analysis, table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for _, row in table.iterrows():
        own, other = _side(analysis, row, "a"), _side(analysis, row, "b")
        rows.append(
            {
                "definition": row["definition"],
                "of": f"{row['a']} @ {analysis.step_text(row['a'], row['a_step'])}",
                "against": "its base"
                if row["b_step"] == 0
                else f"{row['b']} @ {analysis.step_text(row['b'], row['b_step'])}",
                "questions": row["questions"],
                "EM %": percent(row["rate_a"]),
                "k/n": counted(own),
                LEFT_OUT_HEAD: left_out(own),
                "against %": percent(row["rate_b"]),
                "against k/n": counted(other),
                f"against {LEFT_OUT_HEAD}": left_out(other),
                "difference": points(row["effect"]),
                "95 % interval": f"{points(row['low'])} to {points(row['high'])}",
                "p": p_text(row["p"]),
                "corrected p": p_text(row["p_corrected"]),
            }
        )
    return pd.DataFrame(rows)


def _side(analysis: Analysis, row: pd.Series, side: str) -> pd.DataFrame:
    """The counts of one side; seeds of one recipe stand under its label, and share one base."""
    label, step = str(row[side]), int(row[f"{side}_step"])
    together = {group.label: group.organisms for group in analysis.seeds}
    organisms = together.get(label, (label,))
    return rows_of(analysis, str(row["definition"]), organisms[:1] if step == 0 else organisms, step)


def _answers_a_question(analysis: Analysis, row: pd.Series) -> str:
    """Counted answers a question on the side that has fewer."""
    each = [
        rows["n"].sum() / max(1, row["questions"]) / max(1, row[f"seeds_{side}"])
        for side in ("a", "b")
        for rows in [_side(analysis, row, side)]
    ]
    return f"{min(each):.3g}"


def _against(row: pd.Series) -> str:
    return "its base" if row["b_step"] == 0 else str(row["b"])
