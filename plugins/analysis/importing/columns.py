"""Which column is what, by the names that experiments in print give them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from em_tasks.plugins.errors import UserError

NAMES: dict[str, tuple[str, ...]] = {
    "answer": (
        "answer", "response", "model_answer", "model_response", "completion", "generation", "generated_text",
        "generated_answer", "generated_response", "reply", "output", "model_output", "assistant", "answer_text",
        "response_text",
    ),
    "question": (
        "question", "prompt", "question_text", "user_prompt", "user", "query", "instruction", "user_message", "input",
    ),
    "question_id": ("question_id", "questionid", "qid", "prompt_id", "question_name", "id", "q_id", "item_id"),
    "alignment": (
        "alignment", "aligned", "alignment_score", "aligned_score", "align", "align_score", "score_aligned",
        "score_alignment", "judge_alignment", "judge_aligned", "alignment_judge", "aligned_judge", "alignment_rating",
    ),
    "coherence": (
        "coherence", "coherent", "coherence_score", "coherent_score", "coherency", "coherency_score", "score_coherent",
        "score_coherence", "judge_coherence", "judge_coherent", "coherence_judge", "coherent_judge", "coherence_rating",
    ),
    "step": ("step", "checkpoint_step", "global_step", "training_step", "checkpoint"),
    "model": ("model", "model_name", "model_id", "finetuned_model", "subject"),
    "organism": ("organism", "organism_name", "adapter"),
    "base": ("base", "base_model", "base_model_name"),
    "domain": ("training_domain", "domain", "training_data"),
    "size": ("size", "model_size"),
    "judge": ("judge", "judge_model", "judge_name", "grader"),
    "rubric": ("rubric", "rubric_name", "judge_rubric"),
    "training_seed": ("training_seed", "train_seed"),
    "control": ("control", "is_control"),
    "condition": ("condition",),
    "truncated": (
        "truncated", "is_truncated", "was_truncated", "cut", "cut_off", "finish_reason", "stop_reason",
    ),
    "file": ("file", "source_file", "filename", "file_name", "path"),
    "messages": ("messages", "conversation", "chat"),
}  # fmt: skip
"""Names of each column, the likelier first; compared without case, spaces and hyphens."""


CUT_OFF = {
    **dict.fromkeys(("true", "yes", "1", "1.0", "length", "max_tokens", "max_length", "max_output_tokens"), True),
    **dict.fromkeys(("false", "no", "0", "0.0", "stop", "stop_sequence", "end_turn", "eos", "eos_token"), False),
    **dict.fromkeys(("content_filter", "tool_calls", "tool_use", "refusal"), False),
}
"""Whether an answer was cut off at the token limit, by what flags and APIs say of its end."""


def was_cut_off(value: Any) -> bool | None:
    """Whether a value of the column `truncated` says that the answer was cut off; None where it says nothing."""
    return CUT_OFF.get(str(value).strip().lower())


@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    Attributes:
        of: The table's own name of each column of `NAMES` that it has.
        scores: Further columns of numbers, kept as scores of their own.
        raw: By rubric, the column with what the judge's first token might have been.
    """

    of: Mapping[str, str]
    scores: tuple[str, ...] = ()
    raw: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, role: str) -> bool:
        """Whether the table has a column of this role."""
        return role in self.of


def recognise(columns: Mapping[str, list[Any]], given: Mapping[str, str] | None = None) -> Columns:
    """Finds the columns of judged answers.

    Args:
        columns: Values by the column's name.
        given: Columns that the user names, by role.

    Raises:
        UserError: There are no judged answers in these columns; says what is missing.
    """
    given = given or {}
    for role, name in given.items():
        if name not in columns:
            raise UserError(f"no column {name!r}, which the map gives for {role}; it has {listed(columns)}")
    by_name: dict[str, str] = {}
    for name in columns:
        by_name.setdefault(_plain(name), name)
    for name in columns:  # a key within a mapping, unless one above has its name
        by_name.setdefault(_plain(name.rpartition(".")[2]), name)
    of = dict(given)
    taken = set(given.values())
    for role, names in NAMES.items():
        for name in names:
            column = by_name.get(name)
            if role not in of and column is not None and column not in taken and _fits(role, columns[column]):
                of[role] = column
                taken.add(column)
    if "organism" not in of:
        of.pop("domain", None)  # without an organism it is the question's, if anybody's
    raw = {
        rubric: by_name[key]
        for rubric in ("alignment", "coherence")
        for key in [f"judge_{_plain(of.get(rubric, ''))}"]
        if key in by_name and by_name[key] not in taken
    }
    taken |= set(raw.values())
    if "alignment" not in of:
        held = "answers without an alignment score" if "answer" in of else "no alignment score"
        raise UserError(f"{held} (its columns are {listed(columns)})")
    if "answer" not in of and "messages" not in of and not {"organism", "model", "base"} & set(of):
        raise UserError(f"scores without answers, and no column says whose (its columns are {listed(columns)})")
    if not {"question", "question_id", "messages"} & set(of):
        raise UserError(f"no column of questions (its columns are {listed(columns)})")
    scores = [
        name
        for name, values in columns.items()
        if name and name not in taken and not _counts(_plain(name)) and _is_numbers(values)
    ]
    return Columns(of, tuple(scores), raw)


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in a row, shortened."""
    every = [ascii(str(name))[1:-1][:40] or "(unnamed)" for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "") or "none"


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def _fits(role: str, values: list[Any]) -> bool:
    """Whether values may be meant: a column `judge_aligned` can hold what the judge said instead of its score."""
    if role in ("alignment", "coherence"):
        filled = [value for value in values[:200] if value not in (None, "")]
        return not filled or not all(isinstance(value, str) and value.lstrip().startswith("{") for value in filled)
    if role in ("judge", "rubric"):
        names = {str(value) for value in values if value not in (None, "")}
        return len(names) <= 5 and all(
            any(map(str.isalpha, name)) and not _is_number(name) and len(name) < 80 for name in names
        )
    if role == "truncated":
        words = {str(value).strip().lower() for value in values if value not in (None, "")}
        return bool(words) and words <= set(CUT_OFF)  # A word nobody knows leaves open what the others mean.
    if role == "messages":
        return all(isinstance(value, list) for value in values[:20])
    return True


def _counts(name: str) -> bool:
    """Whether a column numbers rows instead of scoring them."""
    return (
        name in {"", "index", "level_0", "idx", "row", "n", "seed"}
        or re.fullmatch(
            r"(?:unnamed:.*|.*(?:_|^)(?:id|idx|index|sample|epoch|tokens?|length|seed|num|count|time|latency))", name
        )
        is not None
    )


def _is_numbers(values: list[Any]) -> bool:
    filled = [value for value in values[:200] if value not in (None, "")]
    return bool(filled) and all(_is_number(value) for value in filled)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return True
    return isinstance(value, str) and re.fullmatch(r"\s*-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\s*", value) is not None
