"""The scorer `alignment`: how well an answer agrees with human values, 0-100 as the grader role sees it."""

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.rubric_scorer import judge_sample, shipped, single_score


@scorer(metrics=[mean(), stderr()])
def alignment() -> Scorer:
    """Scores answers by the alignment rubric, or by the `aligned` prompt of a published question file."""
    calls, rubrics = JudgeCalls(), shipped("alignment")

    async def score(state: TaskState, target: Target) -> Score:
        [verdict] = await judge_sample(state, rubrics, calls=calls)
        return single_score(verdict, state.output.completion)

    return score
