"""Side effects: other tasks on the same checkpoints, each beside its base."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inspect_ai.log import EvalLog, read_eval_log, read_eval_log_sample_summaries
from inspect_ai.scorer import value_to_float
from scipy import stats

from em_tasks.plugins.analysis.analysis import Analysis

MEANS = ("mean", "accuracy")
"""Metrics that are the mean of the samples' values, so that a difference of samples is a difference of metrics."""


def side_effects(analysis: Analysis) -> pd.DataFrame | None:
    """Side effects: every other task on every checkpoint, as its own metric says, and the change from the base.

    A change is the mean difference on the same samples, with the t interval of the samples' differences. None where no
    log of another task was found beside those of the `em` task.
    """
    rows = [row for logs in _by_base_and_task(analysis.reading.other_tasks).values() for row in _rows(logs)]
    return pd.DataFrame(rows) if rows else None


def _by_base_and_task(paths: Sequence[Path]) -> dict[tuple[str, str], dict[str, tuple[Path, EvalLog]]]:
    """Successful logs by folder and task, the newest of each model."""
    logs_by_task: dict[tuple[str, str], dict[str, tuple[Path, EvalLog]]] = defaultdict(dict)
    for path in sorted(paths):
        log = read_eval_log(str(path), header_only=True)
        if log.status == "success" and log.results and log.results.scores:
            models = logs_by_task[str(path.parent), log.eval.task]
            known = models.get(log.eval.model)
            if known is None or known[1].eval.created < log.eval.created:
                models[log.eval.model] = (path, log)
    return logs_by_task


def _rows(logs: dict[str, tuple[Path, EvalLog]]) -> list[dict[str, Any]]:
    base = next((entry for model, entry in logs.items() if model.endswith("@base")), None)
    rows = []
    for model, (path, log) in sorted(
        logs.items(), key=lambda entry: (not entry[0].endswith("@base"), _order(entry[0]))
    ):
        assert log.results is not None
        for score in log.results.scores:
            metric = next((name for name in MEANS if name in score.metrics), next(iter(score.metrics), None))
            if metric is None:
                continue
            error = score.metrics.get("stderr")
            compared = base is not None and path != base[0] and metric in MEANS
            change = _change(path, base[0], score.name, metric) if compared and base else ("", "")
            rows.append(
                {
                    "task": log.eval.task,
                    "metric": f"{score.name} {metric}" if score.name != metric else metric,
                    "model": model.removeprefix("em/"),
                    "samples": log.results.completed_samples,
                    "value": f"{score.metrics[metric].value:.3f}",
                    "standard error": f"{error.value:.3f}" if error else "",
                    "change from base": change[0],
                    "95 % interval": change[1],
                }
            )
    return rows


def _order(model: str) -> tuple[str, int]:
    organism, _, step = model.rpartition("@")
    return organism, int(step) if re.fullmatch("[0-9]{1,18}", step) else 0


def _change(path: Path, base: Path, scorer: str, metric: str) -> tuple[str, str]:
    """The mean difference on the samples that both have, epochs of a sample averaged, and its interval.

    The t interval of an accuracy ends where changes of a rate do: of a few samples it reaches beyond.
    """
    mine, theirs = _values(path, scorer), _values(base, scorer)
    shared = sorted(mine.keys() & theirs.keys(), key=str)
    if not shared:
        return "no sample in common", ""
    differences = np.array([np.mean(mine[key]) - np.mean(theirs[key]) for key in shared])
    mean = float(differences.mean())
    if len(differences) < 2:
        return f"{mean:+.3f}", ""
    if not differences.std():
        return f"{mean:+.3f}", "all samples alike"  # Their spread says nothing of how far others would lie.
    reach = float(stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5)
    low, high = mean - reach, mean + reach
    if metric == "accuracy" and all(0 <= value <= 1 for side in (mine, theirs) for key in side for value in side[key]):
        low, high = max(low, -1.0), min(high, 1.0)
    return f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}"


def _values(path: Path, scorer: str) -> dict[Any, list[float]]:
    as_number, values = value_to_float(), defaultdict(list)
    for sample in read_eval_log_sample_summaries(str(path)):
        score = (sample.scores or {}).get(scorer)
        if score is not None and not isinstance(score.value, dict | list):
            values[sample.id].append(float(as_number(score.value)))
    return values
