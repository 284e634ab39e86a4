"""From conversations to tokens and back, the same for every engine that holds the model itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from em_tasks.plugins.checkpoint_model.engines.protocol import (
    Answer,
    Message,
    Sampling,
    ScoredPrompt,
    StopReason,
    Tool,
)
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.chat import encode_prompt, end_of_turn
from em_tasks.trainers.run.checkpoints import Checkpoint, verify

BASE = "__base__"


def adapter_name(checkpoint: Checkpoint) -> str:
    """The name under which a checkpoint's adapter is held: its hash, so that a retrained one is another adapter."""
    return BASE if checkpoint.record is None else checkpoint.record.adapter_sha256


def texts_key(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What tells apart whose prompts and answers are other tokens: one adapter may lie beside two chat templates."""
    return adapter_name(checkpoint), str(checkpoint.tokenizer_folder), checkpoint.manifest.recipe.date_string


class Texts:
    """The tokenizers of a base and its checkpoints."""

    def __init__(self, on: EvaluatedBase) -> None:
        self.on = on
        self._tokenizers: dict[tuple[str, ...], Any] = {}
        self._turn_ends: dict[tuple[str, ...], int | None] = {}

    def tokenizer(self, checkpoint: Checkpoint) -> Any:
        """The tokenizer that a checkpoint was trained with, or its base's with the recipe's date.

        Raises:
            UserError: The checkpoint was altered since it was saved, or the base is not to be had.
        """
        recipe, folder = checkpoint.manifest.recipe, checkpoint.tokenizer_folder
        key = texts_key(checkpoint)
        if key not in self._tokenizers:
            verify(checkpoint)
            # One that was saved without its template, or with a date that moves on, gets the base's or a fixed date.
            base = recipe.base if checkpoint.whole_model else self.on.base
            tokenizer = load_tokenizer(folder or base, recipe.date_string)
            if folder and tokenizer.chat_template is None:
                tokenizer = load_tokenizer(base, recipe.date_string)
            # The context is checked for each prompt; transformers would warn in the middle of Inspect's display.
            tokenizer.model_max_length = 2**30
            self._tokenizers[key] = tokenizer
            self._turn_ends[key] = end_of_turn(tokenizer)
        return self._tokenizers[key]

    def prompt(self, checkpoint: Checkpoint, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """A conversation as tokens, BOS once, up to where the assistant begins.

        Raises:
            UserError: The template refuses the conversation, or takes no tools.
        """
        return encode_prompt(self.tokenizer(checkpoint), messages, tools)

    def ends(self, checkpoint: Checkpoint, model: Any) -> tuple[int, ...]:
        """Tokens that end an answer: the base's, as its generation config has them, EOS, and what ends a turn."""
        ends = model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        tokenizer = self.tokenizer(checkpoint)
        also = (tokenizer.eos_token_id, self._turn_ends[texts_key(checkpoint)])
        return tuple(dict.fromkeys([*ends, *(token for token in also if token is not None)]))

    def decode(self, checkpoint: Checkpoint, tokens: Sequence[int]) -> str:
        """An answer's tokens as text."""
        text: str = self.tokenizer(checkpoint).decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def spellings(
        self, checkpoint: Checkpoint, tokens: Sequence[int], tops: Sequence[Sequence[tuple[int, float]]]
    ) -> dict[int, str]:
        """The text of every token named in an answer and among the likeliest at its places."""
        named = {*tokens, *(token for top in tops for token, _ in top)}
        tokenizer = self.tokenizer(checkpoint)
        return {token: tokenizer.decode([token]) for token in named}

    def with_prompt(self, checkpoint: Checkpoint, answer: Answer, scored: ScoredPrompt) -> Answer:
        """An answer with its prompt's log probabilities."""
        spellings = self.spellings(checkpoint, scored.tokens, scored.top_logprobs) | (answer.spellings or {})
        return replace(answer, prompt=scored, spellings=spellings)

    def stopped_at(self, checkpoint: Checkpoint, tokens: Sequence[int], stop: Sequence[str]) -> int | None:
        """How many tokens it took until a stop string stood in the text; None if there is none."""

        def stopped(count: int) -> bool:
            text = self.decode(checkpoint, tokens[:count])
            return any(string in text for string in stop)

        if not stop or not stopped(len(tokens)):
            return None
        low, high = 0, len(tokens)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if stopped(middle) else (middle, high)
        return high

    def answer(
        self, checkpoint: Checkpoint, prompt: int, tokens: Sequence[int], ends: Sequence[int], room: int, how: Sampling
    ) -> Answer:
        """What was generated, cut where it ended.

        Args:
            checkpoint: Whose answer it is.
            prompt: Tokens of the prompt.
            tokens: What was generated, perhaps beyond the end.
            ends: Tokens that end an answer.
            room: Tokens that the context had left after the prompt.
            how: How it was drawn.
        """
        limit = min(room, how.max_tokens)
        tokens = list(tokens[:limit])
        length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
        ended = length > 0 and tokens[length - 1] in ends
        reason: StopReason = "stop" if ended else "max_tokens" if length >= how.max_tokens else "model_length"
        if (stopped := self.stopped_at(checkpoint, tokens[:length], how.stop)) is not None:
            length, reason = stopped, "stop"
        text = self.decode(checkpoint, tokens[:length])
        places = [text.index(string) for string in how.stop if string in text]
        return Answer(text[: min(places)] if places else text, reason, prompt, tuple(tokens[:length]))
