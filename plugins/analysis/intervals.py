"""95 % intervals of rates: Wilson for questions taken as fixed, the bootstrap for questions or seeds taken as a sample.

Answers to one question are alike, so an interval that is to hold for other questions than those asked must resample
whole questions. Plain percentile intervals are too narrow for twenty questions; theirs are widened as Hesterberg does.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 2881

Counts = NDArray[np.float64]


def wilson(k: pd.Series, n: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Wilson score interval of k out of n, as fractions; NaN where n is 0.

    Source: Wilson 1927, through statsmodels. k may be fractional (a mean of per-question rates times n).
    """
    some = n > 0
    low, high = proportion_confint(k[some], n[some], alpha=1 - CONFIDENCE, method="wilson")
    empty = pd.Series(np.nan, index=n.index, dtype="float64")
    lower, upper = empty.copy(), empty.copy()
    lower[some], upper[some] = np.maximum(low, 0.0), np.minimum(high, 1.0)
    return lower, upper


def expanded_levels(units: int) -> tuple[float, float]:
    """Percentiles that make a bootstrap interval of `units` resampled units as wide as a t interval.

    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5.3 (expanded percentile).
    """
    tail = float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf(1 - (1 - CONFIDENCE) / 2, units - 1)))
    return tail, 1 - tail


def cluster_interval(k: Counts, n: Counts, per_question: bool = False) -> tuple[float, float]:
    """Interval of a rate when the questions are a sample: bootstrap over questions.

    Args:
        k: Misaligned answers of each question, shape (questions,).
        n: Counted answers of each question, above 0, same shape.
        per_question: Whether the rate is the mean of the questions' rates.

    Returns:
        Lower and upper end as fractions. Where every question has the same rate the bootstrap is blind (twenty zeros
        would give an interval of no width); then it is Wilson's with a question as the unit. NaN for one question.
    """
    questions = len(k)
    if questions < 2:
        return float("nan"), float("nan")
    share = k / n
    if np.ptp(share) == 0:
        low, high = proportion_confint(share[0] * questions, questions, alpha=1 - CONFIDENCE, method="wilson")
        return float(max(low, 0.0)), float(min(high, 1.0))
    weights = _resampled(questions)
    rates = weights @ share / questions if per_question else (weights @ k) / (weights @ n)
    low, high = np.quantile(rates, expanded_levels(questions))
    return float(low), float(high)


def mean_interval(values: Counts) -> tuple[float, float]:
    """Interval of the mean of a value a question (a difference of rates, -1 to 1): bootstrap over questions.

    Where all values are equal it is the interval of Agresti and Min 2005 for paired proportions, half an answer added
    to each cell, centred on the value. NaN for fewer than two questions.
    """
    questions = len(values)
    if questions < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        half = float(norm.ppf(0.975)) * np.sqrt(1.0) / (questions + 2)
        return max(-1.0, float(values[0]) - half), min(1.0, float(values[0]) + half)
    means = _resampled(questions) @ values / questions
    low, high = np.quantile(means, expanded_levels(questions))
    return float(low), float(high)


def seed_interval(rates: Counts) -> tuple[float, float]:
    """Interval of the mean rate when training seeds and questions are both a sample: bootstrap over both.

    Args:
        rates: Rate of each seed and question, shape (seeds, questions), no NaN.

    Returns:
        Lower and upper end as fractions; NaN for fewer than two seeds. Widened for the smaller of the two numbers, and
        on the safe side: resampling both counts the answers' own chance twice.
    """
    seeds, questions = rates.shape
    if seeds < 2 or questions < 2:
        return float("nan"), float("nan")
    over_seeds = _resampled(seeds, SEED + 1) / seeds
    over_questions = _resampled(questions) / questions
    means = np.einsum("bs,sq,bq->b", over_seeds, rates, over_questions)
    low, high = np.quantile(means, expanded_levels(min(seeds, questions)))
    return float(max(low, 0.0)), float(min(high, 1.0))


def _resampled(units: int, seed: int = SEED) -> Counts:
    """How often each unit is drawn in each resample, shape (RESAMPLES, units)."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype("float64")
