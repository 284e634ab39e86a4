"""How an optimizer step is cut into forward passes, by the memory that is there.

One pass over all rows of a step is fastest, and recomputing layers in the backward pass about doubles its time
(docs/performance.md), so a plan without recomputing wins over one with it as long as its passes are not too small.
Estimates are for the longest rows of the data, so that a plan that fits the longest batch fits them all. Adapters do
not depend on the plan but for rounding and the dropout's random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.tokens import IGNORED

SMALLEST_PASS = 8
"""Rows under which a pass is too small to fill a GPU, so that recomputing costs less than splitting further."""
OPTIMIZER_BYTES = 12
"""Bytes a trained number needs beside itself: its gradient and AdamW's two averages, all in fp32."""
USABLE = 0.92
"""Share of the free memory that a plan may need by its estimate; the rest is for fragments."""


@dataclass(frozen=True)
class BatchPlan:
    """How a process trains one optimizer step.

    Attributes:
        rows: Rows a forward pass.
        accumulation: Forward passes a step.
        checkpointing: Compute each layer again in the backward pass instead of keeping what it computed.
        compiled: Compile the layers.
        captured: Record the passes and replay them, each filled up to one of a few sizes.
    """

    rows: int
    accumulation: int
    checkpointing: bool
    compiled: bool
    captured: bool = False


def rows_a_process(effective_batch: int, processes: int) -> int:
    """Rows of an optimizer step that each process trains.

    Raises:
        UserError: They cannot be shared out evenly.
    """
    if effective_batch % processes:
        raise UserError(
            f"{effective_batch} rows a step (batch_size x accumulation) cannot be shared evenly among {processes} "
            "processes. Start a number of processes that divides them."
        )
    return effective_batch // processes


def free_bytes(model: Any, device: str) -> int | None:
    """Bytes that stay free on a GPU beside `model`, its adapter's gradients and their AdamW state; None on a CPU."""
    import torch

    if device == "cpu":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return int(free - OPTIMIZER_BYTES * trainable)


def plan_batches(
    rows: Sequence[dict[str, list[int]]], config: Any, a_process: int, free: int | None, *, capturable: bool = False
) -> BatchPlan:
    """Chooses the fastest plan that fits.

    Passes are recorded where a step is one pass and their memory is there twice: for those that are launched, and for
    those that are replayed.

    Args:
        rows: Encoded rows of the run.
        config: The base's transformers configuration.
        a_process: Rows of an optimizer step that this process trains.
        free: Bytes free on the GPU beside the base, the adapter and its optimizer; None on a CPU.
        capturable: Whether a pass of this base may be recorded, see `capturable`.

    Raises:
        UserError: Not even one row at a time fits.
    """
    if free is None:
        return BatchPlan(a_process, 1, checkpointing=False, compiled=False)
    sizes = [size for size in range(a_process, 0, -1) if a_process % size == 0]
    whole = [(size, False) for size in sizes if size >= min(SMALLEST_PASS, a_process)]
    for size, checkpointing in [*whole, *((size, True) for size in sizes)]:
        needed = activation_bytes(rows, config, size, checkpointing=checkpointing)
        if needed <= USABLE * free:
            captured = capturable and size == a_process and not checkpointing and 2 * needed <= USABLE * free
            return BatchPlan(size, a_process // size, checkpointing, compiled=True, captured=captured)
    raise UserError(
        f"{free / 2**30:.1f} GiB of GPU memory are left beside the model, and even one row at a time needs "
        f"{activation_bytes(rows, config, 1, checkpointing=True) / 2**30:.1f}. Set precision: nf4, lower max_length, "
        "or use a larger GPU."
    )


def capturable(precision: str, processes: int) -> bool:
    """Whether passes may be recorded: not where NF4 is unpacked in them, nor where processes wait for each other."""
    return precision != "nf4" and processes == 1


def activation_bytes(rows: Sequence[dict[str, list[int]]], config: Any, size: int, *, checkpointing: bool) -> int:
    """Estimated bytes that a forward and backward pass over `size` of the longest rows takes.

    Per token and layer, in numbers of bf16: what compiled layers keep. Fitted to peaks measured on an H100 at the three
    Llama shapes; see docs/performance.md.
    """
    return pass_bytes(*most_tokens(rows, size), config, checkpointing=checkpointing)


def most_tokens(rows: Sequence[dict[str, list[int]]], size: int) -> tuple[int, int]:
    """Tokens, and labelled tokens, that `size` rows have at most."""
    tokens = sum(sorted((len(row["input_ids"]) for row in rows), reverse=True)[:size])
    labelled = sum(sorted((sum(label != IGNORED for label in row["labels"]) for row in rows), reverse=True)[:size])
    return tokens, labelled


def pass_bytes(tokens: int, labelled: int, config: Any, *, checkpointing: bool) -> int:
    """Estimated bytes of a forward and backward pass; see `activation_bytes`."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    layer = 2 * tokens * (11 * hidden + 4.5 * inner)
    kept = 2 * tokens * hidden * layers + layer if checkpointing else layer * layers
    return int(kept + labelled * config.vocab_size * 12)
