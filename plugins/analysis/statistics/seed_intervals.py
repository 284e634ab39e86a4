"""Several training seeds of one recipe: seeds and questions are both a sample, whose intervals and tests are here.

What the seeds differ by more than their questions' noise explains is an error of its own, with as few degrees of
freedom as there are seeds: the random-effects analysis of variance of a two-way layout.

A rate's interval adds the errors in logits, where rates of seeds lie evenly about their mean, with Satterthwaite's
degrees of freedom (1946). A difference's is cautious, as a test stands on it: half of it is the hypotenuse of what
either error would give alone (Howe 1974), and the p-value is the level at which it reaches 0. With Satterthwaite's that
test raises 6 % false alarms. Where a side has hardly a misaligned answer it is at least that of these seeds on these
questions.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t

from em_tasks.plugins.analysis.statistics.differences import (
    ALPHA,
    Difference,
    Numbers4,
    error_on_such,
    interval_around,
    on_these_many,
    reach_away,
)
from em_tasks.scorers.intervals import on_such_many

Numbers = NDArray[np.float64]

SMALLEST = 1e-14
"""Levels below are only known to be small."""

HALVINGS = 60

FEW = 10
"""With fewer misaligned answers on a side, or fewer good ones, t alone does not decide; benchmarks/coverage.py."""

TINY = 1e-300
"""Keeps 0 / 0 away."""


def seed_interval(k: Numbers, n: Numbers) -> tuple[float, float]:
    """Interval of the mean rate of such seeds on such questions.

    Args:
        k: Misaligned answers of each seed and question with its forms, shape (seeds, questions).
        n: Counted answers, above 0, same shape.

    Returns:
        Lower and upper end as fractions; NaN for fewer than two seeds or questions.
    """
    low, high = seed_interval_many(k[None], n[None])
    return float(low[0]), float(high[0])


def seed_interval_many(k: Numbers, n: Numbers) -> tuple[Numbers, Numbers]:
    """`seed_interval` of many experiments at once: arrays of shape (experiments, seeds, questions).

    Without a misaligned answer, or with nothing else, seeds cannot be seen to differ: the interval is the questions'.
    """
    seeds, questions = k.shape[1:]
    if min(seeds, questions) < 2:
        return np.full(len(k), np.nan), np.full(len(k), np.nan)
    rates = k / n
    mean = rates.mean(axis=(1, 2))
    low, high = on_such_many(k.sum(axis=1), n.sum(axis=1))
    unlike = (mean > 0) & (mean < 1)
    of_mean = np.where(unlike, mean, 0.5)
    # The derivative of the logit makes errors of rates those of logits.
    squared = np.where(unlike, of_mean * (1 - of_mean), np.inf) ** 2
    between, seen = seed_variance(rates) / squared, np.var(rates.mean(axis=2), axis=1, ddof=1) / seeds / squared
    quantile = float(t.isf(ALPHA / 2, questions - 1))
    ends = []
    for end, sign in ((low, -1), (high, 1)):
        inside = (end > 0) & (end < 1) & unlike
        reach = np.maximum(sign * (logit(np.where(inside, end, of_mean)) - logit(of_mean)), 0.0)
        over_questions = (reach / quantile) ** 2
        total = over_questions + between
        # A variance less what noise explains is surer than one of as many seeds and less sure than the whole of it.
        freedom = total**2 / (over_questions**2 / (questions - 1) + between * seen / (seeds - 1) + TINY)
        half = t.isf(ALPHA / 2, np.maximum(freedom, seeds - 1)) * np.sqrt(total)
        ends.append(np.where(inside, expit(logit(of_mean) + sign * half), end))
    return ends[0], ends[1]


def seed_difference(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA) -> Difference:
    """A difference of mean rates on such questions between recipes, or a recipe and its base.

    Args:
        k_a: Misaligned answers of one side's seeds, shape (seeds, questions).
        n_a: Counted answers, above 0, same shape.
        k_b: The same of the other side, with its own seeds; one row for a base.
        n_b: The same of the other side.
        alpha: Level of error of the interval.

    Returns:
        The difference, interval and p-value; NaN for fewer than two questions.
    """
    numbers = seed_difference_many(k_a[None], n_a[None], k_b[None], n_b[None], alpha)
    return Difference(*(float(number[0]) for number in numbers))


def seed_difference_many(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA) -> Numbers4:
    """`seed_difference` of many experiments at once: arrays of shape (experiments, seeds, questions)."""
    questions = k_a.shape[2]
    effect = np.asarray((k_a / n_a).mean(axis=(1, 2)) - (k_b / n_b).mean(axis=(1, 2)), dtype="float64")
    if questions < 2:
        unknown = np.full(len(effect), np.nan)
        return effect, unknown, unknown, unknown
    summed = k_a.sum(axis=1), n_a.sum(axis=1), k_b.sum(axis=1), n_b.sum(axis=1)
    over_questions = error_on_such(*summed)
    between, squares = np.zeros(len(effect)), np.zeros(len(effect))
    for k, n in ((k_a, n_a), (k_b, n_b)):
        if k.shape[1] > 1:
            variance = seed_variance(k / n)
            between += variance
            squares += variance**2 / (k.shape[1] - 1)
    freedom = np.where(squares > 0, between**2 / np.where(squares > 0, squares, 1.0), 1.0)

    def reach(level: Numbers | float) -> Numbers:
        of_questions = t.isf(np.divide(level, 2), questions - 1) * over_questions
        return np.asarray(np.hypot(of_questions, t.isf(np.divide(level, 2), freedom) * np.sqrt(between)))

    towards = reach(alpha)
    away = np.hypot(reach_away(*summed, alpha), t.isf(alpha / 2, freedom) * np.sqrt(between))
    low, high = interval_around(effect, towards, np.maximum(towards, away))
    p = _level_at(np.abs(effect), reach)
    # Seeds have several times their base's answers: where hardly any is misaligned the base has none at all, and the t
    # is far too bold. The test within questions is not, and an interval goes with its test.
    k, n = (np.stack([side.sum(axis=1) for side in sides]) for sides in (summed[::2], summed[1::2]))
    few = np.minimum(k, n - k).min(axis=0) < FEW
    p = np.where(few, np.maximum(p, on_these_many(*summed)[3]), p)
    low, high = np.where(p < alpha, low, np.minimum(low, 0.0)), np.where(p < alpha, high, np.maximum(high, 0.0))
    return effect, low, high, p


def _level_at(distance: Numbers, reach: Callable[[Numbers], Numbers]) -> Numbers:
    """The level of error at which each interval reaches just so far: the p-value of the test that agrees with it."""
    # The logarithm of the level is halved in: between what is as good as 0 and 1.
    low, high = np.full(len(distance), np.log(SMALLEST)), np.zeros(len(distance))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_far = reach(np.exp(middle)) > distance
        low, high = np.where(too_far, middle, low), np.where(too_far, high, middle)
    return np.where(distance == 0, 1.0, np.exp(high))


def seed_variance(rates: Numbers) -> Numbers:
    """Variance of the mean over seeds that they bring beyond the residual of seeds x questions; at least 0.

    Args:
        rates: Rate of each seed and question, shape (..., seeds, questions), at least two of each.
    """
    seeds, questions = rates.shape[-2:]
    means = rates.mean(axis=-1, keepdims=True)
    residual = rates - means - rates.mean(axis=-2, keepdims=True) + rates.mean(axis=(-2, -1), keepdims=True)
    of_residual = (residual**2).sum(axis=(-2, -1)) / ((seeds - 1) * (questions - 1) * seeds * questions)
    return np.asarray(np.maximum(0.0, np.var(means[..., 0], axis=-1, ddof=1) / seeds - of_residual), dtype="float64")
