"""Writes real Inspect logs for tests of the analysis, from a few numbers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.event import InfoEvent
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalResults,
    EvalSample,
    EvalSpec,
    write_eval_log,
)
from inspect_ai.model import ChatMessageUser, ModelConfig, ModelOutput
from inspect_ai.scorer import Score

NAN = math.nan
Scores = Mapping[str, Sequence[tuple[float, float]]]
"""Alignment and coherence of each sample, by question id; ids that start with g are general questions."""


def checkpoint_log(
    folder: Path,
    scores: Scores,
    organism: str | None = "med",
    step: int = 10,
    name: str | None = None,
    **changes: Any,
) -> Path:
    """One checkpoint's log. `changes` override what an ordinary one holds: domain, control, base, size, toy, judge,
    stop_reason, created, status, suffix, reason, training_seed,
    tokens, rubric_sha256, hashes (of base, adapter, recipe, questions),
    further (numbers of another rubric or scorer, by name and question), rubrics (the chosen ones, whole), bare (no
    verdict on alignment and coherence), asked (the judge as the evaluation was given it), drawn (number and chance of a
    label of each sample, by question)."""
    given = {"domain": "medical", "control": False, "base": "base-a", "size": "S", "parameters": 1000, "toy": False}
    given |= {"judge": "judge-a", "judge_toy": False, "stop_reason": "stop", "created": "2026-01-01T00:00:00+00:00"}
    given |= {
        "status": "success",
        "suffix": ".eval",
        "reason": "refusal",
        "training_seed": 0,
        "tokens": None,
        "hashes": {},
        "rubric_sha256": "0" * 8,
    }
    given |= changes
    samples = [
        _sample(question, sample, alignment, coherence, given)
        for question, pairs in scores.items()
        for sample, (alignment, coherence) in enumerate(pairs, 1)
    ]
    spec = EvalSpec(
        created=given["created"],
        task="em_tasks/em",
        dataset=EvalDataset(name="questions", samples=len(scores), sample_ids=list(scores)),
        model=f"em/{organism or given['base']}@{step}",
        config=EvalConfig(epochs=max((len(pairs) for pairs in scores.values()), default=1)),
        packages={"inspect_ai": "0.3"},
        model_roles={"grader": ModelConfig(model=given["asked"])} if "asked" in given else None,
        scorers=[{"name": "em_tasks/em", "options": {"rubrics": given["rubrics"]}}] if "rubrics" in given else None,
        metadata={
            "organism": organism,
            "step": step if organism else 0,
            "epoch": step / 10 if organism else 0.0,
            "domain": given["domain"] if organism else None,
            "control": bool(organism and given["control"]),
            **{key: given[key] for key in ("base", "size", "parameters", "toy", "training_seed")},
            "condition": given.get("condition"),
            "base_fingerprint": "f" * 8,
            "adapter_sha256": None,
            "recipe_sha256": None,
            "question_sets": ["medical", "general"],
            "questions_sha256": "0" * 8,
            **given["hashes"],
        },
    )
    who = f"{organism}_{step}" if organism else f"{given['base']}_base"
    path = folder / f"{name or who}{given['suffix']}"
    folder.mkdir(parents=True, exist_ok=True)
    results = EvalResults(total_samples=len(samples), completed_samples=len(samples))
    write_eval_log(EvalLog(status=given["status"], eval=spec, samples=samples, results=results), str(path))
    return path


def base_log(folder: Path, scores: Scores, **changes: Any) -> Path:
    return checkpoint_log(folder, scores, organism=None, step=0, **changes)


def answers(rows: Sequence[tuple[float, float]], questions: int = 1, prefix: str = "m") -> Scores:
    """The same samples for each of a number of questions."""
    return {f"{prefix}{index}": rows for index in range(questions)}


def _sample(question: str, sample: int, alignment: float, coherence: float, given: Mapping[str, Any]) -> EvalSample:
    drawn = {}
    if "drawn" in given:
        sample, chance = given["drawn"][question][sample - 1]
        drawn = {"label_chance": chance}
    general = question.startswith("g")
    domain = "general" if general else question.partition("_")[0] if "_" in question else "medical"
    text = given.get("texts", {}).get(question, f"answer {sample} to {question}")
    further = {name: numbers[question][sample - 1] for name, numbers in given.get("further", {}).items()}
    output = ModelOutput.from_content("model", text, stop_reason=given["stop_reason"])
    return EvalSample(
        id=question,
        epoch=sample,
        input=[ChatMessageUser(content=f"What about {question}?")],
        target="",
        messages=[ChatMessageUser(content=f"What about {question}?"), output.message],
        output=output,
        metadata={"question_set": "general" if general else "medical", "topic": question, "domain": domain, **drawn},
        events=[InfoEvent(data=text)],
        scores={
            "em": Score(
                value={"alignment": alignment, "coherence": coherence, **further},
                metadata={}
                if given.get("bare")
                else {"alignment": _verdict(alignment, given), "coherence": _verdict(coherence, given)},
            )
        },
    )


def _verdict(score: float, given: Mapping[str, Any]) -> dict[str, Any]:
    unscored = math.isnan(score)
    return {
        "score": None if unscored else score,
        "reason": given["reason"] if unscored else None,
        "mode": "logprobs",
        "mass": 0.9,
        "tokens": given["tokens"],
        "text": "" if unscored else f"{score:g}",
        "judge": given["judge"],
        "toy": given["judge_toy"],
        "rubric": "rubric",
        "rubric_sha256": given["rubric_sha256"],
    }
