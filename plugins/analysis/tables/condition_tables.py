"""Conditions beside each other: the same organism and base on the same questions, asked in several ways."""

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import why_not_comparable
from em_tasks.plugins.analysis.statistics.differences import Difference, no_surer_than
from em_tasks.plugins.analysis.statistics.interactions import interaction_on_such, interaction_on_these, misaligned_at
from em_tasks.plugins.analysis.tables.cells import between_points, p_text, percent, points

NONE = "none"


def conditions(analysis: Analysis) -> pd.DataFrame | None:
    """Conditions, outside the own domain at the last checkpoint: rates, Misalign@k, and what a condition changes.

    The change is a difference of differences: what the condition does to the organism beyond what it does to its base
    (points; 95 %), on the questions asked both ways. None where nothing was asked under a condition.
    """
    answers = analysis.answers
    known = answers[["organism", "condition"]].dropna(subset=["organism"]).drop_duplicates().astype(object)
    known = known.where(known.notna(), None)
    names: dict[str, dict[str, str]] = {}
    for organism, condition in known.itertuples(index=False):
        bare = str(organism).removesuffix(f" [{condition}]") if condition else str(organism)
        names.setdefault(bare, {})[condition or NONE] = str(organism)
    rows = [
        row
        for definition, counts in analysis.question_counts.items()
        for bare, by_condition in sorted(names.items())
        if set(by_condition) - {NONE}
        for row in _rows(analysis, definition, counts, bare, by_condition)
    ]
    return pd.DataFrame(rows) if rows else None


def _rows(
    analysis: Analysis, definition: str, counts: pd.DataFrame, bare: str, by_condition: dict[str, str]
) -> list[dict[str, str]]:
    sides = {condition: _sides(counts, organism) for condition, organism in by_condition.items()}
    rows = []
    for condition in sorted(sides, key=lambda name: (name != NONE, name)):
        organism, base = sides[condition]
        if organism.empty:
            continue
        row = {
            "definition": definition,
            "organism": bare,
            "condition": condition,
            "step": analysis.step_text(by_condition[condition], int(organism["step"].iloc[0])),
            "EM % outside (k/n)": _rate(organism),
            "base %": _rate(base) if len(base) else "",
            "Misalign@k": _misalign(organism),
        }
        shared = _shared(sides[condition], sides.get(NONE)) if condition != NONE else None
        these, such = ("", ""), ("", "")
        if shared is not None:
            refused = _refused(analysis, by_condition[condition], by_condition[NONE], organism, sides[NONE][0])
            these, such = ((refused, ""), ("", "")) if refused else _changes(*shared)
        row |= {"changed by": these[0], "on these questions": these[1], "on such questions": such[1]}
        rows.append(row)
    return rows


def _sides(counts: pd.DataFrame, organism: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts outside the own domain of an organism's last checkpoint and of its base, by question."""
    organism_counts = counts[
        (counts["organism"].astype(str) == organism) & (counts["scope"].astype(str) != "in_domain")
    ]
    organism_counts = organism_counts[organism_counts["n"] > 0]
    steps = organism_counts.loc[organism_counts["step"] > 0, "step"]
    last = organism_counts[organism_counts["step"] == steps.max()] if len(steps) else organism_counts.iloc[:0]
    return last.set_index(["question_set", "question_id"]), organism_counts[organism_counts["step"] == 0].set_index(
        ["question_set", "question_id"]
    )


def _refused(analysis: Analysis, organism: str, bare: str, under: pd.DataFrame, without: pd.DataFrame) -> str:
    """Why the change by a condition cannot be told; empty where it can."""
    steps = int(under["step"].iloc[0]), int(without["step"].iloc[0])
    if steps[0] != steps[1]:
        return f"not compared: step {steps[1]} was the last that was asked without it"
    sides = [(name, step) for name in (organism, bare) for step in (steps[0], 0)]
    reason = why_not_comparable(*(analysis.scoring[side] for side in sides))
    return f"not compared: {reason}" if reason else ""


def _rate(side: pd.DataFrame) -> str:
    return f"{percent(float((side['k'] / side['n']).mean()))} ({int(side['k'].sum())}/{int(side['n'].sum())})"


def _misalign(side: pd.DataFrame) -> str:
    answers = int(side["n"].min())
    share = misaligned_at(side["k"].to_numpy(np.float64), side["n"].to_numpy(np.float64), answers)
    return f"{percent(share)} at {answers}"


Sides = tuple[pd.DataFrame, pd.DataFrame]


def _shared(under: Sides, without: Sides | None) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray] | None:
    """Counts of the four sides on the questions that all have, and the cluster of each question."""
    if without is None or any(side.empty for side in (*under, *without)):
        return None
    four = [*under, *without]
    index = four[0].index
    for side in four[1:]:
        index = index.intersection(side.index)
    if not len(index):
        return None
    four = [side.loc[index] for side in four]
    k = [side["k"].to_numpy(np.float64) for side in four]
    n = [side["n"].to_numpy(np.float64) for side in four]
    return k, n, four[0]["cluster"].to_numpy(np.int64)


def _changes(k: list[np.ndarray], n: list[np.ndarray], cluster: np.ndarray) -> tuple[tuple[str, str], tuple[str, str]]:
    _, group = np.unique(cluster, return_inverse=True)
    members = np.eye(int(group.max()) + 1)[group]
    these = interaction_on_these(k, n)
    such = no_surer_than(interaction_on_such([each @ members for each in k], [each @ members for each in n]), these)
    return _cells(these), _cells(such)


def _cells(difference: Difference) -> tuple[str, str]:
    if np.isnan(difference.low):
        return points(difference.effect), "one question"
    return points(difference.effect), f"{between_points(difference.low, difference.high)}, p {p_text(difference.p)}"
