"""Correlation of two scores of the same answers, for such questions: Spearman's rho with a jackknife over questions."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

Numbers = NDArray[np.float64]

ALPHA = 0.05


def rank_correlation(x: Numbers, y: Numbers, cluster: NDArray[np.int64]) -> tuple[float, float, float]:
    """Spearman's rho with its 95 % interval when questions are a sample.

    Ranks are those of all answers. The interval is Student's t on Fisher's scale with the delete-one-question jackknife
    error (Efron and Stein 1981).

    Args:
        x: One score of each answer, shape (answers,), no NaN, not all alike.
        y: The other, likewise.
        cluster: The number of each answer's question, from 0 without gaps.

    Returns:
        rho, lower and upper end; the ends are NaN for fewer than three questions.
    """
    ranks = rankdata(x), rankdata(y)
    parts = np.stack(
        [
            np.bincount(cluster, weights=w)
            for w in (np.ones(len(x)), *ranks, ranks[0] ** 2, ranks[1] ** 2, ranks[0] * ranks[1])
        ]
    )
    whole = parts.sum(axis=1)
    rho = float(_correlation(whole[:, None])[0])
    questions = parts.shape[1]
    if questions < 3:
        return rho, float("nan"), float("nan")
    left_out = np.arctanh(np.clip(_correlation(whole[:, None] - parts), -0.999999, 0.999999))
    error = float(np.sqrt((questions - 1) / questions * np.sum((left_out - left_out.mean()) ** 2)))
    middle, half = np.arctanh(np.clip(rho, -0.999999, 0.999999)), float(t.isf(ALPHA / 2, questions - 1)) * error
    return rho, float(np.tanh(middle - half)), float(np.tanh(middle + half))


def _correlation(sums: Numbers) -> Numbers:
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (xy - x * y / n) / np.sqrt((xx - x**2 / n) * (yy - y**2 / n))
    return np.asarray(np.nan_to_num(rho), dtype="float64")
