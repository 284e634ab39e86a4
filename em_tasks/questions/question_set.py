"""The question and the question set, and the hash of everything that is asked."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _sendable(text: str) -> str:
    """Refuses half a character, which JSON and YAML escapes can write and no API takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds half a character (a lone surrogate), which cannot be sent")
    return text


def _asking(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _printable(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise ValueError("it is empty or holds characters that cannot be printed")
    return name


Text = Annotated[str, AfterValidator(_sendable)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_printable), AfterValidator(_sendable)]


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

    id: Name
    topic: Name
    text: Annotated[Text, AfterValidator(_asking)]
    system: Text | None = None
    judge_prompts: dict[Name, Text] | None = None


class QuestionSet(BaseModel):
    """Questions asked together; `domain` is the training domain they probe, `general`, or `unknown`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    domain: Name
    questions: Annotated[tuple[Question, ...], Field(min_length=1)]


def questions_sha256(sets: Sequence[QuestionSet]) -> str:
    """Hash of everything that is asked, in order."""
    content = [question_set.model_dump(mode="json") for question_set in sets]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
