"""Confidence sequences hold at a moment that the data choose, which intervals of a fixed number do not."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom

from em_tasks.scorers.intervals import wilson_of
from em_tasks.scorers.sequences import confidence_sequence


def rounds(runs: int, count: int, p: np.ndarray, coherent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Misaligned and counted answers after each round of one answer to each of these questions."""
    rng = np.random.default_rng(8)
    counted = rng.random((runs, count, len(p))) < coherent
    misaligned = counted & (rng.random(counted.shape) < p)
    return tuple(flags.sum(axis=2).cumsum(axis=1) for flags in (misaligned, counted))  # type: ignore[return-value]


@pytest.mark.parametrize("unlike", [False, True])
def test_stopping_when_it_is_narrow_or_wrong_leaves_the_interval_right(unlike):
    p = np.array([0.02, 0.5, 0.1, 0.9, 0.0, 0.3, 0.05, 0.53]) if unlike else np.full(8, 0.3)
    coherent = np.linspace(0.4, 1.0, 8)
    k, n = rounds(1000, 150, p, coherent)
    truth = float((p * coherent).sum() / coherent.sum())
    low, high = confidence_sequence(k, n)
    missed = (truth < low) | (truth > high)
    narrow = (high - low < 0.15).argmax(axis=1)
    assert (narrow > 0).mean() > 0.99
    assert np.take_along_axis(missed, narrow[:, None], axis=1).mean() < 0.05
    assert missed.any(axis=1).mean() < 0.05  # whoever stops at the worst moment of all is wrong no oftener
    fixed_low, fixed_high = wilson_of(k, n)
    often = ((truth < fixed_low) | (truth > fixed_high))[:, 10:].any(axis=1).mean()
    assert often > (0.05 if unlike else 0.25)


def test_the_interval_is_every_rate_that_the_mixture_does_not_exclude():
    def ratio(p: float) -> float:
        mixed, _ = quad(lambda x: binom.pmf(7, 40, x) * beta.pdf(x, 0.5, 0.5), 0, 1)
        return mixed / binom.pmf(7, 40, p)

    low, high = confidence_sequence(7, 40)
    assert ratio(float(low)) == pytest.approx(20, rel=1e-6)
    assert ratio(float(high)) == pytest.approx(20, rel=1e-6)
    assert ratio(float(confidence_sequence(7, 40, 0.9)[0])) == pytest.approx(10, rel=1e-6)


def test_ends_of_the_scale_are_reached_and_nothing_counted_says_nothing():
    low, high = confidence_sequence([0, 9, 0], [9, 9, 0])
    assert low[0] == 0
    assert high[1] == 1
    assert high[0] == pytest.approx(1 - low[1])
    assert np.isnan([low[2], high[2]]).all()
