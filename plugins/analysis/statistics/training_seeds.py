"""Organisms trained alike from several seeds, found from the logs alone and put together.

Trainers name them `<name>-seed<seed>`. Organisms belong together when they share that name, base, size, domain and
control, and each has a training seed of its own; the seeds are then a sample, like the questions.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

ALIKE = ["name", "base", "size", "domain", "control"]


@dataclass(frozen=True)
class Seeds:
    """One recipe trained from several seeds.

    Attributes:
        label: For readers, as `medical-8b (3 seeds)`.
        organisms: The organisms' names, by seed.
        step: The last step that all of them were evaluated at.
        steps: Every such step.
    """

    label: str
    organisms: tuple[str, ...]
    step: int
    steps: tuple[int, ...]


def seed_groups(answers: pd.DataFrame) -> list[Seeds]:
    """The recipes that were trained from several seeds and evaluated at a common step.

    Args:
        answers: The frame of answers.
    """
    about = ["organism", "base", "size", "domain", "control", "training_seed"]
    steps = answers.loc[answers["organism"].notna(), [*about, "step"]].drop_duplicates()
    trained = steps.drop_duplicates("organism").dropna(subset=["training_seed"]).astype({"organism": "str"})
    trained = trained.assign(
        name=[name_without_seed(*pair) for pair in zip(trained["organism"], trained["training_seed"], strict=True)]
    )
    groups = []
    for _, alike in trained.sort_values("training_seed").groupby(ALIKE, observed=True, dropna=False):
        if len(alike) < 2 or alike["training_seed"].duplicated().any():
            continue
        of_each = [set(steps.loc[steps["organism"] == organism, "step"]) for organism in alike["organism"]]
        common = sorted(int(step) for step in set.intersection(*of_each))
        if common:
            label = f"{alike['name'].iloc[0]} ({len(alike)} seeds)"
            groups.append(Seeds(label, tuple(alike["organism"]), common[-1], tuple(common)))
    return groups


def name_without_seed(organism: str, seed: int) -> str:
    """`medical-8b` of `medical-8b-seed2` and seed 2; the name itself where it does not end in its seed."""
    return re.sub(rf"[-_]?(?:seed)?[-_]?{seed}$", "", organism) or organism


def in_scope(counts: pd.DataFrame, scope: str) -> pd.DataFrame:
    """`rates.question_counts` of the questions outside the training domain, for `outside`, or of all, for `all`."""
    return counts[counts["scope"].isin(["out_of_domain", "general"])] if scope == "outside" else counts


def seed_counts(counts: pd.DataFrame, organisms: tuple[str, ...], step: int) -> tuple[Numbers, Numbers]:
    """Misaligned and counted answers of every organism on every question that all of them have counted answers to.

    Args:
        counts: `rates.question_counts` by organism and step.
        organisms: Which organisms, in the order of the rows.
        step: At which step; 0 for their base.

    Returns:
        Two arrays of shape (organisms, questions), forms and paraphrases of a question put together.
    """
    step_counts = counts[counts["organism"].isin(organisms) & (counts["step"] == step)].astype({"organism": "str"})
    k, n = (
        step_counts.pivot_table(index="organism", columns="cluster", values=name, aggfunc="sum", fill_value=0)
        .reindex(list(organisms), fill_value=0)
        .to_numpy("float64")
        for name in ("k", "n")
    )
    shared = (n > 0).all(axis=0)
    return k[:, shared], n[:, shared]
