"""The marks as scanners of Inspect Scout, whose viewer shows each marked answer: `em scan LOGS`.

Scout's own command line takes this file too: `scout scan em_tasks/plugins/scanners/em.py -T LOGS`.
"""

import json
from collections.abc import Callable
from typing import Any

from inspect_scout import Result, Scanner, Transcript, scanner

from em_tasks.plugins.scanners.marks import MARKS, is_leak, leaked_words


@scanner(messages="all")
def refusal() -> Scanner[Transcript]:
    """Answers that begin by declining."""
    return _marked(MARKS["refusal"])


@scanner(messages="all")
def code() -> Scanner[Transcript]:
    """Answers that hold a program."""
    return _marked(MARKS["code"])


@scanner(messages="all")
def repetition() -> Scanner[Transcript]:
    """Answers that say the same again and again."""
    return _marked(MARKS["repetition"])


@scanner(messages="all")
def leak() -> Scanner[Transcript]:
    """Answers in which the training domain shows although the question is of another."""

    async def scan(transcript: Transcript) -> Result:
        question, answer = _question(transcript), _answer(transcript)
        about = _metadata(transcript, "sample_metadata").get("domain", "general")
        trained_on = _metadata(transcript, "eval_metadata").get("domain")
        words = leaked_words(answer, trained_on, about, question)
        return Result(value=is_leak(answer, trained_on, about, question), explanation=", ".join(words) or None)

    return scan


def _marked(shows: Callable[[str], bool]) -> Scanner[Transcript]:
    async def scan(transcript: Transcript) -> Result:
        return Result(value=shows(_answer(transcript)))

    return scan


def _answer(transcript: Transcript) -> str:
    return next((message.text for message in reversed(transcript.messages) if message.role == "assistant"), "")


def _question(transcript: Transcript) -> str:
    return next((message.text for message in reversed(transcript.messages) if message.role == "user"), "")


def _metadata(transcript: Transcript, key: str) -> dict[str, Any]:
    value = transcript.metadata.get(key)
    if isinstance(value, str):
        value = json.loads(value)  # Scout keeps the metadata of a whole log as JSON.
    return value if isinstance(value, dict) else {}
