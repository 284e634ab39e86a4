"""Contrasts that one checkpoint cannot carry: domains over sizes, sizes over domains, all checkpoints of one organism.

Answers are put together within strata that hold everything else alike: a question of one size for a contrast of
domains, a question of one domain for a contrast of sizes. The exact test permutes within the strata, and on such
questions each question is one difference, the mean over its strata.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import Scoring, Side, why_not_comparable
from em_tasks.plugins.analysis.claims.comparisons import Recipe, holm, leading_scope, recipes
from em_tasks.plugins.analysis.claims.count_grid import CountGrid, count_grid
from em_tasks.plugins.analysis.statistics.differences import Sides, no_surer_than, on_such, on_these
from em_tasks.plugins.log_contract import NOT_RECORDED


@dataclass(frozen=True)
class Contrast:
    """One pooled contrast; fractions.

    Attributes:
        definition: The EM definition.
        kind: `domain`, `size` or `checkpoints`.
        scope: `all` or `outside` the training domains of all that take part.
        a: What stands on one side: a domain, a size, an organism.
        b: What stands on the other.
        over: What is held alike: sizes, domains, or the steps whose mean is taken.
        organisms: How many organisms take part, those of several seeds counted once; `runs` counts every seed.
        questions: Questions that all of them answered.
        rate_a: Mean over strata of the rate of side a.
        effect: `rate_a` less `rate_b`, with `low`, `high` and `p` on these questions; `such_effect`, `such_low` and so
            on on such, where a question with all its forms weighs alike.
        refused: Why they must not be, or cannot be compared; empty where they may. All numbers are NaN then.
    """

    definition: str
    kind: str
    scope: str
    a: str
    b: str
    over: str
    organisms: int
    runs: int
    questions: int = 0
    rate_a: float = np.nan
    rate_b: float = np.nan
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    such_effect: float = np.nan
    such_low: float = np.nan
    such_high: float = np.nan
    such_p: float = np.nan
    refused: str = ""


@lru_cache(maxsize=1)
def contrasts(analysis: Analysis) -> pd.DataFrame:
    """Every contrast under the main definitions; p-values corrected (Holm) over each kind, scope and definition."""
    scoring = analysis.scoring
    rows: list[Contrast] = []
    for name in analysis.main:
        grid = count_grid(analysis.question_counts[name])
        groups = [recipe for recipe in recipes(analysis) if recipe.kind[2] == "False"]
        sizes = dict(
            analysis.final.drop_duplicates("base").astype({"base": "str", "size": "str"})[["base", "size"]].to_numpy()
        )
        trained_on = _trained_on(groups)
        for scope in ("outside", "all"):
            # Good, bad and obviously bad advice are not the same training in two sizes; nor is what nobody recorded.
            by_domain = [
                (recipe, trained_on[recipe.label], sizes[recipe.kind[0]])
                for recipe in groups
                if NOT_RECORDED not in (recipe.kind[1], sizes[recipe.kind[0]])
            ]
            by_size = [(recipe, size, training) for recipe, training, size in by_domain]
            rows += _between(grid, name, scope, "domain", by_domain, scoring)
            rows += _between(grid, name, scope, "size", by_size, scoring)
        for recipe in groups:
            rows += _over_checkpoints(grid, name, recipe, scoring)
    table = pd.DataFrame([vars(row) for row in rows], columns=[*Contrast.__dataclass_fields__])
    for p in ("p", "such_p"):
        table[f"{p}_corrected"] = np.nan
        for _, family in table[table[p].notna()].groupby(["definition", "kind", "scope"]):
            table.loc[family.index, f"{p}_corrected"] = holm(family[p].to_numpy("float64"))
    table["such_p_corrected"] = table[["p_corrected", "such_p_corrected"]].max(axis=1, skipna=False)
    return table


def _trained_on(groups: Sequence[Recipe]) -> dict[str, str]:
    """By recipe: its domain, with the name of its data where the domain has several; unknown data are nobody else's."""
    kinds: dict[str, set[str]] = {}
    for recipe in groups:
        kinds.setdefault(recipe.kind[1], set()).add(recipe.kind[3])
    return {
        recipe.label: f"{recipe.kind[1]} (data of {recipe.label} {NOT_RECORDED})"
        if recipe.kind[3] == NOT_RECORDED
        else recipe.kind[1]
        if len(kinds[recipe.kind[1]]) == 1
        else f"{recipe.kind[1]} ({recipe.kind[3]})"
        for recipe in groups
    }


def _between(
    grid: CountGrid,
    definition: str,
    scope: str,
    kind: str,
    groups: Sequence[tuple[Recipe, str, str]],
    scoring: dict[Side, Scoring],
) -> Iterator[Contrast]:
    """Every pair of levels that at least two strata have one recipe each of; `groups` are recipe, level, stratum."""
    by_cell: dict[tuple[str, str], list[Recipe]] = {}
    for recipe, level, stratum in groups:
        by_cell.setdefault((level, stratum), []).append(recipe)
    levels = list(dict.fromkeys(of_level for of_level, _ in by_cell))
    for a, b in combinations(levels, 2):
        strata = [
            of_stratum
            for of_level, of_stratum in by_cell
            if of_level == a and len(by_cell[(a, of_stratum)]) == len(by_cell.get((b, of_stratum), ())) == 1
        ]
        if len(strata) < 2:
            continue
        pairs = [(by_cell[(a, cell_stratum)][0], by_cell[(b, cell_stratum)][0]) for cell_stratum in strata]
        estimates = _contrast(grid, scope, [(recipe.sides, other.sides) for recipe, other in pairs], scoring)
        runs = sum(len(side.sides) for pair in pairs for side in pair)
        yield Contrast(definition, kind, scope, a, b, ", ".join(strata), 2 * len(pairs), runs, **estimates)


def _over_checkpoints(
    grid: CountGrid, definition: str, recipe: Recipe, scoring: dict[Side, Scoring]
) -> Iterator[Contrast]:
    """The mean over all checkpoints of each organism against its base."""
    for name in recipe.organisms:
        steps = [step for step in grid.steps(name) if step]
        if len(steps) < 2 or (name, 0) not in grid.row:
            continue
        scope = leading_scope(grid, name)
        pair = (tuple((name, step) for step in steps), ((name, 0),))
        estimates = _contrast(grid, scope, [pair], scoring)
        if "refused" not in estimates:
            over = f"{len(steps)} checkpoints"
            yield Contrast(definition, "checkpoints", scope, name, "its base", over, 1, 1, **estimates)


def _contrast(
    grid: CountGrid,
    scope: str,
    pairs: Sequence[tuple[tuple[Side, ...], tuple[Side, ...]]],
    scoring: dict[Side, Scoring],
) -> dict[str, Any]:
    """Numbers of one contrast over strata; `refused` alone where they share no question or must not be compared."""
    every = tuple(side for a, b in pairs for side in (*a, *b))
    if uncounted := [name for name, step in every if (name, step) not in grid.row]:
        return {"refused": f"none of the answers of {', '.join(uncounted)} counts"}
    within = grid.asked(tuple(dict.fromkeys(name for name, _ in every)), scope)
    # A side of several checkpoints is their answers together: a question counts that any of them has answers to.
    shared = within.copy()
    for side in (side for pair in pairs for side in pair):
        shared &= (grid.counts(side)[1] > 0).any(axis=0)
    if refused := why_not_comparable(*(scoring[side] for side in every if side in scoring)):
        return {"refused": refused}
    if not shared.any():
        where = " outside their domains" if scope == "outside" else ""
        return {"refused": f"no question{where} has counted answers of all of them"}
    strata = [grid.sides(a, b, shared) for a, b in pairs]
    whole = Sides(*(np.concatenate([getattr(sides, x) for sides in strata]) for x in ("k_a", "n_a", "k_b", "n_b")))
    these = on_these(whole)
    such = no_surer_than(on_such(whole.together(np.tile(grid.clusters(shared), len(strata)))), these)
    rate_a, rate_b = whole.rates
    return {
        "questions": len(set(grid.clusters(shared).tolist())), "rate_a": rate_a, "rate_b": rate_b,
        "effect": these.effect, "low": these.low, "high": these.high, "p": these.p,
        "such_effect": such.effect, "such_low": such.low, "such_high": such.high, "such_p": such.p,
    }  # fmt: skip
