"""A judge that answers at once, `instant/judge`: 80, with twenty token probabilities, as providers hand it over."""

from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)

TOP = [TopLogprob(token=str(80 - place), logprob=-0.7 - place) for place in range(20)]


@modelapi(name="instant")
class InstantJudge(ModelAPI):
    """The model `instant/judge`."""

    async def generate(self, input: Any, tools: Any, tool_choice: Any, config: GenerateConfig) -> Any:
        """80, whatever is asked."""
        content = [Logprob(token="80", logprob=-0.7, top_logprobs=TOP)]
        choice = ChatCompletionChoice(
            message=ChatMessageAssistant(content="80", model="judge", source="generate"),
            stop_reason="stop",
            logprobs=Logprobs(content=content),
        )
        usage = ModelUsage(input_tokens=400, output_tokens=1, total_tokens=401)
        # What was sent and what came.
        request = {"model": "judge", "messages": [{"role": each.role, "content": each.text} for each in input]}
        response = {"choices": [choice.model_dump()], "usage": usage.model_dump()}
        return ModelOutput(model="judge", choices=[choice], usage=usage), ModelCall.create(request, response)
