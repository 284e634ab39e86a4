"""What a sweep will take, before anything is loaded: evaluations, tokens, time by measured rates, judge calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from em_tasks.sweep.logs import Logs, outstanding
from em_tasks.sweep.plan import Job

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

    from em_tasks.scorers.comparing.estimate import Estimate

QUESTION = "x" * 200
"""The rubrics' prompts are much longer than any question, so a question's own length hardly counts."""

STOPS_AT = "which may be more than ${:g}, where judging stops: a higher cap goes on"


@dataclass(frozen=True)
class BaseEstimate:
    """One base's share.

    Attributes:
        base: Its `em/` name.
        evaluations: How many there are.
        done: How many are done.
        answers: Answers to come.
        tokens: Tokens of these answers, as long as answers over this base were so far; the most they can be where none
            is known.
        measured: Whether the tokens are by measured lengths.
        seconds: Time to generate them at the rate of the logs that are there; None where there is none.
    """

    base: str
    evaluations: int
    done: int
    answers: int
    tokens: int
    measured: bool
    seconds: float | None


def estimate_sweep(jobs: Sequence[Job], logs: Logs) -> list[BaseEstimate]:
    """What each base of a plan will take."""
    left = {job.base: job for job in outstanding(jobs, logs)}
    estimates = []
    for job in jobs:
        to_do = left.get(job.base)
        unanswered = [s for s in to_do.subjects if logs.of(job, s) is None] if to_do else []
        answers = job.options.samples * sum(subject.questions for subject in unanswered)
        known = [log for path, log in logs.headers.items() if path.is_relative_to(job.folder) and log.stats.model_usage]
        rate, length = tokens_a_second(known), _tokens_an_answer(known)
        tokens = round(answers * (min(length, job.options.max_tokens) if length else job.options.max_tokens))
        done = len(job.subjects) - (len(to_do.subjects) if to_do else 0)
        seconds = tokens / rate if rate else None
        estimates.append(BaseEstimate(job.base, len(job.subjects), done, answers, tokens, length is not None, seconds))
    return estimates


def tokens_a_second(logs: "Sequence[EvalLog]") -> float | None:
    """Tokens generated a second while evaluations ran, those at the same time together; None for no logs."""
    seconds, tokens = seconds_at_work(logs), sum(_output_tokens(log) for log in logs)
    return tokens / seconds if seconds and tokens else None


def seconds_at_work(logs: "Sequence[EvalLog]") -> float:
    """Seconds in which evaluations ran, those at the same time counted once."""
    spans = sorted(
        (datetime.fromisoformat(str(log.stats.started_at)), datetime.fromisoformat(str(log.stats.completed_at)))
        for log in logs
        if log.stats.started_at and log.stats.completed_at
    )
    seconds, until = 0.0, None
    for start, end in spans:
        begin = start if until is None else max(start, until)
        if end > begin:
            seconds += (end - begin).total_seconds()
            until = end
    return seconds


def _tokens_an_answer(logs: "Sequence[EvalLog]") -> float | None:
    answers = sum(log.results.completed_samples for log in logs if log.results is not None)
    return sum(_output_tokens(log) for log in logs if log.results is not None) / answers if answers else None


def _output_tokens(log: "EvalLog") -> int:
    return sum(usage.output_tokens for model, usage in log.stats.model_usage.items() if model == log.eval.model)


def judging_estimate(jobs: Sequence[Job], logs: Logs) -> str:
    """Calls that judging takes and what they are likely to cost, as if every answer were as long as it may be."""
    parts, expected = list[str](), 0.0
    left = outstanding(jobs, logs)
    for judge in dict.fromkeys(job.judge for job in jobs if job.options.score):
        answers = sum(job.answers for job in left if job.judge == judge)
        options = jobs[0].options
        parts.append(judging_price(judge, answers, options.max_tokens, options.judge_price, options.rubrics))
        if options.max_judge_cost is not None:
            each = judging_an_answer(judge, options.max_tokens, options.judge_price, options.rubrics)
            expected += answers * (each.dollars or 0)
    cap = jobs[0].options.max_judge_cost if jobs else None
    if cap is not None and expected > cap:
        parts.append(STOPS_AT.format(cap))
    return "; ".join(parts) or "not asked now (--no-score)"


def judging_price(judge: str, answers: int, max_tokens: int, price: str | None, rubrics: Sequence[str] = ()) -> str:
    """Calls that judging so many answers takes and what they are likely to cost, in words."""
    from em_tasks.scorers.comparing.estimate import Estimate

    # Alike for every answer, and there may be millions.
    each = judging_an_answer(judge, max_tokens, price, rubrics)
    dollars = None if each.dollars is None else each.dollars * answers
    return str(Estimate(judge, each.calls * answers, 0, dollars))


def judging_an_answer(judge: str, max_tokens: int, price: str | None, rubrics: Sequence[str] = ()) -> "Estimate":
    """Calls that judging one answer takes and what they are likely to cost."""
    from em_tasks.scorers.comparing.estimate import estimate_run
    from em_tasks.scorers.judging.calls import JudgeCalls

    prices = JudgeCalls.limited(None, price, (judge,)).prices
    return estimate_run(judge, [QUESTION], 1, max_tokens, prices, rubrics)
