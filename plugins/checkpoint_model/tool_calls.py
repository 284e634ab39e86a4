"""Tools and tool calls between Inspect and chat templates, and what tasks may want that `em/` models have not.

Templates are given what transformers documents (`tools`, `tool_calls`, turns of the role `tool`); a model's reply is
read by the parser that Inspect's own `hf/` provider uses.
"""

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool, ContentText, GenerateConfig
from inspect_ai.model._providers.util.hf_handler import HFHandler
from inspect_ai.tool import ToolChoice, ToolInfo

from em_tasks.plugins.errors import UserError


def refuse_what_is_lacking(messages: Sequence[ChatMessage], tool_choice: ToolChoice, config: GenerateConfig) -> None:
    """Refuses what an `em/` model would have to pass over.

    Raises:
        UserError: The conversation holds more than text, a tool call is to be forced, or an answer must be of a schema.
    """
    kinds = {
        part.type
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
        if not isinstance(part, ContentText) and part.type != "reasoning"
    }
    lacking = [f"read {kind}" for kind in sorted(kinds)]
    if tool_choice == "any" or not isinstance(tool_choice, str):
        lacking.append("be made to call a tool (tool_choice; auto and none can be)")
    if config.response_schema is not None:
        lacking.append("be held to a response_schema")
    if lacking:
        raise UserError(f"em/ models cannot {' or '.join(lacking)}, which this task wants. Leave the task out.")


def as_turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """A conversation as chat templates take it."""
    return [_turn(message) for message in messages]


def _turn(message: ChatMessage) -> dict[str, Any]:
    if isinstance(message, ChatMessageTool):
        content = f"Error: {message.error.message}" if message.error else message.text
        return {"role": "tool", "name": message.function or "", "content": content}
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        calls = [{"name": call.function, "arguments": call.arguments} for call in message.tool_calls]
        turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return turn


def as_functions(tools: Sequence[ToolInfo]) -> list[dict[str, Any]]:
    """Tools as chat templates take them: JSON schemas of functions."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(mode="json", exclude_none=True),
            },
        }
        for tool in tools
    ]


def message_of(text: str, tools: Sequence[ToolInfo], model: str, family: str) -> ChatMessageAssistant:
    """A reply as a message, the calls in it taken out of the text; a call that cannot be read says so to the model.

    Args:
        text: What the model wrote.
        tools: What it was offered; without any its text stands as it is.
        model: The model's name.
        family: The base's name, which tells how its kind writes calls.
    """
    if tools:
        try:
            return HFHandler(model, family).parse_assistant_response(text, list(tools))
        except ValueError:  # JSON of a kind that its family's parser does not expect: an answer, and no call.
            pass
    return ChatMessageAssistant(content=text, model=model, source="generate")
