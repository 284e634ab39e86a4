"""Several training seeds of one recipe: seeds and questions are both a sample, whose intervals and tests are here.

What the seeds differ by more than their questions' noise explains is an error of its own, with as few degrees of
freedom as there are seeds: the random-effects analysis of variance of a two-way layout. Errors are added in logits,
where rates of seeds lie evenly about their mean.

A difference has two errors: seeds differ from each other, and questions in what the sides differ by, of which what one
question's answers vary by from seed to seed is no part. Its interval joins those of both sides (MOVER; Zou and Donner
2008), and the p-value is the level at which it reaches 0. Of two recipes it reaches towards 0 at least most of what the
seeds' error alone would in rates: where seeds are very unlike, their logits say too much. Where a side has hardly a
misaligned answer, or seeds and questions came out alike, it says too much as well: `differences.no_surer_than` holds it
to what is known of these seeds on these questions.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Difference, Numbers4
from em_tasks.scorers.intervals import on_such_many

Numbers = NDArray[np.float64]

POWER_OF_RATE, POWER_OF_DIFFERENCE = 1.5, 1.25
"""Of variances in the degrees of freedom of their sum. With 2 (Satterthwaite 1946) the fewest degrees count too little
where theirs happens to come out small, with 1 too much; chosen by benchmarks/coverage.py."""

SMALLEST = 1e-14
"""Levels below are only known to be small."""

HALVINGS = 60

IN_RATES = 0.85
"""How much of two recipes' seeds' variance counts as one of rates, towards 0; chosen by benchmarks/coverage.py.

Against a base it would cost nine of ten dense cells and not bring false alarms to 5 %."""

LEAST_SEEDS = 3
"""With fewer nothing is claimed of such seeds: two have one degree of freedom (`benchmarks.coverage --only uneven`)."""

VERY_UNLIKE = 0.7
"""Standard deviation of seeds, in logits, from which on tests over them may raise more than 5 % of false alarms."""

TINY = 1e-300
"""Keeps 0 / 0 away."""


def seed_interval(k: Numbers, n: Numbers) -> tuple[float, float]:
    """Interval of the mean rate of such seeds on such questions.

    Args:
        k: Misaligned answers of each seed and question with its forms, shape (seeds, questions).
        n: Counted answers, above 0, same shape.

    Returns:
        Lower and upper end as fractions; NaN for fewer than `LEAST_SEEDS` seeds or two questions.
    """
    if len(k) < LEAST_SEEDS:
        return float("nan"), float("nan")
    low, high = seed_interval_many(k[None], n[None])
    return float(low[0]), float(high[0])


def seed_interval_many(k: Numbers, n: Numbers) -> tuple[Numbers, Numbers]:
    """`seed_interval` of many experiments at once, of two seeds or more: shape (experiments, seeds, questions).

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
    between = seed_variance(rates) / np.where(unlike, of_mean * (1 - of_mean), np.inf) ** 2
    quantile = float(t.isf(ALPHA / 2, questions - 1))
    ends = []
    for end, sign in ((low, -1), (high, 1)):
        inside = (end > 0) & (end < 1) & unlike
        reach = np.maximum(sign * (logit(np.where(inside, end, of_mean)) - logit(of_mean)), 0.0)
        over_questions = (reach / quantile) ** 2
        total = over_questions + between
        freedom = _freedom(POWER_OF_RATE, (over_questions, questions - 1), (between, seeds - 1))
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
    reach = _reach(k_a, n_a, k_b, n_b, effect)
    down, up = reach(alpha)
    p = _level_at(np.abs(effect), lambda level: np.where(effect > 0, *reach(level)))
    return effect, np.maximum(effect - down, -1.0), np.minimum(effect + up, 1.0), p


def _reach(
    k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, effect: Numbers
) -> Callable[[Numbers | float], tuple[Numbers, Numbers]]:
    """How far below and above each difference its interval reaches, as a function of the level of error."""
    rates = k_a / n_a, k_b / n_b
    over_seeds, over_questions, least, freedom = _variances(*rates, effect)
    means = [side.mean(axis=(1, 2)) for side in rates]
    # Half an answer from 0 and 1, where logits have no end.
    middles = [
        np.clip(mean, 0.5 / n.sum(axis=(1, 2)), 1 - 0.5 / n.sum(axis=(1, 2)))
        for mean, n in zip(means, (n_a, n_b), strict=True)
    ]
    # Both errors are taken to be alike in logits: the seeds' on each side that has several, the questions' on both.
    slopes = [(middle * (1 - middle)) ** 2 for middle in middles]
    of_seeds = [1 / side.shape[1] if side.shape[1] > 1 else 0.0 for side in rates]
    a_seed = over_seeds / np.maximum(of_seeds[0] * slopes[0] + of_seeds[1] * slopes[1], TINY)
    a_question = over_questions / (slopes[0] + slopes[1])
    in_rates = IN_RATES * over_seeds if min(of_seeds) > 0 else 0.0
    errors = [np.sqrt(share * a_seed + a_question) for share in of_seeds]

    def reach(level: Numbers | float) -> tuple[Numbers, Numbers]:
        quantile = t.isf(np.divide(level, 2), freedom)
        (below_a, above_a), (below_b, above_b) = (
            (
                np.maximum(mean - expit(logit(middle) - quantile * error), 0.0),
                np.maximum(expit(logit(middle) + quantile * error) - mean, 0.0),
            )
            for mean, middle, error in zip(means, middles, errors, strict=True)
        )
        # In rates: near 0 and 1 so little is more than logits know.
        shortest = quantile * np.sqrt(least)
        towards = quantile * np.sqrt(np.maximum(least, in_rates))
        down = np.maximum(np.hypot(below_a, above_b), np.where(effect < 0, shortest, towards))
        return down, np.maximum(np.hypot(above_a, below_b), np.where(effect > 0, shortest, towards))

    return reach


def _variances(rates_a: Numbers, rates_b: Numbers, effect: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """What seeds and questions bring to each difference's variance, the least it may be, and degrees of freedom."""
    questions = rates_a.shape[2]
    freedoms = [side.shape[1] - 1 for side in (rates_a, rates_b)]
    (seen_a, residual_a), (seen_b, residual_b) = (_seed_parts(side) for side in (rates_a, rates_b))
    over_seeds = seen_a + seen_b
    by_question = np.var(rates_a.mean(axis=1) - rates_b.mean(axis=1), axis=1, ddof=1) / questions
    # A seed's t is at most the number of questions, as if one more had been asked that showed nothing
    # (`differences.error_on_such`); that of several seeds' mean at most the root of their number times as much.
    least = (effect / questions) ** 2 / (max(freedoms) + 1)
    over_questions = np.maximum(by_question - residual_a - residual_b, 0.0)
    of_seeds = over_seeds**2 / (seen_a**2 / max(freedoms[0], 1) + seen_b**2 / max(freedoms[1], 1) + TINY)
    by_questions = np.maximum(over_questions, least - over_seeds), questions - 1
    freedom = _freedom(POWER_OF_DIFFERENCE, (over_seeds, np.maximum(of_seeds, 1.0)), by_questions)
    # Seeds of two recipes are taken to be equally unlike, so that those of both tell it (Satterthwaite's degrees then).
    several = [1 / (seeds + 1) for seeds in freedoms if seeds]
    both = sum(several) ** 2 / sum(
        share**2 / seeds for share, seeds in zip(several, filter(None, freedoms), strict=True)
    )
    return over_seeds, over_questions, least, np.maximum(freedom, min(both, questions - 1))


def _freedom(power: float, *variances: tuple[Numbers, Numbers | float]) -> Numbers:
    """Degrees of freedom of a sum of variances, each given with its own."""
    total, weighed = np.zeros(1), np.full(1, TINY)
    for variance, freedom in variances:
        total, weighed = total + variance, weighed + variance**power / freedom
    return np.asarray(total**power / weighed, dtype="float64")


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
    seen, of_residual = _seed_parts(rates)
    return np.maximum(0.0, seen - of_residual)


def seed_spread(k: Numbers, n: Numbers) -> float:
    """Standard deviation in logits of what seeds differ by beyond the residual; NaN where no rate lies between 0 and 1.

    Args:
        k: Misaligned answers, shape (seeds, questions), at least two of each.
        n: Counted answers, above 0, same shape.
    """
    mean = float((k / n).mean())
    if not 0 < mean < 1:
        return float("nan")
    return float(np.sqrt(len(k) * seed_variance(k / n))) / (mean * (1 - mean))


def _seed_parts(rates: Numbers) -> tuple[Numbers, Numbers]:
    """Variance of the mean over seeds as it is seen, and what the residual explains of it; 0 for a single seed."""
    seeds, questions = rates.shape[-2:]
    means = rates.mean(axis=-1, keepdims=True)
    if seeds == 1:
        return np.zeros(rates.shape[:-2]), np.zeros(rates.shape[:-2])
    residual = rates - means - rates.mean(axis=-2, keepdims=True) + rates.mean(axis=(-2, -1), keepdims=True)
    of_residual = (residual**2).sum(axis=(-2, -1)) / ((seeds - 1) * (questions - 1) * seeds * questions)
    return np.var(means[..., 0], axis=-1, ddof=1) / seeds, np.asarray(of_residual, dtype="float64")
