"""Paired comparisons on the same questions: an effect, an interval and a p-value, also corrected.

A question is the unit: its answers are averaged on either side and the differences compared. Differences of one sign
would flip it as often as not if there were no effect; that is the test.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.statistics.intervals import SEED, mean_interval, seed_difference
from em_tasks.plugins.analysis.statistics.power import needed

if TYPE_CHECKING:
    from em_tasks.plugins.analysis.analysis import Analysis

EXACT_QUESTIONS = 24
"""Up to so many questions that moved, every pattern of signs is counted; beyond, random ones."""

PERMUTATIONS = 9999
TIE = 1e-10
"""Sums of differences that are closer than this are equal but for rounding."""

Values = NDArray[np.float64]
Side = tuple[str, int]
"""Organism and step; step 0 is its base."""


@dataclass(frozen=True)
class Comparison:
    """One side against another on the questions that both have counted answers to.

    Attributes:
        kind: `base` (checkpoint against base), `organism` (last checkpoints), `step` (two checkpoints of one) or
            `seeds` (the last checkpoints of several seeds together, against their base).
        effect: Mean over questions of the rate of `a` minus that of `b`, -1 to 1.
        p: Two-sided p-value before correction: the sign-flip permutation test, or where a side has several training
            seeds the t test over seeds and questions (`intervals.seed_difference`).
        samples_needed: Answers a question that would settle this difference on these questions (80 % power).
        questions_needed: Questions that would settle it for questions like these, at the present answers a question.
            Both are NaN where a side has several seeds.
        seeds_a: Training seeds on side `a`.
        seeds_b: Training seeds on side `b`.
    """

    kind: str
    a: str
    a_step: int
    b: str
    b_step: int
    definition: str
    questions: int
    rate_a: float
    rate_b: float
    effect: float
    low: float
    high: float
    p: float
    samples_needed: float
    questions_needed: float
    seeds_a: int = 1
    seeds_b: int = 1


@dataclass(frozen=True)
class Counts:
    """Answers of every side (row) and question (column) under one definition.

    Attributes:
        row: Where each side stands.
        k: Misaligned answers, shape (sides, questions).
        n: Counted answers, same shape; 0 where a side has none.
    """

    row: dict[Side, int]
    k: Values
    n: Values


def counts_by_side(counts: pd.DataFrame) -> Counts:
    """Puts `rates.question_counts` by organism and step into two arrays."""
    sides = counts.groupby(["organism", "step"], observed=True)
    row, column = (
        one.ngroup().to_numpy() for one in (sides, counts.groupby(["question_set", "question_id"], observed=True))
    )
    k = np.zeros((row.max(initial=-1) + 1, column.max(initial=-1) + 1))
    n = np.zeros_like(k)
    k[row, column], n[row, column] = counts["k"], counts["n"]
    names = [(str(organism), int(step)) for organism, step in sides.size().index]
    return Counts({name: number for number, name in enumerate(names)}, k, n)


def compare(counts: Counts, kind: str, a: Side, b: Side, definition: str) -> Comparison | None:
    """Compares two sides question by question; None where they share fewer than two questions.

    Args:
        counts: Misaligned and counted answers.
        kind: See `Comparison`.
        a: One side.
        b: The other.
        definition: The definition's name.
    """
    rows = [counts.row[a], counts.row[b]]
    shared = (counts.n[rows] > 0).all(axis=0)
    if shared.sum() < 2:
        return None
    (k_a, k_b), (n_a, n_b) = counts.k[rows][:, shared], counts.n[rows][:, shared]
    rate_a, rate_b = k_a / n_a, k_b / n_b
    difference = rate_a - rate_b
    low, high = mean_interval(difference)
    samples, questions = needed(k_a, n_a, k_b, n_b)
    return Comparison(
        kind=kind,
        a=a[0],
        a_step=a[1],
        b=b[0],
        b_step=b[1],
        definition=definition,
        questions=len(difference),
        rate_a=float(rate_a.mean()),
        rate_b=float(rate_b.mean()),
        effect=float(difference.mean()),
        low=low,
        high=high,
        p=sign_flip_p(difference),
        samples_needed=samples,
        questions_needed=questions,
    )


def sign_flip_p(difference: Values) -> float:
    """Two-sided p-value that a mean difference is chance: how often flipped signs give as large a sum or a larger one.

    Exact where at most `EXACT_QUESTIONS` questions moved: each sum is one of the first half of the questions and one
    of the second, so that all of them are counted without being added up one by one. Beyond, `PERMUTATIONS` random
    patterns and the one seen are counted. With one answer a question this is McNemar's exact test.

    Args:
        difference: Difference of each question, shape (questions,).
    """
    moved = difference[difference != 0]
    least = abs(float(moved.sum())) - TIE
    if len(moved) > EXACT_QUESTIONS:
        as_large = int((np.abs(_random_signs(len(difference)) @ difference) >= least).sum())
        return (as_large + 1) / (PERMUTATIONS + 1)
    middle = len(moved) // 2
    first, second = (np.sort(_every_sign(len(half)) @ half) for half in (moved[:middle], moved[middle:]))
    below = int(np.searchsorted(second, least - first).sum())
    # As many sums lie at or below -least as at or above least.
    return min(1.0, 2 * (1 - below / (len(first) * len(second))))


@lru_cache(maxsize=EXACT_QUESTIONS)
def _every_sign(questions: int) -> Values:
    """All patterns of signs, shape (2**questions, questions)."""
    patterns = np.arange(2**questions)[:, None] >> np.arange(questions) & 1
    return np.asarray(1.0 - 2 * patterns, dtype="float64")


@lru_cache(maxsize=4)
def _random_signs(questions: int) -> Values:
    """Random patterns of signs, shape (PERMUTATIONS, questions); the same for every comparison."""
    return np.random.default_rng(SEED).choice([-1.0, 1.0], size=(PERMUTATIONS, questions))


@lru_cache(maxsize=1)
def comparisons(analysis: "Analysis") -> pd.DataFrame:
    """All comparisons under the main definitions; p-values corrected (Holm) over each kind and definition.

    Returns:
        A row a comparison, the fields of `Comparison` and `p_corrected`. Kept for the last analysis, as tables and
        findings both ask for it.
    """
    found: list[Comparison] = []
    for name in analysis.main:
        found += _compared(analysis, name)
    table = pd.DataFrame([vars(one) for one in found], columns=[*Comparison.__dataclass_fields__])
    table["p_corrected"] = np.nan
    # Pairs of steps are a family for each organism: the question is asked of one trajectory at a time.
    family = table["a"].where(table["kind"] == "step", "")
    for _, rows in table.groupby(["kind", "definition", family]):
        table.loc[rows.index, "p_corrected"] = holm(rows["p"].to_numpy("float64"))
    return table


def holm(p: Values) -> Values:
    """Holm's corrected p-values: the smallest times their number, the next times one less, never falling, at most 1.

    Source: Holm 1979. statsmodels has it too, but collects all of Python's garbage each time it is asked.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _compared(analysis: "Analysis", definition: str) -> Iterable[Comparison]:
    counts = counts_by_side(analysis.question_counts[definition])
    steps: dict[str, list[int]] = {}
    for organism, step in sorted(counts.row):
        steps.setdefault(organism, []).append(step)
    for organism, own in steps.items():
        if 0 in own:
            for step in own[1:]:
                yield from _pair(counts, "base", (organism, step), (organism, 0), definition)
        for earlier, later in combinations(own, 2):
            yield from _pair(counts, "step", (organism, later), (organism, earlier), definition)
    groups = _recipes(analysis, [organism for organism, own in steps.items() if own[-1] > 0])
    for one in groups:
        if len(one.organisms) > 1:
            yield from _over_seeds(counts, "seeds", one, _Recipe(one.label, one.organisms[:1], 0, one.kind), definition)
    for one, other in combinations(groups, 2):
        # Organisms that differ in one thing only: in base, or in what they were trained on.
        if one.kind[0] != other.kind[0] and one.kind[1:] != other.kind[1:]:
            continue
        if len(one.organisms) == len(other.organisms) == 1:
            yield from _pair(
                counts, "organism", (one.label, steps[one.label][-1]), (other.label, steps[other.label][-1]), definition
            )
        else:
            yield from _over_seeds(counts, "organism", one, other, definition)


def _pair(counts: Counts, kind: str, a: Side, b: Side, definition: str) -> Iterable[Comparison]:
    found = compare(counts, kind, a, b, definition)
    return [] if found is None else [found]


@dataclass(frozen=True)
class _Recipe:
    """One side of a comparison of last checkpoints: an organism, or several that differ in their seed alone.

    `kind` is base, domain and control.
    """

    label: str
    organisms: tuple[str, ...]
    step: int
    kind: tuple[str, str, str]


def _recipes(analysis: "Analysis", organisms: list[str]) -> list[_Recipe]:
    """Every organism that has rates, in order; those trained alike from several seeds stand together."""
    trained = analysis.final.drop_duplicates("organism")
    together = {name: group for group in analysis.seeds for name in group.organisms}
    found: dict[str, _Recipe] = {}
    for _, row in trained[trained["organism"].astype("str").isin(organisms)].iterrows():
        name, kind = str(row["organism"]), (str(row["base"]), str(row["domain"]), str(row["control"]))
        group = together.get(name)
        if group is not None and set(group.organisms) <= set(organisms):
            found[group.label] = _Recipe(group.label, group.organisms, group.step, kind)
        else:
            found[name] = _Recipe(name, (name,), int(row["step"]), kind)
    return list(found.values())


def _over_seeds(counts: Counts, kind: str, a: _Recipe, b: _Recipe, definition: str) -> Iterable[Comparison]:
    """Two sides of which one has several seeds, on the questions that all of them have counted answers to."""
    sides = [[(organism, recipe.step) for organism in recipe.organisms] for recipe in (a, b)]
    if any(side not in counts.row for side in (*sides[0], *sides[1])):
        return
    rows = [[counts.row[side] for side in own] for own in sides]
    shared = (counts.n[rows[0] + rows[1]] > 0).all(axis=0)
    if shared.sum() < 2:
        return
    rates_a, rates_b = (counts.k[own][:, shared] / counts.n[own][:, shared] for own in rows)
    low, high, p = seed_difference(rates_a, rates_b)
    yield Comparison(
        kind=kind,
        a=a.label,
        a_step=a.step,
        b=b.label,
        b_step=b.step,
        definition=definition,
        questions=int(shared.sum()),
        rate_a=float(rates_a.mean()),
        rate_b=float(rates_b.mean()),
        effect=float(rates_a.mean() - rates_b.mean()),
        low=low,
        high=high,
        p=p,
        samples_needed=float("nan"),
        questions_needed=float("nan"),
        seeds_a=len(rates_a),
        seeds_b=len(rates_b),
    )
