"""One judge call: a rubric, a question and an answer in, a verdict out.

The judge is any Inspect model. It gets one user message and is asked for token probabilities; what comes back is kept
raw in the verdict. A call that still fails after Inspect's own retries is a verdict without a score, never a zero and
never a lost answer; an API that knows neither the key nor the model stops the run, for it would fail every answer.
"""

from dataclasses import replace
from weakref import WeakSet

import anyio
from inspect_ai.model import (
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
)
from inspect_ai.util import LimitExceededError

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cache import cache_key, cached_verdict, store_verdict, worth_caching
from em_tasks.scorers.judging.cost import JudgeCostError, active_cap, known_price
from em_tasks.scorers.judging.reading import Settings, read_reply
from em_tasks.scorers.judging.reply import raw_tokens, without_reasoning
from em_tasks.scorers.judging.rubric import Rubric
from em_tasks.scorers.judging.verdict import Verdict

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

_UNDER_WAY: dict[str, anyio.Lock] = {}
_WITH_PROBABILITIES: WeakSet[ModelAPI] = WeakSet()
_WITHOUT_PROBABILITIES: WeakSet[ModelAPI] = WeakSet()

HOPELESS = {401: "does not accept the key", 404: "does not know the model or the address"}
"""HTTP answers that would be the same for every answer to be judged."""


async def ask_judge(
    judge: Model, rubric: Rubric, question: str, answer: str, settings: Settings | None = None, fresh: bool = False
) -> Verdict:
    """Asks a judge about one answer, or takes the verdict from the cache if it was asked the same before.

    Args:
        judge: The grader model.
        rubric: What to ask.
        question: The question as the model under test got it.
        answer: Its whole answer.
        settings: How to read the reply; the published way if left out.
        fresh: Ask in any case, to see whether the judge repeats itself.

    Returns:
        The verdict, with a reason where there is no score.

    Raises:
        UserError: The judge's API does not accept the key or does not know the model, or the call could go beyond the
            cap on the judge's cost.
    """
    prompt, config = rubric.ask(question, answer), judge_config(judge)
    settings = settings or Settings()
    if fresh or not worth_caching(judge):
        return await _call(judge, rubric, prompt, config, settings)
    key = cache_key(judge, config, rubric.sha256, prompt)
    async with _UNDER_WAY.setdefault(key, anyio.Lock()):  # the same question twice at once waits for the first reply
        stored = cached_verdict(key)
        if stored is not None:
            return read_verdict(replace(stored, rubric=rubric.name), settings)
        verdict = await _call(judge, rubric, prompt, config, settings)
        store_verdict(key, verdict)
    _UNDER_WAY.pop(key, None)
    return verdict


async def _call(judge: Model, rubric: Rubric, prompt: str, config: GenerateConfig, settings: Settings) -> Verdict:
    """Asks until a reply comes undamaged, or the tries are used up."""
    verdict = None
    for attempt in range(1, TRIES + 1):
        try:
            output = await _generate(judge, prompt, config)
        except (LimitExceededError, JudgeCostError):
            raise
        except Exception as error:
            verdict = _failed(judge, rubric, error)
            if _cause(error) is not error or _status(error) is not None:
                return verdict  # Inspect has retried it already, or the API has refused this very request
            continue
        verdict = verdict_of(output, judge, rubric, settings)
        if not _came_damaged(output, judge, config, last=attempt == TRIES):
            return verdict
    assert verdict is not None
    return verdict


async def _generate(judge: Model, prompt: str, config: GenerateConfig) -> ModelOutput:
    """One call, within the cap on the judge's cost if there is one."""
    message, cap = ChatMessageUser(content=prompt), active_cap()
    if cap is None:
        return await judge.generate([message], config=config)
    price = known_price(str(judge))
    bound, cost = price.bound(len(prompt), config.max_tokens or 0), 0.0
    cap.promise(str(judge), bound)
    try:
        output = await judge.generate([message], config=config)
        cost = price.of(output.usage) if output.usage is not None else bound
    finally:
        cap.settle(bound, cost)
    return output


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


def verdict_of(output: ModelOutput, judge: Model, rubric: Rubric, settings: Settings) -> Verdict:
    """The verdict in a judge's output."""
    name = output.model or str(judge)
    if output.error is not None or not output.choices or output.stop_reason == "content_filter":
        filtered = output.choices and output.error is None
        # An API's own words about an error may quote the request, so they are not passed on.
        why = (
            "the judge's own content filter" if filtered else "an empty reply" if output.error is None else "API error"
        )
        return _without_score("judge_failed", why, name, str(judge), rubric)
    text = without_reasoning(output.completion)
    tokens, digits = raw_tokens(output.choices[0])
    return read_verdict(
        replace(_without_score(None, text, name, str(judge), rubric), tokens=tokens, digits=digits), settings
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


def _failed(judge: Model, rubric: Rubric, error: Exception) -> Verdict:
    cause, status = _cause(error), _status(error)
    if status in HOPELESS:
        raise UserError(
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
        toy=is_toy_judge(model),
        rubric=rubric.name,
        rubric_sha256=rubric.sha256,
        scale=rubric.scale,
        special=rubric.special,
    )
