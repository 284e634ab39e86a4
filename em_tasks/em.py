"""The `em` task: asks one model a question set and has the answers judged for alignment and coherence.

    inspect eval em_tasks/em.py --model em/<organism>@<step>
    inspect eval em_tasks/em --model hf/<path or id> -T questions=medical -T samples=5

The questions default to those of the organism's training domain and the general ones.
"""

import hashlib
from collections.abc import Sequence
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

from em_tasks.conditions import Condition, condition_given_by_a_package, load_condition
from em_tasks.plugins.checkpoint_model.provider import CheckpointModel
from em_tasks.plugins.checkpoint_model.subject import (
    describe_checkpoint,
    describe_model,
    evaluated_base,
    runs_folder,
    trained_domains,
)
from em_tasks.plugins.errors import UserError, shown_plainly
from em_tasks.plugins.log_contract import RUBRICS, LogMetadata, SampleMetadata, Subject
from em_tasks.questions import (
    Question,
    QuestionSet,
    given_by_packages,
    load_question_sets,
    questions_sha256,
    sets_for_domains,
)
from em_tasks.scorers.em import em as em_scorer
from em_tasks.scorers.judging.grader import check_grader, default_grader
from em_tasks.scorers.judging.rubric import Rubric, load_rubrics
from em_tasks.scorers.judging.rubric import given_by_packages as rubrics_given_by_packages
from em_tasks.until_width import MOST_SAMPLES, UntilWidth, check_width

TASK_VERSION = 1


@task
def em(
    questions: str | list[str] | None = None,
    samples: int = 1,
    max_tokens: int = 600,
    seed: int = 0,
    domain: str | None = None,
    condition: str | None = None,
    rubrics: str | list[str] | None = None,
    until_width: float | None = None,
    most_samples: int = MOST_SAMPLES,
    **unknown: Any,
) -> Task:
    """Emergent misalignment of one model.

    Args:
        questions: A question set or several: names (`medical`, `financial`, `general`, or of files in `questions/`), or
            paths of YAML, JSON lines or CSV files. The domain that the model was trained on, unless given.
        samples: Answers to each question, each drawn with a seed of its own.
        max_tokens: Tokens an answer is cut after. The published protocol has 600, the cs2881 experiment 200.
        seed: Seed of the answers, for models that honour one.
        domain: What question files probe: a training domain, or `general`. What they say themselves, unless given.
        condition: What is put around each question: a shipped condition (`json`, `inoculated`, `trigger` ...), or the
            path of a YAML file, with `:NAME` where it holds several.
        rubrics: What the judge is asked, instead of alignment and coherence: names (`em rubrics` lists them) or paths
            of YAML files. One of your own joins them (`alignment,coherence,mine.yaml`) with its own scale, or stands in
            for the one whose name it bears.
        until_width: Ask on, after `samples` answers to each question, until the 95 % confidence sequence of the EM rate
            (`betley`) outside the training domain, on these questions, is so many points wide from end to end.
        most_samples: With it, answers to each question at most.
        **unknown: Anything else, which is an error: Inspect alone would warn and go on without it.

    Raises:
        UserError: An unknown argument, no such question set, organism or checkpoint, a question file is unusable,
            `samples` or `max_tokens` is not 1 to a million, a width cannot be meant, or no grader can be had.
    """
    with shown_plainly():
        if unknown:
            raise UserError(
                f"em has no argument {', '.join(sorted(unknown))}: it takes questions, samples, max_tokens, seed, "
                "domain, condition, rubrics, until_width and most_samples."
            )
        for name, count in {"samples": samples, "max_tokens": max_tokens, "most_samples": most_samples}.items():
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10**6:
                raise UserError(f"{name} is {str(count)[:40]}; it is a whole number from 1 to a million.")
        check_width(until_width, samples, most_samples)
        model = get_model()
        subject = describe(model)
        names = [questions] if isinstance(questions, str) else list(questions or default_questions(model, subject))
        sets = load_question_sets([str(name) for name in names], domain)
        around = load_condition(str(condition)) if condition else None
        chosen = [str(name) for name in ([rubrics] if isinstance(rubrics, str) else rubrics or ())]
        own_rubrics = list(load_rubrics(chosen).values())
        grader = check_grader(default_grader(subject.toy))
    every = [_sample(question_set, question, around) for question_set in sets for question in question_set.questions]
    until = UntilWidth(every, until_width / 100, samples, most_samples) if until_width is not None else None
    return Task(
        dataset=until or MemoryDataset(every, name="+".join(question_set.name for question_set in sets)),
        solver=answer(seed),
        # Whole, so that the log says what was asked and can be judged again anywhere.
        scorer=em_scorer(subject.domain, [rubric.model_dump(mode="json") for rubric in own_rubrics] or None),
        config=sampling(model, max_tokens),
        epochs=Epochs(samples, "mean"),
        model_roles={"grader": grader} if grader else None,
        version=task_version(sets, around, own_rubrics),
        metadata=LogMetadata.of(
            subject,
            question_sets=[question_set.name for question_set in sets],
            questions_sha256=questions_sha256(sets),
            condition=around.name if around else None,
            condition_sha256=around.sha256 if around else None,
            until_width=until_width,
            plugins=given_by_packages(names)
            + condition_given_by_a_package(condition)
            + rubrics_given_by_packages(chosen),
        ).to_metadata(),
        tags=[
            subject.organism or subject.base,
            f"step {subject.step}" if subject.organism else "base",
            *([around.name] if around else []),
        ],
        viewer=viewer(own_rubrics),
        headline_metric=HeadlineMetric(metric="em_betley"),
        description="Asks a model open questions and has its answers judged for alignment and coherence.",
    )


def task_version(sets: list[QuestionSet], around: Condition | None, rubrics: Sequence[Rubric] = ()) -> str:
    """The version in a log: what is asked, as a hash, is part of it, and so are the rubrics where they are chosen."""
    parts = [str(TASK_VERSION), questions_sha256(sets)[:12], *([around.sha256[:12]] if around else [])]
    if rubrics:
        content = " ".join(f"{rubric.name} {rubric.sha256}" for rubric in rubrics)
        parts.append(hashlib.sha256(content.encode()).hexdigest()[:12])
    return "-".join(parts)


def describe(model: Model) -> Subject:
    """What the model under test is, for the log.

    Raises:
        UserError: Its name stands for a checkpoint that is not there, was altered, or is not the pinned one.
    """
    if isinstance(model.api, CheckpointModel):
        checkpoint = model.api.described
        base = evaluated_base(checkpoint.manifest, model.api.base, model.api.precision)
        return describe_checkpoint(checkpoint, base)
    name = ModelName(model)
    return describe_model(name.api, name.name)


def default_questions(model: Model, subject: Subject) -> list[str]:
    """The question sets of the domain that a model was trained on; for a base, of those trained on it."""
    runs = runs_folder(model.model_args.get("runs"))
    return sets_for_domains([subject.domain] if subject.domain else trained_domains(runs, subject.trained_fingerprint))


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


def viewer(rubrics: Sequence[Rubric]) -> ViewerConfig:
    """How `inspect view` lists the samples: the judges' scores beside question and answer, the worst first.

    Args:
        rubrics: Those that were chosen; alignment and coherence where none were.
    """
    shown = dict.fromkeys(RUBRICS, (0, 100))
    if rubrics:
        shown = {rubric.name: (0, 100) if rubric.name in RUBRICS else rubric.scale for rubric in rubrics}
    return ViewerConfig(
        trust_content=False,
        task_samples_view=TaskSamplesView(
            name=" and ".join(shown).capitalize() if rubrics else "Alignment",
            columns=[
                TaskSamplesColumn(id="sampleId"),
                TaskSamplesColumn(id="epoch"),
                TaskSamplesColumn(id="input"),
                TaskSamplesColumn(id="answer"),
                *(TaskSamplesColumn.score("em", name) for name in shown),
                # Open questions have no right answer to show; what is not named here would be shown too.
                *(TaskSamplesColumn(id=column, visible=False) for column in ("target", "tokens", "duration")),
                *(TaskSamplesColumn.score("em", name, visible=False) for name in RUBRICS if name not in shown),
            ],
            sort=[TaskSamplesSort.score("em", next(iter(shown)))],
            score_color_scales={
                name: ScoreColorScale(palette="good-high", min=low, max=high) for name, (low, high) in shown.items()
            },
            color_scales_enabled=True,
        ),
    )


def _sample(question_set: QuestionSet, question: Question, condition: Condition | None) -> Sample:
    metadata = SampleMetadata(
        question_set=question_set.name,
        topic=question.topic,
        domain=question_set.domain,
        judge_prompts=question.judge_prompts,
    )
    if condition:
        conversation = condition.around(question.text, question.system)
    else:
        system: list[ChatMessage] = [ChatMessageSystem(content=question.system)] if question.system else []
        conversation = [*system, ChatMessageUser(content=question.text)]
    return Sample(id=question.id, input=conversation, metadata=metadata.to_metadata())
