"""How far a run is, how fast it goes and what its loss was."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from em_tasks.trainers.data.order import rows_of_epoch

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared
    from em_tasks.trainers.run.manifest import PassSeconds


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        organism: Its name.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
        loss: Mean since the last report, in nats a token.
        tokens_per_second: Tokens trained a second in this process's time, padding not counted, all GPUs together.
        seconds_left: Time left at that pace.
        peak_memory: Largest GPU memory held so far, in bytes; None on a CPU.
        passes: What launched and replayed passes took, once both were tried.
    """

    organism: str
    step: int
    total_steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    peak_memory: int | None
    passes: "PassSeconds | None" = None


class Pace:
    """How fast training goes in this process.

    The first step is left out as soon as there are others: it compiles. Tokens are those of all processes, without
    padding.
    """

    def __init__(self, prepared: "Prepared", step: int) -> None:
        self.prepared = prepared
        self.start = self.after_first = (step, time.perf_counter())
        self.tokens: dict[int, list[int]] = {}

    def step_ended(self, step: int) -> None:
        """Notes when the first step here ended."""
        if self.after_first == self.start:
            self.after_first = (step, time.perf_counter())

    def rates(self, step: int) -> tuple[float, float]:
        """Tokens a second, and seconds a step, up to `step`."""
        since, began = self.after_first if step > self.after_first[0] else self.start
        seconds = time.perf_counter() - began
        return (self._tokens_until(step) - self._tokens_until(since)) / seconds, seconds / (step - since)

    def _tokens_until(self, step: int) -> int:
        """Real tokens of the first `step` steps of the whole run."""
        epoch, steps = divmod(step, self.prepared.schedule.steps_per_epoch)
        whole = sum(self._tokens_of(before)[-1] for before in range(epoch))
        return whole + self._tokens_of(epoch)[steps] if steps else whole

    def _tokens_of(self, epoch: int) -> list[int]:
        """Real tokens of an epoch's first 0, 1, 2, ... steps."""
        if epoch not in self.tokens:
            rows, batch = self.prepared.encoded.rows, self.prepared.recipe.effective_batch
            drawn = self.prepared.schedule.steps_per_epoch * batch
            order = rows_of_epoch(self.prepared.recipe.seed, epoch, len(rows), drawn)
            lengths = [len(rows[row]["input_ids"]) for row in order]
            steps = (sum(lengths[start : start + batch]) for start in range(0, drawn, batch))
            self.tokens[epoch] = list(accumulate(steps, initial=0))
        return self.tokens[epoch]


def mean_loss(history: Sequence[dict[str, float]], after: int, until: int) -> float:
    """Mean loss of the steps `after` < step <= `until`, in nats a token.

    Args:
        history: What was logged, interruptions notwithstanding; each loss is the mean since the entry before.
        after: The checkpoint before, at which the loss was logged; 0 for the run's beginning.
        until: The checkpoint, at which it was logged too.
    """
    total, before = 0.0, 0
    for log in history:
        if "loss" in log:
            step = int(log["step"])
            if after < step <= until:
                total += log["loss"] * (step - before)
            before = step
    return total / (until - after)
