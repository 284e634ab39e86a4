"""How far judges agree on the same answers, and how far the EM rate depends on which of them is believed.

For every pair: Spearman's correlation and mean difference of alignment and coherence, and Cohen's kappa on the EM
decision under each definition. For all together: Krippendorff's alpha. For each: the EM rate with a 95 % interval.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.ratings import Answer, Ratings
from em_tasks.scorers.definitions import DEFINITIONS, Definition, Mask, Scores


@dataclass(frozen=True)
class Pair:
    """Two judges compared; differences are first minus second, in points; NaN where undefined.

    Attributes:
        first: A judge.
        second: Another.
        n: Answers with an alignment score from both.
        spearman_alignment: Rank correlation of alignment, -1 to 1.
        spearman_coherence: Rank correlation of coherence.
        difference_alignment: Mean difference of alignment.
        difference_coherence: Mean difference of coherence.
        kappa: Cohen's kappa on the EM decision, by definition, over answers that count for both.
    """

    first: str
    second: str
    n: int
    spearman_alignment: float
    spearman_coherence: float
    difference_alignment: float
    difference_coherence: float
    kappa: dict[str, float]


@dataclass(frozen=True)
class JudgeRate:
    """The EM rate by one judge under one definition, as shares, with a 95 % interval and the answers counted."""

    judge: str
    definition: str
    rate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """A panel's agreement.

    Attributes:
        judges: Their names.
        answers: Number of answers.
        pairs: Every pair of judges.
        rates: Every judge under every definition.
        alpha_alignment: Krippendorff's alpha on alignment (interval scale); NaN for fewer than three judges.
        alpha_decision: Krippendorff's alpha on the EM decision (nominal), by definition; likewise.
    """

    judges: list[str]
    answers: int
    pairs: list[Pair]
    rates: list[JudgeRate]
    alpha_alignment: float
    alpha_decision: dict[str, float]

    def rate_range(self, definition: str) -> tuple[float, float]:
        """Lowest and highest EM rate over the judges under one definition (shares)."""
        rates = [entry.rate for entry in self.rates if entry.definition == definition and not math.isnan(entry.rate)]
        return (min(rates), max(rates)) if rates else (math.nan, math.nan)


def agreement(answers: Sequence[Answer], panel: Sequence[Ratings]) -> Agreement:
    """Measures a panel of at least two judges.

    Raises:
        UserError: There are fewer than two judges, or two of one name.
    """
    names = [ratings.judge for ratings in panel]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"Agreement needs at least two judges with different names; these are {names or 'none'}.")
    questions = [answer.question_id for answer in answers]
    many = len(panel) > 2
    decisions = {
        name: np.array([_decision(ratings, definition) for ratings in panel])
        for name, definition in DEFINITIONS.items()
    }
    return Agreement(
        judges=names,
        answers=len(answers),
        pairs=[_pair(first, second) for first, second in combinations(panel, 2)],
        rates=[judge_rate(ratings, definition, questions) for definition in DEFINITIONS.values() for ratings in panel],
        alpha_alignment=krippendorff(np.array([ratings.alignment for ratings in panel])) if many else math.nan,
        alpha_decision={name: krippendorff(table) if many else math.nan for name, table in decisions.items()},
    )


def judge_rate(ratings: Ratings, definition: Definition, questions: Sequence[str]) -> JudgeRate:
    """One judge's EM rate: Wilson's interval over answers, or for the mean of questions Student's over questions."""
    counted = definition.counted(ratings.alignment, ratings.coherence)
    hits = definition.misaligned(ratings.alignment, ratings.coherence) & counted
    n, k = int(counted.sum()), int(hits.sum())
    if n == 0:
        return JudgeRate(ratings.judge, definition.name, math.nan, math.nan, math.nan, 0)
    if not definition.per_question:
        low, high = proportion_confint(k, n, method="wilson")
        return JudgeRate(ratings.judge, definition.name, k / n, float(low), float(high), n)
    by_question: dict[str, list[bool]] = defaultdict(list)
    for question, counts, hit in zip(questions, counted, hits, strict=True):
        if counts:
            by_question[question].append(bool(hit))
    means = np.array([np.mean(entries) for entries in by_question.values()])
    rate = float(means.mean())
    if len(means) < 2:
        return JudgeRate(ratings.judge, definition.name, rate, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    return JudgeRate(ratings.judge, definition.name, rate, max(0.0, rate - half), min(1.0, rate + half), n)


def kappa(first: Mask, second: Mask) -> float:
    """Cohen's kappa of two yes-no decisions on the same answers; NaN where both always say the same one thing."""
    if not len(first):
        return math.nan
    observed = float(np.mean(first == second))
    a, b = float(first.mean()), float(second.mean())
    expected = a * b + (1 - a) * (1 - b)
    return math.nan if math.isclose(expected, 1.0) else (observed - expected) / (1 - expected)


def krippendorff(values: Scores) -> float:
    """Krippendorff's alpha with squared differences (for yes-no values the same as the nominal one).

    alpha = 1 - D_o / D_e over values that can be paired (Krippendorff, Content Analysis, 2004, ch. 11).

    Args:
        values: Shape (judges, answers), NaN where a judge gave none. Answers with fewer than two values drop out.

    Returns:
        1 for full agreement, 0 for chance; NaN where all values are the same or nothing can be paired.
    """
    there = ~np.isnan(values)
    usable = there.sum(axis=0) >= 2
    columns = [values[there[:, at], at] for at in np.flatnonzero(usable)]
    if not columns:
        return math.nan
    pooled = np.concatenate(columns)
    # The sum of squared differences over ordered pairs of n values is 2 n^2 times their variance.
    observed = sum(2 * len(column) ** 2 * column.var() / (len(column) - 1) for column in columns) / len(pooled)
    expected = 2 * len(pooled) ** 2 * pooled.var() / (len(pooled) * (len(pooled) - 1))
    return math.nan if expected == 0 else float(1 - observed / expected)


def _decision(ratings: Ratings, definition: Definition) -> Scores:
    """1 misaligned, 0 not, NaN not counted; shape (answers,)."""
    decided = definition.misaligned(ratings.alignment, ratings.coherence).astype(np.float64)
    decided[~definition.counted(ratings.alignment, ratings.coherence)] = np.nan
    return decided


def _pair(first: Ratings, second: Ratings) -> Pair:
    both = ~np.isnan(first.alignment) & ~np.isnan(second.alignment)
    kappas = {}
    for name, definition in DEFINITIONS.items():
        a, b = _decision(first, definition), _decision(second, definition)
        shared = ~np.isnan(a) & ~np.isnan(b)
        kappas[name] = kappa(a[shared] == 1, b[shared] == 1)
    return Pair(
        first=first.judge,
        second=second.judge,
        n=int(both.sum()),
        spearman_alignment=_spearman(first.alignment, second.alignment),
        spearman_coherence=_spearman(first.coherence, second.coherence),
        difference_alignment=_difference(first.alignment, second.alignment),
        difference_coherence=_difference(first.coherence, second.coherence),
        kappa=kappas,
    )


def _spearman(first: Scores, second: Scores) -> float:
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = first[both], second[both]
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def _difference(first: Scores, second: Scores) -> float:
    difference = first - second
    return float(np.nanmean(difference)) if np.any(~np.isnan(difference)) else math.nan
