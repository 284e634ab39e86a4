"""Findings: the report's sentences, each the outcome of a test, in the order in which a reader wants them.

First what is shown, a line an organism; then what is shown not to be; then what cannot be told, and what would settle
it.
Sentences are about the first main definition; what the others say of an organism stands in its line and in tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.claims.comparisons import comparisons, unpaired, verdicts
from em_tasks.plugins.analysis.claims.contrasts import contrasts
from em_tasks.plugins.analysis.claims.courses import courses
from em_tasks.plugins.analysis.claims.published import held_against
from em_tasks.plugins.analysis.claims.verdicts import Verdict, shown
from em_tasks.plugins.analysis.report.notes import listed
from em_tasks.plugins.analysis.statistics.differences import ALPHA
from em_tasks.plugins.analysis.statistics.power import SETTLED_BY_NOBODY
from em_tasks.plugins.analysis.tables.cells import (
    between_points,
    beyond_shared,
    of_seeds,
    p_pair,
    p_text,
    percent,
    points,
    population,
    such_unknown,
    unlike_weights,
    with_care,
)

Outcome = Literal["shown", "shown not", "unknown"]

HEADINGS: dict[Outcome, str] = {
    "shown": "Shown",
    "shown not": "Shown not to be",
    "unknown": "What cannot be told, and what would settle it",
}
"""Headings of the findings by outcome, in the order of the report."""

HOW = (
    "On these questions means these and no others: answers are permuted within questions (mid-p). On such questions "
    "means the questions they stand for: a question with all its forms and paraphrases is one draw (t over questions). "
    "Rates are their definition's, differences those of mean question rates. Last checkpoints against their bases "
    "outside the training domain are the primary family. An interval (95 %) goes with the p beside it, which is that "
    "of this comparison alone; `corrected` is the same p after correction within its family (Holm), and only what that "
    "leaves below 0.05 is shown. Of such questions nothing is surer than of these: the interval contains theirs, and p "
    "is never the smaller. Where seeds are named, these means these training runs, and such the recipe's seeds "
    "in general; all else is said of single training runs. Narrow is what is shown inside the domain and not shown "
    "outside, where it may be all the same."
)
"""What the sentences' terms mean."""


@dataclass(frozen=True)
class Finding:
    """One sentence for the report.

    Attributes:
        about: Organism, pair, or `all`.
        question: What was tested: `emerged`, `course`, `contrast`, `differ` or `claim`.
        verdict: Its outcome.
        sentence: For readers.
        definition: The EM definition that it is about.
    """

    about: str
    question: str
    verdict: Outcome
    sentence: str
    definition: str = ""


def findings(analysis: Analysis) -> list[Finding]:
    """All findings, in the order of the report."""
    lead = analysis.main[0]
    answered = [
        *_organisms(analysis, lead),
        *_contrasts(analysis, lead),
        *_pairs(analysis, lead),
        *_courses(analysis, lead),
        *_claims(analysis),
    ]
    order = list(HEADINGS)
    return sorted(answered, key=lambda finding: order.index(finding.verdict))


def _organisms(analysis: Analysis, lead: str) -> Iterator[Finding]:
    every = verdicts(analysis)
    for verdict in (verdict for verdict in every if verdict.definition == lead):
        others = [other for other in every if other.organism == verdict.organism and other.definition != lead]
        yield Finding(verdict.organism, "emerged", _outcome(verdict), _line(analysis, verdict, others), lead)


def _outcome(verdict: Verdict) -> Outcome:
    if verdict.these in ("broad", "both", "narrow", "misaligned", "less than its base"):
        return "shown"
    return "shown not" if verdict.these == "shown not to differ" else "unknown"


def _line(analysis: Analysis, verdict: Verdict, others: Sequence[Verdict]) -> str:
    """One organism: its verdict, then rates and differences outside and inside its domain, for both populations."""
    if verdict.these == "untested":
        return f"{verdict.organism}: untested under `{verdict.definition}`: {verdict.why}."
    row = verdict.outside if verdict.outside is not None else verdict.inside
    assert row is not None
    wording = (
        verdict.these
        if verdict.these == verdict.such
        else f"{verdict.these} on {population(row, 'these')}, {verdict.such} on {population(row, 'such')}"
    )
    if analysis.smallest_effect is not None:
        wording = wording.replace("not to differ", f"not to differ by {percent(analysis.smallest_effect)} points")
    parts = [f"{verdict.organism} @ {analysis.step_text(row['a'], row['a_step'])}: {wording} (`{verdict.definition}`)."]
    if verdict.outside is not None:
        where = "Outside its domain" if row["scope"] == "outside" else "On all questions, whose domains are not known,"
        parts.append(f"{where} {_against_base(verdict.outside, beyond_shared(analysis, verdict.outside))}")
    if verdict.inside is not None:
        parts.append(f"Inside {_against_base(verdict.inside, beyond_shared(analysis, verdict.inside))}")
    parts += [_with_care(verdict), *_collapsed(analysis, verdict), *_missing(row)]
    if verdict.these == "not shown":
        parts.append(_settling(row))
    if others:
        parts += [f"{_briefly(other)}." for other in others]
    return " ".join(part for part in parts if part)


def _against_base(row: pd.Series, beyond: str = "") -> str:
    """The rate with its counts and the base's, and the difference for both populations.

    Args:
        row: The comparison.
        beyond: See `cells.beyond_shared`.
    """
    counts = f"{percent(row['rate_a'])} % ({row['k_a']}/{row['n_a']}; base {row['k_b']}/{row['n_b']})"
    if beyond:
        counts += f" on the {row['items']} questions with counted answers of both ({beyond} on all)"
    if not row["testable"]:
        return f"{counts}, too few answers for any test."
    difference = f"{points(row['effect'])} points"
    if unlike_weights(row):
        difference += ", each question weighing alike"
    these = f"on {population(row, 'these')} {between_points(row['low'], row['high'])}, {p_pair(row)}"
    if np.isnan(row["such_p"]):
        return f"{counts}: {difference}, {these}; {such_unknown(row)}."
    such = f"on {population(row, 'such')} {_such_effect(row)}{between_points(row['such_low'], row['such_high'])}"
    return f"{counts}: {difference}, {these}; {such}, {p_pair(row, 'such_p')}."


def _such_effect(row: pd.Series, sign: int = 1) -> str:
    """The difference that an interval on such questions is of, where it is another than on these; else empty."""
    if abs(row["such_effect"] - row["effect"]) < 0.0005:
        return ""
    return f"{points(sign * row['such_effect'])} points (a question with all its forms and each seed weighing alike), "


def _with_care(verdict: Verdict) -> str:
    """A warning beside a verdict on such seeds whose test is known to raise too many false alarms."""
    warned = [with_care(row) for row in (verdict.outside, verdict.inside) if row is not None]
    warning = next((text for text in warned if text), "")
    return f"With care: {warning}." if warning else ""


def _collapsed(analysis: Analysis, verdict: Verdict) -> list[str]:
    """A warning beside the verdict on an organism most of whose answers are incoherent."""
    together = {group.label: group.organisms for group in analysis.seeds}
    names = together.get(verdict.organism, (verdict.organism,))
    final = analysis.compared
    rows = final[(final["definition"] == verdict.definition) & (final["scope"] == "all")]
    rows = rows[rows["organism"].astype("str").isin(names)]
    incoherent, every = int(rows["incoherent"].sum()), int(rows["answers"].sum())
    if 2 * incoherent <= every:
        return []
    return [f"{incoherent:,} of its {every:,} answers are incoherent: it may be broken rather than misaligned."]


def _missing(row: pd.Series) -> list[str]:
    missing = int(row["missing_a"] + row["missing_b"])
    if not missing:
        return []
    sentence = (
        f"{missing} answers have no score; were they as bad or as good as can be, the difference were "
        f"{between_points(row['least'], row['most'])}."
    )
    if shown(row, "these") > 0 and row["least"] <= 0:
        sentence = f"{sentence[:-1]}: what is shown holds only if they are like the others."
    return [sentence]


def _settling(row: pd.Series) -> str:
    """How much would settle a difference of the size seen; for other questions that takes a simulation of its own."""
    if not row["testable"]:
        return "More answers to each question, or more questions, are needed before anything can show."
    if not row["n_a"] < row["samples_needed"] * row["items"] <= SETTLED_BY_NOBODY * row["items"]:
        return ""
    return (
        f"Tested alone, a difference of this size takes about {row['samples_needed']:.0f} answers to each of these "
        "questions (80 % power); what more questions would show `em plan` says."
    )


def _briefly(other: Verdict) -> str:
    """What another definition says of the same organism."""
    row = other.outside if other.outside is not None else other.inside
    if row is None or other.these == "untested":
        return f"Under `{other.definition}` untested: {other.why}"
    word = other.these if other.these == other.such else f"{other.these} on {population(row, 'these')} alone"
    return f"Under `{other.definition}` {word} ({percent(row['rate_a'])} %, {row['k_a']}/{row['n_a']})"


def _contrasts(analysis: Analysis, lead: str) -> Iterator[Finding]:
    """Domains over sizes and sizes over domains, outside the domains of all where such questions were asked."""
    every = contrasts(analysis)
    every = every[(every["definition"] == lead) & every["kind"].isin(["domain", "size"])]
    for kind, of_kind in every.groupby("kind", sort=False):
        table = of_kind[of_kind["refused"] == ""]
        scope = "outside" if (table["scope"] == "outside").any() else "all"
        rows = table[table["scope"] == scope]
        where = "outside both domains" if scope == "outside" else "on all questions"
        sure = rows[rows["p_corrected"] < ALPHA]
        for _, row in sure.iterrows():
            yield Finding(*_sure_contrast(row, where, lead))
        if len(rest := rows[~(rows["p_corrected"] < ALPHA)]):
            pairs = [
                f"{row['a']} against {row['b']} {points(row['effect'])} points ({p_pair(row)})"
                for _, row in rest.iterrows()
            ]
            sentence = (
                f"That the organisms of one {kind} here are more misaligned than those of another {where} is "
                f"not shown on these questions (`{lead}`): {listed(pairs, 4)}."
            )
            yield Finding("all", "contrast", "unknown", sentence, lead)
        refused = of_kind[(of_kind["refused"] != "") & (of_kind["scope"] == scope)]
        for reason, alike in refused.groupby("refused", sort=False):
            named = [f"{row['a']} against {row['b']} over {row['over']}" for _, row in alike.iterrows()]
            yield Finding("all", "contrast", "unknown", f"Not pooled: {listed(named, 4)}: {reason}.", lead)


def _sure_contrast(row: pd.Series, where: str, lead: str) -> tuple[str, str, Outcome, str, str]:
    more, less, sign = (row["a"], row["b"], 1) if row["effect"] > 0 else (row["b"], row["a"], -1)
    low, high = sorted((sign * row["low"], sign * row["high"]))
    such = sorted((sign * row["such_low"], sign * row["such_high"]))
    these_said = f"on these {row['questions']} questions {between_points(low, high)}, {p_pair(row)}"
    such_said = f"on such questions {_such_effect(row, sign)}{between_points(*such)}, {p_pair(row, 'such_p')}"
    each = row["organisms"] // 2
    runs = f", {row['runs']} training runs" if row["runs"] > row["organisms"] else ""
    sentence = (
        f"The {each} {more} organisms are more misaligned than the {each} {less} ones, {row['over']} together{runs}, "
        f"{where} (`{lead}`): {points(abs(row['effect']))} points, {these_said}; {such_said}."
    )
    return f"{more} over {less}", "contrast", "shown", sentence, lead


def _pairs(analysis: Analysis, lead: str) -> Iterator[Finding]:
    """Pairs of organisms that share base or training, in a sentence over what was corrected together; and the rest."""
    table = comparisons(analysis)
    rows = table[(table["kind"] == "organism") & (table["definition"] == lead)]
    tested = rows[(rows["refused"] == "") & rows["testable"]]
    scope = "outside" if (tested["scope"] == "outside").any() else "all"
    where = "outside both domains" if scope == "outside" else "on all questions"
    tested = tested[tested["scope"] == scope]
    if len(tested):
        yield _tested_pairs(tested, where, lead)
    reasons = {reason: [" and ".join(pair) for pair in pairs] for reason, pairs in unpaired(analysis).items()}
    refused = {
        (a, b, of_scope): str(reason)
        for a, b, of_scope, reason in rows[["a", "b", "scope", "refused"]].itertuples(index=False)
    }
    done = set(zip(tested["a"], tested["b"], strict=True))
    for a, b in dict.fromkeys((a, b) for a, b, _ in refused if (a, b) not in done):
        if (a, b, scope) in refused:
            reason = refused[a, b, scope] or "too few answers for any test"
        else:
            nowhere = "outside both domains no question has counted answers of both; their table has all questions"
            reason = refused[a, b, "all"] or nowhere
        reasons.setdefault(reason, []).append(f"{a} and {b}")
    for reason, names in reasons.items():
        yield Finding("all", "differ", "unknown", f"Not compared: {listed(names, 4)}: {reason}.", lead)


def _tested_pairs(tested: pd.DataFrame, where: str, lead: str) -> Finding:
    sure = tested[tested["p_corrected"] < ALPHA]
    named = []
    for _, row in sure.sort_values("p").iterrows():
        higher, lower = (row["a"], row["b"]) if row["effect"] > 0 else (row["b"], row["a"])
        weighed = ", each question weighing alike" if unlike_weights(row) else ""
        named.append(f"{higher} over {lower} by {points(abs(row['effect']))} points{weighed}")
    pairs = f"{len(tested)} pair{'s' if len(tested) > 1 else ''}"
    and_seeds = " and for these seeds" if any(of_seeds(row) for _, row in tested.iterrows()) else ""
    sentence = (
        f"Of {pairs} of last checkpoints that share their base or, as far as is recorded, their training, "
        f"{len(named) or 'none'} {'are' if len(named) > 1 else 'is'} shown to differ {where} on these "
        f"questions{and_seeds} (`{lead}`, corrected over all {len(tested)})"
        f"{f': {listed(named, 4)}' if named else ''}."
    )
    return Finding("all", "differ", "shown" if named else "unknown", sentence, lead)


def _courses(analysis: Analysis, lead: str) -> Iterator[Finding]:
    table = courses(analysis)
    table = table[table["definition"] == lead]
    if table.empty:
        return
    where = "outside the domain" if (table["scope"] == "outside").all() else "on the questions of each trajectory"
    for _, row in table[table["fall_p_corrected"] < ALPHA].iterrows():
        sentence = (
            f"{row['organism']} falls {where}: {points(-row['fall'])} points from step {row['fall_from']} to "
            f"{row['fall_to']}, {p_pair(row, 'fall_p')} on these questions (`{lead}`)."
        )
        yield Finding(row["organism"], "course", "shown", sentence, lead)
    for _, row in table[table["rise_p_corrected"] < ALPHA].iterrows():
        sentence = (
            f"{row['organism']} leaps {where}: {points(row['rise'])} points from step {row['rise_from']} to the next, "
            f"{row['rise_to']}, {p_pair(row, 'rise_p')} on these questions (`{lead}`)."
        )
        yield Finding(row["organism"], "course", "shown", sentence, lead)
    onset = table[table["onset_by"].notna()]
    if len(onset):
        each = [
            f"{row['organism']} {int(row['onset_by'])}"
            + (f" (shown not to differ up to {row['onset_after']})" if row["onset_after"] else "")
            for _, row in onset.iterrows()
        ]
        sentence = (
            f"First step at which the rate {where} is shown to be above the base's, corrected within each trajectory: "
            f"{listed(each, 8)} (`{lead}`, on these questions)."
        )
        yield Finding("all", "course", "shown", sentence, lead)
    flat = table[~(table["fall_p_corrected"] < ALPHA)]
    if len(flat):
        largest = flat[flat["fall"] >= flat["fall"].max() - 1e-9]
        whose = listed([f"{name}'s" for name in largest["organism"]], 3)
        fall, p = float(largest["fall"].iloc[0]), p_text(largest["fall_p_corrected"].min())
        sentence = (
            f"Whether the trajectories of {listed(flat['organism'], 8)} fall anywhere {where} cannot be told (`{lead}`)"
            + (
                f"; the largest fall is {whose}, {points(-fall)} points, corrected p {p}."
                if fall > 0
                else ": none does in these answers."
            )
        )
        yield Finding("all", "course", "unknown", sentence, lead)


def _claims(analysis: Analysis) -> Iterator[Finding]:
    """What the data say of claims that somebody published; a sentence an outcome, the numbers are in a table."""
    if analysis.published is None:
        return
    in_words: dict[str, tuple[Outcome, str]] = {
        "supported": ("shown", "supported"),
        "contradicted": ("shown not", "contradicted"),
        "cannot be told": ("unknown", "neither supported nor contradicted"),
    }
    every = held_against(analysis, analysis.published)
    for outcome, (verdict, words) in in_words.items():
        claims = [f"{claim.claimed} ({claim.measured})" for claim in every if claim.outcome == outcome]
        if claims:
            sentence = (
                f"{len(claims)} of {len(every)} claims of {analysis.published.source} "
                f"{'is' if len(claims) == 1 else 'are'} {words} (`{analysis.published.definition}`): "
                f"{'; '.join(claims)}."
            )
            yield Finding("all", "claim", verdict, sentence, analysis.published.definition)
