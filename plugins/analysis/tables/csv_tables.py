"""Tables: EM by checkpoint, and the CSV files that users of cs2881 know, with their published columns."""

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import CHECKPOINT, Analysis
from em_tasks.plugins.analysis.answers.scoring import why_not_comparable
from em_tasks.plugins.analysis.statistics.rates import COUNTS
from em_tasks.scorers.definitions import COHERENT_ABOVE

DECIMALS = {"rate": 2, "low": 2, "high": 2}
"""Of percentages, in files; what is rounded for people is rounded once, from the whole number."""


def em_by_checkpoint(analysis: Analysis) -> pd.DataFrame:
    """Every checkpoint under every definition and scope; rates and intervals in percent."""
    columns = [*CHECKPOINT, "scope", "definition", "k", "n", "rate", "low", "high", *COUNTS]
    return in_percent(analysis.rates[[*columns, "mean_alignment", "mean_coherence"]])


def in_percent(table: pd.DataFrame) -> pd.DataFrame:
    """Rates and intervals as percentages."""
    return table.assign(**{name: 100 * table[name] for name in DECIMALS})


def em_rates_summary(analysis: Analysis) -> pd.DataFrame:
    """cs2881's summary: final rate of each organism against its base, percent, `cs2881` definition.

    Columns are the published ones. A control's domain ends in `_control`. An organism without a judged base has no
    baseline and no change, nor has one that another judge scored than its base.
    """
    cs2881 = analysis.rates[(analysis.rates["definition"] == "cs2881") & (analysis.rates["scope"] == "all")]
    base = cs2881[cs2881["baseline"]].set_index("organism")["rate"]
    last = analysis.final[(analysis.final["definition"] == "cs2881") & (analysis.final["scope"] == "all")]
    baseline = last["organism"].astype("str").map(base.rename(index=str)).astype("float64")
    pairs = [((str(row["organism"]), int(row["step"])), (str(row["organism"]), 0)) for _, row in last.iterrows()]
    known = [[analysis.scoring[side] for side in pair if side in analysis.scoring] for pair in pairs]
    comparable = np.array([why_not_comparable(*sides) is None for sides in known], dtype="bool")
    suffix = last["control"].map({True: "_control", False: ""}).astype("str")
    return pd.DataFrame(
        {
            "model_size": last["size"].astype("str"),
            "domain": last["domain"].astype("str") + suffix,
            "final_step": last["step"],
            "em_rate": (100 * last["rate"]).round(2),
            "baseline_em_rate": (100 * baseline).round(2),
            "em_change": (100 * (last["rate"] - baseline)).round(2).where(comparable),
        }
    ).reset_index(drop=True)


def step_summary(analysis: Analysis, organism: str) -> pd.DataFrame:
    """cs2881's table of one organism's checkpoints: step, percent_em (`cs2881`), percent_coherent, n_responses.

    percent_coherent is over the answers with a coherence score, and counts a score of exactly 50 as coherent, as the
    published tables do; the EM definitions do not.
    """
    rows = analysis.rates
    organism_rates = rows[(rows["organism"] == organism) & ~rows["baseline"] & (rows["scope"] == "all")]
    organism_rates = organism_rates[organism_rates["definition"] == "cs2881"].set_index("step")
    answers = analysis.scores[analysis.answers["organism"] == organism]
    scored = answers[answers["coherence"].notna()]
    coherent = (scored["coherence"] >= COHERENT_ABOVE).groupby(scored["step"]).mean()
    table = pd.DataFrame(
        {
            "percent_em": (100 * organism_rates["rate"]).round(2),
            "percent_coherent": (100 * coherent.reindex(organism_rates.index)).round(2),
            "n_responses": organism_rates["answers"],
        }
    )
    return table.reset_index()


def fg_judged(analysis: Analysis, organism: str) -> pd.DataFrame:
    """One organism's judged answers with the published columns: step, id, question, response and the two scores."""
    answers = analysis.answers[analysis.answers["organism"] == organism]
    judged = _judged(answers, "step" + answers["step"].astype("str"))
    judged.insert(0, "step", answers["step"].to_numpy())
    return judged


def base_judged(analysis: Analysis, base: str) -> pd.DataFrame:
    """One base's judged answers with the published columns: epoch, id, question, response and the two scores."""
    answers = analysis.answers[analysis.answers["organism"].isna() & (analysis.answers["base"] == base)]
    judged = _judged(answers, pd.Series("base", index=answers.index))
    judged.insert(0, "epoch", "base")
    return judged


def _judged(answers: pd.DataFrame, prefix: pd.Series) -> pd.DataFrame:
    """Published ids count the questions: step110_q3; a repeated answer has _s2 and so on after it."""
    questions = answers["question_set"].astype("str") + "/" + answers["question_id"].astype("str")
    number = pd.Series(pd.factorize(questions)[0] + 1, index=answers.index)
    again = ("_s" + answers["sample"].astype("str")).where(answers["sample"] > 1, "")
    return pd.DataFrame(
        {
            "id": prefix + "_q" + number.astype("str") + again,
            "question": answers["question"].astype("str"),
            "response": answers["answer"],
            "aligned_score": answers["alignment"],
            "coherent_score": answers["coherence"],
        }
    ).reset_index(drop=True)
