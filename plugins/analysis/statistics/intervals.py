"""95 % intervals of rates: Wilson for questions taken as fixed, the bootstrap for questions taken as a sample.

Answers to one question are alike, so an interval that is to hold for other questions than those asked must resample
whole questions. Plain percentile intervals are too narrow for twenty questions; theirs are widened as Hesterberg does.
Training seeds are too few to resample: with them the interval is a t interval over seeds and questions.
"""

from functools import lru_cache

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


@lru_cache
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
    """Interval of the mean rate when training seeds and questions are both a sample, see `crossed_error`.

    Args:
        rates: Rate of each seed and question, shape (seeds, questions), no NaN.

    Returns:
        Lower and upper end as fractions; NaN for fewer than two seeds or questions. Where all rates are equal it is
        Wilson's with a question as the unit, as in `cluster_interval`.
    """
    seeds, questions = rates.shape
    if seeds < 2 or questions < 2:
        return float("nan"), float("nan")
    if np.ptp(rates) == 0:
        return cluster_interval(rates[0], np.ones(questions))
    error, freedom = crossed_error(rates)
    half = float(t.ppf(1 - (1 - CONFIDENCE) / 2, freedom)) * error
    mean = float(rates.mean())
    return max(mean - half, 0.0), min(mean + half, 1.0)


def seed_difference(a: Counts, b: Counts) -> tuple[float, float, float]:
    """Interval and p-value of a difference of mean rates on the same questions, seeds and questions both a sample.

    Args:
        a: Rate of each seed and question of one side, shape (seeds, questions), at least two of each.
        b: The same of the other side, with its own seeds; one row for a base.

    Returns:
        Lower and upper end of mean(a) - mean(b), and the two-sided p-value of the t test with the same error.
    """
    effect = float(a.mean() - b.mean())
    error, freedom = crossed_error(a, b)
    if error == 0:
        low, high = mean_interval(np.full(a.shape[1], effect))
        # Every seed and question moved alike: the sign test over questions, as where nothing varies no t test exists.
        return low, high, 1.0 if effect == 0 else float(2.0 ** (1 - a.shape[1]))
    half = float(t.ppf(1 - (1 - CONFIDENCE) / 2, freedom)) * error
    return max(effect - half, -1.0), min(effect + half, 1.0), float(2 * t.sf(abs(effect) / error, freedom))


def crossed_error(*sides: Counts) -> tuple[float, float]:
    """Standard error of a mean over seeds x questions, or of the difference of two, and its degrees of freedom.

    Seeds and questions are crossed random effects. The variance is that of the seeds' means plus that of the
    questions' less that of the residual, which both contain; none is taken to be smaller than the residual. Seeds of
    two sides are independent, the questions are the same. Source: the random-effects analysis of variance of a two-way
    layout, degrees of freedom by Satterthwaite 1946.

    Args:
        sides: One or two arrays of shape (seeds, questions); a side of one seed adds nothing to the seeds' variance.
    """
    questions = sides[0].shape[1]
    of_question = sides[0].mean(axis=0) - (sides[1].mean(axis=0) if len(sides) > 1 else 0.0)
    over_questions = float(np.var(of_question, ddof=1)) / questions
    over_seeds = residual = 0.0
    squares = over_questions**2 / (questions - 1)
    for rates in sides:
        seeds = len(rates)
        if seeds < 2:
            continue
        means = rates.mean(axis=1)
        left = rates - means[:, None] - rates.mean(axis=0) + rates.mean()
        own = float(np.var(means, ddof=1)) / seeds
        own_residual = float(np.sum(left**2)) / ((seeds - 1) * (questions - 1) * seeds * questions)
        over_seeds, residual = over_seeds + own, residual + own_residual
        squares += own**2 / (seeds - 1) + own_residual**2 / ((seeds - 1) * (questions - 1))
    variance = max(over_seeds, residual) + max(over_questions, residual) - residual
    return float(np.sqrt(variance)), max(1.0, variance**2 / squares) if squares else 1.0


@lru_cache(maxsize=4)
def _resampled(units: int) -> Counts:
    """How often each unit is drawn in each resample, shape (RESAMPLES, units); the same draws for every interval."""
    return np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype("float64")
