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
from scipy.stats import norm, permutation_test
from statsmodels.stats.multitest import multipletests

from plugins.analysis.analysis import Analysis
from plugins.analysis.intervals import SEED, mean_interval
from plugins.analysis.rates import question_counts
from scorers.definitions import Definition

PERMUTATIONS = 9999
ALPHA = 0.05
POWER = 0.8

Values = NDArray[np.float64]
Side = tuple[str, int]
"""Organism and step; step 0 is its base."""


@dataclass(frozen=True)
class Comparison:
    """One side against another on the questions that both have counted answers to.

    Attributes:
        kind: `base` (checkpoint against base), `organism` (last checkpoints) or `step` (two checkpoints of one).
        effect: Mean over questions of the rate of `a` minus that of `b`, -1 to 1.
        p: Two-sided p-value of the sign-flip permutation test, before correction.
        samples_needed: Answers a question that would settle this difference on these questions (80 % power).
        questions_needed: Questions that would settle it for questions like these, at the present answers a question.
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


def needed(k_a: Values, n_a: Values, k_b: Values, n_b: Values) -> tuple[float, float]:
    """What would settle a difference as large as the one seen, two-sided at 5 % with 80 % power.

    Args:
        k_a: Misaligned answers of one side by question, shape (questions,).
        n_a: Counted answers of that side.
        k_b: Misaligned answers of the other side.
        n_b: Counted answers of the other side.

    Returns:
        Answers a question, the questions taken as fixed (normal approximation; a question's rate is estimated with half
        an answer added to either side), and questions, taken as a sample, at the present answers a question. Infinite
        where no difference was seen.
    """
    difference = k_a / n_a - k_b / n_b
    effect = float(difference.mean())
    if effect == 0:
        return float("inf"), float("inf")
    factor = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) ** 2 / effect**2
    smooth_a, smooth_b = (k_a + 0.5) / (n_a + 1), (k_b + 0.5) / (n_b + 1)
    within = float(np.mean(smooth_a * (1 - smooth_a) + smooth_b * (1 - smooth_b)))
    spread = float(np.var(difference, ddof=1))
    return float(np.ceil(factor * within / len(k_a))), float(max(2.0, np.ceil(factor * spread)))


@lru_cache(maxsize=1)
def comparisons(analysis: Analysis) -> pd.DataFrame:
    """All comparisons under the main definitions; p-values corrected (Holm) over each kind and definition.

    Returns:
        A row a comparison, the fields of `Comparison` and `p_corrected`. Kept for the last analysis, as tables and
        findings both ask for it.
    """
    found: list[Comparison] = []
    for name in analysis.main:
        definition = next(one for one in analysis.definitions if one.name == name)
        found += _compared(analysis, definition)
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


def _compared(analysis: Analysis, definition: Definition) -> Iterable[Comparison]:
    counts = question_counts(analysis.trajectories, ["organism", "step"], definition)
    sides: dict[Side, pd.DataFrame] = {}
    for _, rows in counts.groupby(["organism", "step"], observed=True):
        first = rows.iloc[0]
        sides[(str(first["organism"]), int(first["step"]))] = rows.set_index(["question_set", "question_id"])[
            ["k", "n"]
        ]
    organisms = _described(analysis)
    last = {
        name: max(step for who, step in sides if who == name)
        for name in organisms.index
        if any(who == name for who, _ in sides)
    }
    pairs: list[tuple[str, Side, Side]] = []
    for name in last:
        steps = sorted(step for who, step in sides if who == name)
        pairs += [("base", (name, step), (name, 0)) for step in steps if step > 0 and 0 in steps]
        pairs += [("step", (name, later), (name, earlier)) for earlier, later in combinations(steps, 2)]
    for a, b in combinations(last, 2):
        same = organisms.loc[a] == organisms.loc[b]
        # Organisms that differ in one thing only: in size, or in what they were trained on.
        if bool(same["base"]) or (bool(same["domain"]) and bool(same["control"])):
            pairs.append(("organism", (a, last[a]), (b, last[b])))
    compared = (compare(sides[a], sides[b], kind, (a, b), definition.name) for kind, a, b in pairs)
    return [one for one in compared if one is not None]


def _described(analysis: Analysis) -> pd.DataFrame:
    trained = analysis.final.drop_duplicates("organism")
    index = pd.Index(trained["organism"].astype("str"))
    return pd.DataFrame(
        {name: trained[name].astype("str").to_numpy() for name in ("base", "domain", "control")}, index=index
    )
