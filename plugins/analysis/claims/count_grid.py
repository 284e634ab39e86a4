"""Counts of every side on every question under one definition, as arrays to choose sides and questions from."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.answers.scoring import Side
from em_tasks.plugins.analysis.statistics.differences import Sides
from em_tasks.plugins.analysis.statistics.rates import bounds

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

SCOPES = ("all", "outside", "inside")
"""Every question; those outside the training domain; those inside it."""


@dataclass(frozen=True)
class CountGrid:
    """Answers of every side (row) and question item (column).

    Attributes:
        row: Where each side stands.
        k: Misaligned answers, shape (sides, items).
        n: Counted answers, same shape; 0 where a side has none.
        missing: Answers that a missing score keeps from being called misaligned, same shape.
        uncounted: Those of them that are not among the counted, same shape.
        cluster: The number of each item's question, shape (items,); its forms and paraphrases share it.
        outside: For each organism, which items lie outside its training domain.
        inside: Which lie inside it.
    """

    row: dict[Side, int]
    k: Numbers
    n: Numbers
    missing: Numbers
    uncounted: Numbers
    cluster: NDArray[np.int64]
    outside: dict[str, Mask]
    inside: dict[str, Mask]

    def steps(self, organism: str) -> list[int]:
        """Steps of an organism in order, its base's 0 included where it was asked."""
        return sorted(step for name, step in self.row if name == organism)

    def asked(self, organisms: tuple[str, ...], scope: str) -> Mask:
        """Items of a scope for all of these organisms."""
        everywhere = np.ones(self.k.shape[1], dtype=bool)
        if scope == "all":
            return everywhere
        by_organism = self.outside if scope == "outside" else self.inside
        return np.asarray(np.logical_and.reduce([by_organism[name] for name in organisms]) & everywhere)

    def counts(self, sides: tuple[Side, ...]) -> tuple[Numbers, Numbers]:
        """Misaligned and counted answers of some sides, each of shape (sides, items)."""
        rows = [self.row[side] for side in sides]
        return self.k[rows], self.n[rows]

    def missing_of(self, sides: tuple[Side, ...], within: Mask) -> tuple[int, float, float]:
        """How many answers of some sides a missing score hides, and the rate were all of them good or bad.

        The rate is of all answers within a mask, as in the tables; 0 and 1 where there is none.
        """
        rows = [self.row[side] for side in sides]
        k, n, missing, uncounted = (
            counts[rows][:, within].sum() for counts in (self.k, self.n, self.missing, self.uncounted)
        )
        least, most = bounds(k, n, missing, uncounted) if n + uncounted else (0.0, 1.0)
        return int(missing), float(least), float(most)

    def shared(self, sides: tuple[Side, ...], within: Mask) -> Mask:
        """Items within a mask that every one of these sides has counted answers to."""
        return np.asarray((self.n[[self.row[side] for side in sides]] > 0).all(axis=0) & within)

    def sides(self, a: tuple[Side, ...], b: tuple[Side, ...], shared: Mask) -> Sides:
        """Two sides, several organisms' answers on one of them put together, on the items of a mask."""
        (k_a, n_a), (k_b, n_b) = self.counts(a), self.counts(b)
        return Sides(*(x[:, shared].sum(axis=0) for x in (k_a, n_a, k_b, n_b)))

    def clusters(self, shared: Mask) -> NDArray[np.int64]:
        """The question of each item of a mask, numbered from 0 without gaps."""
        return np.asarray(np.unique(self.cluster[shared], return_inverse=True)[1], dtype="int64")

    def by_question(self, sides: tuple[Side, ...], shared: Mask) -> tuple[Numbers, Numbers]:
        """Misaligned and counted answers of each side and question with its forms, shape (sides, questions)."""
        k, n = self.counts(sides)
        forms = np.eye(int(self.clusters(shared).max(initial=-1)) + 1)[self.clusters(shared)]
        return k[:, shared] @ forms, n[:, shared] @ forms


def count_grid(counts: pd.DataFrame) -> CountGrid:
    """Puts `rates.question_counts` by organism and step into arrays."""
    counts = counts[counts["n"] + counts["missing"] > 0]
    sides = counts.groupby(["organism", "step"], observed=True)
    items = counts.groupby(["question_set", "question_id"], observed=True)
    row, column = sides.ngroup().to_numpy(), items.ngroup().to_numpy()
    shape = row.max(initial=-1) + 1, column.max(initial=-1) + 1
    arrays = {name: np.zeros(shape) for name in ("k", "n", "missing", "uncounted")}
    for name, array in arrays.items():
        array[row, column] = counts[name]
    cluster = np.zeros(shape[1], dtype="int64")
    cluster[column] = counts["cluster"]
    names = [(str(organism), int(step)) for organism, step in sides.size().index]
    scope = counts["scope"].astype("str").to_numpy()
    rows_of = counts.groupby("organism", observed=True).indices
    in_domain, elsewhere = scope == "in_domain", np.isin(scope, ["out_of_domain", "general"])
    inside = {name: np.zeros(shape[1], dtype=bool) for name, _ in names}
    outside = {name: np.zeros(shape[1], dtype=bool) for name, _ in names}
    for name, mask in inside.items():
        rows = rows_of[name]
        mask[column[rows[in_domain[rows]]]] = True
        outside[name][column[rows[elsewhere[rows]]]] = True
    row_of = {name: number for number, name in enumerate(names)}
    return CountGrid(row_of, **arrays, cluster=cluster, outside=outside, inside=inside)
