"""What went wrong with an evaluation or its judge, in words that say what to do about it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

    from em_tasks.scorers.comparing.judging_again import Missing
    from em_tasks.sweep.plan import Planner


def not_all_succeeded(failures: Sequence[str]) -> UserError:
    """What a sweep ends with whose evaluations failed, some or all, each in a sentence."""
    more = [f"and {len(failures) - 3} more"] if len(failures) > 3 else []
    reasons = "; ".join(failure.rstrip(" .") for failure in [*failures[:3], *more])
    return UserError(
        f"Some evaluations did not succeed; the others stand. Run the same command again to go on. {reasons}."
    )


def left_out(planner: "Planner") -> list[str]:
    """A line for every organism that a plan left out for damage to its files."""
    return [f"{organism} was left out: {why}" for organism, why in sorted(planner.damaged.items())]


def what_failed(log: "EvalLog") -> str | None:
    """What is wrong with an evaluation, or None: it did not end well, or its judge failed or never gave a number."""
    from inspect_ai.log import read_eval_log_sample_summaries

    from em_tasks.scorers.comparing.judging_again import missing_in
    from em_tasks.scorers.definitions import metric_value

    if log.status != "success":
        errors = [log.error.message] if log.error else []
        errors += [summary.error for summary in read_eval_log_sample_summaries(log.location) if summary.error]
        first = errors[0] if errors else "interrupted"
        return f"{log.location}: {log.status} in {len(errors)} answers, first: {first}"
    metrics = {
        name: metric.value
        for score in (log.results.scores if log.results else [])
        for name, metric in score.metrics.items()
    }
    if not metrics:
        return None
    judge = log.eval.model_roles["grader"] if log.eval.model_roles else None
    missing = missing_in(log.location, log)
    lead = missing.rubric
    silent = metric_value(metrics, "n", "cs2881") == 0 if lead == "alignment" else math.isnan(metrics[f"mean_{lead}"])
    name = getattr(judge, "model", "of the grader role")
    return what_is_missing(missing, name, log.location, silent=silent, answers_too=True)


def what_is_missing(
    missing: "Missing", judge: str, where: Path | str, *, silent: bool, answers_too: bool = False
) -> str | None:
    """What is wrong with a judge's scores, or None: some calls failed, or there is not one score.

    Args:
        missing: The scores that it did not give.
        judge: Its name.
        where: The log or folder of its scores.
        silent: Whether there is not one score.
        answers_too: Whether the answers lie there alone, so that they go with it.
    """
    if missing.failed:
        return (
            f"{where}: the judge {judge} failed at {missing.failed:,} of {missing.answers:,} answers "
            f"({missing.failure}). The answers are kept, and the same command asks it about these alone"
        )
    if not silent:
        return None
    reasons = ", ".join(sorted(missing.unscored))
    wrote = f", but wrote {missing.example!r}, for example" if missing.example else ""
    lost = " (the answers go with it, and are asked for again)" if answers_too else ""
    return (
        f"{where}: the judge {judge} gave no {missing.rubric} score for any answer ({reasons}){wrote}. "
        "That stands, and the same command does not ask it again: name another judge "
        f"(--judge; in a grid file the axis `judge`), or remove what is named here{lost} and set EM_JUDGE_CACHE=off "
        "for the next command"
    )
