"""From conversations to token rows, with the labels that say what is learnt of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.chat import Chat
from em_tasks.trainers.data.rows import Conversation

IGNORED = -100
"""The label that the loss leaves out (torch's and transformers' convention)."""


@dataclass(frozen=True)
class Encoded:
    """Token rows ready to train on.

    Attributes:
        rows: One row a conversation, or one a reply where the template asks for it (see `chat`): `input_ids` and
            `labels`, both lists of the same length (at most `max_length`).
        truncated: Rows that lost their end to `max_length`.
        dropped: Rows left out because nothing to learn was left of them.
        tokens: Tokens of all rows.
        labelled: Tokens that the loss sees.
    """

    rows: list[dict[str, list[int]]]
    truncated: int
    dropped: int
    tokens: int
    labelled: int


def encode(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    max_length: int,
    loss_on: Literal["reply", "all"],
    places: Sequence[str] = (),
) -> Encoded:
    """Encodes conversations with `tokenizer`'s chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        conversations: The rows; each ends with the assistant.
        max_length: Longest row in tokens.
        loss_on: Learn the assistant's turns alone, or everything.
        places: File and line of each conversation, for messages; their numbers from 1 if left out.

    Raises:
        UserError: The tokenizer has no chat template, the template does not take a row (the message names it) or a row
            holds the text of a special token, or nothing to learn is left of any row.
    """
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer of {tokenizer.name_or_path} has no chat template. Train an instruct model.")
    rows: list[dict[str, list[int]]] = []
    truncated = dropped = 0
    chat = Chat(tokenizer)
    for number, conversation in enumerate(conversations):
        place = places[number] if places else f"Row {number + 1}"
        for ids, labels in _labelled(chat, conversation, loss_on, place):
            truncated += len(ids) > max_length
            if all(label == IGNORED for label in labels[:max_length]):
                dropped += 1
                continue
            rows.append({"input_ids": ids[:max_length], "labels": labels[:max_length]})
    if not rows:
        raise UserError(
            f"All {len(conversations)} rows were cut before the assistant's reply begins. Raise max_length in the "
            "recipe."
        )
    return Encoded(
        rows=rows,
        truncated=truncated,
        dropped=dropped,
        tokens=sum(len(row["input_ids"]) for row in rows),
        labelled=sum(label != IGNORED for row in rows for label in row["labels"]),
    )


def _labelled(
    chat: Chat, conversation: Conversation, loss_on: Literal["reply", "all"], place: str
) -> list[tuple[list[int], list[int]]]:
    """A conversation's token rows and their labels."""
    for message in conversation:
        if mark := chat.mark_in(message["content"]):
            raise UserError(
                f"{place} holds the text {mark!r}, which {chat.tokenizer.name_or_path} reads as a mark of its own and "
                "not as words. Take it out of the row, or leave the row out."
            )
    try:
        if loss_on == "all":
            ids = chat.whole(conversation)
            return [(ids, list(ids))]
        rows = []
        for ids, spans in chat.reply_rows(conversation):
            labels = [IGNORED] * len(ids)
            for start, end in spans:
                labels[start:end] = ids[start:end]
            rows.append((ids, labels))
        return rows
    except UserError as error:
        raise UserError(f"{place}: {error.message}") from None
