"""The test within questions: could two sides' answers have changed places?

Were both sides the same on every question, each question's misaligned answers would be spread over its answers by
chance, whatever the questions' rates. That is a test on these questions: it holds for any number of them, even one.
Its p-value is the mid-p of the exact distribution: with few answers the exact one raises far fewer false alarms than
the 5 % that are allowed, the mid-p about as many (benchmarks/coverage.py), and finds more.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import gammaln

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]

TIE = 1e-9
_CELLS_AT_ONCE = 64


def within_questions_p(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> float:
    """`within_questions_many` of one experiment: arrays of shape (questions,)."""
    return float(within_questions_many(k_a[None], n_a[None], k_b[None], n_b[None])[0])


def within_questions_many(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> Numbers:
    """Two-sided p-values of the exact stratified permutation test on the number of misaligned answers of one side.

    Given each question's total, the number on side a is hypergeometric; the sum's distribution is their convolution
    (the exact form of the Cochran-Mantel-Haenszel test; Mantel and Haenszel 1959). p is the probability of a sum
    farther from what is expected, and half that of one just as far (mid-p; Lancaster 1961; Hirji, Tan and Elashoff
    1991). It is 1 where no question could tell the sides apart.

    Args:
        k_a: Misaligned answers of side a, shape (experiments, questions), whole numbers.
        n_a: Counted answers of side a.
        k_b: The same of side b.
        n_b: The same of side b.
    """
    p = np.ones(len(k_a))
    for start in range(0, len(k_a), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        p[part] = _of_some(*(np.asarray(x[part], dtype="int64") for x in (k_a, n_a, k_a + k_b, n_b)))
    return p


def _of_some(k: Counts, n: Counts, m: Counts, other: Counts) -> Numbers:
    """p-values from side a's misaligned answers, its answers, both sides' misaligned answers and b's answers."""
    least, most = np.maximum(0, m - other), np.minimum(m, n)
    length = next_fast_len(int((most - least).sum(axis=1).max()) + 1, real=True)
    kinds, kind = np.unique(np.stack([m, n, other], axis=-1).reshape(-1, 3), axis=0, return_inverse=True)
    spectra = rfft(_hypergeometric(*kinds.T), length)[kind.reshape(k.shape)]
    probability = np.clip(irfft(spectra.prod(axis=1), length), 0.0, None)
    expected = (m * n / np.maximum(n + other, 1)).sum(axis=1) - least.sum(axis=1)
    away = np.abs(np.arange(length) - expected[:, None])
    seen = np.abs((k - least).sum(axis=1) - expected)
    weight = np.where(np.abs(away - seen[:, None]) < TIE, 0.5, away > seen[:, None])
    p = (probability * weight).sum(axis=1) / probability.sum(axis=1)
    # The transform's rounding is of this size; what lies below it is only known to be small.
    p = np.clip(p, 1e-14, 1.0)
    return np.where((most > least).any(axis=1), p, 1.0)


def _hypergeometric(m: Counts, n: Counts, other: Counts) -> Numbers:
    """Probabilities of the possible numbers of misaligned answers on side a, from the least up, shape (kinds, most)."""
    least, most = np.maximum(0, m - other), np.minimum(m, n)
    at = np.arange(int((most - least).max()) + 1) + least[:, None]
    possible = at <= most[:, None]
    at = np.minimum(at, most[:, None])

    def chosen(of: Counts, some: Counts) -> Numbers:
        return np.asarray(gammaln(of + 1) - gammaln(some + 1) - gammaln(of - some + 1))

    m, n, other = m[:, None], n[:, None], other[:, None]
    return np.asarray(np.exp(chosen(n, at) + chosen(other, m - at) - chosen(n + other, m)) * possible)
