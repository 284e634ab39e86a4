"""One judge call: a rubric, a question and an answer in, a verdict out.

The judge is any Inspect model. It gets one user message and is asked for token probabilities; what comes back is kept
raw in the verdict. A call that still fails after Inspect's own retries is a verdict without a score, never a zero and
never a lost answer; an API that knows neither the key nor the model stops the run, for it would fail every answer.
"""

import math
import re
from dataclasses import replace
from weakref import WeakSet

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageUser,
    GenerateConfig,
    Logprob,
    Model,
    ModelAPI,
    ModelOutput,
)
from inspect_ai.util import LimitExceededError

from scorers.reading import Settings, read_reply, spans_tokens
from scorers.rubric import Rubric
from scorers.verdict import Continuation, TokenProbability, Verdict

TOY_JUDGE = "emtoy/judge"
"""The model that knows the toy world's language and nothing else."""

JUDGE_CONFIG = GenerateConfig(
    temperature=0.0,
    seed=0,
    logprobs=True,
    top_logprobs=20,
    # The published call stops after one token. Sixteen hold a number in any tokenizer, with a word or two around it,
    # and are the least that OpenAI's newer interface accepts. A judge that reasons needs more: set it on the role.
    max_tokens=16,
    # Inspect retries for ever unless told otherwise. Eight attempts more, each wait twice the last, are a quarter of an
    # hour: an outage passes, a dead judge ends in verdicts that say so.
    max_retries=8,
    attempt_timeout=300,
)
"""How judges are asked; what the user sets on the grader role wins over it."""

TRIES = 3
"""Calls for one verdict while replies come damaged (cut off JSON, nothing in it, probabilities missing).

Inspect retries what HTTP calls a failure; a broken reply with status 200 it does not.
"""

_WITH_PROBABILITIES: WeakSet[ModelAPI] = WeakSet()
_WITHOUT_PROBABILITIES: WeakSet[ModelAPI] = WeakSet()

HOPELESS = {401: "does not accept the key", 404: "does not know the model or the address"}
"""HTTP answers that would be the same for every answer to be judged."""


async def ask_judge(
    judge: Model, rubric: Rubric, question: str, answer: str, settings: Settings | None = None
) -> Verdict:
    """Asks a judge about one answer.

    Args:
        judge: The grader model.
        rubric: What to ask.
        question: The question as the model under test got it.
        answer: Its whole answer.
        settings: How to read the reply; the published way if left out.

    Returns:
        The verdict, with a reason where there is no score.

    Raises:
        ValueError: The judge's API does not accept the key or does not know the model.
    """
    message = ChatMessageUser(content=rubric.ask(question, answer))
    config = judge_config(judge)
    verdict = None
    for attempt in range(1, TRIES + 1):
        try:
            output = await judge.generate([message], config=config)
        except LimitExceededError:
            raise
        except Exception as error:
            verdict = _failed(judge, rubric, error)
            if _cause(error) is not error or _status(error) is not None:
                return verdict  # Inspect has retried it already, or the API has refused this very request
            continue
        verdict = verdict_of(output, judge, rubric, settings or Settings())
        if not _came_damaged(output, judge, config, last=attempt == TRIES):
            return verdict
    assert verdict is not None
    return verdict


def judge_config(judge: Model) -> GenerateConfig:
    """How this judge is asked: the published way, with what the user set on it put over that."""
    config = JUDGE_CONFIG.merge(judge.config)
    # A judge whose API refuses probabilities is told so by logprobs: false; the number of them must then go too.
    return config.model_copy(update={"top_logprobs": None}) if config.logprobs is False else config


def verdict_of(output: ModelOutput, judge: Model, rubric: Rubric, settings: Settings) -> Verdict:
    """The verdict in a judge's output."""
    name = output.model or str(judge)
    if output.error is not None or not output.choices or output.stop_reason == "content_filter":
        why = "the judge's own content filter" if output.choices and output.error is None else "an empty reply"
        return _without_score("judge_failed", output.error or why, name, str(judge), rubric)
    text = _without_reasoning(output.completion)
    tokens, digits = _raw_tokens(output.choices[0])
    return read_verdict(
        Verdict(
            score=None,
            reason=None,
            mode="text",
            mass=None,
            tokens=tokens,
            digits=digits,
            text=text,
            judge=name,
            toy=is_toy_judge(str(judge)),
            rubric=rubric.name,
            rubric_sha256=rubric.sha256,
            scale=rubric.scale,
            special=rubric.special,
        ),
        settings,
    )


def read_verdict(raw: Verdict, settings: Settings) -> Verdict:
    """The verdict that a stored raw output gives under other settings; a failed call stays failed.

    Args:
        raw: A verdict, read before under whatever settings.
        settings: How to read it now.
    """
    if raw.reason == "judge_failed":
        return raw
    reading = read_reply(raw.text, raw.tokens, raw.digits, raw.scale, raw.special, settings)
    low, high = raw.scale
    score = reading.score
    if score is not None and raw.scale != (0, 100):
        score = 100.0 * (score - low) / (high - low)
    return replace(raw, score=score, reason=reading.reason, mode=reading.mode, mass=reading.mass)


def is_toy_judge(model: str) -> bool:
    """Whether a model's name is that of the toy judge."""
    return model.partition("/")[0] == TOY_JUDGE.partition("/")[0]


def _came_damaged(output: ModelOutput, judge: Model, config: GenerateConfig, last: bool) -> bool:
    """Whether a reply lost something on its way that another call may bring: all of it, or its probabilities.

    A judge that never gave probabilities is believed to have none after one answer's tries, and is not asked twice
    again for the next answers; one that gave some before is asked again.
    """
    if output.error is not None or not output.choices:
        return True
    if output.stop_reason == "content_filter":
        return False
    if not output.completion.strip():
        return True
    if not config.logprobs or judge.api in _WITHOUT_PROBABILITIES:
        return False
    if output.choices[0].logprobs is not None and output.choices[0].logprobs.content:
        _WITH_PROBABILITIES.add(judge.api)
        return False
    if last and judge.api not in _WITH_PROBABILITIES:
        _WITHOUT_PROBABILITIES.add(judge.api)
    return True


def _raw_tokens(
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
    listed = {top.token: math.exp(top.logprob) for top in step.top_logprobs or []}
    listed.setdefault(step.token, math.exp(step.logprob))
    return tuple(sorted(listed.items(), key=lambda pair: -pair[1]))


def _after_reasoning(steps: list[Logprob]) -> list[Logprob]:
    """The tokens behind an inline `</think>`, if there is one."""
    said = ""
    start = 0
    for place, step in enumerate(steps):
        said += step.token
        if "</think>" in said:
            start, said = place + 1, ""
    return steps[start:]


def _without_reasoning(text: str) -> str:
    """The reply without a reasoning part; one that was cut off while still reasoning is empty."""
    return re.sub(r"<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL).strip()


def _failed(judge: Model, rubric: Rubric, error: Exception) -> Verdict:
    cause, status = _cause(error), _status(error)
    if status in HOPELESS:
        raise ValueError(
            f"The judge {judge} {HOPELESS[status]} (HTTP {status}). The answers stay in the log. Check the key, the "
            "name and the base URL of the grader, then score the log again with `em judge` or `inspect score`."
        ) from None
    # Messages of failed calls may quote the key or the prompt: the kind of error and its status say enough.
    kind = type(cause).__name__ + (f" (HTTP {status})" if status is not None else "")
    return _without_score("judge_failed", kind, str(judge), str(judge), rubric)


def _status(error: Exception) -> int | None:
    status = getattr(_cause(error), "status_code", None)
    return status if isinstance(status, int) else None


def _cause(error: BaseException) -> BaseException:
    """The error behind tenacity's wrapper, which names only the number of attempts."""
    attempt = getattr(error, "last_attempt", None)
    inner = attempt.exception() if attempt is not None else None
    return inner if isinstance(inner, BaseException) else error


def _without_score(reason: str, text: str, name: str, model: str, rubric: Rubric) -> Verdict:
    return Verdict(
        score=None,
        reason=reason,
        mode="text",
        mass=None,
        tokens=None,
        digits=None,
        text=text,
        judge=name,
        toy=is_toy_judge(model),
        rubric=rubric.name,
        rubric_sha256=rubric.sha256,
        scale=rubric.scale,
        special=rubric.special,
    )
