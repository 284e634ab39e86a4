"""What a verdict keeps of a judge's output: the reply without its reasoning, and the tokens' alternatives."""

import math
import re

from inspect_ai.model import ChatCompletionChoice, Logprob

from em_tasks.scorers.judging.reading import spans_tokens
from em_tasks.scorers.judging.verdict import Continuation, TokenProbability


def raw_tokens(
    choice: ChatCompletionChoice,
) -> tuple[tuple[TokenProbability, ...] | None, tuple[Continuation, ...] | None]:
    """The first token's alternatives, and the later ones' where the number goes over several tokens."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None, None
    steps = _after_reasoning(choice.logprobs.content)
    if not steps:
        return None, None
    alternatives = [_alternatives(step) for step in steps]
    blank = 0
    while blank < len(steps) - 1 and not steps[blank].token.strip():
        blank += 1
    if blank == 0 and not spans_tokens(alternatives[0]):
        return alternatives[0], None
    later: list[Continuation] = []
    said = ""
    for step, tokens in zip(steps[:-1], alternatives[1:], strict=True):
        said += step.token
        if not re.fullmatch(r"\s*[0-9]*", said):
            break
        later.append(Continuation(said, tokens))
    return alternatives[0], tuple(later)


def _alternatives(step: Logprob) -> tuple[TokenProbability, ...]:
    listed = [(top.token, math.exp(top.logprob)) for top in step.top_logprobs or []]
    if all(token != step.token for token, _ in listed):
        listed.append((step.token, math.exp(step.logprob)))
    return tuple(sorted(listed, key=lambda pair: -pair[1]))


def _after_reasoning(steps: list[Logprob]) -> list[Logprob]:
    """The tokens behind an inline `</think>`, if there is one."""
    said = ""
    start = 0
    for place, step in enumerate(steps):
        said += step.token
        if "</think>" in said:
            start, said = place + 1, ""
    return steps[start:]


def without_reasoning(text: str) -> str:
    """The reply without a reasoning part; one that was cut off while still reasoning is empty."""
    return re.sub(r"<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL).strip()
