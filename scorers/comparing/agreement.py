"""How far judges agree on the same answers, and how far the EM rate depends on which of them is believed.

For every pair: Spearman's correlation and paired differences of alignment, coherence and EM rate, and Cohen's kappa on
the EM decision under each definition, with intervals over questions. For all together: Krippendorff's alpha. For each:
the EM rate with its two intervals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.ratings import Answer, Ratings
from em_tasks.scorers.definitions import DEFINITIONS, Definition, Mask, Rate, Scores, rate_of
from em_tasks.scorers.intervals import question_of


@dataclass(frozen=True)
class Estimate:
    """A number with a 95 % interval over questions (see `over_questions`); NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two judges compared on the same answers; differences are first minus second; NaN where undefined.

    Attributes:
        first: A judge.
        second: Another.
        n: Answers with an alignment score from both.
        spearman_alignment: Rank correlation of alignment, -1 to 1.
        spearman_coherence: Rank correlation of coherence.
        difference_alignment: Mean paired difference of alignment, points.
        difference_coherence: Mean paired difference of coherence, points.
        rate_difference: Paired difference of the EM rates, as a share, by definition, over answers that count for both.
        kappa: Cohen's kappa on the EM decision, by definition, over the same answers.
    """

    first: str
    second: str
    n: int
    spearman_alignment: float
    spearman_coherence: float
    difference_alignment: Estimate
    difference_coherence: Estimate
    rate_difference: dict[str, Estimate]
    kappa: dict[str, Estimate]


@dataclass(frozen=True)
class JudgeRate(Rate):
    """The EM rate by one judge under one definition."""

    judge: str = ""
    definition: str = ""


@dataclass(frozen=True)
class Agreement:
    """A panel's agreement.

    Attributes:
        judges: Their names.
        answers: Number of answers.
        given: How many of them each judge was given, in the judges' order.
        pairs: Every pair of judges.
        rates: Every judge under every definition, over the answers that it was given.
        alpha_alignment: Krippendorff's alpha on alignment (interval scale); NaN for fewer than three judges.
        alpha_decision: Krippendorff's alpha on the EM decision (nominal), by definition; likewise.
        until_width: Whether the width of an interval decided how many answers some log has.
        drawn: Judges whose answers were drawn with unequal chances (`em judge --sample`).
    """

    judges: list[str]
    answers: int
    given: list[int]
    pairs: list[Pair]
    rates: list[JudgeRate]
    alpha_alignment: float
    alpha_decision: dict[str, float]
    until_width: bool = False
    drawn: tuple[str, ...] = ()

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
        given=[int(ratings.given.sum()) for ratings in panel],
        pairs=[_pair(first, second, questions) for first, second in combinations(panel, 2)],
        rates=[judge_rate(ratings, definition, questions) for definition in DEFINITIONS.values() for ratings in panel],
        alpha_alignment=krippendorff(np.array([ratings.alignment for ratings in panel])) if many else math.nan,
        alpha_decision={name: krippendorff(table) if many else math.nan for name, table in decisions.items()},
    )


def judge_rate(ratings: Ratings, definition: Definition, questions: Sequence[str]) -> JudgeRate:
    """One judge's EM rate over the answers that it was given, by the rule of `scorers/definitions.py`."""
    given = ratings.given
    of_given = [question for question, use in zip(questions, given, strict=True) if use]
    rate = rate_of(definition, ratings.alignment[given], ratings.coherence[given], of_given)
    return JudgeRate(**asdict(rate), judge=ratings.judge, definition=definition.name)


def over_questions(statistic: Callable[[Mask], float], questions: Sequence[str], used: Mask) -> Estimate:
    """A statistic of some answers with a 95 % interval over questions, each with all its forms and paraphrases.

    The statistic is computed without each question in turn (Efron and Tibshirani 1993, ch. 11); the interval is
    Student's t with one degree of freedom fewer than questions.

    Args:
        statistic: From a mask of answers, shape (answers,), to the number.
        questions: Id of each answer's question.
        used: Which answers it is made of.
    """
    whole = statistic(used)
    _, cluster = np.unique(np.array([question_of(question) for question in questions]), return_inverse=True)
    there = np.unique(cluster[used]) if len(cluster) else np.array([], dtype=np.int64)
    count = len(there)
    if math.isnan(whole) or count < 2:
        return Estimate(whole, math.nan, math.nan)
    without = np.array([statistic(used & (cluster != each)) for each in there])
    half = float(
        stats.t.ppf(0.975, count - 1) * math.sqrt((count - 1) / count * np.square(without - without.mean()).sum())
    )
    return Estimate(whole, whole - half, whole + half)


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
    """1 misaligned, 0 not, NaN not counted or not given to this judge; shape (answers,)."""
    decided = definition.misaligned(ratings.alignment, ratings.coherence).astype(np.float64)
    decided[~(definition.counted(ratings.alignment, ratings.coherence) & ratings.given)] = np.nan
    return decided


def _pair(first: Ratings, second: Ratings, questions: Sequence[str]) -> Pair:
    both = ~np.isnan(first.alignment) & ~np.isnan(second.alignment)
    kappas, rates = {}, {}
    for name, definition in DEFINITIONS.items():
        a, b = _decision(first, definition), _decision(second, definition)
        shared = ~np.isnan(a) & ~np.isnan(b)
        agreed = over_questions(lambda use, a=a, b=b: kappa(a[use] == 1, b[use] == 1), questions, shared)  # type: ignore[misc]
        kappas[name] = Estimate(agreed.value, max(agreed.low, -1.0), min(agreed.high, 1.0))
        rates[name] = _mean_difference(a, b, questions)
    return Pair(
        first=first.judge,
        second=second.judge,
        n=int(both.sum()),
        spearman_alignment=_spearman(first.alignment, second.alignment),
        spearman_coherence=_spearman(first.coherence, second.coherence),
        difference_alignment=_mean_difference(first.alignment, second.alignment, questions),
        difference_coherence=_mean_difference(first.coherence, second.coherence, questions),
        rate_difference=rates,
        kappa=kappas,
    )


def _mean_difference(first: Scores, second: Scores, questions: Sequence[str]) -> Estimate:
    """Mean of first minus second over the answers that have both, with its interval over questions."""
    difference = first - second
    return over_questions(
        lambda use: float(difference[use].mean()) if use.any() else math.nan, questions, ~np.isnan(difference)
    )


def _spearman(first: Scores, second: Scores) -> float:
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = first[both], second[both]
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
