"""Several training seeds of one recipe: seeds and questions are both a sample, whose intervals and tests are here.

What the seeds differ by more than their questions' noise explains is an error of its own, with as few degrees of
freedom as there are seeds. Half an interval is the hypotenuse of what either error would give alone, and the p-value is
the level at which the interval reaches 0. Source of the parts: the random-effects analysis of variance of a two-way
layout; Howe 1974 for joining them; Satterthwaite 1946 for the degrees of freedom of two sides' seeds.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Difference, error_on_such, interval_around
from em_tasks.scorers.intervals import on_such

Numbers = NDArray[np.float64]


def seed_interval(k: Numbers, n: Numbers) -> tuple[float, float]:
    """Interval of the mean rate of such seeds on such questions.

    Args:
        k: Misaligned answers of each seed and question with its forms, shape (seeds, questions).
        n: Counted answers, above 0, same shape.

    Returns:
        Lower and upper end as fractions; NaN for fewer than two seeds or questions.
    """
    seeds, questions = k.shape
    if seeds < 2 or questions < 2:
        return float("nan"), float("nan")
    mean = float((k / n).mean())
    low, high = on_such(k.sum(axis=0), n.sum(axis=0))
    between = float(t.isf(ALPHA / 2, seeds - 1)) * np.sqrt(seed_variance(k / n))
    return (
        max(0.0, mean - float(np.hypot(max(mean - low, 0.0), between))),
        min(1.0, mean + float(np.hypot(max(high - mean, 0.0), between))),
    )


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
    questions = k_a.shape[1]
    effect = float((k_a / n_a).mean() - (k_b / n_b).mean())
    if questions < 2:
        return Difference(effect, float("nan"), float("nan"), float("nan"))
    summed = [x.sum(axis=0)[None] for x in (k_a, n_a, k_b, n_b)]
    over_questions, stretch = error_on_such(summed[0], summed[1], summed[2], summed[3])
    parts = [(seed_variance(k / n), len(k) - 1) for k, n in ((k_a, n_a), (k_b, n_b)) if len(k) > 1]
    between = sum(variance for variance, _ in parts)
    squares = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = between**2 / squares if squares else 1.0
    errors = float(over_questions[0]), float(np.sqrt(between))

    def half(level: float) -> float:
        return float(np.hypot(t.isf(level / 2, questions - 1) * errors[0], t.isf(level / 2, freedom) * errors[1]))

    low, high = interval_around(np.array([effect]), np.array([half(alpha)]), stretch)
    return Difference(effect, float(low[0]), float(high[0]), _level_at(abs(effect), half))


def _level_at(distance: float, half: Callable[[float], float]) -> float:
    """The level of error at which an interval reaches just so far: the p-value of the test that agrees with it."""
    smallest = 1e-14
    if distance == 0 or half(1.0) >= distance:
        return 1.0
    if half(smallest) <= distance:
        return smallest
    return float(np.exp(brentq(lambda log: half(float(np.exp(log))) - distance, np.log(smallest), 0.0)))


def seed_variance(rates: Numbers) -> float:
    """Variance of the mean over seeds that they bring beyond the residual of seeds x questions; at least 0.

    Args:
        rates: Rate of each seed and question, shape (seeds, questions), at least two of each.
    """
    seeds, questions = rates.shape
    means = rates.mean(axis=1)
    residual = rates - means[:, None] - rates.mean(axis=0) + rates.mean()
    of_residual = float(np.sum(residual**2)) / ((seeds - 1) * (questions - 1) * seeds * questions)
    return float(max(0.0, float(np.var(means, ddof=1)) / seeds - of_residual))
