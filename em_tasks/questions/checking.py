"""What is wrong or odd with a question file, in full: for its author, before anything is asked."""

from collections.abc import Mapping
from pathlib import Path

from em_tasks.plugins.log_contract import UNKNOWN
from em_tasks.questions.files import read_question_file
from em_tasks.questions.finding import named_sets
from em_tasks.scorers.rubric_scorer import PUBLISHED_NAMES


def check_question_file(path: Path, trained_on: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Checks a question file.

    Args:
        path: The file.
        trained_on: Users' turns of training data, each with where it stands.

    Returns:
        Faults, for which the file cannot be asked, and remarks on what it comes to.

    Raises:
        UserError: The file as a whole cannot be read.
    """
    file = read_question_file(path)
    faults, remarks = list(file.faults), []
    places = {_plain(text): place for text, place in trained_on.items()}
    before: dict[tuple[str, str | None], int | None] = {}
    for question, line in zip(file.questions, file.lines, strict=True):
        if place := places.get(_plain(question.text)):
            faults.append(f"line {line} ({question.id}): its text also stands in training data, {place}")
        key = (_plain(question.text), question.system)
        if key in before:
            remarks.append(f"line {line} ({question.id}) asks the same as line {before[key]}")
        before.setdefault(key, line)
    if file.domain == UNKNOWN:
        remarks.append(
            "it does not say which domain it probes, so its answers count as neither inside nor outside of one: write "
            "`domain: general` (or a training domain) into it, or say -T domain=general"
        )
    elif file.domain not in (known := named_sets()):
        remarks.append(
            f"no other question set is about its domain, {file.domain!a} (there are {', '.join(sorted(known))}): "
            "right for organisms trained on it, or a slip"
        )
    prompts = {name for question in file.questions for name in question.judge_prompts or {}}
    if unasked := sorted(prompts - set(PUBLISHED_NAMES.values())):
        remarks.append(
            f"its judge prompts {', '.join(unasked)} are asked by the scorer topic alone: inspect score LOG --scorer "
            f"em_tasks/topic -S rubric={unasked[0]}"
        )
    return faults, remarks


def _plain(text: str) -> str:
    """A text without what makes no difference to a reader: case and runs of spaces."""
    return " ".join(text.lower().split())
