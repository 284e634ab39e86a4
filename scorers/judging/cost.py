"""What judging costs: the price of a call before it is made, and a cap that no run goes beyond.

A call's price is bounded from its prompt before it is sent, and replaced by the tokens that the API reports when it is
back. A call that could go beyond the cap is not made; verdicts that were paid for are in the cache.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import anyio
import yaml
from inspect_ai.model import ModelUsage

from em_tasks.plugins.errors import UserError

LOCAL_PROVIDERS = (
    "emtoy",
    "emlocal",
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

LEDGER = ".ledger"
"""How the file of a ledger ends."""

USUAL_CHARACTERS_PER_TOKEN = 4.0
"""English; what is expected, and no bound."""

MESSAGE_TOKENS = 16
"""What a chat format adds around one message, at most."""

CACHE_WRITE = 2.0
"""The most that providers charge for writing input into their caches, as a multiple of plain input."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def bound(self, prompt: str, max_tokens: int) -> float:
        """The most that one call can cost (US dollars): no token is shorter than one byte of UTF-8."""
        most = len(prompt.encode(errors="surrogatepass")) + MESSAGE_TOKENS
        return (self.input * most + self.output * max_tokens) / 1e6

    def expected(self, characters: int, max_tokens: int) -> float:
        """What one call with a prompt of so many characters of English is likely to cost, at most (US dollars)."""
        read = characters / USUAL_CHARACTERS_PER_TOKEN + MESSAGE_TOKENS
        return (self.input * read + self.output * max_tokens) / 1e6

    def of(self, usage: ModelUsage) -> float:
        """What a call cost by the tokens that its API reported (US dollars).

        Input that came from the provider's cache counts in full, though most charge less for it; input that was
        written there as the dearest provider charges it; a total that is larger than its parts, as where reasoning
        stands in the total alone, counts as output.
        """
        read = usage.input_tokens + (usage.input_tokens_cache_read or 0)
        stored = usage.input_tokens_cache_write or 0
        written = max(usage.output_tokens, usage.total_tokens - read - stored)
        return (self.input * (read + CACHE_WRITE * stored) + self.output * written) / 1e6


class JudgeCostError(UserError):
    """The next call could go beyond the cap, or has no known price to hold against it."""


@dataclass
class CostCap:
    """A cap on what judging may cost, and what it has cost so far.

    Attributes:
        limit: US dollars.
        spent: By the tokens reported.
        reserved: Bounds of the calls that are under way.
        ledger: File that keeps both over restarts. A call is entered before it is sent, so whenever the process is
            killed, what stands there is at least what was spent.
        whole: A study's cap of which this one is a unit's share; what the study spent stands in the ledgers beside.
    """

    limit: float
    spent: float = 0.0
    reserved: float = 0.0
    ledger: Path | None = None
    whole: float | None = None
    _under_way: int = 0
    _reached: bool = False
    _back: anyio.Event | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Raises UserError for a limit that is no amount."""
        if not 0 <= self.limit < float("inf"):
            raise UserError(f"A limit on the judge's cost is an amount of US dollars, not {self.limit:g}.")
        if self.ledger is not None:
            self.ledger.parent.mkdir(parents=True, exist_ok=True)
            self.spent = spent_in(self.ledger)

    async def claim(self, judge: str, bound: float) -> None:
        """Reserves a call's bound, after waiting where the bounds of calls under way are all that is in its way.

        Most calls cost far less than their bound, which is known once they are back; and no call is cut off, paid for
        and of no use, because another one met the limit. Once a call is refused, so are all that come after it.

        Raises:
            JudgeCostError: The call could go beyond the limit.
        """
        while self._under_way and not self._fits(bound):
            self._back = self._back or anyio.Event()
            await self._back.wait()
        if self._reached:
            raise JudgeCostError(self._said(judge, bound))
        try:
            self.reserve(judge, bound)
        except JudgeCostError:
            self._reached = True
            raise

    def _fits(self, bound: float) -> bool:
        return self.spent + self.reserved + bound <= self.limit

    def reserve(self, judge: str, bound: float) -> None:
        """Sets the bound of a call aside, before anything is sent.

        Raises:
            JudgeCostError: The call could go beyond the limit.
        """
        if not self._fits(bound):
            raise JudgeCostError(self._said(judge, bound))
        self._enter(bound)
        self.reserved += bound
        self._under_way += 1

    def settle(self, bound: float, cost: float) -> None:
        """Replaces a reserved bound by what the call cost, nothing for one that was never sent."""
        self.reserved -= bound
        self.spent += cost
        self._under_way -= 1
        self._enter(cost - bound)
        if self._back is not None:
            self._back.set()
            self._back = None

    def _said(self, judge: str, bound: float) -> str:
        if self.whole is None:
            return (
                f"The judge {judge} has cost ${self.spent:.4f}, and the next call, which may cost ${bound:.4f}, could "
                f"go beyond the limit of ${self.limit:g}. Answers and verdicts are kept: with a higher "
                "--max-judge-cost the same command has the rest judged."
            )
        spent = self.spent if self.ledger is None else spent_on_judging(self.ledger.parent)
        return (
            f"The judge {judge} has cost ${self.spent:.4f} of this unit's share, ${self.limit:.4f}, and the next call, "
            f"which may cost ${bound:.4f}, could go beyond the limit. The grid file's max_judge_cost is "
            f"${self.whole:g}, of which ${spent:.4f} is spent or set aside: raise it, and the same command has the "
            "rest judged. Answers and verdicts are kept."
        )

    def _enter(self, dollars: float) -> None:
        if self.ledger is not None:
            with self.ledger.open("a", encoding="ascii") as file:
                # The line's end comes first: a line that a kill tore is then no part of the next one.
                file.write(f"\n{dollars:+.12f}")


def spent_in(ledger: Path) -> float:
    """What a cap's ledger says was spent (US dollars); nothing where there is none."""
    lines = ledger.read_text(encoding="ascii").splitlines() if ledger.is_file() else []
    return max(0.0, sum(float(line) for line in lines if re.fullmatch(r"[+-]\d+\.\d+", line)))


def spent_on_judging(folder: Path, but: Sequence[Path] = ()) -> float:
    """What the ledgers of a folder say was spent (US dollars), these left out."""
    return sum(spent_in(ledger) for ledger in folder.glob(f"*{LEDGER}") if ledger not in but)


@dataclass(frozen=True)
class Prices:
    """What judges charge.

    Attributes:
        given: Prices that the user gave, by the judge's name as `PROVIDER/MODEL`.
    """

    given: Mapping[str, Price] = field(default_factory=dict)

    def of(self, judge: str) -> Price | None:
        """A judge's price: the user's, nothing for judges on one's own machine, the list price, or None if unknown."""
        if judge in self.given:
            return self.given[judge]
        if judge.partition("/")[0] in LOCAL_PROVIDERS:
            return Price(0.0, 0.0)
        # A dated snapshot (gpt-4o-2024-08-06) costs what its family costs; another family's longer name must not match.
        return _list_prices().get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", judge))

    def known(self, judge: str) -> Price:
        """A judge's price.

        Raises:
            JudgeCostError: It is not known, so no cap could be kept.
        """
        price = self.of(judge)
        if price is None:
            raise JudgeCostError(
                f"The price of {judge} is not known, so a limit on its cost could not be kept. Give it as "
                "INPUT,OUTPUT in US dollars per million tokens (--judge-price; in a grid file judge_price), or leave "
                "the limit out."
            )
        return price


def parse_price(text: str) -> Price:
    """A price from `IN,OUT` in US dollars per million tokens.

    Raises:
        UserError: The text is something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not match:
        raise UserError(f"{text!r} is no price: give dollars per million tokens as INPUT,OUTPUT, such as 0.15,0.60.")
    return Price(float(match[1]), float(match[2]))


@cache
def _list_prices() -> dict[str, Price]:
    raw = yaml.safe_load(files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8"))
    return {name: Price(float(pair[0]), float(pair[1])) for name, pair in raw.items()}
