"""Tables of claims: a verdict an organism, pooled contrasts, trajectories, published claims, correlations."""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.claims.comparisons import verdicts as verdicts_of
from em_tasks.plugins.analysis.claims.contrasts import contrasts as contrasts_of
from em_tasks.plugins.analysis.claims.courses import courses
from em_tasks.plugins.analysis.claims.judge_errors import known_judges
from em_tasks.plugins.analysis.claims.published import correlation_of, held_against
from em_tasks.plugins.analysis.claims.verdicts import Verdict
from em_tasks.plugins.analysis.tables.cells import (
    LEFT_OUT_HEAD,
    between_points,
    beyond_shared,
    left_out_of,
    nothing_of,
    p_pair,
    p_text,
    percent,
    points,
    such_unknown,
    unlike_weights,
    with_care,
)


def verdicts(analysis: Analysis) -> pd.DataFrame:
    """Verdicts at the last checkpoint: rates; difference from the base in points (95 %; p of it alone; p corrected)."""
    rows = []
    for verdict in verdicts_of(analysis):
        row = verdict.outside if verdict.outside is not None else verdict.inside
        rows.append(
            {
                "definition": verdict.definition,
                "organism": verdict.organism,
                "verdict": verdict.these
                if verdict.these == verdict.such
                else f"{verdict.these} (such: {verdict.such})",
                "outside % (k/n)": _rate(analysis, verdict, verdict.outside, "outside"),
                "inside % (k/n)": _rate(analysis, verdict, verdict.inside, "in_domain"),
                "all % (k/n)": _pooled(analysis, verdict),
                "base % (k/n)": "" if row is None else _counts(row["rate_b"], row["k_b"], row["n_b"]),
                "outside, on these questions": _difference(verdict.outside, ""),
                "outside, on such questions": _difference(verdict.outside, "such_"),
                "inside, on these questions": _difference(verdict.inside, ""),
                LEFT_OUT_HEAD: "" if row is None else left_out_of(analysis, row, "a"),
                "judge's calibration": _calibration(analysis, row),
                "missing scores, and the difference they leave": _missing(row),
            }
        )
    return pd.DataFrame(rows)


def contrasts(analysis: Analysis) -> pd.DataFrame:
    """Contrasts over several organisms or checkpoints: domains over sizes, sizes over domains, one organism's steps."""
    table = contrasts_of(analysis)
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "of": table["kind"].replace({"checkpoints": "one organism alone"}),
            "questions of": table["scope"],
            "side": table["a"],
            "against": table["b"],
            "over": table["over"],
            "organisms": table["organisms"],
            "training runs": table["runs"],
            "questions": table["questions"],
            "mean over questions %": [_blank(percent(value), value) for value in table["rate_a"]],
            "against %": [_blank(percent(value), value) for value in table["rate_b"]],
            "difference": [points(value) for value in table["effect"]],
            "these: 95 %": _intervals(table, "low", "high"),
            "these: p": [_p(value) for value in table["p"]],
            "these: corrected p": [_p(value) for value in table["p_corrected"]],
            "such: difference": [points(value) for value in table["such_effect"]],
            "such: 95 %": _intervals(table, "such_low", "such_high"),
            "such: p": [_p(value) for value in table["such_p"]],
            "such: corrected p": [_p(value) for value in table["such_p_corrected"]],
            "not pooled": table["refused"],
        }
    )


def trajectories(analysis: Analysis) -> pd.DataFrame:
    """Courses of trajectories: largest fall, largest rise between neighbours (on these questions), and onset."""
    table = courses(analysis)
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "organism": table["organism"],
            "questions of": table["scope"],
            "checkpoints": table["checkpoints"],
            "items": table["items"],
            "largest fall": [points(-value) if value > 0 else "none" for value in table["fall"]],
            "from, to step": _steps(table, "fall"),
            "corrected p": [_p(value) for value in table["fall_p_corrected"]],
            "largest rise": [points(value) for value in table["rise"]],
            "from, to next": [f"{row['rise_from']}, {row['rise_to']}" for _, row in table.iterrows()],
            "its corrected p": [_p(value) for value in table["rise_p_corrected"]],
            "above its base by step": ["not shown" if np.isnan(value) else int(value) for value in _known(table)],
            "equal to its base up to": [value or "not shown" for value in table["onset_after"]],
        }
    )


def published_claims(analysis: Analysis) -> pd.DataFrame:
    """Published claims held against the data; of rates on all questions, of falls outside the domain where asked."""
    if analysis.published is None:
        return pd.DataFrame()
    rows = [vars(claim) for claim in held_against(analysis, analysis.published)]
    return pd.DataFrame(rows).assign(source=analysis.published.source, definition=analysis.published.definition)


def coherence_and_alignment(analysis: Analysis) -> pd.DataFrame:
    """Coherence against alignment over answers: Spearman's rho by domain, 95 % interval on such questions."""
    return pd.DataFrame(
        [
            {
                "organisms of": f"{domain}, judged by {judge}" if judge else domain,
                "rho": f"{rho:+.2f}",
                "95 % interval": f"{low:+.2f} to {high:+.2f}",
            }
            for (domain, judge), (rho, low, high) in correlation_of(analysis).items()
        ]
    )


def _known(table: pd.DataFrame) -> list[float]:
    return [float(value) for value in table["onset_by"].astype("float64")]


def _steps(table: pd.DataFrame, move: str) -> list[str]:
    return [f"{row[f'{move}_from']}, {row[f'{move}_to']}" if row[move] > 0 else "" for _, row in table.iterrows()]


def _intervals(table: pd.DataFrame, low: str, high: str) -> list[str]:
    return [between_points(*pair) for pair in zip(table[low], table[high], strict=True)]


def _blank(cell: str, value: float) -> str:
    return "" if pd.isna(value) else cell


def _p(value: float) -> str:
    return "" if pd.isna(value) else p_text(value)


def _counts(rate: float, k: int, n: int) -> str:
    return f"{percent(rate)} ({k}/{n})"


def _rate(analysis: Analysis, verdict: Verdict, row: pd.Series | None, scope: str) -> str:
    """The rate that was compared with the base's; without such a comparison the organism's own, or why it has none."""
    if row is None:
        final = _final(analysis, verdict)
        of_scope = [each for each in final if each["scope"] == scope]
        counted = any(each["n"] for each in of_scope)
        asked = ((each["scope"], each["answers"]) for each in final)
        return _together(of_scope) if counted else nothing_of(asked, scope)
    where = " of all, domains not known" if row["scope"] == "all" else ""
    beyond = beyond_shared(analysis, row)
    more = f"; {beyond} with questions that the base has no counted answer to" if beyond else ""
    return _counts(row["rate_a"], row["k_a"], row["n_a"]) + where + more


def _pooled(analysis: Analysis, verdict: Verdict) -> str:
    """The rate on all questions, whether or not the base was asked them, as its definition has it."""
    return _together([each for each in _final(analysis, verdict) if each["scope"] == "all"])


def _final(analysis: Analysis, verdict: Verdict) -> list[dict[Hashable, Any]]:
    """The last checkpoint's rates under a verdict's definition, a row a scope and seed."""
    return _finals(analysis).get((verdict.definition, verdict.organism), [])


@lru_cache(maxsize=1)
def _finals(analysis: Analysis) -> dict[tuple[str, str], list[dict[Hashable, Any]]]:
    """The same for every definition and organism, or several seeds of one recipe."""
    label = {name: group.label for group in analysis.seeds for name in group.organisms}
    finals: dict[tuple[str, str], list[dict[Hashable, Any]]] = {}
    columns = analysis.compared[["definition", "organism", "scope", "answers", "rate", "k", "n"]]
    for row in columns.to_dict("records"):
        organism = str(row["organism"])
        for name in {organism, label.get(organism, organism)}:
            finals.setdefault((row["definition"], name), []).append(row)
    return finals


def _together(rates: list[dict[Hashable, Any]]) -> str:
    known = [row["rate"] for row in rates if not pd.isna(row["rate"])]
    mean = float(np.mean(known)) if known else float("nan")
    return _counts(mean, sum(row["k"] for row in rates), sum(row["n"] for row in rates))


def _difference(row: pd.Series | None, which: str) -> str:
    """`+38.9 (+13.3 to +61.4; p 0.016, corrected 0.062)`."""
    if row is None or row["refused"]:
        return "" if row is None else "not compared"
    if not row["testable"]:
        return f"{points(row['effect'])} (too few answers)"
    if pd.isna(row[f"{which}p"]):
        return f"{points(row['effect'])} ({such_unknown(row)})"
    interval = between_points(row[f"{which}low"], row[f"{which}high"])
    alike = ", questions weighing alike" if unlike_weights(row) else ""
    warning = f" (with care: {with_care(row)})" if which and with_care(row) else ""
    return f"{points(row[f'{which}effect'])}{alike} ({interval}; {p_pair(row, f'{which}p')}){warning}"


def _calibration(analysis: Analysis, row: pd.Series | None) -> str:
    """What is known of who judged both sides: `passed`, `NOT PASSED` or `none`."""
    if row is None:
        return ""
    together = {group.label: group.organisms for group in analysis.seeds}
    organisms = together.get(str(row["a"]), (str(row["a"]),))
    sides = [(name, step) for name in organisms for step in (int(row["a_step"]), 0)]
    known = [judge for _, judge in known_judges(analysis, sides)]
    if any(judge is None for judge in known):
        return "none"
    return "passed" if all(judge is not None and judge.passed for judge in known) else "NOT PASSED"


def _missing(row: pd.Series | None) -> str:
    missing = 0 if row is None else int(row["missing_a"] + row["missing_b"])
    return f"{missing}: {between_points(row['least'], row['most'])}" if row is not None and missing else ""
