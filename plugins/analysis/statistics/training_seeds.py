"""Organisms trained alike from several seeds, found from the logs alone and put together.

Trainers name them `<name>-seed<seed>`. Organisms belong together when they share that name, base, size, domain,
control, data and condition, and each has a training seed of its own; the seeds are then a sample, like the questions.
Seeds that share no step or no question, or that were scored otherwise, are seeds of one recipe all the same: they are
neither put together nor compared with each other, and are named with the reason.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from em_tasks.plugins.analysis.answers.frame import under
from em_tasks.plugins.analysis.answers.scoring import Scoring, Side, why_not_comparable

Numbers = NDArray[np.float64]

ALIKE = ["name", "base", "size", "domain", "control", "data", "condition"]


@dataclass(frozen=True)
class Seeds:
    """One recipe trained from several seeds.

    Attributes:
        label: For readers, as `medical-8b (3 seeds)`.
        organisms: The organisms' names, by seed.
        step: The last step that all of them were evaluated at.
        steps: Every such step at which all were scored alike and asked a common question.
        last: The last step of each.
        unlike: Steps that all were evaluated at, but not scored alike or asked a common question.
    """

    label: str
    organisms: tuple[str, ...]
    step: int
    steps: tuple[int, ...]
    last: tuple[int, ...]
    unlike: tuple[int, ...] = ()


@dataclass(frozen=True)
class SeedsApart:
    """Seeds of one recipe that cannot be put together, and why; `settled_by` is what would mend it."""

    name: str
    organisms: tuple[str, ...]
    reason: str
    settled_by: str


def seed_groups(
    answers: pd.DataFrame, scoring: Mapping[Side, Scoring], questions_of: Mapping[Side, frozenset[tuple[str, str]]]
) -> tuple[list[Seeds], list[SeedsApart]]:
    """The recipes that were trained from several seeds: those whose seeds can be put together, and the others.

    Args:
        answers: The frame of answers.
        scoring: How every side was scored, see `answers.scoring.scoring_of`.
        questions_of: The questions that every checkpoint was asked.
    """
    about = ["organism", "base", "size", "domain", "control", "data", "condition", "training_seed"]
    trained = answers.loc[answers["organism"].notna(), about].drop_duplicates("organism")
    trained = trained.dropna(subset=["training_seed"]).astype({"organism": "str"})
    trained = trained.assign(
        name=[
            _name(*about_name)
            for about_name in zip(trained["organism"], trained["training_seed"], trained["condition"], strict=True)
        ]
    )
    together, apart = [], []
    for _, alike in trained.sort_values("training_seed").groupby(ALIKE, observed=True, dropna=False):
        if len(alike) < 2 or alike["training_seed"].duplicated().any():
            continue
        group = _put_together(str(alike["name"].iloc[0]), tuple(alike["organism"]), scoring, questions_of)
        if isinstance(group, Seeds):
            together.append(group)
        else:
            apart.append(group)
    return together, apart


def _put_together(
    name: str,
    organisms: tuple[str, ...],
    scoring: Mapping[Side, Scoring],
    questions_of: Mapping[Side, frozenset[tuple[str, str]]],
) -> Seeds | SeedsApart:
    steps = {member: sorted(step for organism, step in questions_of if organism == member) for member in organisms}
    common = sorted(set.intersection(*(set(of_organism) for of_organism in steps.values())))
    last = tuple(of_organism[-1] for of_organism in steps.values())
    if not common:
        each = ", ".join(f"{member} {step}" for member, step in zip(organisms, last, strict=True))
        reason = f"no step was evaluated of all of them (the last are {each})"
        return SeedsApart(name, organisms, reason, "an evaluation of all of them at one step")
    if unlike_scoring := why_not_comparable(*_known([(member, common[-1]) for member in organisms], scoring)):
        return SeedsApart(name, organisms, unlike_scoring, "all of their answers scored and sampled alike")
    if not frozenset.intersection(*(questions_of[member, common[-1]] for member in organisms)):
        return SeedsApart(name, organisms, "no question was asked of all of them", "the same questions asked of all")
    usable = [
        step
        for step in common
        if frozenset.intersection(*(questions_of[member, step] for member in organisms))
        and not why_not_comparable(*_known([(member, step) for member in organisms], scoring))
    ]
    unlike = tuple(step for step in common if step not in usable)
    return Seeds(f"{name} ({len(organisms)} seeds)", organisms, common[-1], tuple(usable), last, unlike)


def _known(sides: Sequence[Side], scoring: Mapping[Side, Scoring]) -> list[Scoring]:
    return [scoring[side] for side in sides if side in scoring]


def _name(organism: str, seed: int, condition: str | None) -> str:
    """What all seeds of a recipe are called: the name without its seed, with the condition it was asked under."""
    if pd.isna(condition):
        return name_without_seed(organism, seed)
    return under(name_without_seed(organism.removesuffix(under("", condition)), seed), condition)


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
