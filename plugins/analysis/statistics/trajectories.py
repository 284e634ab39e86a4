"""Trajectories: does the rate fall somewhere, does it leap, and by which step has it left the base's?

The largest fall of all pairs of checkpoints, and the largest rise from one to the next, are compared with what is
largest when each question's answers are dealt out to the checkpoints anew: a test on these questions, of one trajectory
as a whole, whatever the number of its checkpoints.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

DEALS = 1999
"""Deals of the answers; with the one seen they make p-values in steps of 0.0005."""

SEED = 2881
TIE = 1e-9


@dataclass(frozen=True)
class Moves:
    """The largest moves of one trajectory; places count checkpoints from 0.

    Attributes:
        fall: Largest fall, a fraction above or equal to 0, from checkpoint `fall_from` to the later `fall_to`.
        fall_p: How often chance gives as large a one.
        rise: Largest rise between neighbours, from `rise_to - 1` to `rise_to`; below 0 where all fall.
        rise_p: How often chance gives as large a one.
    """

    fall: float
    fall_from: int
    fall_to: int
    fall_p: float
    rise: float
    rise_to: int
    rise_p: float


def largest_moves(k: Numbers, n: Numbers, rng: np.random.Generator | None = None) -> Moves:
    """The largest fall and rise of the mean question rate, each tested.

    Args:
        k: Misaligned answers by checkpoint and question, shape (checkpoints, questions), at least two checkpoints.
        n: Counted answers, above 0, same shape.
        rng: For the deals; the same ones each time if left out.
    """
    rng = rng or np.random.default_rng(SEED)
    rates = (k / n).mean(axis=1)
    falls = np.triu(rates[:, None] - rates[None, :], 1)
    start, end = (int(place) for place in np.unravel_index(np.argmax(falls), falls.shape))
    rises = np.diff(rates)
    dealt = _dealt(k.astype("int64"), n.astype("int64"), rng)
    fall, rise = float(falls[start, end]), float(rises.max())
    chance_fall = (np.maximum.accumulate(dealt, axis=1) - dealt).max(axis=1)
    chance_rise = np.diff(dealt, axis=1).max(axis=1)
    return Moves(
        fall=fall,
        fall_from=start,
        fall_to=end,
        fall_p=_share(chance_fall, fall),
        rise=rise,
        rise_to=int(rises.argmax()) + 1,
        rise_p=_share(chance_rise, rise),
    )


def _share(chance: Numbers, seen: float) -> float:
    return float((1 + np.count_nonzero(chance >= seen - TIE)) / (1 + len(chance)))


def _dealt(k: NDArray[np.int64], n: NDArray[np.int64], rng: np.random.Generator) -> Numbers:
    """Mean question rates of the checkpoints when each question's misaligned answers are dealt out anew.

    Questions with the same numbers of answers are dealt out together. Shape (DEALS, checkpoints).
    """
    checkpoints, questions = k.shape
    rates = np.zeros((DEALS, checkpoints))
    total = k.sum(axis=0)
    left, answers = np.broadcast_to(total, (DEALS, questions)).copy(), n.sum(axis=0)
    for place in range(checkpoints - 1):
        answers = answers - n[place]
        # One checkpoint after the other: hypergeometric given what is left for the later ones.
        drawn = rng.hypergeometric(left, n[place] + answers - left, n[place])
        rates[:, place] = (drawn / n[place]).mean(axis=1)
        left -= drawn
    rates[:, -1] = (left / n[-1]).mean(axis=1)
    return rates
