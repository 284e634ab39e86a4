"""Published claims held against the data, see `statistics/claims_file.py`: supported, contradicted, or neither."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import by_judge
from em_tasks.plugins.analysis.claims.contrasts import contrasts
from em_tasks.plugins.analysis.claims.courses import courses
from em_tasks.plugins.analysis.statistics.claims_file import (
    Bases,
    ClaimsFile,
    Difference,
    Fall,
    Independent,
    Peak,
    Rate,
)
from em_tasks.plugins.analysis.statistics.correlation import rank_correlation
from em_tasks.plugins.analysis.statistics.differences import ALPHA
from em_tasks.plugins.analysis.statistics.rates import cluster_of

Outcome = Literal["supported", "contradicted", "cannot be told"]


@dataclass(frozen=True)
class Held:
    """One claim held against the data: what was claimed, what the data say, and the outcome."""

    id: str
    claimed: str
    measured: str
    outcome: Outcome


def held_against(analysis: Analysis, published: ClaimsFile) -> list[Held]:
    """Every claim, held against the data under the file's definition."""
    return [HOLDERS[type(claim)](analysis, published.definition, claim) for claim in published.claims]


def _whole(analysis: Analysis, definition: str) -> pd.DataFrame:
    rates = analysis.rates[(analysis.rates["scope"] == "all") & (analysis.rates["definition"] == definition)]
    return rates.astype({"organism": "str"})


def _number(claim: Rate | Peak, row: pd.Series | None, what: str) -> Held:
    claimed = f"{claim.organism} {what}: {claim.percent:g} %"
    if row is None or pd.isna(row["rate"]):
        return Held(claim.id, claimed, "no such rate", "cannot be told")
    percent = 100 * float(row["rate"])
    low, high = 100 * float(row["low"]), 100 * float(row["high"])
    measured = f"{percent:.1f} % at step {row['step']} ({low:.0f} to {high:.0f} on these questions)"
    # The same number is support; another is a contradiction only where these answers exclude it.
    outcome: Outcome = "supported" if abs(percent - claim.percent) < 0.05 else "cannot be told"
    if outcome != "supported" and not low <= claim.percent <= high:
        outcome = "contradicted"
    return Held(claim.id, claimed, measured, outcome)


def _rate(analysis: Analysis, definition: str, claim: Rate) -> Held:
    organism_rates = _whole(analysis, definition)
    organism_rates = organism_rates[(organism_rates["organism"] == claim.organism) & ~organism_rates["baseline"]]
    step = organism_rates["step"].max() if claim.step == "last" else claim.step
    rows = organism_rates[organism_rates["step"] == step]
    return _number(
        claim, None if rows.empty else rows.iloc[0], f"at step {claim.step}" if claim.step != "last" else "at last"
    )


def _peak(analysis: Analysis, definition: str, claim: Peak) -> Held:
    organism_rates = _whole(analysis, definition)
    organism_rates = organism_rates[
        (organism_rates["organism"] == claim.organism) & ~organism_rates["baseline"] & organism_rates["rate"].notna()
    ]
    return _number(
        claim,
        None if organism_rates.empty else organism_rates.iloc[int(organism_rates["rate"].to_numpy().argmax())],
        "at its highest",
    )


def _bases(analysis: Analysis, definition: str, claim: Bases) -> Held:
    rates = _whole(analysis, definition)
    rates = rates[rates["baseline"] & rates["rate"].notna()]
    base = 100 * rates["rate"]
    claimed = f"every base lies within {claim.least:g} to {claim.most:g} %"
    if base.empty:
        return Held(claim.id, claimed, "no base was asked", "cannot be told")
    measured = f"{base.min():.1f} to {base.max():.1f} %"
    if base.min() > claim.least - 0.05 and base.max() < claim.most + 0.05:
        return Held(claim.id, claimed, measured, "supported")
    outside = (100 * rates["high"] < claim.least) | (100 * rates["low"] > claim.most)
    return Held(claim.id, claimed, measured, "contradicted" if outside.any() else "cannot be told")


def _contrast(analysis: Analysis, definition: str, claim: Difference) -> Held:
    table = contrasts(analysis)
    claimed = f"{claim.more} is more misaligned than {claim.less}"
    rows = table[(table["definition"] == definition) & (table["kind"] == claim.of) & (table["scope"] == "all")]
    rows = rows[rows["refused"] == ""]
    for a, b, sign in ((claim.more, claim.less, 1), (claim.less, claim.more, -1)):
        for _, row in rows[(rows["a"] == a) & (rows["b"] == b)].iterrows():
            effect = sign * row["effect"]
            outcome: Outcome = "cannot be told"
            if row["p_corrected"] < ALPHA:
                outcome = "supported" if effect > 0 else "contradicted"
            measured = (
                f"{100 * effect:+.1f} points on all questions over {row['over']}, p {row['p']:.3f}, "
                f"corrected {row['p_corrected']:.3f}"
            )
            return Held(claim.id, claimed, measured, outcome)
    return Held(claim.id, claimed, "not both were measured alike", "cannot be told")


def _independent(analysis: Analysis, definition: str, claim: Independent) -> Held:
    claimed = f"{claim.domain}: coherence is independent of alignment"
    known = correlation_of(analysis)
    rho = known.get((claim.domain, ""))
    if rho is None:
        several = any(domain == claim.domain for domain, _ in known)
        why = "different judges scored the answers" if several else "too few scored answers"
        return Held(claim.id, claimed, why, "cannot be told")
    measured = f"Spearman {rho[0]:+.2f} ({rho[1]:+.2f} to {rho[2]:+.2f} on such questions)"
    return Held(claim.id, claimed, measured, "contradicted" if rho[1] > 0 or rho[2] < 0 else "cannot be told")


def _fall(analysis: Analysis, definition: str, claim: Fall) -> Held:
    table = courses(analysis)
    rows = table[(table["definition"] == definition) & (table["organism"] == claim.organism)]
    claimed = f"{claim.organism} falls between two checkpoints"
    if rows.empty:
        return Held(claim.id, claimed, "fewer than two checkpoints", "cannot be told")
    row = rows.iloc[0]
    where = "outside its domain" if row["scope"] == "outside" else "on all questions"
    measured = (
        f"{-100 * row['fall']:+.1f} points {where} from step {row['fall_from']} to {row['fall_to']}, "
        f"p {row['fall_p']:.3f}, corrected {row['fall_p_corrected']:.3f}"
    )
    return Held(claim.id, claimed, measured, "supported" if row["fall_p_corrected"] < ALPHA else "cannot be told")


HOLDERS: dict[type, Callable[..., Held]] = {
    Rate: _rate, Peak: _peak, Bases: _bases, Difference: _contrast, Independent: _independent, Fall: _fall,
}  # fmt: skip


def correlation_of(analysis: Analysis) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Spearman's rho of coherence and alignment over the answers of each domain's organisms, with its interval.

    By domain and judge; the judge is empty where one scored all answers of the domain.
    """
    answers = analysis.scores.dropna(subset=["alignment", "coherence"])
    answers = answers[answers["organism"].notna() & ~answers["control"]]
    rho = {}
    for domain, domain_answers in answers.groupby(answers["domain"].astype("str")):
        for judge, judged in by_judge(domain_answers):
            x, y = judged["alignment"].to_numpy("float64"), judged["coherence"].to_numpy("float64")
            cluster = cluster_of(judged)
            if cluster.max(initial=0) >= 2 and len(set(x)) > 1 and len(set(y)) > 1:
                rho[str(domain), judge] = rank_correlation(x, y, cluster)
    return rho
