"""Question files, read as their authors wrote them.

YAML in this project's form (a mapping with `name`, `domain` and `questions`; `datasets/questions/medical.yaml` is one)
or as a list of entries, JSON lines, or CSV (comma, semicolon or tab) with a heading. An entry says its text under
`text`, `question`, `prompt` or `paraphrases` (one question each, as Betley et al. publish them); `id`, `topic`,
`system` and `judge_prompts` may be left out, and what else stands in a list, a line or a table is not ours to read.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from em_tasks.plugins.delimited import delimiter_of
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import UNKNOWN
from em_tasks.plugins.yaml_files import parse_yaml, read_text
from em_tasks.questions.question_set import Question, QuestionSet
from em_tasks.scorers.judging.rubric import Rubric
from em_tasks.scorers.rubric_scorer import PUBLISHED_NAMES

SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")
FREE_FORM = ("free_form", "free_form_0_100", "free_form_judge", "free_form_judge_0_100")
TEXTS = ("text", "question", "prompt")
IDS = ("id", "question_id")
OURS = {"id", "topic", "text", "question", "paraphrases", "system", "judge_prompts"}
"""What an entry of a mapping with `questions` may say."""


@dataclass(frozen=True)
class Entry:
    """One entry of a file: where it stands, for messages, and what it says."""

    number: int
    line: int | None
    content: Any


@dataclass(frozen=True)
class QuestionFile:
    """What a file was read as.

    Attributes:
        path: The file.
        name: The set's name, the file's unless it says another.
        domain: The domain that it says it probes, or `unknown`.
        questions: The questions that can be asked, in order.
        lines: The line of each, where it is known.
        faults: What is wrong with the others, each with its place.
    """

    path: Path
    name: str
    domain: str
    questions: tuple[Question, ...]
    lines: tuple[int | None, ...]
    faults: tuple[str, ...]

    def question_set(self, domain: str | None = None) -> QuestionSet:
        """The file as a set.

        Args:
            domain: What it probes, instead of what it says itself.

        Raises:
            UserError: Anything in it is at fault.
        """
        if self.faults:
            more = f" and {len(self.faults) - 3} more" if len(self.faults) > 3 else ""
            raise UserError(
                f"{self.path} cannot be asked: {'; '.join(self.faults[:3])}{more}. Mend the file; "
                f"em questions check {self.path} lists all that is wrong with it."
            )
        try:
            return QuestionSet(name=self.name, domain=domain or self.domain, questions=self.questions)
        except ValidationError as error:
            raise UserError(f"{self.path} is no question set: {_first(error)}.") from None


def read_question_file(path: Path) -> QuestionFile:
    """Reads a question file of any form; faults of single entries are collected.

    Raises:
        UserError: The file as a whole cannot be read, or is in no form that holds questions.
    """
    text = read_text(path)
    head: dict[str, Any] = {}
    if path.suffix.lower() == ".csv":
        entries = list(_rows(path, text))
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        entries = list(_json_lines(path, text))
    else:
        head, entries = _yaml(path, text)
    questions: list[Question] = []
    lines: list[int | None] = []
    faults: list[str] = []
    prompts: dict[tuple[str, str], str | None] = {}
    for entry in entries:
        try:
            for question in _questions(entry, path.stem, strict=bool(head)):
                _check_prompts(question, prompts)
                questions.append(question)
                lines.append(entry.line)
        except (_FaultError, UserError) as error:
            faults.append(f"{_place(entry)}: {str(error).rstrip('.')}")
    faults += _twice(questions, lines)
    if not questions and not faults:
        raise UserError(f"{path} holds no question. Give it entries with id and text.")
    name, domain = head.get("name", path.stem), head.get("domain") or _domain(path, entries)
    return QuestionFile(path, name, domain, tuple(questions), tuple(lines), tuple(faults))


class _FaultError(ValueError):
    """What is wrong with one entry, in words."""


def _yaml(path: Path, text: str) -> tuple[dict[str, Any], list[Entry]]:
    """The mapping around the entries, where there is one, and the entries."""
    mended = _with_list_mark(text)
    content = parse_yaml(mended, path)
    head = content if isinstance(content, dict) else {}
    entries = head.get("questions") if head else content
    unknown = sorted(str(key) for key in head.keys() - {"name", "domain", "questions"})
    if not isinstance(entries, list) or unknown:
        problem = f"it says {', '.join(unknown)}" if unknown else "it holds no list of questions"
        raise UserError(
            f"{path} is no question set: {problem}. It needs name, domain and questions, each with id, topic and text, "
            "or a list of entries with id and question or paraphrases; datasets/questions/general.yaml is an example."
        )
    lines = dict(enumerate(_lines(mended)))
    return head, [Entry(place + 1, lines.get(place), entry) for place, entry in enumerate(entries)]


def _lines(text: str) -> list[int]:
    """The lines on which the entries of a YAML list begin, or of the list under `questions`."""
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if isinstance(root, yaml.MappingNode):
        root = next((value for key, value in root.value if key.value == "questions"), None)
    return [node.start_mark.line + 1 for node in root.value] if isinstance(root, yaml.SequenceNode) else []


def _with_list_mark(text: str) -> str:
    """Gives a first entry that stands indented without its `- ` the mark back.

    One published file (medical questions, clarifying_EM) lost the head of its first entry and keeps only the anchors
    that the others refer to; strict YAML refuses it.
    """
    lines = text.split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), None)
    if first is not None and lines[first].startswith("  ") and any(line.startswith("- ") for line in lines[first:]):
        lines[first] = "- " + lines[first][2:]
    return "\n".join(lines)


def _json_lines(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                problem = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
                raise UserError(f"{path}, line {number} is no JSON: {problem}. Mend the line.") from None
            yield Entry(number, number, content)


def _rows(path: Path, text: str) -> Iterator[Entry]:
    """The rows of a table, each with the line on which it begins."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True)
    try:
        columns = next(lines, [])
        if not {*TEXTS} & {*columns}:
            raise UserError(
                f"{path} has no column of questions: its heading is {', '.join(columns) or 'empty'}. Call the column "
                f"one of {', '.join(TEXTS)}."
            )
        line = lines.line_num + 1
        for number, row in enumerate(lines, 1):
            if row:
                yield Entry(number, line, {key: value or None for key, value in zip(columns, row, strict=False)})
            line = lines.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num} is no CSV: {error}. Mend the line.") from None


def _questions(entry: Entry, stem: str, *, strict: bool) -> Iterator[Question]:
    """The questions of one entry, one a paraphrase; none of an entry that only holds anchors for the others."""
    content = entry.content
    if not isinstance(content, dict):
        raise _FaultError(f"it is {_kind(content)} and not a mapping with id and text")
    if not content.keys() & {*IDS, *TEXTS, "type", "paraphrases"}:
        return
    if strict and (unknown := sorted(str(key) for key in content.keys() - OURS)):
        raise _FaultError(f"it says {', '.join(unknown)}, which no question has ({', '.join(sorted(OURS))})")
    if content.get("type") is not None and content["type"] not in FREE_FORM:
        raise _FaultError(
            f"it is of type {content['type']!r}; free-form questions alone can be asked here ({', '.join(FREE_FORM)})"
        )
    texts = _texts(content)
    name = next((content[key] for key in IDS if content.get(key) is not None), None)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    base = f"{stem}_{entry.number}" if name is None else name
    for place, text in enumerate(texts):
        fields = {
            "id": f"{base}_{place}" if len(texts) > 1 else base,
            "topic": content.get("topic") or base,
            "text": text,
            "system": content.get("system"),
            "judge_prompts": content.get("judge_prompts"),
        }
        try:
            yield Question.model_validate(fields)
        except ValidationError as error:
            raise _FaultError(_first(error)) from None


def _texts(content: dict[str, Any]) -> list[Any]:
    paraphrases = content.get("paraphrases")
    if paraphrases is None:
        given = [content[key] for key in TEXTS if content.get(key) is not None]
        if len(given) != 1:
            raise _FaultError(
                f"it has {'more than one' if given else 'none'} of {', '.join((*TEXTS, 'paraphrases'))}; it needs one"
            )
        return given
    if not isinstance(paraphrases, list) or not paraphrases:
        raise _FaultError(
            f"its paraphrases are {_kind(paraphrases)} and not a list of texts (a single one is written [text])"
        )
    return paraphrases


def _check_prompts(question: Question, known: dict[tuple[str, str], str | None]) -> None:
    """Refuses a prompt that will be asked and lacks a place for the question or the answer; each is read once."""
    for prompt in (question.judge_prompts or {}).items():
        if prompt[0] in PUBLISHED_NAMES.values() and prompt not in known:
            try:
                Rubric.from_prompt(*prompt)
                known[prompt] = None
            except UserError as error:
                known[prompt] = str(error)
        if problem := known.get(prompt):
            raise _FaultError(problem)


def _twice(questions: list[Question], lines: list[int | None]) -> Iterator[str]:
    first: dict[str, int | None] = {}
    for question, line in zip(questions, lines, strict=True):
        if question.id in first:
            yield f"line {line}: the id {question.id} stands in line {first[question.id]} already"
        first.setdefault(question.id, line)


def _domain(path: Path, entries: list[Entry]) -> str:
    """The domain that every entry of a list, line or table names."""
    given = [entry.content.get("domain") for entry in entries if isinstance(entry.content, dict)]
    named = {domain for domain in given if isinstance(domain, str)}
    if len(named) > 1:
        raise UserError(
            f"{path} has questions of several domains ({', '.join(sorted(named))}), and a set probes one. "
            "Make a file of each."
        )
    return named.pop() if named else UNKNOWN


def _place(entry: Entry) -> str:
    name = entry.content.get("id") if isinstance(entry.content, dict) else None
    line = f"line {entry.line}" if entry.line else f"entry {entry.number}"
    return f"{line} ({name})" if isinstance(name, str) and name.isprintable() and len(name) <= 200 else line


def _kind(value: Any) -> str:
    return {str: "text", int: "a number", float: "a number", bool: "a yes or no", list: "an empty list"}.get(
        type(value), "empty" if value is None else "a mapping"
    )


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]
