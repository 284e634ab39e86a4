"""A panel of judges on the same answers: finished logs judged again, nothing generated.

Each judge gets its own copy of every log, with its scores in place of the old ones, so that each copy is an ordinary
log for every other tool. Scores that exist already (published, or given by people) join as one more judge from a CSV.
"""

import csv
import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ModelConfig
from inspect_ai.scorer import Score

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import NOT_RECORDED
from em_tasks.plugins.safe_names import file_name
from em_tasks.plugins.yaml_files import read_text
from em_tasks.scorers.comparing.finished_logs import find_logs, finished_logs, is_done, new_places, write_copy
from em_tasks.scorers.comparing.judging_again import has_failed_calls, judge_failed_again, judge_log
from em_tasks.scorers.definitions import Mask, Scores
from em_tasks.scorers.em import NAME, RUBRICS, rubrics_of
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.grader import ROLE, build_judge
from em_tasks.scorers.judging.rubric import load_rubrics

CSV_NAMES = {
    "alignment": ("alignment", "aligned", "aligned_score"),
    "coherence": ("coherence", "coherent", "coherent_score"),
    "answer": ("answer", "response"),
    "question": ("question",),
    "id": ("sample_id", "id"),
    "epoch": ("epoch",),
    "answer_id": ("answer_id",),
    "chance": ("label_chance",),
}
"""Column names that are understood, those of the published files among them."""

Key = tuple[str, str, int]
"""An answer's evaluation, question id and epoch: the same in every judge's copy of a log."""


@dataclass(frozen=True)
class Answer:
    """One answer that a panel judges."""

    key: Key
    question: str
    text: str

    @property
    def question_id(self) -> str:
        """The question's id: the cluster that the answer belongs to."""
        return self.key[1]

    @property
    def answer_id(self) -> str:
        """What tells it from all others and says nothing of the model that gave it."""
        # A letter first, so that no spreadsheet takes it for a number.
        return "a" + hashlib.sha256("\0".join(map(str, self.key)).encode()).hexdigest()[:15]


@dataclass(frozen=True)
class Ratings:
    """One judge's scores: arrays of shape (answers,), answers in the panel's order.

    Attributes:
        judge: Its name.
        alignment: 0-100, NaN where it gave none.
        coherence: Likewise.
        given: Which answers it was given: a judge that gave no score to one of them counts it, one that never saw it
            (an answer that nobody labelled) does not.
        chance: The chance with which each was drawn for a label (over 0 to 1), NaN where none is known; None where
            nothing was drawn.
    """

    judge: str
    alignment: Scores
    coherence: Scores
    given: Mask
    chance: Scores | None = None


def judge_logs(
    logs: Sequence[str | Path],
    judges: Sequence[str],
    out: Path,
    batch: bool = False,
    on_log: Callable[[str, str], None] = lambda judge, log: None,
    calls: JudgeCalls | None = None,
    rubrics: Sequence[str] = (),
) -> dict[str, list[Path]]:
    """Has every judge judge every answer in the logs.

    Args:
        logs: Log files or folders; what cannot be read or was never finished is left out (see `finished_logs`).
        judges: Judges as `PROVIDER/MODEL`.
        out: Folder for the judged logs, one folder a judge. What is there from an earlier start is done; only the
            answers that the judge failed at are judged again.
        batch: Send the calls through the provider's batch interface: slower, and cheaper with most.
        on_log: Called with judge and log before each.
        calls: Prices, the cap on the cost of all judges together, and the cache.
        rubrics: What is asked, by name or path, instead of what each log's answers were judged under.

    Returns:
        The new logs by judge.

    Raises:
        UserError: A judge cannot be had (said before any call), its API knows neither key nor model, no log can be
            used, or another log is in a new one's place.
    """
    calls = calls or JudgeCalls()
    models = {name: build_judge(name, batch) for name in judges}
    finished = [source for source in find_logs(logs) if _all_judged(source, judges, out, rubrics)]
    # Those need not be read to their last sample once more.
    left = [source for source in find_logs(logs) if source not in set(finished)]
    sources = [*finished, *(finished_logs(left, may_be_none=bool(finished)).sources if left else ())]
    targets = {name: new_places(sources, out / folder_name(name)) for name in models}
    for name, model in models.items():
        for source, target in zip(sources[len(finished) :], targets[name][len(finished) :], strict=True):
            log = read_eval_log(source)
            same = partial(_same, judge=name, source=log, rubrics=rubrics)
            if not is_done(target, log.eval.eval_id, same):
                on_log(name, source)
                write_copy(judge_log(log, model, calls, rubrics), target)
            elif has_failed_calls(target, read_eval_log(str(target), header_only=True)):
                on_log(name, source)
                write_copy(judge_failed_again(read_eval_log(str(target)), model, calls, rubrics), target)
    return targets


def _same(there: EvalLog, judge: str, source: EvalLog, rubrics: Sequence[str]) -> bool:
    """Whether a copy of a log is a judge's, under what the source's answers are to be judged under."""
    asked = load_rubrics(rubrics or rubrics_of(source) or RUBRICS)
    return judged_by(there) == judge and load_rubrics(rubrics_of(there) or RUBRICS) == asked


def _all_judged(source: str, judges: Sequence[str], out: Path, rubrics: Sequence[str]) -> bool:
    """Whether every judge's copy of a log is there and lacks no verdict that it may still give, by their heads."""
    try:
        log = read_eval_log(source, header_only=True)
        for judge in judges:
            target = out / folder_name(judge) / Path(source).name
            there = read_eval_log(str(target), header_only=True) if target.is_file() else None
            if there is None or there.eval.eval_id != log.eval.eval_id or not _same(there, judge, log, rubrics):
                return False
            if has_failed_calls(target, there):
                return False
    except Exception:  # Whatever a damaged log makes of the readers: it is looked at closely, and named.
        return False
    return True


def judged_by(log: EvalLog) -> str | None:
    """Who judged a log, as the user named the judge; None where the log does not say."""
    grader = (log.eval.model_roles or {}).get(ROLE)
    return grader.model if isinstance(grader, ModelConfig) else None


def _judge_of(entry: Score) -> str | None:
    """Who gave imported scores: their verdicts say it, where the file that was imported did."""
    verdict = (entry.metadata or {}).get(RUBRICS[0])
    judge = verdict.get("judge") if isinstance(verdict, dict) else None
    return judge if isinstance(judge, str) and judge != NOT_RECORDED else None


def folder_name(judge: str) -> str:
    """A judge's name as a folder."""
    return file_name(judge)


def answers_in(logs: Sequence[str | Path]) -> list[Answer]:
    """Every answer in the logs, in order."""
    return [
        Answer((log.eval.eval_id, str(sample.id), sample.epoch), question_of(sample.input), sample.output.completion)
        for log in map(read_eval_log, find_logs(logs))
        for sample in log.samples or []
    ]


def ratings_in_logs(judge: str, logs: Sequence[str | Path], answers: Sequence[Answer]) -> Ratings:
    """A judge's scores from logs that it judged.

    Raises:
        UserError: None of the answers has a score `em` there.
    """
    scores: dict[Key, tuple[float, float]] = {}
    for log in map(read_eval_log, find_logs(logs)):
        for sample in log.samples or []:
            entry = (sample.scores or {}).get(NAME)
            if entry is not None and isinstance(entry.value, dict):
                alignment, coherence = (_score(entry.value[rubric]) for rubric in RUBRICS)
                scores[(log.eval.eval_id, str(sample.id), sample.epoch)] = (alignment, coherence)
    rows = [scores.get(answer.key) for answer in answers]
    if not any(rows):
        raise UserError(
            f"The logs of the judge {judge} score none of these answers. Judge the same logs with each judge."
        )
    return _ratings(judge, rows)


def own_ratings(logs: Sequence[str | Path], answers: Sequence[Answer]) -> list[Ratings]:
    """The scores that logs carry already, as a judge of its name with ` (log)` behind it; none where they carry none.

    Logs of several judges together give one entry a judge.
    """
    by_judge: dict[str, dict[Key, tuple[float, float]]] = {}
    for log in map(read_eval_log, find_logs(logs)):
        evaluating_judge = judged_by(log)
        for sample in log.samples or []:
            entry = (sample.scores or {}).get(NAME)
            if entry is not None and isinstance(entry.value, dict):
                name = evaluating_judge or _judge_of(entry) or "scores"
                alignment, coherence = (_score(entry.value[rubric]) for rubric in RUBRICS)
                by_judge.setdefault(name, {})[(log.eval.eval_id, str(sample.id), sample.epoch)] = (alignment, coherence)
    return [
        _ratings(f"{name} (log)", [scores.get(answer.key) for answer in answers]) for name, scores in by_judge.items()
    ]


LARGEST_CSV = 2**30
"""Bytes."""


def ratings_in_csv(judge: str, path: Path, answers: Sequence[Answer]) -> Ratings:
    """Published scores or human labels as one more judge.

    Args:
        judge: What to call them.
        path: A CSV with a column of alignment scores (0-100), one of coherence scores if there are any, and either the
            answers' texts (`answer` or `response`, with `question` where texts repeat) or `id` and `epoch`; or what
            `em judge --sample` wrote for people, whose `answer_id` and `label_chance` are read.
        answers: The panel's answers.

    Raises:
        UserError: No such file, a pipe or device, or no UTF-8 text.
        UserError: Columns are missing, a score is no number from 0 to 100, or no row belongs to any answer.
    """
    csv.field_size_limit(sys.maxsize)
    with io.StringIO(read_text(path, LARGEST_CSV), newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        columns = {what: next((name for name in names if name in header), None) for what, names in CSV_NAMES.items()}
        if columns["alignment"] is None or not any(columns[what] for what in ("answer", "id", "answer_id")):
            raise UserError(
                f"{path} has the columns {', '.join(header)}. A judge's CSV needs `alignment` (0-100), `coherence` if "
                "there is one, and `answer` (with `question`) or `id` (with `epoch`) to tell which answer it is about."
            )
        by_place: dict[tuple[str, ...], tuple[float, float]] = {}
        chances: dict[tuple[str, ...], float] = {}
        for row in reader:
            scores = tuple(_number(row, columns[rubric], path, reader.line_num) for rubric in RUBRICS)
            place = _place({what: row.get(name or "") or "" for what, name in columns.items()}, columns)
            by_place[place] = scores[0], scores[1]
            chances[place] = _chance(row, columns["chance"], path, reader.line_num)
    places = [
        _place(
            {
                "answer_id": answer.answer_id,
                "answer": answer.text,
                "question": answer.question,
                "id": answer.key[1],
                "epoch": str(answer.key[2]),
            },
            columns,
        )
        for answer in answers
    ]
    rows = [by_place.get(place) for place in places]
    # A row without any score labels nothing: its answer was not given to whoever scored the others.
    rows = [None if row is None or all(np.isnan(row)) else row for row in rows]
    if not any(rows):
        raise UserError(
            f"No row of {path} with a score belongs to any of the {len(answers)} answers: texts or ids must agree."
        )
    drawn = np.array([chances.get(place, np.nan) for place in places], dtype=np.float64)
    return replace(_ratings(judge, rows), chance=drawn if columns["chance"] is not None else None)


def _place(row: dict[str, str], columns: dict[str, str | None]) -> tuple[str, ...]:
    """What a row is about: its answer's own id, else the texts, else id and epoch, as far as the file has them."""
    if columns["answer_id"] is not None:
        return (row["answer_id"].strip(),)
    names = ("question", "answer") if columns["answer"] is not None else ("id", "epoch")
    return tuple(row[name].strip() for name in names if columns[name] is not None)


def _number(row: dict[str, str], column: str | None, path: Path, line: int) -> float:
    text = (row.get(column) or "").strip() if column else ""
    if text.lower() in ("", "nan", "none", "null"):
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise UserError(
            f"{path}, line {line}: {column} is {text!r}, which is no score. Give 0 to 100 or leave it empty."
        )
    return number


def _chance(row: dict[str, str], column: str | None, path: Path, line: int) -> float:
    text = (row.get(column) or "").strip() if column else ""
    try:
        chance = float(text or "nan")
    except ValueError:
        chance = 0.0
    if text and not 0 < chance <= 1:
        raise UserError(
            f"{path}, line {line}: {column} is {text!r}. Leave it as `em judge --sample` wrote it, or empty."
        )
    return chance


def _score(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _ratings(judge: str, rows: Sequence[tuple[float, float] | None]) -> Ratings:
    table = np.array([row or (np.nan, np.nan) for row in rows], dtype=np.float64).reshape(-1, 2)
    return Ratings(judge, table[:, 0], table[:, 1], np.array([row is not None for row in rows], dtype=np.bool_))


def question_of(messages: object) -> str:
    """The question in a sample's input: its last message from the user."""
    if isinstance(messages, str):
        return messages
    user_turns = [message.text for message in messages if message.role == "user"] if isinstance(messages, list) else []
    return user_turns[-1] if user_turns else ""
