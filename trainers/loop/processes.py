"""Several processes training one run, as torchrun or `accelerate launch` start them.

The first process alone reads, locks and writes the run's folder; the others learn from it what it found. Where one
fails, all end, and what every process would say is said once.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def process_count() -> int:
    """How many processes train this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return process_rank() == 0


def join() -> None:
    """Meets the other processes, if there are any."""
    import torch
    import torch.distributed

    if process_count() == 1 or torch.distributed.is_initialized():
        return
    # What is agreed on is on the CPU (gloo), gradients on the GPU (NCCL).
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(_leave)


def own_device() -> str:
    """The device that this process trains on: a GPU of its own where there are GPUs, else the CPU.

    Raises:
        UserError: There are fewer GPUs than processes.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'several')} processes were started on a machine with "
            f"{torch.cuda.device_count()} GPUs. Start one process for each GPU (torchrun --nproc_per_node)."
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


@contextmanager
def together() -> Iterator[None]:
    """A part in which any process may fail: when one does, all end here.

    The first process raises its error. Another one raises its own only if the first has none, and otherwise exits
    with status 1 and no word.
    """
    if process_count() == 1:
        yield
        return
    import torch.distributed

    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(failed, error is not None)
    if error is not None and (is_first() or not failed[0]):
        raise error
    if any(failed):
        raise SystemExit(1)


def from_first(action: Callable[[], T]) -> T:
    """Does something in the first process and tells the others its result, which must be picklable."""
    result: list[Any] = [None]
    with together():
        if is_first():
            result = [action()]
    if process_count() > 1:
        import torch.distributed

        torch.distributed.broadcast_object_list(result, src=0)
    returned: T = result[0]
    return returned


def gathered(value: T) -> list[T]:
    """The values that the processes give, which must be picklable, in order of rank."""
    values = [value] * process_count()
    if process_count() > 1:
        import torch.distributed

        torch.distributed.all_gather_object(values, value)
    return values


def added_up(values: "torch.Tensor") -> "torch.Tensor":
    """The sum of the tensors that the processes give, one each of one shape; `values` itself holds it afterwards."""
    if process_count() > 1:
        import torch.distributed

        torch.distributed.all_reduce(values)
    return values


def largest(number: int) -> int:
    """The largest of the numbers that the processes give."""
    if process_count() == 1:
        return number
    import torch
    import torch.distributed

    shared = torch.tensor(number, dtype=torch.int64)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return int(shared)


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
