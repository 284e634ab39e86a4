"""How answers came to be scored: the judge, its prompts, and the settings they were sampled with.

Rates are compared only where these are the same; a difference would be the judge's as much as the model's.
"""

from collections import defaultdict
from dataclasses import dataclass

import pandas as pd

from em_tasks.plugins.analysis.answers.logs import Evaluation
from em_tasks.plugins.log_contract import NOT_RECORDED

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")

Side = tuple[str, int]
"""Organism and step; step 0 is its base."""


@dataclass(frozen=True)
class Scoring:
    """What the answers of one side have in common, or not; empty where logs do not say.

    Attributes:
        judges: Names of the judges that scored them.
        prompts: Hashes of the rubrics that were asked.
        sampling: Settings that answers were sampled with, as text, one for each different log.
    """

    judges: frozenset[str]
    prompts: frozenset[str]
    sampling: frozenset[str]


def scoring_of(trajectories: pd.DataFrame, evaluations: list[Evaluation]) -> dict[Side, Scoring]:
    """How the answers of every checkpoint of every organism came to be scored, and its base's as step 0.

    Args:
        trajectories: See `frame.trajectories`.
        evaluations: The logs that were read.
    """
    by_log = {evaluation.log: evaluation for evaluation in evaluations}
    rows = trajectories[["organism", "step", "judge", "log"]].drop_duplicates().astype({"organism": "str"})
    judged: dict[Side, list[tuple[str, Evaluation | None]]] = defaultdict(list)
    for organism, step, judge, log in rows.itertuples(index=False):
        judged[(organism, int(step))].append((str(judge), by_log.get(str(log))))
    return {
        side: Scoring(
            judges=frozenset(judge for judge, _ in pairs),
            prompts=frozenset(
                sha256
                for judge, log in pairs
                if log is not None
                for other, sha256 in log.judge_rubrics
                if other == judge
            ),
            sampling=frozenset(_sampling(log) for _, log in pairs if log is not None and log.config),
        )
        for side, pairs in judged.items()
    }


def why_not_comparable(*sides: Scoring) -> str | None:
    """Why the rates of these sides must not be compared; None where nothing speaks against it."""
    judges = frozenset().union(*(side.judges for side in sides))
    if len(judges) > 1:
        return f"different judges scored them ({', '.join(sorted(judges))})"
    # A base that was asked more questions, with prompts of their own, has more prompts; the others' are among them.
    widest = max((side.prompts for side in sides), key=len)
    if any(not side.prompts <= widest for side in sides):
        return "the judge was asked under different prompts"
    sampling = frozenset().union(*(side.sampling for side in sides))
    if len(sampling) > 1:
        return f"their answers were sampled under different settings ({'; '.join(sorted(sampling))})"
    return None


def by_judge(answers: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Answers by who scored them, whose scores are never put together; the name is empty where it is one judge."""
    judged = list(answers.groupby(answers["judge"].astype("str").fillna(NOT_RECORDED), sort=True))
    return [(str(judge), rows) for judge, rows in judged] if len(judged) > 1 else [("", answers)]


def _sampling(evaluation: Evaluation) -> str:
    known = {key: evaluation.config[key] for key in SAMPLING if evaluation.config.get(key) is not None}
    numbers = {key: f"{value:g}" if isinstance(value, int | float) else str(value) for key, value in known.items()}
    return ", ".join(f"{key} {value}" for key, value in numbers.items())
