"""What the judge calls of one command share: prices, the cap on their cost, the cache, and the calls under way.

One object is made by whoever starts the judging and is handed down; nothing here belongs to the process. Where Inspect
stands between (a sweep starts an evaluation, and its scorers cannot be given objects), `handing_down` puts the object
into the context that the evaluation runs in.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import anyio
from inspect_ai.model import ModelAPI

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cache import VerdictCache
from em_tasks.scorers.judging.cost import CostCap, Prices, parse_price


@dataclass
class KnownOfJudge:
    """What earlier calls of one judge have shown.

    Attributes:
        gives_probabilities: Whether its replies have token probabilities; None before that is known.
        served: The model's name as its API gives it; empty before the first reply.
        continues: Whether a reply can be begun for it; None before that was tried.
        finding_out: Held by the call that finds out whether there are probabilities, while the others wait for it.
    """

    gives_probabilities: bool | None = None
    served: str = ""
    continues: bool | None = None
    finding_out: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass
class JudgeCalls:
    """What the judge calls of one command share.

    Attributes:
        prices: What judges charge.
        cap: What they may cost together; None for no cap.
        cache: Verdicts of earlier calls.
    """

    prices: Prices = field(default_factory=Prices)
    cap: CostCap | None = None
    cache: VerdictCache = field(default_factory=VerdictCache)
    _under_way: dict[str, anyio.Lock] = field(default_factory=dict)
    _known: WeakKeyDictionary[ModelAPI, KnownOfJudge] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def limited(
        cls,
        dollars: float | None,
        price: str | None = None,
        judges: tuple[str, ...] = (),
        ledger: Path | None = None,
        whole: float | None = None,
    ) -> "JudgeCalls":
        """Calls that cost at most so many US dollars together (None: no limit), at a price `IN,OUT` for these judges.

        What a ledger says was spent before counts. `whole` is the cap of the study that the limit is a share of.

        Raises:
            UserError: The price or the limit cannot be understood, or a price is given for no judge.
        """
        if price is not None and not judges:
            raise UserError("--judge-price names the price of a judge, and no judge is named. Add --judge.")
        given = {} if price is None else dict.fromkeys(judges, parse_price(price))
        return cls(Prices(given), None if dollars is None else CostCap(dollars, ledger=ledger, whole=whole))

    def known_of(self, api: ModelAPI) -> KnownOfJudge:
        """What is known of a judge so far; the caller adds to it."""
        return self._known.setdefault(api, KnownOfJudge())

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Lets one call of a key through at a time: the same prompt twice at once waits for the first reply."""
        lock = self._under_way.setdefault(key, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # Else the next in line has it already.
                self._under_way.pop(key, None)


_HANDED_DOWN: ContextVar[JudgeCalls | None] = ContextVar("judge_calls", default=None)


@contextmanager
def handing_down(calls: JudgeCalls) -> Iterator[None]:
    """Scorers that Inspect runs inside this block share `calls`."""
    token = _HANDED_DOWN.set(calls)
    try:
        yield
    finally:
        _HANDED_DOWN.reset(token)


def handed_down() -> JudgeCalls | None:
    """What `handing_down` gave the block that this runs in."""
    return _HANDED_DOWN.get()
