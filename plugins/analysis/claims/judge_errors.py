"""The judge's error beside the sampling error: headline rates corrected for what a calibration found of their judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import Scoring, Side
from em_tasks.plugins.analysis.claims.comparisons import leading_scope
from em_tasks.plugins.analysis.claims.count_grid import count_grid
from em_tasks.scorers.calibration.rogan_gladen import corrected_interval
from em_tasks.scorers.definitions import Definition
from em_tasks.scorers.intervals import CONFIDENCE, effective_answers, question_weights, variance_parts, wilson


@runtime_checkable
class MeasuredJudge(Protocol):
    """What a calibration must tell for rates to be corrected: `scorers/calibration/stored.py: KnownCalibration`."""

    @property
    def passed(self) -> bool:
        """Whether the judge reached the pass mark."""

    def errors(self, threshold: float, inclusive: bool = False) -> tuple[int, int, int, int] | None:
        """Bad answers found, bad answers, good ones let through, good ones, at an alignment threshold (0-100)."""


@dataclass(frozen=True)
class JudgedRate:
    """One headline rate with both errors, on these questions; rates are fractions.

    Attributes:
        definition: The EM definition.
        organism: The organism; step 0 is its base.
        step: The checkpoint.
        scope: `outside` its domain, or `all` where it was asked nothing outside.
        judge: The judge that scored it.
        passed: Whether that judge passed its calibration.
        errors: Bad answers of the calibration found, bad ones, good ones let through, good ones, by alignment alone.
        rate: As measured, `low` and `high` the 95 % interval of sampling alone.
        corrected: As a judge without errors would have measured it (Rogan-Gladen); NaN where the judge tells nothing.
        corrected_low: The 95 % interval of sampling and of the calibration together (Lang and Reiczigel 2014).
    """

    definition: str
    organism: str
    step: int
    scope: str
    judge: str
    passed: bool
    errors: tuple[int, int, int, int]
    rate: float
    low: float
    high: float
    corrected: float
    corrected_low: float
    corrected_high: float


@lru_cache(maxsize=1)
def judged_rates(analysis: Analysis) -> list[JudgedRate]:
    """Last checkpoints and their bases under the main definitions, as far as one calibrated judge scored them."""
    scoring = analysis.scoring
    chosen = [definition for name in analysis.main for definition in analysis.definitions if definition.name == name]
    return [row for definition in chosen for row in _under(analysis, definition, scoring)]


def known_judges(analysis: Analysis, sides: list[Side]) -> list[tuple[str, MeasuredJudge | None]]:
    """The judges of some sides, each with what a calibration found; None where none speaks for every prompt."""
    scoring = analysis.scoring
    judges = dict.fromkeys(judge for side in sides if side in scoring for judge in sorted(scoring[side].judges))
    prompts = frozenset().union(*(scoring[side].prompts for side in sides if side in scoring))
    return [(judge, _measured(analysis, judge, prompts)) for judge in judges]


def _under(analysis: Analysis, definition: Definition, scoring: dict[Side, Scoring]) -> Iterator[JudgedRate]:
    grid = count_grid(analysis.question_counts[definition.name])
    for organism in analysis.final["organism"].astype("str").drop_duplicates():
        scope = leading_scope(grid, organism) if organism in grid.outside else "all"
        for side in dict.fromkeys(((organism, max(grid.steps(organism), default=0)), (organism, 0))):
            if side not in grid.row or side not in scoring or len(scoring[side].judges) != 1:
                continue
            (judge,) = scoring[side].judges
            known = _measured(analysis, judge, scoring[side].prompts)
            errors = None if known is None else known.errors(definition.aligned_below, definition.inclusive)
            within = grid.asked((organism,), scope)
            (k,), (n,) = (x[:, within] for x in grid.counts((side,)))
            if known is None or errors is None or not n.any():
                continue
            weights = question_weights(n, definition.per_question)
            rate = (weights * k / n.clip(1)).sum()
            variance, alike = (part.sum() for part in variance_parts(k, n, weights, rate))
            effective = effective_answers(rate, variance, alike)
            low, high = (float(end[0]) for end in wilson(rate, effective, 1 - CONFIDENCE))
            yield JudgedRate(
                definition.name, organism, side[1], scope, judge, known.passed, errors, float(rate), low, high,
                *corrected_interval(float(rate * effective), float(effective), *errors),
            )  # fmt: skip


def _measured(analysis: Analysis, judge: str, prompts: frozenset[str]) -> MeasuredJudge | None:
    known = {analysis.calibration(judge, sha256) for sha256 in prompts}
    first = next(iter(known), None)
    return first if len(known) == 1 and isinstance(first, MeasuredJudge) else None
