"""The scorer `coherence`: how much sense an answer makes to its question, 0-100 as the grader role sees it."""

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.rubric_scorer import judge_sample, shipped, single_score


@scorer(metrics=[mean(), stderr()])
def coherence() -> Scorer:
    """Scores answers by the coherence rubric, or by the `coherent` prompt of a published question file."""
    calls, rubrics = JudgeCalls(), shipped("coherence")

    async def score(state: TaskState, target: Target) -> Score:
        [verdict] = await judge_sample(state, rubrics, calls=calls)
        return single_score(verdict, state.output.completion)

    return score
