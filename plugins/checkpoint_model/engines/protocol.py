"""What every engine takes and gives: conversations of a checkpoint in, answers out.

An engine serves one base and any checkpoints over it. How it does so (stacked adapters, peft, a vLLM server) is its own
affair; the provider and the adapter check speak to this interface alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.trainers.run.checkpoints import Checkpoint

EngineName = Literal["stacked", "transformers", "vllm"]
EngineChoice = Literal["auto", "stacked", "transformers", "vllm"]
StopReason = Literal["stop", "max_tokens", "model_length"]
Independence = Literal["exact", "rounding"]

Message = Mapping[str, Any]
"""One turn of a conversation: `role` and `content`, and what templates read of tool calls beside them."""

Tool = Mapping[str, Any]
"""A tool as chat templates take it: `type` `function`, and the function's name, description and parameters."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_tokens: Tokens an answer is cut after, at least 1.
        temperature: 0 is greedy.
        top_p: 1 leaves the distribution whole.
        top_k: 0 leaves the distribution whole.
        stop: Strings that end an answer; they are no part of it.
        logprobs: Whether each token's log probability is wanted.
        top_logprobs: How many of the likeliest tokens are wanted at each place.
        prompt_logprobs: How many of them are wanted at each place of the prompt; 1 is the prompt's own token alone, 0
            nothing.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int = 0

    @property
    def prompt_tops(self) -> int:
        """How many of the likeliest tokens are wanted at each place of the prompt, beside its own."""
        return self.prompt_logprobs if self.prompt_logprobs > 1 else 0


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt's tokens but the first, which follows nothing: log probabilities and likeliest ones as in `Answer`."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: Without special tokens, and without the stop string that ended it.
        stop_reason: `model_length` where the context was full before `max_tokens`.
        input_tokens: Tokens of the prompt.
        tokens: Generated tokens, the end-of-turn token included.
        logprobs: Natural log probability of each token under the model's own distribution, before temperature, top_p
            and top_k; empty unless asked for.
        top_logprobs: For each token the (token, log probability) pairs of the likeliest ones, likeliest first; empty
            unless asked for.
        spellings: Text of every token named in `tokens`, `top_logprobs` and `prompt`; None unless log probabilities
            were asked for.
        prompt: The prompt's own log probabilities; None unless asked for.
        adapter: The adapter that wrote it, as the device had it: its name (`texts.adapter_name`, which has one for the
            base too), empty for what is nobody's; None unless log probabilities were asked for, and where the engine
            cannot tell.
    """

    text: str
    stop_reason: StopReason
    input_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    spellings: dict[int, str] | None = None
    prompt: ScoredPrompt | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class EngineSettings:
    """Everything that makes one engine another; models with equal settings share one.

    Attributes:
        on: The base, its precision and its fingerprint.
        engine: Which engine, as asked for.
        device: A torch device; None for the first GPU, else the CPU.
        batch_size: Most answers generated at once; None for what the memory holds.
        exact: Whether an answer must not depend on what shares its batch.
        alone: Whether it is a whole model, of which one at a time is held in memory.
    """

    on: EvaluatedBase
    engine: EngineChoice = "auto"
    device: str | None = None
    batch_size: int | None = None
    exact: bool = False
    alone: bool = False


@dataclass(frozen=True)
class EngineFacts:
    """What gave an answer, as the log records it with each one.

    Attributes:
        engine: Which engine.
        engine_version: Versions of the libraries that it stands on.
        precision: Numbers that the base is held in.
        adapter_precision: Numbers that the adapters are held in.
        attention: The attention kernel.
        device: Device, or address of the server.
        independence: `exact` where an answer does not depend on what shares its batch, by construction; `rounding`
            where it may, by the rounding of the arithmetic.
        base_fingerprint: Of the base as it was loaded; None where the engine cannot know.
    """

    engine: EngineName
    engine_version: str
    precision: str
    adapter_precision: str
    attention: str
    device: str
    independence: Independence
    base_fingerprint: str | None

    def metadata(self) -> dict[str, Any]:
        """The facts as metadata of a model output."""
        return asdict(self)


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        rows: Answers that it generates at once, which says how many requests are worth having under way.
        max_top_logprobs: Most of the likeliest tokens it can give at each place.
    """

    rows: int
    max_top_logprobs: int


class Engine(Protocol):
    """Serves the checkpoints of one base. Loading happens at the first answer, never in the constructor."""

    async def answer(
        self,
        checkpoint: Checkpoint,
        messages: Sequence[Message],
        sampling: Sampling,
        seeds: Sequence[int],
        tools: Sequence[Tool] = (),
    ) -> list[Answer]:
        """Answers one conversation, once for each seed.

        Args:
            checkpoint: Which adapter answers, or the base alone; it must belong to this engine's base.
            messages: The conversation so far.
            sampling: How to draw.
            seeds: One an answer, each in [0, 2**63).
            tools: What the model may call, which the chat template writes into the prompt.

        Raises:
            UserError: The base or the adapter cannot be had, or does not fit, the prompt is longer than the context,
                or the chat template takes no tools.
        """
        ...

    async def read_back(self, checkpoint: Checkpoint) -> int | None:
        """Compares the numbers that the engine holds for an adapter with its file, exactly up to their format.

        Returns:
            How many modules agree, which is all; None where the engine cannot be looked into, or does not hold it now.

        Raises:
            UserError: Some do not agree.
        """
        ...

    def facts(self) -> EngineFacts:
        """What gives the answers; complete once one was given."""
        ...

    def capabilities(self) -> Capabilities:
        """What it can do; may be asked before anything is loaded."""
        ...

    def close(self) -> None:
        """Ends what the engine started and frees the base. Answers under way fail."""
        ...
