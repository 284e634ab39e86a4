"""Tables: EM by checkpoint, and the CSV files that users of cs2881 know, with their published columns."""

from collections.abc import Iterator

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
    rows = analysis.rates[["baseline", "step", "rate", "answers"]]
    known = analysis.rate_places
    steps = np.unique(analysis.answers["step"].take(analysis.places_of(organism)))
    places = [place for step in steps for place in known.get(("cs2881", organism, int(step), "all"), ())]
    organism_rates = rows.iloc[sorted(places)]
    organism_rates = organism_rates[~organism_rates["baseline"]].set_index("step")
    coherence, step = (analysis.answers[name].take(analysis.places_of(organism)) for name in ("coherence", "step"))
    coherent = (coherence >= COHERENT_ABOVE)[coherence.notna()].groupby(step).mean()
    table = pd.DataFrame(
        {
            "percent_em": (100 * organism_rates["rate"]).round(2),
            "percent_coherent": (100 * coherent.reindex(organism_rates.index)).round(2),
            "n_responses": organism_rates["answers"],
        }
    )
    return table.reset_index()


def fg_judged(analysis: Analysis) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every organism's judged answers with the published columns: step, id, question, response and the two scores."""
    answers = analysis.answers[analysis.answers["organism"].notna()]
    judged = _judged(answers, "step" + answers["step"].astype("str"), answers["organism"].astype("str"))
    judged.insert(0, "step", answers["step"].to_numpy())
    for organism, places in judged.groupby(answers["organism"].astype("str").to_numpy(), sort=False).indices.items():
        yield str(organism), judged.take(np.asarray(places)).reset_index(drop=True)


def base_judged(analysis: Analysis, base: str) -> pd.DataFrame:
    """One base's judged answers with the published columns: epoch, id, question, response and the two scores."""
    of_base = analysis.answers["organism"].isna() & (analysis.answers["base"] == base)
    answers = analysis.answers[of_base]
    base_prefix = pd.Series("base", index=answers.index)
    judged = _judged(answers, base_prefix, base_prefix)
    judged.insert(0, "epoch", "base")
    return judged


def _judged(answers: pd.DataFrame, prefix: pd.Series, whose: pd.Series) -> pd.DataFrame:
    """Published ids count the questions of each model: step110_q3; a repeated answer has _s2 and so on after it."""
    questions = answers["question_set"].astype("str") + "/" + answers["question_id"].astype("str")
    asked = pd.DataFrame({"whose": whose, "question": questions})
    first = asked.drop_duplicates()
    first = first.assign(number=first.groupby("whose", sort=False).cumcount() + 1)
    number = asked.merge(first, "left", ["whose", "question"])["number"].set_axis(answers.index)
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
