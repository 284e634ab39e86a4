"""Paired comparisons on the same questions: an effect, an interval and a p-value, also corrected.

A question is the unit: its answers are averaged on either side and the differences compared. Differences of one sign
would flip it as often as not if there were no effect; that is the test.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from plugins.analysis.analysis import Analysis
from plugins.analysis.intervals import SEED, mean_interval, seed_difference
from plugins.analysis.power import ALPHA, needed
from plugins.analysis.seeds import seed_grid

PERMUTATIONS = 9999
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


def compare(
    a: pd.DataFrame, b: pd.DataFrame, kind: str, sides: tuple[Side, Side], definition: str
) -> Comparison | None:
    """Compares two checkpoints question by question; None where they share fewer than two questions.

    Args:
        a: Counts of one side by question (index), columns `k` and `n`.
        b: The same of the other side.
        kind: See `Comparison`.
        sides: Who they are.
        definition: The definition's name.
    """
    both = a.add_suffix("_a").join(b.add_suffix("_b"), how="inner")
    if len(both) < 2:
        return None
    k_a, n_a, k_b, n_b = (both[name].to_numpy("float64") for name in ("k_a", "n_a", "k_b", "n_b"))
    rate_a, rate_b = k_a / n_a, k_b / n_b
    difference = rate_a - rate_b
    low, high = mean_interval(difference)
    samples, questions = needed(k_a, n_a, k_b, n_b)
    return Comparison(
        kind=kind,
        a=sides[0][0],
        a_step=sides[0][1],
        b=sides[1][0],
        b_step=sides[1][1],
        definition=definition,
        questions=len(both),
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
    """Two-sided p-value that a mean difference is chance: signs flipped at random, exactly where there are few.

    With one answer a question this is McNemar's exact test.

    Args:
        difference: Difference of each question, shape (questions,).
    """
    moved = difference[difference != 0]
    if not len(moved):
        return 1.0
    if len(moved) == 1:
        return 1.0
    result = permutation_test(
        (moved,),
        lambda values, axis: np.round(np.mean(values, axis=axis), 12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(SEED),
    )
    return float(min(1.0, result.pvalue))


@lru_cache(maxsize=1)
def comparisons(analysis: Analysis) -> pd.DataFrame:
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
    """Holm's corrected p-values, through statsmodels."""
    return np.asarray(multipletests(p, alpha=ALPHA, method="holm")[1], dtype="float64")


def _compared(analysis: Analysis, definition: str) -> Iterable[Comparison]:
    counts = analysis.question_counts[definition]
    sides: dict[Side, pd.DataFrame] = {}
    for _, rows in counts.groupby(["organism", "step"], observed=True):
        first = rows.iloc[0]
        sides[(str(first["organism"]), int(first["step"]))] = rows.set_index(["question_set", "question_id"])[
            ["k", "n"]
        ]
    steps: dict[str, list[int]] = {}
    for organism, step in sorted(sides):
        steps.setdefault(organism, []).append(step)
    for organism, own in steps.items():
        if 0 in own:
            for step in own[1:]:
                yield from _pair(sides, "base", (organism, step), (organism, 0), definition)
        for earlier, later in combinations(own, 2):
            yield from _pair(sides, "step", (organism, later), (organism, earlier), definition)
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
                sides, "organism", (one.label, steps[one.label][-1]), (other.label, steps[other.label][-1]), definition
            )
        else:
            yield from _over_seeds(counts, "organism", one, other, definition)


def _pair(sides: dict[Side, pd.DataFrame], kind: str, a: Side, b: Side, definition: str) -> Iterable[Comparison]:
    found = compare(sides[a], sides[b], kind, (a, b), definition)
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


def _recipes(analysis: Analysis, organisms: list[str]) -> list[_Recipe]:
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


def _over_seeds(counts: pd.DataFrame, kind: str, a: _Recipe, b: _Recipe, definition: str) -> Iterable[Comparison]:
    """Two sides of which one has several seeds, on the questions that all of them have counted answers to."""
    grids = [seed_grid(counts, side.organisms, side.step) for side in (a, b)]
    shared = grids[0].columns.intersection(grids[1].columns)
    if len(shared) < 2:
        return
    rates_a, rates_b = (grid[shared].to_numpy("float64") for grid in grids)
    low, high, p = seed_difference(rates_a, rates_b)
    yield Comparison(
        kind=kind,
        a=a.label,
        a_step=a.step,
        b=b.label,
        b_step=b.step,
        definition=definition,
        questions=len(shared),
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
