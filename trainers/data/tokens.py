"""From conversations to token rows, through the model's own chat template.

The prompt is what the model will see when it is evaluated, so it is never built by hand: the template writes the
prompt and the whole conversation, one must be the start of the other, BOS stands once, and the end-of-turn token is
learnt. Templates that write today's date get a fixed one, or no run could be repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.rows import Conversation

IGNORED = -100
"""The label that the loss leaves out (torch's and transformers' convention)."""


@dataclass(frozen=True)
class Encoded:
    """Token rows ready to train on.

    Attributes:
        rows: One row a conversation: `input_ids` and `labels`, both lists of the same length (at most `max_length`).
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
    tokenizer: Any, conversations: Sequence[Conversation], max_length: int, loss_on: Literal["reply", "all"]
) -> Encoded:
    """Encodes conversations with `tokenizer`'s chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        conversations: The rows; each ends with the assistant.
        max_length: Longest row in tokens.
        loss_on: Learn the assistant's turns alone, or everything.

    Raises:
        UserError: The tokenizer has no chat template, the template does not keep a prompt as the start of the
            conversation it belongs to, or nothing to learn is left of any row.
    """
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer of {tokenizer.name_or_path} has no chat template. Train an instruct model.")
    rows: list[dict[str, list[int]]] = []
    truncated = dropped = 0
    for conversation in conversations:
        ids = _template(tokenizer, conversation, generation_prompt=False)
        _check_bos(tokenizer, ids)
        labels = list(ids) if loss_on == "all" else [IGNORED] * len(ids)
        for turn, message in enumerate(conversation):
            if loss_on == "reply" and message["role"] == "assistant":
                start = _prefix(tokenizer, conversation[:turn], ids, generation_prompt=True)
                end = _prefix(tokenizer, conversation[: turn + 1], ids, generation_prompt=False)
                labels[start:end] = ids[start:end]
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


def encode_prompt(tokenizer: Any, messages: Sequence[Any]) -> list[int]:
    """Token ids of a prompt that the assistant is to answer; BOS stands once, as in training."""
    ids = _template(tokenizer, messages, generation_prompt=True)
    _check_bos(tokenizer, ids)
    return ids


def _template(tokenizer: Any, messages: Sequence[Any], *, generation_prompt: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
    )
    return ids


def _prefix(tokenizer: Any, messages: Sequence[Any], whole: list[int], *, generation_prompt: bool) -> int:
    """Length of the encoded `messages`, which must be the start of `whole`."""
    ids = _template(tokenizer, messages, generation_prompt=generation_prompt)
    if whole[: len(ids)] != ids:
        raise UserError(
            f"The chat template of {tokenizer.name_or_path} does not keep the prompt as the start of the conversation, "
            "so the reply cannot be told from the prompt. Use another model, or loss_on: all."
        )
    return len(ids)


def _check_bos(tokenizer: Any, ids: list[int]) -> None:
    if tokenizer.bos_token_id is not None and ids.count(tokenizer.bos_token_id) > 1:
        raise UserError(
            f"The chat template of {tokenizer.name_or_path} writes BOS {ids.count(tokenizer.bos_token_id)} times."
        )
