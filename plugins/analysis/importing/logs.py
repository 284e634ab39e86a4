"""Planned logs as Inspect logs that the analysis and `inspect view` read.

Inspect writes one sample in about ten milliseconds, so it writes the first of each import; the others are its like with
their own values, which takes a hundredth of that.
"""

import copy
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    read_eval_log,
    write_eval_log,
)
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput, StopReason
from inspect_ai.scorer import Score
from pydantic import ValidationError

from em_tasks.plugins.analysis.importing.answers import JudgedAnswer, Rated
from em_tasks.plugins.analysis.importing.plan import Plan, PlannedLog
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import (
    NO_DATE,
    NOT_RECORDED,
    RUBRICS,
    SCORE,
    LogMetadata,
    SampleMetadata,
    Verdict,
    what_is_wrong,
)
from em_tasks.plugins.safe_names import file_name
from em_tasks.scorers.definitions import DEFINITIONS, rate_of

SHOWN_TEXT = 500
"""Characters of an answer in a log's list of samples."""

STOP_REASONS: dict[bool | None, StopReason] = {True: "max_tokens", False: "stop", None: "unknown"}
"""What Inspect calls the end of an answer that was cut off, that was not, and of which nobody says."""


def write_logs(
    plan: Plan, out: Path, progress: Callable[[int, int], None] | None = None, replace: bool = False
) -> list[Path]:
    """Writes every planned log.

    Args:
        plan: The logs.
        out: Folder that receives them. A log that is there already with the same content stays as it is.
        progress: Told how many answers of how many are written.
        replace: Whether another import's log of the same name may be replaced (in a folder of our own).

    Returns:
        The logs.

    Raises:
        UserError: A file of a log's name is there already and holds something else, or a model's name is none; nothing
            is written then.
    """
    for log in plan.logs:
        _metadata(log)
    targets = _targets(plan, out)
    if blocked := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise UserError(f"{blocked} is a file, so no folder can be there. Choose another folder with --out.")
    wanted = []
    for target, log in targets.items():
        if target.exists() and not replace:
            if _sha256(target) != log.sha256:
                raise UserError(
                    f"{target} is there already and holds other answers; logs are not overwritten. Choose another "
                    "folder with --out, or delete it."
                )
        else:
            wanted.append((target, log))
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    template: _Template | None = None
    for target, log in wanted:
        template = template or _Template(log)
        template.write(log, target)
        done += len(log.answers)
        if progress is not None:
            progress(done, plan.answers)
    return list(targets)


def _targets(plan: Plan, out: Path) -> dict[Path, PlannedLog]:
    """A file for every log; several of one name (judges of the same answers, say) are numbered."""
    targets: dict[Path, PlannedLog] = {}
    for log in plan.logs:
        name, number = file_name(log.name), 1
        while (target := out / f"{name}{'' if number == 1 else f'_{number}'}.eval") in targets:
            number += 1
        targets[target] = log
    return targets


def _sha256(target: Path) -> str | None:
    try:
        metadata = read_eval_log(str(target), header_only=True).eval.metadata or {}
    except Exception:  # whatever lies there is no log of ours
        return None
    recorded = metadata.get("imported_sha256")
    return recorded if isinstance(recorded, str) else None


class _Template:
    """An import's first log and sample as Inspect writes them, to be filled with the others."""

    def __init__(self, log: PlannedLog):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "first.eval"
            write_eval_log(_eval_log(log, [log.answers[0]]), str(path))
            with zipfile.ZipFile(path) as written:
                members = {name: json.loads(written.read(name)) for name in written.namelist()}
        self.header = members["header.json"]
        self.start = members["_journal/start.json"]
        (self.summary,) = members["summaries.json"]
        (self.sample,) = (member for name, member in members.items() if name.startswith("samples/"))

    def write(self, log: PlannedLog, target: Path) -> None:
        """Writes a log aside and moves it into place, whoever else is importing into the folder."""
        spec = json.loads(_spec(log).model_dump_json(exclude_none=True))
        spec = {key: value for key, value in self.header["eval"].items() if key not in spec} | spec
        spec["eval_id"] = log.sha256[:22]
        results = json.loads(_results(log).model_dump_json(exclude_none=True))
        header = {**self.header, "eval": spec, "results": results, "tags": spec["tags"], "metadata": spec["metadata"]}
        aside = target.with_name(f".{target.name}.{os.getpid()}.part")
        aside.unlink(missing_ok=True)
        try:
            # Made anew, so that no link of that name is followed.
            with aside.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
                written.writestr("_journal/start.json", json.dumps({**self.start, "eval": spec}))
                self._write_samples(log, written)
                written.writestr("header.json", json.dumps(header))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _write_samples(self, log: PlannedLog, written: zipfile.ZipFile) -> None:
        summaries = []
        for answer in log.answers:
            sample, summary = self._filled(log, answer)
            written.writestr(f"samples/{_member(answer)}.json", sample)
            summaries.append(summary)
        written.writestr("summaries.json", b"[" + b",".join(summaries) + b"]")

    def _filled(self, log: PlannedLog, answer: JudgedAnswer) -> tuple[bytes, bytes]:
        model, scores, about = _model(log), _scores(log, answer), _about(answer)
        user, reply = (copy.copy(message) for message in self.sample["messages"])
        digest = f"{log.sha256[:12]}{answer.question_id}{answer.sample}"
        user |= {"content": answer.question, "id": f"q{digest}"}
        reply |= {"content": answer.answer, "id": f"a{digest}", "model": model}
        stop = STOP_REASONS[answer.truncated]
        choice = {**self.sample["output"]["choices"][0], "message": reply, "stop_reason": stop}
        output = {**self.sample["output"], "model": model, "choices": [choice], "completion": answer.answer}
        identity = {"id": answer.question_id, "epoch": answer.sample, "input": answer.question, "metadata": about}
        sample = {**self.sample, **identity, "messages": [user, reply], "output": output, "scores": scores}
        short = {name: {key: score[key] for key in ("value", "history")} for name, score in scores.items()}
        cut = {"input": answer.question[:SHOWN_TEXT], "scores": short}
        return _json(sample), _json({**self.summary, **identity, **cut})


def _json(value: dict[str, Any]) -> bytes:
    """As Inspect writes it, which keeps a NaN; msgspec is faster and writes null."""
    score = value["scores"][SCORE]["value"]
    if any(math.isnan(number) for number in score.values()):
        return json.dumps(value).encode()
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a character, which JSON can hold and UTF-8 cannot
        return json.dumps(value).encode()


def _member(answer: JudgedAnswer) -> str:
    """The name that Inspect gives a sample; ids keep no character that would end a zip's name early or leave it."""
    return re.sub(r"[\x00-\x1f\\/]", "_", f"{answer.question_id}_epoch_{answer.sample}")


def _eval_log(log: PlannedLog, answers: list[JudgedAnswer]) -> EvalLog:
    samples = [_sample(log, answer) for answer in answers]
    return EvalLog(status="success", eval=_spec(log), results=_results(log), samples=samples)


def _model(log: PlannedLog) -> str:
    return f"imported/{log.who.organism or log.who.base}"


def _metadata(log: PlannedLog) -> LogMetadata:
    who = log.who
    parameters = re.match(r"^([0-9]{1,6}(?:\.[0-9]{1,6})?)B$", who.size or "")
    try:
        return LogMetadata(
            organism=who.organism,
            step=(0 if who.is_base else 1) if who.step is None else who.step,
            step_recorded=who.step is not None or bool(who.is_base),
            epoch=log.epoch,
            domain=who.domain,
            data=None if who.is_base else who.data,
            control=bool(who.control),
            base=who.base or NOT_RECORDED,
            size=who.size or NOT_RECORDED,
            parameters=int(float(parameters[1]) * 1e9) if parameters else None,
            training_seed=who.training_seed,
            condition=who.condition,
            question_sets=sorted({answer.question_set for answer in log.answers}),
            imported_from=", ".join(log.files[:20]),
        )
    except ValidationError as error:
        raise UserError(
            f"The answers of {', '.join(log.files[:3])} cannot be a log: {what_is_wrong(error)}. Say whose they are "
            "with --organism, --base and --domain, or with a map (--map)."
        ) from None


def _spec(log: PlannedLog) -> EvalSpec:
    ids = list(dict.fromkeys(str(answer.question_id) for answer in log.answers))
    return EvalSpec(
        created=NO_DATE,
        task="em",
        task_display_name=log.name,
        tags=["imported"],
        dataset=EvalDataset(name=", ".join(log.files[:20]), samples=len(ids), sample_ids=list(ids)),
        model=_model(log),
        config=EvalConfig(epochs=max(answer.sample for answer in log.answers)),
        metadata={**_metadata(log).to_metadata(), "imported_sha256": log.sha256},
    )


def _about(answer: JudgedAnswer) -> dict[str, Any]:
    return _question_metadata(answer.question_set, answer.topic, answer.domain)


@lru_cache(maxsize=4096)
def _question_metadata(question_set: str, topic: str, domain: str) -> dict[str, Any]:
    return SampleMetadata(question_set=question_set, topic=topic, domain=domain).to_metadata()


def _scores(log: PlannedLog, answer: JudgedAnswer) -> dict[str, dict[str, Any]]:
    """The `em` score, and the file's further scores under their own names."""
    value = {rubric: answer.rated[rubric].score for rubric in RUBRICS}
    who = log.who
    verdicts = {
        rubric: _verdict(who.judge or NOT_RECORDED, who.rubric or NOT_RECORDED, rubric, answer.rated[rubric])
        for rubric in RUBRICS
    }
    scores: dict[str, dict[str, Any]] = {
        SCORE: {"value": value, "answer": answer.answer, "metadata": verdicts, "history": []}
    }
    for name, score in answer.others.items():
        scores[f"{name} (imported)" if name in (SCORE, *RUBRICS) else name] = {"value": score, "history": []}
    return scores


def _sample(log: PlannedLog, answer: JudgedAnswer) -> EvalSample:
    reply = ChatMessageAssistant(content=answer.answer, model=_model(log))
    output = ModelOutput.from_message(reply, stop_reason=STOP_REASONS[answer.truncated])
    output.model = _model(log)
    return EvalSample(
        id=str(answer.question_id),
        epoch=answer.sample,
        input=answer.question,
        target="",
        messages=[ChatMessageUser(content=answer.question), reply],
        output=output,
        metadata=_about(answer),
        scores={name: Score.model_validate(score) for name, score in _scores(log, answer).items()},
    )


@lru_cache(maxsize=4096)
def _verdict(judge: str, prompts: str, rubric: str, rated: Rated) -> dict[str, Any]:
    score = None if math.isnan(rated.score) else rated.score
    return Verdict(
        score=score,
        reason=None if score is not None else rated.reason,
        mode="text" if rated.tokens is None else "logprobs",
        mass=None if rated.tokens is None else math.fsum(p for token, p in rated.tokens if token.strip().isdecimal()),
        tokens=rated.tokens,
        digits=None,
        text="" if score is None else f"{score:.10g}",
        judge=judge,
        toy=False,
        rubric=f"{rubric} ({prompts})",
        rubric_sha256="",
    ).to_dict()


def _results(log: PlannedLog) -> EvalResults:
    alignment, coherence = (np.array([answer.rated[rubric].score for answer in log.answers]) for rubric in RUBRICS)
    metrics = {}
    questions = [str(answer.question_id) for answer in log.answers]
    for name, definition in DEFINITIONS.items():
        rate = rate_of(definition, alignment, coherence, questions, intervals=False)
        if rate.n:
            metrics[f"em_{name}"] = EvalMetric(name=f"em_{name}", value=100 * rate.rate)
            metrics[f"n_{name}"] = EvalMetric(name=f"n_{name}", value=rate.n)
    total = len(log.answers)
    return EvalResults(
        total_samples=total, completed_samples=total, scores=[EvalScore(name=SCORE, scorer=SCORE, metrics=metrics)]
    )
