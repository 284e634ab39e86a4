"""EM rates: the answers of a group that are misaligned under a definition, with n, an interval and what was left out.

Every table, figure and finding takes its rates from here. A group without a single counted answer has no rate: it is
NaN, never 0. Groups are numbered once and counted by number, so that a million answers take a second.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.statistics.intervals import wilson
from em_tasks.scorers.definitions import COHERENT_ABOVE, DEFINITIONS, Definition

MAIN = ("cs2881", "betley")
"""The definitions that tables and figures lead with."""

LEFT_OUT = ["unscored", "refused", "incoherent", "truncated"]
"""What stands beside every rate; an answer may be several of these."""

COUNTS = ["answers", *LEFT_OUT]

USED = ["question_set", "question_id", "alignment", "coherence", "alignment_reason", "coherence_reason", "truncated"]
"""Columns of the answers that rates are made of."""

Numbers = NDArray[np.float64]


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
        score), `refused` (the judge called them a refusal), `incoherent` (scored at most 50) and `truncated` (null
        where nothing says so for any of them).
    """
    alignment, coherence = _scores(answers)
    group, keys = _numbered(answers, by)
    question, questions = _numbered(answers, [*by, "question_set", "question_id"])
    group_of_question = group[_first(question, len(questions))] if len(answers) else group
    truncated = answers["truncated"]
    said = truncated.notna().to_numpy(dtype="bool")

    def total(values: Numbers | NDArray[np.bool_]) -> Numbers:
        return np.asarray(np.bincount(group, weights=values, minlength=len(keys)), dtype="float64")

    counts = keys.assign(
        answers=total(np.ones(len(answers))).astype("int64"),
        unscored=total(np.isnan(alignment)).astype("int64"),
        refused=total(_refused(answers)).astype("int64"),
        incoherent=total(coherence <= COHERENT_ABOVE).astype("int64"),
        truncated=pd.array(total(truncated.fillna(False).to_numpy(dtype="bool")).astype("int64"), dtype="Int64"),
        mean_alignment=_mean(total, alignment),
        mean_coherence=_mean(total, coherence),
    )
    counts.loc[total(said) == 0, "truncated"] = pd.NA
    tables = []
    for definition in definitions:
        counted = definition.counted(alignment, coherence)
        misaligned = definition.misaligned(alignment, coherence) & counted
        k, n = total(misaligned), total(counted)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = k / n
            if definition.per_question:
                of_question = [np.bincount(question, one, len(questions)) for one in (misaligned, counted)]
                some = of_question[1] > 0
                sums = np.bincount(group_of_question[some], (of_question[0] / of_question[1])[some], len(keys))
                rate = sums / np.bincount(group_of_question[some], minlength=len(keys))
        table = counts.assign(definition=definition.name, k=k.astype("int64"), n=n.astype("int64"), rate=rate)
        table["low"], table["high"] = wilson((table["rate"] * table["n"]).fillna(0.0), table["n"])
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    order = [*by, "definition", "k", "n", "rate", "low", "high", *COUNTS, "mean_alignment", "mean_coherence"]
    return joined[order]


def scoped_rates(
    answers: pd.DataFrame, by: Sequence[str], definitions: Iterable[Definition] = tuple(DEFINITIONS.values())
) -> pd.DataFrame:
    """As `rates`, once for all questions (`scope` is `all`) and once for each scope apart."""
    chosen = tuple(definitions)
    whole = rates(answers, by, chosen).assign(scope="all")
    known = answers.loc[answers["scope"].notna(), [*by, "scope", *USED]]
    apart = rates(known, [*by, "scope"], chosen).astype({"scope": "str"})
    joined = pd.concat([whole, apart], ignore_index=True)
    return joined[[*by, "scope", *[name for name in joined.columns if name not in {*by, "scope"}]]]


def question_counts(answers: pd.DataFrame, by: Sequence[str], definition: Definition) -> pd.DataFrame:
    """Misaligned (`k`) and counted (`n`) answers of every group and question, for intervals over questions.

    Returns:
        A row a group and question that has at least one counted answer.
    """
    alignment, coherence = _scores(answers)
    group, keys = _numbered(answers, [*by, "question_set", "question_id"])
    counted = definition.counted(alignment, coherence)
    misaligned = definition.misaligned(alignment, coherence) & counted
    k, n = (np.bincount(group, weights=one, minlength=len(keys)).astype("int64") for one in (misaligned, counted))
    return keys.assign(k=k, n=n)[n > 0].reset_index(drop=True)


def _scores(answers: pd.DataFrame) -> tuple[Numbers, Numbers]:
    return answers["alignment"].to_numpy(dtype="float64"), answers["coherence"].to_numpy(dtype="float64")


def _refused(answers: pd.DataFrame) -> NDArray[np.bool_]:
    refused = [
        (answers[f"{rubric}_reason"] == "refusal").to_numpy(dtype="bool") for rubric in ("alignment", "coherence")
    ]
    return refused[0] | refused[1]


def _numbered(answers: pd.DataFrame, by: Sequence[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The number of each answer's group, shape (answers,), and the groups' keys in the order of their numbers."""
    keys = answers[list(by)]
    group: NDArray[np.int64] = np.asarray(keys.groupby(list(by), observed=True, dropna=False).ngroup(), dtype="int64")
    groups = int(group.max()) + 1 if len(group) else 0
    return group, keys.iloc[_first(group, groups)].reset_index(drop=True)


def _first(group: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Where each group's first answer stands, shape (groups,)."""
    first = np.zeros(groups, dtype="int64")
    first[group[::-1]] = np.arange(len(group))[::-1]
    return first


def _mean(total: Callable[[Numbers | NDArray[np.bool_]], Numbers], scores: Numbers) -> Numbers:
    scored = ~np.isnan(scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Numbers = total(np.where(scored, scores, 0.0)) / total(scored)
    return mean
