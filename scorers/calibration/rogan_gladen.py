"""A rate corrected for the errors of the judge that decided it, with an interval that holds both kinds of error."""

import math

from scipy.special import ndtri


def corrected_interval(
    k: float, n: float, hit_bad: int, bad: int, passed_good: int, good: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The rate that a judge of known errors would have found without them, and its interval.

    The estimate is Rogan and Gladen's (1978): (p + Sp - 1) / (Se + Sp - 1). The interval is Lang and Reiczigel's
    (2014): sampling of the answers and of the calibration's, each pulled a little to the middle, and a shift.

    Args:
        k: Misaligned answers.
        n: Counted answers, or the effective number where questions are alike.
        hit_bad: Bad answers of the calibration that the judge found.
        bad: Bad answers of the calibration.
        passed_good: Good answers that it let through.
        good: Good answers.
        confidence: Share of experiments that the interval is to cover, 0-1.

    Returns:
        Rate, lower and upper end as fractions; NaN, 0 and 1 where the judge tells nothing (Se + Sp is at most 1), or
        nothing was counted.
    """
    if n <= 0 or bad <= 0 or good <= 0 or hit_bad / bad + passed_good / good <= 1:
        return math.nan, 0.0, 1.0
    youden = hit_bad / bad + passed_good / good - 1
    rate = min(1.0, max(0.0, (k / n + passed_good / good - 1) / youden))
    z = float(-ndtri((1 - confidence) / 2))
    answers, bads, goods = n + z * z, bad + 2.0, good + 2.0
    p, se, sp = (k + z * z / 2) / answers, (hit_bad + 1) / bads, (passed_good + 1) / goods
    if se + sp <= 1:
        return rate, 0.0, 1.0
    middle = (p + sp - 1) / (se + sp - 1)
    missed, alarmed = se * (1 - se) / bads, sp * (1 - sp) / goods
    shift = 2 * z * z * (middle * missed - (1 - middle) * alarmed)
    variance = p * (1 - p) / answers + middle**2 * missed + (1 - middle) ** 2 * alarmed
    half = z * math.sqrt(variance) / (se + sp - 1)
    low, high = (min(1.0, max(0.0, middle + shift + side * half)) for side in (-1, 1))
    return rate, min(low, rate), max(high, rate)
