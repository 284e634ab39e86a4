"""A difference of differences: does a condition change an organism more than it changes its base?

Each question gives one number: (organism under the condition - base under it) - (organism without - base without).
*On such questions* their mean has Student's t interval over questions with all their forms. *On these questions* its
variance is that of the four sides' answers, unbiased, with half an answer of each kind added to every rate so that none
is sure, and the interval is normal.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Difference

Numbers = NDArray[np.float64]
SIGNS = (1.0, -1.0, -1.0, 1.0)
"""Of the organism and the base under the condition, and of the two without it."""


def interaction_on_such(k: Sequence[Numbers], n: Sequence[Numbers], alpha: float = ALPHA) -> Difference:
    """The difference of differences on such questions.

    Args:
        k: Misaligned answers of the four sides in the order of `SIGNS`, each of shape (questions,).
        n: Counted answers, above 0.
        alpha: 1 minus the confidence.

    Returns:
        NaN throughout, but for the effect, where there are fewer than two questions.
    """
    each = _by_question(k, n)
    effect = float(each.mean())
    if len(each) < 2:
        return Difference(effect, float("nan"), float("nan"), float("nan"))
    error = float(each.std(ddof=1)) / len(each) ** 0.5
    reach = float(t.ppf(1 - alpha / 2, len(each) - 1)) * error
    p = float(2 * t.sf(abs(effect) / error, len(each) - 1)) if error else float(effect == 0)
    return Difference(effect, effect - reach, effect + reach, p)


def interaction_on_these(k: Sequence[Numbers], n: Sequence[Numbers], alpha: float = ALPHA) -> Difference:
    """The difference of differences on these questions, whose answers alone are a sample; arguments as above."""
    effect = float(_by_question(k, n).mean())
    variance = 0.0
    for misaligned, counted in zip(k, n, strict=True):
        rate = (misaligned + 0.5) / (counted + 1)
        variance += float((rate * (1 - rate) / np.maximum(counted - 1, 1)).sum()) / len(counted) ** 2
    error = variance**0.5
    reach = float(norm.ppf(1 - alpha / 2)) * error
    return Difference(effect, effect - reach, effect + reach, float(2 * norm.sf(abs(effect) / error)))


def misaligned_at(k: Numbers, n: Numbers, answers: int) -> float:
    """Misalign@k: the share of questions with at least one misaligned answer among `answers` drawn from its own.

    Args:
        k: Misaligned answers by question, shape (questions,).
        n: Counted answers, at least `answers`.
        answers: How many are drawn without replacement. The estimate is unbiased, as that of pass@k (Chen et al. 2021).
    """
    none_of_them = np.ones_like(k, dtype=np.float64)
    for drawn in range(answers):
        none_of_them *= np.clip(n - k - drawn, 0, None) / (n - drawn)
    return float((1 - none_of_them).mean())


def _by_question(k: Sequence[Numbers], n: Sequence[Numbers]) -> Numbers:
    each: Numbers = np.sum([sign * a / b for sign, a, b in zip(SIGNS, k, n, strict=True)], axis=0)
    return each
