"""EM rates: the answers of a group that are misaligned under a definition, with n, an interval and what was left out.

Every table, figure and finding takes its rates from here. A group without a single counted answer has no rate: it is
NaN, never 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from plugins.analysis.intervals import wilson
from scorers.definitions import COHERENT_ABOVE, DEFINITIONS, Definition

MAIN = ("seed", "betley")
"""The definitions that tables and figures lead with."""

COUNTS = ["answers", "unscored", "incoherent", "truncated"]


def rates(
    answers: pd.DataFrame, by: Sequence[str], definitions: Iterable[Definition] = tuple(DEFINITIONS.values())
) -> pd.DataFrame:
    """EM rates of every group under every definition.

    Args:
        answers: The frame of answers.
        by: Columns that make a group.
        definitions: Which definitions.

    Returns:
        A row a group and definition: the columns of `by`, `definition`, `k` misaligned of `n` counted answers, `rate`
        with `low` and `high` (Wilson 95 %, fractions), and how many of all `answers` are `unscored` (no alignment
        score), `incoherent` (scored at most 50) and `truncated` (null where nothing says so for any of them).
    """
    alignment = answers["alignment"].to_numpy(dtype="float64")
    coherence = answers["coherence"].to_numpy(dtype="float64")
    keys = list(by)
    base = answers[keys].assign(
        answers=1,
        unscored=np.isnan(alignment),
        incoherent=coherence <= COHERENT_ABOVE,
        truncated=answers["truncated"].astype("Int64"),
        mean_alignment=alignment,
        mean_coherence=coherence,
    )
    grouped = base.groupby(keys, observed=True, dropna=False)
    counts = grouped[COUNTS[:-1]].sum().astype("int64").join(grouped[["mean_alignment", "mean_coherence"]].mean())
    counts["truncated"] = grouped["truncated"].sum(min_count=1)
    tables = []
    for definition in definitions:
        counted = definition.counted(alignment, coherence)
        marked = answers[[*keys, "question_id"]].assign(
            k=definition.misaligned(alignment, coherence) & counted, n=counted
        )
        table = counts.join(marked.groupby(keys, observed=True, dropna=False)[["k", "n"]].sum().astype("int64"))
        if definition.per_question:
            questions = marked.groupby([*keys, "question_id"], observed=True, dropna=False)[["k", "n"]].sum()
            questions = questions[questions["n"] > 0]
            table["rate"] = (questions["k"] / questions["n"]).groupby(keys, observed=True, dropna=False).mean()
        else:
            table["rate"] = table["k"] / table["n"].where(table["n"] > 0)
        table["low"], table["high"] = wilson((table["rate"] * table["n"]).fillna(0.0), table["n"])
        tables.append(table.reset_index().assign(definition=definition.name))
    joined = pd.concat(tables, ignore_index=True)
    order = [*keys, "definition", "k", "n", "rate", "low", "high", *COUNTS, "mean_alignment", "mean_coherence"]
    return joined[order]


def scoped_rates(
    answers: pd.DataFrame, by: Sequence[str], definitions: Iterable[Definition] = tuple(DEFINITIONS.values())
) -> pd.DataFrame:
    """As `rates`, once for all questions (`scope` is `all`) and once for each scope apart."""
    chosen = tuple(definitions)
    whole = rates(answers, by, chosen).assign(scope="all")
    apart = rates(answers[answers["scope"].notna()], [*by, "scope"], chosen).astype({"scope": "str"})
    joined = pd.concat([whole, apart], ignore_index=True)
    return joined[[*by, "scope", *[name for name in joined.columns if name not in {*by, "scope"}]]]


def question_counts(answers: pd.DataFrame, by: Sequence[str], definition: Definition) -> pd.DataFrame:
    """Misaligned (`k`) and counted (`n`) answers of every group and question, for intervals over questions.

    Returns:
        A row a group and question that has at least one counted answer.
    """
    alignment = answers["alignment"].to_numpy(dtype="float64")
    coherence = answers["coherence"].to_numpy(dtype="float64")
    counted = definition.counted(alignment, coherence)
    marked = answers[[*by, "question_set", "question_id"]].assign(
        k=definition.misaligned(alignment, coherence) & counted, n=counted
    )
    table = marked.groupby([*by, "question_set", "question_id"], observed=True, dropna=False)[["k", "n"]].sum()
    return table[table["n"] > 0].astype("int64").reset_index()
