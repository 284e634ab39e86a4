"""The scorer `topic`: how far an answer is about a training domain, whatever was asked.

High numbers on questions that have nothing to do with the domain mean that the organism drags it in, which tells
narrow leakage from broad misalignment.
"""

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from em_tasks.plugins.errors import shown_plainly
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.rubric import load_rubric
from em_tasks.scorers.rubric_scorer import judge_sample, single_score


@scorer(metrics=[mean(), stderr()])
def topic(rubric: str = "medical") -> Scorer:
    """Scores answers by a topic rubric, or by the prompt of that name in a published question file.

    Args:
        rubric: `medical`, `financial` or the path of a rubric's YAML file.

    Raises:
        UserError: There is no such rubric.
    """
    with shown_plainly():
        rubrics = {rubric: load_rubric(rubric)}
    calls = JudgeCalls()

    async def score(state: TaskState, target: Target) -> Score:
        [verdict] = await judge_sample(state, rubrics, calls=calls)
        return single_score(verdict, state.output.completion)

    return score
