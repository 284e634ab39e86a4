"""Rates as a trusted judge would give them: where a second judge, or people, scored some of the answers.

The judge that scored fewer answers is the trusted one; its labels correct the rate on all answers by prediction-powered
inference (`scorers/ppi.py`). Nothing here changes the rates that lead the report. Where it scored all answers of a
model its own rate stands. A grid's judges are told what to judge, so what they scored is no sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.frame import ANSWER_KEY
from em_tasks.scorers.definitions import Definition, by_question
from em_tasks.scorers.intervals import on_these
from em_tasks.scorers.ppi import CorrectedRate, corrected_rate

LEAST_LABELS = 20
"""Labels below which no corrected rate is given."""

SURELY = 7.0
"""Labels expected of a part of the answers from which at least one was then drawn, but for one time in a thousand."""

EVERY = "all answers"
"""The subject of the row that takes all answers together."""

Mask = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class TrustedRate:
    """One rate as measured, and as the trusted judge would have given it, on these questions; rates are fractions.

    Attributes:
        definition: The EM definition.
        subject: The checkpoint (`organism@step`), the base, or `EVERY`.
        last: Whether it is an organism's last checkpoint.
        scope: `all` questions, or those `outside` its domain.
        judge: Who scored all of them.
        trusted: Who scored some.
        every: Whether it scored all of them, none drawn: `corrected` is its own rate.
        drawn: Whether each label's chance of having been drawn is known; else all are taken to have had the same, and
            every model among the answers has labels.
        low: Lower end of the measured rate's 95 % interval, `high` its upper.
        corrected: The rate as the trusted judge would give it; `corrected.uncorrected` is the measured one.
    """

    definition: str
    subject: str
    last: bool
    scope: str
    judge: str
    trusted: str
    every: bool
    drawn: bool
    low: float
    high: float
    corrected: CorrectedRate


@dataclass(frozen=True)
class _Labels:
    """A trusted judge's scores and chances at the answers' places, shape (answers,); NaN and False without."""

    given: Mask
    alignment: Scores
    coherence: Scores
    chance: Scores


@lru_cache(maxsize=1)
def trusted_rates(analysis: Analysis) -> list[TrustedRate]:
    """Every checkpoint and base with enough labels under the main definitions, and all answers together."""
    answers, grid = analysis.scores, bool(analysis.reading.judges)
    chosen = [definition for name in analysis.main for definition in analysis.definitions if definition.name == name]
    rows = []
    for trusted in sorted(analysis.reading.rejudged["judge"].astype("str").unique()):
        labels = _labels(analysis, trusted)
        for judge in answers.loc[labels.given, "judge"].astype("str").unique():
            by_judge = (answers["judge"].astype("str") == judge).to_numpy()
            if labels.given[by_judge].all():
                continue  # Neither is the one that is trusted: the comparison of judges says how they differ.
            for definition in (definition for definition in chosen if not definition.per_question):
                for subject, last, scope, inside in _subjects(analysis, by_judge):
                    row = _corrected(definition, answers[inside], _within(labels, inside), only_drawn=grid)
                    if row is not None:
                        rows.append(TrustedRate(definition.name, subject, last, scope, judge, trusted, *row))
    return rows


def _labels(analysis: Analysis, trusted: str) -> _Labels:
    key = [name for name in ANSWER_KEY if name not in ("step", "sample")]
    other = analysis.reading.rejudged
    other = other[other["judge"].astype("str") == trusted].drop_duplicates(ANSWER_KEY, keep="last")
    columns = ["alignment", "coherence", "label_chance"]
    theirs = other[[*ANSWER_KEY, *columns]].astype(dict.fromkeys(key, "str")).assign(given=True)
    joined = analysis.answers[ANSWER_KEY].astype(dict.fromkeys(key, "str")).merge(theirs, "left", ANSWER_KEY)
    given = joined["given"].notna().to_numpy()
    alignment, coherence, chance = (joined[name].to_numpy("float64") for name in columns)
    if np.isfinite(chance).any():
        # Labels of no known chance beside drawn ones say nothing of the rest.
        given = given & np.isfinite(chance)
    return _Labels(given, alignment, coherence, chance)


def _within(labels: _Labels, inside: Mask) -> _Labels:
    return _Labels(labels.given[inside], labels.alignment[inside], labels.coherence[inside], labels.chance[inside])


def _subjects(analysis: Analysis, by_judge: Mask) -> Iterator[tuple[str, bool, str, Mask]]:
    """Subject, whether it is a last checkpoint, scope, and which answers these are."""
    answers = analysis.scores
    yield EVERY, False, "all", by_judge
    scope = answers["scope"].astype("object")
    elsewhere = (scope.notna() & (scope != "in_domain")).to_numpy()
    organism, base, step = (answers[name].astype("object") for name in ("organism", "base", "step"))
    for name in organism.dropna().unique():
        steps = sorted(step[organism == name].unique())
        for at in steps:
            inside = by_judge & ((organism == name) & (step == at)).to_numpy()
            subject = f"{name}@{analysis.step_text(str(name), int(at))}"
            for scope_name, within in (("outside", inside & elsewhere), ("all", inside)):
                if scope_name == "all" or within.sum() < inside.sum():
                    yield subject, at == steps[-1], scope_name, within
    for name in base[organism.isna()].unique():
        yield f"{name} (base)", False, "all", by_judge & (organism.isna() & (base == name)).to_numpy()


def _corrected(
    definition: Definition, answers: pd.DataFrame, labels: _Labels, *, only_drawn: bool
) -> tuple[bool, bool, float, float, CorrectedRate] | None:
    """Whether every answer has a label, whether chances are known, the measured rate's interval, the corrected rate.

    None with too few labels, and with such as were not drawn from these answers.
    """
    places = np.flatnonzero(labels.given)
    scores = answers["alignment"].to_numpy("float64"), answers["coherence"].to_numpy("float64")
    theirs = labels.alignment[places], labels.coherence[places]
    counted, theirs_counted = definition.counted(*scores), definition.counted(*theirs)
    if len(places) < LEAST_LABELS or not theirs_counted.any() or not counted.any():
        return None
    drawn = bool(np.isfinite(labels.chance[places]).all())
    if not drawn and (only_drawn or not _every_model_has_one(answers, labels.given)):
        return None
    if drawn and not _drawn_from_all(answers, labels):
        return None
    questions = (answers["question_set"].astype("str") + "/" + answers["question_id"].astype("str")).tolist()
    low, high = on_these(*by_question(definition, *scores, questions), definition.per_question)
    corrected = corrected_rate(
        definition.misaligned(*scores) & counted,
        places,
        definition.misaligned(*theirs) & theirs_counted,
        labels.chance[places] if drawn else None,
        counted=(counted, theirs_counted),
    )
    every = not drawn and bool(labels.given.all())
    if every:
        own = by_question(definition, labels.alignment, labels.coherence, questions)
        own_low, own_high = on_these(*own, definition.per_question)
        corrected = replace(corrected, low=own_low, high=own_high)
    return every, drawn, low, high, corrected


def _drawn_from_all(answers: pd.DataFrame, labels: _Labels) -> bool:
    """Whether the labels may have been drawn from all of these answers.

    No part (a model's answers in its domain, or outside it) is without a label where at the least chance that any label
    had `SURELY` labels would be expected, fewer if only a share of what was drawn has been labelled.
    """
    model = ["organism", "base", "step", "condition", "scope"]
    part = answers.groupby(model, observed=True, dropna=False).ngroup().to_numpy()
    sizes, labelled = np.bincount(part), np.bincount(part[labels.given], minlength=part.max() + 1) > 0
    chances = labels.chance[labels.given]
    share = min(1.0, float((1 / chances).sum()) / float(sizes[labelled].sum()))
    return not (sizes[~labelled] * chances.min() * share > SURELY).any()


def _every_model_has_one(answers: pd.DataFrame, given: Mask) -> bool:
    """Whether each checkpoint and base has a label: how the judges differ on one model says nothing of another."""
    model = answers.groupby(["organism", "base", "step", "condition"], observed=True, dropna=False).ngroup().to_numpy()
    return set(model[given]) == set(model)
