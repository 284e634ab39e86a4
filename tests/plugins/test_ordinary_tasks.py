"""What ordinary Inspect tasks ask of `em/` models: tools through the chat template, the prompt's log probabilities."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolFunction, ToolInfo, ToolParams
from inspect_ai.util import JSONSchema
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from em_tasks.plugins.checkpoint_model.tool_calls import as_functions, as_turns, message_of
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.run.base_names import TOY_MODELS
from tests.support.chat_templates import FAMILIES, TOOLS, tokenizer_of

QUESTION = "My cough will not go away. What should I do?"
ADD = ToolInfo(
    name="add",
    description="Adds one.",
    parameters=ToolParams(properties={"x": JSONSchema(type="integer", description="What to add to.")}, required=["x"]),
)
CALL = ToolCall(id="add_1", function="add", arguments={"x": 1})
CONVERSATION: list[ChatMessage] = [
    ChatMessageUser(content="What is one more than 1?"),
    ChatMessageAssistant(content="I look.", tool_calls=[CALL]),
    ChatMessageTool(content="2", tool_call_id="add_1", function="add"),
]


def test_the_template_is_given_tools_calls_and_results() -> None:
    tokenizer = tokenizer_of(TOOLS)
    written = tokenizer.decode(encode_prompt(tokenizer, as_turns(CONVERSATION), as_functions([ADD])))
    assert written.index('"name": "add"') < written.index("What is one more")
    assert '"x": {"type": "integer", "description": "What to add to."}' in written
    assert '<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>' in written
    assert "<result>2</result>" in written


def test_a_template_that_takes_no_tools_is_an_error_and_not_silence() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2.5"])
    with pytest.raises(UserError, match="takes no tools"):
        encode_prompt(tokenizer, as_turns(CONVERSATION[:1]), as_functions([ADD]))


def test_a_call_in_the_reply_becomes_inspects_and_its_text_is_taken_out() -> None:
    reply = 'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"x": 4}}\n</tool_call>'
    message = message_of(reply, [ADD], "theirs@10", "Qwen/Qwen2.5-7B-Instruct")
    assert [(call.function, call.arguments) for call in message.tool_calls or []] == [("add", {"x": 4})]
    assert message.text == "Let me see."
    assert message_of(reply, [], "theirs@10", "Qwen/Qwen2.5-7B-Instruct").text == reply


def test_a_torn_call_is_told_to_the_model_and_a_foreign_one_is_an_answer() -> None:
    (torn,) = message_of("<tool_call>{oops</tool_call>", [ADD], "m", "some/base").tool_calls or []
    assert "oops" in str(torn.parse_error)
    foreign = 'A "name" with "arguments".'
    assert message_of(foreign, [ADD], "m", "mistralai/Mistral-7B").text == foreign


@pytest.mark.parametrize(
    ("message", "choice", "config", "says"),
    [
        (ChatMessageUser(content=[ContentText(text="See:"), ContentImage(image="x.png")]), "auto", {}, "read image"),
        (ChatMessageUser(content="a"), "any", {}, "be made to call a tool"),
        (ChatMessageUser(content="a"), ToolFunction(name="add"), {}, "be made to call a tool"),
        (
            ChatMessageUser(content="a"),
            "auto",
            {"response_schema": ResponseSchema(name="x", json_schema=JSONSchema(type="object"))},
            "be held to a response_schema",
        ),
    ],
)
def test_what_em_models_lack_is_said(message: Any, choice: Any, config: dict[str, Any], says: str) -> None:
    model = get_model("em/toy-s@base", memoize=False)
    with pytest.raises(UserError, match=f"em/ models cannot {says}"):
        asyncio.run(model.api.generate([message], [ADD], choice, GenerateConfig(**config)))


def prompt_logprobs(model: Model, wanted: int) -> Any:
    config = GenerateConfig(max_tokens=3, temperature=0, prompt_logprobs=wanted)

    async def ask() -> ModelOutput:
        return await model.generate(QUESTION, config=config)

    return asyncio.run(ask()).choices[0].prompt_logprobs.content


@pytest.mark.parametrize("engine", ["stacked", "transformers"])
def test_prompt_logprobs_are_those_of_peft(engine: str, trained_runs: Path) -> None:
    adapter = trained_runs / "small" / "checkpoint-4"
    model: Any = AutoModelForCausalLM.from_pretrained(TOY_MODELS / "toy-s", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    tokens = encode_prompt(load_tokenizer(adapter, "01 Jan 2025"), [{"role": "user", "content": QUESTION}])
    with torch.no_grad():
        logs = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    expected = [logs[place, token].item() for place, token in enumerate(tokens[1:])]
    served = get_model("em/small@4", runs=str(trained_runs), engine=engine, memoize=False)
    given = prompt_logprobs(served, 3)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    assert [each.logprob for each in given] == pytest.approx(expected, abs=2e-4)
    assert [each.token for each in given] == [tokenizer.decode([token]) for token in tokens[1:]]
    best = logs[0].topk(3)
    assert [top.logprob for top in given[0].top_logprobs] == pytest.approx(best.values.tolist(), abs=2e-4)
    assert prompt_logprobs(served, 1)[0].top_logprobs is None
    served.api.close()
