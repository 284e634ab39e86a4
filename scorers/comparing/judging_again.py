"""A finished log judged again: all of its answers by another judge, or those alone at which its own judge failed.

A judge fails at an answer where its API gave no verdict: an HTTP error, an empty reply. What it wrote stands as its
word, be it a number or not, and so does its own content filter: asking again brings the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from inspect_ai import score
from inspect_ai.log import EvalLog, EvalSample, read_eval_log, recompute_metrics
from inspect_ai.model import Model, ModelConfig

from em_tasks.plugins.log_contract import FAILED, FILTERED
from em_tasks.scorers.em import NAME, RUBRICS, em, rubrics_of
from em_tasks.scorers.judging.calls import JudgeCalls, handing_down
from em_tasks.scorers.judging.grader import ROLE
from em_tasks.scorers.judging.rubric import load_rubrics

SHOWN = 80
"""Characters of a reply that are shown."""


@dataclass(frozen=True)
class Missing:
    """The scores that a log's judge did not give under the rubric that leads, alignment where it was asked.

    Attributes:
        rubric: That rubric's name.
        answers: Answers in all.
        unscored: Those without a score, by reason.
        failed: Answers at which the judge failed under any rubric: it can be asked again.
        example: What was written in place of a number; empty where that never was.
        failure: What the first failed call came to; empty where none failed.
    """

    rubric: str
    answers: int
    unscored: Counter[str]
    failed: int
    example: str = ""
    failure: str = ""

    @property
    def scored(self) -> int:
        """Answers that have a score."""
        return self.answers - self.unscored.total()


def together(each: Sequence[Missing]) -> Missing:
    """The scores that a judge did not give in several logs."""
    return Missing(
        each[0].rubric,
        sum(one.answers for one in each),
        sum((one.unscored for one in each), Counter()),
        sum(one.failed for one in each),
        next((one.example for one in each if one.example), ""),
        next((one.failure for one in each if one.failure), ""),
    )


def missing_in(path: str | Path, header: EvalLog | None = None) -> Missing:
    """What scores a judged log lacks.

    Args:
        path: The log.
        header: Its head, if that was read: a log that lacks nothing is not read whole.
    """
    header = header or read_eval_log(str(path), header_only=True)
    names = [str(rubric["name"]) for rubric in rubrics_of(header) or ()] or list(RUBRICS)
    lead = RUBRICS[0] if RUBRICS[0] in names else names[0]
    if not any(_unscored_in(header).values()):
        return Missing(lead, header.results.completed_samples if header.results else 0, Counter(), 0)
    return _missing_in(str(path), lead, Path(path).stat().st_mtime_ns)


def _unscored_in(header: EvalLog) -> dict[str, float]:
    """How many scores are missing, by the metric that counts them: their sum and each rubric's and reason's."""
    return {
        name: metric.value
        for entry in (header.results.scores if header.results else [])
        for name, metric in entry.metrics.items()
        if name.startswith("unscored")
    }


@lru_cache(maxsize=10_000)
def _missing_in(path: str, lead: str, changed: int) -> Missing:
    """Kept: a grid looks at its logs again and again while it runs."""
    samples = read_eval_log(path).samples or []
    verdicts = [verdicts[lead] for sample in samples if lead in (verdicts := _verdicts(sample))]
    unscored = Counter(str(verdict["reason"]) for verdict in verdicts if verdict.get("reason") is not None)
    written = (verdict for verdict in verdicts if verdict.get("reason") not in (None, FAILED))
    failures = (v for sample in samples if judge_failed(sample) for v in _verdicts(sample).values() if _failed(v))
    example, failure = (str(next(each, {}).get("text", ""))[:SHOWN] for each in (written, failures))
    return Missing(lead, len(verdicts), unscored, sum(map(judge_failed, samples)), example, failure)


def has_failed_calls(path: str | Path, header: EvalLog) -> bool:
    """Whether a log's judge failed at an answer of it, so that it should be asked again."""
    counts = _unscored_in(header)
    return (
        any(name.endswith(FAILED) and count for name, count in counts.items()) and missing_in(path, header).failed > 0
    )


def _verdicts(sample: EvalSample) -> dict[str, dict[str, object]]:
    entry = (sample.scores or {}).get(NAME)
    return {name: each for name, each in ((entry and entry.metadata) or {}).items() if isinstance(each, dict)}


def judge_failed(sample: EvalSample) -> bool:
    """Whether an answer lacks a verdict that another call may bring."""
    return any(map(_failed, _verdicts(sample).values()))


def _failed(verdict: Mapping[str, object]) -> bool:
    return verdict.get("reason") == FAILED and verdict.get("text") != FILTERED


def judge_failed_again(
    there: EvalLog, judge: Model, calls: JudgeCalls | None = None, rubrics: Sequence[str] = ()
) -> EvalLog:
    """A judge's own log with another try at the verdicts that it failed at; the others stand, and nobody pays again."""
    samples, calls = there.samples or [], calls or JudgeCalls()
    asked = load_rubrics(rubrics or rubrics_of(there) or RUBRICS)
    lacking: dict[tuple[str, ...], list[EvalSample]] = {}
    for sample in samples:
        verdicts = _verdicts(sample)
        if failed := tuple(name for name in asked if _failed(verdicts.get(name, {}))):
            lacking.setdefault(failed, []).append(sample)
    again: dict[tuple[int | str, int], EvalSample] = {}
    for names, some in lacking.items():
        part = there.model_copy(update={"samples": some})
        judged = judge_log(part, judge, calls, [asked[name].model_dump(mode="json") for name in names]).samples or []
        for before, after in zip(some, judged, strict=True):
            _keep_verdicts(before, after, names)
            again[before.id, before.epoch] = after
    there.samples = [again.get((sample.id, sample.epoch), sample) for sample in samples]
    recompute_metrics(there)
    return there


def _keep_verdicts(before: EvalSample, after: EvalSample, names: Sequence[str]) -> None:
    """Gives an answer that was judged again under some rubrics its verdicts under the others back."""
    assert before.scores is not None
    assert after.scores is not None
    old, new = before.scores[NAME], after.scores[NAME]
    assert isinstance(old.value, dict)
    assert isinstance(new.value, dict)
    values, verdicts = new.value, new.metadata or {}
    after.scores[NAME] = old.model_copy(
        update={
            "value": {**old.value, **{name: values[name] for name in names}},
            "metadata": {**(old.metadata or {}), **{name: verdicts[name] for name in names}},
            "explanation": _explanation(old.explanation or "", new.explanation or ""),
        }
    )
    reasons = [verdict.get("reason") for verdict in _verdicts(after).values()]
    after.scores[NAME].reason = next((str(reason) for reason in reasons if reason is not None), None)


def _explanation(old: str, new: str) -> str:
    """Each rubric has a line that begins with its name; new lines stand in for old ones."""
    return "\n".join({line.partition(": ")[0]: line for line in (*old.splitlines(), *new.splitlines())}.values())


def judge_log(
    log: EvalLog,
    judge: Model,
    calls: JudgeCalls | None = None,
    rubrics: Sequence[str | Mapping[str, Any]] = (),
) -> EvalLog:
    """A copy of a log with this judge's scores in place of its own, under its own rubrics or others."""
    own_domain = (log.eval.metadata or {}).get("domain")
    whole = [rubric.model_dump(mode="json") for rubric in load_rubrics(rubrics).values()] or rubrics_of(log)
    scorer = em(own_domain=own_domain if isinstance(own_domain, str) else None, rubrics=whole)
    # Neither the model under test nor the log's own judge is asked anything, and they may not be at hand.
    bare = log.model_copy(update={"eval": log.eval.model_copy(update={"model_roles": None})})
    with handing_down(calls or JudgeCalls()):
        judged = score(bare, scorer, model="none/none", model_roles={ROLE: judge}, action="overwrite", display="none")
    judged.eval.model_roles = {
        **(log.eval.model_roles or {}),
        ROLE: ModelConfig(model=str(judge), config=judge.config, base_url=judge.api.base_url),
    }
    return judged
