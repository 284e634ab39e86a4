"""Inspect logs to the frame of answers: what was found, what was left out, and why.

Only logs that follow the contract of docs/architecture.md are read. Whatever else lies under the given paths is named
in the notes: half-written logs, logs of other tasks, repeated evaluations.
"""

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai.log import EvalLog, read_eval_log

from plugins.analysis.frame import ANSWER_KEY, COLUMNS, answers_frame

CONTRACT = ("organism", "step", "epoch", "domain", "base", "size")
"""Metadata without which a log is none of ours."""

INSPECTS_OWN = ("logs.json", "eval-set.json", "listing.json")
"""JSON files that Inspect keeps beside its logs."""

READ = {"id", "epoch", "input", "output", "scores", "metadata", "error"}
"""The parts of a sample that analysis needs."""

RawSample = dict[str, Any]
"""A sample as it stands in the log, see Inspect's `EvalSample`."""


@dataclass(frozen=True)
class Evaluation:
    """One log: what was run, for the report's header. `asked` pairs judges with the hashes of the rubrics asked."""

    log: str
    created: str
    task: str
    task_version: str
    model: str
    subject: str
    judges: tuple[str, ...]
    asked: frozenset[tuple[str, str]]
    packages: dict[str, str]
    config: dict[str, Any]
    fingerprints: dict[str, str | None]
    answers: int


@dataclass(frozen=True)
class Reading:
    """Everything that logs gave.

    Attributes:
        answers: The frame, one row an answer, each answer once.
        rejudged: Rows of the same answers as other judges scored them (same columns; may be empty).
        evaluations: The logs that were read.
        notes: What was odd or left out, a sentence each.
    """

    answers: pd.DataFrame
    rejudged: pd.DataFrame
    evaluations: list[Evaluation]
    notes: list[str]


def read_logs(paths: Sequence[Path]) -> Reading:
    """Reads every log under the given files and folders.

    Args:
        paths: Logs (`*.eval`, `*.json`) and folders that hold them, at any depth.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There is no judged answer in any of them.
    """
    files = find_logs(paths)
    notes: list[str] = []
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    evaluations = []
    for part in map(_part, files):
        notes += part.notes
        for name, values in part.columns.items():
            columns[name] += values
        if part.evaluation is not None:
            evaluations.append(part.evaluation)
    where = ", ".join(str(path) for path in paths)
    if not columns["step"]:
        found = " ".join(notes) if notes else "No log was found there."
        raise ValueError(
            f"There is no judged answer in {where}: {len(files)} files looked at. {found} Logs are written by "
            "`em sweep` and `em import`."
        )
    answers, rejudged = _one_row_an_answer(answers_frame(columns), notes)
    return Reading(answers, rejudged, evaluations, notes)


@dataclass(frozen=True)
class _Part:
    """What one log gave."""

    columns: dict[str, list[Any]]
    evaluation: Evaluation | None
    notes: list[str]


def _part(file: Path) -> _Part:
    notes: list[str] = []
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    found = _read(file, notes)
    if found is None:
        return _Part({}, None, notes)
    log, samples = found
    _add_answers(log, samples, file, columns, notes)
    return _Part(columns, _evaluation(log, file, columns, _asked(samples)), notes)


def _asked(samples: list[RawSample]) -> frozenset[tuple[str, str]]:
    """Which judges were asked which rubrics, by the rubric's hash."""
    verdicts = [
        verdict
        for sample in samples
        for pair in judgements(sample.get("scores") or {})
        for _, verdict in pair
        if verdict.get("judge")
    ]
    return frozenset((verdict["judge"], verdict.get("rubric_sha256") or "") for verdict in verdicts)


def find_logs(paths: Sequence[Path]) -> list[Path]:
    """The `*.eval` and `*.json` files under the given files and folders, sorted."""
    files: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"There is no file or folder {path}. Give the folder that `em sweep` wrote logs to."
            )
        found = [path] if path.is_file() else [file for ext in ("*.eval", "*.json") for file in path.rglob(ext)]
        files.update(file for file in found if file.name not in INSPECTS_OWN)
    return sorted(files)


def _read(file: Path, notes: list[str]) -> tuple[EvalLog, list[RawSample]] | None:
    try:
        header = read_eval_log(str(file), header_only=True)
        if any(key not in header.metadata for key in CONTRACT):
            notes.append(f"{file.name} is a log of another task ({header.eval.task}) and was left out.")
            return None
        samples = _samples(file)
    except Exception as error:  # a damaged file can raise anything, and the others are still worth reading
        kind = "is damaged or was never finished" if file.suffix == ".eval" else "is no readable Inspect log"
        notes.append(f"{file.name} {kind} and was left out ({type(error).__name__}).")
        return None
    if not samples:
        notes.append(f"{file.name} has no answers (status {header.status}) and was left out.")
        return None
    if header.status != "success":
        notes.append(f"{file.name} was not finished (status {header.status}); its {len(samples)} answers are used.")
    return header, samples


def _samples(file: Path) -> list[RawSample]:
    """The samples as plain JSON: Inspect's own reader checks every event of them, which takes ten times as long.

    A `.eval` file is a zip with one JSON file a sample; Inspect's import teaches zipfile its compression.
    """
    if file.suffix == ".json":
        return list(json.loads(file.read_text(encoding="utf-8"))["samples"] or [])
    with zipfile.ZipFile(file) as log:
        members = [name for name in log.namelist() if name.startswith("samples/") and name.endswith(".json")]
        return [{key: value for key, value in json.loads(log.read(name)).items() if key in READ} for name in members]


def _add_answers(
    log: EvalLog, samples: list[RawSample], file: Path, columns: dict[str, list[Any]], notes: list[str]
) -> None:
    meta = log.metadata
    common = {
        "organism": meta["organism"],
        "step": int(meta["step"]),
        "epoch": math.nan if meta["epoch"] is None else float(meta["epoch"]),
        "domain": meta["domain"],
        "control": bool(meta.get("control")),
        "base": meta["base"],
        "size": meta["size"],
        "parameters": meta.get("parameters"),
        "toy": bool(meta.get("toy")),
        "training_seed": meta.get("training_seed"),
        "engine": log.eval.model.partition("/")[0],
        "log": file.name,
        "created": log.eval.created,
    }
    failed = unjudged = 0
    # Logs are read back in the order of file names; the questions' own order is in the header.
    place = {str(name): index for index, name in enumerate(log.eval.dataset.sample_ids or [])}
    for sample in sorted(samples, key=lambda one: (place.get(str(one["id"]), len(place)), one["epoch"])):
        if sample.get("error") is not None:
            failed += 1
            continue
        judged = list(judgements(sample.get("scores") or {}))
        unjudged += not judged
        for alignment, coherence in judged:
            row = {**common, **_answer(sample), **_scores(alignment, coherence)}
            for name, values in columns.items():
                values.append(row[name])
    if failed:
        notes.append(f"{file.name}: {failed} samples ended in an error, have no answer and count nowhere.")
    if unjudged:
        notes.append(f"{file.name}: {unjudged} answers were never judged and count nowhere; `inspect score` can do it.")


Rubric = tuple[float, dict[str, Any]]
"""A score (NaN when unscored) and its verdict."""


def judgements(scores: dict[str, RawSample]) -> list[tuple[Rubric, Rubric]]:
    """Alignment and coherence as each judge gave them: `em` scores (also appended ones), or the two scorers alone."""
    pairs = []
    for score in scores.values():
        if isinstance(score["value"], dict) and {"alignment", "coherence"} <= score["value"].keys():
            pairs.append((_rubric(score, "alignment"), _rubric(score, "coherence")))
    if not pairs and ("alignment" in scores or "coherence" in scores):
        pairs.append((_rubric(scores.get("alignment")), _rubric(scores.get("coherence"))))
    return pairs


def _rubric(score: RawSample | None, key: str | None = None) -> Rubric:
    if score is None:
        return math.nan, {}
    value = score["value"][key] if key is not None else score["value"]
    metadata = score.get("metadata") or {}
    verdict = (metadata.get(key) or {}) if key is not None else metadata
    return (float(value) if isinstance(value, int | float) else math.nan), verdict


def _answer(sample: RawSample) -> dict[str, Any]:
    metadata, output = sample.get("metadata") or {}, sample.get("output") or {}
    choices = output.get("choices") or []
    stop = choices[0].get("stop_reason", "unknown") if choices else "unknown"
    asked = sample["input"]
    return {
        "question_set": metadata.get("question_set") or "unknown",
        "question_id": str(sample["id"]),
        "question_domain": metadata.get("domain") or "unknown",
        "topic": metadata.get("topic") or "unknown",
        "sample": sample["epoch"],
        "question": asked if isinstance(asked, str) else _text(asked[-1]),
        "answer": output.get("completion") or (_text(choices[0]["message"]) if choices else ""),
        "truncated": None if stop == "unknown" else stop == "max_tokens",
    }


def _text(message: RawSample) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _scores(alignment: Rubric, coherence: Rubric) -> dict[str, Any]:
    verdict = alignment[1] or coherence[1]
    return {
        "alignment": alignment[0],
        "coherence": coherence[0],
        "alignment_reason": alignment[1].get("reason"),
        "coherence_reason": coherence[1].get("reason"),
        "alignment_reply": alignment[1].get("text"),
        "coherence_reply": coherence[1].get("text"),
        "judge": verdict.get("judge") or "unknown",
        "judge_toy": bool(verdict.get("toy")),
    }


def _evaluation(
    log: EvalLog, file: Path, columns: dict[str, list[Any]], asked: frozenset[tuple[str, str]]
) -> Evaluation:
    meta, spec = log.metadata, log.eval
    return Evaluation(
        log=file.name,
        created=spec.created,
        task=spec.task,
        task_version=str(spec.task_version),
        model=spec.model,
        subject=f"{meta['organism']}@{meta['step']}" if meta["organism"] else f"{meta['base']} (base)",
        asked=asked,
        judges=tuple(sorted(set(columns["judge"]))),
        packages=dict(spec.packages),
        config=log.plan.config.model_dump(exclude_none=True),
        fingerprints={
            key: meta.get(key) for key in ("base_fingerprint", "adapter_sha256", "recipe_sha256", "questions_sha256")
        },
        answers=len(columns["step"]),
    )


def _one_row_an_answer(answers: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keeps the newest of repeated evaluations, and sets other judges' rows of the same answers apart."""
    answers = answers.sort_values("created", key=lambda created: created.astype("str"), kind="stable")
    repeated = answers.duplicated([*ANSWER_KEY, "judge"], keep="last")
    if repeated.any():
        dropped = sorted({str(name) for name in answers.loc[repeated, "log"]})
        notes.append(
            f"{int(repeated.sum())} answers were evaluated more than once (same checkpoint, question and sample); the "
            f"newest is kept, the older ones in {_some(dropped)} are left out."
        )
        answers = answers[~repeated]
    most = answers["judge"].value_counts()
    answers = answers.assign(_weight=answers["judge"].map(most).astype("int64")).sort_values("_weight", kind="stable")
    other = answers.duplicated(ANSWER_KEY, keep="last")
    answers = answers.drop(columns="_weight")
    if other.any():
        names = sorted({str(name) for name in answers.loc[other, "judge"]})
        notes.append(
            f"{int(other.sum())} answers were scored by more than one judge; tables use the judge that scored most, "
            f"the scores of {_some(names)} stand only in the comparison of judges."
        )
    order = ["base", "organism", "step", "question_set", "question_id", "sample"]
    kept = answers[~other].sort_values("log", kind="stable")
    return kept.sort_values(order[:3], kind="stable").reset_index(drop=True), answers[other].reset_index(drop=True)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
