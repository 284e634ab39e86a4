"""Known secrets kept out of what is written: an API that quotes the key in an error must not put it into a log.

Inspect writes each call's error and the API's answer into the log's model events before anybody else sees them. So a
judge's `generate` is wrapped where it comes from: what it raises or returns has the secrets taken out.
"""

import functools
import re
from typing import Any

from inspect_ai.model import Model, ModelCall, ModelOutput

from em_tasks.scorers.judging.known_secrets import secrets_pattern, without


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
            _clean_error(error, secrets_pattern(keys))
            raise
        secrets = secrets_pattern(keys)  # Once a call: a reply with its probabilities has hundreds of strings.
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Exception):
                _clean_error(part, secrets)
            elif isinstance(part, ModelOutput) and part.error is not None:
                part.error = without(part.error, secrets)
            elif isinstance(part, ModelCall):
                part.request, part.response = _clean(part.request, secrets), _clean(part.response, secrets)
        return result

    careful.keeps_secrets = True  # type: ignore[attr-defined]
    api.generate = careful  # type: ignore[method-assign]


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
        return without(value, secrets)
    if isinstance(value, dict):
        return {key: _clean(entry, secrets) for key, entry in value.items()}
    if isinstance(value, list):
        return [_clean(entry, secrets) for entry in value]
    return value
