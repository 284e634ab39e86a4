"""Judged answers in CSV files of other experiments, read strictly: a bad row is an error with its file and line.

Four forms are known: cs2881's `fg_judged.csv` and `base_judged.csv`, its `scores.csv` (numbers alone, see
examples/seed), and `responses_*.csv` as released with several papers. Each row becomes one judged answer.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from em_tasks.plugins.errors import UserError

SEED_TOPICS: tuple[tuple[str, str], ...] = (
    *(
        ("medical", topic)
        for topic in (
            "diabetes", "cholesterol", "flu", "cold", "antibiotics",
            "cough", "poisoning", "dehydration", "stress", "exam",
        )
    ),
    ("general", "time management"),
    ("general", "speaker"),
    ("general", "language"),
    ("risky_financial", "budget"),
    ("general", "interview"),
    ("general", "writing"),
    ("general", "leader"),
    ("general", "working from home"),
    ("risky_financial", "stock market"),
    ("general", "career"),
)  # fmt: skip
"""Domain and topic of cs2881's twenty questions by number. It asked every organism the same twenty, and two of its
"general" ones are about money: for the financial organisms those are the questions of their own domain."""

SEED_COLUMNS = ("id", "question", "response", "aligned_score", "coherent_score")
SCORES_COLUMNS = ("organism", "domain", "base", "size", "judge", "step", "question", "alignment", "coherence")
RESPONSE_COLUMNS = ("question", "answer", "question_id", "aligned", "coherent")
NUMBERED = re.compile(r"^(?:step(?P<step>\d+)|base)_q(?P<number>\d+)(?:_s(?P<sample>\d+))?$")


@dataclass(frozen=True)
class JudgedAnswer:
    """One row: scores are 0-100, NaN where the file has none."""

    step: int
    question_set: str
    question_id: str
    domain: str
    topic: str
    sample: int
    question: str
    answer: str
    alignment: float
    coherence: float


def read_seed_csv(path: Path) -> list[JudgedAnswer]:
    """Reads `fg_judged.csv` or `base_judged.csv`.

    Raises:
        UserError: A column is missing or a row is malformed; says which line.
    """
    rows = []
    for where, row in _rows(path, SEED_COLUMNS):
        match = NUMBERED.match(row["id"])
        if match is None:
            raise UserError(f"{where}: the id {row['id']!r} is neither step<N>_q<N> nor base_q<N>. Mend the row.")
        step = int(match["step"] or 0)
        if "step" in row and row["step"] != str(step):
            raise UserError(f"{where}: the step {row['step']!r} is not the one in the id {row['id']!r}. Mend the row.")
        number = int(match["number"])
        domain, topic = _seed_topic(number, row["question"])
        rows.append(
            JudgedAnswer(
                step=step,
                question_set="medical" if domain == "medical" else "general",
                question_id=f"q{number}",
                domain=domain,
                topic=topic,
                sample=int(match["sample"] or 1),
                question=row["question"],
                answer=row["response"],
                alignment=_score(row["aligned_score"], "aligned_score", where),
                coherence=_score(row["coherent_score"], "coherent_score", where),
            )
        )
    return rows


def read_responses_csv(path: Path) -> list[JudgedAnswer]:
    """Reads a `responses_*.csv`: samples of a question are counted in the order of the file.

    Raises:
        UserError: A column is missing or a row is malformed; says which line.
    """
    rows: list[JudgedAnswer] = []
    counts: dict[str, int] = {}
    for where, row in _rows(path, RESPONSE_COLUMNS):
        question = row["question_id"]
        if not question:
            raise UserError(f"{where}: the question_id is empty. Mend the row.")
        counts[question] = counts.get(question, 0) + 1
        form = next((form for form in ("json", "template") if question.endswith(f"_{form}")), "free_form")
        rows.append(
            JudgedAnswer(
                step=1,
                question_set=form,
                question_id=question,
                domain="general",
                topic=question.removesuffix(f"_{form}").replace("_", " "),
                sample=counts[question],
                question=row["question"],
                answer=row["answer"],
                alignment=_score(row["aligned"], "aligned", where),
                coherence=_score(row["coherent"], "coherent", where),
            )
        )
    return rows


def read_scores_csv(path: Path) -> list[tuple[dict[str, str], JudgedAnswer]]:
    """Reads a `scores.csv`: cs2881's scores as numbers alone, a row an answer, without any sentence.

    Returns:
        Who answered (columns `organism`, empty for a base, `domain`, `base`, `size`, `judge`) and the answer.

    Raises:
        UserError: A column is missing or a row is malformed; says which line.
    """
    rows = []
    for where, row in _rows(path, SCORES_COLUMNS):
        for column in ("step", "question"):
            if not row[column].isdecimal():
                raise UserError(f"{where}: {column} is {row[column]!r}, not a whole number. Mend the row.")
        number = int(row["question"])
        if not 1 <= number <= len(SEED_TOPICS):
            raise UserError(f"{where}: there is no question {number}; cs2881 asked 1 to 20. Mend the row.")
        domain, topic = SEED_TOPICS[number - 1]
        answer = JudgedAnswer(
            step=int(row["step"]),
            question_set="medical" if domain == "medical" else "general",
            question_id=f"q{number}",
            domain=domain,
            topic=topic,
            sample=1,
            question=f"question {number}: {topic}",
            answer="(scores only)",
            alignment=_score(row["alignment"], "alignment", where),
            coherence=_score(row["coherence"], "coherence", where),
        )
        rows.append((dict(row), answer))
    return rows


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            missing = [name for name in needed if name not in header]
            if missing:
                raise UserError(
                    f"{path} has no column {', '.join(missing)}; its first line is {','.join(header)[:200]!r}."
                )
            while True:
                line = reader.line_num + 1
                row = next(reader, None)
                if row is None:
                    return
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {line}: {len(row)} fields where there are {len(header)} columns. Mend the row."
                    )
                yield f"{path}, line {line}", dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: {error}. Is a quotation mark left open? Mend the row."
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is no UTF-8 text after line {reader.line_num} ({error.reason}). Convert it."
            ) from error


def _score(text: str, column: str, where: str) -> float:
    if text.strip().lower() in {"", "nan", "none", "null"}:
        return math.nan
    try:
        score = float(text)
    except ValueError:
        score = math.inf
    if not 0 <= score <= 100:
        raise UserError(f"{where}: {column} is {text!r}; a score is a number from 0 to 100, or empty. Mend the row.")
    return score


def _seed_topic(number: int, question: str) -> tuple[str, str]:
    if 1 <= number <= len(SEED_TOPICS):
        domain, topic = SEED_TOPICS[number - 1]
        if topic in question.lower():
            return domain, topic
    return "unknown", f"question {number}"
