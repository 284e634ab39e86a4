"""Several training seeds of one recipe: seeds and questions are both a sample, whose intervals and tests are here.

What the seeds differ by more than their questions' noise explains is added, with as few degrees of freedom as there are
seeds, to the error that all their answers together have on such questions. Source of the parts: the random-effects
analysis of variance of a two-way layout; degrees of freedom of a sum by Satterthwaite 1946.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Difference, error_on_such, t_interval
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
    summed = tuple(x.sum(axis=0)[None] for x in (k_a, n_a, k_b, n_b))
    over_questions, stretch = error_on_such(*summed)
    variance = float(over_questions[0]) ** 2
    squares = variance**2 / (questions - 1)
    for k, n in ((k_a, n_a), (k_b, n_b)):
        if len(k) > 1:
            between = seed_variance(k / n)
            variance += between
            squares += between**2 / (len(k) - 1)
    freedom = variance**2 / squares
    error = np.sqrt(np.array([variance]))
    low, high = t_interval(np.array([effect]), error, stretch, freedom, alpha)
    return Difference(effect, float(low[0]), float(high[0]), float(2 * t.sf(abs(effect) / error[0], freedom)))


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
