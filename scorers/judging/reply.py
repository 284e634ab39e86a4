"""What a verdict keeps of a judge's output: the reply without its reasoning, and the tokens' alternatives."""

import math
import re

from inspect_ai.model import ChatCompletionChoice, Logprob

from em_tasks.plugins.log_contract import Continuation, TokenProbability
from em_tasks.scorers.judging.reading import LONGEST_REPLY, spans_tokens

END_OF_REASONING = "</think>"

LONGEST_NUMBER = 12
"""Tokens of a reply in which its number is looked for, blanks before it included."""

ROUNDING = 1e-3
"""How far a log probability may lie above 0, and a sum of probabilities above 1: servers compute in half precision."""


def raw_tokens(
    choice: ChatCompletionChoice,
) -> tuple[tuple[TokenProbability, ...] | None, tuple[Continuation, ...] | None]:
    """The first token's alternatives, and the later ones' where the number goes over several tokens."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None, None
    steps = _after_reasoning(choice.logprobs.content)[:LONGEST_NUMBER]
    if not steps or not all(map(_is_sound, steps)):
        return None, None
    alternatives = [_alternatives(step) for step in steps]
    blank = 0
    while blank < len(steps) - 1 and not steps[blank].token.strip():
        blank += 1
    if blank == 0 and not spans_tokens(alternatives[0]):
        return alternatives[0], None
    later: list[Continuation] = []
    written = ""
    for step, tokens in zip(steps[:-1], alternatives[1:], strict=True):
        written += step.token
        if not re.fullmatch(r"\s*[0-9]*", written):
            break
        later.append(Continuation(written, tokens))
    return alternatives[0], tuple(later)


def continuations(choice: ChatCompletionChoice, begun: str) -> tuple[Continuation, ...]:
    """The alternatives after a beginning that the judge was given, and along what it wrote on; none if unsound."""
    steps = (choice.logprobs.content if choice.logprobs else [])[:LONGEST_NUMBER]
    if not all(map(_is_sound, steps)):
        return ()
    known: list[Continuation] = []
    for step in steps:
        known.append(Continuation(begun, _alternatives(step)))
        begun += step.token
        if not re.fullmatch(r"[0-9]+", begun):
            break
    return tuple(known)


def _is_sound(step: Logprob) -> bool:
    """Whether a step's log probabilities can be probabilities: none above 0, infinite or NaN, together at most 1."""
    listed = [top.logprob for top in step.top_logprobs or []] + [step.logprob]
    # Some servers write a huge negative number, or minus infinity, for what cannot be; it is as good as never.
    if any(math.isnan(value) or value > ROUNDING for value in listed):
        return False
    return math.fsum(p for _, p in _alternatives(step)) <= 1 + ROUNDING


def _alternatives(step: Logprob) -> tuple[TokenProbability, ...]:
    listed = [(top.token, _probability(top.logprob)) for top in step.top_logprobs or []]
    if all(token != step.token for token, _ in listed):
        listed.append((step.token, _probability(step.logprob)))
    return tuple(sorted(listed, key=lambda pair: -pair[1]))


def _probability(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))


def _after_reasoning(steps: list[Logprob]) -> list[Logprob]:
    """The tokens behind the last inline `</think>`, if there is one."""
    start, tail = 0, ""
    for place, step in enumerate(steps):
        # Only the end of what came before can belong to a mark that this token ends.
        tail = tail[-len(END_OF_REASONING) :] + step.token
        if END_OF_REASONING in tail:
            start, tail = place + 1, ""
    return steps[start:]


def without_reasoning(text: str) -> str:
    """The reply without a reasoning part, no longer than is read; one cut off while still reasoning is empty."""
    parts = []
    place = 0
    while (start := text.find("<think>", place)) >= 0:
        parts.append(text[place:start])
        end = text.find(END_OF_REASONING, start)
        place = len(text) if end < 0 else end + len(END_OF_REASONING)
    # One character more than is read, so that a reply that was too long is seen to be.
    return "".join([*parts, text[place:]]).strip()[: LONGEST_REPLY + 1]
