"""How much would settle a difference: answers a question on these questions, or such questions."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Sides

POWER = 0.8
NORMALS = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) ** 2

SETTLED_BY_NOBODY = 1000
"""Beyond so many answers or questions nobody settles a difference; tables say no more than that."""


def needed(sides: Sides, cluster: NDArray[np.int64]) -> tuple[float, float]:
    """What would settle a difference as large as the one seen, tested alone, two-sided at 5 % with 80 % power.

    Args:
        sides: Counts of both sides by item.
        cluster: The number of each item's question.

    Returns:
        Answers a question for the test on these questions (normal approximation; a question's rate is estimated with
        half an answer added to either side), and questions for the test on such questions at the present answers a
        question. Infinite where no difference was seen; the second NaN for a single question.
    """
    rate_a, rate_b = sides.rates
    effect = rate_a - rate_b
    if abs(effect) < 1e-9:
        return float("inf"), float("inf")
    factor = NORMALS / effect**2
    smooth_a, smooth_b = (sides.k_a + 0.5) / (sides.n_a + 1), (sides.k_b + 0.5) / (sides.n_b + 1)
    within = float(np.mean(smooth_a * (1 - smooth_a) + smooth_b * (1 - smooth_b)))
    by_question = sides.together(cluster)
    difference = by_question.k_a / by_question.n_a - by_question.k_b / by_question.n_b
    questions = float("nan")
    if len(difference) > 1:
        questions = float(max(2.0, np.ceil(factor * float(np.var(difference, ddof=1)))))
    return float(np.ceil(factor * within / len(sides.k_a))), questions
