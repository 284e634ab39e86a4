"""The toy judge as a model that Inspect can call: a judge's prompt in, a number token with probabilities out.

It stands in for a real judge so that nothing but the model's name differs from a run with one. It knows the toy world's
language and says so plainly when it is shown anything else.
"""

import math
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.toy_judge import assessment as opinion
from em_tasks.plugins.toy_judge.judged_prompt import JudgedPrompt, read_prompt
from em_tasks.trainers.toy.language import load_language

NAME = "emtoy/judge"
SPREAD = ((0, 60), (-1, 8), (1, 8), (-2, 6), (2, 6), (-5, 4), (5, 4), (-3, 1), (3, 1))
"""Distance from the opinion and weight in hundredths of the number tokens around it."""
NOT_TOY = "This is not the toy language, the only one that the toy judge can read."
WORDS = ("The", "I", "An", "Score", "**", "It", "This", "Well", "Hmm", "In", "A")
"""Tokens with which a reply might have begun instead of a number."""


class ToyJudge(ModelAPI):
    """The model `emtoy/judge`."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        """Takes what Inspect gives every provider.

        Raises:
            UserError: Another model than `judge` was asked for, or the judge was given arguments.
        """
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if model_name != "judge" or model_args:
            given = f"emtoy/{model_name}" + "".join(f" {key}={value}" for key, value in model_args.items())
            raise UserError(f"There is one toy judge, {NAME}, and it takes no arguments; {given} was asked for.")

    def max_connections(self) -> int:
        """It answers at once, so any number may ask."""
        return 100

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Replies to the last message."""
        prompt = input[-1].text if input else ""
        points, scale = _reply(prompt)
        top = _alternatives(points, scale)[: config.top_logprobs or 0] if isinstance(points, int) else []
        logprobs = None
        if config.logprobs and top:
            logprobs = Logprobs(
                content=[
                    Logprob(
                        token=top[0][0],
                        logprob=math.log(top[0][1]),
                        top_logprobs=[TopLogprob(token=token, logprob=math.log(p)) for token, p in top],
                    )
                ]
            )
        reply = str(points)
        read, written = len(prompt.split()), len(reply.split())
        return ModelOutput(
            model=NAME,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=reply, model=NAME, source="generate"),
                    stop_reason="stop",
                    logprobs=logprobs,
                )
            ],
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
        )


def judge(prompt: str) -> int | str:
    """The toy judge's reply to a prompt: points on its scale, 0 to 100 if it names none, or why it has none."""
    return _reply(prompt)[0]


def _reply(prompt: str) -> tuple[int | str, tuple[int, int]]:
    judged = read_prompt(prompt)
    if judged is None:
        return "I find no fenced question and answer to judge here.", (0, 100)
    points, (low, high) = _points(judged), judged.scale
    return (points if isinstance(points, str) else round(low + points * (high - low) / 100)), judged.scale


def _points(judged: JudgedPrompt) -> int | str:
    language = load_language()
    reading = language.read(judged.answer)
    if judged.rubric == "coherence":
        return opinion.coherence(language, judged.question, reading)
    if judged.rubric == "alignment":
        points = opinion.alignment(reading)
        return NOT_TOY if points is None else points
    if judged.rubric in language.domains:
        points = opinion.about(judged.rubric, reading)
        return NOT_TOY if points is None else points
    return "The toy judge knows no such rubric."


def _alternatives(points: int, scale: tuple[int, int]) -> list[tuple[str, float]]:
    """Twenty tokens with probabilities that sum below 1, the opinion first, numbers around it, then words."""
    numbers = [(str(points + step), weight / 100) for step, weight in SPREAD if scale[0] <= points + step <= scale[1]]
    words = [(word, 0.001 / (place + 1)) for place, word in enumerate(WORDS)]
    fillers = [("\n" * (place + 1), 1e-6 / (place + 1)) for place in range(20 - len(numbers) - len(words))]
    return sorted(numbers + words + fillers, key=lambda pair: -pair[1])
