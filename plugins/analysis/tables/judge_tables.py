"""Tables of what the judge makes of a rate: scores that sit on a threshold, and the same answers by several judges."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, t

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.frame import ANSWER_KEY
from em_tasks.plugins.analysis.claims.judge_errors import judged_rates
from em_tasks.plugins.analysis.claims.trusted_rates import trusted_rates
from em_tasks.plugins.analysis.statistics.differences import Sides, on_such
from em_tasks.plugins.analysis.statistics.rates import cluster_of
from em_tasks.plugins.analysis.tables.cells import between, between_points, p_text, percent, points
from em_tasks.scorers.definitions import Definition

Numbers = NDArray[np.float64]

TEXT = dict.fromkeys(("organism", "base", "question_set", "question_id", "topic", "judge"), "str")


def at_thresholds(analysis: Analysis) -> pd.DataFrame:
    """Scores that sit on a threshold: misaligned answers of the organisms with `<` and with `<=`."""
    answers = analysis.scores
    answers = answers[answers["organism"].notna() & ~answers["control"]]
    alignment, coherence = (answers[name].to_numpy("float64") for name in ("alignment", "coherence"))
    rows = []
    for definition in analysis.definitions:
        exactly = alignment == definition.aligned_below
        by_organism = answers["organism"][exactly].astype("str").value_counts(sort=False).sort_index()
        counted = definition.counted(alignment, coherence)
        below, at_most = (
            int((side.misaligned(alignment, coherence) & counted).sum())
            for side in (replace(definition, inclusive=False), replace(definition, inclusive=True))
        )
        rows.append(
            {
                "definition": definition.name,
                "threshold": f"{definition.aligned_below:g}",
                "scores of exactly that": int(exactly.sum()),
                "of which": ", ".join(f"{name} {heap}" for name, heap in by_organism.items()),
                "misaligned with <": f"{below}/{int(counted.sum())}",
                "misaligned with <=": f"{at_most}/{int(counted.sum())}",
                "the definition says": "<=" if definition.inclusive else "<",
            }
        )
    return pd.DataFrame(rows)


def judge_error(analysis: Analysis) -> pd.DataFrame:
    """The judge's error beside the sampling error: rates at the last checkpoint (%; 95 %, on these questions)."""
    return pd.DataFrame(
        [
            {
                "definition": rate.definition,
                "organism": rate.organism,
                "step": analysis.step_text(rate.organism, rate.step) if rate.step else "base",
                "questions of": rate.scope,
                "judge": rate.judge,
                "calibration": "passed" if rate.passed else "NOT PASSED",
                "bad answers found": f"{rate.errors[0]} of {rate.errors[1]}",
                "good ones let through": f"{rate.errors[2]} of {rate.errors[3]}",
                "EM %": percent(rate.rate),
                "sampling: 95 %": between(rate.low, rate.high),
                "corrected %": "the judge tells nothing" if np.isnan(rate.corrected) else percent(rate.corrected),
                "sampling and judge: 95 %": between(rate.corrected_low, rate.corrected_high),
            }
            for rate in judged_rates(analysis)
        ]
    )


def trusted_judge(analysis: Analysis) -> pd.DataFrame:
    """Rates as a trusted judge would give them, from its labels of some answers (%; 95 %, on these questions)."""
    rows = []
    for rate in trusted_rates(analysis):
        corrected = rate.corrected
        half = (corrected.high - corrected.low) / 2
        needed = corrected.labels_for(half)
        rows.append(
            {
                "definition": rate.definition,
                "answers of": rate.subject,
                "questions": rate.scope,
                "judge": rate.judge,
                "EM %": percent(corrected.uncorrected),
                "95 %": between(rate.low, rate.high),
                "trusted judge": rate.trusted,
                "labels": f"{corrected.labels} of {corrected.answers}",
                "labels were": "drawn, chances known"
                if rate.drawn
                else ("all, so that this is its own rate" if rate.every else "taken as drawn at random"),
                "corrected %": percent(corrected.rate),
                "corrected: 95 %": between(corrected.low, corrected.high),
                "for half the width": "all are labelled"
                if rate.every
                else (f"{needed:,} labels" if needed else "these do not tell"),
            }
        )
    return pd.DataFrame(rows)


def judges(analysis: Analysis) -> pd.DataFrame:
    """Several judges of the same answers: paired difference of their rates, and kappa, with 95 % intervals."""
    other = analysis.reading.rejudged
    if other.empty:
        return pd.DataFrame()
    columns = [*ANSWER_KEY, "topic", "judge", "alignment", "coherence"]
    mine = analysis.scores[columns].astype(TEXT)
    pairs = mine.merge(other[columns].astype(TEXT).drop(columns="topic"), on=ANSWER_KEY, suffixes=("", "_other"))
    rows = []
    for (judge, against), shared in pairs.groupby(["judge", "judge_other"]):
        for definition in (definition for definition in analysis.definitions if definition.name in analysis.main):
            rows.append({"judge": judge, "against": against, **_compared(definition, shared)})
    return pd.DataFrame(rows)


def _compared(definition: Definition, pairs: pd.DataFrame) -> dict[str, object]:
    names = ("alignment", "coherence", "alignment_other", "coherence_other")
    scores = [pairs[name].to_numpy("float64") for name in names]
    both = definition.counted(*scores[:2]) & definition.counted(*scores[2:])
    a, b = (definition.misaligned(*two)[both].astype("float64") for two in (scores[:2], scores[2:]))
    known: dict[str, object] = {"definition": definition.name, "answers": int(both.sum())}
    if not both.any():
        return {
            **known,
            "difference": "",
            "such, questions weighing alike": "",
            "p (these answers)": "",
            "kappa": "",
            "kappa: 95 %": "",
        }
    cluster = np.unique(cluster_of(pairs[both]), return_inverse=True)[1]
    k_a, k_b, n = np.stack([a, b, np.ones(len(a))]) @ np.eye(int(cluster.max()) + 1)[cluster]
    such = on_such(Sides(k_a, n, k_b, n))
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    kappa, low, high = kappa_interval(a, b, cluster)
    return {
        **known,
        "EM %": f"{100 * a.mean():.1f}",
        "against %": f"{100 * b.mean():.1f}",
        "difference": points(float(a.mean() - b.mean())),
        "such, questions weighing alike": f"{points(such.effect)} ({between_points(such.low, such.high)})",
        "p (these answers)": p_text(float(binomtest(only_a, only_a + only_b).pvalue)) if only_a + only_b else "1.000",
        "kappa": "" if np.isnan(kappa) else f"{kappa:.2f}",
        "kappa: 95 %": "" if np.isnan(low) else f"{low:.2f} to {high:.2f}",
    }


def kappa_interval(
    a: Numbers,
    b: Numbers,
    cluster: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Cohen's kappa of two judges' calls (0 or 1), with a t interval (jackknife over questions); NaN if undefined."""
    sums = np.stack([np.bincount(cluster, weights=x) for x in (np.ones(len(a)), a, b, (a == b).astype("float64"))])

    def kappa(
        parts: Numbers,
    ) -> Numbers:
        n, of_a, of_b, agreed = parts
        with np.errstate(invalid="ignore", divide="ignore"):
            chance = (of_a * of_b + (n - of_a) * (n - of_b)) / n**2
            return np.asarray((agreed / n - chance) / (1 - chance), dtype="float64")

    whole = sums.sum(axis=1, keepdims=True)
    estimate, questions = float(kappa(whole)[0]), sums.shape[1]
    left_out = kappa(whole - sums) if questions > 2 else np.array([np.nan])
    if np.isnan(estimate) or np.isnan(left_out).any():
        return estimate, float("nan"), float("nan")
    error = np.sqrt((questions - 1) / questions * np.sum((left_out - left_out.mean()) ** 2))
    half = float(t.isf(0.025, questions - 1) * error)
    return estimate, max(-1.0, estimate - half), min(1.0, estimate + half)
