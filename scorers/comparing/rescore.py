"""Scores recomputed from the raw judge output in logs, under other settings and without asking any judge."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, read_eval_log, recompute_metrics
from inspect_ai.scorer import Score

from em_tasks.plugins.log_contract import Verdict
from em_tasks.scorers.comparing.finished_logs import finished_logs, is_done, new_places, write_copy
from em_tasks.scorers.em import NAME, points  # registers the metrics that recompute_metrics looks up
from em_tasks.scorers.judging.judge import read_verdict
from em_tasks.scorers.judging.reading import Settings


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


def rescore(
    logs: Sequence[str | Path], settings: Settings, out: Path, on_skip: Callable[[str], None] = lambda line: None
) -> list[Rescored]:
    """Reads every verdict in the logs again and writes the logs with the new scores to another folder.

    Args:
        logs: Log files or folders. Unreadable, unfinished and imported ones are skipped.
        settings: How to read the judges' raw output now.
        out: Folder for the new logs; they keep their names. Their metadata gains `judge_settings`. What is there from
            an earlier start with the same settings is done.
        on_skip: Called with a line for each log that was skipped, with the reason.

    Raises:
        UserError: There is no log that can be read again, or another log is in its place in `out`.
    """
    finished = finished_logs(logs, _nothing_to_read)
    for line in finished.skipped:
        on_skip(line)
    targets = new_places(finished.sources, out)
    return [_rescore_one(source, target, settings) for source, target in zip(finished.sources, targets, strict=True)]


def _nothing_to_read(log: EvalLog) -> str | None:
    """Why a log has no judge's raw output."""
    plain = [plain for sample in log.samples or [] for score in (sample.scores or {}).values() for plain in _raw(score)]
    if any(map(_has_raw_output, plain)):
        return None
    if plain or (log.eval.metadata or {}).get("imported_from"):
        return "its scores were imported, as numbers without the judge's raw output"
    return (
        "it holds no verdict of a judge, so there is nothing to read again (logs scored by `em`, `alignment`, "
        "`coherence` or `topic` keep their judges' raw output)"
    )


def _has_raw_output(plain: dict[str, Any]) -> bool:
    """Whether a verdict holds what its judge wrote: imported ones are numbers alone, or come with the tokens."""
    return bool(plain.get("rubric_sha256") or ("rubric_sha256" in plain and plain.get("tokens")))


def _raw(score: Score) -> list[dict[str, Any]]:
    """The verdicts in a score's metadata as they stand there."""
    metadata = score.metadata or {}
    entries = [metadata, *metadata.values()]
    return [entry for entry in entries if isinstance(entry, dict) and "rubric_sha256" in entry]


def read_again(score: Score, settings: Settings) -> tuple[Score, list[tuple[Verdict, Verdict]]]:
    """A score under other settings, with its verdicts before and after; a score without verdicts stays as it is."""
    metadata = score.metadata or {}
    if _has_raw_output(metadata):
        before = Verdict.from_dict(metadata)
        after = read_verdict(before, settings)
        changes: dict[str, Any] = {"value": after.value, "reason": after.reason, "metadata": metadata | after.to_dict()}
        return score.model_copy(update=changes), [(before, after)]
    pairs = {
        key: (verdict := Verdict.from_dict(plain), read_verdict(verdict, settings))
        for key, plain in metadata.items()
        if isinstance(plain, dict) and _has_raw_output(plain)
    }
    if not pairs or not isinstance(score.value, dict):
        return score, []
    changes = {
        "value": {**score.value, **{key: points(key, after) for key, (_, after) in pairs.items()}},
        "reason": next((after.reason for _, after in pairs.values() if after.reason is not None), None),
        "metadata": {**metadata, **{key: after.to_dict() for key, (_, after) in pairs.items()}},
    }
    return score.model_copy(update=changes), list(pairs.values())


def _rescore_one(source: str, target: Path, settings: Settings) -> Rescored:
    log = read_eval_log(source)
    applied = {"mode": settings.mode, "least_mass": settings.least_mass}
    pairs: list[tuple[Verdict, Verdict]] = []
    for sample in log.samples or []:
        for name, score in (sample.scores or {}).items():
            assert sample.scores is not None
            sample.scores[name], read = read_again(score, settings)
            pairs += read
    recompute_metrics(log)
    log.eval.metadata = {**(log.eval.metadata or {}), "judge_settings": applied}
    if not is_done(
        target, log.eval.eval_id, lambda there: (there.eval.metadata or {}).get("judge_settings") == applied
    ):
        write_copy(log, target)
    changed = sum((before.score, before.reason) != (after.score, after.reason) for before, after in pairs)
    return Rescored(source, target, len(pairs), changed, em_metrics(log))


def em_metrics(log: EvalLog) -> dict[str, float]:
    """The metrics of a log's score `em` by name; empty where it has none."""
    for score in log.results.scores if log.results else []:
        if score.name == NAME:
            return {name: float(entry.value) for name, entry in score.metrics.items() if not math.isnan(entry.value)}
    return {}
