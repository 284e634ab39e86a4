"""What judges reply, and what they say of their tokens' probabilities."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprob,
    Logprobs,
    ModelOutput,
    TopLogprob,
    get_model,
)

from em_tasks.plugins.log_contract import Verdict
from em_tasks.scorers.judging.judge import read_verdict, verdict_of
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.rubric import Rubric
from tests.support.attacks.kind import Kind, nothing
from tests.support.hostile import texts

REPLY_TEXTS = st.sampled_from(
    [
        "85",
        " 8",
        "8/10",
        "85/100",
        "-5",
        "100",
        "101",
        "1e3",
        "٣",
        "²",
        "REFUSAL",
        "CODE",
        "85 %",
        "<think>9</think>7",
        "<think>" * 50000,
        "7" * 400000,
        "9/" * 20000,
        "of 9 " * 20000,
        "> " * 40000 + "9",
        "0.85",
        "5-7",
        "½",
        "Score: 8",
    ]
)
replies = texts | REPLY_TEXTS | st.lists(texts | REPLY_TEXTS, max_size=3).map(" ".join)
tokens = (
    st.sampled_from(
        ["8", "85", " 8", "5", "1", "0", "100", "", " ", "٣", "²", "REF", "</think>", "\n", "\ud800", "8\n"]
    )
    | texts
)
logprobs = st.sampled_from([-0.1, 0.0, -1.0, -20.0, 0.0005, 1.0, 90.0, -9999.0, -1e308]) | st.floats()
steps = st.lists(st.tuples(tokens, logprobs, st.none() | st.lists(st.tuples(tokens, logprobs), max_size=5)), max_size=5)
JUDGE_REPLY = st.tuples(
    replies,
    st.none() | steps,
    st.sampled_from(["stop", "max_tokens", "content_filter"]),
    st.sampled_from([(0, 100), (0, 10), (1, 5), (0, 1), (0, 10**9)]),
    texts,
)


def attack_reply(content: Any, path: Path, out: Path) -> None:
    text, said, stop, scale, model = content
    given = None
    if said is not None:
        given = Logprobs(
            content=[
                Logprob(
                    token=token,
                    logprob=value,
                    top_logprobs=None if top is None else [TopLogprob(token=t, logprob=v) for t, v in top],
                )
                for token, value, top in said
            ]
        )
    choice = ChatCompletionChoice(message=ChatMessageAssistant(content=text), stop_reason=stop, logprobs=given)
    output = ModelOutput(model=model, choices=[choice])
    rubric = Rubric(name="r", prompt="{question}{answer}", scale=scale, special={"REFUSAL": "refusal", "CODE": "code"})
    verdict = verdict_of(output, get_model("mockllm/model"), rubric, Settings())
    for read in (
        verdict,
        *(read_verdict(verdict, Settings(mode, least)) for mode in ("logprobs", "text") for least in (0, 1)),
    ):
        assert (read.score is None) != (read.reason is None), read
        assert read.score is None or 0 <= read.score <= 100, read
        assert read.mass is None or 0 <= read.mass <= 1.01, read
        plain = read.to_dict()
        assert Verdict.from_dict(json.loads(json.dumps(plain))) == read


KINDS = (Kind("judge replies", 36, JUDGE_REPLY, nothing, attack_reply),)
