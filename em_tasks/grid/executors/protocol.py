"""What every executor does: says what its places are, and has units done there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from em_tasks.grid.places import Place
from em_tasks.grid.units import Unit


@dataclass(frozen=True)
class Ended:
    """A unit that ended, and what went wrong with it; None where nothing did."""

    unit: Unit
    failure: str | None


More = Callable[[Sequence[Ended]], Sequence[Unit] | None]
"""Asked about once a second, with what has ended since: what else there is to do, or None if nothing will ever come."""


class Executor(Protocol):
    """Where units are done."""

    @property
    def width(self) -> int:
        """How many units that take a whole GPU (or, without GPUs, how many units) run at a time."""

    def places(self, sign: Path) -> list[Place] | None:
        """The places, asked now; None where they are not known before a unit runs there.

        Args:
            sign: A file in the shared folder, which they have to see.

        Raises:
            UserError: There is no such cluster, or it has another version of what runs it.
        """

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        """Has units done, in order, and what comes while they run.

        Args:
            units: What there is to do.
            folder: The shared folder of what units say.
            more: What has ended is told to it, and what comes is asked of it.

        Raises:
            Stopped: SIGINT or SIGTERM came; every unit was asked to end.
        """
