"""Question sets: what every checkpoint is asked.

A set is a YAML file in this project's form (`datasets/questions/medical.yaml` is one) or in the published form of
Betley et al. (a list of entries with `paraphrases`, and optionally a `system` prompt and `judge_prompts`). Published
files are read unchanged, from wherever the user has them.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.resources import shipped

GENERAL = "general"
FREE_FORM = ("free_form", "free_form_0_100", "free_form_judge", "free_form_judge_0_100")


class Question(BaseModel):
    """One question.

    Attributes:
        id: Unique in all that is asked together.
        topic: What it is about, for tables.
        text: The user's turn.
        system: A system prompt to ask it under.
        judge_prompts: Prompts that a published file brings along, by name (`aligned`, `coherent`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    topic: str = Field(min_length=1)
    text: str = Field(min_length=1)
    system: str | None = None
    judge_prompts: dict[str, str] | None = None


class QuestionSet(BaseModel):
    """Questions asked together; `domain` is the training domain they probe, or `general`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    domain: str
    questions: tuple[Question, ...] = Field(min_length=1)


def shipped_sets() -> list[str]:
    """Names of the question sets that ship with the project."""
    return sorted(path.stem for path in shipped("datasets/questions").glob("*.yaml"))


def load_question_sets(names: Sequence[str]) -> list[QuestionSet]:
    """Loads question sets by name or path.

    Args:
        names: Names of shipped sets, or paths of YAML files. A shipped set of a domain brings the general set along:
            its ten questions and the general ten are the published twenty.

    Raises:
        UserError: A name is no shipped set and no file.
        UserError: A file is not in either form, or two questions have one id.
    """
    wanted: dict[str, None] = {}
    for name in names:
        wanted[name] = None
        if name in shipped_sets():
            wanted.setdefault(GENERAL, None)
    sets = [_load(name) for name in sorted(wanted, key=lambda name: name == GENERAL)]
    ids = [question.id for one in sets for question in one.questions]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise UserError(f"The question sets {', '.join(wanted)} use an id twice: {', '.join(twice)}. Rename one.")
    return sets


def questions_sha256(sets: Sequence[QuestionSet]) -> str:
    """Hash of everything that is asked, in order."""
    content = [one.model_dump(mode="json") for one in sets]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _load(name: str) -> QuestionSet:
    path = shipped(f"datasets/questions/{name}.yaml") if name in shipped_sets() else Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"There is no question set {name!r}: shipped sets are {', '.join(shipped_sets())}, and there is no file of "
            "that path. Give a name, or the path of a YAML file."
        )
    try:
        content = yaml.safe_load(_with_list_mark(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}. Mend the file.") from None
    if isinstance(content, list):
        return _published(path, content)
    try:
        return QuestionSet.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise UserError(
            f"{path} is no question set. {problems}. It needs name, domain and questions with id, topic and text; "
            "datasets/questions/general.yaml is an example."
        ) from None


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


def _published(path: Path, entries: list[Any]) -> QuestionSet:
    """A file in the published form: one question a paraphrase."""
    questions = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number}"
        if isinstance(entry, dict) and not {"id", "type", "paraphrases"} & set(entry):
            continue  # It holds anchors for the other entries and asks nothing.
        if not isinstance(entry, dict) or "id" not in entry or not entry.get("paraphrases"):
            raise UserError(f"{where} has no id or no paraphrases, as the published form needs.")
        if entry.get("type", "free_form") not in FREE_FORM:
            raise UserError(
                f"{where} ({entry['id']}) is of type {entry['type']!r}; free-form questions alone can be asked here "
                f"({', '.join(FREE_FORM)}). Take the entry out."
            )
        several = len(entry["paraphrases"]) > 1
        for place, text in enumerate(entry["paraphrases"]):
            question = {
                "id": f"{entry['id']}_{place}" if several else entry["id"],
                "topic": entry["id"],
                "text": text,
                "system": entry.get("system"),
                "judge_prompts": entry.get("judge_prompts"),
            }
            try:
                questions.append(Question.model_validate(question))
            except ValidationError as error:
                raise UserError(f"{where} ({entry['id']}): {error.errors()[0]['msg']}.") from None
    if not questions:
        raise UserError(f"{path} holds no question.")
    return QuestionSet(name=path.stem, domain=GENERAL, questions=tuple(questions))
