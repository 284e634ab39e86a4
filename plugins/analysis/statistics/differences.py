"""Two sides on the same questions: difference, interval and test, for both populations.

*On these questions* the test is the one within questions. The interval joins the sides' own (MOVER), and is held to the
test at 0: it excludes 0 exactly where p is below 5 %. That test weighs questions by their answers. Where these are not
equally many it may point where the mean of the rates does not, so there p is at least the level at which the interval
reaches 0.

*On such questions* a question with its forms is one difference; test and interval are Student's t over questions, never
surer than if a question without any difference had been missed: of eight that all changed as one, another may not have.
Towards 0 the interval reaches as far as the test says. Away from 0 few misaligned answers tell little of how large a
difference may be, so there it reaches at least as far as on these questions, and most of what the two sides' own
intervals for such questions allow.

What is uncertain of these questions is uncertain of such: `no_surer_than` holds the second to the first, so that its
interval contains the other and its p is never smaller.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from em_tasks.plugins.analysis.statistics.exact_test import within_questions_many
from em_tasks.scorers.intervals import beta_binomial, stratified_wilson

Numbers = NDArray[np.float64]
Numbers4 = tuple[Numbers, Numbers, Numbers, Numbers]

ALPHA = 0.05
AWAY = 0.8
"""How much of the sides' own intervals the end away from 0 has to reach; chosen by benchmarks/coverage.py."""

DEVIATIONS = np.linspace(0.0, 8.0, 161)
"""Normal deviates between which the level of a joined interval is looked for."""

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

    @property
    def as_many(self) -> Numbers4:
        """The same as arrays of one difference."""
        return np.array([self.effect]), np.array([self.low]), np.array([self.high]), np.array([self.p])


def on_these(sides: Sides, alpha: float = ALPHA) -> Difference:
    """The difference on these questions, whose answers alone are a sample."""
    numbers = on_these_many(sides.k_a[None], sides.n_a[None], sides.k_b[None], sides.n_b[None], alpha)
    return Difference(*(float(number[0]) for number in numbers))


def on_these_many(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA) -> Numbers4:
    """`on_these` of many experiments at once: arrays of shape (experiments, questions) to effect, low, high and p.

    Sources: `exact_test`; Zou and Donner 2008 for joining the sides' intervals (`scorers.intervals.stratified_wilson`).
    """
    effect, low, high = joined_on_these(k_a, n_a, k_b, n_b, alpha)
    p = within_questions_many(k_a, n_a, k_b, n_b)
    unlike = np.flatnonzero(np.ptp(n_a, axis=1) + np.ptp(n_b, axis=1))
    if unlike.size:
        p[unlike] = np.maximum(p[unlike], _joined_p(k_a[unlike], n_a[unlike], k_b[unlike], n_b[unlike]))
    expected = (k_a + k_b) * n_a / (n_a + n_b)
    # Then the two may even point apart: nothing is shown.
    p = np.where(effect * (k_a - expected).sum(axis=1) <= 0, 1.0, p)
    low = np.where(p >= alpha, np.minimum(low, 0.0), np.where(effect > 0, np.maximum(low, 0.0), low))
    high = np.where(p >= alpha, np.maximum(high, 0.0), np.where(effect > 0, high, np.minimum(high, 0.0)))
    return effect, low, high, p


def on_such(sides: Sides, alpha: float = ALPHA) -> Difference:
    """The difference on such questions, a sample like their answers; `sides` by question with all its forms.

    NaN throughout, but for the effect, where there are fewer than two questions.
    """
    effect, low, high, p = on_such_many(sides.k_a[None], sides.n_a[None], sides.k_b[None], sides.n_b[None], alpha=alpha)
    return Difference(float(effect[0]), float(low[0]), float(high[0]), float(p[0]))


def on_such_many(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA) -> Numbers4:
    """`on_such` of many experiments at once: arrays of shape (experiments, questions) to effect, low, high and p."""
    questions = k_a.shape[1]
    effect = np.asarray((k_a / n_a - k_b / n_b).mean(axis=1), dtype="float64")
    if questions < 2:
        unknown = np.full(len(effect), np.nan)
        return effect, unknown, unknown, unknown
    error = error_on_such(k_a, n_a, k_b, n_b)
    towards = t.isf(alpha / 2, questions - 1) * error
    away = np.maximum(towards, reach_away(k_a, n_a, k_b, n_b, alpha))
    p = np.where(effect == 0, 1.0, 2 * t.sf(np.abs(effect) / np.where(error > 0, error, 1.0), questions - 1))
    return effect, *interval_around(effect, towards, away), p


def no_surer_than(such: Difference, these: Difference) -> Difference:
    """A difference on such questions, held to that on these: see `no_surer_than_many`."""
    numbers = no_surer_than_many(such.as_many, these.as_many)
    return Difference(*(float(number[0]) for number in numbers))


def no_surer_than_many(such: Numbers4, these: Numbers4) -> Numbers4:
    """Differences on such questions with intervals that contain those on these, and with p at least theirs.

    Two intervals that each exclude 0 exactly where their p is below the level leave one that does. Where the two
    differences point apart, as questions weigh otherwise in each, nothing is shown. NaN where nothing is said of such.
    """
    effect, low, high, p = such
    effect_on_these, low_on_these, high_on_these, p_on_these = these
    least = np.where(effect * effect_on_these < 0, 1.0, p_on_these)
    return effect, np.minimum(low, low_on_these), np.maximum(high, high_on_these), np.maximum(p, least)


def error_on_such(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> Numbers:
    """Standard error of each difference on such questions, shape (experiments,); above 0 where the difference is not.

    That of a mean over questions, but t is never above their number: that is what it were if all had differed by the
    same and one more had been asked that did not.
    """
    questions = k_a.shape[1]
    difference = k_a / n_a - k_b / n_b
    spread = difference.std(axis=1, ddof=1) / np.sqrt(questions)
    return np.asarray(np.maximum(spread, np.abs(difference.mean(axis=1)) / questions), dtype="float64")


def reach_away(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float = ALPHA) -> Numbers:
    """How far the end of each interval that is away from 0 has to lie from the difference, shape (experiments,)."""
    effect, low, high = joined_on_these(k_a, n_a, k_b, n_b, alpha)
    on_these_questions = np.where(effect > 0, high - effect, effect - low)
    on_these_questions = np.where(effect == 0, np.maximum(high, -low), on_these_questions)
    below, above = _taken_apart(k_a, n_a, k_b, n_b)
    freedom = k_a.shape[1] - 1
    level = t.isf(alpha / 2, freedom) / t.isf(ALPHA / 2, freedom)
    return np.asarray(np.maximum(on_these_questions, AWAY * level * (below + above) / 2), dtype="float64")


def interval_around(effect: Numbers, towards: Numbers, away: Numbers) -> tuple[Numbers, Numbers]:
    """The ends of intervals that reach so far towards 0 and away from it; of no difference, away to either side."""
    low = effect - np.where(effect > 0, towards, away)
    high = effect + np.where(effect < 0, towards, away)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def joined_on_these(
    k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: float
) -> tuple[Numbers, Numbers, Numbers]:
    """Each difference, and the ends of the interval on these questions that joins the sides' own."""
    effect, down, up = _joined(k_a, n_a, k_b, n_b, np.array([alpha]))
    return effect, np.maximum(effect - down[:, 0], -1.0), np.minimum(effect + up[:, 0], 1.0)


def _joined_p(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> Numbers:
    """The level at which the joined interval reaches 0, shape (experiments,)."""
    effect, down, up = _joined(k_a, n_a, k_b, n_b, 2 * norm.sf(DEVIATIONS))
    reach = np.where(effect[:, None] > 0, down, up)
    deviations = [np.interp(size, ends, DEVIATIONS) for size, ends in zip(np.abs(effect), reach, strict=True)]
    return np.asarray(2 * norm.sf(deviations), dtype="float64")


def _joined(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers, alpha: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Each difference, and how far its joined intervals of these levels reach down and up: (experiments, levels)."""
    rate_a, rate_b = (k_a / n_a).mean(axis=1), (k_b / n_b).mean(axis=1)
    (low_a, high_a), (low_b, high_b) = (stratified_wilson(k, n, True, alpha) for k, n in ((k_a, n_a), (k_b, n_b)))
    down = np.hypot(rate_a[:, None] - low_a, high_b - rate_b[:, None])
    up = np.hypot(high_a - rate_a[:, None], rate_b[:, None] - low_b)
    return np.asarray(rate_a - rate_b, dtype="float64"), down, up


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
    if len(k) > 1:
        return _ends(k, n)
    low, median, high = _ends_of_side(*(np.asarray(counts, dtype="float64").tobytes() for counts in (k, n)))
    return np.array([low]), np.array([median]), np.array([high])


@lru_cache(maxsize=10_000)
def _ends_of_side(k: bytes, n: bytes) -> tuple[float, float, float]:
    """Kept: an organism's answers to the same questions stand on one side of many comparisons."""
    low, median, high = _ends(*(np.frombuffer(counts, dtype="float64")[None] for counts in (k, n)))
    return float(low[0]), float(median[0]), float(high[0])


def _ends(k: Numbers, n: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    low, high = beta_binomial(k, n, [ALPHA, 1.0])
    # Without a misaligned answer every lower end is 0, with nothing else every upper end 1.
    return low[:, 0], np.where(k.sum(axis=1) > 0, low[:, 1], high[:, 1]), high[:, 0]
