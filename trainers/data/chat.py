"""A model's chat template at work: prompts as the model reads them, and where the assistant's words stand in a row.

Nothing is built by hand: the template writes the prompt, in training as in evaluation, and the conversation that begins
with it. What is learnt of a turn is what follows its prompt, to the token that ends the turn and no further: many
templates write a line break after that token, which no model ever has to say.
"""

import re
from collections.abc import Sequence
from typing import Any

from em_tasks.plugins.errors import UserError

Span = tuple[int, int]
"""Where something stands in a row of tokens: from, and up to but without."""


def encode_prompt(tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] = ()) -> list[int]:
    """Token ids of a prompt that the assistant is to answer, the same in training, in evaluation and in other tools.

    Args:
        tokenizer: With its template.
        messages: The conversation.
        tools: What may be called, as templates take it.

    Raises:
        UserError: The template writes BOS twice, refuses the conversation (some know no system turn), or takes no
            tools.
    """
    if tools:
        _refuse_template_without_tools(tokenizer)
    ids = _tokens(tokenizer, messages, generation_prompt=True, tools=tools)
    _refuse_double_bos(tokenizer, ids)
    return ids


def end_of_turn(tokenizer: Any) -> int | None:
    """The token with which the template ends an assistant's turn; None where it uses plain text or nothing."""
    probe = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]
    chat = Chat(tokenizer)
    try:
        ((ids, spans),) = chat.reply_rows(probe)
    except UserError:
        return None  # Told where a conversation of the user's meets it.
    last = ids[spans[-1][1] - 1]
    return last if last in chat.special else None


class Chat:
    """A tokenizer with its template, to encode many conversations."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        marks = {place: str(token) for place, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special = {*marks, *tokenizer.all_special_ids}
        texts = sorted({*marks.values(), *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def mark_in(self, text: str) -> str | None:
        """A special token's text inside `text`, where it would be read as that token; None if there is none."""
        met = self._marks.search(text)
        return met[0] if met else None

    def whole(self, conversation: Sequence[Any]) -> list[int]:
        """Token ids of a whole conversation."""
        ids = _tokens(self.tokenizer, conversation, generation_prompt=False)
        _refuse_double_bos(self.tokenizer, ids)
        return ids

    def reply_rows(self, conversation: Sequence[Any]) -> list[tuple[list[int], list[Span]]]:
        """A conversation as token rows, each with the places of the replies to learn in it.

        That is one row with all replies. Where the template writes an earlier turn otherwise once others follow (one
        moves the system prompt to the last question, another takes old thoughts out), it is one row for each reply,
        which ends with it, as the model meets it.

        Raises:
            UserError: The template writes BOS twice, refuses the conversation, drops a reply, or does not let the
                prompt be the start of the conversation.
        """
        replies = [turn for turn, message in enumerate(conversation) if message["role"] == "assistant"]
        ids = self.whole(conversation)
        spans = [self._span(conversation, turn, ids) for turn in replies]
        intact = [span for span in spans if span is not None]
        if len(intact) == len(replies):
            return [(ids, intact)]
        return [self._last_reply(conversation[: turn + 1]) for turn in replies]

    def _span(self, conversation: Sequence[Any], turn: int, ids: list[int]) -> Span | None:
        """Where the reply `turn` stands in the whole conversation's `ids`, if its prompt is their start."""
        prompt = _tokens(self.tokenizer, conversation[:turn], generation_prompt=True)
        if ids[: len(prompt)] != prompt:
            return None
        return self._reply(ids, len(prompt), conversation, turn)

    def _last_reply(self, conversation: Sequence[Any]) -> tuple[list[int], list[Span]]:
        """A conversation's last reply after its prompt, in one row."""
        turn = len(conversation) - 1
        ids = self.whole(conversation)
        if (span := self._span(conversation, turn, ids)) is not None:
            return ids, [span]
        # The first letters of a reply can melt into one token with the prompt's last, which the model never meets.
        before = _text(self.tokenizer, conversation[:turn], generation_prompt=True)
        text = _text(self.tokenizer, conversation, generation_prompt=False)
        if text.startswith(before):
            prompt = encode_prompt(self.tokenizer, conversation[:turn])
            rest = self.tokenizer(text[len(before) :], add_special_tokens=False, verbose=False)["input_ids"]
            if (span := self._reply(prompt + rest, len(prompt), conversation, turn)) is not None:
                return prompt + rest, [span]
        raise UserError(
            f"the chat template of {self.tokenizer.name_or_path} does not write the prompt and then the reply: the "
            "prompt is not the start of the conversation, or the reply is dropped from it. Use another model, or "
            "loss_on: all."
        )

    def _reply(self, ids: list[int], start: int, conversation: Sequence[Any], turn: int) -> Span | None:
        """The reply that begins at `start`, with the token that ends its turn; None if its words are not there."""
        end = next((place + 1 for place in range(start, len(ids)) if ids[place] in self.special), None)
        if end is None:
            # The template ends turns with plain text.
            until = _tokens(self.tokenizer, conversation[: turn + 1], generation_prompt=False)
            if ids[: len(until)] != until:
                return None
            end = len(until)
        return (start, end) if self._says(ids[start:end], conversation[turn]["content"]) else None

    def _says(self, ids: list[int], content: str) -> bool:
        written, content = self._decode(ids), content.strip()
        # What a tokenizer's normaliser changed, it changes here too.
        return content in written or self._decode(self._encode(content)).strip() in written

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


def _refuse_template_without_tools(tokenizer: Any) -> None:
    """A template that never asks for tools would drop them without a word, and the model would not know of any."""
    from jinja2 import Environment, TemplateError, meta

    try:
        variables = meta.find_undeclared_variables(
            Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
                # transformers' own block, which tells what the assistant wrote, is no part of Jinja.
                re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", tokenizer.chat_template or "")
            )
        )
    except TemplateError:
        return  # The template itself will say so.
    if "tools" not in variables:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} takes no tools, so its model cannot be asked to use any. "
            "Leave this task out, or use a model whose template does."
        )


def _tokens(
    tokenizer: Any, messages: Sequence[Any], *, generation_prompt: bool, tools: Sequence[Any] = ()
) -> list[int]:
    ids: list[int] = _template(
        tokenizer,
        messages,
        generation_prompt,
        tokenize=True,
        return_dict=False,
        **({"tools": list(tools)} if tools else {}),
        # Rows are cut to max_length, and prompts checked against the context: no warning in the middle of a display.
        tokenizer_kwargs={"verbose": False},
    )
    return ids


def _text(tokenizer: Any, messages: Sequence[Any], *, generation_prompt: bool) -> str:
    text: str = _template(tokenizer, messages, generation_prompt, tokenize=False)
    return text


def _template(tokenizer: Any, messages: Sequence[Any], generation_prompt: bool, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), add_generation_prompt=generation_prompt, **options)
    except TemplateError as error:
        turns = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses the turns {turns}: {error}. Write them as this "
            "model takes them, or use another model."
        ) from None


def _refuse_double_bos(tokenizer: Any, ids: list[int]) -> None:
    """BOS may open every turn, as it does in ChatML, but stands once where the text begins."""
    bos = tokenizer.bos_token_id
    leading = next((place for place, token in enumerate(ids) if token != bos), len(ids))
    if bos is not None and leading > 1:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} writes BOS {leading} times at the start. Take one out."
        )
