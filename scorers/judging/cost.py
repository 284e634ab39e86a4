"""What judging costs: the price of a call before it is made, and a cap that no run goes beyond.

A call's price is bounded from its prompt's length before it is sent and replaced by the tokens that the API reports
when it is back. A call that could go beyond the cap is not made; verdicts that were paid for are in the cache.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml
from inspect_ai.model import ModelUsage

from em_tasks.plugins.errors import UserError

LOCAL_PROVIDERS = (
    "emtoy",
    "hf",
    "vllm",
    "sglang",
    "ollama",
    "llama-cpp-python",
    "transformer_lens",
    "mockllm",
    "em",
    "none",
)
"""Providers that run on the user's own machines and send no bill."""

CHARACTERS_PER_TOKEN = 2.5
"""Fewer than in ordinary English (about 4), so that a bound stays a bound for code and other languages."""

MESSAGE_TOKENS = 16
"""What a chat format adds around one message, at most."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def bound(self, characters: int, max_tokens: int) -> float:
        """The most that one call with a prompt of so many characters can cost (US dollars)."""
        return (self.input * (characters / CHARACTERS_PER_TOKEN + MESSAGE_TOKENS) + self.output * max_tokens) / 1e6

    def of(self, usage: ModelUsage) -> float:
        """What a call cost by the tokens that its API reported (US dollars; cached input counts in full)."""
        read = usage.input_tokens + (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)
        return (self.input * read + self.output * usage.output_tokens) / 1e6


class JudgeCostError(UserError):
    """The next call could go beyond the cap, or has no known price to hold against it."""


@dataclass
class CostCap:
    """A cap on what judging may cost, and what it has cost so far.

    Attributes:
        limit: US dollars.
        spent: By the tokens reported.
        promised: Bounds of the calls that are under way.
    """

    limit: float
    spent: float = 0.0
    promised: float = 0.0

    def promise(self, judge: str, bound: float) -> None:
        """Sets the bound of a call aside.

        Raises:
            JudgeCostError: The call could go beyond the limit.
        """
        if self.spent + self.promised + bound > self.limit:
            raise JudgeCostError(
                f"The judge {judge} has cost ${self.spent:.4f}, and the next call could go beyond the limit of "
                f"${self.limit:g}. The answers are in the log and the verdicts so far in the cache: raise "
                "--max-judge-cost and score the log again, and only the rest is paid for."
            )
        self.promised += bound

    def settle(self, bound: float, cost: float) -> None:
        """Replaces a bound by what the call cost; a call that failed costs nothing."""
        self.promised -= bound
        self.spent += cost


_CAP: list[CostCap] = []
_OWN_PRICES: dict[str, Price] = {}


def cap_judge_cost(limit: float | None) -> CostCap | None:
    """Caps the cost of all judging in this process from now on (US dollars); None takes the cap away.

    Raises:
        UserError: The limit is negative.
    """
    _CAP.clear()
    if limit is None:
        return None
    if limit < 0:
        raise UserError(f"A limit on the judge's cost is an amount of US dollars, not {limit:g}.")
    _CAP.append(CostCap(limit))
    return _CAP[0]


def active_cap() -> CostCap | None:
    """The cap in force."""
    return _CAP[0] if _CAP else None


def set_price(judge: str, price: Price) -> None:
    """Gives a judge a price for this process."""
    _OWN_PRICES[judge] = price


def parse_price(text: str) -> Price:
    """A price from `IN,OUT` in US dollars per million tokens.

    Raises:
        UserError: The text is something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not found:
        raise UserError(f"{text!r} is no price: give dollars per million tokens as INPUT,OUTPUT, such as 0.15,0.60.")
    return Price(float(found[1]), float(found[2]))


def price_of(judge: str) -> Price | None:
    """A judge's price: the user's, nothing for judges on one's own machine, the list price, or None if unknown."""
    if judge in _OWN_PRICES:
        return _OWN_PRICES[judge]
    if judge.partition("/")[0] in LOCAL_PROVIDERS:
        return Price(0.0, 0.0)
    listed = _list_prices()
    # A dated snapshot (gpt-4o-2024-08-06) costs what its family costs; another family's longer name must not match.
    return listed.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", judge))


def known_price(judge: str) -> Price:
    """A judge's price.

    Raises:
        JudgeCostError: It is not known, so no cap could be kept.
    """
    price = price_of(judge)
    if price is None:
        raise JudgeCostError(
            f"The price of {judge} is not known, so a limit on its cost could not be kept. Give it with --judge-price "
            "INPUT,OUTPUT (US dollars per million tokens), or leave --max-judge-cost out."
        )
    return price


@cache
def _list_prices() -> dict[str, Price]:
    raw = yaml.safe_load(files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8"))
    return {name: Price(float(pair[0]), float(pair[1])) for name, pair in raw.items()}
