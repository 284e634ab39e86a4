"""Passes recorded once as CUDA graphs and replayed: launching a small model's kernels takes longer than running them.

A graph has the sizes that it was recorded with. The order of a run's rows is known before it begins, so its steps are
parted into a few groups alike in size, and the passes of a group are filled up to its largest.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from em_tasks.trainers.passes.packing import MULTIPLE, Size

Batch = Mapping[str, torch.Tensor]
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does on the device, without its being done; what it gives does it."""

GROUPS = (3, 4)
"""Groups by the longest row, and groups of each by tokens: attention is filled up to the one, all else to the other."""
STEPS_EACH = 16
"""Fewest steps of a group; two of them are the first pass and the recording, which no replay makes faster."""
TRIED = 2
"""Passes of each kind that are timed; the faster of two counts."""
ROUNDED = 64
"""Tokens are rounded up to a multiple of this, since products of even sizes are faster."""


def group_sizes(steps: Sequence[Size]) -> list[Size]:
    """What each step's pass is filled up to: few sizes, each that of a group of steps alike.

    Args:
        steps: The sizes of a run's steps.
    """
    groups = max(1, len(steps) // STEPS_EACH)
    longest = min(GROUPS[0], groups)
    sizes = list(steps)
    for alike in _parted(range(len(steps)), longest, lambda step: steps[step].longest):
        for group in _parted(alike, min(GROUPS[1], groups // longest), lambda step: steps[step].tokens):
            members = [steps[step] for step in group]
            most = Size(
                _rounded(max(size.tokens for size in members), ROUNDED),
                _rounded(max(size.longest for size in members), MULTIPLE),
                _rounded(max(size.labelled for size in members), ROUNDED),
            )
            for step in group:
                sizes[step] = most
    return sizes


def _parted(steps: Sequence[int], parts: int, size: Callable[[int], int]) -> list[Sequence[int]]:
    """Steps in order of their size, in so many parts of one number."""
    ordered, count = sorted(steps, key=size), len(steps)
    return [ordered[part * count // parts : (part + 1) * count // parts] for part in range(parts)]


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class CapturedPasses:
    """A forward and backward pass that is recorded for each size and replayed from then on, if that is faster.

    Whether it is depends on the model and on the machine: on one H200 it was at 1B and 3B and not at 8B. So the first
    size that comes often enough is timed both ways, waiting for the device before and after; until then, and where
    replaying is not faster, passes are launched as ever. So is the first batch of a size, so that whatever is compiled
    or chosen by trying is so before recording. Where recording fails, that is said once.

    Args:
        run: Passes a batch on the device; leaves gradients in the parameters, which have none before, and gives the
            loss, or losses, of one shape whatever the batch.
        parameters: What is trained.
        device: Where.
        record: How it is recorded.

    Attributes:
        pays: Whether replaying is faster; None as long as that is not known.
        seconds: Of a pass that was launched and of one that was replayed, once both were timed.
        replayed: Passes that were replayed.
    """

    def __init__(
        self,
        run: Callable[[Batch], torch.Tensor],
        parameters: Sequence[torch.nn.Parameter],
        device: str,
        record: Record | None = None,
    ) -> None:
        self._run, self._parameters, self._device = run, list(parameters), device
        self._record = record or cuda_record()
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._graphs: dict[Any, tuple[Batch, torch.Tensor, Callable[[], None]]] = {}
        self._passed: dict[Any, int] = {}
        self._timed: dict[Any, list[float]] = {}
        self._loss = torch.zeros((), device=device)
        self.pays: bool | None = None
        self.seconds: tuple[float, float] | None = None
        self.replayed = 0

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Passes a batch, which is on the CPU; gives its loss and leaves gradients in the parameters."""
        key = tuple(tuple(values.shape) for values in batch.values())
        before = self._passed[key] = self._passed.get(key, -1) + 1
        # Tried are: one launched, TRIED launched and timed, one recorded and replayed, TRIED replayed and timed.
        replay = before > (0 if self.pays else TRIED) and self.pays is not False
        if replay and key not in self._graphs:
            try:
                self._graphs[key] = self._recorded(batch)
            except RuntimeError as error:
                replay = self.pays = False
                self.seconds = None
                reason = str(error).splitlines()[0][:200]
                said = f"The GPU's steps could not be recorded and are launched one by one: {reason}"
                warnings.warn(said, stacklevel=2)
        through = self._replayed if replay else self._launched
        if self.pays is not None or before in (0, TRIED + 1):
            return through(key, batch)
        began = now(self._device)
        loss = through(key, batch)
        timed = self._timed.setdefault(key, [])
        timed.append(now(self._device) - began)
        if len(timed) == 2 * TRIED:
            launched, replayed = self.seconds = min(timed[:TRIED]), min(timed[TRIED:])
            self.pays = replayed < launched
            if not self.pays:
                self._graphs.clear()
        return loss

    def _launched(self, key: Any, batch: Batch) -> torch.Tensor:
        self._loss = self._run({name: self._sent(values) for name, values in batch.items()})
        return self._loss

    def _replayed(self, key: Any, batch: Batch) -> torch.Tensor:
        inputs, loss, replay = self._graphs[key]
        for name, values in batch.items():
            inputs[name].copy_(values.pin_memory() if inputs[name].is_cuda else values, non_blocking=True)
        replay()
        self.replayed += 1
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return loss.clone()

    def _recorded(self, batch: Batch) -> tuple[Batch, torch.Tensor, Callable[[], None]]:
        inputs = {name: values.clone().to(self._device) for name, values in batch.items()}
        loss = torch.zeros_like(self._loss)  # A size is launched before it is recorded.

        def run() -> None:
            for parameter in self._parameters:
                parameter.grad = None
            loss.copy_(self._run(inputs))
            # A replay writes where the recorded pass wrote, and that memory serves the other sizes' passes too.
            kept, made = list[torch.Tensor](), list[torch.Tensor]()
            for gradient, parameter in zip(self._gradients, self._parameters, strict=True):
                if parameter.grad is not None:
                    kept.append(gradient)
                    made.append(parameter.grad)
            torch._foreach_copy_(kept, made)
            for parameter in self._parameters:
                parameter.grad = None

        return inputs, loss, self._record(run)

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        return values if self._device == "cpu" else values.pin_memory().to(self._device, non_blocking=True)


def now(device: str) -> float:
    """Seconds, once the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cuda_record() -> Record:
    """Recording as CUDA graphs, all of which use the same memory one after the other."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            run()
        return graph.replay

    return record
