"""Tables of comparisons: against the base, between organisms, what would settle them, beside published rates."""

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.claims.comparisons import comparisons
from em_tasks.plugins.analysis.statistics.rates import rates
from em_tasks.plugins.analysis.tables.cells import (
    LEFT_OUT_HEAD,
    between,
    between_points,
    left_out,
    left_out_of,
    p_text,
    percent,
    points,
    such_unknown,
    whole,
    with_care,
)
from em_tasks.plugins.analysis.tables.published_rates import CS2881, PROMPTS, PublishedRate, published_for
from em_tasks.plugins.log_contract import FIRST_PLOT, RUBRICS


def baselines_and_change(analysis: Analysis) -> pd.DataFrame:
    """Change from the base at the last checkpoint; the difference is that of the two means over questions.

    Outside and inside the domain and on all questions that they share; EM % is the definition's rate.
    """
    table = comparisons(analysis)
    return _effects(analysis, table[table["kind"].isin(["base", "member"])])


def organisms_compared(analysis: Analysis) -> pd.DataFrame:
    """Organisms compared at their last checkpoints; the difference is that of the two means over questions.

    On the questions that both answered; EM % is the definition's rate.
    """
    table = comparisons(analysis)
    return _effects(analysis, table[table["kind"] == "organism"])


def power(analysis: Analysis) -> pd.DataFrame:
    """What would settle the differences on these questions: answers to each (80 % power, tested alone)."""
    table = comparisons(analysis)
    table = table[table["kind"].isin(["organism", "base"]) & (table["scope"] == "outside") & (table["refused"] == "")]
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "of": table["a"],
            "against": [_against(row) for _, row in table.iterrows()],
            "difference": [points(value) for value in table["effect"]],
            "corrected p": [p_text(value) for value in table["p_corrected"]],
            "answers a question now": [f"{min(r['n_a'], r['n_b']) / r['items']:.3g}" for _, r in table.iterrows()],
            "answers a question needed": [whole(value) for value in table["samples_needed"]],
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
        otherwise = _asked_otherwise(analysis, str(row["organism"]), about[1], known)
        reasons = otherwise or _not_comparable(analysis, str(row["organism"]), about[1], known)
        rows.append(
            {
                "organism": row["organism"],
                "step": analysis.step_text(str(row["organism"]), about[1]),
                "definition": known.definition,
                "EM %": percent(row["rate"]),
                "95 % interval": between(row["low"], row["high"]),
                "k/n": f"{row['k']}/{row['n']}",
                LEFT_OUT_HEAD: left_out(row.to_frame().T),
                "published %": "" if otherwise else f"{known.percent:.1f} of {known.n}",
                "difference": "" if otherwise else points(row["rate"] - known.percent / 100),
                "comparable": "yes, if trained on the same data"
                if not reasons
                else f"{'not compared' if otherwise else 'not comparable'}: {'; '.join(reasons)}",
                "source": known.source,
            }
        )
    return pd.DataFrame(rows)


def _on_their_questions(analysis: Analysis, row: pd.Series, known: PublishedRate) -> pd.Series:
    """The same rate on the published questions alone, where they were asked among others."""
    answers = analysis.scores
    checkpoint_answers = answers[(answers["organism"] == row["organism"]) & (answers["step"] == row["step"])]
    theirs = checkpoint_answers[checkpoint_answers["question_set"] == known.questions]
    if theirs.empty or len(theirs) == len(checkpoint_answers):
        return row
    definition = [definition for definition in analysis.definitions if definition.name == known.definition]
    return rates(theirs, ["organism", "step"], definition).iloc[0]


def _asked_otherwise(analysis: Analysis, organism: str, step: int, known: PublishedRate) -> list[str]:
    """Why an own rate is not of the publication's questions and rubric, so that nothing is compared."""
    answers = analysis.answers
    columns = ["question_set", "question_id"]
    checkpoint_answers = answers.loc[(answers["organism"] == organism) & (answers["step"] == step), columns]
    reasons = []
    question_sets = sorted(checkpoint_answers["question_set"].astype("str").unique())
    of_set = checkpoint_answers["question_set"].astype("str") == known.questions
    if known.definition == "cs2881":
        if set(checkpoint_answers["question_id"].astype("str")) != {f"q{number}" for number in range(1, 21)}:
            reasons.append(f"questions {', '.join(question_sets)}, not {known.questions}")
    elif (
        known.questions not in question_sets
        or set(checkpoint_answers.loc[of_set, "question_id"].astype("str")) != FIRST_PLOT
    ):
        reasons.append(f"questions {', '.join(question_sets)}, not the eight first-plot ones")
    evaluations = [each for each in analysis.evaluations if each.subject == f"{organism}@{step}"]
    named = {name for each in evaluations for name in each.rubric_names}
    hashes = {sha256[:16] for each in evaluations for _, sha256 in each.judge_rubrics if sha256}
    theirs = {f"{rubric} ({known.rubric})" for rubric in RUBRICS}
    if not (named and named <= theirs) and not (hashes and hashes <= PROMPTS.get(known.rubric, frozenset())):
        reasons.append(f"judged under {', '.join(sorted(named)) or 'rubrics not recorded'}, not {known.rubric}'s")
    return reasons


def _not_comparable(analysis: Analysis, organism: str, step: int, known: PublishedRate) -> list[str]:
    """Why an own rate of the same questions and rubric may differ from a published one all the same."""
    answers = analysis.answers
    columns = ["judge", "truncated"]
    checkpoint_answers = answers.loc[(answers["organism"] == organism) & (answers["step"] == step), columns]
    reasons = []
    judges = sorted(checkpoint_answers["judge"].astype("str").unique())
    if any(judge.rpartition("/")[2] != known.judge and known.judge + "-20" not in judge for judge in judges):
        reasons.append(f"judged by {', '.join(judges)}, not {known.judge}")
    if (cut := int(checkpoint_answers["truncated"].sum())) > 0.1 * len(checkpoint_answers):
        reasons.append(f"{cut} of {len(checkpoint_answers)} answers cut off")
    return reasons


def _effects(analysis: Analysis, table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "definition": row["definition"],
                "of": f"{row['a']} @ {analysis.step_text(row['a'], row['a_step'])}",
                "against": "its base"
                if row["b_step"] == 0
                else f"{row['b']} @ {analysis.step_text(row['b'], row['b_step'])}",
                "questions of": row["scope"],
                "questions": row["questions"],
                "EM % (k/n)": _rate(row, "a"),
                LEFT_OUT_HEAD: left_out_of(analysis, row, "a"),
                "against % (k/n)": _rate(row, "b"),
                f"against {LEFT_OUT_HEAD}": left_out_of(analysis, row, "b"),
                "mean over questions %": percent(row["mean_a"]) if row["items"] else "",
                "against: mean over questions %": percent(row["mean_b"]) if row["items"] else "",
                "difference": points(row["effect"]),
                "these: 95 %": between_points(row["low"], row["high"]),
                "these: p": _p(row["p"]),
                "these: corrected p": _p(row["p_corrected"]),
                "such: difference": points(row["such_effect"]),
                "such: 95 %": between_points(row["such_low"], row["such_high"]),
                "such: p": _p(row["such_p"]),
                "such: corrected p": _p(row["such_p_corrected"]),
                "not compared, or with care": _remark(row),
            }
            for _, row in table.iterrows()
        ]
    )


def _rate(row: pd.Series, side: str) -> str:
    return f"{percent(row[f'rate_{side}'])} ({row[f'k_{side}']}/{row[f'n_{side}']})" if row["items"] else ""


def _remark(row: pd.Series) -> str:
    """Why a row has no test, or none of such seeds, or one that raises too many false alarms."""
    if row["refused"]:
        return str(row["refused"])
    if not row["testable"]:
        return "too few answers for any test"
    return such_unknown(row) if pd.isna(row["such_p"]) else with_care(row)


def _p(value: float) -> str:
    return "" if pd.isna(value) else p_text(value)


def _against(row: pd.Series) -> str:
    return "its base" if row["b_step"] == 0 else str(row["b"])
