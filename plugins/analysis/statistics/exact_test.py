"""The exact test within questions: could two sides' answers have changed places?

Were both sides the same on every question, each question's misaligned answers would be spread over its answers by
chance, whatever the questions' rates. That is a test on these questions: it holds for any number of them, even one.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Numbers = NDArray[np.float64]

TIE = 1e-9


def within_questions_p(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> float:
    """Two-sided p-value of the exact stratified permutation test on the number of misaligned answers of one side.

    Given each question's total, the number on side a is hypergeometric; the sum's distribution is their convolution
    (the exact form of the Cochran-Mantel-Haenszel test; Mantel and Haenszel 1959). p is the probability of a sum at
    least as far from what is expected. It is 1 where no question could tell the sides apart.

    Args:
        k_a: Misaligned answers of side a by question, shape (questions,), whole numbers.
        n_a: Counted answers of side a.
        k_b: The same of side b.
        n_b: The same of side b.
    """
    total = k_a + k_b
    could_move = (total > 0) & (total < n_a + n_b) & (n_a > 0) & (n_b > 0)
    if not could_move.any():
        return 1.0
    k, n, m, other = (values[could_move].astype("int64") for values in (k_a, n_a, total, n_b))
    least, most = np.maximum(0, m - other), np.minimum(m, n)
    length = int((most - least).sum()) + 1
    spectrum = np.ones(length // 2 + 1, dtype="complex128")
    for of_question, answers, others, low, high in zip(m, n, other, least, most, strict=True):
        spectrum *= np.fft.rfft(_hypergeometric(of_question, answers, others, np.arange(low, high + 1)), length)
    probability = np.clip(np.fft.irfft(spectrum, length), 0.0, None)
    expected = float((m * n / (n + other)).sum())
    away = np.abs(np.arange(length) + int(least.sum()) - expected)
    p = float(probability[away >= abs(float(k.sum()) - expected) - TIE].sum() / probability.sum())
    # The transform's rounding is of this size; what lies below it is only known to be small.
    return min(1.0, max(p, 1e-14))


def _hypergeometric(m: int, n: int, other: int, at: NDArray[np.int64]) -> Numbers:
    def chosen(of: int, some: NDArray[np.int64] | int) -> Numbers:
        return np.asarray(gammaln(of + 1) - gammaln(np.asarray(some) + 1) - gammaln(of - np.asarray(some) + 1))

    return np.asarray(np.exp(chosen(n, at) + chosen(other, m - at) - chosen(n + other, m)), dtype="float64")
