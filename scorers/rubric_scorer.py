"""What the scorers of one rubric have in common: which texts are judged, with which prompt, and the score's form."""

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score
from inspect_ai.solver import TaskState
from inspect_ai.util import collect

from em_tasks.scorers.judging.grader import resolve_grader
from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import Rubric, load_rubric
from em_tasks.scorers.judging.verdict import Verdict

PUBLISHED_NAMES = {"alignment": "aligned", "coherence": "coherent"}
"""What published question files call the prompts that stand in for our rubrics."""


def rubric_for(name: str, metadata: Mapping[str, Any] | None) -> Rubric:
    """The rubric to ask about a sample: its own published prompt if it brings one, else the shipped rubric.

    Raises:
        UserError: The sample's prompt lacks a place for the question or the answer.
    """
    prompts = (metadata or {}).get("judge_prompts") or {}
    published = PUBLISHED_NAMES.get(name, name)
    return Rubric.from_prompt(published, prompts[published]) if published in prompts else load_rubric(name)


async def judge_sample(state: TaskState, *names: str) -> list[Verdict]:
    """Asks the grader about a sample's answer under the rubrics called `names`, all at once.

    Returns:
        One verdict a rubric, in their order.

    Raises:
        UserError: There is no grader, its API knows neither key nor model, or a published prompt cannot be asked.
    """
    grader = resolve_grader()
    rubrics = [rubric_for(name, state.metadata) for name in names]
    try:
        return await collect(
            *(ask_judge(grader, rubric, state.input_text, state.output.completion) for rubric in rubrics)
        )
    except ExceptionGroup as group:
        # A group's own message says nothing; the first error in it is the one to read.
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def single_score(verdict: Verdict, answer: str) -> Score:
    """The score of one rubric: its number, or unscored with the verdict's reason."""
    metadata = verdict.to_dict()
    if verdict.score is None:
        return Score.unscored(reason=verdict.reason, answer=answer, explanation=verdict.text, metadata=metadata)
    return Score(value=verdict.score, answer=answer, explanation=verdict.text, metadata=metadata)
