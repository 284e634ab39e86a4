"""The `em` task: asks one model a question set and has the answers judged for alignment and coherence.

    inspect eval em_tasks/em.py --model em/<organism>@<step>
    inspect eval em_tasks/em --model hf/<path or id> -T questions=medical -T samples=5

The questions default to those of the organism's training domain and the general ones.
"""

import hashlib
from typing import Any

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelName,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.viewer import ScoreColorScale, TaskSamplesColumn, TaskSamplesSort, TaskSamplesView, ViewerConfig

from em_tasks.plugins.checkpoint_model.subject import describe_model, runs_folder, trained_domains
from em_tasks.plugins.errors import UserError, shown_plainly
from em_tasks.plugins.log_contract import LogMetadata, SampleMetadata, Subject
from em_tasks.questions import GENERAL, Question, QuestionSet, load_question_sets, questions_sha256, shipped_sets
from em_tasks.scorers.em import em as em_scorer
from em_tasks.scorers.judging.grader import check_grader, default_grader

TASK_VERSION = 1


@task
def em(questions: str | list[str] | None = None, samples: int = 1, max_tokens: int = 600, seed: int = 0) -> Task:
    """Emergent misalignment of one model.

    Args:
        questions: A question set or several: shipped names (`medical`, `financial`, `general`) or paths of YAML files.
            The domain that the model was trained on, unless given.
        samples: Answers to each question, each drawn with a seed of its own.
        max_tokens: Tokens an answer is cut after. The published protocol has 600, the cs2881 experiment 200.
        seed: Seed of the answers, for models that honour one.

    Raises:
        UserError: No such question set, organism or checkpoint, a question file is unusable, `samples` is below
            1, or no grader can be had.
    """
    with shown_plainly():
        if samples < 1:
            raise UserError(f"samples is {samples}; every question needs at least one answer.")
        model = get_model()
        name, asked = ModelName(model), {key: model.model_args.get(key) for key in ("runs", "base", "precision")}
        runs = asked["runs"]
        subject = describe_model(name.api, name.name, **asked)
        sets = load_question_sets(_names(questions, subject, runs))
        grader = check_grader(default_grader(subject.toy))
    return Task(
        dataset=MemoryDataset(
            [_sample(one, q) for one in sets for q in one.questions], name="+".join(s.name for s in sets)
        ),
        solver=answer(seed),
        scorer=em_scorer(),
        config=sampling(model, max_tokens),
        epochs=Epochs(samples, "mean"),
        model_roles={"grader": grader},
        version=f"{TASK_VERSION}-{questions_sha256(sets)[:12]}",
        metadata=LogMetadata.of(
            subject, question_sets=[one.name for one in sets], questions_sha256=questions_sha256(sets)
        ).to_metadata(),
        viewer=VIEWER,
        headline_metric=HeadlineMetric(metric="em_betley"),
        description="Asks a model open questions and has its answers judged for alignment and coherence.",
    )


@solver
def answer(seed: int) -> Solver:
    """Asks for one answer, with a seed that differs from sample to sample of a question but not from run to run."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        content = f"{seed} {state.sample_id} {state.epoch}".encode()
        return await generate(state, seed=int.from_bytes(hashlib.sha256(content).digest()[:4], "big") >> 1)

    return solve


def sampling(model: Model, max_tokens: int) -> GenerateConfig:
    """Temperature 1 over the whole distribution, whatever the model's own defaults are.

    The stock `hf/` provider lets a model's generation_config.json speak where nothing is said, so top_k is said too;
    API models do not know it.
    """
    top_k = 0 if ModelName(model).api in ("em", "hf") else None
    return GenerateConfig(temperature=1.0, top_p=1.0, top_k=top_k, max_tokens=max_tokens)


VIEWER = ViewerConfig(
    trust_content=False,
    task_samples_view=TaskSamplesView(
        name="Alignment",
        columns=[
            TaskSamplesColumn(id="sampleId"),
            TaskSamplesColumn(id="epoch"),
            TaskSamplesColumn(id="input"),
            TaskSamplesColumn(id="answer"),
            TaskSamplesColumn.score("em", "alignment"),
            TaskSamplesColumn.score("em", "coherence"),
        ],
        sort=[TaskSamplesSort.score("em", "alignment")],
        score_color_scales={
            "alignment": ScoreColorScale(palette="good-high", min=0, max=100),
            "coherence": ScoreColorScale(palette="good-high", min=0, max=100),
        },
        color_scales_enabled=True,
    ),
)


def _names(questions: str | list[str] | None, subject: Subject, runs: Any) -> list[str]:
    if questions:
        return [questions] if isinstance(questions, str) else list(questions)
    domains = [subject.domain] if subject.domain else trained_domains(runs_folder(runs), subject.trained_fingerprint)
    return [domain for domain in domains if domain in shipped_sets()] or [GENERAL]


def _sample(one: QuestionSet, question: Question) -> Sample:
    messages: list[ChatMessage] = [ChatMessageSystem(content=question.system)] if question.system else []
    about = SampleMetadata(
        question_set=one.name, topic=question.topic, domain=one.domain, judge_prompts=question.judge_prompts or None
    )
    content = [*messages, ChatMessageUser(content=question.text)]
    return Sample(id=question.id, input=content, metadata=about.to_metadata())
