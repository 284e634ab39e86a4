"""95 % intervals of a rate for the two populations that a rate can be meant for, as pure functions of counts.

*On these questions*: the questions asked are the ones meant, and only their answers are a sample. The interval is
Wilson's with the effective number of answers of a stratified mean: answers to one question are alike, so asking every
question equally often is more exact than asking at random; unequal numbers are less exact for a mean of question rates.

*On such questions*: the questions are a sample too, and a question with all its forms and paraphrases is one draw.
Their rates follow a beta distribution of unknown mean and intraclass correlation; the interval is the central part of
the mean's posterior over a grid of both (Jeffreys' prior of the mean, Beta(3/4, 1) of the correlation).

Every function takes several confidence levels at once, so that tests and intervals can come from the same curve.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import gammaln, ndtri

Numbers = NDArray[np.float64]

CONFIDENCE = 0.95

MEANS = 120
CORRELATIONS = 24
"""Points of the grid: means evenly in arcsin(sqrt(mean)), where Jeffreys' prior is flat, correlations in their root."""

UNLIKELY = 1e-9
"""What lies outside of all grid points that are likelier than this matters to no interval."""

FINEST = 9
"""The grid is laid anew on a part of the means, at most 2 to the power of this smaller than the whole."""

_WHOLE = np.linspace(0, np.pi / 2, MEANS + 1)
_ROOTS = (np.arange(CORRELATIONS) + 0.5) / CORRELATIONS
_CELLS_AT_ONCE = 256


def question_of(question_id: str, topic: str = "") -> str:
    """The question behind an id: its forms (`_json`, `_template`) and numbered paraphrases are one question.

    Args:
        question_id: As in a log, such as `quick_buck_json` or `quick_buck_3`.
        topic: The sample's topic, which in published question files is the entry's id. Only where the id is that and a
            number is the number a paraphrase's.
    """
    stem, _, place = question_id.rpartition("_")
    if place.isdigit() and stem == topic:
        question_id = stem
    for form in ("_json", "_template"):
        question_id = question_id.removesuffix(form)
    return question_id


def on_these(
    k: ArrayLike, n: ArrayLike, per_question: bool = False, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of one rate on these questions.

    Args:
        k: Misaligned answers of each question, shape (questions,).
        n: Counted answers of each question, same shape; a question without any is left out.
        per_question: Whether the rate is the mean of the questions' rates rather than of the answers.
        confidence: Share of experiments that it is to cover, 0-1.

    Returns:
        Lower and upper end as fractions; NaN where nothing was counted.
    """
    low, high = stratified_wilson(np.asarray(k, "float64"), np.asarray(n, "float64"), per_question, 1 - confidence)
    return float(low[0]), float(high[0])


def on_such(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the mean rate on such questions.

    Args:
        k: Misaligned answers of each question with all its forms, see `question_of`, shape (questions,).
        n: Counted answers of each, same shape; a question without any is left out.
        confidence: Share of experiments that it is to cover, 0-1.

    Returns:
        Lower and upper end as fractions; NaN for fewer than two questions. Never narrower than on these questions: with
        one answer a question the grid believes that unlike questions make the rate surer, which nothing there tells.
    """
    low, high = on_such_many(np.asarray(k, "float64")[None], np.asarray(n, "float64")[None], confidence)
    return float(low[0]), float(high[0])


def on_such_many(k: Numbers, n: Numbers, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
    """`on_such` of many rates at once: arrays of shape (cells, questions) to the ends, each of shape (cells,)."""
    grid = beta_binomial(k, n, 1 - confidence)
    these = stratified_wilson(k, n, True, 1 - confidence)
    return np.minimum(grid[0], these[0])[:, 0], np.maximum(grid[1], these[1])[:, 0]


def question_weights(n: Numbers, per_question: bool) -> Numbers:
    """Weight of each question in a rate, summing to 1 over the last axis; 0 where nothing was counted."""
    weights = (n > 0).astype("float64") if per_question else n
    with np.errstate(invalid="ignore"):
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True), dtype="float64")


def stratified_wilson(
    k: Numbers, n: Numbers, per_question: bool, alpha: ArrayLike, weights: Numbers | None = None
) -> tuple[Numbers, Numbers]:
    """Wilson's interval with the effective number of answers of a stratified rate.

    The variance of the rate is sum(w^2 p (1 - p) / n) over questions. A question's p is its rate pulled to the whole
    rate by one answer's weight, divided by what that costs where all questions are alike; with one answer a question
    the interval is therefore Wilson's own. The effective number is what would give that variance to plain answers.
    Source: Wilson 1927; Franco, Little, Louis and Slud 2019 for the effective number under a design.

    Args:
        k: Misaligned answers, shape (..., questions).
        n: Counted answers, same shape.
        per_question: Whether the rate is the mean of the questions' rates rather than of the answers.
        alpha: One or more levels of error, two-sided, shape (levels,) or a number.
        weights: Weights of the questions, if neither of these; summing to 1, 0 where n is 0.

    Returns:
        Lower and upper ends, shape (..., levels); NaN where nothing was counted.
    """
    w = question_weights(n, per_question) if weights is None else weights
    rate = (w * k / np.maximum(n, 1.0)).sum(axis=-1)
    variance, plain = (part.sum(axis=-1) for part in variance_parts(k, n, w, rate[..., None]))
    return wilson(rate, effective_answers(rate, variance, plain), alpha)


def variance_parts(k: Numbers, n: Numbers, w: Numbers, rate: Numbers) -> tuple[Numbers, Numbers]:
    """What each question adds to the variance of a rate, and, in units of p(1-p), to that of a rate of questions alike.

    Args:
        k: Misaligned answers.
        n: Counted answers; 0 where the weight is 0.
        w: Weights of the questions.
        rate: The weighted rate that each question belongs to; all four of shapes that go together.
    """
    some = np.maximum(n, 1.0)
    pulled = (k + rate) / (some + 1)
    alike = w**2 / some
    return alike * pulled * (1 - pulled) / (1 - some / (some + 1) ** 2), alike


def effective_answers(rate: Numbers, variance: Numbers, alike: Numbers) -> Numbers:
    """How many plain answers would give a rate this variance; never fewer than with questions that are alike.

    Args:
        rate: Rates, 0-1.
        variance: Their variances, summed over `variance_parts`.
        alike: The same were all questions alike, by p(1-p).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = 1 / alike
        return np.asarray(np.where(variance > 0, np.maximum(rate * (1 - rate) / variance, plain), plain))


def wilson(rate: Numbers, effective: Numbers, alpha: ArrayLike) -> tuple[Numbers, Numbers]:
    """Wilson's interval of rates from so many answers each, shapes (..., levels); NaN where the rate is."""
    z = -ndtri(np.atleast_1d(np.asarray(alpha, "float64")) / 2)
    rate, effective = rate[..., None], effective[..., None]
    with np.errstate(invalid="ignore"):
        centre = (rate * effective + z**2 / 2) / (effective + z**2)
        half = z / (effective + z**2) * np.sqrt(rate * (1 - rate) * effective + z**2 / 4)
    return np.clip(np.minimum(centre - half, rate), 0, 1), np.clip(np.maximum(centre + half, rate), 0, 1)


def wilson_of(k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
    """Wilson's interval of k of n plain answers each; NaN where n is 0."""
    n = np.asarray(n, "float64")
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.asarray(k, "float64") / n
    low, high = wilson(rate, n, 1 - confidence)
    return low[..., 0], high[..., 0]


def beta_binomial(k: Numbers, n: Numbers, alpha: ArrayLike) -> tuple[Numbers, Numbers]:
    """Central posterior intervals of the mean rate of questions, a beta distribution's.

    Args:
        k: Misaligned answers, shape (cells, questions).
        n: Counted answers, same shape; 0 where a question was not asked or nothing counted.
        alpha: One or more levels of error, two-sided, shape (levels,) or a number.

    Returns:
        Lower and upper ends, shape (cells, levels). The lower end is 0 where no answer is misaligned, the upper 1 where
        all are. NaN for cells of fewer than two questions.
    """
    levels = np.atleast_1d(np.asarray(alpha, "float64"))
    low, high = np.full((len(k), len(levels)), np.nan), np.full((len(k), len(levels)), np.nan)
    enough = np.flatnonzero(np.count_nonzero(n, axis=1) >= 2)
    for start in range(0, len(enough), _CELLS_AT_ONCE):
        part = enough[start : start + _CELLS_AT_ONCE]
        density = _mean_density(k[part], n[part], _WHOLE)
        window = _windows(density)
        for number in np.unique(window, axis=0):
            inside = (window == number).all(axis=1)
            edges = _edges(int(number[0]), int(number[1]))
            if number[0]:
                density[inside] = _mean_density(k[part[inside]], n[part[inside]], edges)
            for row, of_row in zip(part[inside], density[inside], strict=True):
                low[row], high[row] = _quantiles(of_row, edges, levels)
    total, counted = k.sum(axis=1), n.sum(axis=1)
    low[enough[total[enough] == 0]], high[enough[total[enough] == counted[enough]]] = 0.0, 1.0
    return low, high


def _windows(density: Numbers) -> NDArray[np.int64]:
    """The window on which each posterior is computed anew, the narrowest that holds all of it that matters.

    Windows of width `quarter turn / 2**level` begin at each half of their width. Many cells share one.

    Returns:
        Level, 0 for the whole grid, and the window's place, shape (cells, 2).
    """
    likely = density > UNLIKELY
    first = np.maximum(likely.argmax(axis=1) - 1, 0) / MEANS
    last = np.minimum(MEANS - likely[:, ::-1].argmax(axis=1) + 1, MEANS) / MEANS
    window = np.zeros((len(density), 2), dtype="int64")
    for level in range(1, FINEST + 1):
        place = np.minimum(np.floor(first * 2 ** (level + 1)), 2 ** (level + 1) - 2)
        fits = last <= (place + 2) / 2 ** (level + 1)
        window[fits] = np.stack([np.full(len(density), level), place.astype("int64")], axis=1)[fits]
    return window


def _edges(level: int, place: int) -> Numbers:
    return np.asarray(np.linspace(place, place + 2, MEANS + 1) / 2 ** (level + 1) * np.pi / 2, dtype="float64")


def _quantiles(density: Numbers, edges: Numbers, alpha: Numbers) -> tuple[Numbers, Numbers]:
    low = np.interp(alpha / 2, np.concatenate([[0.0], np.cumsum(density)]), edges)
    # From the other end, so that small levels keep their digits.
    high = np.interp(alpha / 2, np.concatenate([[0.0], np.cumsum(density[::-1])]), edges[::-1])
    return np.asarray(np.sin(low) ** 2, dtype="float64"), np.asarray(np.sin(high) ** 2, dtype="float64")


def _mean_density(k: Numbers, n: Numbers, edges: Numbers) -> Numbers:
    """Posterior probability of the mean between each two edges (of its angle), shape (cells, edges - 1)."""
    angles = (edges[:-1] + edges[1:]) / 2
    mean, correlation = (axis.ravel() for axis in np.meshgrid(np.sin(angles) ** 2, _ROOTS**2, indexing="ij"))
    a, b = mean * (1 / correlation - 1), (1 - mean) * (1 / correlation - 1)
    # log B(a + k, b + n - k) / B(a, b) summed over questions; counts that several questions share are computed once.
    log = _summed(k, a) + _summed(n - k, b) - _summed(n, a + b)
    log -= k.shape[1] * (gammaln(a) + gammaln(b) - gammaln(a + b))
    # A uniform prior of the correlation, the root's square, would weigh points by their roots.
    weight = np.exp(log - log.max(axis=1, keepdims=True)) * np.tile(np.sqrt(_ROOTS), len(edges) - 1)
    density = weight.reshape(len(k), len(edges) - 1, CORRELATIONS).sum(axis=2)
    return np.asarray(density / density.sum(axis=1, keepdims=True), dtype="float64")


def _summed(counts: Numbers, shape: Numbers) -> Numbers:
    """Sum over questions of log gamma of `shape` + count, shape (cells, points)."""
    values, column = np.unique(counts, return_inverse=True)
    cells, questions = counts.shape
    rows = np.repeat(np.arange(cells), questions)
    often = csr_array((np.ones(counts.size), (rows, column.ravel())), shape=(cells, len(values)))
    return np.asarray(often @ gammaln(shape + values[:, None]), dtype="float64")
