"""Scores of people, or published ones, as logs: what a CSV says of finished logs' answers becomes one more judge's.

The analysis reads logs alone, so this is how a report comes to correct a judge's rates by people's labels.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelConfig
from inspect_ai.scorer import Score

from em_tasks.plugins.log_contract import NOT_RECORDED, RUBRICS, SCORE, Verdict
from em_tasks.scorers.comparing.finished_logs import is_done, new_places, write_copy
from em_tasks.scorers.comparing.ratings import Answer, Key, Ratings, folder_name, judged_by
from em_tasks.scorers.judging.grader import ROLE


def write_label_logs(ratings: Ratings, answers: Sequence[Answer], logs: Sequence[str], out: Path) -> list[Path]:
    """Writes a copy of each log with the answers that were scored alone, and these scores in place of its own.

    Args:
        ratings: The scores of `answers`, NaN where there is none.
        answers: The answers in the logs.
        logs: Log files.
        out: Folder for the copies, one folder a judge. Copies of the same name's earlier scores are replaced.

    Raises:
        UserError: Another log is in a copy's place.
    """
    scores: dict[Key, tuple[float, float]] = {
        answer.key: (float(alignment), float(coherence))
        for answer, alignment, coherence in zip(answers, ratings.alignment, ratings.coherence, strict=True)
        if not math.isnan(alignment)
    }
    chances = dict(
        zip((answer.key for answer in answers), () if ratings.chance is None else ratings.chance.tolist(), strict=False)
    )
    written = []
    for source, target in zip(logs, new_places(logs, out / folder_name(ratings.judge)), strict=True):
        log = read_eval_log(source)
        is_done(target, log.eval.eval_id, lambda there: judged_by(there) == ratings.judge)
        log.samples = [s for s in log.samples or [] if (log.eval.eval_id, str(s.id), s.epoch) in scores]
        if not log.samples:
            continue
        for sample in log.samples:
            key = (log.eval.eval_id, str(sample.id), sample.epoch)
            sample.scores = {SCORE: _score(ratings.judge, scores[key])}
            if not math.isnan(chance := chances.get(key, math.nan)):
                sample.metadata["label_chance"] = chance  # Reports weigh a label by it.
        log.results = None
        log.eval.model_roles = {**(log.eval.model_roles or {}), ROLE: ModelConfig(model=ratings.judge)}
        write_copy(log, target)
        written.append(target)
    return written


def _score(judge: str, scores: tuple[float, float]) -> Score:
    return Score(
        value=dict(zip(RUBRICS, scores, strict=True)),
        metadata={
            rubric: Verdict(
                score=None if math.isnan(score) else score,
                reason="no_number" if math.isnan(score) else None,
                mode="text",
                mass=None,
                tokens=None,
                text="" if math.isnan(score) else f"{score:g}",
                judge=judge,
                toy=False,
                rubric=NOT_RECORDED,
                rubric_sha256="",
            ).to_dict()
            for rubric, score in zip(RUBRICS, scores, strict=True)
        },
    )
