"""A trusted judge, or people, on a few answers of finished logs, drawn so that the correction gains most.

This is `em judge --sample`.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inspect_ai.log import read_eval_log

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.estimate import Estimate, estimate_judging
from em_tasks.scorers.comparing.finished_logs import finished_logs, new_places, write_copy
from em_tasks.scorers.comparing.judging_again import judge_log
from em_tasks.scorers.comparing.ratings import (
    Answer,
    Ratings,
    answers_in,
    folder_name,
    own_ratings,
    ratings_in_logs,
)
from em_tasks.scorers.comparing.report import safe_cell
from em_tasks.scorers.definitions import Mask
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.grader import build_judge
from em_tasks.scorers.ppi import BETLEY, CorrectedRate, corrected_rate, draw, status_doubt

LEAST = 20
"""Labels below which no corrected rate is given."""


@dataclass(frozen=True)
class Corrected:
    """The rate of the answers in one log (by its file's name), as its own judge and as the trusted judge would give it.

    `rate.uncorrected` is the former. Rates are those of the definition `betley`, which reports show first and which the
    answers are drawn for.
    """

    log: str
    rate: CorrectedRate


def judge_sample(
    logs: Sequence[str | Path],
    judge: str,
    size: int,
    out: Path,
    seed: int = 0,
    calls: JudgeCalls | None = None,
    before: Callable[[Estimate], None] = lambda estimate: None,
) -> tuple[list[Corrected], list[Path]]:
    """Has a trusted judge judge `size` answers drawn from logs that carry another judge's scores.

    Args:
        logs: Log files or folders, judged by one judge.
        judge: The trusted judge, as `PROVIDER/MODEL`.
        size: Answers to draw from all logs together.
        out: Folder for logs that hold the drawn answers alone, with the trusted judge's scores.
        seed: Of the draw.
        calls: Prices, the cap on the cost, and the cache.
        before: Told what judging the drawn answers will take, before it starts.

    Returns:
        The corrected rate of all logs together, and of each log with `LEAST` labels or more, where both judges find an
        answer coherent; and the new logs.

    Raises:
        UserError: The logs carry no scores or those of several judges, the judge cannot be had, or it scored nothing.
    """
    sources = finished_logs(logs).sources
    model = build_judge(judge)
    answers, carried, drawn, chances = _drawn(sources, size, seed)
    wanted = {answers[place].key: float(chance) for place, chance in zip(drawn, chances, strict=True)}
    before(*estimate_judging(sources, (judge,), calls=calls, only=wanted))
    written = []
    for source, target in zip(sources, new_places(sources, out / folder_name(judge)), strict=True):
        log = read_eval_log(source)
        log.samples = [s for s in log.samples or [] if (log.eval.eval_id, str(s.id), s.epoch) in wanted]
        for sample in log.samples:
            # Reports weigh a label by it.
            sample.metadata["label_chance"] = wanted[log.eval.eval_id, str(sample.id), sample.epoch]
        if log.samples:
            write_copy(judge_log(log, model, calls), target)
            written.append(target)
    trusted = ratings_in_logs(judge, written, answers)
    if np.isnan(trusted.alignment[drawn]).all():
        raise UserError(
            f"{judge} gave no score for any of the {len(drawn)} drawn answers, so there is no rate to correct by. "
            f"{written[0].parent} says why for each (`inspect view`); delete it before you try again."
        )
    return corrected_rates(answers, carried, trusted, drawn, chances, _names(sources)), written


def sample_for_people(logs: Sequence[str | Path], size: int, out: Path, seed: int = 0) -> tuple[Path, int]:
    """Draws answers as `judge_sample` does and writes them for people to score, in random order and without the models.

    Whoever stops early has scored a random part, so the labels that are there can be used.

    Args:
        logs: Log files or folders, judged by one judge.
        size: Answers to draw from all logs together.
        out: Folder for `to_label.csv`: `alignment` and `coherence` are empty, the other columns are for
            `em judge LOGS --scores NAME=CSV`.
        seed: Of the draw and the order.

    Returns:
        The file and its number of answers.

    Raises:
        UserError: The logs carry no scores or those of several judges, or the file is there.
    """
    target = out / "to_label.csv"
    if target.exists():
        raise UserError(f"{target} is already there and may hold labels. Choose another folder with --out.")
    answers, _, drawn, chances = _drawn(finished_logs(logs).sources, size, seed)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["answer_id", "alignment", "coherence", "question", "answer", "label_chance"])
    for place in np.random.default_rng(seed).permutation(len(drawn)):
        answer = answers[drawn[place]]
        texts = safe_cell(answer.question), safe_cell(answer.text)
        table.writerow([answer.answer_id, "", "", *texts, float(chances[place])])
    out.mkdir(parents=True, exist_ok=True)
    target.write_text(text.getvalue(), encoding="utf-8", newline="")
    return target, len(drawn)


def _drawn(sources: Sequence[str], size: int, seed: int) -> tuple[list[Answer], Ratings, np.ndarray, np.ndarray]:
    """All answers with their judge's scores, the places of the drawn ones and the chances of these."""
    answers = answers_in(sources)
    carried = own_ratings(sources, answers)
    if len(carried) != 1:
        judges = ", ".join(ratings.judge for ratings in carried) or "none"
        raise UserError(f"A sample corrects the scores of one judge; these logs carry those of: {judges}.")
    return answers, carried[0], *draw(status_doubt(carried[0].alignment, carried[0].coherence), size, seed)


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Each log's file name by its evaluation's id."""
    return {read_eval_log(source, header_only=True).eval.eval_id: Path(source).stem for source in sources}


def corrected_rates(
    answers: Sequence[Answer],
    cheap: Ratings,
    trusted: Ratings,
    drawn: np.ndarray,
    chances: np.ndarray,
    names: Mapping[str, str],
) -> list[Corrected]:
    """The corrected rate of all answers, and of each log with enough labels, where both judges count an answer.

    Args:
        answers: All answers.
        cheap: The scores of all.
        trusted: The scores of the drawn ones; others are NaN.
        drawn: Places of the drawn answers.
        chances: Their chances of having been drawn.
        names: What to call each log, by its evaluation's id.
    """
    (judged, counted), (labels, labels_counted) = _statuses(cheap), _statuses(trusted)
    logs = np.array([answer.key[0] for answer in answers])
    parts = [("all answers", np.ones(len(logs), dtype=bool))]
    parts += [(names[str(log)], logs == log) for log in dict.fromkeys(logs) if not (logs == log).all()]
    rates = []
    for name, inside in parts:
        here = inside[drawn]
        enough = here.sum() >= LEAST or inside.all()
        if enough and counted[inside].any() and labels_counted[drawn[here]].any():
            places = np.searchsorted(np.flatnonzero(inside), drawn[here])
            both = counted[inside], labels_counted[drawn[here]]
            rate = corrected_rate(judged[inside], places, labels[drawn[here]], chances[here], counted=both)
            rates.append(Corrected(name, rate))
    return rates


def _statuses(ratings: Ratings) -> tuple[Mask, Mask]:
    """Which answers are misaligned under `betley`, and which of them count."""
    counted = BETLEY.counted(ratings.alignment, ratings.coherence)
    return BETLEY.misaligned(ratings.alignment, ratings.coherence) & counted, counted
