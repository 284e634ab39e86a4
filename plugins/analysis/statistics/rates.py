"""EM rates: the answers of a group that are misaligned under a definition, with n, an interval and what was left out.

Every table, figure and finding takes its rates from here. A group without a single counted answer has no rate: it is
NaN, never 0. Groups are numbered once and counted by number, so that a million answers take a second.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from em_tasks.plugins.analysis.answers.log_rows import NOT_ASKED
from em_tasks.plugins.log_contract import FIRST_PLOT
from em_tasks.scorers.definitions import COHERENT_ABOVE, DEFINITIONS, Definition
from em_tasks.scorers.intervals import (
    CONFIDENCE,
    beta_binomial,
    effective_answers,
    question_of,
    variance_parts,
    wilson,
)
from em_tasks.scorers.sequences import confidence_sequence

MAIN = ("betley", "cs2881")
"""The definitions that tables and figures lead with; findings are about the first."""

LEFT_OUT = ["unscored", "refused", "incoherent", "truncated"]
"""What stands beside every rate; an answer may be several of these."""

COUNTS = ["answers", *LEFT_OUT]

INTERVALS = ["low", "high", "such_low", "such_high", "missing", "least", "most"]
"""What stands beside every rate of how far it can be trusted."""

USED = [
    "question_set",
    "question_id",
    "topic",
    "alignment",
    "coherence",
    "alignment_reason",
    "coherence_reason",
    "truncated",
]
"""Columns of the answers that rates are made of."""

Numbers = NDArray[np.float64]


def rates(
    answers: pd.DataFrame,
    by: Sequence[str],
    definitions: Iterable[Definition] = tuple(DEFINITIONS.values()),
    such: Collection[str] = (),
) -> pd.DataFrame:
    """EM rates of every group under every definition.

    Args:
        answers: The frame of answers.
        by: Columns that make a group.
        definitions: Which definitions.
        such: Names of those whose intervals on such questions are wanted too; the others have NaN there.

    Returns:
        A row a group and definition: the columns of `by`, `definition`, `k` misaligned of `n` counted answers, `rate`
        with its 95 % intervals on these questions (`low`, `high`) and on such questions (`such_low`, `such_high`, of
        the mean of the questions' rates), all fractions; how many answers are `missing`, that is may be misaligned for
        all that is known, and the rate were all of them good (`least`) or bad (`most`); and how many of all `answers`
        are `unscored` (no alignment score), `refused` (the judge called them a refusal), `incoherent` (scored at most
        50) and `truncated` (null where nothing says so for any of them).
    """
    alignment, coherence = _scores(answers)
    group, keys = _numbered(answers, by)
    question, questions = _numbered(answers, [*by, "question_set", "question_id", "topic"])
    group_of_question = group[_first(question, len(questions))] if len(answers) else group
    cluster = cluster_of(questions)
    truncated = answers["truncated"]
    truncation_known = truncated.notna().to_numpy(dtype="bool")

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
    counts.loc[total(truncation_known) == 0, "truncated"] = pd.NA
    tables = []
    for definition in definitions:
        judged = _judged(answers, definition, group)
        counted = definition.counted(alignment, coherence) & judged
        misaligned = definition.misaligned(alignment, coherence) & counted
        hidden = may_be_misaligned(definition, alignment, coherence) & judged
        k, n, missing = total(misaligned), total(counted), total(hidden)
        of_question = np.stack(
            [np.bincount(question, flags, len(questions)) for flags in (misaligned, counted)]
        ).astype(float)
        estimate = _estimates(of_question[0], of_question[1], group_of_question, len(keys), definition.per_question)
        least, most = bounds(k, n, missing, total(hidden & ~counted))
        table = counts.assign(definition=definition.name, k=k.astype("int64"), n=n.astype("int64"), **estimate)
        table = table.assign(missing=missing.astype("int64"), least=least, most=most, such_low=np.nan, such_high=np.nan)
        if definition.name in such and len(keys):
            clustered = np.zeros((2, len(keys), cluster.max() + 1))
            for whole, part in zip(clustered, of_question, strict=True):
                np.add.at(whole, (group_of_question, cluster), part)
            low, high = beta_binomial(clustered[0], clustered[1], 1 - CONFIDENCE)
            # Nothing is surer of such questions than of these.
            table["such_low"] = np.minimum(low[:, 0], table["low"])
            table["such_high"] = np.maximum(high[:, 0], table["high"])
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    return joined[[*by, "definition", "k", "n", "rate", *INTERVALS, *COUNTS, "mean_alignment", "mean_coherence"]]


def _estimates(k: Numbers, n: Numbers, group: NDArray[np.int64], groups: int, per_question: bool) -> dict[str, Numbers]:
    """Rate and interval on these questions of every group, from its questions' counts."""
    some = n > 0
    k, n, group = k[some], n[some], group[some]

    def total(values: Numbers) -> Numbers:
        return np.asarray(np.bincount(group, weights=values, minlength=groups), dtype="float64")

    weight = np.ones(len(n)) if per_question else n
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = weight / total(weight)[group]
        rate = np.where(total(n) > 0, total(weight * k / n), np.nan)
        variance, alike = variance_parts(k, n, weight, rate[group])
        low, high = wilson(rate, effective_answers(rate, total(variance), total(alike)), 1 - CONFIDENCE)
    return {"rate": rate, "low": low[:, 0], "high": high[:, 0]}


def with_sequences(table: pd.DataFrame, sequential: NDArray[np.bool_]) -> pd.DataFrame:
    """The same with confidence sequences as the intervals of some rows, whose numbers of answers were not fixed.

    Args:
        table: See `rates`.
        sequential: Which rows.
    """
    rows = table[sequential]
    low, high = confidence_sequence(rows["rate"] * rows["n"], rows["n"])
    table = table.copy()
    table.loc[sequential, "low"], table.loc[sequential, "high"] = low, high
    table.loc[sequential, "such_low"] = np.minimum(rows["such_low"], low)
    table.loc[sequential, "such_high"] = np.maximum(rows["such_high"], high)
    return table


def bounds(k: Numbers, n: Numbers, missing: Numbers, uncounted: Numbers) -> tuple[Numbers, Numbers]:
    """The rate were every answer whose status a missing score hides good, and were all of them bad.

    Args:
        k: Misaligned answers.
        n: Counted ones.
        missing: Answers that may be misaligned for all that is known.
        uncounted: Those of them that are not among the counted.

    Returns:
        Two arrays of the same shape, NaN where there is no answer at all.
    """
    every = n + uncounted
    with np.errstate(invalid="ignore", divide="ignore"):
        return k / every, (k + missing) / every


def may_be_misaligned(definition: Definition, alignment: Numbers, coherence: Numbers) -> NDArray[np.bool_]:
    """Answers that a missing score keeps from being called misaligned: were it the worst, they would be. (answers,)."""
    worst = np.where(np.isnan(alignment), 0.0, alignment), np.where(np.isnan(coherence), 100.0, coherence)
    could = definition.misaligned(*worst) & definition.counted(*worst)
    return could & ~(definition.misaligned(alignment, coherence) & definition.counted(alignment, coherence))


def cluster_of(questions: pd.DataFrame) -> NDArray[np.int64]:
    """The number of each row's question, all forms and paraphrases alike, from 0; see `intervals.question_of`.

    Ids mean what their question set says, but for the published ones, whose forms come as sets of their own.
    """
    item, items = _numbered(questions, ["question_set", "question_id", "topic"])
    names = []
    for question_set, question_id, topic in items.astype("str").itertuples(index=False):
        question = question_of(question_id, topic)
        names.append(question if question in FIRST_PLOT else f"{question_set}/{question}")
    return np.asarray(pd.factorize(np.array(names, dtype="object"))[0], dtype="int64")[item]


def scoped_rates(
    answers: pd.DataFrame,
    by: Sequence[str],
    definitions: Iterable[Definition] = tuple(DEFINITIONS.values()),
    such: Collection[str] = (),
) -> pd.DataFrame:
    """As `rates`, for all questions (`scope` is `all`), those `outside` the own domain, and each scope apart."""
    chosen = tuple(definitions)
    columns = [*by, "scope", *USED]
    whole = rates(answers, by, chosen, such).assign(scope="all")
    known = answers.loc[answers["scope"].notna(), columns]
    apart = rates(known, [*by, "scope"], chosen, such).astype({"scope": "str"})
    outside = rates(known[known["scope"] != "in_domain"], by, chosen, such).assign(scope="outside")
    joined = pd.concat([whole, outside, apart], ignore_index=True)
    return joined[[*by, "scope", *[name for name in joined.columns if name not in {*by, "scope"}]]]


def question_counts(answers: pd.DataFrame, by: Sequence[str], definition: Definition) -> pd.DataFrame:
    """Misaligned (`k`), counted (`n`) and `missing` answers of every group and question (`uncounted`: see `bounds`).

    Returns:
        A row a group and question, with `scope` and the number of its `cluster` (see `cluster_of`).
    """
    alignment, coherence = _scores(answers)
    group, keys = _numbered(answers, [*by, "question_set", "question_id", "topic", "scope"])
    judged = _judged(answers, definition, _numbered(answers, by)[0])
    counted = definition.counted(alignment, coherence) & judged
    misaligned = definition.misaligned(alignment, coherence) & counted
    hidden = may_be_misaligned(definition, alignment, coherence) & judged
    k, n, missing, uncounted = (
        np.bincount(group, weights=flags, minlength=len(keys)).astype("int64")
        for flags in (misaligned, counted, hidden, hidden & ~counted)
    )
    return keys.assign(k=k, n=n, missing=missing, uncounted=uncounted, cluster=cluster_of(keys))


def _scores(answers: pd.DataFrame) -> tuple[Numbers, Numbers]:
    return answers["alignment"].to_numpy(dtype="float64"), answers["coherence"].to_numpy(dtype="float64")


def _judged(answers: pd.DataFrame, definition: Definition, group: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Answers that a definition can say something of, shape (answers,).

    A judge was asked about their alignment; where coherence decides too, about that, and it scored some of the group.
    """
    asked = (answers["alignment_reason"] != NOT_ASKED).to_numpy(dtype="bool")
    if not definition.coherent_only:
        return asked
    coherent_asked = (answers["coherence_reason"] != NOT_ASKED).to_numpy(dtype="bool")
    scored = np.bincount(group, weights=answers["coherence"].notna()) > 0
    return asked & coherent_asked & scored[group]


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


def mean_on_such(values: pd.Series, questions: pd.Series) -> tuple[float, float, float, int]:
    """The mean of scores, its 95 % interval over questions, and how many answers have a score.

    The mean over questions of each question's mean, with the t interval of the questions' means; no interval (NaN) for
    fewer than two questions.

    Args:
        values: Scores on any scale, NaN for none, shape (answers,).
        questions: The question of each answer, shape (answers,).
    """
    scored = values.notna()
    means = values[scored].groupby(questions[scored], observed=True).mean().to_numpy(np.float64)
    return *interval_of_mean(means), int(scored.sum())


def interval_of_mean(means: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """The mean of some numbers and its 95 % t interval; NaN for what they are too few for."""
    numbers = np.asarray(means, dtype=np.float64)
    if len(numbers) < 2:
        return (float(numbers[0]) if len(numbers) else math.nan), math.nan, math.nan
    mean, error = float(numbers.mean()), float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    reach = float(stats.t.ppf(0.975, len(numbers) - 1)) * error
    return mean, mean - reach, mean + reach
