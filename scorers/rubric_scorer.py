"""What the scorers of one rubric have in common: which texts are judged, with which prompt, and the score's form."""

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score
from inspect_ai.solver import TaskState

from scorers.grader import resolve_grader
from scorers.judge import ask_judge
from scorers.rubric import Rubric, load_rubric
from scorers.verdict import Verdict

PUBLISHED_NAMES = {"alignment": "aligned", "coherence": "coherent"}
"""What published question files call the prompts that stand in for our rubrics."""


def rubric_for(name: str, metadata: Mapping[str, Any] | None) -> Rubric:
    """The rubric to ask about a sample: its own published prompt if it brings one, else the shipped rubric.

    Raises:
        ValueError: The sample's prompt lacks a place for the question or the answer.
    """
    prompts = (metadata or {}).get("judge_prompts") or {}
    published = PUBLISHED_NAMES.get(name, name)
    return Rubric.from_prompt(published, prompts[published]) if published in prompts else load_rubric(name)


async def judge_sample(name: str, state: TaskState) -> Verdict:
    """Asks the grader about a sample's answer under the rubric called `name`."""
    rubric = rubric_for(name, state.metadata)
    return await ask_judge(resolve_grader(), rubric, state.input_text, state.output.completion)


def single_score(verdict: Verdict, answer: str) -> Score:
    """The score of one rubric: its number, or unscored with the verdict's reason."""
    metadata = verdict.to_dict()
    if verdict.score is None:
        return Score.unscored(reason=verdict.reason, answer=answer, explanation=verdict.text, metadata=metadata)
    return Score(value=verdict.score, answer=answer, explanation=verdict.text, metadata=metadata)
