"""The answers and rates that figures draw: of organisms with their bases, or of bases where there are no organisms."""

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis


def drawn_answers(analysis: Analysis) -> pd.DataFrame:
    """`Analysis.trajectories`; where only bases were asked (or models of others, which count as bases), their answers.

    Bases stand under their own name then, at step 0 and with `baseline`; `at` is the row in `Analysis.answers`.
    """
    table = analysis.trajectories
    if len(table) or not len(analysis.answers):
        return table
    scores = analysis.scores
    return scores.assign(at=range(len(scores)), organism=scores["base"], baseline=True)


def drawn_rates(analysis: Analysis) -> pd.DataFrame:
    """The last checkpoints' and bases' rows of `Analysis.rates` on all questions; else the bases' alone."""
    rates = analysis.rates
    table = pd.concat([rates[rates["baseline"]], analysis.final])
    table = table[table["scope"] == "all"]
    if len(table):
        return table
    bases = analysis.base_rates
    known = {"organism": bases["base"], "domain": None, "control": False, "step": 0, "epoch": 0.0, "baseline": True}
    return bases.assign(**known, scope="all")
