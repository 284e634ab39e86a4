"""Known secrets kept out of what is written: an API that quotes the key in an error must not put it into a log.

Inspect writes each call's error and the API's answer into the log's model events before anybody else sees them. So a
judge's `generate` is wrapped where it comes from: what it raises or returns has the secrets taken out.
"""

import functools
import os
import re
from collections.abc import Iterable
from typing import Any

from inspect_ai.model import Model, ModelCall, ModelOutput

WITHHELD = "[secret withheld]"
NAMED_LIKE_SECRETS = re.compile(r"(?:API_?KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE)
"""Ends of the names of environment variables that hold secrets (OPENAI_API_KEY, HF_TOKEN, EM_DATA_PASSWORD)."""
SHORTEST = 8
"""Characters below which a value is taken for no secret: taking out every `1` would spoil what is written."""


def known_secrets() -> frozenset[str]:
    """The values of all environment variables that are named like secrets."""
    return frozenset(
        value
        for name in os.environ
        if NAMED_LIKE_SECRETS.search(name) and len(value := os.environ.get(name, "").strip()) >= SHORTEST
    )


def without_secrets(text: str, *more: str) -> str:
    """A text with every known secret, and `more` of them, taken out."""
    return _without(text, _pattern(more))


def keep_secrets(model: Model) -> None:
    """Has a model's API raise and return nothing that holds a secret, its own key included. Doing it twice is once."""
    api = model.api
    generate = api.generate
    if getattr(generate, "keeps_secrets", False):
        return
    keys = [str(key) for key in (getattr(api, "api_key", None),) if key]

    @functools.wraps(generate)
    async def careful(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await generate(*args, **kwargs)
        except Exception as error:
            _clean_error(error, _pattern(keys))
            raise
        secrets = _pattern(keys)  # Once a call: a reply with its probabilities has hundreds of strings.
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Exception):
                _clean_error(part, secrets)
            elif isinstance(part, ModelOutput) and part.error is not None:
                part.error = _without(part.error, secrets)
            elif isinstance(part, ModelCall):
                part.request, part.response = _clean(part.request, secrets), _clean(part.response, secrets)
        return result

    careful.keeps_secrets = True  # type: ignore[attr-defined]
    api.generate = careful  # type: ignore[method-assign]


def _pattern(more: Iterable[str]) -> re.Pattern[str] | None:
    """What finds every known secret, and `more` of them, the longest first; None if there is none."""
    known = {*known_secrets(), *(each for each in more if len(each) >= SHORTEST)}
    return _compiled(frozenset(known)) if known else None


@functools.lru_cache(maxsize=8)
def _compiled(known: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))))


def _without(text: str, secrets: re.Pattern[str] | None) -> str:
    return text if secrets is None else secrets.sub(WITHHELD, text)


def _clean_error(error: BaseException, secrets: re.Pattern[str] | None) -> None:
    """Takes secrets out of an error's message and of what it keeps of the API's answer, and of its causes."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.args = tuple(_clean(part, secrets) for part in link.args)
        for name in ("message", "body", "response_text"):
            if isinstance(getattr(link, name, None), str | dict | list):
                setattr(link, name, _clean(getattr(link, name), secrets))
        link = link.__cause__ or link.__context__


def _clean(value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _without(value, secrets)
    if isinstance(value, dict):
        return {key: _clean(entry, secrets) for key, entry in value.items()}
    if isinstance(value, list):
        return [_clean(entry, secrets) for entry in value]
    return value
