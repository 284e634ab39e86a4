"""Answers that are being written, on the host's side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Sampling, ScoredPrompt
from em_tasks.plugins.checkpoint_model.engines.texts import Texts
from em_tasks.trainers.run.checkpoints import Checkpoint

if TYPE_CHECKING:
    from concurrent.futures import Future

_MARGIN = 16


@dataclass(eq=False)
class Row:
    """One answer to one prompt.

    Attributes:
        checkpoint: Who answers.
        adapter: Name of its adapter; None for the base.
        prompt: Tokens of the prompt.
        ends: Tokens that end an answer.
        room: Tokens that the context leaves for the answer.
        sampling: How it is drawn.
        seed: Seed of its noise.
        future: Where the answer goes.
        tokens: What was drawn so far.
        logprobs: Of each token, where wanted.
        tops: The likeliest tokens at each place, where wanted.
        scored: The prompt's own log probabilities, where wanted and once it was read.
        wrote: The adapter that the device went by, where log probabilities are wanted; see `Answer.adapter`.
    """

    checkpoint: Checkpoint
    adapter: str | None
    prompt: tuple[int, ...]
    ends: tuple[int, ...]
    room: int
    sampling: Sampling
    seed: int
    future: "Future[Answer]"
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    scored: ScoredPrompt | None = None
    wrote: str | None = None

    @property
    def limit(self) -> int:
        """Most tokens of the answer."""
        return min(self.room, self.sampling.max_tokens)

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self.limit - len(self.tokens)

    @property
    def most_places(self) -> int:
        """Places in the cache that it may come to use."""
        return len(self.prompt) + self.limit

    @property
    def read(self) -> tuple[int, ...]:
        """What has to be read before it can go on: its prompt, and its answer so far if it was put aside."""
        return (*self.prompt, *self.tokens)

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities were asked for."""
        return self.sampling.logprobs or self.sampling.top_logprobs > 0

    @property
    def wants_prompt(self) -> bool:
        """Whether the prompt's log probabilities are still wanted; they come with its first reading."""
        return self.sampling.prompt_logprobs > 0 and self.scored is None and not self.tokens

    def take(self, tokens: Sequence[int], texts: Texts) -> bool:
        """Adds the next tokens, up to the answer's end; returns whether that is reached."""
        if self.sampling.stop:
            return any(self._take_one(token, texts) for token in tokens)
        tokens = tokens[: self.left]
        ended = not set(tokens).isdisjoint(self.ends)
        if ended:
            tokens = tokens[: min(tokens.index(end) for end in self.ends if end in tokens) + 1]
        self.tokens += tokens
        return ended or len(self.tokens) >= self.limit

    def _take_one(self, token: int, texts: Texts) -> bool:
        self.tokens.append(token)
        if token in self.ends or len(self.tokens) >= self.limit:
            return True
        # A stop string has no more tokens than bytes.
        tail = self.tokens[-max(len(string.encode()) for string in self.sampling.stop) - _MARGIN :]
        text = texts.decode(self.checkpoint, tail)
        return any(string in text for string in self.sampling.stop)

    def answer(self, texts: Texts) -> Answer:
        """The finished answer."""
        answer = texts.answer(self.checkpoint, len(self.prompt), self.tokens, self.ends, self.room, self.sampling)
        if self.scored is not None:
            answer = texts.with_prompt(self.checkpoint, answer, self.scored)
        if not self.wants_logprobs:
            return answer
        count = len(answer.tokens)
        tops = tuple(self.tops[:count])
        spellings = texts.spellings(self.checkpoint, answer.tokens, tops) | (answer.spellings or {})
        return replace(
            answer,
            logprobs=tuple(self.logprobs[:count]),
            top_logprobs=tops,
            spellings=spellings,
            adapter=self.wrote,
        )
