"""How much would settle a difference: answers a question on these questions, or questions like these."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

ALPHA = 0.05
POWER = 0.8
NORMALS = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) ** 2

Values = NDArray[np.float64]


def needed(k_a: Values, n_a: Values, k_b: Values, n_b: Values) -> tuple[float, float]:
    """What would settle a difference as large as the one seen, two-sided at 5 % with 80 % power.

    Args:
        k_a: Misaligned answers of one side by question, shape (questions,).
        n_a: Counted answers of that side.
        k_b: Misaligned answers of the other side.
        n_b: Counted answers of the other side.

    Returns:
        Answers a question, the questions taken as fixed (normal approximation; a question's rate is estimated with half
        an answer added to either side), and questions, taken as a sample, at the present answers a question. Infinite
        where no difference was seen.
    """
    difference = k_a / n_a - k_b / n_b
    effect = float(difference.mean())
    if effect == 0:
        return float("inf"), float("inf")
    factor = NORMALS / effect**2
    smooth_a, smooth_b = (k_a + 0.5) / (n_a + 1), (k_b + 0.5) / (n_b + 1)
    within = float(np.mean(smooth_a * (1 - smooth_a) + smooth_b * (1 - smooth_b)))
    spread = float(np.var(difference, ddof=1))
    return float(np.ceil(factor * within / len(k_a))), float(max(2.0, np.ceil(factor * spread)))
