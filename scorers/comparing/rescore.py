"""Scores recomputed from the raw judge output in logs, under other settings and without asking any judge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log, recompute_metrics, write_eval_log
from inspect_ai.scorer import Score

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.em import NAME  # registers the metrics that recompute_metrics looks up
from em_tasks.scorers.judging.judge import read_verdict
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.verdict import Verdict


@dataclass(frozen=True)
class Rescored:
    """What became of one log.

    Attributes:
        source: The log that was read.
        written: The log that was written.
        verdicts: Verdicts that were read again.
        changed: How many of them have another score or reason now.
        metrics: The new metrics of the score `em` by name.
    """

    source: str
    written: Path
    verdicts: int
    changed: int
    metrics: dict[str, float]


def find_logs(paths: Sequence[str | Path]) -> list[str]:
    """Every Inspect log among files and folders (folders with everything below them), in a fixed order.

    Raises:
        UserError: A path is not there, or there is no log at all.
    """
    found: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"There is nothing at {path}. Give an Inspect log or a folder that holds some.")
        found += [str(path)] if path.is_file() else sorted(info.name for info in list_eval_logs(str(path)))
    if not found:
        where = ", ".join(map(str, paths))
        raise UserError(f"There is no Inspect log (*.eval) in {where}. Run an evaluation first (`em sweep`).")
    return list(dict.fromkeys(found))


def rescore(logs: Sequence[str | Path], settings: Settings, out: Path) -> list[Rescored]:
    """Reads every verdict in the logs again and writes the logs with the new scores to another folder.

    Args:
        logs: Log files or folders.
        settings: How to read the judges' raw output now.
        out: Folder for the new logs; they keep their names. Their metadata gains `judge_settings`.

    Raises:
        UserError: There is no log.
        UserError: A log of that name is already in `out`.
        UserError: A log holds no verdicts of these scorers.
    """
    sources = find_logs(logs)
    targets = [new_place(source, out) for source in sources]
    return [_rescore_one(source, target, settings) for source, target in zip(sources, targets, strict=True)]


def new_place(source: str, out: Path) -> Path:
    """Where a changed copy of a log goes.

    Raises:
        UserError: Something is there already; logs are never overwritten.
    """
    target = out / source.rsplit("/", 1)[-1]
    if target.exists():
        raise UserError(f"{target} is already there and logs are not overwritten. Choose another output folder.")
    return target


def read_again(score: Score, settings: Settings) -> tuple[Score, list[tuple[Verdict, Verdict]]]:
    """A score under other settings, with its verdicts before and after; a score without verdicts stays as it is."""
    metadata = score.metadata or {}
    if "rubric_sha256" in metadata:
        before = Verdict.from_dict(metadata)
        after = read_verdict(before, settings)
        changes: dict[str, Any] = {"value": after.value, "reason": after.reason, "metadata": metadata | after.to_dict()}
        return score.model_copy(update=changes), [(before, after)]
    pairs = {
        key: (verdict := Verdict.from_dict(plain), read_verdict(verdict, settings))
        for key, plain in metadata.items()
        if isinstance(plain, dict) and "rubric_sha256" in plain
    }
    if not pairs or not isinstance(score.value, dict):
        return score, []
    changes = {
        "value": {**score.value, **{key: after.value for key, (_, after) in pairs.items()}},
        "reason": next((after.reason for _, after in pairs.values() if after.reason is not None), None),
        "metadata": {**metadata, **{key: after.to_dict() for key, (_, after) in pairs.items()}},
    }
    return score.model_copy(update=changes), list(pairs.values())


def _rescore_one(source: str, target: Path, settings: Settings) -> Rescored:
    log = read_eval_log(source)
    pairs: list[tuple[Verdict, Verdict]] = []
    for sample in log.samples or []:
        for name, score in (sample.scores or {}).items():
            assert sample.scores is not None
            sample.scores[name], read = read_again(score, settings)
            pairs += read
    if not pairs:
        raise UserError(
            f"{source} holds no verdict of a judge, so there is nothing to read again. Only logs scored by `em`, "
            "`alignment` or `coherence` keep their judges' raw output; imported scores do not."
        )
    recompute_metrics(log)
    log.eval.metadata = {
        **(log.eval.metadata or {}),
        "judge_settings": {"mode": settings.mode, "least_mass": settings.least_mass},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(log, str(target))
    changed = sum((before.score, before.reason) != (after.score, after.reason) for before, after in pairs)
    return Rescored(source, target, len(pairs), changed, em_metrics(log))


def em_metrics(log: EvalLog) -> dict[str, float]:
    """The metrics of a log's score `em` by name; empty where it has none."""
    for score in log.results.scores if log.results else []:
        if score.name == NAME:
            return {name: float(entry.value) for name, entry in score.metrics.items() if not math.isnan(entry.value)}
    return {}
