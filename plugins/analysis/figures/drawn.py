"""The answers and rates that figures draw: of organisms with their bases, or of bases where there are no organisms."""

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import Scoring, why_not_comparable


def drawn_answers(analysis: Analysis) -> pd.DataFrame:
    """`Analysis.trajectories`; where only bases were asked (or models of others, which count as bases), their answers.

    Bases stand under their own name then, at step 0 and with `baseline`; `at` is the row in `Analysis.answers`.
    """
    table = analysis.trajectories
    if len(table) or not len(analysis.answers):
        return table
    scores = analysis.scores
    return scores.assign(at=range(len(scores)), organism=scores["base"], baseline=True)


NOT_JOINED = " What different judges (or prompts, or settings of sampling) scored is not joined."
"""For captions of figures in which a line would have joined such points."""


def scored_alike(analysis: Analysis, rates: pd.DataFrame) -> list[int]:
    """A number for each row of rates, the same for rows that were scored alike: these alone are joined by a line.

    Seeds put together under one label are scored alike, and the first of them stands for all.
    """
    first = {group.label: group.organisms[0] for group in analysis.seeds}
    alike: list[Scoring] = []
    numbers = []
    for organism, step in zip(rates["organism"].astype("str"), rates["step"], strict=True):
        scoring = analysis.scoring.get((first.get(organism, organism), int(step)))
        known = (
            place for place, each in enumerate(alike) if scoring is None or why_not_comparable(each, scoring) is None
        )
        number = next(known, len(alike))
        if number == len(alike) and scoring is not None:
            alike.append(scoring)
        numbers.append(number)
    return numbers


OUTSIDE, ALL = "outside the training domain", "all questions"
"""Of which questions a figure's rates are, for its title."""


def drawn_scope(analysis: Analysis) -> tuple[str, str]:
    """The scope of the rates in figures, and the same for titles: `outside` where every organism was asked there."""
    rates = analysis.rates
    asked_outside = rates.loc[rates["scope"] == "outside", "organism"].nunique()
    if asked_outside and asked_outside == rates["organism"].nunique():
        return "outside", OUTSIDE
    return "all", ALL


def drawn_rates(analysis: Analysis) -> pd.DataFrame:
    """The last checkpoints' (`Analysis.compared`) and bases' rows of `drawn_scope`; else the bases' alone."""
    rates = analysis.rates
    table = pd.concat([rates[rates["baseline"]], analysis.compared])
    table = table[table["scope"] == drawn_scope(analysis)[0]]
    if len(table):
        return table
    bases = analysis.base_rates
    known = {"organism": bases["base"], "domain": None, "control": False, "step": 0, "epoch": 0.0, "baseline": True}
    return bases.assign(**known, scope="all")


MOST_NAMED = 12
"""Recipes that figures of last checkpoints tell apart by colour; of more a legend would fill the page."""


def line_names(analysis: Analysis, table: pd.DataFrame, otherwise: str, most: int | None = None) -> dict[str, str]:
    """What the legend calls each organism: its size or domain, or its recipe where several recipes are alike in those.

    Args:
        analysis: What the table is of.
        table: Rows with the columns `organism`, `size`, `domain` and `control`.
        otherwise: `size` or `domain`, which is enough where a domain has one recipe of each size.
        most: Recipes above which it has to be enough.
    """
    together = {name: group.label for group in analysis.seeds for name in group.organisms}
    rows = table.drop_duplicates("organism").astype({"organism": "str", "size": "str", "domain": "str"})
    # In the tables' order, by size, so that every figure gives a name the same colour.
    place = {name: number for number, name in enumerate(dict.fromkeys(analysis.rates["organism"].astype("str")))}
    rows = rows.sort_values("organism", key=lambda names: names.map(place), kind="stable")
    rows = rows.assign(recipe=[together.get(name, name) for name in rows["organism"]])
    recipes = rows.drop_duplicates("recipe")
    several = recipes.duplicated(["domain", "size", "control"]).any() and (most is None or len(recipes) <= most)
    return dict(zip(rows["organism"], rows["recipe" if several else otherwise], strict=True))
