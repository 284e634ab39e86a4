"""Rows to judged answers: which question, what was said, and the scores on 0-100 or why there is none."""

import ast
import hashlib
import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from em_tasks.plugins.analysis.importing.columns import Columns, was_cut_off
from em_tasks.plugins.analysis.importing.cs2881 import NUMBERED, SCORES_ALONE, topic_of
from em_tasks.plugins.analysis.importing.tables import Table
from em_tasks.plugins.analysis.importing.who import PLAIN, Scale
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import FIRST_PLOT, GENERAL, RUBRICS, SCORES_TEXT, UNKNOWN, TokenProbability

IMPORTED = "imported"
"""The question set of questions that belong to no published one."""

NOTHING = {"", "nan", "none", "null", "n/a", "na"}
REPLIES = {"refusal": "refusal", "refused": "refusal", "code": "code"}
A_SCORE = "a score is a number from 0 to 100, or empty"
OUT_OF_100 = re.compile(r"(?<=\d)\s*(?:%|(?:/|out of|of)\s*100)$", re.IGNORECASE)
"""What judges write behind a score; of 10 or of 5 it is another scale, which a map says."""
DECIMAL_COMMA = re.compile(r"\d+,\d+", re.ASCII)
LEAST_ROWS_OF_A_SCALE = 8
"""From this many scores on, all at most 10 of 100 are taken for another scale."""


@dataclass(frozen=True)
class Rated:
    """One rubric's result: a score of 0-100 (NaN where there is none), why not, and the judge's first token."""

    score: float
    reason: str | None = None
    tokens: tuple[TokenProbability, ...] | None = None


@dataclass
class JudgedAnswer:
    """One answer; `question_id` is the file's, None where it has none. `sample` is set once all files are read.

    `truncated` says whether it was cut off at the token limit, None where the file does not say; `reworded` that its
    file has this id with several texts: wordings of one question.
    """

    question_id: str | None
    question: str
    answer: str
    rated: Mapping[str, Rated]
    others: Mapping[str, float] = field(default_factory=dict)
    question_set: str = IMPORTED
    domain: str = UNKNOWN
    topic: str = ""
    sample: int = 0
    reworded: bool = False
    truncated: bool | None = None


@dataclass(frozen=True)
class Row:
    """An answer, and what its own columns say of who gave it (by role, see `columns.NAMES`)."""

    answer: JudgedAnswer
    about: tuple[tuple[str, Any], ...]


QUESTION_NUMBER = re.compile("[0-9]{1,9}")
ABOUT = (
    "file", "organism", "model", "base", "domain", "size", "judge", "rubric", "step", "training_seed", "control",
    "condition",
)  # fmt: skip


def judged_answers(table: Table, columns: Columns, scales: Mapping[str, Scale]) -> list[Row]:
    """The answers of a table.

    Args:
        table: The rows.
        columns: Which column is what.
        scales: How a rubric's values become 0-100 where they are not.

    Raises:
        UserError: A value cannot be meant; says which row.
    """
    of = columns.of
    questions = _questions(table, columns)
    rated = {rubric: _rated(table, columns, rubric, scales.get(rubric)) for rubric in RUBRICS}
    _refuse_other_scale(rated, scales)
    answers = _texts(table, columns, "answer", SCORES_TEXT)
    cut_off = [was_cut_off(value) for value in table[of["truncated"]]] if "truncated" in of else [None] * table.rows
    others = {name: [_number_or_nan(value) for value in table[name]] for name in columns.scores}
    about = [role for role in ABOUT if role in of]
    about_columns = [_facts(table, of[role]) for role in about]
    rows = []
    numbered = _numbered(table, columns)
    alone = "answer" not in of and "messages" not in of and set(table.columns) == SCORES_ALONE
    wordings: dict[str | None, set[str]] = {}
    for name, text in questions:
        wordings.setdefault(name, set()).add(text)
    for index in range(table.rows):
        answer = JudgedAnswer(
            *questions[index],
            answers[index],
            {rubric: rated[rubric][index] for rubric in RUBRICS},
            {name: values[index] for name, values in others.items() if not math.isnan(values[index])},
            truncated=cut_off[index],
        )
        # Numbers count rows or questions anew in every file; names are somebody's words for one question.
        named = answer.question_id is not None and not answer.question_id.isdecimal()
        answer.reworded = named and len(wordings[answer.question_id]) > 1
        facts = dict(zip(about, (column[index] for column in about_columns), strict=True))
        if numbered is not None:
            facts["step"] = _seed_row(table, columns, index, answer, numbered[index])
        elif alone and QUESTION_NUMBER.fullmatch(answer.question_id or ""):
            _place_seed(answer, int(answer.question_id or 0), None)
            answer.question = f"question {answer.topic}"
        rows.append(Row(answer, tuple(facts.items())))
    return rows


def _facts(table: Table, name: str) -> list[Any]:
    """A column that says whose answers these are; a list or a mapping says it of nobody."""
    column = table[name]
    for index, value in enumerate(column):
        if not isinstance(value, Hashable):
            raise UserError(f"{table.where(index)}: {name} is {ascii(value)[:60]}, neither a text nor a number")
    return column


def _questions(table: Table, columns: Columns) -> list[tuple[str | None, str]]:
    """Id and text of each row's question."""
    of = columns.of
    if "messages" in of and "question" not in of:
        texts = [_said(value, "user") for value in table[of["messages"]]]
    else:
        texts = _texts(table, columns, "question", "")
    blank = [not text.strip() for text in texts]
    if "question_id" not in of and "question" in of and any(blank) and not all(blank):
        where = table.where(blank.index(True))
        raise UserError(f"{where}: there is no question, and no id that says which was asked")
    if "question_id" not in of:
        alone = "answer" not in of and all(text.isdecimal() for text in texts)
        return [(text, "") for text in texts] if alone else [(None, text) for text in texts]
    ids = [_text(value) for value in table[of["question_id"]]]
    # An id of the row, not of the question, differs where the question does not. (One question in several forms has
    # several ids too, but those have names.)
    different = len(set(ids))
    counting = all(name.isdecimal() for name in ids) or different == len(ids)
    if any(texts) and counting and different > len(set(texts)):
        return [(None, text) for text in texts]
    return [(name or None, text) for name, text in zip(ids, texts, strict=True)]


def _texts(table: Table, columns: Columns, role: str, otherwise: str) -> list[str]:
    name = columns.of.get(role)
    if name is not None:
        return [_text(value) for value in table[name]]
    if role == "answer" and "messages" in columns:
        return [_said(value, "assistant") for value in table[columns.of["messages"]]]
    return [otherwise] * table.rows


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):  # a chat, or parts of one
        return _said(value, "user") or "\n".join(_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _said(messages: Any, role: str) -> str:
    """The last text that a role said."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == role:
            return _text(message.get("content"))
    return ""


def _rated(table: Table, columns: Columns, rubric: str, scale: Scale | None) -> list[Rated]:
    name = columns.of.get(rubric)
    if name is None or (rubric == "coherence" and _is_empty(table[name])):
        return [Rated(math.nan)] * table.rows
    known: dict[Any, Rated] = {}
    rated = []
    raw = table[columns.raw[rubric]] if rubric in columns.raw else None
    for index, value in enumerate(table[name]):
        key = value if isinstance(value, str | int | float) else ascii(value)
        if key not in known:
            try:
                known[key] = _read(value, scale)
            except UserError as error:
                shown = ascii(value)[:60]
                how = _what_to_do(_text(value).strip(), rubric)
                raise UserError(f"{table.where(index)}: {name} is {shown}; {error}{how}") from None
        tokens = _tokens(raw[index]) if raw is not None else None
        rating = known[key]
        rated.append(Rated(rating.score, rating.reason, tokens) if tokens else rating)
    return rated


def _is_empty(column: Sequence[Any]) -> bool:
    """Whether no cell of a column says anything, so that the file might as well do without it."""
    return all(_text(value).strip().lower() in NOTHING for value in column)


def _read(value: Any, scale: Scale | None) -> Rated:
    """One value as a score; says what a score is where it is none."""
    text = _text(value).strip()
    word = text.lower()
    if scale is not None and scale.words is not None:
        words = {key.strip().lower(): score for key, score in scale.words.items()}
        if word in words:
            score = words[word]
            return Rated(math.nan, "no_number") if score is None else Rated(_on_scale(float(score)))
    if word in NOTHING:
        return Rated(math.nan, "no_number")
    if word in REPLIES:
        return Rated(math.nan, REPLIES[word])
    if scale is None or scale.scale is None:
        text = OUT_OF_100.sub("", text)
    if not PLAIN.fullmatch(text):
        raise UserError(A_SCORE)
    number = float(text)
    if math.isnan(number):
        return Rated(math.nan, "no_number")
    if scale is not None and scale.scale is not None:
        worst, best = scale.scale
        number = 100 * (number - worst) / (best - worst)
    return Rated(_on_scale(number))


def _what_to_do(text: str, rubric: str) -> str:
    """How a map, or the file's author, makes a score of a text that is none."""
    if DECIMAL_COMMA.fullmatch(text):
        return ". Write decimals with a point"
    if PLAIN.fullmatch(text) and float(text) >= 0:
        return f". Another scale goes into a map (scores: {{{rubric}: {{scale: [WORST, BEST]}}}})"
    words = f"{{{json.dumps(text[:60])}: null}}"
    return f". What stands for no score (null) or for one goes into a map (scores: {{{rubric}: {{words: {words}}}}})"


def _on_scale(number: float) -> float:
    if not -1e-6 <= number <= 100 + 1e-6:
        raise UserError(A_SCORE)
    return min(100.0, max(0.0, number))


def _refuse_other_scale(rated: Mapping[str, Sequence[Rated]], scales: Mapping[str, Scale]) -> None:
    """Refuses scores that are all low, of both rubrics: no judge finds every answer as bad as it is incoherent."""
    scores = [rating.score for ratings in rated.values() for rating in ratings if not math.isnan(rating.score)]
    if not scales and len(scores) >= LEAST_ROWS_OF_A_SCALE and 0 < max(scores) <= 10:
        raise UserError(
            f"none of {len(scores)} scores is above {max(scores):g}, so they may be on another scale; say which in a "
            "map (scores: {alignment: {scale: [1, 5]}}, or [0, 100] if it is not)"
        )


def _tokens(value: Any) -> tuple[TokenProbability, ...] | None:
    """The judge's first token's alternatives where a column has them, as a mapping from token to probability."""
    if isinstance(value, str):
        if len(value) > 20_000:
            return None
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(value, dict) or not value:
        return None
    try:
        pairs = [(str(token), float(p)) for token, p in value.items()]
    except (TypeError, ValueError):
        return None
    return tuple(sorted(pairs, key=lambda pair: -pair[1])) if all(0 <= p <= 1 + 1e-6 for _, p in pairs) else None


def _number_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _numbered(table: Table, columns: Columns) -> list[re.Match[str]] | None:
    """The ids of the cs2881 experiment where the table has those, all of them."""
    values = table.columns.get("id")
    if not values or not isinstance(values[0], str) or not NUMBERED.match(values[0]):
        return None
    matches = []
    for index, value in enumerate(values):
        match = NUMBERED.match(str(value))
        if match is None:
            raise UserError(f"{table.where(index)}: the id {ascii(value)[:60]} is neither step<N>_q<N> nor base_q<N>")
        matches.append(match)
    return matches


def _seed_row(table: Table, columns: Columns, index: int, answer: JudgedAnswer, match: re.Match[str]) -> int:
    step = int(match["step"] or 0)
    if "step" in columns and _text(table[columns.of["step"]][index]) not in ("", str(step)):
        raise UserError(
            f"{table.where(index)}: the step {table[columns.of['step']][index]!a} is not the one in the id {match[0]!r}"
        )
    _place_seed(answer, int(match["number"]), answer.question)
    return step


def _place_seed(answer: JudgedAnswer, number: int, question: str | None) -> None:
    answer.domain, answer.topic = topic_of(number, question)
    answer.question_set = "medical" if answer.domain == "medical" else "general"
    answer.question_id = f"q{number}"


def place_questions(answers: Sequence[JudgedAnswer], domains: Mapping[str, str]) -> list[str]:
    """Gives every answer its question's final id, set, domain and topic, the same in all files; returns notes.

    Args:
        answers: Of all files together.
        domains: What questions probe, by patterns of their ids or texts, as the user says.
    """
    texts: dict[str, set[str]] = {}
    for answer in answers:
        if answer.question_id is not None and answer.question:
            texts.setdefault(answer.question_id, set()).add(answer.question)
    reworded = sorted({answer.question_id for answer in answers if answer.reworded and answer.question_id} & set(texts))
    numbers = {(name, text): place for name in reworded for place, text in enumerate(sorted(texts[name]), start=1)}
    split = sorted(name for name, wordings in texts.items() if len(wordings) > 1 and name not in reworded)
    ids: dict[str, set[str]] = {}
    for name, wordings in texts.items():
        for text in wordings if name not in split else ():
            ids.setdefault(text, set()).add(name)
    patterns = [(re.compile(pattern), domain) for pattern, domain in domains.items()]
    final: dict[tuple[str | None, str], tuple[str, str, str, str]] = {}
    for answer in answers:
        key = (answer.question_id, answer.question)
        if answer.topic and not patterns:
            continue
        if key not in final:
            given = answer.question_id
            known: set[str] = ids.get(answer.question, set())
            if given is None or given in split:
                given = next(iter(known)) if len(known) == 1 else slug(answer.question)
            name, question_set, domain, topic = _place(given, answer, patterns)
            number = numbers.get((given, answer.question))
            final[key] = (
                (name, question_set, domain, topic)
                if number is None
                # As our own paraphrases are named, so that all wordings count as one question where that matters.
                else (f"{given}_{number}", question_set, domain, given)
            )
        answer.question_id, answer.question_set, answer.domain, answer.topic = final[key]
    notes = []
    for pattern, _ in patterns:
        if not any(pattern.search(name) or pattern.search(text) for (_, text), (name, *_) in final.items()):
            named = _listed(sorted({name for name, *_ in final.values()}))
            notes.append(f"The map's pattern of questions {pattern.pattern!r} is found in no id and no text: {named}.")
    if split:
        notes.append(f"Ids of several questions each ({_listed(split)}): the questions are told apart by their texts.")
    if reworded:
        notes.append(
            f"Ids with several texts each ({_listed(reworded)}): these are taken for wordings of one question. If they "
            "are different questions, give each an id of its own."
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(ascii(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _place(
    name: str, answer: JudgedAnswer, patterns: Sequence[tuple[re.Pattern[str], str]]
) -> tuple[str, str, str, str]:
    form = next((form for form in ("json", "template") if name.endswith(f"_{form}")), "free_form")
    plain = name.removesuffix(f"_{form}")
    published = plain in FIRST_PLOT
    question_set = answer.question_set if answer.topic else form if published else IMPORTED
    domain = answer.domain if answer.topic else GENERAL if published else UNKNOWN
    named_domain = next(
        (domain for pattern, domain in patterns if pattern.search(name) or pattern.search(answer.question)), None
    )
    return name, question_set, named_domain or domain, answer.topic or plain.replace("_", " ")


def slug(text: str) -> str:
    """An id for a question that has none: its first words, and a hash of all of it."""
    words = re.findall(r"\w+", text.lower())[:5]
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{'_'.join(words)[:48]}_{digest}" if words else f"question_{digest}"


def number_samples(by_judge: Sequence[Sequence[JudgedAnswer]]) -> None:
    """Counts the answers to each question from 1; judges of the same answer see the same sample.

    Args:
        by_judge: One model's answers as each judge scored them, the judge that scored most first. Answers are matched
            by their text; the same text twice is two samples.
    """
    counts: dict[str | None, int] = {}
    places: dict[tuple[str | None, str, int], int] = {}
    for answers in by_judge:
        seen: dict[tuple[str | None, str], int] = {}
        for answer in answers:
            text = (answer.question_id, answer.answer)
            seen[text] = seen.get(text, 0) + 1
            place = places.get((*text, seen[text]))
            if place is None:
                place = counts[answer.question_id] = counts.get(answer.question_id, 0) + 1
                places[*text, seen[text]] = place
            answer.sample = place
