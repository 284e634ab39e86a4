"""A grid's cap on what its judges cost, shared among its units by what each is expected to cost.

Every unit that judges has a ledger (see `CostCap`) in one folder, so what was spent counts over restarts, and what a
unit leaves of its share goes to those that come after it.
"""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cost import LEDGER, spent_on_judging

LOCK = ".lock"


@dataclass(frozen=True)
class Share:
    """A unit's share.

    Attributes:
        dollars: What it may spend (US dollars), over all times that it is begun.
        expected: What it is expected to spend.
        ledger: Its ledger.
    """

    dollars: float
    expected: float
    ledger: Path


@dataclass
class Budget:
    """What judging may still cost.

    Attributes:
        limit: What it may cost in all (US dollars).
        folder: Folder of the ledgers.
        prices: What each judge is expected to cost an answer.
        total: What the whole study is expected to cost.
    """

    limit: float
    folder: Path
    prices: Mapping[str, float]
    total: float
    _at_work: dict[Path, Share] = field(default_factory=dict)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps another command from sharing out the same money meanwhile.

        Raises:
            UserError: Another does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"Another em grid works on {self.folder.parent} and shares out its max_judge_cost. Wait for it, or "
                    "stop it first."
                ) from None
            yield

    def expected(self, judges: Sequence[str], answers: int) -> float:
        """What judging so many answers by each of these judges is expected to cost."""
        return answers * sum(self.prices[judge] for judge in judges)

    def share(self, expected: Sequence[float], done: float = 0.0) -> list[Share]:
        """Shares for units that begin now, in proportion to all that is still to come.

        Args:
            expected: What each is expected to cost.
            done: What was expected of all that is judged already.
        """
        known = [share.ledger for share in self._at_work.values()]
        left = self.limit - spent_on_judging(self.folder, known) - sum(s.dollars for s in self._at_work.values())
        to_come = self.total - done - sum(share.expected for share in self._at_work.values())
        to_come = max(to_come, sum(expected))
        shares = [
            Share(max(0.0, left) * each / to_come if to_come else 0.0, each, self.folder / f"{uuid4().hex}{LEDGER}")
            for each in expected
        ]
        self._at_work |= {share.ledger: share for share in shares}
        return shares

    def ended(self, ledger: Path) -> None:
        """A unit ended: what it spent counts, and the rest of its share is free again."""
        self._at_work.pop(ledger, None)


def raise_spent(folder: Path, dollars: float) -> None:
    """Has a folder's ledgers say at least so much: it was spent on another machine."""
    if (missing := dollars - spent_on_judging(folder)) > 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"elsewhere-{uuid4().hex}{LEDGER}").write_text(f"\n{missing:+.12f}", encoding="ascii")
