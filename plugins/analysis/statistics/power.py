"""How much would settle a difference on these questions: answers to each. For others, see `em plan`."""

import numpy as np
from scipy.stats import norm

from em_tasks.plugins.analysis.statistics.differences import ALPHA, Sides

POWER = 0.8
NORMALS = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) ** 2

SETTLED_BY_NOBODY = 1000
"""Beyond so many answers nobody settles a difference; tables say no more than that."""


def needed(sides: Sides) -> float:
    """What would settle a difference as large as the one seen, tested alone, two-sided at 5 % with 80 % power.

    Args:
        sides: Counts of both sides by item.

    Returns:
        Answers a question for the test on these questions (normal approximation; a question's rate is estimated with
        half an answer added to either side). Infinite where no difference was seen.
    """
    rate_a, rate_b = sides.rates
    effect = rate_a - rate_b
    if abs(effect) < 1e-9:
        return float("inf")
    factor = NORMALS / effect**2
    smooth_a, smooth_b = (sides.k_a + 0.5) / (sides.n_a + 1), (sides.k_b + 0.5) / (sides.n_b + 1)
    within = float(np.mean(smooth_a * (1 - smooth_a) + smooth_b * (1 - smooth_b)))
    return float(np.ceil(factor * within / len(sides.k_a)))
