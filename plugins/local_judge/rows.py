"""What the local judge reads: one token row for a question and an answer.

Bases with ChatML's marks read a chat of one turn each, others the words `Question:` and `Answer:`.

Long answers keep their beginning and their end. The judge was trained on rows made by this file, so another way of
writing them is another judge: `VERSION` goes up with it.
"""

from collections.abc import Sequence
from typing import Any

VERSION = 1
QUESTION, HEAD, TAIL = 128, 192, 64
"""Most tokens of a question, and of an answer's beginning and end."""


class RowMaker:
    """Makes token rows with a base's tokenizer (a `tokenizers.Tokenizer`).

    `begin` and `end` are the tokens with which a text of this base begins and ends, where it has any; chat marks of the
    tokenizer take their place.
    """

    def __init__(self, tokenizer: Any, begin: int | None = None, end: int | None = None) -> None:
        self._tokenizer = tokenizer
        start, stop = (tokenizer.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>"))
        if start is not None and stop is not None:
            self._user = [start, *self._ids("user\n")]
            self._assistant = [stop, *self._ids("\n"), start, *self._ids("assistant\n")]
            self._end = [stop]
        else:
            self._user = [*([] if begin is None else [begin]), *self._ids("Question: ")]
            self._assistant = self._ids("\nAnswer: ")
            self._end = self._ids("\n") if end is None else [end]

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """For each question and answer the token row and the place at which the answer begins."""
        questions = {question: self._ids(question)[:QUESTION] for question in {question for question, _ in pairs}}
        encoded = self._tokenizer.encode_batch([answer for _, answer in pairs], add_special_tokens=False)
        rows = []
        for (question, _), ids in zip(pairs, (each.ids for each in encoded), strict=True):
            kept = ids if len(ids) <= HEAD + TAIL else ids[:HEAD] + ids[-TAIL:]
            prompt = self._user + questions[question] + self._assistant
            rows.append(([*prompt, *kept, *self._end], len(prompt)))
        return rows

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
