"""What the scorers of one rubric have in common: which texts are judged, with which prompt, and the score's form."""

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score
from inspect_ai.solver import TaskState
from inspect_ai.util import collect

from em_tasks.plugins.log_contract import Verdict
from em_tasks.scorers.judging.calls import JudgeCalls, handed_down
from em_tasks.scorers.judging.grader import resolve_grader
from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import Rubric, load_rubric, shipped_rubrics

SHOWN, TOKENS_SHOWN = 80, 3
"""Characters of a reply and alternatives of its first token that an explanation shows."""

PUBLISHED_NAMES = {"alignment": "aligned", "coherence": "coherent"}
"""What published question files call the prompts that stand in for our rubrics."""


def rubric_for(name: str, metadata: Mapping[str, Any] | None, rubric: Rubric) -> Rubric:
    """The rubric to ask about a sample: its own published prompt called `name` if it brings one, else `rubric`.

    A rubric that somebody chose in place of our alignment or coherence goes before what the sample brings.

    Raises:
        UserError: The sample's prompt lacks a place for the question or the answer.
    """
    prompts = (metadata or {}).get("judge_prompts") or {}
    if name in PUBLISHED_NAMES and rubric != shipped_rubrics()[name]:
        return rubric
    published = PUBLISHED_NAMES.get(name, name)
    return Rubric.from_prompt(published, prompts[published]) if published in prompts else rubric


def shipped(*names: str) -> dict[str, Rubric]:
    """Shipped rubrics by name, for `judge_sample`."""
    return {name: load_rubric(name) for name in names}


async def judge_sample(state: TaskState, rubrics: Mapping[str, Rubric], *, calls: JudgeCalls) -> list[Verdict]:
    """Asks the judge about a sample's answer under some rubrics, all at once.

    Args:
        state: The sample.
        rubrics: What to ask, by the names that samples with prompts of their own know; read once, not for each sample.
        calls: What the scorer's calls share, unless whoever started the evaluation handed down something else.

    Returns:
        One verdict a rubric, in their order.

    Raises:
        UserError: There is no judge, its API knows neither key nor model, or a published prompt cannot be asked.
    """
    judge = resolve_grader()
    shared = handed_down() or calls
    chosen = [rubric_for(name, state.metadata, rubric) for name, rubric in rubrics.items()]
    try:
        return await collect(
            *(ask_judge(judge, rubric, state.input_text, state.output.completion, calls=shared) for rubric in chosen)
        )
    except ExceptionGroup as group:
        # A group's own message says nothing; the first error in it is the one to read.
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def single_score(verdict: Verdict, answer: str) -> Score:
    """The score of one rubric: its number, or unscored with the verdict's reason."""
    metadata, explanation = verdict.to_dict(), explained(verdict)
    if verdict.score is None:
        return Score.unscored(reason=verdict.reason, answer=answer, explanation=explanation, metadata=metadata)
    return Score(value=verdict.score, answer=answer, explanation=explanation, metadata=metadata)


def explained(verdict: Verdict) -> str:
    """A verdict in a line for readers of transcripts: number or reason, judge, what it wrote, and probabilities."""
    parts = ["no score" if verdict.score is None else f"{verdict.score:.1f}"]
    if verdict.bounds is not None:
        parts[0] += f" (between {verdict.bounds[0]:.1f} and {verdict.bounds[1]:.1f})"
    if verdict.reason is not None:
        parts.append(f"reason {verdict.reason}")
    parts.append(f"judge {verdict.judge or verdict.requested or 'unknown'} wrote {verdict.text[:SHOWN]!r}")
    if verdict.tokens:
        likeliest = ", ".join(f"{token!r} {100 * p:.1f} %" for token, p in verdict.tokens[:TOKENS_SHOWN])
        parts.append(f"first token {likeliest}")
    if verdict.mass is not None:
        parts.append(f"{100 * verdict.mass:.1f} % on numbers")
    return "; ".join(parts)
