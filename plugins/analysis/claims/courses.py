"""The course of each trajectory: its largest fall and leap, tested, and the step by which it has left its base.

A family of its own: what is shown here never weakens, nor is weakened by, the claims on last checkpoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import why_not_comparable
from em_tasks.plugins.analysis.claims.comparisons import comparisons, holm, leading_scope
from em_tasks.plugins.analysis.claims.count_grid import CountGrid, count_grid
from em_tasks.plugins.analysis.statistics.differences import ALPHA
from em_tasks.plugins.analysis.statistics.trajectories import largest_moves


@dataclass(frozen=True)
class Course:
    """One organism's trajectory under one definition, on the questions that all its checkpoints answered.

    Attributes:
        scope: `outside` its domain, or `all` where it was asked nothing outside.
        checkpoints: How many, the base apart.
        items: Question items that all of them have counted answers to.
        fall: Largest fall of the mean question rate, a fraction, from step `fall_from` to the later `fall_to`.
        fall_p: Before correction, on these questions.
        rise: Largest rise from one checkpoint to the next, at `rise_to`.
        rise_p: Before correction, on these questions.
        onset_by: The first step at which the rate is shown to be above the base's; None where none is.
        onset_after: The last step before it up to which the rate is shown not to differ from the base's by the smallest
            effect; 0, the base itself, where none was named or none is shown.
    """

    definition: str
    organism: str
    scope: str
    checkpoints: int
    items: int
    fall: float
    fall_from: int
    fall_to: int
    fall_p: float
    rise: float
    rise_from: int
    rise_to: int
    rise_p: float
    onset_by: int | None
    onset_after: int


@lru_cache(maxsize=1)
def courses(analysis: Analysis) -> pd.DataFrame:
    """The course of every organism with two checkpoints or more under the main definitions.

    Returns:
        A row an organism and definition: the fields of `Course`, `fall_p_corrected` and `rise_p_corrected` (Holm, over
        the organisms).
    """
    rows = [row for name in analysis.main for row in _under(analysis, name)]
    table = pd.DataFrame([vars(row) for row in rows], columns=[*Course.__dataclass_fields__])
    for p in ("fall_p", "rise_p"):
        table[f"{p}_corrected"] = np.nan
        for _, family in table.groupby("definition"):
            table.loc[family.index, f"{p}_corrected"] = holm(family[p].to_numpy("float64"))
    return table


def _under(analysis: Analysis, definition: str) -> Iterator[Course]:
    grid = count_grid(analysis.question_counts[definition])
    scoring = analysis.scoring
    compared = comparisons(analysis)
    compared = compared[(compared["kind"] == "checkpoint") & (compared["definition"] == definition)]
    for organism in dict.fromkeys(name for name, _ in grid.row):
        steps = [step for step in grid.steps(organism) if step]
        sides = [(organism, step) for step in steps]
        if len(steps) < 2 or why_not_comparable(*(scoring[side] for side in sides if side in scoring)):
            continue
        course = _course(grid, definition, organism, steps, compared[compared["trajectory"] == organism])
        if course is not None:
            yield course


def _course(
    grid: CountGrid, definition: str, organism: str, steps: list[int], against_base: pd.DataFrame
) -> Course | None:
    scope = leading_scope(grid, organism)
    sides = tuple((organism, step) for step in steps)
    shared = grid.shared(sides, grid.asked((organism,), scope))
    if not shared.any():
        return None
    k, n = grid.counts(sides)
    moves = largest_moves(k[:, shared], n[:, shared])
    by, after = _onset(against_base)
    return Course(
        definition, organism, scope, len(steps), int(shared.sum()),
        moves.fall, steps[moves.fall_from], steps[moves.fall_to], moves.fall_p,
        moves.rise, steps[moves.rise_to - 1], steps[moves.rise_to], moves.rise_p, by, after,
    )  # fmt: skip


def _onset(against_base: pd.DataFrame) -> tuple[int | None, int]:
    rows = against_base.sort_values("a_step")
    above = rows[(rows["p_corrected"] < ALPHA) & (rows["effect"] > 0)]["a_step"]
    by = None if above.empty else int(above.iloc[0])
    after = 0
    for step, equal in zip(rows["a_step"], rows["equal"], strict=True):
        if not equal or (by is not None and step >= by):
            break
        after = int(step)
    return by, after
