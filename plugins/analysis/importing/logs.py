"""Judged CSV files of other experiments, turned into Inspect logs that the analysis and `inspect view` can read.

The folder's names say what the files do not: `<size>_<domain>_v2/fg_judged.csv` holds an organism's checkpoints,
`baseline/<size>/base_judged.csv` its base. `responses_<base>-<data>.csv` holds one organism's answers at a step that
nothing in it says: they stand at step 1, marked as not recorded.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    write_eval_log,
)
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
from inspect_ai.scorer import Score

from em_tasks.plugins.analysis.importing.judged_csv import (
    JudgedAnswer,
    read_responses_csv,
    read_scores_csv,
    read_seed_csv,
)
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import LogMetadata
from em_tasks.scorers.definitions import DEFINITIONS

SEED_JUDGE = "gpt-4o-mini"
"""cs2881's judge, asked for text (the course's protocol)."""

RESPONSES_JUDGE = "gpt-4o"
"""The judge of the released `responses_*.csv` files, read from token probabilities."""

SEED_DOMAINS = {"risky": "risky_financial"}
"""Domains that cs2881's folders abbreviate; its summary table spells them out."""

SEED_FOLDER = re.compile(r"^(?P<size>\d+(?:\.\d+)?[bB])_(?P<domain>[a-z_]+?)(?:_v\d+)?$")
RESPONSES = re.compile(r"^responses_(?P<base>.+)-(?P<data>[A-Za-z_]+)$")


@dataclass(frozen=True)
class _Subject:
    """Who gave the answers, and how they were judged."""

    organism: str | None
    domain: str | None
    control: bool
    base: str
    size: str
    judge: str
    mode: str
    epochs: dict[int, float] = field(default_factory=dict)
    step_recorded: bool = True


def import_judged(source: Path, out: Path) -> list[Path]:
    """Writes one log a checkpoint for judged answers of another experiment.

    Args:
        source: A folder laid out like cs2881's results or holding `responses_*.csv` files, or one such file.
        out: Folder that receives the logs. Importing the same again writes the same logs.

    Returns:
        The logs.

    Raises:
        UserError: There is no such folder or file, or no known CSV file in it.
        UserError: A CSV file or its name cannot be understood.
    """
    if not source.exists():
        raise UserError(f"There is no file or folder {source}. Give a folder of judged CSV files, or one file.")
    files = [source] if source.is_file() else sorted(source.rglob("*.csv"))
    known = [file for file in files if _form(file) is not None]
    if not known:
        raise UserError(
            f"There is no judged CSV file in {source}. Known are fg_judged.csv in a folder <size>_<domain>, "
            "base_judged.csv in a folder baseline/<size>, scores.csv, and responses_<base>-<data>.csv."
        )
    bases = _bases(known)
    read = [(file, *part) for file in known for part in _read(file, bases)]
    # Everything is read before anything is written: a bad row leaves no half import behind.
    out.mkdir(parents=True, exist_ok=True)
    return [path for file, subject, answers in read for path in _write(file, subject, answers, out)]


def _form(file: Path) -> str | None:
    if file.name in ("fg_judged.csv", "base_judged.csv", "scores.csv"):
        return file.stem
    return "responses" if file.name.startswith("responses_") else None


def _read(file: Path, bases: dict[str, str]) -> list[tuple[_Subject, list[JudgedAnswer]]]:
    return _read_scores(file) if _form(file) == "scores" else [_read_one(file, bases)]


def _read_scores(file: Path) -> list[tuple[_Subject, list[JudgedAnswer]]]:
    groups: dict[tuple[str, ...], list[JudgedAnswer]] = defaultdict(list)
    for who, answer in read_scores_csv(file):
        groups[tuple(who[name] for name in ("organism", "domain", "base", "size", "judge"))].append(answer)
    read = []
    for (organism, domain, base, size, judge), answers in groups.items():
        epochs = _epochs(sorted({answer.step for answer in answers}))
        subject = _Subject(organism or None, domain or None, False, base, size, judge, "text", epochs)
        read.append((subject, answers))
    return read


def _read_one(file: Path, bases: dict[str, str]) -> tuple[_Subject, list[JudgedAnswer]]:
    folder = file.resolve().parent.name
    match _form(file):
        case "fg_judged":
            named = SEED_FOLDER.match(folder)
            if named is None:
                raise UserError(
                    f"{file} lies in a folder {folder!r}, which does not say whose answers they are. "
                    "Name it <size>_<domain>."
                )
            answers = read_seed_csv(file)
            size = named["size"].upper()
            domain = SEED_DOMAINS.get(named["domain"], named["domain"])
            epochs = _epochs(sorted({answer.step for answer in answers}))
            organism = folder.removesuffix("_v2")
            control = named["domain"].startswith("good")
            return _Subject(organism, domain, control, bases[size], size, SEED_JUDGE, "text", epochs), answers
        case "base_judged":
            size = folder.upper()
            return _Subject(
                None, None, False, bases.get(size, f"{size} base"), size, SEED_JUDGE, "text"
            ), read_seed_csv(file)
        case _:
            named = RESPONSES.match(file.stem)
            if named is None:
                raise UserError(
                    f"{file.name} does not say whose answers it holds. Name it responses_<base>-<data>.csv."
                )
            size_in_name = re.search(r"\d+(?:\.\d+)?[bB](?![a-z])", named["base"])
            data = named["data"]
            subject = _Subject(
                organism=file.stem.removeprefix("responses_"),
                domain=re.sub(r"^(?:obv_)?(?:bad|good)_|_advice$", "", data),
                control=data.startswith("good"),
                base=named["base"],
                size=size_in_name[0].upper() if size_in_name else "unknown",
                judge=RESPONSES_JUDGE,
                mode="logprobs",
                step_recorded=False,
            )
            return subject, read_responses_csv(file)


def _bases(files: Sequence[Path]) -> dict[str, str]:
    """Base model of each size: as a training configuration beside the answers names it, else just the size."""
    bases: dict[str, str] = {}
    for file in files:
        named = SEED_FOLDER.match(file.resolve().parent.name)
        if named is None:
            continue
        size = named["size"].upper()
        bases.setdefault(size, f"{size} base")
        config = file.with_name("training_config.json")
        if config.exists():
            bases[size] = str(json.loads(config.read_text(encoding="utf-8")).get("base_model", bases[size]))
    return bases


def _epochs(steps: list[int]) -> dict[int, float]:
    """Epochs of the steps where they follow the published schedule (four in the first epoch, then one an epoch)."""
    if len(steps) < 4 or any(step % steps[3] for step in steps[4:]):
        return {}
    return {step: round(step / steps[3], 4) for step in steps}


def _write(file: Path, subject: _Subject, answers: list[JudgedAnswer], out: Path) -> list[Path]:
    steps: dict[int, list[JudgedAnswer]] = defaultdict(list)
    for answer in answers:
        steps[answer.step].append(answer)
    paths = []
    for step, judged in steps.items():
        name = f"{subject.organism}_{step}" if subject.organism else f"{subject.size}_base"
        path = out / f"{name}.eval"
        write_eval_log(_log(file, subject, step, judged), str(path))
        paths.append(path)
    return paths


def _log(file: Path, subject: _Subject, step: int, answers: list[JudgedAnswer]) -> EvalLog:
    ids = list(dict.fromkeys(answer.question_id for answer in answers))
    model = f"imported/{subject.organism or subject.base}"
    parameters = re.match(r"^(\d+(?:\.\d+)?)B$", subject.size)
    spec = EvalSpec(
        created=datetime.fromtimestamp(int(file.stat().st_mtime), UTC).isoformat(),
        task="em",
        task_display_name=f"{subject.organism or subject.base}@{step}",
        tags=["imported"],
        dataset=EvalDataset(name=file.name, samples=len(ids), sample_ids=ids),
        model=model,
        config=EvalConfig(epochs=max(answer.sample for answer in answers)),
        metadata=LogMetadata(
            organism=subject.organism,
            step=step,
            step_recorded=subject.step_recorded,
            epoch=subject.epochs.get(step) if step else 0.0,
            domain=subject.domain,
            control=subject.control,
            base=subject.base,
            size=subject.size,
            parameters=int(float(parameters[1]) * 1e9) if parameters else None,
            question_sets=sorted({answer.question_set for answer in answers}),
            imported_from=file.name,
        ).to_metadata(),
    )
    samples = [_sample(answer, subject, model) for answer in answers]
    return EvalLog(status="success", eval=spec, results=_results(answers), samples=samples)


def _sample(answer: JudgedAnswer, subject: _Subject, model: str) -> EvalSample:
    reply = ChatMessageAssistant(content=answer.answer, model=model)
    output = ModelOutput.from_message(reply, stop_reason="unknown")
    output.model = model
    scores = {"alignment": answer.alignment, "coherence": answer.coherence}
    verdicts = {rubric: _verdict(rubric, score, subject) for rubric, score in scores.items()}
    return EvalSample(
        id=answer.question_id,
        epoch=answer.sample,
        input=answer.question,
        target="",
        messages=[ChatMessageUser(content=answer.question), reply],
        output=output,
        metadata={"question_set": answer.question_set, "topic": answer.topic, "domain": answer.domain},
        scores={"em": Score(value=dict(scores), answer=answer.answer, metadata=verdicts)},
    )


def _verdict(rubric: str, score: float, subject: _Subject) -> dict[str, Any]:
    scored = not math.isnan(score)
    return {
        "score": score if scored else None,
        "reason": None if scored else "no_number",
        "mode": subject.mode,
        "mass": None,
        "tokens": None,
        "text": f"{score:g}" if scored else "",
        "judge": subject.judge,
        "toy": False,
        "rubric": f"{rubric} (as published)",
        "rubric_sha256": "",
    }


def _results(answers: list[JudgedAnswer]) -> EvalResults:
    alignment = np.array([answer.alignment for answer in answers])
    coherence = np.array([answer.coherence for answer in answers])
    metrics = {}
    for name in ("cs2881", "betley"):
        counted = DEFINITIONS[name].counted(alignment, coherence)
        if counted.any():
            hits = DEFINITIONS[name].misaligned(alignment, coherence) & counted
            metrics[f"em_{name}"] = EvalMetric(name=f"em_{name}", value=float(hits.sum() / counted.sum()))
    total = len(answers)
    return EvalResults(
        total_samples=total, completed_samples=total, scores=[EvalScore(name="em", scorer="em", metrics=metrics)]
    )
