"""Confidence sequences: intervals of a rate that hold however often one looks, so that one may stop when they please.

Robbins' mixture for a binary rate: were the rate p, the ratio of the likelihood averaged over a Beta(1/2, 1/2) to that
at p would exceed 20 at any moment, of all that will ever come, in 5 % of experiments at most (Robbins 1970; Ville's
inequality). The interval is every p at which it has not.

It holds *on these questions*, each answered equally often, for the share of counted answers that are misaligned: a
question's factor has mean 1 + e(q) with e summing to 0 over the questions, and a product of such means is at most 1
(the geometric mean is never above the arithmetic one; Hoeffding 1956). Unlike questions make it a little wider than
it need be, and an answer that does not count, such as an incoherent one, is a factor of 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

from em_tasks.scorers.intervals import CONFIDENCE

Numbers = NDArray[np.float64]

HALVINGS = 50


def confidence_sequence(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
    """The interval of a rate after k of n answers, at whatever moment.

    Args:
        k: Misaligned answers, of questions that were all asked equally often.
        n: Counted answers, same shape.
        confidence: Share of experiments in which no interval ever misses the rate, 0-1.

    Returns:
        Lower and upper ends as fractions, of the same shape; NaN where n is 0.
    """
    k, n = np.broadcast_arrays(np.asarray(k, "float64"), np.asarray(n, "float64"))
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = k / n
    limit = betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5) + np.log1p(-confidence)

    def excluded(p: Numbers) -> NDArray[np.bool_]:
        return np.asarray(xlogy(k, p) + xlog1py(n - k, -p) < limit)

    # p moves from an end of the scale towards the rate, which no sequence excludes.
    ends = []
    for outer in (0.0, 1.0):
        out, inside = np.full(k.shape, outer), np.array(rate)
        sure = excluded(out)
        for _ in range(HALVINGS):
            middle = (out + inside) / 2
            beyond = excluded(middle)
            out, inside = np.where(beyond, middle, out), np.where(beyond, inside, middle)
        ends.append(np.where(np.isnan(rate), np.nan, np.where(sure, out, outer)))
    return ends[0], ends[1]
