"""One judge call: a rubric, a question and an answer in, a verdict out.

The judge is any Inspect model. It gets one user message and is asked for token probabilities; what comes back is kept
raw in the verdict. A call that still fails after Inspect's own retries is a verdict without a score, never a zero and
never a lost answer; an API that knows neither the key nor the model stops the run, for it would fail every answer.
"""

from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any
from weakref import WeakSet

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
)
from inspect_ai.util import LimitExceededError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import FILTERED, Verdict
from em_tasks.scorers.judging.cache import cache_key, worth_caching
from em_tasks.scorers.judging.calls import JudgeCalls, KnownOfJudge
from em_tasks.scorers.judging.cost import JudgeCostError
from em_tasks.scorers.judging.reading import Settings, ambiguous_hundred, read_reply
from em_tasks.scorers.judging.reply import continuations, raw_tokens, without_reasoning
from em_tasks.scorers.judging.rubric import Rubric
from em_tasks.scorers.judging.secrets import keep_secrets

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

DECIMALS = 2
"""Digits of a score after the point; far finer than any judge repeats itself."""

TRIES = 3
"""Calls for one verdict while replies come damaged (cut off JSON, nothing in it, probabilities missing).

Inspect retries what HTTP calls a failure; a broken reply with status 200 it does not.
"""

CONTINUING = ("vllm", "sglang")
"""Providers that go on from the beginning of a reply when it is sent as the last message."""

LEAST_AMBIGUITY = 0.005
"""Probability of an unfollowed `1` above which the judge is asked again: below, a score moves by less than 0.5."""

EMPTY = "an empty reply"
HOPELESS = {401: "does not accept the key", 404: "does not know the model or the address"}
"""HTTP answers that would be the same for every answer to be judged."""


async def ask_judge(
    judge: Model,
    rubric: Rubric,
    question: str,
    answer: str,
    settings: Settings | None = None,
    fresh: bool = False,
    calls: JudgeCalls | None = None,
) -> Verdict:
    """Asks a judge about one answer, or takes the verdict from the cache if it was asked the same before.

    Args:
        judge: The grader model.
        rubric: What to ask.
        question: The question as the model under test got it.
        answer: Its whole answer.
        settings: How to read the reply; the published way if left out.
        fresh: Ask in any case, to see whether the judge repeats itself.
        calls: What this call shares with others: prices, cap, cache. Without it the call stands alone.

    Returns:
        The verdict, with a reason where there is no score.

    Raises:
        UserError: The judge's API does not accept the key or does not know the model, or the call could go beyond the
            cap on the judge's cost.
    """
    calls, settings = calls or JudgeCalls(), settings or Settings()
    keep_secrets(judge)
    prompt, config = rubric.ask(question, answer), judge_config(judge)
    if fresh or not worth_caching(judge):
        return await _call(judge, rubric, prompt, config, settings, calls)
    key = cache_key(judge, config, rubric.sha256, prompt)
    async with calls.alone(key):
        stored = calls.cache.get(key)
        if stored is not None:
            return read_verdict(replace(stored, rubric=rubric.name), settings)
        verdict = await _call(judge, rubric, prompt, config, settings, calls)
        calls.cache.store(key, verdict)
    return verdict


async def _call(
    judge: Model, rubric: Rubric, prompt: str, config: GenerateConfig, settings: Settings, calls: JudgeCalls
) -> Verdict:
    """Asks until a reply comes undamaged, or the tries are used up; what can be read is kept over a failed call."""
    verdict: Verdict | None = None
    known = calls.known_of(judge.api)
    async with AsyncExitStack() as held:
        for attempt in range(1, TRIES + 1):
            try:
                output = await _generate(judge, [ChatMessageUser(content=prompt)], config, calls)
            except (LimitExceededError, JudgeCostError):
                raise
            except Exception as error:
                verdict = _better(verdict, _failed(judge, rubric, error, known.served))
                if _cause(error) is not error or _status(error) is not None:
                    return verdict  # Inspect has retried it already, or the API has refused this very request
                continue
            came = verdict_of(output, judge, rubric, settings, known.served)
            verdict = _better(verdict, came)
            damaged = _came_damaged(output, came, known, config, last=attempt == TRIES)
            if damaged and attempt == 1 and known.gives_probabilities is None and output.completion.strip():
                # One call alone finds out whether there are any: else all that are under way would be sent three times.
                await held.enter_async_context(known.finding_out)
                damaged = _came_damaged(output, came, known, config, last=False)
            if not damaged:
                known.served = came.judge
                return await _followed(judge, prompt, config, came, settings, calls)
    assert verdict is not None
    return verdict


def _better(verdict: Verdict | None, came: Verdict) -> Verdict:
    """The later verdict, unless it is of a failed call and the earlier is not: a text without probabilities is one."""
    return came if verdict is None or came.reason != "judge_failed" or verdict.reason == "judge_failed" else verdict


async def _followed(
    judge: Model, prompt: str, config: GenerateConfig, verdict: Verdict, settings: Settings, calls: JudgeCalls
) -> Verdict:
    """The verdict of a digit judge with the branch `1` followed, which may be 10 to 19 or 100, where its API allows."""
    known = calls.known_of(judge.api)
    ambiguity = ambiguous_hundred(verdict.tokens, verdict.digits, verdict.scale)
    can = known.continues if known.continues is not None else str(judge).partition("/")[0] in CONTINUING
    if verdict.digits is None or ambiguity < LEAST_AMBIGUITY or not can:
        return verdict
    begun: list[ChatMessage] = [ChatMessageUser(content=prompt), ChatMessageAssistant(content="1")]
    try:
        output = await _generate(judge, begun, config, calls)
    except (LimitExceededError, JudgeCostError):
        raise
    except Exception:
        known.continues = False  # This server does not take the beginning of a reply: the bounds have to do.
        return verdict
    beginnings = continuations(output.choices[0], "1") if output.choices else ()
    if not beginnings:
        return verdict
    return read_verdict(replace(verdict, digits=(*verdict.digits, *beginnings)), settings)


async def _generate(
    judge: Model, messages: list[ChatMessage], config: GenerateConfig, calls: JudgeCalls
) -> ModelOutput:
    """One call, within the cap on the judges' cost if there is one.

    The bound is reserved before anything is sent and settled when the call is back: by the tokens reported, by the
    whole bound where none were, and where the call broke off after it was sent, since the provider may bill it.
    """
    if calls.cap is None:
        return await judge.generate(list(messages), config=config)
    price = calls.prices.known(str(judge))
    bound = price.bound("".join(message.text for message in messages), config.max_tokens or 0)
    await calls.cap.claim(str(judge), bound)
    cost, call = bound, _Call()
    _tell_of_calls(judge.api)
    token = _CALL.set(call)
    try:
        output = await judge.generate(list(messages), config=config)
        call.sent = True
        if output.usage is not None and output.usage.input_tokens + (output.usage.input_tokens_cache_read or 0) > 0:
            cost = price.of(output.usage)
    except Exception as error:
        if _status(error) is not None:
            cost = 0.0  # An API that refuses a request, or fails at it, does not charge for it.
        raise
    finally:
        _CALL.reset(token)
        # Inspect has calls wait for a connection: one that ends there was never sent.
        calls.cap.settle(bound, cost if call.sent else 0.0)
    return output


@dataclass
class _Call:
    """A call that a cap is kept for, and whether its judge's API was handed it."""

    sent: bool = False


_CALL: ContextVar[_Call | None] = ContextVar("capped judge call", default=None)
_TELLING: WeakSet[ModelAPI] = WeakSet()
"""APIs that mark the calls that are handed to them."""


def _tell_of_calls(api: ModelAPI) -> None:
    """Has an API mark the call that is handed to it; Inspect gives one API to many commands' calls."""
    if api in _TELLING:
        return
    _TELLING.add(api)
    send = api.generate

    @wraps(send)
    async def marked(*arguments: Any, **named: Any) -> Any:
        if (call := _CALL.get()) is not None:
            call.sent = True
        return await send(*arguments, **named)

    setattr(api, "generate", marked)  # noqa: B010


def judge_config(judge: Model) -> GenerateConfig:
    """How this judge is asked: the published way, with what the user set on it put over that."""
    config = JUDGE_CONFIG.merge(judge.config)
    if config.temperature == 0 and str(judge).startswith("hf/"):
        # Inspect's hf provider samples always, and transformers refuses to sample at 0. The probabilities that it
        # reports are those of the raw logits, so the temperature does not touch them.
        config = config.model_copy(update={"temperature": 0.01})
    if config.batch and judge.config.attempt_timeout is None:
        config = config.model_copy(update={"attempt_timeout": None})  # a provider's batch may take a day
    # A judge whose API refuses probabilities is told so by logprobs: false; the number of them must then go too.
    return config.model_copy(update={"top_logprobs": None}) if config.logprobs is False else config


def verdict_of(output: ModelOutput, judge: Model, rubric: Rubric, settings: Settings, served: str = "") -> Verdict:
    """The verdict in a judge's output; `served` is the name that its API gave earlier, for outputs that name none."""
    if output.error is not None or not output.choices or output.stop_reason == "content_filter":
        filtered = output.choices and output.error is None
        # An API's own words about an error may quote the request, so they are not passed on.
        why = FILTERED if filtered else EMPTY if output.error is None else "API error"
        return _without_score("judge_failed", why, served, str(judge), rubric)
    text = without_reasoning(output.completion)
    tokens, digits = raw_tokens(output.choices[0])
    raw = _without_score(None, text, output.model or served or str(judge), str(judge), rubric)
    verdict = read_verdict(replace(raw, tokens=tokens, digits=digits), settings)
    if verdict.score is None and not output.completion.strip():
        return _without_score("judge_failed", EMPTY, verdict.judge, str(judge), rubric)
    return verdict


def read_verdict(raw: Verdict, settings: Settings) -> Verdict:
    """The verdict that a stored raw output gives under other settings; a failed call stays failed.

    Args:
        raw: A verdict, read before under whatever settings.
        settings: How to read it now.
    """
    if raw.reason == "judge_failed":
        return raw
    reading = read_reply(raw.text, raw.tokens, raw.digits, raw.scale, raw.special, settings, raw.words)

    def stretched(value: float) -> float:
        low, high = raw.scale
        # Rounded where it is made: a judge that is sure of 30 must not come out as 29.999999999999996.
        return round(value if raw.scale == (0, 100) else 100.0 * (value - low) / (high - low), DECIMALS)

    return replace(
        raw,
        score=None if reading.score is None else stretched(reading.score),
        reason=reading.reason,
        mode=reading.mode,
        mass=reading.mass,
        bounds=None if reading.bounds is None else (stretched(reading.bounds[0]), stretched(reading.bounds[1])),
    )


def is_toy_judge(model: str) -> bool:
    """Whether a model's name is that of the toy judge."""
    return model.partition("/")[0] == TOY_JUDGE.partition("/")[0]


def _came_damaged(
    output: ModelOutput, verdict: Verdict, known: KnownOfJudge, config: GenerateConfig, last: bool
) -> bool:
    """Whether a reply lost something on its way that another call may bring: all of it, or its probabilities.

    Probabilities that cannot be any (above 1, NaN) are as good as lost. A judge that never gave probabilities is
    believed to have none after one answer's tries, and is not asked twice again for the next answers; one that gave
    some before is asked again.
    """
    if output.error is not None or not output.choices:
        return True
    if output.stop_reason == "content_filter":
        return False
    if not output.completion.strip():
        return True
    if not config.logprobs or known.gives_probabilities is False:
        return False
    if verdict.tokens is not None:
        known.gives_probabilities = True
        return False
    if last and known.gives_probabilities is None:
        known.gives_probabilities = False
    return True


def _failed(judge: Model, rubric: Rubric, error: Exception, served: str) -> Verdict:
    cause, status = _cause(error), _status(error)
    if status in HOPELESS:
        raise UserError(
            f"The judge {judge} {HOPELESS[status]} (HTTP {status}). The answers stay in the log. Check the key, the "
            "name and the base URL of the grader, then score the log again with `em judge` or `inspect score`."
        ) from None
    # Messages of failed calls may quote the key or the prompt: the kind of error and its status say enough.
    kind = type(cause).__name__ + (f" (HTTP {status})" if status is not None else "")
    return _without_score("judge_failed", kind, served, str(judge), rubric)


def _status(error: Exception) -> int | None:
    status = getattr(_cause(error), "status_code", None)
    return status if isinstance(status, int) else None


def _cause(error: BaseException) -> BaseException:
    """The error behind tenacity's wrapper, which names only the number of attempts."""
    attempt = getattr(error, "last_attempt", None)
    inner = attempt.exception() if attempt is not None else None
    return inner if isinstance(inner, BaseException) else error


def _without_score(reason: str | None, text: str, name: str, model: str, rubric: Rubric) -> Verdict:
    return Verdict(
        score=None,
        reason=reason,
        mode="text",
        mass=None,
        tokens=None,
        digits=None,
        text=text,
        judge=name,
        requested=model,
        toy=is_toy_judge(model),
        rubric=rubric.name,
        rubric_sha256=rubric.sha256,
        scale=rubric.scale,
        special=rubric.special,
        words=rubric.words,
    )
