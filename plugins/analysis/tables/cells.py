"""Cells of tables for people: percentages, intervals, differences, and the counts that stand beside every rate."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.statistics.differences import ALPHA
from em_tasks.plugins.analysis.statistics.power import SETTLED_BY_NOBODY
from em_tasks.plugins.analysis.statistics.rates import LEFT_OUT
from em_tasks.plugins.analysis.statistics.seed_intervals import LEAST_SEEDS, VERY_UNLIKE

LEFT_OUT_HEAD = "u/r/i/t"
"""Head of the column that `left_out` fills."""

LEFT_OUT_MEANS = "unscored/refused/incoherent/truncated"
"""The same in full; an answer may be several of these."""


def rounded(value: float, digits: int = 1) -> Decimal:
    """A number rounded once, halves away from zero as readers do; what floating point did to it is not seen."""
    return Decimal(repr(round(float(value), 9))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def percent(rate: float) -> str:
    """A fraction as a percentage; said in words where nothing was counted."""
    return "no rate" if pd.isna(rate) else f"{rounded(100 * rate)}"


def between(low: float, high: float) -> str:
    """`25.8 to 65.8`, of fractions; empty where there is no interval."""
    return "" if pd.isna(low) or pd.isna(high) else f"{rounded(100 * low)} to {rounded(100 * high)}"


def points(difference: float) -> str:
    """A signed difference of two rates in percentage points."""
    # A zero that floating point left below zero is no decrease.
    return "" if pd.isna(difference) else f"{rounded(100 * difference) + Decimal(0):+}"


def between_points(low: float, high: float) -> str:
    """`+2.1 to +25.8`, of fractions in percentage points; empty where there is no interval."""
    return "" if pd.isna(low) or pd.isna(high) else f"{points(low)} to {points(high)}"


def p_text(p: float) -> str:
    """`0.012`, or `below 0.001`."""
    return "below 0.001" if p < 0.001 else f"{rounded(p, 3)}"


def p_pair(row: pd.Series, p: str = "p") -> str:
    """`p 0.016, corrected 0.062`: both, as the interval that stands beside them belongs to the first.

    Args:
        row: A row with the columns `p` and `<p>_corrected`.
        p: Name of the column before correction.
    """
    return f"p {p_text(row[p])}, corrected {p_text(row[f'{p}_corrected'])}"


def whole(value: float) -> str:
    """A number of answers that would settle a difference."""
    if not np.isfinite(value):
        return "no difference seen"
    return f"{value:,.0f}" if value <= SETTLED_BY_NOBODY else f"more than {SETTLED_BY_NOBODY:,}"


def kind(row: pd.Series | Mapping[Hashable, Any]) -> str:
    """`base`, the domain, or the domain and `control`."""
    if row["baseline"]:
        return "base"
    return f"{row['domain']} control" if row["control"] else str(row["domain"])


def counted(rows: pd.DataFrame) -> str:
    """`8/20`: misaligned of counted answers, of all rows together."""
    return f"{rows['k'].sum()}/{rows['n'].sum()}"


def left_out(rows: pd.DataFrame) -> str:
    """`1/0/3/?`: what `LEFT_OUT_MEANS` says, of all rows together; `?` where nothing says whether any was cut off."""
    return left_out_in(rows[LEFT_OUT].to_dict("records"))


def left_out_in(rows: Sequence[Mapping[Hashable, Any]]) -> str:
    """The same of rows as mappings."""
    known = [[int(row[name]) for row in rows if not pd.isna(row[name])] for name in LEFT_OUT]
    return "/".join(str(sum(counts)) if counts else "?" for counts in known)


@lru_cache(maxsize=1)
def _rows(analysis: Analysis) -> list[dict[Hashable, Any]]:
    """Counts of each row of `Analysis.rates`."""
    return analysis.rates[["n", *LEFT_OUT]].to_dict("records")


def left_out_of(analysis: Analysis, row: pd.Series, side: str) -> str:
    """`left_out` of one side (`a` or `b`) of a row of `claims.comparisons`, on all it was asked of the row's scope."""
    label, step = str(row[side]), int(row[f"{side}_step"])
    together = {group.label: group.organisms for group in analysis.seeds}
    organisms = together.get(label, (label,))
    scope = {"inside": "in_domain"}.get(str(row["scope"]), str(row["scope"]))
    places = places_of(analysis, str(row["definition"]), organisms[:1] if step == 0 else organisms, step, scope)
    return left_out_in([_rows(analysis)[place] for place in places])


def beyond_shared(analysis: Analysis, row: pd.Series) -> str:
    """The rate of side a on all its questions of the scope, where the sides share only some: `61.9 (13/21)`; else ``.

    Args:
        analysis: What the row is of.
        row: A row of `claims.comparisons`.
    """
    label = str(row["a"])
    organisms = {group.label: group.organisms for group in analysis.seeds}.get(label, (label,))
    scope = {"inside": "in_domain"}.get(str(row["scope"]), str(row["scope"]))
    places = places_of(analysis, str(row["definition"]), organisms, int(row["a_step"]), scope)
    if sum(_rows(analysis)[place]["n"] for place in places) == row["n_a"]:
        return ""
    rates = analysis.rates.iloc[places]
    return f"{percent(float(rates['rate'].mean()))} ({counted(rates)})"


def nothing_of(answers: Iterable[tuple[str, int]], scope: str) -> str:
    """Why an organism has no rate on the questions of a scope: `not asked`, `none counted` or `domains not known`.

    Args:
        answers: Scope and number of answers of each of its rows of `Analysis.final` under one definition.
        scope: `outside`, `in_domain`, `out_of_domain` or `general`.
    """
    of_scope: Counter[str] = Counter()
    for name, count in answers:
        of_scope[name] += count
    if of_scope[scope]:
        return "none counted"
    return "not asked" if of_scope["outside"] + of_scope["in_domain"] >= of_scope["all"] else "domains not known"


def of_seeds(row: pd.Series) -> bool:
    """Whether a side of a comparison is several training seeds of one recipe."""
    return bool(max(row["seeds_a"], row["seeds_b"]) > 1)


def population(row: pd.Series, meant: str) -> str:
    """What a comparison's claim is of: `these questions`, or `such questions`, with the seeds where there are several.

    Args:
        row: A row of `claims.comparisons`.
        meant: `these` or `such`.
    """
    return f"{meant} {'seeds and ' if of_seeds(row) else ''}questions"


def such_unknown(row: pd.Series) -> str:
    """Why nothing can be said of such questions, or such seeds."""
    if row["questions"] < 2:
        return "one question says nothing of others"
    return f"two seeds say too little of such seeds, {LEAST_SEEDS} are needed"


def with_care(row: pd.Series) -> str:
    """A warning where a claim of such seeds rests on a test that raises more than 5 % of false alarms; else empty.

    That is where seeds are very unlike, and against one base, or not equally many or equally unlike on both sides.
    """
    seeds_a, seeds_b = int(row["seeds_a"]), int(row["seeds_b"])
    # Seeds without a misaligned answer, or with nothing else, are not seen to differ.
    sides = ((row["spread_a"], seeds_a), (row["spread_b"], seeds_b))
    spreads = sorted(0.0 if np.isnan(spread) else float(spread) for spread, seeds in sides if seeds > 1)
    if not row["such_p_corrected"] < ALPHA or not spreads or spreads[-1] < VERY_UNLIKE:
        return ""
    if min(seeds_a, seeds_b) == 1:
        which = f"{max(seeds_a, seeds_b)} against one base"
    else:
        which = f"{seeds_a} against {seeds_b}" if seeds_a != seeds_b else ""
        which = which or (f"those of the other side less so ({spreads[0]:.1f})" if 2 * spreads[0] < spreads[-1] else "")
    if not which:
        return ""
    return (
        f"seeds are very unlike here ({spreads[-1]:.1f} in logits), {which}: of such seeds the test raises more false "
        "alarms than 5 %, and more seeds are needed"
    )


def unlike_weights(row: pd.Series) -> bool:
    """Whether a comparison's difference is, to a tenth of a point, another than that of the rates beside it."""
    return bool(abs(row["rate_a"] - row["rate_b"] - row["effect"]) >= 0.0005)


def rows_of(
    analysis: Analysis, definition: str, organisms: Sequence[str], step: int, scope: str = "all"
) -> pd.DataFrame:
    """The rows of `Analysis.rates` on the questions of a scope of some organisms at one step (0 for their base)."""
    return analysis.rates.iloc[places_of(analysis, definition, organisms, step, scope)]


def places_of(analysis: Analysis, definition: str, organisms: Sequence[str], step: int, scope: str) -> list[int]:
    """Where these rows stand in `Analysis.rates`."""
    known = analysis.rate_places
    return sorted(place for name in set(organisms) for place in known.get((definition, name, step, scope), ()))
