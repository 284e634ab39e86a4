"""Two sides on the same questions: difference, interval and test, for both populations.

*On these questions* the test is the exact one within questions. The interval joins the sides' own (MOVER), and is held
to the test at 0: it excludes 0 exactly where p is below 5 %.

*On such questions* a question with its forms is one difference; interval and test are of Student's t over questions,
with two cautions, since few misaligned answers, or questions that all moved alike, tell little of other questions and
a plain t interval would have no width there: the spread is that of these questions and of one more without any
difference, and the standard error is never below half of what the two sides' own intervals give. Nothing is taken to be
surer of such questions than of these (`no_surer_than`).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from em_tasks.plugins.analysis.statistics.exact_test import within_questions_p
from em_tasks.scorers.intervals import beta_binomial, stratified_wilson

Numbers = NDArray[np.float64]

ALPHA = 0.05
FLOOR = 0.5
"""Least standard error on such questions, as a part of the sides' taken apart; chosen by benchmarks/coverage.py."""

UNSEEN = 1.0
"""Questions without any difference that are taken to have been missed when the spread over questions is estimated."""

PAIRED = 0.8
"""How far the correlation of the sides' rates over questions, itself an estimate, is believed."""


@dataclass(frozen=True)
class Sides:
    """Counts of two sides on the questions that both answered.

    Attributes:
        k_a: Misaligned answers of side a by question, shape (questions,).
        n_a: Counted answers of side a, above 0.
        k_b: The same of side b.
        n_b: The same of side b.
    """

    k_a: Numbers
    n_a: Numbers
    k_b: Numbers
    n_b: Numbers

    @property
    def rates(self) -> tuple[float, float]:
        """Mean of the questions' rates of either side."""
        return float(np.mean(self.k_a / self.n_a)), float(np.mean(self.k_b / self.n_b))

    def together(self, cluster: NDArray[np.int64]) -> "Sides":
        """The same with the forms of each question summed; `cluster` numbers the question of each, from 0."""
        every = np.stack([self.k_a, self.n_a, self.k_b, self.n_b])
        return Sides(*(every @ np.eye(int(cluster.max(initial=-1)) + 1)[cluster]))


@dataclass(frozen=True)
class Difference:
    """A difference of mean question rates, a minus b, with its interval and two-sided p-value; fractions."""

    effect: float
    low: float
    high: float
    p: float


def on_these(sides: Sides, alpha: float = ALPHA) -> Difference:
    """The difference on these questions, whose answers alone are a sample.

    Sources: `exact_test`; Zou and Donner 2008 for joining the sides' intervals (`scorers.intervals.stratified_wilson`).
    """
    rate_a, rate_b = sides.rates
    effect = rate_a - rate_b
    (low_a, high_a), (low_b, high_b) = (
        (low[0], high[0])
        for low, high in (
            stratified_wilson(sides.k_a, sides.n_a, True, alpha),
            stratified_wilson(sides.k_b, sides.n_b, True, alpha),
        )
    )
    low = effect - np.hypot(rate_a - low_a, high_b - rate_b)
    high = effect + np.hypot(high_a - rate_a, rate_b - low_b)
    p = within_questions_p(sides.k_a, sides.n_a, sides.k_b, sides.n_b)
    expected = (sides.k_a + sides.k_b) * sides.n_a / (sides.n_a + sides.n_b)
    if effect * float((sides.k_a - expected).sum()) <= 0:
        p = 1.0  # with unequal numbers of answers the test and the mean of rates may point apart: nothing is shown
    if p >= alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    elif effect > 0:
        low = max(low, 0.0)
    else:
        high = min(high, 0.0)
    return Difference(effect, max(float(low), -1.0), min(float(high), 1.0), p)


def on_such(sides: Sides, alpha: float = ALPHA) -> Difference:
    """The difference on such questions, a sample like their answers; `sides` by question with all its forms.

    NaN throughout, but for the effect, where there are fewer than two questions.
    """
    effect, low, high, p = on_such_many(sides.k_a[None], sides.n_a[None], sides.k_b[None], sides.n_b[None], alpha=alpha)
    return Difference(float(effect[0]), float(low[0]), float(high[0]), float(p[0]))


def on_such_many(
    k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """`on_such` of many experiments at once: arrays of shape (experiments, questions) to effect, low, high and p."""
    questions = k_a.shape[1]
    effect = np.asarray((k_a / n_a - k_b / n_b).mean(axis=1), dtype="float64")
    if questions < 2:
        unknown = np.full(len(effect), np.nan)
        return effect, unknown, unknown, unknown
    error, stretch = error_on_such(k_a, n_a, k_b, n_b)
    low, high = interval_around(effect, t.isf(alpha / 2, questions - 1) * error, stretch)
    return effect, low, high, np.asarray(2 * t.sf(np.abs(effect) / error, questions - 1), dtype="float64")


def error_on_such(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> tuple[Numbers, Numbers]:
    """Standard error of each difference on such questions, and how much further than down its interval reaches up."""
    questions = k_a.shape[1]
    difference = k_a / n_a - k_b / n_b
    effect = difference.mean(axis=1)
    below, above = _taken_apart(k_a, n_a, k_b, n_b)
    squares = ((difference - effect[:, None]) ** 2).sum(axis=1) + UNSEEN * questions / (questions + UNSEEN) * effect**2
    floor = FLOOR * (below + above) / 2 / t.isf(ALPHA / 2, questions - 1)
    error = np.maximum(np.sqrt(squares / (questions - 1) / questions), floor)
    return error, np.sqrt(np.maximum(above, 1e-9) / np.maximum(below, 1e-9))


def interval_around(effect: Numbers, half: Numbers, stretch: Numbers) -> tuple[Numbers, Numbers]:
    """The effect and half an interval to either side; its far end from 0 further where rates are near 0 or 1."""
    low = effect - half * np.where(effect < 0, np.maximum(1.0, 1 / stretch), 1.0)
    high = effect + half * np.where(effect > 0, np.maximum(1.0, stretch), 1.0)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def no_surer_than(such: Difference, these: Difference) -> Difference:
    """The difference on such questions, where nothing is surer of other questions than of those that were asked.

    With an answer or two a question the exact test and its interval within questions are the more careful ones.
    """
    if np.isnan(such.p):
        return such
    low, high = min(such.low, these.low), max(such.high, these.high)
    return replace(such, p=max(such.p, these.p), low=low, high=high)


def _taken_apart(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> tuple[Numbers, Numbers]:
    """How far the 95 % interval of each difference would reach down and up, from the sides' own intervals."""
    rates_a, rates_b = k_a / n_a, k_b / n_b
    (low_a, middle_a, high_a), (low_b, middle_b, high_b) = _low_median_high(k_a, n_a), _low_median_high(k_b, n_b)
    spread = rates_a.std(axis=1) * rates_b.std(axis=1)
    means = rates_a.mean(axis=1, keepdims=True), rates_b.mean(axis=1, keepdims=True)
    together = ((rates_a - means[0]) * (rates_b - means[1])).mean(axis=1)
    alike = np.clip(together / np.where(spread > 0, spread, 1.0), 0.0, 1.0) * PAIRED

    def joined(x: Numbers, y: Numbers) -> Numbers:
        x, y = np.maximum(x, 0.0), np.maximum(y, 0.0)
        return np.asarray(np.sqrt(np.maximum(0.0, x * x + y * y - 2 * alike * x * y)), dtype="float64")

    return joined(middle_a - low_a, high_b - middle_b), joined(high_a - middle_a, middle_b - low_b)


def _low_median_high(k: Numbers, n: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    low, high = beta_binomial(k, n, [ALPHA, 1.0])
    # Without a misaligned answer every lower end is 0, with nothing else every upper end 1.
    return low[:, 0], np.where(k.sum(axis=1) > 0, low[:, 1], high[:, 1]), high[:, 0]
