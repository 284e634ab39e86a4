"""Passes recorded once as CUDA graphs and replayed: launching a small model's kernels takes longer than running them.

A graph has the sizes that it was recorded with. The order of a run's rows is known before it begins, so its steps are
parted into a few groups alike in size, and the passes of a group are filled up to its largest.
"""

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
    """A forward and backward pass that is recorded for each size at its second batch of it, and replayed from then on.

    The first batch of a size passes as ever, so that whatever is compiled or chosen by trying is so before recording.
    Where recording fails, that is said once and all passes go on as ever.

    Args:
        run: Passes a batch on the device; leaves gradients in the parameters, which have none before, and gives the
            loss.
        parameters: What is trained.
        device: Where.
        record: How it is recorded.
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
        self._seen: set[Any] = set()
        self.failed = False
        self.replayed = 0

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Passes a batch, which is on the CPU; gives its loss and leaves gradients in the parameters."""
        key = tuple(tuple(values.shape) for values in batch.values())
        if key in self._seen and key not in self._graphs and not self.failed:
            try:
                self._graphs[key] = self._recorded(batch)
            except RuntimeError as error:
                self.failed = True
                reason = str(error).splitlines()[0][:200]
                said = f"The GPU's steps could not be recorded and are launched one by one: {reason}"
                warnings.warn(said, stacklevel=2)
        if key not in self._graphs:
            self._seen.add(key)
            return self._run({name: self._sent(values) for name, values in batch.items()})
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
        loss = torch.zeros((), device=self._device)

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


def cuda_record() -> Record:
    """Recording as CUDA graphs, all of which use the same memory one after the other."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            run()
        return graph.replay

    return record
