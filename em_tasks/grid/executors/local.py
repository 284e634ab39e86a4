"""Units in processes on this machine: several a GPU where their memory allows, a number of them without GPUs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em_tasks.grid.executors.protocol import Ended, More
from em_tasks.grid.places import Place, look_around
from em_tasks.grid.units import WHOLE, Unit, do
from em_tasks.sweep.gpus import gpu_memory
from em_tasks.sweep.pool import Outcome, Pool, Work


class Local:
    """Processes here.

    Args:
        jobs: So many at a time; with GPUs, so many a GPU at most. As many as memory allows, or one without GPUs,
            unless given.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs, self._gpus = jobs, list(gpu_memory())

    @property
    def width(self) -> int:
        """The GPUs, or the processes without them."""
        return len(self._gpus) or self._jobs or 1

    def places(self, sign: Path) -> list[Place] | None:
        """This machine."""
        return [look_around(sign)]

    def run(self, units: Sequence[Unit], folder: Path, more: More) -> None:
        """Runs units in a pool whose slots are shares of GPUs."""
        slots = self._slots(units)

        def works(coming: Sequence[Unit]) -> list[Work]:
            return [
                Work(unit.name, _do, (unit, folder), alone=bool(self._gpus) and unit.gpu >= WHOLE) for unit in coming
            ]

        def ask(outcomes: Sequence[Outcome]) -> list[Work] | None:
            ended = [Ended(each.work.arguments[0], each.error or each.result) for each in outcomes]
            coming = more(ended)
            return None if coming is None else works(coming)

        Pool(slots, lambda report: None).run(works(units), ask)

    def _slots(self, units: Sequence[Unit]) -> list[dict[str, str]]:
        if not self._gpus:
            return [{} for _ in range(self.width)]
        share = max((unit.gpu for unit in units if unit.gpu), default=WHOLE)
        each = min(int(1 / share), self._jobs or os.cpu_count() or 1)
        return [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(max(1, each)) for gpu in self._gpus]


def _do(unit: Unit, folder: Path, send: Any) -> str | None:
    return do(unit, folder)
