"""Comparisons of two sides on the same questions, for both populations, corrected over families.

The primary family is the organisms' last checkpoints against their bases outside the training domain. Inside it, on all
questions, earlier checkpoints of one trajectory, and organisms against each other are families of their own, so that
more checkpoints or more questions never weaken the primary claim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import Scoring, Side, why_not_comparable
from em_tasks.plugins.analysis.claims.count_grid import SCOPES, CountGrid, count_grid
from em_tasks.plugins.analysis.claims.verdicts import Verdict, verdict
from em_tasks.plugins.analysis.statistics.differences import (
    ALPHA,
    Difference,
    Sides,
    no_surer_than,
    on_such,
    on_these,
)
from em_tasks.plugins.analysis.statistics.exact_test import within_questions_p
from em_tasks.plugins.analysis.statistics.power import needed
from em_tasks.plugins.analysis.statistics.seed_intervals import LEAST_SEEDS, seed_difference, seed_spread
from em_tasks.plugins.analysis.statistics.training_seeds import SeedsApart
from em_tasks.plugins.log_contract import NOT_RECORDED

Values = NDArray[np.float64]

FAMILY = ["definition", "kind", "scope", "trajectory"]
"""p-values are corrected over comparisons that agree in these."""


@dataclass(frozen=True)
class Recipe:
    """One side of a comparison: an organism at a step, or several that differ in their training seed alone.

    `kind` is what it was made from: base, domain, control, and what it was trained on where logs tell.
    """

    label: str
    organisms: tuple[str, ...]
    step: int
    kind: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where it stands in a grid of counts; seeds share one base."""
        return tuple((name, self.step) for name in (self.organisms[:1] if self.step == 0 else self.organisms))


@dataclass(frozen=True)
class Comparison:
    """One side against another on the questions that both have counted answers to. Rates and effects are fractions.

    Attributes:
        definition: The EM definition's name.
        kind: `base` (a last checkpoint against its base), `member` (the same of one of several seeds), `checkpoint` (an
            earlier one against its base) or `organism` (last checkpoints; of several seeds the last that all have).
        scope: `all`, `outside` or `inside` the training domain.
        trajectory: The organism, for `checkpoint`; empty for the others.
        items: Question items that are shared.
        questions: Questions that are shared, forms and paraphrases of one being one.
        rate_a: Rate of side a on these items as the definition has it, the mean over seeds; `k_a` of `n_a` answers.
        effect: Difference of the means of the items' rates, so that both sides weigh items alike: `rate_a` less
            `rate_b` where every item has the same number of counted answers.
        mean_a: Mean of the items' rates of side a; `mean_a` less `mean_b` is the effect.
        low: Lower end of its 95 % interval on these questions; `high` the upper, `p` two-sided before correction.
        such_effect: The difference on such questions, where a question with all its forms and each seed weigh alike.
        such_low: Lower end of its interval, with `such_high` and `such_p`; NaN for one question, and for fewer seeds
            than `LEAST_SEEDS` on a side that has several.
        missing_a: Answers of side a, shared or not, whose status a missing score hides.
        least: The effect were all of them as unfavourable to it as they can be; `most` the other way.
        equal: Whether it is shown to be smaller than the smallest effect of interest on these questions, of several
            seeds also that of each.
        such_equal: The same on such questions, of several seeds only where the 95 % interval lies within it too.
        spread_a: Standard deviation in logits of what side a's seeds differ by; NaN where it has not several.
        refused: Why the sides must not be compared; empty where they may. All numbers of the test are NaN then.
        testable: Whether any answers at all, on these questions and of this number, could give a p-value below 5 %.
        samples_needed: Answers a question that would settle this difference on these questions (80 % power).
    """

    definition: str
    kind: str
    scope: str
    trajectory: str
    a: str
    a_step: int
    b: str
    b_step: int
    seeds_a: int
    seeds_b: int
    items: int = 0
    questions: int = 0
    k_a: int = 0
    n_a: int = 0
    k_b: int = 0
    n_b: int = 0
    rate_a: float = float("nan")
    rate_b: float = float("nan")
    mean_a: float = float("nan")
    mean_b: float = float("nan")
    effect: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")
    such_effect: float = float("nan")
    such_low: float = float("nan")
    such_high: float = float("nan")
    such_p: float = float("nan")
    missing_a: int = 0
    missing_b: int = 0
    least: float = float("nan")
    most: float = float("nan")
    equal: bool = False
    such_equal: bool = False
    spread_a: float = float("nan")
    spread_b: float = float("nan")
    refused: str = ""
    testable: bool = True
    samples_needed: float = float("nan")


@lru_cache(maxsize=1)
def comparisons(analysis: Analysis) -> pd.DataFrame:
    """All comparisons under the main definitions, p-values corrected (Holm) over each family.

    Returns:
        A row a comparison: the fields of `Comparison`, `p_corrected` and `such_p_corrected`. What cannot be compared
        has a row without `items` that says why. Kept for the last analysis, as tables and findings both ask for it.
    """
    rows: list[Comparison] = []
    per_question = {definition.name for definition in analysis.definitions if definition.per_question}
    for name in analysis.main:
        grid = count_grid(analysis.question_counts[name])
        pairs = list(_pairs(analysis, grid))
        compared_at_all: set[tuple[str, str, str]] = set()
        sizes: dict[tuple[str, str, str], int] = {}
        for kind, scope, a, _ in pairs:
            family = (kind, scope, a.label if kind == "checkpoint" else "")
            sizes[family] = sizes.get(family, 0) + 1
        for kind, scope, a, b in pairs:
            trajectory = a.label if kind == "checkpoint" else ""
            about = Comparison(
                name, kind, scope, trajectory, a.label, a.step, b.label, b.step, len(a.sides), len(b.sides)
            )
            family_size = sizes[(kind, scope, trajectory)]
            compared = compare(
                grid, about, a, b, analysis.scoring, analysis.smallest_effect, family_size, name in per_question
            )
            if compared is not None:
                rows.append(compared)
                compared_at_all.add((kind, a.label, b.label))
        for kind, scope, a, b in pairs:
            if scope == "all" and kind != "checkpoint" and (kind, a.label, b.label) not in compared_at_all:
                why = _no_base(analysis, grid, a) if kind != "organism" else _nothing_shared(analysis, grid, a, b)
                about = Comparison(name, kind, scope, "", a.label, a.step, b.label, b.step, len(a.sides), len(b.sides))
                rows.append(replace(about, refused=why))
    table = pd.DataFrame([vars(row) for row in rows], columns=[*Comparison.__dataclass_fields__])
    for p in ("p", "such_p"):
        table[f"{p}_corrected"] = table[p].where(table["testable"], 1.0)
        # What no answers could have shown is no claim that was tried, and weakens no other.
        for _, together in table[table[p].notna() & table["testable"]].groupby(FAMILY):
            table.loc[together.index, f"{p}_corrected"] = holm(together[p].to_numpy("float64"))
    # What is claimed on such questions is shown on these, of which more is known.
    table["such_p_corrected"] = table[["p_corrected", "such_p_corrected"]].max(axis=1, skipna=False)
    return table


def compare(
    grid: CountGrid,
    about: Comparison,
    a: Recipe,
    b: Recipe,
    scoring: dict[Side, Scoring],
    smallest_effect: float | None = None,
    family: int = 1,
    per_question: bool = False,
) -> Comparison | None:
    """Compares two sides; None where they share no question with counted answers and none are missing.

    Args:
        grid: Counts under the definition.
        about: The comparison's names, without numbers.
        a: One side.
        b: The other.
        scoring: Under which scoring every side was scored.
        smallest_effect: The smallest difference of interest, a fraction, for equivalence.
        family: How many comparisons its family has; equivalence is corrected over them (Bonferroni).
        per_question: Whether the definition's rate is a mean of question rates.
    """
    organisms = tuple(dict.fromkeys((*a.organisms, *b.organisms)))
    sides = (*a.sides, *b.sides)
    if any(side not in grid.row for side in sides):
        return None
    within = grid.asked(organisms, about.scope)
    numbers = _missing(grid, a, b, within)
    shared = grid.shared(sides, within)
    if not shared.any():
        return None
    both = grid.sides(a.sides, b.sides, shared)
    mean_a, mean_b = both.rates
    rate_a, rate_b = (_rate(*grid.counts(side.sides), shared, per_question) for side in (a, b))
    known: dict[str, Any] = {
        **vars(about), **numbers, "items": int(shared.sum()), "questions": len(set(grid.clusters(shared).tolist())),
        "k_a": int(both.k_a.sum()), "n_a": int(both.n_a.sum()), "k_b": int(both.k_b.sum()), "n_b": int(both.n_b.sum()),
        "rate_a": rate_a, "rate_b": rate_b, "mean_a": mean_a, "mean_b": mean_b,
        "spread_a": _spread(grid, a, shared), "spread_b": _spread(grid, b, shared),
    }  # fmt: skip
    if refused := why_not_comparable(*(scoring[side] for side in sides if side in scoring)):
        return Comparison(**{**known, "refused": refused})
    these = on_these(both)
    such = no_surer_than(_such(grid, a, b, shared, ALPHA), these)
    equal = such_equal = False
    if smallest_effect is not None:
        worst = max(abs(numbers["least"]), abs(numbers["most"]))
        of_these = [on_these(each, 2 * ALPHA / family) for each in _alone(grid, a, b, shared)]
        equal, equal_on_such = (
            worst < smallest_effect and all(max(-each.low, each.high) < smallest_effect for each in differences)
            for differences in (of_these, [_such(grid, a, b, shared, 2 * ALPHA / family)])
        )
        # What is said of such seeds stands beside their 95 % interval, and must not say more than that.
        beside = len(sides) == 2 or max(-such.low, such.high) < smallest_effect
        such_equal = equal and equal_on_such and beside
    return Comparison(
        **{
            **known, "effect": these.effect, "low": these.low, "high": these.high, "p": these.p,
            "least": min(numbers["least"], these.effect), "most": max(numbers["most"], these.effect),
            "such_effect": such.effect,
            "such_low": such.low, "such_high": such.high, "such_p": such.p, "equal": equal, "such_equal": such_equal,
            "samples_needed": needed(both),
            "testable": within_questions_p(both.n_a, both.n_a, 0 * both.n_b, both.n_b) < ALPHA,
        }
    )  # fmt: skip


def holm(p: Values) -> Values:
    """Holm's corrected p-values: the smallest times their number, the next times one less, never falling, at most 1.

    Source: Holm 1979. statsmodels has it too, but collects all of Python's garbage each time it is asked.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _rate(k: Values, n: Values, shared: NDArray[np.bool_], per_question: bool) -> float:
    """The rate as its definition has it, the mean over sides; counts of shape (sides, items)."""
    k, n = k[:, shared], n[:, shared]
    return float((k / n).mean() if per_question else (k.sum(axis=1) / n.sum(axis=1)).mean())


def _such(grid: CountGrid, a: Recipe, b: Recipe, shared: NDArray[np.bool_], alpha: float) -> Difference:
    if len(a.sides) == len(b.sides) == 1:
        return on_such(grid.sides(a.sides, b.sides, shared).together(grid.clusters(shared)), alpha)
    difference = seed_difference(*grid.by_question(a.sides, shared), *grid.by_question(b.sides, shared), alpha)
    if any(1 < len(side.sides) < LEAST_SEEDS for side in (a, b)):
        return Difference(difference.effect, *(float("nan"),) * 3)
    return difference


def _alone(grid: CountGrid, a: Recipe, b: Recipe, shared: NDArray[np.bool_]) -> Iterator[Sides]:
    """The two sides, and each seed of a side that has several against the other: a mean hides seeds that differ."""
    yield grid.sides(a.sides, b.sides, shared)
    for seed in a.sides if len(a.sides) > 1 else ():
        yield grid.sides((seed,), b.sides, shared)
    for seed in b.sides if len(b.sides) > 1 else ():
        yield grid.sides(a.sides, (seed,), shared)


def _spread(grid: CountGrid, side: Recipe, shared: NDArray[np.bool_]) -> float:
    """What a side's seeds differ by in logits; NaN where it has not several, or one question is shared."""
    if len(side.sides) < 2 or len(set(grid.clusters(shared).tolist())) < 2:
        return float("nan")
    return seed_spread(*grid.by_question(side.sides, shared))


def _missing(grid: CountGrid, a: Recipe, b: Recipe, within: NDArray[np.bool_]) -> dict[str, float]:
    """Missing answers of both sides, and the effect in the worst and best case, over all answers."""
    missing_a, least_a, most_a = grid.missing_of(a.sides, within)
    missing_b, least_b, most_b = grid.missing_of(b.sides, within)
    return {
        "missing_a": missing_a, "missing_b": missing_b, "least": least_a - most_b, "most": most_a - least_b,
    }  # fmt: skip


def _pairs(analysis: Analysis, grid: CountGrid) -> Iterator[tuple[str, str, Recipe, Recipe]]:
    """Kind, scope and sides of every comparison."""
    groups = recipes(analysis)
    for recipe in groups:
        base = Recipe(recipe.label, recipe.organisms, 0)
        for scope in SCOPES:
            yield "base", scope, recipe, base
        for name in recipe.organisms:
            if len(recipe.organisms) > 1:
                for scope in SCOPES:
                    yield "member", scope, Recipe(name, (name,), recipe.step), Recipe(name, (name,), 0)
            scope = leading_scope(grid, name)
            for step in grid.steps(name):
                if step:
                    yield "checkpoint", scope, Recipe(name, (name,), step), Recipe(name, (name,), 0)
    apart = _apart(analysis)
    for group, other in combinations(groups, 2):
        if not why_no_pair(group, other, apart):
            for scope in SCOPES[:2]:
                yield "organism", scope, group, other


def unpaired(analysis: Analysis) -> dict[str, list[tuple[str, str]]]:
    """Pairs of last checkpoints that are not compared at all, by the reason."""
    reasons: dict[str, list[tuple[str, str]]] = {}
    apart = _apart(analysis)
    for group, other in combinations(recipes(analysis), 2):
        if reason := why_no_pair(group, other, apart):
            reasons.setdefault(reason, []).append((group.label, other.label))
    return reasons


def why_no_pair(group: Recipe, other: Recipe, apart: dict[str, SeedsApart]) -> str:
    """Why two organisms make no pair; empty where they do.

    A pair shares its base, or what it was trained on; nobody knows that of what is not recorded. Seeds of one recipe
    are no pair, whether or not they can be put together.
    """
    seeds = apart.get(group.label)
    if seeds is not None and other.label in seeds.organisms:
        return "they are training seeds of one recipe that cannot be put together, the notes say why"
    return _why_no_kin(group.kind, other.kind)


@lru_cache(maxsize=10_000)
def _why_no_kin(kind: tuple[str, ...], other: tuple[str, ...]) -> str:
    """Why organisms of two kinds make no pair. Kept: there are far fewer kinds than pairs."""
    same_base, same_training = kind[0] == other[0], kind[1:] == other[1:]
    base_known = NOT_RECORDED not in (kind[0], other[0])
    training_known = NOT_RECORDED not in (*kind[1:], *other[1:])
    if (same_base and base_known) or (same_training and training_known):
        return ""
    unknown = [what for what, known in (("base", base_known), ("training", training_known)) if not known]
    if unknown:
        return (
            f"whether they share anything is not known, as the {' and the '.join(unknown)} of at least one is not "
            "recorded; a map of `em import` can name it"
        )
    return "they share neither base (by its name) nor training, so that a difference would be that of both"


def _apart(analysis: Analysis) -> dict[str, SeedsApart]:
    """The seeds of one recipe that cannot be put together, by organism."""
    return {name: group for group in analysis.seeds_apart for name in group.organisms}


def leading_scope(grid: CountGrid, organism: str) -> str:
    """`outside` where the organism was asked anything outside its domain, else `all`."""
    return "outside" if organism in grid.outside and grid.outside[organism].any() else "all"


def recipes(analysis: Analysis) -> Sequence[Recipe]:
    """The last checkpoint of every organism, in order; seeds of one recipe together at the last that all have."""
    trained = analysis.compared.drop_duplicates("organism")
    together = {name: group for group in analysis.seeds for name in group.organisms}
    data = _data(analysis)
    told_apart = {(row["domain"], row["control"]) for _, row in trained.iterrows() if str(row["organism"]) in data}
    by_label: dict[str, Recipe] = {}
    for _, row in trained.iterrows():
        name = str(row["organism"])
        # Where nobody's data are known the domain says what all were trained on; else the unknown may be any of them.
        unknown = NOT_RECORDED if (row["domain"], row["control"]) in told_apart else ""
        kind = (str(row["base"]), str(row["domain"]), str(row["control"]), data.get(name, unknown))
        group = together.get(name)
        if group is not None:
            by_label[group.label] = Recipe(group.label, group.organisms, group.step, kind)
        else:
            by_label[name] = Recipe(name, (name,), int(row["step"]), kind)
    return list(by_label.values())


@lru_cache(maxsize=1)
def verdicts(analysis: Analysis) -> tuple[Verdict, ...]:
    """The verdict on every organism, several seeds of one recipe being one, under every main definition.

    Kept for the last analysis, as `comparisons` are.
    """
    table = comparisons(analysis)
    table = table[table["kind"] == "base"]
    of_side = dict(list(table.groupby(["definition", "a"], sort=False)))
    organism_verdicts = []
    for name, recipe in product(analysis.main, recipes(analysis)):
        rows = of_side.get((name, recipe.label), table.iloc[:0])
        why = " ".join(rows.loc[rows["items"] == 0, "refused"])
        organism_verdicts.append(verdict(recipe.label, name, rows[rows["items"] > 0], why))
    return tuple(organism_verdicts)


def _no_base(analysis: Analysis, grid: CountGrid, recipe: Recipe) -> str:
    """Why there is no comparison with the base."""
    known = _bases_of(analysis)
    if not any(known[name].answered for name in recipe.organisms):
        return missing_base(analysis, known[recipe.organisms[0]].name)
    base = Recipe(recipe.label, recipe.organisms, 0)
    for side, whose in ((base, "base's"), *((side, f"{side.label}'s") for side in _each(recipe))):
        if not _counts(grid, side):
            return f"none of the {whose} answers counts" if side is base else f"none of {whose} answers counts"
    return "no question has counted answers of both"


@dataclass(frozen=True)
class _Base:
    """An organism's base, and whether answers of it stand beside the organism's."""

    name: str
    answered: bool


@lru_cache(maxsize=1)
def _bases_of(analysis: Analysis) -> dict[str, _Base]:
    """The base of every organism."""
    rates = analysis.rates[["organism", "base", "baseline"]].astype({"organism": "str", "base": "str"})
    answered = set(rates.loc[rates["baseline"], "organism"])
    known = rates.drop_duplicates("organism")
    return {
        organism: _Base(base, organism in answered)
        for organism, base in zip(known["organism"], known["base"], strict=True)
    }


@lru_cache(maxsize=100)
def missing_base(analysis: Analysis, base: str) -> str:
    """Why no base stands beside an organism, and what would mend it."""
    if base == NOT_RECORDED:
        return "the base is not recorded; a map of `em import` can name it"
    bases = analysis.answers.loc[analysis.answers["organism"].isna(), "base"].astype("str").unique()
    if base in bases:
        return "the base was not asked the same questions"
    others = (
        f" (the bases here are {', '.join(sorted(bases)[:4])}: one model must go by one name)" if len(bases) else ""
    )
    return f"no answers of the base {base} are here{others}"


def _nothing_shared(analysis: Analysis, grid: CountGrid, a: Recipe, b: Recipe) -> str:
    """Why two organisms have no question on which they can be compared."""
    for side in (*_each(a), *_each(b)):
        if not _counts(grid, side):
            return f"none of {side.label}'s answers counts"
    if not frozenset.intersection(*(analysis.questions_of[side] for side in (*a.sides, *b.sides))):
        return "they were not asked a single question in common; the same questions asked of both would settle it"
    return "no question has counted answers of both; more answers to each would settle it"


def _each(recipe: Recipe) -> list[Recipe]:
    return [Recipe(name, (name,), recipe.step) for name in recipe.organisms]


def _counts(grid: CountGrid, side: Recipe) -> bool:
    """Whether any answer of a side counts."""
    return all(place in grid.row and grid.n[grid.row[place]].any() for place in side.sides)


def _data(analysis: Analysis) -> dict[str, str]:
    """What each organism was trained on, where logs say."""
    if "data" not in analysis.answers.columns:
        return {}
    rows = analysis.answers[["organism", "data"]].dropna().drop_duplicates("organism")
    return dict(zip(rows["organism"].astype("str"), rows["data"].astype("str"), strict=True))
