"""Which texts are secrets, and taking them out: the environment's keys and passwords, tokens that the hub's login kept.

Nothing here needs Inspect, so that an error can be told without waiting for it.
"""

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

WITHHELD = "[secret withheld]"
NAMED_LIKE_SECRETS = re.compile(r"(?:API_?KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE)
"""Ends of the names of environment variables that hold secrets (OPENAI_API_KEY, HF_TOKEN, EM_DATA_PASSWORD)."""
STORED_TOKEN = re.compile(r"_token\s*=\s*(\S+)")
"""A line of the file in which the hub's login keeps several tokens by name."""
SHORTEST = 8
"""Characters below which a value is taken for no secret: taking out every `1` would spoil what is written."""


def known_secrets() -> frozenset[str]:
    """The values of all environment variables that are named like secrets, and the hub's tokens saved in files."""
    named = [os.environ.get(name, "").strip() for name in os.environ if NAMED_LIKE_SECRETS.search(name)]
    return frozenset(value for value in (*named, *_hub_tokens()) if len(value) >= SHORTEST)


def _hub_tokens() -> list[str]:
    """Tokens in the hub's own files, wherever HF_TOKEN_PATH or HF_HOME put them.

    The hub's `get_token` is not asked: it may renew a token over the network, and leaves the file unread where the
    environment has a token too.
    """
    from huggingface_hub import constants

    return [_content(constants.HF_TOKEN_PATH).strip(), *STORED_TOKEN.findall(_content(constants.HF_STORED_TOKENS_PATH))]


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return ""


def without_secrets(text: str, *more: str) -> str:
    """A text with every known secret, and `more` of them, taken out."""
    return without(text, secrets_pattern(more))


def secrets_pattern(more: Iterable[str] = ()) -> re.Pattern[str] | None:
    """What finds every known secret, and `more` of them, the longest first; None if there is none."""
    known = {*known_secrets(), *(each for each in more if len(each) >= SHORTEST)}
    return _compiled(frozenset(known)) if known else None


@functools.lru_cache(maxsize=8)
def _compiled(known: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))))


def without(text: str, secrets: re.Pattern[str] | None) -> str:
    """A text with what the pattern finds taken out."""
    return text if secrets is None else secrets.sub(WITHHELD, text)
