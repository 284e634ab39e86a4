"""What clients of the endpoint send and get: OpenAI's chat completions, as far as `em/` models can answer them.

Fields that would change an answer and cannot be honoured are refused with their name; those without effect on an answer
(`user`, `metadata`, `store`) are accepted and dropped, as other servers do.
"""

import secrets
from typing import Any, Literal

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
)
from pydantic import BaseModel, ConfigDict, Field, model_validator

WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
}


class TextPart(BaseModel):
    """A part of a message's content. Checkpoints read text alone."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def to_chat_message(self) -> ChatMessage:
        """The turn as Inspect's models take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        if self.role == "user":
            return ChatMessageUser(content=text)
        return ChatMessageAssistant(content=text) if self.role == "assistant" else ChatMessageSystem(content=text)


class ChatRequest(BaseModel):
    """A request for answers.

    Attributes:
        model: `organism@step` or `organism@base`, also with `em/` before it.
        messages: The conversation, at least one turn.
        n: Answers to give, 1-128, each from a random stream of its own.
        max_tokens: Tokens an answer is cut after; the newer name `max_completion_tokens` goes before it.
        temperature: 0 is greedy. 1 where nothing is said.
        top_p: Share of the probability that is sampled from, 0-1.
        top_k: The most likely tokens that are sampled from; 0 is all. Not OpenAI's, but vLLM's.
        seed: The same request with the same seed has the same answers; see docs on what else decides an answer.
        stop: Strings that end an answer; they are not part of it.
        logprobs: Whether each token's log probability is given, with `top_logprobs` alternatives (0-20).
        stream: Must be false.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None

    @model_validator(mode="after")
    def _refuse_what_has_no_effect_here(self) -> "ChatRequest":
        if self.stream:
            raise ValueError("stream: answers are given whole here; send stream=false")
        asked_for = {key for key, value in (self.model_extra or {}).items() if value not in (None, 0, False, [], {})}
        if ignored := sorted(asked_for - WITHOUT_EFFECT):
            raise ValueError(f"{', '.join(ignored)}: checkpoints cannot do this; leave it out")
        return self

    @property
    def organism_at_step(self) -> str:
        """The model's name without a provider's prefix."""
        return self.model.removeprefix("em/")

    def to_config(self) -> GenerateConfig:
        """The request's sampling as Inspect's models take it."""
        return GenerateConfig(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop_seqs=[self.stop] if isinstance(self.stop, str) else self.stop,
            num_choices=self.n if self.n > 1 else None,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs if self.logprobs else None,
        )


def completion(output: ModelOutput, model: str, created: int) -> dict[str, Any]:
    """A model's output as OpenAI's `chat.completion` object.

    Args:
        output: What the checkpoint answered.
        model: The model's name as it was asked for.
        created: Seconds since 1970.
    """
    usage = output.usage
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.message.text, "refusal": None},
                "finish_reason": "length" if choice.stop_reason in ("max_tokens", "model_length") else "stop",
                "logprobs": choice.logprobs.model_dump(mode="json") if choice.logprobs else None,
            }
            for index, choice in enumerate(output.choices)
        ],
        "usage": {
            "prompt_tokens": usage.input_tokens if usage else 0,
            "completion_tokens": usage.output_tokens if usage else 0,
            "total_tokens": usage.total_tokens if usage else 0,
        },
    }
